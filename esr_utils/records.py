"""Run folders: settings, versions, trials and judgements of one run, kept so that it can stop anywhere and go on."""

import csv
import hashlib
import json
import os
import platform
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields, is_dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from esr_utils.journal import Journal
from esr_utils.judging import Attempt, Verdict

PACKAGES = ("torch", "transformers", "sae-lens", "transformer-lens", "nnsight", "numpy", "pandas")


@dataclass(frozen=True, kw_only=True)
class PlannedTrial:
    """A trial before it is made; equal plans have equal ids.

    Attributes:
        subject: the model that answers, by its name in the catalogue.
        level: share of the latent's calibrated strength; 0 is unsteered.
        strength: raw units of the decoder direction.
        repeat: number of the response among those that are alike in everything else.
    """

    subject: str
    condition: str
    question: str
    latent: int
    level: float
    strength: float
    repeat: int = 0
    run_seed: int = 0

    def __post_init__(self) -> None:
        for name in ("level", "strength"):  # 1 and 1.0 are one level, and must have one id
            object.__setattr__(self, name, float(getattr(self, name)))

    @property
    def id(self) -> str:
        return digest([getattr(self, field.name) for field in fields(self)])[:16]

    @property
    def seed(self) -> int:
        """Of the response. Condition, level, strength and subject are left out, so that arms share it."""
        return int(digest([self.run_seed, self.question, self.latent, self.repeat])[:8], 16)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One finished response. ``status`` is ``done``, or ``overflow``: the edit was too strong to go on."""

    plan: PlannedTrial
    response: str
    n_tokens: int
    stop_reason: str

    @property
    def status(self) -> str:
        return "overflow" if self.stop_reason == "overflow" else "done"


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What a judge said of one trial; ``repeat`` counts gradings of the same response by the same judge."""

    trial_id: str
    verdict: Verdict
    repeat: int = 0


@dataclass(frozen=True, kw_only=True)
class Run:
    """A folder whose results all come from the same settings."""

    folder: Path

    def table(self, name: str, frame: pd.DataFrame) -> pd.DataFrame:
        """Write a table worked out from the records, whatever was there; figures are drawn from it."""
        write_whole(self.folder / f"{name}.csv", frame.to_csv(index=False, float_format="%.6g"))
        return frame

    def add_trials(self, trials: Iterable[Trial]) -> None:
        """Write finished trials; they outlast a kill."""
        self._trials().append(
            {"id": trial.plan.id, **asdict(trial.plan)}
            | {"response": trial.response, "n_tokens": trial.n_tokens, "stop_reason": trial.stop_reason}
            for trial in trials
        )

    def trials(self) -> dict[str, Trial]:
        """Finished trials by id, in the order in which they ended."""
        names = [field.name for field in fields(PlannedTrial)]
        trials = {}
        for record in self._trials().read():
            plan = PlannedTrial(**{name: record[name] for name in names})
            outcome = {name: record[name] for name in ("response", "n_tokens", "stop_reason")}
            trials[record["id"]] = Trial(plan=plan, **outcome)
        return trials

    def add_judgements(self, judge: str, judgements: Iterable[Judgement]) -> None:
        """Write what a judge said; it outlasts a kill."""
        self._judgements(judge).append(
            {"trial_id": judgement.trial_id, "repeat": judgement.repeat, **asdict(judgement.verdict)}
            for judgement in judgements
        )

    def judgements(self, judge: str) -> dict[tuple[str, int], Judgement]:
        """Judgements by trial id and repeat."""
        judgements = {}
        for record in self._judgements(judge).read():
            trial_id, repeat = record.pop("trial_id"), record.pop("repeat")
            attempts = tuple(Attempt(**attempt) for attempt in record.pop("attempts"))
            verdict = Verdict(attempts=attempts, **record)
            judgements[trial_id, repeat] = Judgement(trial_id=trial_id, repeat=repeat, verdict=verdict)
        return judgements

    def judges(self) -> list[str]:
        """Names of the judges that have judged here."""
        return sorted(path.name.split(".", 1)[1][: -len(".jsonl")] for path in self.folder.glob("judgements.*.jsonl"))

    def journal(self, name: str, *key: str) -> Journal:
        """Any other records that the run must not lose."""
        return Journal(path=self.folder / f"{name}.jsonl", key=key)

    def _trials(self) -> Journal:
        return self.journal("trials", "id")

    def _judgements(self, judge: str) -> Journal:
        return self.journal(f"judgements.{judge}", "trial_id", "repeat")

    def frame(self, name: str, make: Callable[[], pd.DataFrame]) -> pd.DataFrame:
        """The result called ``name``: read if it is there, else made and written whole."""
        path = self.folder / f"{name}.csv"
        if not path.exists():
            write_whole(path, make().to_csv(index=False, float_format="%.6g", quoting=csv.QUOTE_NONNUMERIC))
        return _read_table(path)


def _read_table(path: Path) -> pd.DataFrame:
    """A table as it was written: a text that says NA is a text, an empty one is empty (unless a whole column is)."""
    frame = pd.read_csv(path, keep_default_na=False, na_values=[""], lineterminator="\n")
    texts = frame.select_dtypes(include=["object", "str"]).columns
    return frame.fillna(dict.fromkeys(texts, ""))


def digest(value: object) -> str:
    """SHA-256 of a value that JSON can hold."""
    return hashlib.sha256(json.dumps(value, ensure_ascii=False).encode(errors="surrogatepass")).hexdigest()


def open_run(folder: Path, settings: Any) -> Run:
    """Start a run, or go on with one made with the same settings.

    Raises:
        ValueError: the folder holds a run with other settings; the message names the fields that differ.
    """
    wanted = json.loads(json.dumps(asdict(settings) if is_dataclass(settings) else settings))
    path = folder / "run.json"
    if not path.exists():
        write_whole(path, json.dumps(_description(wanted), indent=1) + "\n")
        return Run(folder=folder)
    found = json.loads(path.read_text())["settings"]
    differing = sorted(key for key in wanted.keys() | found.keys() if wanted.get(key) != found.get(key))
    if differing:
        fields = "; ".join(f"{key}: {found.get(key)!r} there, {wanted.get(key)!r} now" for key in differing)
        raise ValueError(f"{folder.name} was made with other settings ({fields}); delete the folder or restore them")
    return Run(folder=folder)


def write_whole(path: Path, text: str) -> None:
    """Write a file so that it is either all there or not there at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _description(settings: dict) -> dict:
    return {
        "settings": settings,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "versions": {name: version(name) for name in PACKAGES},
    }
