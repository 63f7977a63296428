"""Random sets of latents that are like a given set in everything but what they stand for."""

from collections.abc import Collection, Sequence

import numpy as np
import pandas as pd

MATCHED = ("frequency", "mean", "norm")
NEVER = 1e-6  # stands for a frequency or mean of 0 in logarithms


def matched_sets(
    profiles: pd.DataFrame,
    chosen: Sequence[int],
    *,
    n_sets: int,
    n_near: int,
    excluded: Collection[int] = (),
    seed: int = 0,
) -> list[list[int]]:
    """``n_sets`` sets of as many latents as ``chosen``, each latent matched with one of ``chosen``.

    Args:
        profiles: indexed by latent: frequency (share of tokens on which it fires), mean (activation over all tokens),
            norm (of its decoder direction).
        n_near: a match is drawn from so many nearest candidates, by standardised log frequency, log mean and norm.
        excluded: latents that no set may hold, besides ``chosen``. Sets may share latents with each other.

    Raises:
        ValueError: ``chosen`` is empty or names a latent twice, or there are too few candidates.

    Differs from the paper: its three random sets are said to be matched, and drawn from all latents in the code.
    """
    if not len(chosen):
        raise ValueError("there is no latent to match; give at least one")
    if len(set(chosen)) != len(chosen):
        raise ValueError(f"latents {sorted(chosen)} name one latent twice")
    places = _standardised(profiles)
    pool = np.setdiff1d(profiles.index, [*chosen, *excluded])
    if len(pool) < len(chosen) + n_near - 1:
        raise ValueError(
            f"{len(pool)} candidates are too few to match {len(chosen)} latents, each from its {n_near} nearest; "
            f"choose or exclude fewer latents, or lower n_near"
        )
    return [_one_set(places, list(chosen), pool, n_near, np.random.default_rng([seed, i])) for i in range(n_sets)]


def _one_set(
    places: pd.DataFrame, chosen: list[int], pool: np.ndarray, n_near: int, rng: np.random.Generator
) -> list[int]:
    drawn = []
    for latent in rng.permutation(chosen):
        free = places.loc[np.setdiff1d(pool, drawn)]
        distance = ((free - places.loc[latent]) ** 2).sum(axis=1)
        drawn.append(int(rng.choice(distance.nsmallest(n_near).index)))
    return sorted(drawn)


def _standardised(profiles: pd.DataFrame) -> pd.DataFrame:
    values = profiles[list(MATCHED)].assign(
        frequency=np.log(profiles["frequency"].clip(lower=NEVER)), mean=np.log(profiles["mean"].clip(lower=NEVER))
    )
    spread = values.std(ddof=0)
    return (values - values.mean()) / spread.where(spread > 0, 1.0)


def match_quality(profiles: pd.DataFrame, chosen: Sequence[int], sets: Sequence[Sequence[int]]) -> pd.DataFrame:
    """How like the sets are: quantity, chosen (its mean), least and most (mean of a set), all_latents (mean of all)."""
    lines = []
    for quantity in MATCHED:
        of_sets = [profiles.loc[list(mine), quantity].mean() for mine in sets]
        whole, mine = profiles[quantity].mean(), profiles.loc[list(chosen), quantity].mean()
        lines.append(
            {"quantity": quantity, "chosen": mine, "least": min(of_sets), "most": max(of_sets), "all_latents": whole}
        )
    return pd.DataFrame(lines)
