"""Verdicts given earlier are repeated, and nothing else is."""

import pytest

from esr_utils.judges.recorded import RecordedJudge
from esr_utils.judging import Attempt, Case, Judge, Verdict
from esr_utils.tests.judge_parts import CASE


def test_a_recorded_judge_repeats_its_verdicts():
    judged = Verdict(status="judged", attempts=(Attempt(start=0, end=4, score=50.0),))
    judge = RecordedJudge("shipped", [(CASE, judged)])
    blank, other_label = Case(question="?", response=" "), Case(question=CASE.question, response=CASE.response)
    assert isinstance(judge, Judge)
    assert judge.judge([blank, other_label]) == [Verdict(status="empty"), judged]


def test_a_response_that_was_not_recorded_is_an_error():
    with pytest.raises(
        LookupError, match="shipped holds 0 verdicts and none on the response 'Boil water.*' to 'How do"
    ):
        RecordedJudge("shipped", []).judge([CASE])


def test_two_verdicts_on_one_response_are_an_error():
    verdicts = [(CASE, Verdict(status="no_attempt")), (CASE, Verdict(status="unparsed"))]
    with pytest.raises(ValueError, match="two different verdicts"):
        RecordedJudge("shipped", verdicts)
