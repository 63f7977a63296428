"""Result files of the paper's authors, read into the kit's frames and written from them.

A file holds ``experiment_config`` and ``results_by_feature``; each feature has its trials, each trial its response and
the attempts that the judge quoted. Quotes need not stand in the response, and scores may be missing or text: what
cannot be used becomes a status or an empty span, never a dropped line.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from esr_utils.frames import score_measures
from esr_utils.judges.replies import UnreadableError, locate
from esr_utils.records import PlannedTrial, write_whole


@dataclass(frozen=True, kw_only=True)
class AuthorsResults:
    """One result file.

    Attributes:
        config: its ``experiment_config``, as it stands.
        trials: one line a trial, columns as in ``frames.judged_frame`` and ``label``. ``level`` is the trial's strength
            over the latent's own threshold (NaN without one); ``n_tokens`` is NaN, the files do not tell it.
        attempts: one line a scored attempt, columns as in ``frames.attempt_frame``; ``start`` and ``end`` are -1 where
            the response does not hold the quote.
        lost_latents: latents with an error and without a single trial.
    """

    config: dict[str, Any]
    trials: pd.DataFrame
    attempts: pd.DataFrame
    lost_latents: list[int]


def import_authors(path: Path, *, subject: str | None = None) -> AuthorsResults:
    """Read a result file. ``subject`` names the model where the file's config has no ``model_name``.

    Source: schema of the authors' repository at commit 3c29a49. Differs from their analysis: lost trials stay, as lines
    with a status, and an attempt without a usable score is left out of the counts as theirs is.

    Raises:
        ValueError: not such a file; the message says what is missing, or names the trial.
    """
    content = _content(path)
    config = content.get("experiment_config") or {}
    model = subject or str(config.get("model_name") or path.stem)
    lines: list[dict] = []
    attempts: list[dict] = []
    seen: dict[tuple, int] = {}
    lost = []
    for feature in content["results_by_feature"]:
        if feature.get("error") and not feature.get("trials"):
            lost.append(int(feature["feature_index_in_sae"]))
        for number, trial in enumerate(feature.get("trials") or []):
            try:
                plan = _plan(trial, feature, config=config, subject=model, seen=seen)
            except (KeyError, TypeError, ValueError) as error:
                latent = feature.get("feature_index_in_sae")
                raise ValueError(f"{path.name}: trial {number} of latent {latent} cannot be read ({error!r})") from None
            scored = _scored(trial)
            failure = feature.get("error") or trial.get("error") or (trial.get("score") or {}).get("error")
            status = _status(trial, scored, failure)
            used = scored if status == "judged" else []
            response = trial.get("response") or ""
            fields = {name: getattr(plan, name) for name in PlannedTrial.__dataclass_fields__}
            outcome = {"response": response, "n_tokens": math.nan, "stop_reason": "", "status": status}
            label = {"label": trial.get("feature_label") or feature.get("feature_label") or ""}
            measured = score_measures([score for _, score in used])
            lines.append({"trial_id": plan.id, **fields, "seed": trial.get("seed"), **outcome, **measured, **label})
            attempts += _attempts(plan.id, response, used)
    return AuthorsResults(
        config=config,
        trials=pd.DataFrame(lines),
        attempts=pd.DataFrame(attempts, columns=["trial_id", "index", "start", "end", "score", "text"]),
        lost_latents=lost,
    )


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


def _plan(trial: dict, feature: dict, *, config: dict, subject: str, seen: dict[tuple, int]) -> PlannedTrial:
    strength = float(trial["threshold"] if trial.get("threshold") is not None else feature["threshold"] or 0.0)
    own = feature.get("threshold")
    fields: dict[str, Any] = {
        "subject": subject,
        "condition": _condition(config, strength),
        "question": str(trial["prompt"]),
        "latent": int(feature["feature_index_in_sae"]),
        "level": strength / own if own else (0.0 if strength == 0 else math.nan),
        "strength": strength,
    }
    key = tuple(fields.values())
    seen[key] = seen.get(key, -1) + 1
    return PlannedTrial(**fields, repeat=seen[key])


def _condition(config: dict, strength: float) -> str:
    if variant := config.get("prompt_variant_id"):
        return str(variant)
    if config.get("ablated_latents"):
        return "ablated"
    return "steered" if strength else "unsteered"


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
        spans = locate(texts, response)
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
        ValueError: trials of several subjects or conditions, which the format cannot tell apart.
    """
    for column in ("subject", "condition"):
        if (n := trials[column].nunique()) > 1:
            raise ValueError(f"trials of {n} {column}s, and a file of the authors' holds one; export each on its own")
    by_trial = dict(tuple(attempts.groupby("trial_id", sort=False)))
    features = []
    for latent, part in trials.groupby("latent", sort=False):
        label = labels.get(int(latent), "")
        steered = part[part["level"] > 0]
        own = float((steered["strength"] / steered["level"]).median()) if len(steered) else 0.0
        named = {"feature_index_in_sae": int(latent), "feature_label": label}
        written = [_trial(trial, named, by_trial.get(trial["trial_id"])) for trial in part.to_dict("records")]
        features.append({**named, "threshold": own, "error": None, "trials": written})
    head = {"model_name": trials["subject"].iloc[0], **(config or {})}
    write_whole(path, json.dumps({"experiment_config": head, "results_by_feature": features}, indent=1) + "\n")


def _trial(trial: dict, named: dict, attempts: pd.DataFrame | None) -> dict:
    has_verdict = trial["status"] in ("judged", "no_attempt")
    return {
        "prompt": trial["question"],
        **named,
        "threshold": trial["strength"],
        "seed": trial["seed"],
        "response": trial["response"],
        "score": {"raw_response": "", "attempts": list(_quotes(attempts))} if has_verdict else None,
        "error": None if has_verdict else trial["status"],
    }


def _quotes(attempts: pd.DataFrame | None) -> Iterable[dict]:
    for attempt in attempts.to_dict("records") if attempts is not None else ():
        yield {"attempt_text": attempt["text"], "score": attempt["score"]}
