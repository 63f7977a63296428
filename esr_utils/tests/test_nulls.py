"""Laws of the order null and of the placebo: what improvement is worth nothing."""

import numpy as np
import pandas as pd
import pytest

from esr_utils.metrics import means, rates
from esr_utils.nulls import matched_cuts, order_null, placebo_trials


def attempts_of(*trials: tuple[float, ...]) -> pd.DataFrame:
    lines = [(str(i), k, score) for i, scores in enumerate(trials) for k, score in enumerate(scores)]
    return pd.DataFrame(lines, columns=["trial_id", "index", "score"])


def exchangeable(n: int, *, n_levels: int) -> pd.DataFrame:
    """Trials of two to four attempts whose scores do not depend on their order; few levels make ties."""
    rng = np.random.default_rng(0)
    return attempts_of(*[tuple(rng.integers(n_levels, size=rng.integers(2, 5)) * 10.0) for _ in range(n)])


def judged_once(*trial_ids: str) -> pd.DataFrame:
    """Single-attempt trials of one latent each, on two questions."""
    frame = pd.DataFrame({"trial_id": trial_ids, "latent": range(len(trial_ids)), "score": 40.0})
    return frame.assign(
        subject="model",
        condition="steered",
        question=["a" if i % 2 else "b" for i in frame["latent"]],
        repeat=0,
        status="judged",
        n_attempts=1,
        first_score=40.0,
        last_score=40.0,
        gain=np.nan,
        is_multi=False,
        is_improved=False,
        recovery=3.0,
    ).drop(columns="score")


def test_under_exchangeable_attempts_half_of_what_is_not_a_tie_improves():
    attempts = exchangeable(600, n_levels=4)
    null = order_null(attempts, n_draws=1000).set_index("quantity")
    pairs = [
        [a != b for i, a in enumerate(scores) for j, b in enumerate(scores) if i != j]
        for _, scores in attempts.groupby("trial_id")["score"].apply(list).items()
    ]
    p_tie = 1 - np.mean([np.mean(differ) for differ in pairs])
    assert 0.2 < p_tie < 0.3
    assert null.loc["improvement", "null_mean"] == pytest.approx((1 - p_tie) / 2, abs=0.003)
    assert null.loc["mean_gain", "null_mean"] == pytest.approx(0.0, abs=0.1)
    assert (null["observed"] > null["null_low"]).all()
    assert (null["observed"] < null["null_high"]).all()


def test_attempts_that_always_improve_stand_out():
    null = order_null(attempts_of(*[(10.0, 20.0, 80.0)] * 30, (50.0,)), n_draws=999).set_index("quantity")
    assert null["observed"].to_dict() == {"improvement": 1.0, "mean_gain": 70.0}
    assert null["p"].tolist() == [0.001, 0.001]
    assert null["n"].tolist() == [30, 30]


def test_attempts_that_always_get_worse_have_p_of_one():
    assert order_null(attempts_of(*[(80.0, 20.0)] * 10), n_draws=99)["p"].tolist() == [1.0, 1.0]


def test_ties_alone_make_a_null_without_spread():
    null = order_null(attempts_of(*[(30.1, 30.1, 30.1)] * 8), n_draws=50)
    assert (null[["observed", "null_mean", "null_low", "null_high"]] == 0.0).all(axis=None)
    assert null["p"].tolist() == [1.0, 1.0]


def test_null_band_of_two_attempt_trials_is_binomial():
    null = order_null(attempts_of(*[(20.0, 60.0)] * 100), n_draws=2000).set_index("quantity")
    assert null.loc["improvement", ["null_low", "null_high"]].tolist() == pytest.approx([0.40, 0.60], abs=0.011)


def test_p_is_uniform_when_order_carries_nothing():
    rng = np.random.default_rng(1)
    runs = [attempts_of(*[tuple(rng.uniform(0, 100, 2)) for _ in range(25)]) for _ in range(200)]
    ps = np.array([order_null(run, seed=i, n_draws=99)["p"].iloc[1] for i, run in enumerate(runs)])
    assert np.mean(ps <= 0.1) == pytest.approx(0.1, abs=0.06)
    assert np.mean(ps <= 0.5) == pytest.approx(0.5, abs=0.1)


def test_order_of_rows_and_single_attempts_change_nothing():
    attempts = exchangeable(40, n_levels=11)
    single = pd.DataFrame({"trial_id": ["x", "y"], "index": 0, "score": 50.0})
    shuffled = pd.concat([attempts, single]).sample(frac=1, random_state=0)
    pd.testing.assert_frame_equal(order_null(attempts, n_draws=50), order_null(shuffled, n_draws=50))


def test_same_seed_same_null():
    attempts = exchangeable(40, n_levels=11)
    assert order_null(attempts, seed=1, n_draws=50).equals(order_null(attempts, seed=1, n_draws=50))
    assert not order_null(attempts, seed=1, n_draws=50).equals(order_null(attempts, seed=2, n_draws=50))


@pytest.mark.parametrize("attempts", [attempts_of(), attempts_of((50.0,), (20.0,))])
def test_without_restarts_there_is_no_null(attempts):
    null = order_null(attempts)
    assert null["n"].tolist() == [0, 0]
    assert null[["observed", "null_mean", "null_low", "null_high", "p"]].isna().all(axis=None)


def test_attempts_that_cannot_be_ordered_are_refused():
    attempts = attempts_of((10.0, 20.0), (30.0, float("nan")))
    with pytest.raises(ValueError, match="1 of 4 attempts have no score; leave out the trials they belong to"):
        order_null(attempts)
    with pytest.raises(ValueError, match="2 attempts repeat a trial_id and index; give the attempts of one judge"):
        order_null(pd.concat([attempts.iloc[:2], attempts.iloc[:2]]))


def test_cuts_are_spread_as_the_real_restarts():
    real = np.random.default_rng(0).beta(2, 5, 300)
    cuts = matched_cuts(real, 900, np.random.default_rng(1))
    assert set(cuts) <= set(real)
    quantiles = [0.05, 0.25, 0.5, 0.75, 0.95]
    np.testing.assert_allclose(np.quantile(cuts, quantiles), np.quantile(real, quantiles), atol=0.02)


def test_each_restart_is_used_once_when_there_are_as_many_cuts():
    real = np.linspace(0.1, 0.9, 9)
    cuts = matched_cuts(real, 9, np.random.default_rng(0))
    assert sorted(cuts) == real.tolist()
    assert cuts.tolist() != real.tolist()


def test_no_cut_where_none_is_asked_for():
    assert len(matched_cuts(np.array([0.5]), 0, np.random.default_rng(0))) == 0


@pytest.mark.parametrize(
    ("shares", "sentence"), [([], "no restart to match"), ([0.2, 1.0], "must lie between 0 and 1"), ([0.0], "0 and 1")]
)
def test_cuts_that_cannot_be_matched_are_refused(shares, sentence):
    with pytest.raises(ValueError, match=sentence):
        matched_cuts(np.array(shares, dtype=float), 3, np.random.default_rng(0))


def test_placebo_is_counted_as_restarts_are():
    parts = attempts_of((20.0, 60.0), (50.0, 50.0), (70.0, 40.0), (10.0, 30.0), (10.0, float("nan")))
    placebo = placebo_trials(judged_once("0", "1", "2", "3", "4", "5"), parts.sample(frac=1, random_state=0))
    improvement = rates(placebo, ["condition"]).set_index("quantity").loc["improvement"]
    assert (improvement["condition"], improvement["n_events"], improvement["n"]) == ("placebo", 2, 4)
    assert (improvement["n_planned"], improvement["n_lost"]) == (5, 1)
    assert means(placebo, ["condition"], "gain")["mean"].item() == (40 + 0 - 30 + 20) / 4


@pytest.mark.parametrize(
    ("parts", "sentence"),
    [
        (attempts_of((20.0, 60.0), (50.0,)), "1 of 2 placebo trials have not one part of index 0 and one of index 1"),
        (attempts_of((20.0, 60.0), (50.0, 5.0, 5.0)), "1 of 2 placebo trials have not one part"),
        (attempts_of(*[(20.0, 60.0)] * 4), "1 placebo trials are not among the trials; the first is 3"),
        (attempts_of(*[(20.0, 60.0)] * 3), "1 placebo trials did not have exactly one attempt"),
    ],
)
def test_parts_that_do_not_fit_the_trials_are_refused(parts, sentence):
    trials = judged_once("0", "1", "2")
    trials.loc[2, ["n_attempts", "is_multi"]] = [2, True]
    with pytest.raises(ValueError, match=sentence):
        placebo_trials(trials, parts)
