"""What readers said of the judge's examples: attempts with scores, and where restarts stand."""

from collections.abc import Sequence

import pandas as pd

from esr_utils.judge_examples import FOLDER
from esr_utils.judges.restarts import Restart

NEAR = 80  # characters between two marks of one restart


def load_readings() -> pd.DataFrame:
    """One line a reading: id, reader, starts, dangling, scores, recovery, is_unsure; and the example's own fields."""
    examples = pd.read_json(FOLDER / "examples.jsonl", lines=True, dtype={"id": str})
    readings = pd.read_json(FOLDER / "readings.jsonl", lines=True, dtype={"id": str})
    return readings.merge(examples, on="id", validate="many_to_one")


def gold_attempts(readings: pd.DataFrame) -> pd.DataFrame:
    """One line an attempt, of responses in which both readers saw as many.

    Columns: id, part, kind, question, index, text, score (their mean).
    """
    lines = []
    for _, both in readings.groupby("id", sort=False):
        first, second = (reading for _, reading in both.iterrows())
        if len(first["starts"]) != len(second["starts"]):
            continue
        edges = [0, *sorted(first["starts"]), len(first["response"])]
        for i, (start, end) in enumerate(zip(edges, edges[1:], strict=False)):
            score = (first["scores"][i] + second["scores"][i]) / 2
            fields = {name: first[name] for name in ("id", "part", "kind", "question")}
            lines.append(fields | {"index": i, "text": first["response"][start:end].strip(), "score": score})
    return pd.DataFrame(lines)


def restart_marks(readings: pd.DataFrame, found: dict[str, list[Restart]]) -> pd.DataFrame:
    """One line a restart that readers or the gate marked: id, part, outcome and the text there.

    Outcome: ``hit``, ``missed`` (both readers, not the gate), ``false`` (the gate alone), ``disputed`` (one reader, and
    the gate), ``disputed, not marked``. Disputed ones count neither for nor against the gate.
    """
    lines = []
    for id_, both in readings.groupby("id", sort=False):
        text, part = both["response"].iloc[0], both["part"].iloc[0]
        marks = [[*starts, *dangling] for starts, dangling in zip(both["starts"], both["dangling"], strict=True)]
        sure = [mark for mark in marks[0] if _is_near(mark, marks[1])]
        disputed = [mark for mark in marks[0] + marks[1] if not _is_near(mark, sure)]
        gate = found[id_]
        lines += [(id_, part, "hit" if _covers(gate, m) else "missed", text[m : m + 160]) for m in sure]
        lines += [(id_, part, "disputed", text[m : m + 160]) for m in disputed if _covers(gate, m)]
        lines += [(id_, part, "disputed, not marked", text[m : m + 160]) for m in disputed if not _covers(gate, m)]
        lines += [
            (id_, part, "false", text[restart.start : restart.end])
            for restart in gate
            if not any(_covers([restart], mark) for mark in sure + disputed)
        ]
    return pd.DataFrame(lines, columns=["id", "part", "outcome", "text"])


def _is_near(mark: int, others: Sequence[int]) -> bool:
    return any(abs(mark - other) < NEAR for other in others)


def _covers(restarts: Sequence[Restart], mark: int) -> bool:
    return any(restart.start - NEAR / 2 <= mark <= restart.end for restart in restarts)
