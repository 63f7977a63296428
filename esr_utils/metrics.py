"""Rates of a judged run, each with its denominator and an interval that allows for shared latents and questions.

Frames in, frames out. ``trials`` has one line a planned trial, lost ones included, as ``frames.judged_frame`` makes
it. Trials of one latent share its direction and calibration, trials of one question share the question, so neither
are independent: intervals resample both.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.special import expit, logit
from scipy.stats import t
from statsmodels.stats.proportion import proportion_confint

QUANTITIES = ("multi_attempt", "improvement", "esr", "minimum_gain_esr", "recovery")
JUDGED = "judged"
LOST = ("missing", "overflow", "unjudged", "empty", "no_attempt", "unparsed", "failed")
PAIR_KEY = ("subject", "latent", "question", "repeat")
COLUMNS = (*PAIR_KEY, "status", "n_attempts", "last_score", "gain", "is_multi", "is_improved", "recovery")

# A correction that helped. Differs from the paper: there any gain counts, however small, which noisy scores give for
# nothing half of the time: of two attempts of equal worth, either may score higher.
MINIMUM_GAIN = 20.0  # points from first to last attempt
MINIMUM_LAST_SCORE = 50.0
RECOVERED = 7.0  # of 10, for the whole response. Source: paper, version 2, the whole-response judge

ALPHA = 0.05  # every interval is a 95% interval
N_DRAWS = 10_000  # intervals of two seeds then differ by some 2% in width
INTERVAL = ("rate", "ci_low", "ci_high", "ci_method", "naive_low", "naive_high", "design_effect")


def check_trials(trials: pd.DataFrame) -> None:
    """Refuse a frame whose columns are missing or contradict each other.

    Raises:
        ValueError: says which column, how many lines, and the first of them.
    """
    if absent := [column for column in COLUMNS if column not in trials]:
        raise ValueError(f"trials lack the columns {', '.join(absent)}; frames.judged_frame makes them")
    is_multi, n_attempts = trials["is_multi"].astype(bool), trials["n_attempts"]
    faults = {
        "have no status": trials["status"].isna(),
        "are judged without a scored attempt": (trials["status"] == JUDGED) & (n_attempts < 1),
        "have scored attempts but are not judged": (trials["status"] != JUDGED) & (n_attempts > 0),
        "have is_multi that contradicts n_attempts": is_multi != (n_attempts >= 2),
        "are improved with fewer than two attempts": trials["is_improved"].astype(bool) & ~is_multi,
        "have two attempts and no gain": is_multi & trials["gain"].isna(),
    }
    for fault, where in faults.items():
        if where.any():
            first = int(np.argmax(where))
            raise ValueError(f"{where.sum()} of {len(trials)} trials {fault}; the first is line {first}")


def outcomes(trials: pd.DataFrame) -> pd.DataFrame:
    """What each trial says of each quantity: 1.0 or 0.0, and NaN where it is not in that quantity's denominator.

    Denominators: judged trials; for ``improvement`` those with several attempts, for ``recovery`` those rated for it.
    """
    judged, multi = trials["status"] == JUDGED, trials["is_multi"].astype(bool)
    improved = trials["is_improved"].astype(float)
    is_large_gain = (trials["gain"] >= MINIMUM_GAIN) & (trials["last_score"] >= MINIMUM_LAST_SCORE)
    return pd.DataFrame(
        {
            "multi_attempt": multi.astype(float).where(judged),
            "improvement": improved.where(judged & multi),
            "esr": improved.where(judged),
            "minimum_gain_esr": is_large_gain.astype(float).where(judged),
            "recovery": (trials["recovery"] >= RECOVERED).astype(float).where(judged & trials["recovery"].notna()),
        }
    )


def flow(trials: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Where the planned trials of each group went: planned, generated, one column a way of being lost, judged.

    ``generated`` leaves out ``missing`` ones only. A trial without a status raises, so the columns add up.
    """
    check_trials(trials)
    ways = (*LOST, *sorted(set(trials["status"]) - {JUDGED, *LOST}), JUDGED)
    lines = []
    for group, mine in groups(trials, by):
        counts = {status: int((mine["status"] == status).sum()) for status in ways}
        lines.append({**group, "planned": len(mine), "generated": len(mine) - counts["missing"], **counts})
    return pd.DataFrame(lines)


def rates(trials: pd.DataFrame, by: Sequence[str], *, seed: int = 0, n_draws: int = N_DRAWS) -> pd.DataFrame:
    """Every quantity of every group: one line each, with events, denominator, rate and its 95% intervals.

    ``ci_low`` and ``ci_high`` are those of ``rate_interval``; ``naive_low`` and ``naive_high`` (Wilson) take trials for
    independent; ``design_effect`` is the clustered variance over the binomial one. A rate of 0/0 is NaN.
    """
    check_trials(trials)
    lines = []
    for group, mine in groups(trials, by):
        counts = {"n_planned": len(mine), "n_lost": int((mine["status"] != JUDGED).sum())}
        for quantity, values in outcomes(mine).items():
            known = mine[["latent", "question"]].assign(value=values).dropna(subset=["value"])
            rate = rate_interval(known, np.random.default_rng(seed), n_draws=n_draws)
            lines.append({**group, "quantity": quantity, **rate, **counts})
    return pd.DataFrame(lines)


def groups(trials: pd.DataFrame, by: Sequence[str]) -> Iterator[tuple[dict, pd.DataFrame]]:
    """The groups of a frame in sorted order, each with its values of ``by``; with no ``by``, the whole frame."""
    if not by:
        yield {}, trials
        return
    for values, mine in trials.groupby(list(by), dropna=False):
        yield dict(zip(by, values, strict=True)), mine


def rate_interval(known: pd.DataFrame, rng: np.random.Generator, *, n_draws: int = N_DRAWS) -> dict:
    """Rate of ``value`` (0.0 or 1.0) with its intervals; ``known`` has latent, question, value.

    A t interval on the logit scale, from the variance of the two-way cluster bootstrap (``clustered``), taken as no
    smaller than the binomial one. Exact (Clopper-Pearson) where no trial or every trial is an event, or all share one
    latent and one question: there it allows for chance alone. ``power.coverage`` shows how often it is right.
    """
    n, n_events = len(known), int(known["value"].sum())
    sizes = {"n_latents": known["latent"].nunique(), "n_questions": known["question"].nunique()}
    if n == 0:
        return {"n_events": 0, "n": 0, **dict.fromkeys(INTERVAL, np.nan), "ci_method": "no trials", **sizes}
    rate = n_events / n
    low, high = proportion_confint(n_events, n, alpha=ALPHA, method="beta")
    method, design_effect = "exact", np.nan
    if 0 < n_events < n and max(sizes.values()) > 1:
        binomial = rate * (1 - rate) / n
        spread = clustered(known, (known["value"] - rate).to_numpy() / n, rng, n_draws=n_draws)
        half_width = spread.t * np.sqrt(max(spread.variance, binomial)) / (rate * (1 - rate))
        low, high = expit(logit(rate) - half_width), expit(logit(rate) + half_width)
        method, design_effect = spread.method, spread.variance / binomial
    values = (rate, low, high, method, *proportion_confint(n_events, n, alpha=ALPHA, method="wilson"), design_effect)
    return {"n_events": n_events, "n": n, **dict(zip(INTERVAL, values, strict=True)), **sizes}


@dataclass(frozen=True, kw_only=True)
class Clustered:
    """How a mean spreads over latents and questions.

    Attributes:
        draws: pigeonhole draws of the mean less the mean itself; too wide, see ``clustered``.
        variance: of the mean, freed from that excess. Can fall below the variance of independent trials, even below 0.
        t: 97.5% quantile of Student's t, with one degree of freedom less than there are clusters of the scarcer kind.
    """

    draws: Float[np.ndarray, " draw"]
    variance: float
    t: float
    method: str


def clustered(
    trials: pd.DataFrame, residuals: Float[np.ndarray, " trial"], rng: np.random.Generator, *, n_draws: int = N_DRAWS
) -> Clustered:
    """Resample latents and questions, each with replacement, and weigh a trial by the product of both counts.

    ``residuals`` are the trials' shares in the error of the mean: (value - mean) / n. With S_L, S_Q and S_C the sums of
    squares of their totals by latent, question and cell (latent x question), the draws have the variance
    (1 - 1/G_Q) S_L + (1 - 1/G_L) S_Q + S_C, which counts the noise of a cell three times: in S_L, in S_Q and once more.
    The variance returned is G_L/(G_L - 1) S_L + G_Q/(G_Q - 1) S_Q - S_C, worked out from that of the draws.

    Sources: Owen 2007, The pigeonhole bootstrap; Cameron, Gelbach and Miller 2011, Robust inference with multiway
    clustering (the variance and the degrees of freedom).
    """
    totals = _totals(trials, residuals)
    n_latents, n_questions = totals.shape
    latent_counts, question_counts, rng.bit_generator.state = _resampled(_State(rng), n_latents, n_questions, n_draws)
    draws = ((latent_counts @ totals) * question_counts).sum(axis=1)
    ways = {name: n for name, n in (("latents", n_latents), ("questions", n_questions)) if n > 1}
    is_two_way = len(ways) == 2
    within_cells = float((totals**2).sum()) if is_two_way else 0.0
    shrinkage = float(np.prod([1 - 1 / n for n in ways.values()]))
    return Clustered(
        draws=draws,
        variance=(float(np.mean(draws**2)) - within_cells) / shrinkage - within_cells,
        t=float(t.ppf(1 - ALPHA / 2, min(ways.values()) - 1)),
        method="two-way cluster bootstrap" if is_two_way else f"cluster bootstrap over {', '.join(ways)}",
    )


class _State:
    """Where a generator stands, so that equal ones are equal."""

    def __init__(self, rng: np.random.Generator):
        self.state = rng.bit_generator.state
        self.told = repr(self.state)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _State) and self.told == other.told

    def __hash__(self) -> int:
        return hash(self.told)


@lru_cache(maxsize=2)
def _resampled(state: _State, n_latents: int, n_questions: int, n_draws: int) -> tuple[np.ndarray, np.ndarray, dict]:
    """How often each latent and each question is drawn, and where the generator then stands.

    Kept, since the quantities of a table draw from the same seed: with a thousand latents, this is most of the work.
    """
    rng = np.random.default_rng()
    rng.bit_generator.state = state.state
    latents = rng.multinomial(n_latents, np.full(n_latents, 1 / n_latents), n_draws)
    questions = rng.multinomial(n_questions, np.full(n_questions, 1 / n_questions), n_draws)
    return latents.astype(float), questions, rng.bit_generator.state


def _totals(trials: pd.DataFrame, residuals: Float[np.ndarray, " trial"]) -> Float[np.ndarray, "latent question"]:
    """Residuals summed over the trials of each cell."""
    latents, names = pd.factorize(trials["latent"], sort=True)
    questions, texts = pd.factorize(trials["question"], sort=True)
    totals = np.zeros((len(names), len(texts)))
    np.add.at(totals, (latents, questions), residuals)
    return totals


def means(
    trials: pd.DataFrame, by: Sequence[str], column: str, *, seed: int = 0, n_draws: int = N_DRAWS
) -> pd.DataFrame:
    """Mean of a score over the trials that have one: n, mean with its 95% interval, median, sd.

    The interval is a t interval from the two-way cluster bootstrap; NaN where all trials share one latent and question.
    """
    check_trials(trials)
    lines = []
    for group, mine in groups(trials, by):
        known = mine[mine[column].notna()]
        values = known[column].to_numpy(dtype=float)
        interval = mean_interval(known, values, np.random.default_rng(seed), n_draws=n_draws)
        spread = {"median": known[column].median(), "sd": known[column].std()}
        lines.append({**group, "n": len(values), "mean": known[column].mean(), **interval, **spread})
    return pd.DataFrame(lines)


def mean_interval(
    trials: pd.DataFrame, values: Float[np.ndarray, " trial"], rng: np.random.Generator, *, n_draws: int = N_DRAWS
) -> dict:
    """ci_low, ci_high, ci_method, design_effect of the mean of ``values``, one a line of ``trials`` (latent, question).

    A t interval from the two-way cluster bootstrap; NaN unless there are two latents or two questions.
    """
    if max(trials["latent"].nunique(), trials["question"].nunique()) < 2:
        return {"ci_low": np.nan, "ci_high": np.nan, "ci_method": "none", "design_effect": np.nan}
    mean, independent = values.mean(), values.var() / len(values)
    spread = clustered(trials, (values - mean) / len(values), rng, n_draws=n_draws)
    half_width = spread.t * np.sqrt(max(spread.variance, independent))
    design_effect = spread.variance / independent if independent else np.nan
    low, high = mean - half_width, mean + half_width
    return {"ci_low": low, "ci_high": high, "ci_method": spread.method, "design_effect": design_effect}
