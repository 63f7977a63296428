"""Six hand-made trials counted by hand, and laws of rates and intervals."""

from functools import partial

import numpy as np
import pandas as pd
import pytest
from scipy.stats import beta, t

from esr_utils import paired
from esr_utils.metrics import (
    JUDGED,
    LOST,
    check_trials,
    clustered,
    flow,
    means,
    rate_interval,
    rates,
)
from esr_utils.power import Population, simulate_trials

NAN = float("nan")
STEERED, ABLATED = {"condition": "steered"}, {"condition": "ablated"}


def trial(latent: int, question: str, *scores: float, status: str = JUDGED, **other) -> dict:
    """One line, scored as ``frames.measures`` does."""
    is_multi = len(scores) >= 2
    return {
        "subject": "model",
        "condition": "steered",
        "latent": latent,
        "question": question,
        "level": 1.0,
        "strength": 4.0,
        "repeat": 0,
        "seed": 1,
        "status": status,
        "n_attempts": len(scores),
        "first_score": scores[0] if scores else NAN,
        "last_score": scores[-1] if scores else NAN,
        "gain": scores[-1] - scores[0] if is_multi else NAN,
        "is_multi": is_multi,
        "is_improved": is_multi and scores[-1] > scores[0],
        "recovery": NAN,
    } | other


def six_trials() -> pd.DataFrame:
    return pd.DataFrame(
        [
            trial(1, "a", 20.0, 60.0, recovery=8.0),
            trial(1, "b", 50.0, 90.0, 55.0, recovery=3.0),
            trial(2, "a", 70.0, 40.0),
            trial(2, "c", 30.0, recovery=7.0),
            trial(3, "b", status="no_attempt"),
            trial(3, "c", 10.0, 40.0, recovery=1.0),
        ]
    )


def two_arms(*, seed: int = 0) -> pd.DataFrame:
    """A simulated run, and its trials again without a third of their restarts."""
    steered = simulate_trials(np.random.default_rng(seed), Population(rate=0.3))
    stopped = steered["is_multi"] & (np.random.default_rng(1).random(len(steered)) < 1 / 3)
    ablated = steered.assign(
        condition="ablated",
        n_attempts=steered["n_attempts"].where(~stopped, 1),
        gain=steered["gain"].mask(stopped),
        is_multi=steered["is_multi"] & ~stopped,
        is_improved=steered["is_improved"] & ~stopped,
    )
    return pd.concat([steered, ablated], ignore_index=True)


def test_rates_of_six_trials_are_those_counted_by_hand():
    table = rates(six_trials(), ["subject"]).set_index("quantity")
    assert table["n_events"].to_dict() == {
        "multi_attempt": 4,
        "improvement": 3,
        "esr": 3,
        "minimum_gain_esr": 1,
        "recovery": 2,
    }
    assert table["n"].tolist() == [5, 4, 5, 5, 4]
    assert table["rate"].tolist() == [4 / 5, 3 / 4, 3 / 5, 1 / 5, 2 / 4]
    assert (table["n_planned"] == 6).all()
    assert (table["n_lost"] == 1).all()
    assert table.loc["improvement", ["n_latents", "n_questions"]].tolist() == [3, 3]


def test_esr_is_multi_attempt_times_improvement():
    table = rates(two_arms(), ["condition"]).pivot(index="condition", columns="quantity", values="rate")
    assert table["esr"].tolist() == pytest.approx((table["multi_attempt"] * table["improvement"]).tolist())


def test_nothing_out_of_nothing_is_not_zero():
    single = rates(pd.DataFrame([trial(1, "a", 40.0), trial(2, "b", 50.0)]), ["condition"]).set_index("quantity")
    assert single.loc["improvement", "n"] == 0
    assert np.isnan(single.loc["improvement", ["rate", "ci_low", "ci_high", "naive_low"]].astype(float)).all()
    assert single.loc["improvement", "ci_method"] == "no trials"
    assert single.loc["esr", "rate"] == 0.0


@pytest.mark.parametrize(("scores", "low", "high"), [((50.0,), 0.0, 1 - 0.025**0.1), ((5.0, 9.0), 0.025**0.1, 1.0)])
def test_no_event_and_all_events_have_the_exact_interval(scores, low, high):
    trials = pd.DataFrame([trial(latent, question, *scores) for latent in range(5) for question in "ab"])
    esr = rates(trials, ["condition"]).set_index("quantity").loc["esr"]
    assert (esr["ci_low"], esr["ci_high"]) == pytest.approx((low, high))
    assert esr["ci_method"] == "exact"
    assert np.isnan(esr["design_effect"])


def test_one_latent_and_one_question_leave_chance_alone():
    values = pd.DataFrame({"latent": 1, "question": "a", "value": [1.0, 0.0, 0.0, 1.0, 0.0]})
    line = rate_interval(values, np.random.default_rng(0))
    assert line["ci_method"] == "exact"
    assert (line["ci_low"], line["ci_high"]) == pytest.approx((beta.ppf(0.025, 2, 4), beta.ppf(0.975, 3, 3)))


def test_one_question_leaves_the_bootstrap_over_latents():
    rng = np.random.default_rng(0)
    latents, values = np.arange(200) // 4, rng.integers(2, size=200).astype(float)
    frame = pd.DataFrame({"latent": latents, "question": "a", "value": values})
    spread = clustered(frame, (values - values.mean()) / 200, rng, n_draws=40_000)
    by_latent = (frame["value"] - values.mean()).groupby(latents).sum() / 200
    assert spread.method == "cluster bootstrap over latents"
    assert spread.variance == pytest.approx(50 / 49 * (by_latent**2).sum(), rel=0.04)
    assert spread.t == pytest.approx(t.ppf(0.975, 49))


def test_bootstrap_variance_is_that_of_latents_plus_questions_less_cells():
    trials = simulate_trials(np.random.default_rng(3), Population(rate=0.3, n_latents=30, n_questions=12))
    values = trials["is_multi"].to_numpy(dtype=float)
    error = pd.Series((values - values.mean()) / len(values))
    expected = -(error**2).sum()  # each trial is a cell of its own
    for column in ("latent", "question"):
        totals = error.groupby(trials[column]).sum()
        expected += len(totals) / (len(totals) - 1) * (totals**2).sum()
    spread = clustered(trials, error.to_numpy(), np.random.default_rng(0), n_draws=100_000)
    assert spread.variance == pytest.approx(expected, rel=0.05)
    assert spread.t == pytest.approx(t.ppf(0.975, 11))
    assert np.mean(spread.draws**2) > 1.3 * expected


def test_latents_that_answer_alike_widen_the_interval():
    rng = np.random.default_rng(0)
    alike = np.repeat(rng.random(60) < 0.3, 6).astype(float)
    frame = pd.DataFrame({"latent": np.arange(360) // 6, "question": rng.integers(40, size=360)})
    clumped = rate_interval(frame.assign(value=alike), rng)
    mixed = rate_interval(frame.assign(value=rng.permutation(alike)), rng)
    assert clumped["design_effect"] == pytest.approx(6.0, rel=0.25)
    assert mixed["design_effect"] < 2.0
    assert clumped["naive_high"] - clumped["naive_low"] == mixed["naive_high"] - mixed["naive_low"]
    assert clumped["ci_high"] - clumped["ci_low"] > 1.5 * (mixed["ci_high"] - mixed["ci_low"])


def test_no_interval_is_narrower_than_that_of_independent_trials():
    even = pd.DataFrame({"latent": np.arange(80) // 4, "question": np.arange(80) % 4})
    even["value"] = (even["latent"] + even["question"]) % 2.0  # every latent and every question has half of the events
    line = rate_interval(even, np.random.default_rng(0))
    assert line["design_effect"] < 0.5
    assert line["ci_high"] - line["ci_low"] > line["naive_high"] - line["naive_low"]


def test_order_of_rows_changes_nothing():
    trials = two_arms()
    shuffled = trials.sample(frac=1, random_state=0)
    for table in (rates, flow, partial(means, column="gain")):
        pd.testing.assert_frame_equal(table(trials, ["condition"]), table(shuffled, ["condition"]))
    arms = (STEERED, ABLATED)
    pd.testing.assert_frame_equal(
        paired.rates(trials, arms, quantity="esr"), paired.rates(shuffled, arms, quantity="esr")
    )


def test_repeated_index_changes_nothing():
    trials = two_arms()
    halves = [half.reset_index(drop=True) for _, half in trials.groupby("condition", sort=False)]
    pd.testing.assert_frame_equal(rates(trials, ["condition"]), rates(pd.concat(halves), ["condition"]))
    arms = (STEERED, ABLATED)
    pd.testing.assert_frame_equal(
        paired.rates(trials, arms, quantity="esr"), paired.rates(pd.concat(halves), arms, quantity="esr")
    )


def test_same_seed_same_interval_and_another_seed_another():
    trials = two_arms()
    first, again = (rates(trials, ["condition"], seed=3) for _ in range(2))
    pd.testing.assert_frame_equal(first, again)
    other = rates(trials, ["condition"], seed=4)
    assert (first["rate"].dropna() == other["rate"].dropna()).all()
    multi = first["quantity"] == "multi_attempt"
    assert (first.loc[multi, "ci_low"] != other.loc[multi, "ci_low"]).all()
    np.testing.assert_allclose(first["ci_low"], other["ci_low"], atol=0.01)


def test_a_groups_interval_does_not_depend_on_the_others():
    trials = two_arms()
    alone = rates(trials[trials["condition"] == "steered"], ["condition"])
    among = rates(trials, ["condition"])
    pd.testing.assert_frame_equal(alone, among[among["condition"] == "steered"].reset_index(drop=True))


def test_without_groups_the_whole_frame_is_one():
    assert rates(six_trials(), []).equals(rates(six_trials(), ["subject"]).drop(columns="subject"))


def test_flow_accounts_for_every_planned_trial():
    statuses = [*LOST, "lost in the post", "missing"]
    trials = pd.concat([six_trials(), pd.DataFrame([trial(4, "a", status=status) for status in statuses])])
    line = flow(trials, ["condition"]).iloc[0]
    assert (line["planned"], line["generated"], line["judged"]) == (15, 13, 5)
    assert line["missing"] == line["no_attempt"] == 2
    assert line["planned"] == line["judged"] + line[[*LOST, "lost in the post"]].sum()


def test_flow_shows_zero_for_what_did_not_happen():
    assert (flow(six_trials(), ["condition"])[["missing", "overflow", "failed"]] == 0).all(axis=None)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"status": None}, "1 of 6 trials have no status; the first is line 2"),
        ({"status": "failed"}, "1 of 6 trials have scored attempts but are not judged; the first is line 2"),
        ({"n_attempts": 0}, "are judged without a scored attempt"),
        ({"n_attempts": 1}, "have is_multi that contradicts n_attempts"),
        ({"gain": NAN}, "have two attempts and no gain"),
        ({"n_attempts": 1, "is_multi": False, "is_improved": True}, "are improved with fewer than two attempts"),
    ],
)
def test_trials_that_contradict_themselves_are_refused(change, sentence):
    trials = six_trials().astype({"status": object})
    for column, value in change.items():
        trials[column] = trials[column].mask(trials.index == 2, value)
    with pytest.raises(ValueError, match=sentence):
        check_trials(trials)


def test_missing_columns_are_named():
    with pytest.raises(ValueError, match="trials lack the columns gain, recovery; frames.judged_frame makes them"):
        rates(six_trials().drop(columns=["gain", "recovery"]), ["condition"])


def test_mean_gains_of_six_trials_are_those_counted_by_hand():
    line = means(six_trials(), ["condition"], "gain").iloc[0]
    assert line["n"] == 4
    assert line["mean"] == pytest.approx((40 + 5 - 30 + 30) / 4)
    assert line["median"] == pytest.approx(17.5)
    assert line["ci_low"] < line["mean"] < line["ci_high"]


def test_no_gain_at_all_is_not_zero():
    line = means(pd.DataFrame([trial(1, "a", 40.0), trial(2, "b", 50.0)]), ["condition"], "gain").iloc[0]
    assert line["n"] == 0
    assert np.isnan(line[["mean", "ci_low", "ci_high", "sd"]].astype(float)).all()
