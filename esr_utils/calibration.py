"""Strength at which a latent pulls the first attempt down to a target score, by probabilistic bisection.

Source: paper, section 2.2 and appendix; the method is that of Waeber, Frazier and Henderson. The score is any
function of questions and responses that gives 0 to 100 and falls as strength rises.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
from scipy.special import betainc
from tqdm.auto import tqdm

from esr_utils.engines.base import Engine
from esr_utils.journal import Journal, Record
from esr_utils.judging import Score
from esr_utils.steering import Row, Sampling, Steer

RELATIVE_PRIOR = {"mean": 0.7, "sd": 0.5, "upper": 2.0}  # shares of the median residual norm, where nothing is known
N_DRAWN = 200  # points of a belief that are drawn
VERIFY = -1  # stage of the fresh responses at the strength that was found
PROBE_KEY = ("latent", "stage", "seed", "strength")  # of the journal of a search


@dataclass(frozen=True, kw_only=True)
class CalibrationSettings:
    """Search range and prior in raw units of the decoder direction; target and scores in 0 to 100.

    Differs from the paper: every latent gets the same effort (the paper's 8B and Gemma runs took one response a
    step, the 70B run five), and responses are as long as in the evaluation that follows.
    """

    target: float = 30.0
    lower: float = 0.0
    upper: float
    prior_mean: float
    prior_sd: float
    n_steps: int = 10
    n_samples: int = 4
    n_verify: int = 20
    window: tuple[float, float] = (15.0, 45.0)
    sampling: Sampling = field(default_factory=Sampling)
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.lower < self.upper:
            raise ValueError(f"the search range is empty: lower {self.lower} is not below upper {self.upper}")
        if not 0.0 < self.target < 100.0:
            raise ValueError(f"target {self.target} is outside 0 to 100 (both exclusive)")
        if min(self.n_steps, self.n_samples, self.n_verify) < 1 or self.prior_sd <= 0:
            raise ValueError("n_steps, n_samples, n_verify and prior_sd must be positive")


def measured_prior(engine: Engine, questions: Sequence[str]) -> pd.DataFrame:
    """One line, the fields of a ``StrengthPrior``: wide, and centred below the norm of the stream that is steered.

    The norm is the median over the tokens of unsteered answers, the unit the median length of a decoder direction.
    """
    layer, sampling = engine.pair.steering_layer, Sampling(max_new_tokens=48)
    rows = [Row(messages=q, seed=i, sampling=sampling, record_resid=(layer,)) for i, q in enumerate(questions[:16])]
    norms = np.concatenate([r.resid[layer].float().norm(dim=1).numpy() for r in engine.generate(rows) if r.resid])
    unit = float(np.median(norms)) / float(engine.pair.sae.W_dec.norm(dim=1).median())
    return pd.DataFrame([{name: round(share * unit, 4) for name, share in RELATIVE_PRIOR.items()}])


class Bisection:
    """Belief about where a falling, noisy score crosses the target: a density over strengths.

    Source: paper, appendix; 10,000 grid points, Gaussian prior, Beta belief with Jeffreys start and weight 5.
    """

    N_GRID = 10_000
    WEIGHT = 5.0

    def __init__(self, settings: CalibrationSettings):
        self.target = settings.target / 100
        self.grid = np.linspace(settings.lower, settings.upper, self.N_GRID)
        density = np.exp(-0.5 * ((self.grid - settings.prior_mean) / settings.prior_sd) ** 2)
        if density.sum() == 0:
            raise ValueError(f"the prior mean {settings.prior_mean} lies too far outside the search range")
        self.density = density / density.sum()

    @property
    def median(self) -> float:
        """Where to probe next, and, in the end, the answer."""
        return self.quantile(0.5)

    def quantile(self, p: float) -> float:
        return float(self.grid[min(int(np.searchsorted(self.density.cumsum(), p)), self.N_GRID - 1)])

    def update(self, score: float) -> None:
        """Learn from the mean ``score`` (0 to 100) of responses at the median.

        Raises:
            ValueError: a score that is not a number from 0 to 100.
        """
        if not 0.0 <= score <= 100.0:
            raise ValueError(f"score {score} is not a number from 0 to 100")
        share = score / 100
        belief_below = float(betainc(0.5 + self.WEIGHT * share, 0.5 + self.WEIGHT * (1 - share), self.target))
        p_right = 1 - belief_below  # the score is still above the target, so the strength sought is larger
        at = int(np.searchsorted(self.grid, self.median))
        self.density[:at] *= 1 - p_right
        self.density[at + 1 :] *= p_right
        self.density[at] *= np.sqrt(p_right * (1 - p_right))
        self.density /= self.density.sum()


def calibrate(
    engine: Engine,
    score: Score,
    latents: Sequence[int],
    questions: Sequence[str],
    settings: CalibrationSettings,
    *,
    journal: Journal | None = None,
) -> pd.DataFrame:
    """Search the strength of every latent at once: each step probes all of them in one batch, then all are verified.

    Returns one line a response: latent, stage (the step, or ``VERIFY``), strength, question, seed, response, score.
    A response without a score (the judge found no attempt) is kept, and left out of the mean.

    Args:
        journal: keeps each stage as it ends, by ``PROBE_KEY``, so that a killed search goes on there.
    """
    for latent in latents:
        engine.pair.sae.check_latent(latent)
    return _search(latents, questions, settings, journal, lambda drawn: _made(engine, score, drawn, settings))


def recorded(
    latents: Sequence[int], questions: Sequence[str], settings: CalibrationSettings, journal: Journal
) -> tuple[pd.DataFrame, list[int]]:
    """What a finished search of these latents found, as ``calibrate`` gives it, and the latents that lack a response.

    Neither model nor judge is needed.
    """
    missing: dict[int, None] = {}

    def unmade(drawn: pd.DataFrame) -> pd.DataFrame:
        missing.update(dict.fromkeys(drawn["latent"].tolist()))
        return drawn.iloc[:0].assign(response="", score=0.0)

    probes = _search(latents, questions, settings, journal, unmade)
    return probes, [latent for latent in latents if latent in missing]


def _search(
    latents: Sequence[int],
    questions: Sequence[str],
    settings: CalibrationSettings,
    journal: Journal | None,
    make: Callable[[pd.DataFrame], pd.DataFrame],
) -> pd.DataFrame:
    """Probe by probe, those of the journal as they stand there; ``make`` gives the others."""
    kept = _kept(journal)
    beliefs = {latent: Bisection(settings) for latent in latents}
    probes = []
    for step in tqdm(range(settings.n_steps), desc="calibrate"):
        strengths = {latent: belief.median for latent, belief in beliefs.items()}
        probed = _probe(_draw(strengths, questions, settings, stage=step), kept, make, journal)
        for latent, mean in probed.groupby("latent")["score"].mean().dropna().items():
            beliefs[latent].update(float(mean))
        probes.append(probed)
    found = {latent: _rounded(belief) for latent, belief in beliefs.items()}
    check = replace(settings, n_samples=settings.n_verify)
    probes.append(_probe(_draw(found, questions, check, stage=VERIFY), kept, make, journal))
    return pd.concat(probes, ignore_index=True)


def _rounded(belief: Bisection) -> float:
    return round(belief.median, 2)


def _draw(
    strengths: Mapping[int, float], questions: Sequence[str], settings: CalibrationSettings, *, stage: int
) -> pd.DataFrame:
    """``n_samples`` probes of each latent, each of another question, drawn by seed, latent and stage."""
    drawn = []
    for latent, strength in strengths.items():
        rng = np.random.default_rng([settings.seed, latent, stage - VERIFY])
        chosen = rng.choice(len(questions), settings.n_samples, replace=settings.n_samples > len(questions))
        for i, seed in zip(chosen, rng.integers(2**31, size=settings.n_samples), strict=True):
            drawn.append((latent, stage, strength, questions[i], int(seed)))
    return pd.DataFrame(drawn, columns=["latent", "stage", "strength", "question", "seed"])


def _kept(journal: Journal | None) -> dict[tuple, Record]:
    """Records by ``PROBE_KEY``. The strength is in it, so that a search never takes up what another search, which
    scored an earlier probe otherwise, asked at this stage."""
    records = journal.read() if journal else []
    return {tuple(record[field] for field in PROBE_KEY): record for record in records}


def _probe(
    drawn: pd.DataFrame,
    kept: Mapping[tuple, Record],
    make: Callable[[pd.DataFrame], pd.DataFrame],
    journal: Journal | None,
) -> pd.DataFrame:
    """The drawn probes with ``response`` and ``score``: those kept as they are, the others made and written down.

    A latent of which some are missing is made whole, so that its responses are scored in the same company.
    """
    found = [kept.get(key) for key in zip(*(drawn[field].tolist() for field in PROBE_KEY), strict=True)]
    is_kept = np.array([record is not None for record in found])
    told = [record for record in found if record is not None]
    parts = [drawn[is_kept].assign(**{name: [record[name] for record in told] for name in ("response", "score")})]
    if not is_kept.all():
        made = make(drawn[drawn["latent"].isin(drawn.loc[~is_kept, "latent"])])
        made = made[~is_kept[made.index]]
        if journal and len(made):
            journal.append(made.astype(object).where(made.notna(), None).to_dict("records"))
        parts.append(made)
    parts = [part for part in parts if len(part)] or parts[:1]
    return pd.concat(parts).sort_index().astype({"score": float})


def _made(engine: Engine, score: Score, drawn: pd.DataFrame, settings: CalibrationSettings) -> pd.DataFrame:
    """Probes with the ``response`` and the ``score`` of each.

    Scored latent by latent: a judge's last digits may depend on what it reads at once, which is then no other latent.
    """
    rows = [
        Row(
            messages=probe.question,
            steer=(Steer(latent=probe.latent, strength=probe.strength),),
            seed=probe.seed,
            sampling=settings.sampling,
        )
        for probe in drawn.itertuples()
    ]
    frame = drawn.assign(response=[response.text for response in engine.generate(rows)])
    of_latents = [mine for _, mine in frame.groupby("latent", sort=False)]
    scores = [score(mine["question"].tolist(), mine["response"].tolist()) for mine in of_latents]
    return frame.assign(score=np.concatenate(scores))


def beliefs_after(probes: pd.DataFrame, settings: CalibrationSettings) -> dict[int, Bisection]:
    """The belief about each latent after the search, worked out again from its probes."""
    beliefs = {}
    for latent, mine in probes[probes["stage"] != VERIFY].groupby("latent", sort=False):
        beliefs[latent] = Bisection(settings)
        for mean in mine.groupby("stage")["score"].mean().dropna():
            beliefs[latent].update(float(mean))
    return beliefs


def calibration_table(probes: pd.DataFrame, settings: CalibrationSettings) -> pd.DataFrame:
    """One line a latent: strength with its 80% belief interval, and the score of fresh responses with its spread.

    Latents whose verified mean score misses the window are kept, with ``is_in_window`` False.
    """
    low, high = settings.window
    lines = []
    for latent, belief in beliefs_after(probes, settings).items():
        verified = probes.loc[(probes["latent"] == latent) & (probes["stage"] == VERIFY), "score"]
        lines.append(
            {
                "latent": latent,
                "strength": _rounded(belief),
                "strength_p10": belief.quantile(0.1),
                "strength_p90": belief.quantile(0.9),
                "verified_score": verified.mean(),
                "verified_sd": verified.std(),
                "n_verified": int(verified.notna().sum()),
                "is_in_window": low <= verified.mean() <= high,
                "target": settings.target,
                "window_low": low,
                "window_high": high,
            }
        )
    return pd.DataFrame(lines)


def belief_table(probes: pd.DataFrame, settings: CalibrationSettings) -> pd.DataFrame:
    """The final beliefs, thinned for drawing: latent, strength, density."""
    cell = np.arange(Bisection.N_GRID) * N_DRAWN // Bisection.N_GRID
    return pd.concat(
        [
            pd.DataFrame({"latent": latent, "strength": belief.grid, "density": belief.density})
            .groupby(cell)
            .agg({"latent": "first", "strength": "mean", "density": "sum"})
            for latent, belief in beliefs_after(probes, settings).items()
        ],
        ignore_index=True,
    )
