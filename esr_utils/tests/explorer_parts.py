"""A subject on a tiny pair, for the tests of the explorer."""

from collections.abc import Sequence

import pandas as pd

from esr_utils.engines.hf import HFEngine
from esr_utils.explorer.core import Explorer
from esr_utils.explorer.state import Pick, State
from esr_utils.explorer.subject import Subject
from esr_utils.judging import Attempt, Case, Verdict
from esr_utils.models import Pair
from esr_utils.topicality import Topicality

GROUPS = {"detectors": [3, 4], "backtracking": [5]}


class HalvingJudge:
    """Two attempts in any answer that holds ``mark``, else one; scores tell the attempts apart."""

    name = "halving"

    def __init__(self, mark: str = ""):
        self.mark = mark

    def judge(self, cases: Sequence[Case]) -> list[Verdict]:
        return [self._one(case.response) for case in cases]

    def _one(self, text: str) -> Verdict:
        if len(text) < 4:
            return Verdict(status="empty")
        if self.mark not in text:
            return Verdict(status="judged", attempts=(Attempt(start=0, end=len(text), score=50.0),))
        middle = len(text) // 2
        parts = (Attempt(start=0, end=middle - 1, score=20.0), Attempt(start=middle, end=len(text), score=80.0))
        return Verdict(status="judged", attempts=parts)


def tiny_subject(pair: Pair, judge: HalvingJudge | None = None) -> Subject:
    engine = HFEngine(pair, batch_size=16)
    labels = pd.DataFrame(
        {
            "label": [f"“word{i}”" for i in range(60)],
            "density": [i / 60 for i in range(60)],
            "max_activation": 10.0,
            "concreteness": [float(i) for i in range(60)],
            "topics": ["bread; ovens" if i % 2 else "tides; moons" for i in range(60)],
        },
        index=pd.RangeIndex(60, name="latent"),
    )
    return Subject(
        engine=engine,
        judge=judge or HalvingJudge(),
        topicality=Topicality(engine=engine, distractors=["Why?", "Where to?"]),
        labels=labels,
        texts=[("How?", "Just so, and no other way."), ("When?", "Tomorrow at ten.")],
        groups=GROUPS,
        calibrated={7: 8.0},
        has_contexts=False,
    )


def tiny_state(pair: Pair, **changes) -> State:
    settings = {
        "pair": pair.name,
        "prompt": "How do you bake bread?",
        "picks": (Pick(latent=7, strength=6.0),),
        "max_new_tokens": 24,
        "seed": 3,
    }
    return State(**settings | changes)


def tiny_explorer(pair: Pair, judge: HalvingJudge | None = None) -> Explorer:
    subject = tiny_subject(pair, judge)
    return Explorer(tiny_state(pair), pairs=[pair.name], load=lambda name: subject)
