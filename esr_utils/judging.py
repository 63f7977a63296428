"""What a judge is given and what it gives: the contract that offline and remote judges share.

A judge sees the question and the response and nothing else, so it cannot know the condition, the meta-prompt or the
strength. Only the ``faithful`` form of remote judges, which repeats the paper's, is told the latent's label.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

Score = Callable[[Sequence[str], Sequence[str]], Float[np.ndarray, " response"]]  # questions, responses: 0 to 100
Status = Literal["judged", "no_attempt", "empty", "unparsed", "failed"]


@dataclass(frozen=True, kw_only=True)
class Case:
    """What a judge reads. ``label`` (of the steered latent) is for the paper's own form alone."""

    question: str
    response: str
    label: str | None = None


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One try at the question: characters ``start`` to ``end`` (exclusive) of the response, scored 0 to 100."""

    start: int
    end: int
    score: float

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.end:
            raise ValueError(f"attempt from {self.start} to {self.end} holds no text")
        if not 0.0 <= self.score <= 100.0:
            raise ValueError(f"score {self.score} is not a number from 0 to 100")


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a judge says of one response.

    Attributes:
        status: ``judged``; or why there are no attempts: the response does not try (``no_attempt``) or is ``empty``,
            the judge's reply could not be read (``unparsed``), or it could not be had (``failed``).
        attempts: in order, not overlapping; only where ``judged``.
        recovery: 0 to 10, how far the whole response moves from off topic to on topic, whatever it says of it.
            None if this judge does not rate it.
        note: for a reader: why something was lost, or what was repaired.
    """

    status: Status
    attempts: tuple[Attempt, ...] = ()
    recovery: float | None = None
    note: str = ""

    def __post_init__(self) -> None:
        if (self.status == "judged") != bool(self.attempts):
            raise ValueError(f"a verdict is 'judged' if it has attempts and only then; {self.status!r} given")
        if self.recovery is not None and not 0.0 <= self.recovery <= 10.0:
            raise ValueError(f"recovery {self.recovery} is not a number from 0 to 10")
        for before, after in zip(self.attempts, self.attempts[1:], strict=False):
            if after.start < before.end:
                raise ValueError(f"attempts overlap at character {after.start}")


@runtime_checkable
class Judge(Protocol):
    """Anything that turns cases into verdicts, one a case, in the same order. ``name`` goes into file names.

    One whose verdict on a case never depends on the others, not even in the last digit, may say ``READS_ALONE = True``:
    it is then given as many cases at once as there are, whatever they belong to.
    """

    name: str

    def judge(self, cases: Sequence[Case]) -> list[Verdict]: ...


def first_scores(judge: Judge) -> Score:
    """The score of each response's first attempt by ``judge``: what calibration aims at. NaN where there is none.

    Raises:
        RuntimeError: the judge could not be had for some response, so that its score would be missing for no reason
            of the response's own.
    """

    def score(questions: Sequence[str], responses: Sequence[str]) -> Float[np.ndarray, " response"]:
        cases = [Case(question=q, response=r) for q, r in zip(questions, responses, strict=True)]
        verdicts = judge.judge(cases)
        if failed := [verdict for verdict in verdicts if verdict.status == "failed"]:
            raise RuntimeError(
                f"judge {judge.name} could not be had for {len(failed)} of {len(verdicts)} responses "
                f"({failed[0].note}); run again when it can: what was finished before is kept"
            )
        return np.array([v.attempts[0].score if v.attempts else np.nan for v in verdicts], dtype=float)

    return score
