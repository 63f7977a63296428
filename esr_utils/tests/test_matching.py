"""Matched sets: like the given one in what is matched, unlike any draw from all latents, and refused if impossible."""

import numpy as np
import pandas as pd
import pytest

from esr_utils.matching import match_quality, matched_sets

CHOSEN = (5, 60, 150, 399)


@pytest.fixture(scope="module")
def profiles() -> pd.DataFrame:
    """Latents that differ a thousandfold in how often they fire; those chosen are among the busiest."""
    rng = np.random.default_rng(0)
    frequency = np.exp(rng.uniform(np.log(1e-4), np.log(0.3), 400))
    frequency[list(CHOSEN)] = (0.2, 0.25, 0.15, 0.2)
    mean = frequency * rng.uniform(1, 3, 400)
    return pd.DataFrame({"frequency": frequency, "mean": mean, "norm": rng.uniform(0.9, 1.1, 400)})


def test_sets_are_as_large_share_nothing_with_the_chosen_and_differ(profiles):
    sets = matched_sets(profiles, CHOSEN, n_sets=6, n_near=10, excluded=[1, 2, 3])
    assert [len(set(mine)) for mine in sets] == [len(CHOSEN)] * 6
    assert all(not set(mine) & {*CHOSEN, 1, 2, 3} for mine in sets)
    assert len({tuple(mine) for mine in sets}) == 6
    assert sets == matched_sets(profiles, CHOSEN, n_sets=6, n_near=10, excluded=[1, 2, 3])
    assert sets != matched_sets(profiles, CHOSEN, n_sets=6, n_near=10, excluded=[1, 2, 3], seed=1)


def test_sets_fire_as_often_as_the_chosen_and_a_draw_from_all_does_not(profiles):
    sets = matched_sets(profiles, CHOSEN, n_sets=10, n_near=5)
    table = match_quality(profiles, CHOSEN, sets).set_index("quantity")
    assert table.loc["frequency", "chosen"] == pytest.approx(0.2)
    assert table.loc["frequency", "least"] > 0.6 * 0.2 > 2 * table.loc["frequency", "all_latents"]
    assert table.loc["mean", "least"] < table.loc["mean", "chosen"] < 1.7 * table.loc["mean", "most"]


def test_a_latent_that_never_fires_is_matched_with_rare_ones(profiles):
    silent = profiles.copy()
    silent.loc[7, ["frequency", "mean"]] = 0.0
    (mine,) = matched_sets(silent, [7], n_sets=1, n_near=3)
    assert silent.loc[mine[0], "frequency"] < silent["frequency"].quantile(0.05)


@pytest.mark.parametrize(
    ("chosen", "n_near", "excluded", "sentence"),
    [
        ((), 3, (), "there is no latent to match; give at least one"),
        ((5, 60, 5), 3, (), r"latents \[5, 5, 60\] name one latent twice"),
        ((5, 60), 3, range(397), "3 candidates are too few to match 2 latents, each from its 3 nearest"),
        ((5, 60), 500, (), "398 candidates are too few"),
    ],
)
def test_sets_that_cannot_be_matched_are_refused(profiles, chosen, n_near, excluded, sentence):
    with pytest.raises(ValueError, match=sentence):
        matched_sets(profiles, chosen, n_sets=1, n_near=n_near, excluded=excluded)
