"""Paired differences: their sign, their intervals, and which pairs count."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom

from esr_utils import paired
from esr_utils.metrics import rates
from esr_utils.tests.test_metrics import ABLATED, NAN, STEERED, six_trials, trial, two_arms


def test_identical_arms_differ_by_nothing():
    steered = six_trials()
    line = paired.rates(
        pd.concat([steered, steered.assign(condition="ablated")]), (STEERED, ABLATED), quantity="esr"
    ).iloc[0]
    assert (line["difference"], line["mcnemar_p"], line["n_only_first"], line["n_only_second"]) == (0.0, 1.0, 0, 0)
    assert (line["n_pairs"], line["n_lost"], line["n_unmatched"]) == (5, 1, 0)
    assert line["ci_method"] == "exact"
    assert line["ci_high"] == -line["ci_low"] == pytest.approx(1 - 0.0125 ** (1 / 5))


def test_exchanging_the_arms_changes_the_sign_alone():
    there, back = (
        paired.rates(two_arms(), arms, quantity="multi_attempt").iloc[0]
        for arms in ((STEERED, ABLATED), (ABLATED, STEERED))
    )
    assert there["difference"] == -back["difference"] < 0
    assert there["ci_low"] == pytest.approx(-back["ci_high"])
    assert (there["n_only_first"], there["mcnemar_p"]) == (back["n_only_second"], back["mcnemar_p"])


def test_paired_difference_is_the_difference_of_the_rates():
    trials = two_arms()
    line = paired.rates(trials, (STEERED, ABLATED), quantity="multi_attempt").iloc[0]
    table = rates(trials, ["condition"]).set_index(["condition", "quantity"])["rate"]
    assert line["difference"] == pytest.approx(table["ablated", "multi_attempt"] - table["steered", "multi_attempt"])
    assert line["ci_low"] < line["difference"] < line["ci_high"] < 0


def test_a_difference_that_only_some_latents_show_has_a_wide_interval():
    steered = two_arms()[lambda frame: frame["condition"] == "steered"]
    ablated = steered.assign(condition="ablated")
    changes = {"n_attempts": 1, "is_multi": False, "is_improved": False, "gain": NAN}
    for column, value in changes.items():
        ablated[column] = ablated[column].mask(ablated["latent"] % 3 == 0, value)
    line = paired.rates(pd.concat([steered, ablated]), (STEERED, ABLATED), quantity="multi_attempt").iloc[0]
    discordant = (line["n_only_first"] + line["n_only_second"]) / line["n_pairs"]
    independent = 2 * 1.96 * np.sqrt((discordant - line["difference"] ** 2) / line["n_pairs"])
    assert line["design_effect"] > 1.5
    assert line["ci_high"] - line["ci_low"] > np.sqrt(1.5) * independent


def test_mcnemar_counts_discordant_pairs_alone():
    questions = [f"question {i}" for i in range(10)]
    steered = [trial(i % 4, question, 5.0, 9.0) for i, question in enumerate(questions)]
    ablated = [trial(i % 4, question, 5.0, *[9.0] * (i < 3)) for i, question in enumerate(questions)]
    trials = pd.concat([pd.DataFrame(steered), pd.DataFrame(ablated).assign(condition="ablated")])
    line = paired.rates(trials, (STEERED, ABLATED), quantity="esr").iloc[0]
    assert (line["rate_first"], line["rate_second"]) == (1.0, pytest.approx(0.3))
    assert (line["n_only_first"], line["n_only_second"]) == (7, 0)
    assert line["mcnemar_p"] == pytest.approx(2 * binom.cdf(0, 7, 0.5))


def test_lost_and_unmatched_pairs_are_counted_and_left_out():
    ablated = six_trials().assign(condition="ablated").iloc[1:].reset_index(drop=True)
    ablated.loc[0, ["status", "n_attempts", "is_multi", "is_improved"]] = ["failed", 0, False, False]
    line = paired.rates(pd.concat([six_trials(), ablated]), (STEERED, ABLATED), quantity="esr").iloc[0]
    assert (line["n_pairs"], line["n_lost"], line["n_unmatched"]) == (3, 2, 1)


def test_unrated_recovery_is_a_lost_pair():
    trials = pd.concat([six_trials(), six_trials().assign(condition="ablated")])
    line = paired.rates(trials, (STEERED, ABLATED), quantity="recovery").iloc[0]
    assert (line["n_pairs"], line["n_lost"]) == (4, 2)


def test_models_are_paired_as_arms():
    trials = pd.concat([six_trials(), six_trials().assign(subject="corrector")])
    line = paired.rates(trials, ({"subject": "model"}, {"subject": "corrector"}), quantity="esr").iloc[0]
    assert (line["n_pairs"], line["difference"]) == (5, 0.0)


@pytest.mark.parametrize(
    ("second", "quantity", "sentence"),
    [
        ({"condition": "ablated"}, "esr", "no pair of .* has a value in both arms: 0 match by subject, latent"),
        ({"condition": "meta_prompted"}, "esr", "no trial has {'condition': 'meta_prompted'}"),
        ({"level": 1.0}, "esr", "12 trials of {'level': 1.0} repeat a subject, latent, question, repeat; name the arm"),
        ({"condition": "ablated"}, "improvement", "'improvement' cannot be paired, .*: multi_attempt, esr"),
        ({"condition": "ablated"}, "ESR", "'ESR' cannot be paired"),
    ],
)
def test_arms_that_cannot_be_paired_are_refused(second, quantity, sentence):
    others = six_trials().assign(condition="ablated", latent=lambda frame: frame["latent"] + 10)
    trials = pd.concat([six_trials(), others, six_trials(), others])[lambda frame: ~frame.duplicated()]
    trials = pd.concat([trials, others.assign(condition="half"), six_trials().assign(condition="half")])
    with pytest.raises(ValueError, match=sentence):
        paired.rates(trials, (STEERED, second), quantity=quantity)


def test_a_paired_mean_is_the_mean_of_the_differences():
    steered = two_arms()[lambda frame: frame["condition"] == "steered"]
    ablated = steered.assign(condition="ablated", first_score=steered["first_score"] + 3.0)
    line = paired.means(pd.concat([steered, ablated]), (STEERED, ABLATED), column="first_score").iloc[0]
    assert line["difference"] == pytest.approx(3.0)
    assert line["mean_second"] - line["mean_first"] == pytest.approx(3.0)
    assert (line["ci_low"], line["ci_high"]) == pytest.approx((3.0, 3.0))
    assert line["n_pairs"] == len(steered)


def test_pairs_without_a_score_in_one_arm_are_left_out_of_the_mean():
    ablated = six_trials().assign(condition="ablated")
    ablated.loc[0, "first_score"] = NAN
    line = paired.means(pd.concat([six_trials(), ablated]), (STEERED, ABLATED), column="first_score").iloc[0]
    assert line["n_pairs"] == 4
    with pytest.raises(ValueError, match="no pair of .* has a value in both arms"):
        paired.means(
            pd.concat([six_trials(), ablated.assign(first_score=NAN)]), (STEERED, ABLATED), column="first_score"
        )
