"""What a run of a given size can show, and how far its intervals are to be trusted: read before the run is made."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
import pandas as pd
from scipy.optimize import brentq
from scipy.special import expit
from scipy.stats import t
from statsmodels.genmod.cov_struct import Exchangeable
from statsmodels.genmod.families import Binomial
from statsmodels.genmod.generalized_estimating_equations import GEE
from statsmodels.stats.power import normal_power_het, normal_sample_size_one_tail
from statsmodels.stats.proportion import proportion_confint

from esr_utils.metrics import ALPHA, N_DRAWS, check_trials, clustered, groups, outcomes, rate_interval

NO_RATE = 1e-9  # stands for a rate of 0 (and 1 less it for 1), at which the variance vanishes
N_PERCENTILE_DRAWS = 2000  # of the intervals that were not chosen

CHOSEN = "rates: bias-corrected bootstrap, logit t"
PERCENTILE = "pigeonhole bootstrap, percentile"
BASIC = "pigeonhole bootstrap, basic"
WILSON = "Wilson, trials independent"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two arms of ``n_trials`` judged trials each, compared by a two-sided test of the difference of their rates.

    Attributes:
        base_rate: of the first arm.
        design_effect: by how much shared latents and questions raise the variance; ``rates`` and ``paired`` measure it.
        pair_correlation: between the two outcomes of a pair; 0 if the arms are not paired.
        alpha, power: chance of seeing a difference that is not there, and of seeing one that is.
    """

    n_trials: int
    base_rate: float
    design_effect: float = 1.0
    pair_correlation: float = 0.0
    alpha: float = 0.05
    power: float = 0.8

    def __post_init__(self) -> None:
        if self.n_trials < 1 or self.design_effect <= 0:
            raise ValueError(f"n_trials {self.n_trials} and design_effect {self.design_effect} must be positive")
        for name in ("base_rate", "alpha", "power"):
            if not 0.0 < getattr(self, name) < 1.0:
                raise ValueError(f"{name} {getattr(self, name)} is outside 0 to 1 (both exclusive)")
        if not 0.0 <= self.pair_correlation < 1.0:
            raise ValueError(f"pair_correlation {self.pair_correlation} is outside 0 (unpaired) to 1 (exclusive)")


def power_to_see(comparison: Comparison, rate: float) -> float:
    """Chance of a significant difference when the second arm's rate is ``rate``. Normal approximation."""
    std_null, std_alternative = _deviations(comparison, rate)
    n_effective = comparison.n_trials / comparison.design_effect
    difference = rate - comparison.base_rate
    return float(normal_power_het(difference, n_effective, comparison.alpha, std_null, std_alternative))


def _deviations(comparison: Comparison, rate: float) -> tuple[float, float]:
    """Of one pair's difference: its standard deviation if the rates are the same, and if they are as given."""
    rates = np.array([comparison.base_rate, np.clip(rate, NO_RATE, 1 - NO_RATE)])
    first, second = rates * (1 - rates)
    pooled, shared = rates.mean() * (1 - rates.mean()), comparison.pair_correlation
    if_same = np.sqrt(2 * pooled * (1 - shared))
    return float(if_same), float(np.sqrt(first + second - 2 * shared * np.sqrt(first * second)))


def minimal_detectable(comparison: Comparison, direction: Literal["fall", "rise"]) -> float:
    """Smallest difference (second less first) that is seen with the wanted power; NaN if even the largest is not."""
    end = 0.0 if direction == "fall" else 1.0
    if power_to_see(comparison, end) < comparison.power:
        return float("nan")
    rate = brentq(lambda rate: power_to_see(comparison, rate) - comparison.power, comparison.base_rate, end)
    return float(rate - comparison.base_rate)


def trials_needed(comparison: Comparison, rate: float) -> int:
    """Judged trials in each arm that show a second arm's ``rate`` with the wanted power, whatever ``n_trials`` says.

    Raises:
        ValueError: the two rates are the same.
    """
    difference = rate - comparison.base_rate
    if difference == 0:
        raise ValueError(f"rate {rate} is the base rate: no number of trials shows a difference that is not there")
    deviations = _deviations(comparison, rate)
    n = normal_sample_size_one_tail(difference, comparison.power, comparison.alpha / 2, *deviations)
    return int(np.ceil(n * comparison.design_effect))


def zero_event_bound(n_trials: int, *, design_effect: float = 1.0) -> float:
    """Largest rate that no event in ``n_trials`` leaves possible, one-sided at 95%: about 3 / n (the rule of three).

    ``design_effect`` divides the trials. An interval in ``rates`` is two-sided, so its upper end is about 3.7 / n.
    """
    return float(proportion_confint(0, n_trials / design_effect, alpha=2 * ALPHA, method="beta")[1])


def power_table(
    n_trials: Sequence[int],
    base_rates: Sequence[float],
    *,
    design_effect: float = 1.0,
    pair_correlation: float = 0.0,
) -> pd.DataFrame:
    """For every size and base rate: events to expect, smallest fall and rise seen with 80% power, bound if no event."""
    lines = []
    for n in n_trials:
        for rate in base_rates:
            comparison = Comparison(
                n_trials=n, base_rate=rate, design_effect=design_effect, pair_correlation=pair_correlation
            )
            lines.append(
                {
                    **asdict(comparison),
                    "n_expected": n * rate,
                    "detectable_fall": minimal_detectable(comparison, "fall"),
                    "detectable_rise": minimal_detectable(comparison, "rise"),
                    "zero_event_bound": zero_event_bound(n, design_effect=design_effect),
                }
            )
    return pd.DataFrame(lines)


@dataclass(frozen=True, kw_only=True)
class Population:
    """Trials whose true multi-attempt rate is ``rate``, over all latents and questions there could be.

    Latents and questions shift the log-odds by normal effects of the given standard deviations.
    """

    rate: float = 0.1
    n_latents: int = 60
    n_questions: int = 40
    questions_per_latent: int = 6
    latent_sd: float = 1.0
    question_sd: float = 0.5

    def __post_init__(self) -> None:
        if not 0.0 < self.rate < 1.0:
            raise ValueError(f"rate {self.rate} is outside 0 to 1 (both exclusive)")
        if not 1 <= self.questions_per_latent <= self.n_questions:
            raise ValueError(f"{self.questions_per_latent} questions a latent asked for, of {self.n_questions}")

    @property
    def intercept(self) -> float:
        """Log-odds at which the mean over latents and questions is ``rate``."""
        nodes, weights = np.polynomial.hermite_e.hermegauss(60)
        effects = np.hypot(self.latent_sd, self.question_sd) * nodes
        return brentq(lambda middle: np.average(expit(middle + effects), weights=weights) - self.rate, -30, 30)


def simulate_trials(rng: np.random.Generator, population: Population) -> pd.DataFrame:
    """One run of a population, all judged; scores do not depend on order, so half of what restarts improves."""
    asked = np.tile(np.arange(population.n_questions), (population.n_latents, 1))
    question = rng.permuted(asked, axis=1)[:, : population.questions_per_latent].ravel()
    latent = np.repeat(np.arange(population.n_latents), population.questions_per_latent)
    latent_effects = rng.normal(0, population.latent_sd, population.n_latents)
    question_effects = rng.normal(0, population.question_sd, population.n_questions)
    log_odds = population.intercept + latent_effects[latent] + question_effects[question]
    is_multi = rng.random(len(latent)) < expit(log_odds)
    first, last = rng.uniform(0, 100, (2, len(latent)))
    last = np.where(is_multi, last, first)
    return pd.DataFrame(
        {
            "subject": "simulated",
            "condition": "steered",
            "latent": latent,
            "question": np.char.add("question ", question.astype(str)),
            "level": 1.0,
            "strength": 1.0,
            "repeat": 0,
            "seed": np.arange(len(latent)),
            "status": "judged",
            "n_attempts": 1 + is_multi,
            "first_score": first,
            "last_score": last,
            "gain": np.where(is_multi, last - first, np.nan),
            "is_multi": is_multi,
            "is_improved": is_multi & (last > first),
            "recovery": np.nan,
        }
    )


def coverage(
    populations: Iterable[Population], *, n_sims: int = 1000, seed: int = 0, n_draws: int = N_DRAWS
) -> pd.DataFrame:
    """How often each 95% interval holds the true rate, a line a population and method.

    ``above`` and ``below`` are the shares of intervals that lie wholly above or below the rate.
    """
    lines = []
    for population in populations:
        rng = np.random.default_rng(seed)
        simulated = [_intervals(simulate_trials(rng, population), rng, n_draws=n_draws) for _ in range(n_sims)]
        for method in simulated[0]:
            low, high = np.array([intervals[method] for intervals in simulated]).T
            above, below = float(np.mean(low > population.rate)), float(np.mean(high < population.rate))
            shares = {"coverage": 1 - above - below, "above": above, "below": below}
            width = float(np.median(high - low))
            lines.append({**asdict(population), "method": method, **shares, "width": width, "n_sims": n_sims})
    return pd.DataFrame(lines)


def _intervals(trials: pd.DataFrame, rng: np.random.Generator, *, n_draws: int) -> dict[str, tuple[float, float]]:
    """Of the multi-attempt rate: the interval that ``rates`` gives and those it might have given."""
    known = trials[["latent", "question"]].assign(value=outcomes(trials)["multi_attempt"])
    chosen = rate_interval(known, rng, n_draws=n_draws)
    rate = chosen["rate"]
    spread = clustered(known, (known["value"] - rate).to_numpy() / len(known), rng, n_draws=N_PERCENTILE_DRAWS)
    low, high = np.quantile(spread.draws, [ALPHA / 2, 1 - ALPHA / 2])
    return {
        CHOSEN: (chosen["ci_low"], chosen["ci_high"]),
        PERCENTILE: (rate + low, rate + high),
        BASIC: (rate - high, rate - low),
        WILSON: (chosen["naive_low"], chosen["naive_high"]),
    }


def gee_check(trials: pd.DataFrame, by: Sequence[str], *, quantity: str = "multi_attempt") -> pd.DataFrame:
    """The rate of each group by another route: logistic GEE, trials of a latent equally correlated.

    Standard errors are bias-reduced (Mancl and DeRouen), intervals use Student's t with one degree of freedom less than
    latents. Latents weigh by what they tell, so the rate can differ a little from the plain one. Shared questions are
    not allowed for. ``note`` says why a group has no estimate.
    """
    check_trials(trials)
    lines = []
    for group, mine in groups(trials, by):
        known = mine[["latent"]].assign(value=outcomes(mine)[quantity]).dropna(subset=["value"])
        line = {**group, "quantity": quantity, "n_events": int(known["value"].sum()), "n": len(known)}
        lines.append({**line, **_gee(known["value"].to_numpy(), known["latent"].to_numpy())})
    return pd.DataFrame(lines)


def _gee(values: np.ndarray, latents: np.ndarray) -> dict:
    """Rate, interval, correlation within a latent and note of a GEE with nothing but an intercept."""
    n_latents = len(np.unique(latents))
    blank = dict.fromkeys(("rate", "ci_low", "ci_high", "correlation"), np.nan)
    if len(values) == 0:
        return {**blank, "note": "not fitted: no trials"}
    if values.min() == values.max():
        return {**blank, "note": "not fitted: every trial is an event" if values[0] else "not fitted: no events"}
    if n_latents < 2:
        return {**blank, "note": "not fitted: one latent"}
    model = GEE(values, np.ones((len(values), 1)), latents, family=Binomial(), cov_struct=Exchangeable())
    fit = model.fit(cov_type="bias_reduced")
    if not fit.converged:
        return {**blank, "note": "not fitted: did not converge"}
    middle, half_width = fit.params[0], t.ppf(1 - ALPHA / 2, n_latents - 1) * fit.bse[0]
    ends = expit(np.array([middle, middle - half_width, middle + half_width]))
    return {**dict(zip(blank, [*ends, fit.cov_struct.dep_params], strict=True)), "note": ""}
