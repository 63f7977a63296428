"""Frames tell of every planned trial what became of it, and of every attempt what it says."""

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from esr_utils.columns import attempt_columns, trial_columns, verdict_columns
from esr_utils.frames import attempt_frame, judged_frame, score_measures
from esr_utils.judging import Attempt, Verdict
from esr_utils.metrics import LOST, flow
from esr_utils.records import Judgement, PlannedTrial, Run, Trial

PLAN = PlannedTrial(subject="s", condition="steered", question="Why?", latent=3, level=1.0, strength=65.0)
RESPONSE = "Cats purr. ☕ Wait, no. Bees hum."
SCORES = ("first_score", "last_score", "gain", "recovery")


def verdict(*scores: float, recovery: float | None = None) -> Verdict:
    """A verdict with an attempt of five characters for each score."""
    attempts = tuple(Attempt(start=6 * i, end=6 * i + 5, score=score) for i, score in enumerate(scores))
    return Verdict(status="judged", attempts=attempts, recovery=recovery)


def trial(plan: PlannedTrial, *, stop_reason: str = "stop", response: str = RESPONSE) -> Trial:
    return Trial(plan=plan, response=response, n_tokens=9, stop_reason=stop_reason)


def judged(*verdicts: Verdict, repeat: int = 0) -> dict[tuple[str, int], Judgement]:
    """Judgements of the first trials of ``PLANS``."""
    made = [Judgement(trial_id=PLANS[i].id, verdict=v, repeat=repeat) for i, v in enumerate(verdicts)]
    return {(judgement.trial_id, repeat): judgement for judgement in made}


PLANS = [replace(PLAN, repeat=i) for i in range(9)]
FATES = ("judged", "judged", "empty", "no_attempt", "unparsed", "failed", "unjudged", "overflow", "missing")


def one_of_each() -> tuple[list, dict, dict]:
    """Plans, trials and judgements in which every fate of ``FATES`` occurs."""
    trials = {plan.id: trial(plan) for plan in PLANS[:7]}
    trials[PLANS[7].id] = trial(PLANS[7], stop_reason="overflow", response="")
    lost = [Verdict(status=status) for status in FATES[2:6]]
    return PLANS, trials, judged(verdict(10.0, 90.0), verdict(50.0), *lost)


def judged_of(folder: Path, plans, trials, judgements) -> pd.DataFrame:
    """The judged frame of records, by way of a run folder."""
    run = written(folder, trials, judgements)
    return judged_frame(plans, trial_columns(run), verdict_columns(run, "offline"))


def attempts_of(folder: Path, trials, judgements) -> pd.DataFrame:
    run = written(folder, trials, judgements)
    return attempt_frame(trial_columns(run), attempt_columns(run, "offline"))


def written(folder: Path, trials, judgements) -> Run:
    run = Run(folder=folder)
    run.add_trials(trials.values())
    run.add_judgements("offline", judgements.values())
    return run


def test_every_planned_trial_has_a_line_that_says_what_became_of_it(tmp_path):
    frame = judged_of(tmp_path, *one_of_each())
    assert frame["status"].tolist() == list(FATES)
    assert frame["trial_id"].tolist() == [plan.id for plan in PLANS]
    assert set(FATES) - {"judged"} == set(LOST)


def test_counts_of_what_became_of_trials_add_up(tmp_path):
    (line,) = flow(judged_of(tmp_path, *one_of_each()), ["level"]).to_dict("records")
    assert line["planned"] == sum(line[status] for status in {*LOST, "judged"}) == len(PLANS)
    assert {status: line[status] for status in LOST} == dict.fromkeys(LOST, 1)
    assert (line["generated"], line["judged"]) == (8, 2)


def test_lost_trials_have_no_scores_and_count_as_nothing(tmp_path):
    frame = judged_of(tmp_path, *one_of_each())
    lost = frame[frame["status"] != "judged"]
    assert lost[list(SCORES)].isna().all(axis=None)
    assert lost["n_attempts"].tolist() == [0] * 7
    assert not lost[["is_multi", "is_improved"]].any(axis=None)


def test_a_line_repeats_its_plan_and_its_response(tmp_path):
    frame = judged_of(tmp_path, *one_of_each())
    for i, line in enumerate(frame.to_dict("records")):
        assert {name: line[name] for name in asdict(PLAN)} == asdict(PLANS[i])
        assert line["seed"] == PLANS[i].seed
    assert frame["response"].tolist() == [RESPONSE] * 7 + ["", ""]
    assert frame["n_tokens"].tolist() == [9] * 8 + [0]
    assert frame["stop_reason"].tolist() == ["stop"] * 7 + ["overflow", ""]


def test_an_overflow_stays_one_whatever_a_judge_says_of_it(tmp_path):
    plan = PLANS[0]
    frame = judged_of(tmp_path, [plan], {plan.id: trial(plan, stop_reason="overflow")}, judged(verdict(10.0, 90.0)))
    assert frame["status"].tolist() == ["overflow"]
    assert frame["n_attempts"].tolist() == [0]


def test_trials_and_judgements_outside_the_plan_are_not_counted(tmp_path):
    plans, trials, judgements = one_of_each()
    every = judged_of(tmp_path, plans, trials, judgements)
    assert judged_of(tmp_path, plans[:2], trials, judgements).equals(every.iloc[:2])


def test_a_second_grading_counts_neither_in_place_of_the_first_nor_beside_it(tmp_path):
    trials = {plan.id: trial(plan) for plan in PLANS[:2]}
    frame = judged_of(
        tmp_path, PLANS[:2], trials, judged(verdict(10.0)) | judged(verdict(70.0), verdict(80.0), repeat=1)
    )
    assert frame["status"].tolist() == ["judged", "unjudged"]
    assert frame["first_score"].tolist()[0] == 10.0


MEASURED = {
    "one attempt": (verdict(40.0), (1, 40.0, 40.0, np.nan, False, False)),
    "better": (verdict(20.0, 80.0), (2, 20.0, 80.0, 60.0, True, True)),
    "better by a hair": (verdict(50.0, 50.1), (2, 50.0, 50.1, pytest.approx(0.1), True, True)),
    "as good": (verdict(50.0, 50.0), (2, 50.0, 50.0, 0.0, True, False)),
    "worse": (verdict(80.0, 20.0), (2, 80.0, 20.0, -60.0, True, False)),
    "better, then worse": (verdict(30.0, 95.0, 25.0), (3, 30.0, 25.0, -5.0, True, False)),
    "worse, then better": (verdict(30.0, 0.0, 45.0), (3, 30.0, 45.0, 15.0, True, True)),
    "no verdict": (None, (0, np.nan, np.nan, np.nan, False, False)),
    "no attempt": (Verdict(status="no_attempt"), (0, np.nan, np.nan, np.nan, False, False)),
}


def measured(folder: Path, given: Verdict | None) -> dict:
    """The line of a trial with this verdict."""
    plan = PLANS[0]
    frame = judged_of(folder, [plan], {plan.id: trial(plan)}, judged(given) if given else {})
    return frame.to_dict("records")[0]


@pytest.mark.parametrize(("given", "expected"), MEASURED.values(), ids=MEASURED.keys())
def test_measures_of_hand_made_verdicts(tmp_path, given, expected):
    names = ("n_attempts", "first_score", "last_score", "gain", "is_multi", "is_improved")
    scores = [attempt.score for attempt in given.attempts] if given else []
    for found in (measured(tmp_path, given), score_measures(scores)):
        for name, value in zip(names, expected, strict=True):
            assert found[name] == value or np.isnan([found[name], value]).all(), name


@pytest.mark.parametrize(("given", "expected"), [(0.0, 0.0), (7.5, 7.5)])
def test_recovery_is_what_the_judge_says(tmp_path, given, expected):
    assert measured(tmp_path, verdict(50.0, recovery=given))["recovery"] == expected


def test_recovery_that_a_judge_does_not_rate_is_unknown_and_not_zero(tmp_path):
    assert np.isnan(measured(tmp_path, verdict(50.0))["recovery"])


def test_attempts_say_where_they_stand_and_what_they_hold(tmp_path):
    second = RESPONSE.index("Bees")
    attempts = (Attempt(start=0, end=12, score=5.0), Attempt(start=second, end=len(RESPONSE), score=75.0))
    trials = {plan.id: trial(plan) for plan in PLANS[:2]}
    frame = attempts_of(tmp_path, trials, judged(Verdict(status="judged", attempts=attempts), Verdict(status="empty")))
    assert frame.to_dict("list") == {
        "trial_id": [PLANS[0].id] * 2,
        "index": [0, 1],
        "start": [0, second],
        "end": [12, len(RESPONSE)],
        "score": [5.0, 75.0],
        "text": ["Cats purr. ☕", "Bees hum."],
    }


def test_attempts_of_other_gradings_and_of_unknown_trials_are_left_out(tmp_path):
    trials = {PLANS[1].id: trial(PLANS[1])}
    frame = attempts_of(
        tmp_path, trials, judged(verdict(10.0), verdict(20.0)) | judged(verdict(1.0), verdict(2.0), repeat=1)
    )
    assert frame["score"].tolist() == [20.0]


def test_no_attempts_make_a_frame_with_its_columns(tmp_path):
    assert attempts_of(tmp_path, {}, {}).columns.tolist() == ["trial_id", "index", "start", "end", "score", "text"]
