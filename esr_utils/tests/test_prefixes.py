"""Beginnings and segments: cut where they should be, alike in length, and lost for a reason that is told."""

import json

import pandas as pd
import pytest
from transformers import AutoTokenizer

from esr_utils import embedded, prefixes
from esr_utils.detection import committed_detection
from esr_utils.frames import score_measures
from esr_utils.judges.restarts import Restart, find_restarts
from esr_utils.prefixes import ARMS, continuation_span, find_prefixes, find_segments
from esr_utils.tests.conftest import byte_tokenizer
from esr_utils.tests.test_detection import RESTART

BYTES = byte_tokenizer()


def restarts_by_text(responses):
    found = [response.find(RESTART) for response in responses]
    return [[Restart(start=at, end=at + len(RESTART))] if at >= 0 else [] for at in found]


def responses(*texts: tuple[str, float, str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Steered responses by text and first score, each with its unsteered answer, as the two frames of a run."""
    trials, attempts = [], []
    for i, (text, score, answer) in enumerate(texts):
        at = text.find(RESTART)
        spans = [text[:at], text[at + len(RESTART) :]] if at >= 0 else [text]
        known = {"latent": i, "question": f"{i}?", "repeat": 0, "status": "judged"}
        measures = score_measures([score, 90.0][: len(spans)])
        trials.append(known | {"trial_id": f"s{i}", "level": 1.0, "strength": 4.0, "response": text} | measures)
        trials.append(
            known | {"trial_id": f"u{i}", "level": 0.0, "strength": 0.0, "response": answer} | score_measures([90.0])
        )
        attempts += [{"trial_id": f"s{i}", "index": j, "text": span} for j, span in enumerate(spans)]
    return pd.DataFrame(trials), pd.DataFrame(attempts)


@pytest.fixture
def by_text(monkeypatch):
    monkeypatch.setattr(prefixes, "find_restarts", restarts_by_text)


LONG = "Boil the water first, and wait until it sings."


def test_candidates_that_cannot_be_used_say_why(by_text):
    cases = {
        "fit": (f"Ships sail. {RESTART} Boil it.", 10.0, LONG),
        "no_room": (f"{'Ships sail far. ' * 4}{RESTART} Boil it.", 20.0, LONG),
        "short": (f"Ships sail far. {RESTART} Boil it.", 30.0, "Boil it."),
        "split": (f"Ships sail at seas. {RESTART} Boil it.", 40.0, "Boil the water 🍵🍵🍵 first."),
    }
    trials, attempts = responses(*cases.values())
    found = find_prefixes(BYTES, trials, attempts, n=9, max_tokens=30, seed=0)
    assert dict(zip(cases, found["status"], strict=True)) == {name: name for name in cases}


def test_an_unsteered_answer_that_restarts_early_cannot_be_used(by_text):
    long = (f"{'Bees fly. ' * 3}{RESTART} Boil it.", 50.0, f"{RESTART} Boil the water until it sings.")
    trials, attempts = responses(long)
    assert find_prefixes(BYTES, trials, attempts, n=9, max_tokens=30, seed=0)["status"].tolist() == ["restart"]


def test_an_answer_that_is_not_there_leaves_no_beginning(by_text):
    trials, attempts = responses((f"Ships sail. {RESTART} Boil it.", 10.0, LONG))
    found = find_prefixes(BYTES, trials[trials["level"] > 0], attempts, n=9, max_tokens=30, seed=0)
    assert found[["status", "unsteered_id"]].to_numpy().tolist() == [["short", ""]]


def test_uncorrected_responses_are_matched_on_the_first_score_and_cut_alike(by_text):
    trials, attempts = responses(
        (f"Ships sail. {RESTART} Boil it.", 10.0, LONG),
        (f"Ships sail far away. {RESTART} Boil it.", 60.0, LONG),
        (LONG, 62.0, LONG),
        (LONG, 35.0, LONG),
        (LONG, 9.0, LONG),
    )
    found = find_prefixes(BYTES, trials, attempts, n=9, max_tokens=30, seed=0)
    cut = found[found["source"] == "uncorrected"].set_index("trial_id")["n_tokens"].to_dict()
    assert cut == {"s4": len("Ships sail. "), "s2": len("Ships sail far away. ")}
    few = find_prefixes(BYTES, trials, attempts, n=1, max_tokens=30, seed=0)
    assert few.groupby("source")["status"].apply(sorted).to_dict() == {
        "restarted": ["fit", "spare"],
        "uncorrected": ["fit"],
    }


def test_with_no_restart_there_is_no_candidate(by_text):
    trials, attempts = responses((LONG, 10.0, LONG))
    assert find_prefixes(BYTES, trials, attempts, n=9, max_tokens=30, seed=0).empty
    assert find_segments(BYTES, trials, attempts, n=9, n_tokens=5, seed=0).empty


def test_segments_longer_than_a_response_are_short(by_text):
    trials, attempts = responses((f"Ships sail. {RESTART} Boil it.", 10.0, LONG))
    for n_tokens, status in ((12, "fit"), (13, "short")):
        found = find_segments(BYTES, trials, attempts, n=9, n_tokens=n_tokens, seed=0)
        assert found["status"].tolist() == [status] * len(ARMS)


def test_a_text_that_is_not_in_its_response_is_told(by_text):
    trials, attempts = responses((f"Ships sail. {RESTART} Boil it.", 10.0, LONG))
    wrong = attempts.assign(text=["Boats row.", " Boil it."])
    with pytest.raises(ValueError, match="the attempt 'Boats row.' is not in the response"):
        find_prefixes(BYTES, trials, wrong, n=9, max_tokens=30, seed=0)
    with pytest.raises(ValueError, match="'Boil it.'... does not begin with its prefill 'Boats'"):
        continuation_span("Boil it.", "Boats")


def test_the_span_of_a_continuation_leaves_blanks_out():
    assert continuation_span("Boil.  It sings. ", "Boil.") == (7, 16)
    start, end = continuation_span("Boil.  ", "Boil.")
    assert start >= end


def test_beginnings_of_the_committed_run_hold_no_restart():
    source = committed_detection("smollm2-135m-corrector", "quick")
    tokenizer = AutoTokenizer.from_pretrained(embedded.model_dir(), local_files_only=True)
    trials = source.trials()
    trials = trials[trials["level"].isin([0.0, 1.0])]
    found = find_prefixes(tokenizer, trials, source.attempts(), n=12, max_tokens=96, seed=0).query("status == 'fit'")
    assert found["source"].value_counts().to_dict() == {"restarted": 12, "uncorrected": 12}
    ids = [json.loads(ids) for kind in ("steered", "unsteered") for ids in found[kind]]
    assert not any(find_restarts([tokenizer.decode(part) for part in ids]))
    spans = source.attempts().query("index == 0").set_index("trial_id")["end"]
    for line in found[found["source"] == "restarted"].itertuples():
        assert len(tokenizer.decode(json.loads(line.steered))) <= spans[line.trial_id]
