"""Two arms compared trial by trial: same latent, question and seed in both. Frames in, frames out."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
from scipy.stats import binomtest
from statsmodels.stats.proportion import proportion_confint

from esr_utils.metrics import ALPHA, N_DRAWS, PAIR_KEY, QUANTITIES, check_trials, mean_interval, outcomes

MIN_DISCORDANT = 6  # pairs; with fewer McNemar's test cannot reach 0.05, so a t interval must not exclude zero either


def rates(
    trials: pd.DataFrame,
    between: tuple[Mapping[str, object], Mapping[str, object]],
    *,
    quantity: str,
    seed: int = 0,
    n_draws: int = N_DRAWS,
) -> pd.DataFrame:
    """Difference of a rate between two arms, trial by trial: second less first, in one line.

    ``between`` says what marks each arm, ``({"condition": "steered", "level": 1.0}, {"condition": "ablated", ...})``;
    trials are paired by subject, latent, question and repeat, less the columns that mark the arms. Pairs with an arm
    that has no value are left out and counted (``n_lost``), so are trials without a partner (``n_unmatched``).
    ``n_only_first`` and ``n_only_second`` are the discordant pairs; ``mcnemar_p`` is exact, takes pairs for independent
    and so is too small where ``design_effect`` exceeds 1. The interval is exact (and wide) where fewer than 6 pairs are
    discordant.

    Raises:
        ValueError: an unknown quantity or one that only some judged trials have, an arm with no trial or with several
            of one key, no pair, or none with values.
    """
    check_trials(trials)
    if quantity not in QUANTITIES or quantity == "improvement":
        allowed = ", ".join(name for name in QUANTITIES if name != "improvement")
        raise ValueError(f"{quantity!r} cannot be paired, for it needs a value of every judged trial: {allowed} can")
    pairs, counts = _pairs(trials, between, lambda mine: outcomes(mine)[quantity])
    return pd.DataFrame([{"quantity": quantity, **_difference(pairs, seed=seed, n_draws=n_draws), **counts}])


def means(
    trials: pd.DataFrame,
    between: tuple[Mapping[str, object], Mapping[str, object]],
    *,
    column: str,
    seed: int = 0,
    n_draws: int = N_DRAWS,
) -> pd.DataFrame:
    """Difference of the mean of a score between two arms, trial by trial: second less first, in one line.

    ``quantity`` is the name of the column. Arms, pairs, counts and errors as in ``rates``; the interval as in
    ``metrics.means``.
    """
    check_trials(trials)
    pairs, counts = _pairs(trials, between, lambda mine: mine[column].astype(float))
    difference = (pairs["value_second"] - pairs["value_first"]).to_numpy()
    values = {
        "n_pairs": len(pairs),
        "mean_first": pairs["value_first"].mean(),
        "mean_second": pairs["value_second"].mean(),
        "difference": difference.mean(),
    }
    interval = mean_interval(pairs, difference, np.random.default_rng(seed), n_draws=n_draws)
    sizes = {"n_latents": pairs["latent"].nunique(), "n_questions": pairs["question"].nunique()}
    return pd.DataFrame([{"quantity": column, **values, **interval, **sizes, **counts}])


def _pairs(
    trials: pd.DataFrame,
    between: tuple[Mapping[str, object], Mapping[str, object]],
    value_of: Callable[[pd.DataFrame], pd.Series],
) -> tuple[pd.DataFrame, dict[str, int]]:
    """Pairs with a value in both arms, and how many pairs and trials have none."""
    key = [column for column in PAIR_KEY if not any(column in arm for arm in between)]
    first, second = (_arm(trials, arm, key, value_of) for arm in between)
    matched = first.join(second, how="inner", lsuffix="_first", rsuffix="_second")
    pairs = matched.dropna().reset_index()
    if pairs.empty:
        arms, columns = " and ".join(str(dict(arm)) for arm in between), ", ".join(key)
        raise ValueError(f"no pair of {arms} has a value in both arms: {len(matched)} match by {columns}")
    counts = {"n_lost": len(matched) - len(pairs), "n_unmatched": len(first) + len(second) - 2 * len(matched)}
    return pairs, counts


def _arm(
    trials: pd.DataFrame,
    arm: Mapping[str, object],
    key: Sequence[str],
    value_of: Callable[[pd.DataFrame], pd.Series],
) -> pd.DataFrame:
    """Values of one arm by key."""
    mine = trials[np.logical_and.reduce([trials[column] == value for column, value in arm.items()])]
    if mine.empty:
        raise ValueError(f"no trial has {dict(arm)}")
    if n_repeated := int(mine.duplicated(list(key)).sum()):
        raise ValueError(f"{n_repeated} trials of {dict(arm)} repeat a {', '.join(key)}; name the arm more closely")
    return mine[list(key)].assign(value=value_of(mine)).set_index(list(key))


def _difference(pairs: pd.DataFrame, *, seed: int, n_draws: int) -> dict:
    """Rates, interval of the mean difference and discordant pairs of ``value_first`` and ``value_second``."""
    values, n = (pairs["value_second"] - pairs["value_first"]).to_numpy(), len(pairs)
    lost, won = int((values < 0).sum()), int((values > 0).sum())
    interval = mean_interval(pairs, values, np.random.default_rng(seed), n_draws=n_draws)
    if lost + won < MIN_DISCORDANT or interval["ci_method"] == "none":  # each share in its 97.5% interval: 95% for both
        (low_lost, high_lost), (low_won, high_won) = (
            proportion_confint(count, n, alpha=ALPHA / 2, method="beta") for count in (lost, won)
        )
        interval |= {"ci_low": low_won - high_lost, "ci_high": high_won - low_lost, "ci_method": "exact"}
    return {
        "n_pairs": n,
        "rate_first": pairs["value_first"].mean(),
        "rate_second": pairs["value_second"].mean(),
        "difference": values.mean(),
        **interval,
        "n_only_first": lost,
        "n_only_second": won,
        "mcnemar_p": binomtest(won, lost + won).pvalue if lost + won else 1.0,
        "n_latents": pairs["latent"].nunique(),
        "n_questions": pairs["question"].nunique(),
    }
