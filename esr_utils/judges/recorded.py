"""A judge that answers from verdicts given earlier, so that shipped results need neither key nor network."""

from collections.abc import Iterable, Sequence

from esr_utils.judging import Case, Verdict


class RecordedJudge:
    """Gives the verdict recorded for a question and a response; labels play no part.

    Raises:
        ValueError: two verdicts on the same question and response differ.
    """

    READS_ALONE = True

    def __init__(self, name: str, recorded: Iterable[tuple[Case, Verdict]]):
        self.name = name
        self._verdicts: dict[tuple[str, str], Verdict] = {}
        for case, verdict in recorded:
            if self._verdicts.setdefault((case.question, case.response), verdict) != verdict:
                raise ValueError(f"{name} has two different verdicts on {_told(case)}; record one of them")

    def judge(self, cases: Sequence[Case]) -> list[Verdict]:
        """The recorded verdicts; an empty response needs none.

        Raises:
            LookupError: a response that was not recorded.
        """
        return [self._verdict(case) for case in cases]

    def _verdict(self, case: Case) -> Verdict:
        if not case.response.strip():
            return Verdict(status="empty")
        verdict = self._verdicts.get((case.question, case.response))
        if verdict is None:
            raise LookupError(
                f"{self.name} holds {len(self._verdicts)} verdicts and none on {_told(case)}; "
                "use the responses that were recorded, or a judge that can read new ones"
            )
        return verdict


def _told(case: Case) -> str:
    start = case.response if len(case.response) <= 60 else f"{case.response[:60]}..."
    return f"the response {start!r} to {case.question!r}"
