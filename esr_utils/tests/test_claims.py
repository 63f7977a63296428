"""Verdicts follow from intervals, and what is ours is read from result files."""

import pandas as pd
import pytest

from esr_utils import claims
from esr_utils.beside import NOT_YET, is_measured


def rate(low, high, *, n_events=20, n=100):
    value = n_events / n if n else float("nan")
    return pd.Series({"value": value, "ci_low": low, "ci_high": high, "n_events": n_events, "n": n, "quantity": "esr"})


def difference(value, low, high):
    return pd.Series({"value": value, "ci_low": low, "ci_high": high, "n": 64, "n_pairs": 64, "quantity": "esr"})


@pytest.mark.parametrize(
    ("rule", "line", "bound", "verdict"),
    [
        (claims.happens, rate(0, 0.03, n_events=0), 0, "no event in 100"),
        (claims.happens, rate(0.001, 0.05, n_events=4), 0, "too few events: 4 in 100"),
        (claims.happens, rate(0.1, 0.3), 0, "same: it happens, interval excludes 0"),
        (claims.never, rate(0, 0.03, n_events=0), 0, "same: no event in 100"),
        (claims.never, rate(0.001, 0.05, n_events=1), 0, "differs: 1 in 100"),
        (claims.below, rate(0.1, 0.3), 0.4, "same: interval below 0.4"),
        (claims.below, rate(0.1, 0.3), 0.2, "not settled: interval holds 0.2"),
        (claims.below, rate(0.1, 0.3), 0.01, "differs: interval above 0.01"),
        (claims.above, rate(0.1, 0.3), 0.01, "same: interval above 0.01"),
        (claims.above, rate(0.1, 0.3), 0.4, "differs: interval below 0.4"),
        (claims.holds, rate(0.1, 0.3), 0.2, "same: interval holds 0.2"),
        (claims.holds, rate(0.1, 0.3), 0.5, "differs: interval below 0.5"),
        (claims.holds, rate(0.02, 1, n_events=1, n=1), 0.5, "too few trials: 1"),
        (claims.rises, difference(0.1, 0.02, 0.2), 0, "same direction, interval excludes 0"),
        (claims.rises, difference(0.1, -0.02, 0.2), 0, "not settled: same direction, interval holds 0"),
        (claims.rises, difference(-0.1, -0.2, -0.02), 0, "opposite direction, interval excludes 0"),
        (claims.falls, difference(-0.1, -0.2, -0.02), 0, "same direction, interval excludes 0"),
        (claims.falls, difference(0.0, -0.1, 0.1), 0, "no difference seen, interval holds 0"),
        (claims.unchanged, difference(0.0, -0.1, 0.1), 0, "not told apart: interval holds 0"),
        (claims.unchanged, difference(0.2, 0.1, 0.3), 0, "differs: interval excludes 0"),
    ],
)
def test_a_verdict_follows_from_the_interval(rule, line, bound, verdict):
    assert rule(line, float(bound)) == verdict


@pytest.mark.parametrize(
    ("rule", "line", "other", "verdict"),
    [
        ("rises", rate(0.4, 0.6, n_events=50), rate(0.1, 0.3), "same direction, intervals apart"),
        ("falls", rate(0.4, 0.6, n_events=50), rate(0.1, 0.3), "opposite direction, intervals apart"),
        ("rises", rate(0.2, 0.6, n_events=50), rate(0.1, 0.3), "not settled: same direction, intervals overlap"),
        ("same", rate(0.2, 0.6, n_events=50), rate(0.1, 0.3), "not told apart: intervals overlap"),
        ("same", rate(0.4, 0.6, n_events=50), rate(0.1, 0.3), "differs: intervals apart"),
        ("rises", rate(0.1, 0.9, n_events=1, n=2), rate(0.1, 0.3), "too few trials: 2 and 100"),
    ],
)
def test_two_rates_are_compared_by_their_intervals(rule, line, other, verdict):
    assert claims.compared(rule, line, other) == verdict


def test_an_unknown_rule_for_two_rates_is_refused():
    with pytest.raises(ValueError, match="no rule 'grows'"):
        claims.compared("grows", rate(0.4, 0.6), rate(0.1, 0.3))


def test_values_are_told_with_interval_and_counts():
    assert claims.in_words(rate(0.1, 0.3)) == "20.0% [10.0, 30.0], 20 of 100"
    assert claims.in_words(difference(0.1, 0.02, 0.2)) == "10.0 points [2.0, 20.0], 64 pairs"
    assert claims.in_words(rate(0, 1, n_events=0, n=0)) == "no trial to count"
    score = {**rate(20, 40, n_events=100), "quantity": "first_score", "value": 30.0}
    assert claims.in_words(pd.Series(score)) == "30.0 [20.0, 40.0], n = 100"


def test_every_claim_is_answered_or_said_to_be_open():
    table = claims.answers()
    assert set(table["id"]) == set(claims.published.claims().index)
    measured = table["file"].map(lambda file: bool(file) and is_measured(*file.split("/")))
    assert (measured == (table["verdict"] != NOT_YET)).all()
    assert table.loc[measured, "ours"].str.contains(r"\d|no trial").all()
    assert table["published"].str.contains(r"\d").all()


def test_ours_is_read_from_the_result_file(monkeypatch):
    real = claims.result

    def altered(run, name):
        table = real(run, name)
        if (run, name) == ("esr_detection", "rates"):
            table = table.assign(n_events=123, rate=0.345, ci_low=0.3, ci_high=0.4)
        return table

    monkeypatch.setattr(claims, "result", altered)
    table = claims.answers().set_index("id")
    assert (table.loc["c01", "ours"] == "34.5% [30.0, 40.0], 123 of 360").all()
    assert table.loc["c02", "verdict"] == "differs: interval above 0.01"


def test_a_table_that_comes_later_is_looked_up(monkeypatch):
    real, real_measured = claims.result, claims.is_measured
    line = {"condition": "detectors", "n_pairs": 240, "difference": -0.05, "ci_low": -0.09, "ci_high": -0.01}
    lines = [line | {"quantity": quantity} for quantity in ("multi_attempt", "esr", "first_score")]
    later = {("ablation", "contrasts"): pd.DataFrame(lines)}
    monkeypatch.setattr(claims, "result", lambda *of: later[of] if of in later else real(*of))
    monkeypatch.setattr(claims, "is_measured", lambda *of: of in later or real_measured(*of))
    table = claims.answers().set_index("id")
    assert table.loc["c03", "ours"] == "-5.0 points [-9.0, -1.0], 240 pairs"
    assert table.loc["c03", "verdict"] == "same direction, interval excludes 0"
    assert table.loc["c19", ["ours", "verdict"]].to_list() == [
        "-0.1 points [-0.1, -0.0], 240 pairs",
        "differs: interval excludes 0",
    ]


def test_a_line_that_is_not_there_is_told(monkeypatch):
    real = claims.result
    monkeypatch.setattr(claims, "result", lambda run, name: real(run, name).iloc[:0])
    with pytest.raises(ValueError, match=r"esr_detection/rates.csv has 0 lines with subject smollm2-135m, condition"):
        claims.answers()
