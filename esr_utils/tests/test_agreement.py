"""Laws of agreement between judges, against textbook figures and other implementations."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr
from statsmodels.stats.inter_rater import cohens_kappa as reference_kappa

from esr_utils.agreement import agreement, cohens_kappa, icc_agreement, repeatability

SHROUT_FLEISS = np.array(  # six targets by four judges; Shrout and Fleiss 1979, table 2
    [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], dtype=float
)


def gradings(n: int, *, seed: int = 0) -> pd.DataFrame:
    """``n`` judged trials, five of each latent, a third of them multi-attempt."""
    rng = np.random.default_rng(seed)
    is_multi = rng.random(n) < 1 / 3
    return pd.DataFrame(
        {
            "trial_id": [f"t{i}" for i in range(n)],
            "latent": np.arange(n) // 5,
            "status": "judged",
            "is_multi": is_multi,
            "is_improved": is_multi & (rng.random(n) < 0.5),
            "first_score": rng.uniform(0, 100, n).round(),
        }
    )


def disturbed(frame: pd.DataFrame, share: float, *, seed: int = 1) -> pd.DataFrame:
    """The same trials from a judge that turns a share of the calls over and scores with noise."""
    rng = np.random.default_rng(seed)
    turned = rng.random(len(frame)) < share
    noisy = np.clip(frame["first_score"] + rng.normal(0, 100 * share, len(frame)), 0, 100)
    return frame.assign(is_multi=frame["is_multi"] ^ turned, first_score=noisy)


def values(table: pd.DataFrame, column: str = "value") -> dict:
    return table.set_index("measure")[column].to_dict()


def test_identical_judges_agree_in_everything():
    table = agreement(gradings(60), gradings(60), n_draws=50)
    assert list(values(table).values()) == pytest.approx([1.0] * 6)
    low = table.set_index("measure").loc["multi_attempt_agreement", "ci_low"]
    assert low == pytest.approx(0.025 ** (1 / 60))
    assert (table["n_lost"] == 0).all()


def test_kappa_and_spearman_are_those_of_other_implementations():
    first = gradings(200)
    second = disturbed(first, 0.2)
    found = values(agreement(first, second, n_draws=20))
    table = pd.crosstab(first["is_multi"], second["is_multi"]).to_numpy()
    assert found["multi_attempt_kappa"] == pytest.approx(reference_kappa(table).kappa)
    assert found["multi_attempt_agreement"] == pytest.approx(np.trace(table) / 200)
    assert found["first_score_spearman"] == pytest.approx(spearmanr(first["first_score"], second["first_score"])[0])


def test_kappa_interval_is_that_of_the_asymptotic_formula():
    first = gradings(400)
    second = disturbed(first, 0.15)
    line = agreement(first, second, n_draws=1000).set_index("measure").loc["multi_attempt_kappa"]
    reference = reference_kappa(pd.crosstab(first["is_multi"], second["is_multi"]).to_numpy())
    assert [line["ci_low"], line["ci_high"]] == pytest.approx([reference.kappa_low, reference.kappa_upp], abs=0.02)


def test_icc_is_the_textbooks():
    assert icc_agreement(SHROUT_FLEISS) == pytest.approx(0.290, abs=0.0005)


def test_a_shift_lowers_the_icc_and_leaves_the_ranks():
    first = gradings(100)
    shifted = first.assign(first_score=first["first_score"] + 40)
    found = values(agreement(first, shifted, n_draws=20))
    assert found["first_score_spearman"] == pytest.approx(1.0)
    assert found["first_score_icc"] < 0.8


def test_judges_by_chance_have_kappa_near_zero():
    rng = np.random.default_rng(0)
    first, second = ((rng.random(20_000) < 0.1).astype(float) for _ in range(2))
    assert cohens_kappa(first, second) == pytest.approx(0.0, abs=0.03)
    assert np.mean(first == second) > 0.8


def test_kappa_is_not_defined_where_a_class_is_absent():
    single = gradings(30).assign(is_multi=False, is_improved=False)
    table = agreement(single, single, n_draws=20).set_index("measure")
    assert np.isnan(table.loc["multi_attempt_kappa", ["value", "ci_low", "ci_high"]].astype(float)).all()
    assert table.loc["multi_attempt_kappa", "note"] == "not defined: every trial is in one class"
    assert table.loc["multi_attempt_agreement", ["value", "note"]].tolist() == [1.0, "exact interval"]


def test_kappa_divides_by_nothing():
    with np.errstate(all="raise"):
        assert np.isnan(cohens_kappa(np.ones(5), np.ones(5)))
        assert cohens_kappa(np.ones(4), np.array([1.0, 0.0, 1.0, 1.0])) == 0.0


def test_draws_without_a_class_are_reported():
    rare = gradings(12).assign(is_multi=[True] + [False] * 11, is_improved=False)
    line = agreement(rare, rare, n_draws=200).set_index("measure").loc["multi_attempt_kappa"]
    n_undefined = int(line["note"].split()[3])
    assert line["value"] == pytest.approx(1.0)
    assert n_undefined / 200 == pytest.approx((11 / 12) ** 12, abs=0.12)


def test_constant_scores_have_no_correlation():
    flat = gradings(30).assign(first_score=50.0)
    table = agreement(flat, flat, n_draws=20).set_index("measure")
    assert table.loc[["first_score_spearman", "first_score_icc"], "value"].isna().all()
    assert table.loc["first_score_icc", "note"] == "not defined: scores are constant or too few"


def test_trials_that_one_judge_lost_are_counted_and_left_out():
    second = gradings(60).drop(index=[3, 4])
    second.loc[0, "status"] = "unparsed"
    table = agreement(gradings(60), second, n_draws=20)
    assert table["n"].unique().tolist() == [57]
    assert table["n_lost"].unique().tolist() == [3]


def test_resampling_latents_widens_the_interval_of_clumped_disagreement():
    first = gradings(300)
    clumped = first.assign(is_multi=first["is_multi"] ^ (first["latent"] % 5 == 0))
    by_trial, by_latent = (
        agreement(first, clumped, cluster=column, n_draws=400).set_index("measure").loc["multi_attempt_kappa"]
        for column in ("trial_id", "latent")
    )
    assert by_trial["value"] == by_latent["value"]
    assert by_latent["ci_high"] - by_latent["ci_low"] > 1.5 * (by_trial["ci_high"] - by_trial["ci_low"])


def test_order_of_rows_changes_nothing_and_the_seed_decides():
    first, second = gradings(80), disturbed(gradings(80), 0.2)
    table = agreement(first, second, n_draws=50)
    assert table.equals(agreement(first, second, n_draws=50))
    shuffled = agreement(first.sample(frac=1, random_state=0), second.sample(frac=1, random_state=1), n_draws=50)
    pd.testing.assert_frame_equal(table, shuffled)
    assert not table.equals(agreement(first, second, seed=1, n_draws=50))


def test_exchanging_the_judges_changes_no_value():
    first, second = gradings(80), disturbed(gradings(80), 0.2)
    there, back = (values(agreement(*order, n_draws=20)) for order in ((first, second), (second, first)))
    assert there == pytest.approx(back)


def test_two_gradings_are_compared_as_two_judges():
    first, second = gradings(80), disturbed(gradings(80), 0.1)
    both = pd.concat([first.assign(grading=0), second.assign(grading=1)])
    assert values(repeatability(both, "grading", n_draws=20)) == pytest.approx(
        values(agreement(first, second, n_draws=20))
    )


def test_three_gradings_make_three_pairs_a_trial_and_no_more_evidence():
    first, second = gradings(80), disturbed(gradings(80), 0.1)
    twice = pd.concat([first.assign(grading=0), second.assign(grading=1)])
    copies = pd.concat([twice, twice.assign(grading=twice["grading"] + 2)])
    table = repeatability(copies, "grading", n_draws=400).set_index("measure")
    assert (table["n"] == 80).all()
    assert (table["n_pairs"] == 6 * 80).all()
    width = table["ci_high"] - table["ci_low"]
    once = repeatability(twice, "grading", n_draws=400).set_index("measure")
    assert width["first_score_icc"] > 0.5 * (once["ci_high"] - once["ci_low"])["first_score_icc"]


def test_failed_gradings_are_counted_and_left_out():
    both = pd.concat([gradings(40).assign(grading=0), gradings(40).assign(grading=1)], ignore_index=True)
    both.loc[0, "status"] = "unparsed"
    table = repeatability(both, "grading", n_draws=20)
    assert (table["n"].unique().tolist(), table["n_lost"].unique().tolist()) == ([39], [1])


def test_gradings_that_cannot_be_compared_are_refused():
    frame = gradings(10)
    with pytest.raises(ValueError, match="10 lines of the second frame repeat a trial_id; give one grading of a trial"):
        agreement(frame, pd.concat([frame, frame]))
    with pytest.raises(ValueError, match="no trial is judged in both frames, of 10 and 10 lines"):
        agreement(frame, frame.assign(trial_id=frame["trial_id"] + "'"))
    with pytest.raises(ValueError, match="10 lines repeat a trial_id and grading; give each grading once"):
        repeatability(pd.concat([frame, frame]).assign(grading=0), "grading")
    with pytest.raises(ValueError, match="no trial is judged twice in 10 gradings; grading must number them"):
        repeatability(frame.assign(grading=0), "grading")
