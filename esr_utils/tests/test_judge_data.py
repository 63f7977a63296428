"""What ``data/judge`` ships is consistent, and its tables are what its files give."""

import re
from itertools import combinations, permutations

import numpy as np
import pandas as pd
import pytest
from safetensors.torch import load_file

from esr_utils import judge_fitting
from esr_utils.judge_examples import FITTED, FOLDER, N_OF_KIND, PARTS
from esr_utils.judge_readings import gold_attempts, load_readings, restart_marks
from esr_utils.judge_validation import reader_table, restart_table
from esr_utils.judges.restarts import GATE, Restart, find_restarts, load_gate

COUNTED = ("starts", "dangling", "scores")


@pytest.fixture(scope="module")
def readings() -> pd.DataFrame:
    return load_readings()


@pytest.fixture(scope="module")
def examples() -> pd.DataFrame:
    return pd.read_json(FOLDER / "examples.jsonl", lines=True, dtype={"id": str})


@pytest.fixture(scope="module")
def marks(readings) -> pd.DataFrame:
    texts = readings.drop_duplicates("id").set_index("id")["response"]
    return restart_marks(readings, dict(zip(texts.index, find_restarts(texts.tolist()), strict=True)))


def bank(name: str) -> list[str]:
    return (FOLDER / "phrases" / f"{name}.txt").read_text().splitlines()


def shipped(name: str) -> str:
    return (FOLDER / "validation" / f"{name}.csv").read_text()


def as_csv(table: pd.DataFrame) -> str:
    return table.to_csv(index=False, float_format="%.4g")


def words_of(text: str) -> str:
    return " ".join(re.findall(r"[a-z']+", text.lower().replace("’", "'")))


def test_every_example_has_an_id_of_its_own(examples):
    assert examples["id"].is_unique
    numbers = examples.groupby(["part", "kind"]).cumcount()
    assert (examples["part"] + "-" + examples["kind"] + numbers.map("-{:02d}".format) == examples["id"]).all()


def test_each_half_has_the_planned_number_of_each_kind(examples):
    n = examples.groupby(["part", "kind"]).size()
    assert n.to_dict() == {(part, kind): n for part in PARTS for kind, n in N_OF_KIND.items()}


@pytest.mark.parametrize("column", ["question", "latent", "response"])
def test_the_parts_share_no(examples, column):
    parts = [set(examples.loc[examples["part"] == part, column].dropna()) for part in PARTS]
    assert all(parts)
    assert all(not one & other for one, other in combinations(parts, 2))


@pytest.mark.parametrize("kind", ["restarts", "near_misses"])
@pytest.mark.parametrize(("part", "other"), list(permutations(PARTS, 2)))
def test_the_parts_share_no_inserted_sentence(examples, kind, part, other):
    assert {words_of(line) for line in bank(f"{kind}_{part}")} & {
        words_of(line) for line in bank(f"{kind}_{other}")
    } == set()
    texts = examples.loc[examples["part"] == other, "response"]
    assert [line for line in bank(f"{kind}_{part}") if texts.str.contains(line, regex=False).any()] == []


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize(("kind", "phrases"), [("restarted", "restarts"), ("near_miss", "near_misses")])
def test_inserted_sentences_are_those_of_their_half(examples, part, kind, phrases):
    texts = examples.loc[(examples["part"] == part) & (examples["kind"] == kind), "response"]
    lines = bank(f"{phrases}_{part}")
    assert [text for text in texts if not any(line in text for line in lines)] == []


def test_examples_are_steered_exactly_where_a_latent_is_named(examples):
    assert ((examples["strength"] > 0) == examples["latent"].notna()).all()
    assert (examples.groupby("kind")["strength"].max()[["unsteered", "near_miss"]] == 0).all()
    assert examples.loc[examples["kind"] == "steered", "strength"].min() > 0


def test_every_example_is_read_once_by_each_of_two_readers(examples, readings):
    assert sorted(zip(readings["id"], readings["reader"], strict=True)) == sorted(
        (id_, reader) for id_ in examples["id"] for reader in "ab"
    )


def test_every_mark_lies_in_its_response_after_some_text_and_none_twice(readings):
    for reading in readings.itertuples():
        marks = [*reading.starts, *reading.dangling]
        assert len(set(marks)) == len(marks), reading.id
        assert all(reading.response[:mark].strip() and reading.response[mark:].strip() for mark in marks), reading.id
        assert reading.starts == sorted(reading.starts), reading.id


def test_no_mark_stands_within_a_word(readings):
    within = [
        (reading.id, reading.reader, mark)
        for reading in readings.itertuples()
        for mark in [*reading.starts, *reading.dangling]
        if re.match(r"\w\w", reading.response[mark - 1 : mark + 1])
    ]
    assert within == []


def test_every_attempt_that_a_reader_saw_has_a_score_on_the_scale(readings):
    for reading in readings.itertuples():
        assert len(reading.scores) == len(reading.starts) + 1, reading.id
        assert all(0 <= score <= 100 for score in reading.scores), reading.id
        assert 0 <= reading.recovery <= 10, reading.id


def test_gold_attempts_are_those_that_both_readers_saw(readings):
    gold = gold_attempts(readings)
    n_starts = readings.assign(n=readings["starts"].map(len)).groupby("id")["n"].agg(["min", "max"])
    alike = n_starts[n_starts["min"] == n_starts["max"]]["min"]
    assert gold.groupby("id").size().to_dict() == (alike + 1).to_dict()
    assert gold["score"].between(0, 100).all()
    assert gold["text"].str.strip().eq(gold["text"]).all()


def test_the_gate_holds_numbers_and_nothing_that_could_run():
    files = sorted(path.name for path in GATE.iterdir())
    assert files == ["adapter_config.json", "adapter_model.safetensors", "head.safetensors"]
    tensors = load_file(GATE / "adapter_model.safetensors") | load_file(GATE / "head.safetensors")
    assert all(tensor.isfinite().all() for tensor in tensors.values())
    assert tensors["weight"].shape == (384,)
    assert tensors["bias"].shape == ()
    assert sum(tensor.numel() for tensor in tensors.values()) < 400_000


def test_the_threshold_is_the_one_that_makes_fewest_errors_on_the_fitted_parts(readings, monkeypatch):
    monkeypatch.setattr(judge_fitting, "THRESHOLDS", np.array([-3.0, 0.0, 3.0]))
    fitted = readings[readings["part"].isin(FITTED)]
    assert judge_fitting.best_threshold(load_gate().scores, fitted) == 0.0


def test_the_gate_was_not_fitted_to_what_its_threshold_is_set_on_nor_to_the_reported_part():
    assert {str(bank) for bank in judge_fitting.BANKS} & set(PARTS) == set()
    known = set(judge_fitting.learned().texts)
    assert [line for part in PARTS for line in bank(f"restarts_{part}") if line in known] == []


def test_the_table_of_readers_is_what_the_readings_give(readings):
    assert as_csv(reader_table(readings)) == shipped("readers")


def test_the_tables_of_restarts_are_what_the_gate_gives(marks):
    """Up to one mark a part: sums in bfloat16 differ between processors, and one mark lies at the threshold."""
    found, kept = restart_table(marks), pd.read_csv(FOLDER / "validation" / "restarts.csv")
    assert found[["part", "quantity"]].to_numpy().tolist() == kept[["part", "quantity"]].to_numpy().tolist()
    assert (found[["n_events", "n"]] - kept[["n_events", "n"]]).abs().max(axis=None) <= 1
    wrong = marks[marks["outcome"] != "hit"]
    told = pd.read_csv(FOLDER / "validation" / "restart_marks.csv")
    pairs = [set(map(tuple, frame[["id", "outcome"]].to_numpy())) for frame in (wrong, told)]
    parts = [name.split("-")[0] for name, _ in pairs[0] ^ pairs[1]]
    assert all(parts.count(part) <= 1 for part in parts)


def test_the_table_of_attempts_holds_the_gold_attempts(readings):
    gold = gold_attempts(readings)
    table = pd.read_csv(FOLDER / "validation" / "attempts.csv", keep_default_na=False)
    assert as_csv(table[gold.columns]) == as_csv(gold)
    told = table[["offline_embedding", "offline_likelihood"]]
    assert told.apply(lambda column: column.between(0, 100)).all(axis=None)


def test_tables_of_scores_and_recovery_count_what_was_read(readings):
    gold = gold_attempts(readings)
    scores = pd.read_csv(FOLDER / "validation" / "scores.csv")
    assert (
        scores.groupby("part")["n"].agg(["min", "max"]).to_numpy().T.tolist()
        == [gold.groupby("part").size().loc[sorted(PARTS)].tolist()] * 2
    )
    recovery = pd.read_csv(FOLDER / "validation" / "recovery.csv").set_index("part")
    mean = readings.groupby(["part", "id"])["recovery"].mean()
    for part in PARTS:
        assert recovery.loc[part, "n"] == len(mean[part])
        assert recovery.loc[part, "recovered (readers)"] == (mean[part] >= 7).sum()


def by_hand(a: dict[str, list[int]], b: dict[str, list[int]], *, part: str = "tune") -> pd.DataFrame:
    """Two readings of one response of 400 characters."""
    both = [{"starts": [], "dangling": [], **marks} for marks in (a, b)]
    return pd.DataFrame({"id": "x", "part": part, "response": "0123456789" * 40, **pd.DataFrame(both)})


def outcomes(readings: pd.DataFrame, *spans: tuple[int, int]) -> list[str]:
    found = {"x": [Restart(start=start, end=end) for start, end in spans]}
    return restart_marks(readings, found)["outcome"].tolist()


HAND_MADE = {
    "both and the gate": ({"starts": [100]}, {"starts": [100]}, [(100, 140)], ["hit"]),
    "nearly the same place": ({"starts": [100]}, {"starts": [179]}, [(70, 120)], ["hit"]),
    "a start and a dangling one": ({"starts": [100]}, {"dangling": [100]}, [(100, 140)], ["hit"]),
    "both, not the gate": ({"starts": [100]}, {"starts": [100]}, [], ["missed"]),
    "the gate elsewhere": ({"starts": [100]}, {"starts": [100]}, [(300, 340)], ["missed", "false"]),
    "the gate ends before": ({"starts": [100]}, {"starts": [100]}, [(40, 99)], ["missed", "false"]),
    "the gate begins a little later": ({"starts": [100]}, {"starts": [100]}, [(140, 180)], ["hit"]),
    "the gate begins too late": ({"starts": [100]}, {"starts": [100]}, [(141, 180)], ["missed", "false"]),
    "the gate alone": ({}, {}, [(100, 140)], ["false"]),
    "one reader and the gate": ({"starts": [100]}, {}, [(100, 140)], ["disputed"]),
    "one reader alone": ({}, {"dangling": [100]}, [], ["disputed, not marked"]),
    "readers at two places": ({"starts": [100]}, {"starts": [180]}, [(100, 140)], ["disputed", "disputed, not marked"]),
    "nobody": ({}, {}, [], []),
}


@pytest.mark.parametrize(("a", "b", "spans", "expected"), HAND_MADE.values(), ids=HAND_MADE)
def test_the_outcome_of_a_mark(a, b, spans, expected):
    assert outcomes(by_hand(a, b), *spans) == expected


def test_a_mark_shows_the_text_that_stands_there():
    marks = restart_marks(by_hand({"starts": [105]}, {"starts": [105]}), {"x": [Restart(start=302, end=306)]})
    assert marks["text"].str[:4].tolist() == ["5678", "2345"]
    assert marks["text"].str.len().tolist() == [160, 4]


def test_precision_and_recall_by_hand():
    outcome = ["hit"] * 6 + ["missed"] * 2 + ["false"] * 3 + ["disputed", "disputed, not marked"]
    marks = pd.DataFrame({"id": "x", "part": "tune", "outcome": outcome, "text": ""})
    table = restart_table(marks).set_index("quantity")
    assert table.loc["restart precision", ["value", "n_events", "n"]].tolist() == pytest.approx([6 / 9, 6, 9])
    assert table.loc["restart recall", ["value", "n_events", "n"]].tolist() == pytest.approx([6 / 8, 6, 8])
    z, p, n = 1.959964, 6 / 8, 8  # Wilson's interval, written out
    middle, reach = p + z**2 / (2 * n), z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    low_high = [(middle - reach) / (1 + z**2 / n), (middle + reach) / (1 + z**2 / n)]
    assert table.loc["restart recall", ["ci_low", "ci_high"]].tolist() == pytest.approx(low_high, abs=1e-5)


def test_a_half_without_restarts_has_no_precision():
    marks = pd.DataFrame({"id": ["x"], "part": "tune", "outcome": ["disputed"], "text": ""})
    table = restart_table(marks)
    assert table[["value", "ci_low", "ci_high"]].isna().all(axis=None)
    assert (table["n"] == 0).all()
