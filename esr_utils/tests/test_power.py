"""Power against the paper's own figures, intervals against simulated runs whose true rate is known."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest

from esr_utils.metrics import check_trials, rates
from esr_utils.power import (
    CHOSEN,
    PERCENTILE,
    WILSON,
    Comparison,
    Population,
    coverage,
    gee_check,
    minimal_detectable,
    power_table,
    power_to_see,
    simulate_trials,
    trials_needed,
    zero_event_bound,
)

HELD_OUT = Comparison(n_trials=239, base_rate=0.096)  # paper, version 2, held-out prompts: 23 of 239


def test_power_of_the_papers_held_out_test_is_16_percent():
    assert power_to_see(HELD_OUT, 0.072) == pytest.approx(0.16, abs=0.005)


def test_the_papers_held_out_test_needs_2100_trials_an_arm():
    n = trials_needed(HELD_OUT, 0.072)
    assert n == pytest.approx(2100, rel=0.01)
    enough, too_few = (Comparison(n_trials=size, base_rate=0.096) for size in (n, n - 1))
    assert power_to_see(too_few, 0.072) < 0.8 <= power_to_see(enough, 0.072)


def test_power_agrees_with_simulated_tests():
    rng, n = np.random.default_rng(0), 400
    first, second = rng.binomial(n, 0.2, 4000) / n, rng.binomial(n, 0.28, 4000) / n
    pooled = (first + second) / 2
    share = np.mean(np.abs(second - first) > 1.96 * np.sqrt(2 * pooled * (1 - pooled) / n))
    assert power_to_see(Comparison(n_trials=n, base_rate=0.2), 0.28) == pytest.approx(share, abs=0.02)


def test_power_of_pairs_agrees_with_simulated_pairs():
    rng, n = np.random.default_rng(0), 300
    both = 0.5 * np.sqrt(0.2 * 0.8 * 0.28 * 0.72) + 0.2 * 0.28  # share of pairs with two events at correlation 0.5
    counts = rng.multinomial(n, [0.2 - both, 0.28 - both, 1 - 0.48 + 2 * both], 4000)
    lost, won = counts[:, 0], counts[:, 1]
    share = np.mean(np.abs(won - lost) > 1.96 * np.sqrt(won + lost))  # McNemar's test
    comparison = Comparison(n_trials=n, base_rate=0.2, pair_correlation=0.5)
    assert power_to_see(comparison, 0.28) == pytest.approx(share, abs=0.02)


def test_power_at_the_base_rate_is_alpha():
    assert power_to_see(HELD_OUT, HELD_OUT.base_rate) == pytest.approx(0.05)


@pytest.mark.parametrize("direction", ["fall", "rise"])
def test_the_minimal_difference_has_the_wanted_power(direction):
    comparison = Comparison(n_trials=500, base_rate=0.1, design_effect=1.5, power=0.9)
    difference = minimal_detectable(comparison, direction)
    assert (difference < 0) == (direction == "fall")
    assert power_to_see(comparison, 0.1 + difference) == pytest.approx(0.9)


def test_a_fall_that_even_a_rate_of_zero_would_not_show_is_nan():
    comparison = Comparison(n_trials=100, base_rate=0.02)
    assert np.isnan(minimal_detectable(comparison, "fall"))
    assert power_to_see(comparison, 0.0) < 0.8


def test_design_effect_divides_the_trials():
    clustered = Comparison(n_trials=600, base_rate=0.1, design_effect=3.0)
    independent = Comparison(n_trials=200, base_rate=0.1)
    assert power_to_see(clustered, 0.2) == pytest.approx(power_to_see(independent, 0.2))
    assert trials_needed(clustered, 0.2) == pytest.approx(3 * trials_needed(independent, 0.2), abs=3)


def test_pairing_finds_smaller_differences():
    paired = Comparison(n_trials=500, base_rate=0.1, pair_correlation=0.6)
    unpaired = Comparison(n_trials=500, base_rate=0.1)
    assert 0 < minimal_detectable(paired, "rise") < minimal_detectable(unpaired, "rise")


def test_no_number_of_trials_shows_no_difference():
    with pytest.raises(ValueError, match="rate 0.096 is the base rate: no number of trials shows"):
        trials_needed(HELD_OUT, 0.096)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"n_trials": 0}, "n_trials 0 and design_effect 1.0 must be positive"),
        ({"base_rate": 0.0}, r"base_rate 0.0 is outside 0 to 1 \(both exclusive\)"),
        ({"pair_correlation": 1.0}, "pair_correlation 1.0 is outside 0"),
    ],
)
def test_comparisons_that_cannot_be_are_refused(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        Comparison(**{"n_trials": 10, "base_rate": 0.1, **change})


def test_zero_events_follow_the_rule_of_three():
    assert zero_event_bound(300) == pytest.approx(3 / 300, rel=0.01)
    assert (1 - zero_event_bound(40)) ** 40 == pytest.approx(0.05)
    assert zero_event_bound(300, design_effect=2.0) == pytest.approx(zero_event_bound(150))


def test_power_table_has_a_line_for_every_size_and_rate():
    table = power_table([200, 800], [0.05, 0.1], design_effect=2.0)
    assert table["n_expected"].tolist() == [10, 20, 40, 80]
    assert (table["detectable_fall"].dropna() < 0).all()
    rise = table.pivot(index="n_trials", columns="base_rate", values="detectable_rise")
    assert (rise.loc[800] < rise.loc[200]).all()
    assert table["zero_event_bound"].tolist() == [zero_event_bound(n, design_effect=2.0) for n in (200, 200, 800, 800)]


def test_simulated_trials_are_trials_of_the_given_rate():
    population = Population(rate=0.2, n_latents=4000, questions_per_latent=5, question_sd=0.0)
    trials = simulate_trials(np.random.default_rng(0), population)
    check_trials(trials)
    assert not trials.duplicated(["latent", "question"]).any()
    assert trials["is_multi"].mean() == pytest.approx(0.2, abs=0.01)
    assert trials.loc[trials["is_multi"], "is_improved"].mean() == pytest.approx(0.5, abs=0.03)
    by_latent = trials.groupby("latent")["is_multi"].mean()
    assert by_latent.var() > 1.3 * 0.2 * 0.8 / 5  # more than chance alone: latents differ


def test_questions_differ_in_simulated_trials():
    alike, different = (
        simulate_trials(np.random.default_rng(0), Population(n_latents=2000, rate=0.3, question_sd=sd))
        for sd in (0.0, 1.0)
    )
    spread = [trials.groupby("question")["is_multi"].mean().std() for trials in (alike, different)]
    assert spread[0] < 0.05 < 0.12 < spread[1]


def test_same_generator_same_trials():
    first, again = (simulate_trials(np.random.default_rng(5), Population()) for _ in range(2))
    assert first.equals(again)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [({"rate": 1.0}, "rate 1.0 is outside 0 to 1"), ({"questions_per_latent": 41}, "41 questions a latent .* of 40")],
)
def test_populations_that_cannot_be_are_refused(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        Population(**change)


def test_intervals_of_rates_cover_93_to_97_percent_and_wilsons_do_not():
    n_sims = 300
    table = coverage([Population(rate=0.05), Population(rate=0.3)], n_sims=n_sims, seed=1, n_draws=2000)
    held = table.assign(held=(table["coverage"] * n_sims).round().astype(int)).set_index(["method", "rate"])["held"]
    for n_held in held[CHOSEN]:
        assert binomtest(n_held, n_sims, 0.93, alternative="less").pvalue > 0.05
        assert binomtest(n_held, n_sims, 0.97, alternative="greater").pvalue > 0.05
    assert binomtest(held[WILSON, 0.3], n_sims, 0.93, alternative="less").pvalue < 0.001
    assert binomtest(held[PERCENTILE, 0.3], n_sims, 0.97, alternative="greater").pvalue < 0.05


def test_misses_and_coverage_add_up_to_one():
    table = coverage([Population(rate=0.2, n_latents=10)], n_sims=20, n_draws=200)
    assert (table["coverage"] + table["above"] + table["below"]).tolist() == pytest.approx([1.0] * len(table))


def test_gee_agrees_with_the_rates():
    trials = simulate_trials(np.random.default_rng(2), Population(rate=0.3, question_sd=0.0))
    gee = gee_check(trials, ["condition"]).iloc[0]
    plain = rates(trials, ["condition"]).set_index("quantity").loc["multi_attempt"]
    assert (gee["n_events"], gee["n"], gee["note"]) == (plain["n_events"], plain["n"], "")
    assert gee["rate"] == pytest.approx(plain["rate"], abs=0.01)
    assert gee["ci_high"] - gee["ci_low"] == pytest.approx(plain["ci_high"] - plain["ci_low"], rel=0.2)
    assert gee["ci_high"] - gee["ci_low"] > 1.1 * (plain["naive_high"] - plain["naive_low"])
    assert gee["correlation"] > 0.05


@pytest.mark.parametrize(
    ("change", "note"),
    [
        ({"n_attempts": 1, "is_multi": False, "is_improved": False}, "not fitted: no events"),
        ({"n_attempts": 2, "is_multi": True, "gain": 1.0}, "not fitted: every trial is an event"),
        ({"latent": 1}, "not fitted: one latent"),
        ({"status": "failed", "n_attempts": 0, "is_multi": False, "is_improved": False}, "not fitted: no trials"),
    ],
)
def test_gee_says_why_it_was_not_fitted(change, note):
    trials = simulate_trials(np.random.default_rng(2), Population(rate=0.3)).assign(**change)
    line = gee_check(trials, ["condition"]).iloc[0]
    assert line["note"] == note
    assert np.isnan(line[["rate", "ci_low", "ci_high", "correlation"]].astype(float)).all()


def test_gee_fits_each_group_on_its_own():
    arms = [simulate_trials(np.random.default_rng(i), Population(rate=0.1 + 0.2 * i)) for i in range(2)]
    trials = pd.concat([arms[0], arms[1].assign(condition="ablated")])
    table = gee_check(trials, ["condition"], quantity="esr").set_index("condition")
    assert table.loc["ablated", "rate"] == gee_check(arms[1], ["condition"], quantity="esr")["rate"].item()
    assert table.loc["steered", "rate"] < table.loc["ablated", "rate"]
