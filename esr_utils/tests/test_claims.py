"""Verdicts follow from intervals, and what is ours is read from result files."""

import pandas as pd
import pytest

from esr_utils import claim_pairs, claim_tables, claims
from esr_utils.beside import NOT_YET
from esr_utils.inducing import Arm


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
    measured = table["file"].map(claim_tables.is_known)
    is_open = (table["verdict"] == NOT_YET) | table["verdict"].str.startswith(f"{claims.NOT_HERE}: ")
    assert (measured != is_open).all()
    assert not (table["verdict"] == NOT_YET).any()
    assert table.loc[measured, "ours"].str.contains(r"\d|no trial").all()
    assert table["published"].str.contains(r"\d").all()


def test_ours_is_read_from_the_result_file(monkeypatch):
    real = claim_tables.result

    def altered(run, name):
        table = real(run, name)
        if (run, name) == ("esr_detection", "rates"):
            table = table.assign(n_events=123, rate=0.345, ci_low=0.3, ci_high=0.4)
        return table

    monkeypatch.setattr(claim_tables, "result", altered)
    table = claims.answers().set_index("id")
    assert (table.loc["c01", "ours"] == "34.5% [30.0, 40.0], 123 of 360").all()
    assert table.loc["c02", "verdict"] == "differs: interval above 0.01"


def test_a_table_that_comes_later_is_looked_up(monkeypatch):
    real, real_measured = claim_tables.result, claim_tables.is_measured
    line = {"condition": "detectors", "n_pairs": 240, "difference": -0.05, "ci_low": -0.09, "ci_high": -0.01}
    lines = [line | {"name": "detectors", "quantity": of} for of in ("multi_attempt", "esr", "first_score")]
    lines += [line | {"name": "matched set", "condition": f"matched set {i}", "quantity": "esr"} for i in range(3)]
    lines += [{**lines[-1], "condition": "matched set 3", "quantity": "multi_attempt", "ci_high": 0.01}]
    later = {("ablation", "contrasts"): pd.DataFrame(lines)}
    monkeypatch.setattr(claim_tables, "result", lambda *of: later[of] if of in later else real(*of))
    monkeypatch.setattr(claim_tables, "is_measured", lambda *of: of in later or real_measured(*of))
    table = claims.answers().set_index("id")
    assert table.loc["c03", "ours"] == "-5.0 points [-9.0, -1.0], 240 pairs"
    assert table.loc["c03", "verdict"].startswith("same direction, interval excludes 0; the ablation")
    assert table.loc["c19", "ours"] == "-0.1 points [-0.1, -0.0], 240 pairs"
    assert table.loc["c19", "verdict"].startswith("differs: interval excludes 0; the ablation")
    assert table.loc["c20", "ours"].to_list() == [
        "-5.0 points on average, -5.0 to -5.0 in 1 sets",
        "-5.0 points on average, -5.0 to -5.0 in 3 sets",
    ]
    assert table.loc["c20", "verdict"].to_list() == [
        "not told apart: all 1 intervals hold 0",
        "differs: 3 of 3 intervals exclude 0",
    ]


def test_a_line_that_is_not_there_is_told(monkeypatch):
    real = claim_tables.result
    monkeypatch.setattr(claim_tables, "result", lambda run, name: real(run, name).iloc[:0])
    with pytest.raises(ValueError, match=r"esr_detection/rates.csv has 0 lines with subject smollm2-135m, condition"):
        claims.answers()


@pytest.mark.parametrize(
    ("rule", "line", "bound", "verdict"),
    [
        (claim_tables.beyond_chance, {"n_events": 0, "by_chance": 0}, 0, "differs: no latent is kept"),
        (claim_tables.beyond_chance, {"n_events": 9, "by_chance": 2}, 0, "same: more are kept than in any shuffle"),
        (claim_tables.beyond_chance, {"n_events": 2, "by_chance": 2}, 0, "not settled: as many are kept by chance"),
        (claim_tables.none_apart, {"n_events": 0, "n": 20}, 0, "not told apart: all 20 intervals hold 0"),
        (claim_tables.none_apart, {"n_events": 1, "n": 20}, 0, "not settled: 1 of 20 intervals exclude 0"),
        (claim_tables.none_apart, {"n_events": 2, "n": 20}, 0, "differs: 2 of 20 intervals exclude 0"),
        (claim_tables.about, {"value": 0.45}, 0.5, "same: within 10 points of 50%"),
        (claim_tables.about, {"value": 0.3}, 0.5, "differs: not within 10 points of 50%"),
    ],
)
def test_a_count_is_judged_by_its_rule(rule, line, bound, verdict):
    assert rule(pd.Series(line), float(bound)) == verdict


def test_latents_are_counted_from_what_was_committed():
    table = claim_tables.detectors().set_index("rule")
    assert table.loc["silent when matched, 80% active (paper)", "n_events"] == 0
    ours = table.loc["stable superiority (ours)"]
    assert ours["n"] == 4096
    assert ours["words"].startswith(f"{ours['n_events']:.0f} of 4,096 latents; ")
    filters = claim_tables.filters().set_index("version")
    assert filters.loc["paper", "value"] == pytest.approx(0.448, abs=0.001)
    assert (filters["n"] == 4096).all()


CASES = [
    ("esr_detection/levels", {"subject": "smollm2-135m-corrector", "quantity": "esr"}, "level", ("1", "1.5")),
    (
        "meta_prompting/by_kind",
        {"subject": "smollm2-135m", "level": "1", "quantity": "recovery"},
        "kind",
        ("none", "self_monitor"),
    ),
    (
        "fine_tuning/by_share",
        {"condition": "recalibrated", "training_seed": "", "quantity": "esr"},
        "share",
        ("0.2", "0.8"),
    ),
]


@pytest.mark.parametrize(("file", "place", "column", "arms"), CASES, ids=lambda value: str(value)[:20])
def test_pairs_are_of_the_trials_that_the_table_counts(file, place, column, arms):
    first, second = ({**place, column: arm} for arm in arms)
    line = claim_pairs.difference(file, first, second)
    rates = [claims.one_line(claim_tables.table(file), of, file) for of in (first, second)]
    values = [row["value" if "value" in row else "rate"] for row in rates]
    assert line[["rate_first", "rate_second"]].to_list() == pytest.approx(values, abs=1e-5)
    assert line["n_pairs"] == rates[0]["n"] == rates[1]["n"]
    assert line["difference"] == pytest.approx(values[1] - values[0], abs=1e-5)


def test_what_cannot_be_paired_is_left_to_the_intervals():
    place = {"subject": "smollm2-135m", "level": "1", "quantity": "improvement"}
    assert claim_pairs.difference("esr_detection/levels", place, place) is None
    assert claim_pairs.difference("latent_discovery/levels", {}, {}) is None
    table = claims.answers().set_index("id")
    assert table.loc["c15", "verdict"].str.contains("intervals overlap|too few").all()
    assert table.loc["c21", "verdict"] == "same direction, interval excludes 0"
    assert table.loc["c21", "ours"].endswith("192 pairs")


def test_arms_of_the_sweep_are_named_as_the_run_names_them():
    names = claim_pairs.arm_names()
    assert len(names) == 10
    assert all(Arm(share=share, seed=seed).name == name for name, (share, seed) in names.items())


def test_missing_trials_are_told(monkeypatch, tmp_path):
    monkeypatch.setattr(claim_pairs, "results_dir", lambda *of: tmp_path)
    with pytest.raises(FileNotFoundError, match=r"there are no trials in .*; restore trials.jsonl with git"):
        claim_pairs.difference("esr_detection/levels", CASES[0][1] | {"level": "1"}, CASES[0][1] | {"level": "1.5"})
    with pytest.raises(ValueError, match=r"run.json holds no settings that can be read; restore it with git"):
        claim_pairs.arm_names()


def test_judges_are_compared_on_what_became_better(monkeypatch):
    """Three responses with two attempts: alike, alike, apart; one with one attempt; one of another part."""
    lines = [("a", 0, 10, 20), ("a", 1, 50, 60), ("b", 0, 50, 60), ("b", 1, 20, 30), ("c", 0, 30, 40), ("c", 1, 60, 20)]
    table = pd.DataFrame([*lines, ("d", 0, 1, 1)], columns=["id", "index", "score", "offline_embedding"])
    other = pd.DataFrame({"id": "e", "index": [0, 1], "score": [1, 2], "offline_embedding": [2, 1], "part": "tune"})
    table = pd.concat([table.assign(part="report"), other])
    monkeypatch.setattr(claim_tables, "result", lambda run, name: table)
    line = claim_tables.improved().iloc[0]
    assert (line["n_events"], line["n"]) == (2, 3)


def test_a_verdict_on_an_ablation_tells_what_it_did_to_the_model():
    verdicts = claims.answers().set_index("id")["verdict"]
    assert verdicts.loc[["c03", "c18", "c19", "c32", "c35", "c40"]].str.endswith("unsteered answers to ×957").all()
    assert not verdicts.drop(["c03", "c18", "c19", "c32", "c35", "c40"]).str.contains("perplexity").any()


def test_a_claim_is_one_line_with_a_column_a_subject():
    table = claims.answers()
    shown = claims.by_claim(table)
    assert shown["claim"].tolist() == table.drop_duplicates("id")["claim"].tolist()
    assert list(shown.columns) == ["section", "claim", *claims.SUBJECTS.values(), claims.OTHERS]
    cells = shown.drop(columns=["section", "claim"]).to_numpy().ravel()
    assert sum(len(cell.split(claims.SEVERAL)) for cell in cells if cell) == len(table)
    (rate,) = table[(table["id"] == "c01") & (table["who"] == "ours, base")].itertuples()
    assert shown.loc[0, "ours, base"] == f"{rate.verdict} ({rate.ours})"
    (judged,) = shown.loc[shown[claims.OTHERS].str.startswith("restart precision: "), claims.OTHERS]
    assert "; and restart recall: " in judged
