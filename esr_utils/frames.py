"""Records as frames: one line a planned trial, or one an attempt. No model, no judge, no statistics."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict

import pandas as pd

from esr_utils.judging import Verdict
from esr_utils.records import Judgement, PlannedTrial, Trial


def judged_frame(
    plans: Sequence[PlannedTrial], trials: Mapping[str, Trial], judgements: Mapping[tuple[str, int], Judgement]
) -> pd.DataFrame:
    """One line a planned trial, in the order of the plan, lost ones included.

    Columns: ``trial_id``, the fields of the plan, ``seed``, ``response``, ``n_tokens``, ``stop_reason``; ``status``
    (``judged``, or what became of it: ``missing``, ``overflow``, ``unjudged``, ``empty``, ``no_attempt``, ``unparsed``
    or ``failed``); and those of ``measures``. Scores are NaN where there are none.
    """
    lines = []
    for plan in plans:
        trial, judgement = trials.get(plan.id), judgements.get((plan.id, 0))
        verdict = judgement.verdict if judgement else None
        status = _status(trial, verdict)
        outcome = {"response": "", "n_tokens": 0, "stop_reason": ""}
        if trial:
            outcome = {"response": trial.response, "n_tokens": trial.n_tokens, "stop_reason": trial.stop_reason}
        scored = measures(verdict if status == "judged" else None)
        lines.append({"trial_id": plan.id, **asdict(plan), "seed": plan.seed, **outcome, "status": status, **scored})
    return pd.DataFrame(lines)


def _status(trial: Trial | None, verdict: Verdict | None) -> str:
    if trial is None:
        return "missing"
    if trial.status != "done":
        return trial.status
    return verdict.status if verdict else "unjudged"


def measures(verdict: Verdict | None) -> dict[str, float | int | bool]:
    """What is counted of one verdict: what ``score_measures`` gives, and its ``recovery``."""
    scores = [attempt.score for attempt in verdict.attempts] if verdict else []
    return score_measures(scores, recovery=verdict.recovery if verdict else None)


def score_measures(scores: Sequence[float], *, recovery: float | None = None) -> dict[str, float | int | bool]:
    """Of the scores of a response's attempts: ``n_attempts``, ``first_score``, ``last_score``, ``gain`` (last less
    first), ``is_multi``, ``is_improved`` and ``recovery``.

    Source: paper, section 2; improved means that the last attempt scores above the first, by however little.
    """
    first, last = (scores[0], scores[-1]) if scores else (float("nan"), float("nan"))
    is_multi = len(scores) >= 2
    return {
        "n_attempts": len(scores),
        "first_score": first,
        "last_score": last,
        "gain": last - first if is_multi else float("nan"),
        "is_multi": is_multi,
        "is_improved": is_multi and last > first,
        "recovery": recovery if recovery is not None else float("nan"),
    }


def attempt_frame(trials: Mapping[str, Trial], judgements: Mapping[tuple[str, int], Judgement]) -> pd.DataFrame:
    """One line an attempt: trial_id, index (from 0), start, end, score, text."""
    lines = [
        {"trial_id": trial_id, "index": i, **asdict(attempt)}
        | {"text": trials[trial_id].response[attempt.start : attempt.end]}
        for (trial_id, repeat), judgement in judgements.items()
        if repeat == 0 and trial_id in trials
        for i, attempt in enumerate(judgement.verdict.attempts)
    ]
    return pd.DataFrame(lines, columns=["trial_id", "index", "start", "end", "score", "text"])
