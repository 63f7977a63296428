"""What improvement would be if corrections did nothing: attempts in random order, and responses without a restart."""

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

N_ORDERS = 5000
ROUNDING = 1e-9  # sums of the same scores in another order differ by less


def order_null(attempts: pd.DataFrame, *, seed: int = 0, n_draws: int = N_ORDERS) -> pd.DataFrame:
    """Improvement rate and mean gain of multi-attempt trials, against those of the same scores in random order.

    ``attempts`` has trial_id, index, score; trials with one attempt are passed over. Gives a line a quantity: observed,
    mean and 95% band under the null, ``p`` (share of orders that do at least as well, the observed one counted in) and
    the trials ``n``. If order carries nothing, P(improved) is (1 - P(tie)) / 2. Without such a trial all are NaN.

    Raises:
        ValueError: an attempt without a score, or two with the same trial_id and index.

    Differs from the paper, which has no null: its improvement rates of 47 to 53% (without ablation, with it, of random
    latents, with a meta-prompt) are what such attempts would give.
    """
    scores, starts, sizes = _multi_attempt_scores(attempts)
    observed = _statistics(scores[starts + sizes - 1] - scores[starts])
    if not len(sizes):
        blank = dict.fromkeys(("null_mean", "null_low", "null_high", "p"), np.nan)
        return pd.DataFrame([{"quantity": name, "observed": np.nan, **blank, "n": 0} for name in observed])
    rng = np.random.default_rng(seed)
    null = pd.DataFrame([_statistics(_shuffled_gains(scores, starts, sizes, rng)) for _ in range(n_draws)])
    lines = []
    for quantity, value in observed.items():
        draws = null[quantity].to_numpy()
        low, high = np.quantile(draws, [0.025, 0.975])
        p = (1 + int(np.sum(draws >= value - ROUNDING))) / (1 + n_draws)
        band = {"null_mean": draws.mean(), "null_low": low, "null_high": high}
        lines.append({"quantity": quantity, "observed": value, **band, "p": p, "n": len(sizes)})
    return pd.DataFrame(lines)


def _multi_attempt_scores(
    attempts: pd.DataFrame,
) -> tuple[Float[np.ndarray, " attempt"], Int[np.ndarray, " trial"], Int[np.ndarray, " trial"]]:
    """Scores of trials with several attempts, one trial after another; where each trial starts; how many it has."""
    if n_unscored := int(attempts["score"].isna().sum()):
        raise ValueError(f"{n_unscored} of {len(attempts)} attempts have no score; leave out the trials they belong to")
    if n_repeated := int(attempts.duplicated(["trial_id", "index"]).sum()):
        raise ValueError(f"{n_repeated} attempts repeat a trial_id and index; give the attempts of one judge")
    ordered = attempts.sort_values(["trial_id", "index"])
    counts = ordered.groupby("trial_id")["score"].transform("size")
    multi = ordered[counts >= 2]
    sizes = multi.groupby("trial_id").size().to_numpy(dtype=int)
    return multi["score"].to_numpy(dtype=float), np.cumsum(sizes) - sizes, sizes


def _shuffled_gains(
    scores: Float[np.ndarray, " attempt"],
    starts: Int[np.ndarray, " trial"],
    sizes: Int[np.ndarray, " trial"],
    rng: np.random.Generator,
) -> Float[np.ndarray, " trial"]:
    """Gain of each trial in a random order. Only which two come first and last matters, so only they are drawn."""
    first = rng.integers(sizes)
    last = rng.integers(sizes - 1)
    return scores[starts + last + (last >= first)] - scores[starts + first]


def _statistics(gains: Float[np.ndarray, " trial"]) -> dict[str, float]:
    if not len(gains):
        return {"improvement": np.nan, "mean_gain": np.nan}
    return {"improvement": float(np.mean(gains > 0)), "mean_gain": float(gains.mean())}


def matched_cuts(
    real_cut_shares: Float[np.ndarray, " restart"], n: int, rng: np.random.Generator
) -> Float[np.ndarray, " cut"]:
    """Where to split ``n`` single-attempt responses, as shares of their length, spread as real restarts are.

    Each cut is that of a real restart; every quantile of the restarts is drawn from equally often, in random order.

    Raises:
        ValueError: no restart, or a share that leaves one part empty.
    """
    if not len(real_cut_shares):
        raise ValueError("no restart to match: placebo cuts need the place of at least one")
    if not ((real_cut_shares > 0) & (real_cut_shares < 1)).all():
        raise ValueError("shares of length must lie between 0 and 1 (both exclusive)")
    levels = (np.arange(n) + rng.random(n)) / max(n, 1)
    return rng.permutation(np.quantile(real_cut_shares, levels, method="inverted_cdf"))


def placebo_trials(trials: pd.DataFrame, parts: pd.DataFrame) -> pd.DataFrame:
    """The trials of ``parts`` as if their two parts had been attempts, for ``metrics.rates`` and ``metrics.means``.

    ``parts`` has trial_id, index (0 and 1) and score: what the judge gives each part of single-attempt responses. The
    ``condition`` becomes ``placebo``, a trial with an unscored part is ``failed``. Only ``improvement`` and the gain
    mean something here: what a later part gains without a restart.

    Raises:
        ValueError: a trial that is not there, had not exactly one attempt, or has not exactly parts 0 and 1.
    """
    found = parts.sort_values("index").groupby("trial_id")["index"].agg(tuple)
    if n_wrong := int((found.map(lambda indices: indices != (0, 1))).sum()):
        raise ValueError(f"{n_wrong} of {len(found)} placebo trials have not one part of index 0 and one of index 1")
    scores = parts.pivot(index="trial_id", columns="index", values="score").reindex(columns=[0, 1]).astype(float)
    mine = trials[trials["trial_id"].isin(scores.index)].set_index("trial_id", drop=False)
    if absent := sorted(set(scores.index) - set(mine.index)):
        raise ValueError(f"{len(absent)} placebo trials are not among the trials; the first is {absent[0]}")
    if not (mine["n_attempts"] == 1).all():
        raise ValueError(f"{(mine['n_attempts'] != 1).sum()} placebo trials did not have exactly one attempt")
    first, last = (scores[index].reindex(mine.index) for index in (0, 1))
    is_scored = first.notna() & last.notna()
    return mine.assign(
        condition="placebo",
        status=np.where(is_scored, "judged", "failed"),
        n_attempts=np.where(is_scored, 2, 0),
        first_score=first.where(is_scored),
        last_score=last.where(is_scored),
        gain=last - first,
        is_multi=is_scored,
        is_improved=is_scored & (last > first),
        recovery=np.nan,
    ).reset_index(drop=True)
