"""Result files of the paper's authors, read into the kit's frames and written from them.

A file holds ``experiment_config`` and ``results_by_feature``; each feature has its trials, each trial its response and
the attempts that the judge quoted. Quotes need not stand in the response, and scores may be missing or text: what
cannot be used becomes a status or an empty span, never a dropped line.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pandas as pd

from esr_utils.files import write_whole
from esr_utils.frames import score_measures
from esr_utils.judges.replies import UnreadableError, quoted_spans
from esr_utils.records import PlannedTrial


@dataclass(frozen=True, kw_only=True)
class AuthorsResults:
    """One result file.

    Attributes:
        config: its ``experiment_config``, as it stands.
        trials: one line a trial, columns as in ``frames.judged_frame`` and ``label``. ``level`` is the trial's strength
            over the latent's own threshold (NaN without one); ``n_tokens`` is NaN, the files do not tell it.
        attempts: one line a scored attempt, columns as in ``frames.attempt_frame``; ``start`` and ``end`` are -1 in a
            response that does not hold every quote, in order.
        lost_latents: latents without a single trial.
    """

    config: dict[str, Any]
    trials: pd.DataFrame
    attempts: pd.DataFrame
    lost_latents: list[int]


def import_authors(path: Path) -> AuthorsResults:
    """Read a result file. Its subject is the config's ``model_name``, or the file's own name where there is none.

    Source: schema of the authors' repository at commit 3c29a49. Differs from their analysis: lost trials stay, as lines
    with a status, and an attempt without a usable score is left out of the counts as theirs is.

    Raises:
        ValueError: not such a file; the message says what is missing, or names the trial.
    """
    content = _content(path)
    config = content.get("experiment_config") or {}
    model = str(config.get("model_name") or path.stem)
    lines: list[dict] = []
    attempts: list[dict] = []
    seen: dict[tuple, int] = {}
    lost = []
    condition = _condition(content)
    for position, feature in enumerate(content["results_by_feature"]):
        trials = feature.get("trials") or [] if isinstance(feature, dict) else [None]
        for number, trial in enumerate(trials):
            try:
                plan = _plan(trial, feature, condition=condition, subject=model, seen=seen)
                line, of_trial = _read_trial(plan, trial, feature)
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                where = f"trial {number} of feature {position}"
                raise ValueError(f"{path.name}: {where} cannot be read ({error!r}); mend or remove it") from None
            lines.append(line)
            attempts += of_trial
        if not trials:
            lost.append(int(feature.get("feature_index_in_sae", -1)))
    return AuthorsResults(
        config=config,
        trials=pd.DataFrame(lines),
        attempts=pd.DataFrame(attempts, columns=["trial_id", "index", "start", "end", "score", "text"]),
        lost_latents=lost,
    )


def _read_trial(plan: PlannedTrial, trial: dict, feature: dict) -> tuple[dict, list[dict]]:
    """The trial's line, and a line for each attempt that counts."""
    scored = _scored(trial)
    failure = feature.get("error") or trial.get("error") or (trial.get("score") or {}).get("error")
    status = _status(trial, scored, failure)
    used = scored if status == "judged" else []
    response = trial.get("response") or ""
    line = {
        "trial_id": plan.id,
        **{field.name: getattr(plan, field.name) for field in fields(PlannedTrial)},
        "seed": trial.get("seed"),
        "response": response,
        "n_tokens": math.nan,
        "stop_reason": "",
        "status": status,
        **score_measures([score for _, score in used]),
        "label": trial.get("feature_label") or feature.get("feature_label") or "",
    }
    return line, _attempts(plan.id, response, used)


def _content(path: Path) -> dict:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path} is not there; give the path of an experiment_results_*.json file") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path.name} is not whole JSON ({error}); fetch or copy it again") from None
    if not isinstance(content, dict) or not isinstance(content.get("results_by_feature"), list):
        raise ValueError(f"{path.name} has no list results_by_feature; it is not a result file of the authors' code")
    return content


def _plan(trial: dict, feature: dict, *, condition: str | None, subject: str, seen: dict[tuple, int]) -> PlannedTrial:
    own = feature.get("threshold")
    strength = float(own if trial.get("threshold") is None else trial["threshold"])
    known: dict[str, Any] = {
        "subject": subject,
        "condition": condition or ("steered" if strength else "baseline"),
        "question": str(trial["prompt"]),
        "latent": int(feature["feature_index_in_sae"]),
        "level": round(strength / own, 4) if own else (0.0 if strength == 0 else math.nan),
        "strength": strength,
    }
    key = tuple(known.values())
    seen[key] = seen.get(key, -1) + 1
    return PlannedTrial(**known, repeat=seen[key])


def _condition(content: dict) -> str | None:
    """What a whole file was made under, if it is more than steering: ours says so, theirs by other fields."""
    config = content.get("experiment_config") or {}
    if told := config.get("condition") or config.get("prompt_variant_id"):
        return str(told)
    return "ablated" if content.get("ablated_latents") or config.get("ablated_latents") else None


def _scored(trial: dict) -> list[tuple[str, float]]:
    """Attempts with a score that is a number, as the authors count them."""
    found = []
    for attempt in (trial.get("score") or {}).get("attempts") or []:
        try:
            score = float(attempt.get("score"))
        except (TypeError, ValueError):
            continue
        if math.isfinite(score):
            found.append((str(attempt.get("attempt_text") or ""), score))
    return found


def _status(trial: dict, scored: list[tuple[str, float]], failure: object) -> str:
    if failure:
        return "failed"
    if scored:
        return "judged"
    if not (trial.get("response") or "").strip():
        return "empty"
    if trial.get("score") is None:
        return "unjudged"
    return "unparsed" if trial["score"].get("attempts") else "no_attempt"


def _attempts(trial_id: str, response: str, scored: list[tuple[str, float]]) -> list[dict]:
    texts = [text for text, _ in scored]
    try:
        spans = quoted_spans(texts, response)
    except UnreadableError:
        spans = [(-1, -1)] * len(scored)
    return [
        {"trial_id": trial_id, "index": i, "start": start, "end": end, "score": score, "text": text}
        for i, ((start, end), (text, score)) in enumerate(zip(spans, scored, strict=True))
    ]


def export_authors(
    path: Path,
    trials: pd.DataFrame,
    attempts: pd.DataFrame,
    *,
    labels: Mapping[int, str],
    config: Mapping[str, Any] | None = None,
) -> None:
    """Write trials of one subject and condition as the authors' code would have saved them.

    Args:
        trials: as ``frames.judged_frame`` makes it. Lost trials are written with their status as the error.
        attempts: as ``frames.attempt_frame`` makes it.
        labels: of the latents; one that is missing is written as an empty label.
        config: what else ``experiment_config`` should say.

    Raises:
        ValueError: trials of several subjects or conditions, which the format cannot tell apart, or attempts that are
            not those of the trials.
    """
    for column in ("subject", "condition"):
        if (n := trials[column].nunique()) > 1:
            raise ValueError(f"trials of {n} {column}s, and a file of the authors' holds one; export each on its own")
    given = attempts.groupby("trial_id").size().reindex(trials["trial_id"], fill_value=0).to_numpy()
    if (n := int((given != trials["n_attempts"].to_numpy()).sum())) > 0:
        raise ValueError(f"attempts of {n} trials are missing or too many; give the attempts of the same judge")
    by_trial = dict(tuple(attempts.groupby("trial_id", sort=False)))
    features = []
    for latent, part in trials.groupby("latent", sort=False):
        label = labels.get(int(latent), "")
        steered = part[part["level"] > 0]
        own = float((steered["strength"] / steered["level"]).median()) if len(steered) else 0.0
        named = {"feature_index_in_sae": int(latent), "feature_label": label}
        written = [_trial(trial, named, by_trial.get(trial["trial_id"])) for trial in part.to_dict("records")]
        features.append({**named, "threshold": own, "error": None, "trials": written})
    head = {"model_name": trials["subject"].iloc[0], "condition": trials["condition"].iloc[0], **(config or {})}
    write_whole(path, json.dumps({"experiment_config": head, "results_by_feature": features}, indent=1) + "\n")


def _trial(trial: dict, named: dict, attempts: pd.DataFrame | None) -> dict:
    has_verdict = trial["status"] in ("judged", "no_attempt")
    lines = [] if attempts is None else attempts.to_dict("records")
    quotes = [{"attempt_text": line["text"], "score": line["score"]} for line in lines]
    return {
        "prompt": trial["question"],
        **named,
        "threshold": trial["strength"],
        "seed": trial["seed"],
        "response": trial["response"],
        "score": {"raw_response": "", "attempts": quotes} if has_verdict else None,
        "error": None if has_verdict else trial["status"],
    }
