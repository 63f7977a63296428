"""Records as frames: one line a planned trial, or one an attempt. No model, no judge, no statistics."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields

import pandas as pd

from esr_utils.judging import Verdict
from esr_utils.records import Judgement, PlannedTrial, Trial

PLAN = tuple(field.name for field in fields(PlannedTrial))
MEASURES = ("n_attempts", "first_score", "last_score", "gain", "is_multi", "is_improved", "recovery")
COLUMNS = ("trial_id", *PLAN, "seed", "response", "n_tokens", "stop_reason", "status", *MEASURES)
TEXTS = dict.fromkeys(("trial_id", "response", "stop_reason", "status"), "str")  # also where there are none
DTYPES = {"n_attempts": "int64", "is_multi": bool, "is_improved": bool}


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


def joined_frame(plans: Sequence[PlannedTrial], trials: pd.DataFrame, verdicts: pd.DataFrame) -> pd.DataFrame:
    """As ``judged_frame``, from ``columns.trial_columns`` and ``columns.verdict_columns``: fast for a million lines."""
    planned = pd.DataFrame({name: [getattr(plan, name) for plan in plans] for name in PLAN})
    frame = planned.merge(trials, on=list(PLAN), how="left", validate="many_to_one")
    frame = frame.merge(_measured(verdicts), on="trial_id", how="left", validate="many_to_one")
    is_missing = frame["trial_id"].isna()
    lost = [plan for plan, missing in zip(plans, is_missing, strict=True) if missing]
    frame = frame.astype(TEXTS)
    if lost:
        frame.loc[is_missing, "trial_id"] = [plan.id for plan in lost]
        frame.loc[is_missing, "seed"] = [plan.seed for plan in lost]
    frame["status"] = frame["status"].fillna("unjudged")
    frame.loc[frame["stop_reason"] == "overflow", "status"] = "overflow"
    frame.loc[is_missing, "status"] = "missing"
    frame = frame.fillna({"response": "", "n_tokens": 0, "stop_reason": ""})
    _forget_scores(frame, frame["status"] != "judged")
    return frame.astype({"seed": "int64", "n_tokens": "int64"} | DTYPES)[[*COLUMNS]]


def _measured(verdicts: pd.DataFrame) -> pd.DataFrame:
    """What is counted of each verdict, see ``score_measures``."""
    first, last, is_multi = verdicts["first_score"], verdicts["last_score"], verdicts["n_attempts"] >= 2
    gain = (last - first).where(is_multi)
    return verdicts.assign(gain=gain, is_multi=is_multi, is_improved=is_multi & (last > first))


def _forget_scores(frame: pd.DataFrame, where: pd.Series) -> None:
    frame.loc[where, ["first_score", "last_score", "gain", "recovery"]] = float("nan")
    frame.loc[where, "n_attempts"] = 0
    frame.loc[where, ["is_multi", "is_improved"]] = False


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


def joined_attempts(trials: pd.DataFrame, attempts: pd.DataFrame) -> pd.DataFrame:
    """As ``attempt_frame``, from ``columns.trial_columns`` and ``columns.attempt_columns``."""
    responses = trials.set_index("trial_id")["response"]
    mine = attempts[attempts["trial_id"].isin(responses.index)].reset_index(drop=True)
    spans = zip(responses.loc[mine["trial_id"]], mine["start"], mine["end"], strict=True)
    text = pd.Series([response[start:end] for response, start, end in spans], dtype="str")
    return mine.assign(text=text)[["trial_id", "index", "start", "end", "score", "text"]]
