"""Records as frames: one line a planned trial, or one an attempt. No model, no judge, no statistics."""

from collections.abc import Sequence
from dataclasses import fields

import pandas as pd

from esr_utils.records import PlannedTrial

PLAN = tuple(field.name for field in fields(PlannedTrial))
MEASURES = ("n_attempts", "first_score", "last_score", "gain", "is_multi", "is_improved", "recovery")
COLUMNS = ("trial_id", *PLAN, "seed", "response", "n_tokens", "stop_reason", "status", *MEASURES)
TEXTS = dict.fromkeys(("trial_id", "response", "stop_reason", "status"), "str")  # also where there are none
DTYPES = {"seed": "int64", "n_tokens": "int64", "n_attempts": "int64", "is_multi": bool, "is_improved": bool}


def judged_frame(plans: Sequence[PlannedTrial], trials: pd.DataFrame, verdicts: pd.DataFrame) -> pd.DataFrame:
    """One line a planned trial, in the order of the plan, lost ones included.

    Columns: ``trial_id``, the fields of the plan, ``seed``, ``response``, ``n_tokens``, ``stop_reason``; ``status``
    (``judged``, or what became of it: ``missing``, ``overflow``, ``unjudged``, ``empty``, ``no_attempt``, ``unparsed``
    or ``failed``); and those of ``score_measures``. Scores are NaN where there are none.

    Args:
        trials: as ``columns.trial_columns`` makes it.
        verdicts: as ``columns.verdict_columns`` makes it.
    """
    planned = pd.DataFrame({name: [getattr(plan, name) for plan in plans] for name in PLAN})
    frame = planned.merge(trials, on=list(PLAN), how="left", validate="many_to_one")
    is_missing = frame["trial_id"].isna()
    if is_missing.any():
        lost = [plan for plan, missing in zip(plans, is_missing, strict=True) if missing]
        frame["trial_id"] = frame["trial_id"].astype("str")  # also where none is known
        frame.loc[is_missing, "trial_id"] = [plan.id for plan in lost]
        frame.loc[is_missing, "seed"] = [plan.seed for plan in lost]
    return made_frame(frame, verdicts)


def made_frame(trials: pd.DataFrame, verdicts: pd.DataFrame) -> pd.DataFrame:
    """As ``judged_frame``, of the trials that were made, whatever was planned."""
    frame = trials.merge(_measured(verdicts), on="trial_id", how="left", validate="many_to_one").astype(TEXTS)
    is_missing = frame["response"].isna()
    frame["status"] = frame["status"].fillna("unjudged")
    frame.loc[frame["stop_reason"] == "overflow", "status"] = "overflow"
    frame.loc[is_missing, "status"] = "missing"
    frame = frame.fillna({"response": "", "n_tokens": 0, "stop_reason": ""})
    _forget_scores(frame, frame["status"] != "judged")
    return frame.astype(DTYPES)[[*COLUMNS]]


def _measured(verdicts: pd.DataFrame) -> pd.DataFrame:
    """What is counted of each verdict, see ``score_measures``."""
    first, last, is_multi = verdicts["first_score"], verdicts["last_score"], verdicts["n_attempts"] >= 2
    gain = (last - first).where(is_multi)
    return verdicts.assign(gain=gain, is_multi=is_multi, is_improved=is_multi & (last > first))


def _forget_scores(frame: pd.DataFrame, where: pd.Series) -> None:
    frame.loc[where, ["first_score", "last_score", "gain", "recovery"]] = float("nan")
    frame.loc[where, "n_attempts"] = 0
    frame.loc[where, ["is_multi", "is_improved"]] = False


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


def attempt_frame(trials: pd.DataFrame, attempts: pd.DataFrame) -> pd.DataFrame:
    """One line an attempt: trial_id, index (from 0), start, end, score, text.

    Args:
        trials: as ``columns.trial_columns`` makes it.
        attempts: as ``columns.attempt_columns`` makes it; those of other trials are left out.
    """
    at = pd.Index(trials["trial_id"]).get_indexer(attempts["trial_id"])
    mine = attempts[at >= 0].reset_index(drop=True)
    spans = zip(trials["response"].iloc[at[at >= 0]], mine["start"], mine["end"], strict=True)
    text = pd.Series([response[start:end] for response, start, end in spans], dtype="str")
    return mine.assign(text=text)[["trial_id", "index", "start", "end", "score", "text"]]
