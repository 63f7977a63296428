"""How far two judges, or two gradings by one judge, say the same of the same responses."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from scipy.stats import rankdata
from statsmodels.stats.proportion import proportion_confint

from esr_utils.metrics import ALPHA

N_DRAWS = 2000
COMPARED = ("is_multi", "is_improved", "first_score")
SIDES = ("_first", "_second")


def agreement(
    first: pd.DataFrame, second: pd.DataFrame, *, cluster: str = "trial_id", seed: int = 0, n_draws: int = N_DRAWS
) -> pd.DataFrame:
    """Two judges on the trials that both judged: a line a measure, with its 95% interval and a note.

    Measures: raw agreement and Cohen's kappa on multi-attempt and on ESR, of all trials and not only those that both
    call multi-attempt; Spearman correlation and ICC(A,1) of first scores. Each frame has one line a trial, as
    ``frames.judged_frame`` makes it; ``n_lost`` counts trials that either did not judge.

    Args:
        cluster: column of ``first`` that the bootstrap resamples, ``latent`` say; single trials if left out.

    Raises:
        ValueError: a frame names a trial twice, or no trial is judged by both.
    """
    for side, frame in (("first", first), ("second", second)):
        if n_repeated := int(frame["trial_id"].duplicated().sum()):
            raise ValueError(f"{n_repeated} lines of the {side} frame repeat a trial_id; give one grading of a trial")
    n_trials = len(set(first["trial_id"]) | set(second["trial_id"]))
    pairs = _columns(first, cluster).merge(_columns(second, "trial_id"), on="trial_id", suffixes=SIDES)
    if pairs.empty:
        raise ValueError(f"no trial is judged in both frames, of {len(first)} and {len(second)} lines")
    return _table(pairs, cluster, seed=seed, n_draws=n_draws, n_lost=n_trials - len(pairs))


def repeatability(
    gradings: pd.DataFrame, repeat: str, *, cluster: str = "trial_id", seed: int = 0, n_draws: int = N_DRAWS
) -> pd.DataFrame:
    """One judge against itself: the measures of ``agreement`` over all pairs of gradings of the same response.

    ``gradings`` has a line a trial and grading, numbered in the column ``repeat``. The pairs of one trial are not
    independent, so the bootstrap resamples trials (or ``cluster``) whole. ``n_lost`` counts gradings that failed.

    Raises:
        ValueError: a grading appears twice, or no trial is graded twice.
    """
    if n_repeated := int(gradings.duplicated(["trial_id", repeat]).sum()):
        raise ValueError(f"{n_repeated} lines repeat a trial_id and {repeat}; give each grading once")
    first = _columns(gradings, cluster).assign(grading=gradings[repeat])
    second = _columns(gradings, "trial_id").assign(grading=gradings[repeat])
    pairs = first.merge(second, on="trial_id", suffixes=SIDES)
    pairs = pairs[pairs["grading_first"] < pairs["grading_second"]]
    if pairs.empty:
        raise ValueError(f"no trial is judged twice in {len(gradings)} gradings; {repeat} must number them")
    n_lost = int((gradings["status"] != "judged").sum())
    return _table(pairs.reset_index(drop=True), cluster, seed=seed, n_draws=n_draws, n_lost=n_lost)


def _columns(frame: pd.DataFrame, cluster: str) -> pd.DataFrame:
    """Judged lines with what is compared."""
    names = list(dict.fromkeys(("trial_id", cluster, *COMPARED)))
    return frame.loc[frame["status"] == "judged", names]


def _table(pairs: pd.DataFrame, cluster: str, *, seed: int, n_draws: int, n_lost: int) -> pd.DataFrame:
    """A line a measure, with the percentiles of its bootstrap."""
    compared = {side: [pairs[name + side].to_numpy(dtype=float) for name in COMPARED] for side in SIDES}
    first, second = (np.stack(compared[side]) for side in SIDES)
    rng = np.random.default_rng(seed)
    drawn = pd.DataFrame([measures(first[:, i], second[:, i]) for i in _resampled(pairs[cluster], rng, n_draws)])
    sizes = {"n": pairs["trial_id"].nunique(), "n_pairs": len(pairs), "n_lost": n_lost}
    lines = []
    for measure, value in measures(first, second).items():
        low, high, note = _interval(measure, value, drawn[measure].to_numpy(), sizes["n"])
        lines.append({"measure": measure, "value": value, "ci_low": low, "ci_high": high, **sizes, "note": note})
    return pd.DataFrame(lines)


def _resampled(clusters: pd.Series, rng: np.random.Generator, n_draws: int) -> Iterator[Int[np.ndarray, " pair"]]:
    """Rows of each draw: whole clusters, with replacement."""
    codes, names = pd.factorize(clusters, sort=True)
    members = np.split(np.argsort(codes, kind="stable"), np.cumsum(np.bincount(codes))[:-1])
    for _ in range(n_draws):
        yield np.concatenate([members[i] for i in rng.integers(len(names), size=len(names))])


def _interval(measure: str, value: float, draws: Float[np.ndarray, " draw"], n: int) -> tuple[float, float, str]:
    """Percentiles of the draws and what to know of them; exact for raw agreement of all trials or none."""
    if np.isnan(value):
        reason = "every trial is in one class" if measure.endswith("kappa") else "scores are constant or too few"
        return np.nan, np.nan, f"not defined: {reason}"
    if measure.endswith("agreement") and value in (0.0, 1.0):
        low, high = proportion_confint(round(value * n), n, alpha=ALPHA, method="beta")
        return float(low), float(high), "exact interval"
    defined = draws[~np.isnan(draws)]
    low, high = np.quantile(defined, [ALPHA / 2, 1 - ALPHA / 2])
    n_undefined = len(draws) - len(defined)
    return float(low), float(high), f"not defined in {n_undefined} of {len(draws)} draws" if n_undefined else ""


def measures(first: Float[np.ndarray, "3 pair"], second: Float[np.ndarray, "3 pair"]) -> dict[str, float]:
    """Every measure of two gradings; the rows of each are is_multi, is_improved (0.0 or 1.0) and first score."""
    result = {}
    for name, a, b in zip(("multi_attempt", "esr"), first, second, strict=False):
        result[f"{name}_agreement"] = float(np.mean(a == b))
        result[f"{name}_kappa"] = cohens_kappa(a, b)
    result["first_score_spearman"] = _correlation(rankdata(first[2]), rankdata(second[2]))
    result["first_score_icc"] = icc_agreement(np.stack([first[2], second[2]], axis=1))
    return result


def cohens_kappa(first: Float[np.ndarray, " pair"], second: Float[np.ndarray, " pair"]) -> float:
    """Agreement of two gradings into 0.0 and 1.0 beyond chance; NaN where both put everything into the same class."""
    by_chance = first.mean() * second.mean() + (1 - first.mean()) * (1 - second.mean())
    if by_chance == 1.0:
        return float("nan")
    return float((np.mean(first == second) - by_chance) / (1 - by_chance))


def _correlation(first: Float[np.ndarray, " pair"], second: Float[np.ndarray, " pair"]) -> float:
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return float("nan")
    return float(np.corrcoef(first, second)[0, 1])


def icc_agreement(scores: Float[np.ndarray, "trial grading"]) -> float:
    """Intraclass correlation ICC(A,1): two-way, absolute agreement, one grading.

    A judge that scores everything ten points higher loses by it, unlike in a correlation. NaN if all scores are the
    same or there are fewer than three trials. Source: McGraw and Wong 1996.
    """
    n, k = scores.shape
    by_trial, by_grading, mean = scores.mean(axis=1), scores.mean(axis=0), scores.mean()
    rows, columns = k * np.sum((by_trial - mean) ** 2), n * np.sum((by_grading - mean) ** 2)
    rest = np.sum((scores - mean) ** 2) - rows - columns
    if n < 3 or np.ptp(scores) == 0:
        return float("nan")
    ms_rows, ms_columns, ms_rest = rows / (n - 1), columns / (k - 1), rest / ((n - 1) * (k - 1))
    return float((ms_rows - ms_rest) / (ms_rows + (k - 1) * ms_rest + k * (ms_columns - ms_rest) / n))
