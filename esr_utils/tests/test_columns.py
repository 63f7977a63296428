"""Frames from columns are those from records, whether read line by line or from the copy, and the copy follows."""

import re
from dataclasses import asdict, replace

import pandas as pd
import pytest

from esr_utils import bulk, columns
from esr_utils.columns import attempt_columns, trial_columns, verdict_columns
from esr_utils.config import results_dir
from esr_utils.frames import attempt_frame, judged_frame, made_frame, score_measures
from esr_utils.journal import JournalError
from esr_utils.judging import Verdict
from esr_utils.records import Run
from esr_utils.tests.large_runs import large_plan, write_run
from esr_utils.tests.test_frames import one_of_each
from esr_utils.tests.test_journal import DAMAGED
from esr_utils.tests.test_records import a_trial

OUTCOME = {"response": "", "n_tokens": 0, "stop_reason": ""}
PLANS = large_plan(10_000)[:40]


@pytest.fixture
def run(tmp_path, monkeypatch) -> Run:
    monkeypatch.setattr(columns, "LARGE_BYTES", 1000)
    return write_run(tmp_path / "run", PLANS)


def frame(run: Run, plans=PLANS) -> pd.DataFrame:
    return judged_frame(plans, trial_columns(run), verdict_columns(run, "offline"))


def judged_by_records(plans, trials, judgements) -> pd.DataFrame:
    """What ``judged_frame`` is to give, one record at a time."""
    lines = []
    for plan in plans:
        trial, judgement = trials.get(plan.id), judgements.get((plan.id, 0))
        status = judgement.verdict.status if judgement else "unjudged"
        status = "missing" if trial is None else status if trial.status == "done" else trial.status
        verdict = judgement.verdict if status == "judged" else Verdict(status="empty")
        outcome = {name: getattr(trial, name) for name in OUTCOME} if trial else OUTCOME
        line = {"trial_id": plan.id, **asdict(plan), "seed": plan.seed, **outcome, "status": status}
        scores = [attempt.score for attempt in verdict.attempts]
        lines.append(line | score_measures(scores, recovery=verdict.recovery))
    return pd.DataFrame(lines)


def attempts_by_records(trials, judgements) -> pd.DataFrame:
    """What ``attempt_frame`` is to give, one record at a time."""
    return pd.DataFrame(
        {"trial_id": trial_id, "index": i, **asdict(attempt)}
        | {"text": trials[trial_id].response[attempt.start : attempt.end]}
        for (trial_id, repeat), judgement in judgements.items()
        if repeat == 0 and trial_id in trials
        for i, attempt in enumerate(judgement.verdict.attempts)
    )


@pytest.mark.parametrize("name", ["esr_detection", "ablation"])
def test_committed_results_give_the_same_frames_either_way(name):
    run = Run(folder=results_dir("smollm2-135m-corrector", name, "standard"))
    trials, judgements = run.trials(), run.judgements("offline")
    plans = [trial.plan for trial in trials.values()][::-1]
    plans += [replace(plan, latent=99_999) for plan in plans[:3]]
    pd.testing.assert_frame_equal(frame(run, plans), judged_by_records(plans, trials, judgements), check_exact=True)
    attempts = attempt_frame(trial_columns(run), attempt_columns(run, "offline"))
    pd.testing.assert_frame_equal(attempts, attempts_by_records(trials, judgements), check_exact=True)


def test_made_trials_are_the_planned_ones_that_are_there(run):
    every = made_frame(trial_columns(run), verdict_columns(run, "offline"))
    plans = [*PLANS, replace(PLANS[0], latent=99_999)]
    pd.testing.assert_frame_equal(every, frame(run, plans).query("status != 'missing'"), check_exact=True)


def test_lost_trials_of_every_kind_are_the_same_either_way(tmp_path):
    plans, trials, judgements = one_of_each()
    run = Run(folder=tmp_path)
    run.add_trials(trials.values())
    run.add_judgements("offline", judgements.values())
    pd.testing.assert_frame_equal(frame(run, plans), judged_by_records(plans, trials, judgements), check_exact=True)


def test_an_empty_run_is_a_frame_of_missing_trials(tmp_path):
    run = Run(folder=tmp_path)
    pd.testing.assert_frame_equal(frame(run), judged_by_records(PLANS, {}, {}), check_exact=True)
    assert attempt_frame(trial_columns(run), attempt_columns(run, "offline")).empty


def test_a_large_folder_is_read_once_and_then_from_the_copy(run, monkeypatch):
    first = frame(run)
    monkeypatch.setattr(columns, "_trials", lambda run: pytest.fail("read again"))
    monkeypatch.setattr(columns, "_judgements", lambda run, judge: pytest.fail("read again"))
    pd.testing.assert_frame_equal(frame(run), first, check_exact=True)
    expected = judged_by_records(PLANS, run.trials(), run.judgements("offline"))
    pd.testing.assert_frame_equal(first, expected, check_exact=True)


def test_a_copy_is_made_anew_when_the_journal_grows(run):
    frame(run)
    run.add_trials([a_trial()])
    plans = [*PLANS, a_trial().plan]
    assert frame(run, plans)["status"].tolist() == ["judged"] * len(PLANS) + ["unjudged"]


def test_a_damaged_line_is_named_although_a_copy_is_there(run):
    frame(run)
    with (run.folder / "trials.jsonl").open("a") as file:
        file.write("{\n")
    with pytest.raises(JournalError, match=r"trials\.jsonl, line 41 is damaged"):
        frame(run)


def test_a_folder_that_takes_no_copy_is_read_all_the_same(run):
    (run.folder / "cache").write_text("in the way")
    assert set(frame(run)["status"]) == {"judged"}


def line_by_line(monkeypatch):
    monkeypatch.setattr(columns, "read_sound", lambda *_: None)


@pytest.mark.parametrize("block_bytes", [1, 700, 2**20], ids=["a byte", "a line or two", "all"])
def test_blocks_of_any_size_give_what_reading_line_by_line_gives(run, monkeypatch, block_bytes):
    monkeypatch.setattr(bulk, "BLOCK_BYTES", block_bytes)
    monkeypatch.setattr(columns, "LARGE_BYTES", 2**30)
    monkeypatch.setattr(Run, "trial_records", lambda _: pytest.fail("not read in blocks"))
    found = every_table(run)
    monkeypatch.undo()
    line_by_line(monkeypatch)
    for table, expected in zip(found, every_table(run), strict=True):
        pd.testing.assert_frame_equal(table, expected, check_exact=True)


def every_table(run: Run) -> list[pd.DataFrame]:
    return [trial_columns(run), verdict_columns(run, "offline"), attempt_columns(run, "offline")]


@pytest.mark.parametrize("line", DAMAGED.values(), ids=DAMAGED.keys())
def test_a_damaged_line_is_named_as_it_is_when_read_line_by_line(run, line):
    path = run.folder / "trials.jsonl"
    lines = path.read_bytes().split(b"\n")
    lines[2] = line
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(JournalError, match=r"trials\.jsonl, line 3 is damaged .*; delete that line and run again"):
        trial_columns(run)


def test_two_records_on_a_line_are_damage(run):
    path = run.folder / "trials.jsonl"
    path.write_bytes(path.read_bytes().replace(b"}\n{", b"}{", 1))
    with pytest.raises(JournalError, match=r"trials\.jsonl, line 1 is damaged"):
        trial_columns(run)


def test_a_half_written_last_line_is_left_out(run):
    path = run.folder / "trials.jsonl"
    path.write_bytes(path.read_bytes()[:-9])
    assert len(trial_columns(run)) == len(PLANS) - 1


def test_a_repeated_line_counts_once_and_another_text_of_the_same_trial_is_named(run):
    path = run.folder / "trials.jsonl"
    first = path.read_bytes().split(b"\n")[0] + b"\n"
    with path.open("ab") as file:
        file.write(first)
    assert trial_columns(run)["trial_id"].tolist() == [plan.id for plan in PLANS]
    with path.open("ab") as file:
        file.write(first.replace(b'"n_tokens": 128', b'"n_tokens": 127'))
    with pytest.raises(JournalError, match=r"trials\.jsonl, line 42: another line has id .* and differs"):
        trial_columns(run)


def test_texts_that_are_not_ascii_in_the_file_are_read(run):
    path = run.folder / "trials.jsonl"
    path.write_text(path.read_text().replace('"response": "', '"response": "☕ \\u2615 ', 1))
    assert trial_columns(run)["response"].tolist()[0].startswith("☕ ☕ ")


@pytest.mark.parametrize("change", [('"response": "', '"answer": "'), ('"n_tokens": 128', '"n_tokens": null')])
def test_a_record_without_a_value_is_told(run, change):
    path = run.folder / "trials.jsonl"
    path.write_text(path.read_text().replace(*change, 1))
    name = change[0].split('"')[1]
    told = f"records of run/trials.jsonl have no value for {name}; restore the file, or delete it"
    with pytest.raises(ValueError, match=told):
        trial_columns(run)


@pytest.mark.parametrize(("field", "most"), [("score", 100), ("recovery", 10)])
@pytest.mark.parametrize("number", ["-1", "500", "NaN"])
def test_numbers_that_are_no_scores_are_told(run, field, most, number):
    path = run.folder / "judgements.offline.jsonl"
    path.write_text(re.sub(rf'"{field}": [0-9.]+', f'"{field}": {number}', path.read_text(), count=1))
    with pytest.raises(ValueError, match=rf"1 numbers in run/judgements.offline.jsonl are not scores from 0 to {most}"):
        verdict_columns(run, "offline")
