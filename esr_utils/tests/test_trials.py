"""Trials are planned alike at every level, made once, judged once, and go on where they stopped."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from zlib import crc32

import pandas as pd
import pytest

from esr_utils import trials
from esr_utils.columns import trial_columns, verdict_columns
from esr_utils.engines.base import Response
from esr_utils.engines.hf import HFEngine
from esr_utils.frames import judged_frame
from esr_utils.judging import Attempt, Case, Verdict
from esr_utils.metrics import LOST, flow
from esr_utils.records import PlannedTrial, Run, Trial
from esr_utils.steering import Row, Sampling
from esr_utils.trials import judge_trials, make_row, plan_trials, run_trials

QUESTIONS = [f"Question {i}?" for i in range(8)]
STRENGTHS = {5: 60.0, 9: 80.123}
LEVELS = (0.0, 0.5, 1.0)
N_ARMS = 6  # two latents at three levels, which are judged one by one
SAMPLING = Sampling(max_new_tokens=7)
KEPT = ["judged", "empty", "no_attempt", "unparsed"]


def a_plan(strengths: dict[int, float] = STRENGTHS, **changes: object) -> list[PlannedTrial]:
    return plan_trials("s", strengths, **{"questions": QUESTIONS, "n_questions": 3, "levels": LEVELS, **changes})


class Answering(HFEngine):
    """Stands in for an engine: a response tells its row. Every other row ends first.

    ``n_until_kill``: as many rows end, and then the process is interrupted. ``overflowing``: seeds that overflow.
    """

    def __init__(self, *, n_until_kill: int | None = None, overflowing: Sequence[int] = ()):
        self.pair = SimpleNamespace(name="none")
        self.n_until_kill, self.overflowing = n_until_kill, overflowing
        self.asked: list[Row] = []

    def generate(self, rows, *, on_response, **_):
        self.asked += rows
        for n, i in enumerate(sorted(range(len(rows)), key=lambda i: -(i % 2))):
            if n == self.n_until_kill:
                raise KeyboardInterrupt
            reason = "overflow" if rows[i].seed in self.overflowing else "stop"
            on_response(
                i, Response(prompt_ids=(), token_ids=(1, 2), n_prefill=0, text=told(rows[i]), stop_reason=reason)
            )
        return []


def told(row: Row) -> str:
    return f"{row.messages} {[(s.latent, s.strength) for s in row.steer]} {row.seed} {row.sampling}"


class Company:
    """Judges a response by itself and by the company it is judged in, as matrix products do in their last digits.

    ``statuses``: by response, where not ``judged``. ``n_until_kill``: as many batches are judged.
    """

    def __init__(self, name: str = "company", *, statuses: dict[str, str] | None = None, n_until_kill: int = 1000):
        self.name, self.statuses, self.n_until_kill = name, statuses or {}, n_until_kill
        self.batches: list[list[Case]] = []

    def judge(self, cases: Sequence[Case]) -> list[Verdict]:
        if len(self.batches) == self.n_until_kill:
            raise KeyboardInterrupt
        self.batches.append(list(cases))
        company = crc32("".join(case.response for case in cases).encode())
        return [self._verdict(case, company) for case in cases]

    def _verdict(self, case: Case, company: int) -> Verdict:
        status = self.statuses.get(case.response, "judged")
        if status != "judged":
            return Verdict(status=status, note=f"this is {status}")
        score = crc32(case.response.encode(), company) % 1001 / 10
        return Verdict(status="judged", attempts=(Attempt(start=0, end=1, score=score),))


def made(folder: Path, plans: Sequence[PlannedTrial], *, overflowing: Sequence[int] = ()) -> Run:
    """A run in which all trials of the plan are made."""
    run = Run(folder=folder)
    run_trials(Answering(overflowing=overflowing), run, plans, SAMPLING)
    return run


def frame_of(run: Run, plans: Sequence[PlannedTrial]) -> pd.DataFrame:
    return judged_frame(plans, trial_columns(run), verdict_columns(run, "company"))


def responses(kept: dict[str, Trial]) -> dict[str, str]:
    return {trial_id: trial.response for trial_id, trial in kept.items()}


def test_every_level_has_the_same_latents_questions_and_seeds():
    plans = a_plan(n_repeats=2)
    arms = [[(p.latent, p.question, p.repeat, p.seed) for p in plans if p.level == level] for level in LEVELS]
    assert arms[0] == arms[1] == arms[2]
    assert len(set(arms[0])) == len(arms[0]) == len(STRENGTHS) * 3 * 2
    assert len({plan.id for plan in plans}) == len(plans) == 3 * len(arms[0])


def test_each_latent_gets_its_own_questions_without_repetition():
    asked = {latent: {p.question for p in a_plan() if p.latent == latent} for latent in STRENGTHS}
    assert {len(questions) for questions in asked.values()} == {3}
    assert asked[5] != asked[9]


def test_strength_is_the_level_times_the_calibrated_strength():
    assert {(p.latent, p.level): p.strength for p in a_plan()} == {
        (5, 0.0): 0.0,
        (5, 0.5): 30.0,
        (5, 1.0): 60.0,
        (9, 0.0): 0.0,
        (9, 0.5): 40.0615,
        (9, 1.0): 80.123,
    }


def test_only_level_zero_is_a_baseline():
    assert {(p.level, p.condition) for p in a_plan()} == {(0.0, "baseline"), (0.5, "steered"), (1.0, "steered")}


@pytest.mark.parametrize(
    "more",
    [{"levels": (*LEVELS, 1.5)}, {"n_repeats": 2}, {"strengths": {7: 50.0, **STRENGTHS}}],
    ids=["a level", "a repeat", "a latent"],
)
def test_a_larger_plan_holds_the_smaller_one(more):
    assert {plan.id for plan in a_plan()} < {plan.id for plan in a_plan(**more)}


def test_another_seed_draws_other_questions_and_other_responses():
    first, second = a_plan(), a_plan(seed=1)
    assert [plan.question for plan in first] != [plan.question for plan in second]
    assert not {plan.seed for plan in first} & {plan.seed for plan in second}


def test_more_questions_than_there_are_is_an_error():
    with pytest.raises(ValueError, match="9 questions a latent asked for, and there are 8; ask for fewer"):
        a_plan(n_questions=9)


def test_a_row_asks_for_what_its_plan_says():
    steered = next(plan for plan in a_plan() if plan.level == 1.0)
    row = make_row(steered, SAMPLING)
    assert (row.messages, row.seed, row.sampling) == (steered.question, steered.seed, SAMPLING)
    assert [(steer.latent, steer.strength) for steer in row.steer] == [(5, 60.0)]


def test_an_unsteered_row_has_no_edit():
    baseline = next(plan for plan in a_plan() if plan.level == 0.0)
    assert make_row(baseline, SAMPLING).steer == ()


def test_each_response_is_kept_with_its_own_plan_in_whatever_order_rows_end(tmp_path):
    plans = a_plan()
    kept = made(tmp_path, plans).trials()
    assert list(kept) == [plan.id for plan in plans[1::2] + plans[::2]]
    assert responses(kept) == {plan.id: told(make_row(plan, SAMPLING)) for plan in plans}


def test_an_interrupted_run_makes_only_what_is_missing_and_ends_as_if_nothing_had_been(tmp_path):
    plans, run = a_plan(), Run(folder=tmp_path / "interrupted")
    with pytest.raises(KeyboardInterrupt):
        run_trials(Answering(n_until_kill=7), run, plans, SAMPLING)
    assert len(run.trials()) == 7
    engine = Answering()
    run_trials(engine, run, plans, SAMPLING)
    assert len(engine.asked) == len(plans) - 7
    assert run.trials() == made(tmp_path / "whole", plans).trials()


def test_a_finished_run_makes_nothing(tmp_path):
    run, engine = made(tmp_path, a_plan()), Answering()
    run_trials(engine, run, a_plan(), SAMPLING)
    assert engine.asked == []


def test_a_plan_that_grew_makes_only_what_is_new(tmp_path):
    run, engine = made(tmp_path, a_plan()), Answering()
    larger = a_plan(levels=(*LEVELS, 1.5))
    run_trials(engine, run, larger, SAMPLING)
    assert [row.steer[0].strength for row in engine.asked] == [90.0] * 3 + [120.1845] * 3
    assert responses(run.trials()) == {plan.id: told(make_row(plan, SAMPLING)) for plan in larger}


def test_an_interrupted_judge_sees_the_same_batches_as_an_uninterrupted_one(tmp_path, monkeypatch):
    monkeypatch.setattr(trials, "JUDGED_AT_ONCE", 2)
    plans, whole, killed, resumed = a_plan(), Company(), Company(n_until_kill=2), Company()
    run, other = made(tmp_path / "interrupted", plans), made(tmp_path / "whole", plans)
    with pytest.raises(KeyboardInterrupt):
        judge_trials(killed, run, plans)
    judge_trials(resumed, run, plans)
    judge_trials(whole, other, plans)
    assert [len(batch) for batch in whole.batches] == [2, 1] * 6
    assert killed.batches + resumed.batches == whole.batches
    assert run.judgements("company") == other.judgements("company")
    assert len(run.judgements("company")) == len(plans)


def test_a_batch_of_which_half_was_written_is_judged_whole_and_comes_out_the_same(tmp_path):
    plans, judge, again = a_plan(), Company(), Company()
    run = made(tmp_path, plans)
    judge_trials(judge, run, plans)
    before, path = run.judgements("company"), tmp_path / "judgements.company.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:4]) + lines[4][:20])
    judge_trials(again, run, plans)
    assert again.batches == judge.batches[1:]
    assert run.judgements("company") == before
    assert path.read_bytes() == b"".join(lines)


def test_what_is_judged_is_not_judged_again(tmp_path):
    plans, judge = a_plan(), Company()
    run = made(tmp_path, plans)
    for _ in range(2):
        judge_trials(judge, run, plans)
    assert len(judge.batches) == N_ARMS


def test_failed_verdicts_leave_no_record_and_are_asked_again_while_all_else_stays(tmp_path):
    plans = a_plan()
    run = made(tmp_path, plans)
    texts = [run.trials()[plan.id].response for plan in plans]
    judge_trials(Company(statuses=dict.fromkeys(texts[3:5], "failed")), run, plans)
    first = run.judgements("company")
    assert {trial_id for trial_id, _ in first} == {plan.id for plan in plans[:3] + plans[5:]}
    assert frame_of(run, plans)["status"].tolist()[2:6] == [
        "judged",
        "unjudged",
        "unjudged",
        "judged",
    ]
    judge_trials(Company(statuses=dict.fromkeys(texts, "empty")), run, plans)  # says otherwise the second time
    second = run.judgements("company")
    assert {key: second[key] for key in first} == first
    assert [second[plan.id, 0].verdict.status for plan in plans[3:5]] == ["empty", "empty"]


@pytest.mark.parametrize("status", [*KEPT, "failed"])
def test_only_a_judge_that_could_not_be_had_is_asked_again(tmp_path, status):
    plans, judge = a_plan(), Company()
    run = made(tmp_path, plans)
    judge.statuses = {trial.response: status for trial in run.trials().values()}
    for _ in range(2):
        judge_trials(judge, run, plans)
    assert len(judge.batches) == N_ARMS * (2 if status == "failed" else 1)
    assert len(run.judgements("company")) == (len(plans) if status in KEPT else 0)


def test_each_way_of_being_lost_is_counted_and_the_counts_add_up(tmp_path):
    plans = a_plan()
    run = made(tmp_path, plans[:-1], overflowing=[plans[0].seed])
    n_overflow = sum(plan.seed == plans[0].seed for plan in plans[:-1])
    judgeable = [plan for plan in plans[:-1] if plan.seed != plans[0].seed]
    lost = dict(zip(judgeable, ["empty", "no_attempt", "unparsed", "failed"], strict=False))
    statuses = {run.trials()[plan.id].response: status for plan, status in lost.items()}
    judge_trials(Company(statuses=statuses), run, plans)
    frame = frame_of(run, plans)
    (line,) = flow(frame, []).to_dict("records")
    n_judged = len(judgeable) - len(lost)
    expected = {"missing": 1, "overflow": n_overflow, "unjudged": 1, "empty": 1, "no_attempt": 1, "unparsed": 1}
    assert line == {"planned": 18, "generated": 17, "failed": 0, "judged": n_judged, **expected}
    assert sum(line[way] for way in LOST) + n_judged == 18


def test_responses_that_overflowed_are_not_shown_to_the_judge(tmp_path):
    plans, judge = a_plan(), Company()
    run = made(tmp_path, plans, overflowing=[plans[0].seed])
    judge_trials(judge, run, plans)
    assert sum(map(len, judge.batches)) == sum(plan.seed != plans[0].seed for plan in plans) < len(plans)
    assert len(run.judgements("company")) == sum(map(len, judge.batches))


def test_a_second_judge_does_not_disturb_the_first(tmp_path):
    plans = a_plan()
    run = made(tmp_path, plans)
    judge_trials(Company("first"), run, plans)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    judge_trials(Company("second", statuses={t.response: "empty" for t in run.trials().values()}), run, plans[:5])
    assert run.judges() == ["first", "second"]
    assert {name: (tmp_path / name).read_bytes() for name in before} == before
    assert len(run.judgements("second")) == 5


def test_a_second_grading_is_kept_beside_the_first(tmp_path):
    plans = a_plan()
    run = made(tmp_path, plans)
    judge_trials(Company(), run, plans)
    first = run.judgements("company")
    judge_trials(Company(statuses={t.response: "empty" for t in run.trials().values()}), run, plans, repeat=1)
    both = run.judgements("company")
    assert {key: both[key] for key in first} == first
    assert {both[plan.id, 1].verdict.status for plan in plans} == {"empty"}


def test_a_judge_is_blind_unless_labels_are_given(tmp_path):
    plans, judge = a_plan(), Company()
    run = made(tmp_path, plans)
    judge_trials(judge, run, plans)
    expected = [Case(question=plan.question, response=told(make_row(plan, SAMPLING))) for plan in plans]
    assert sum(judge.batches, []) == expected
    told_label = Company("faithful")
    judge_trials(told_label, run, plans, labels=pd.Series({5: "bees", 9: "tea"}))
    labels = [{5: "bees", 9: "tea"}[plan.latent] for plan in plans]
    assert sum(told_label.batches, []) == [replace(case, label=of) for case, of in zip(expected, labels, strict=True)]
