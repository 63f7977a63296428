"""Run folders: settings, versions, trials and judgements of one run, kept so that it can stop anywhere and go on."""

import json
import platform
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from esr_utils.files import digest, read_written, table_text, write_whole
from esr_utils.journal import Journal
from esr_utils.judging import Attempt, Verdict
from esr_utils.shards import FOLDER, Shard, shard_folders

VERSION = 1  # of what a run's folder holds; folders that name none are of the first
DEFAULT_ENGINE, ENGINE_FILE = "hf", "engine.txt"
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
        return seed_of(self.run_seed, self.question, self.latent, self.repeat)


def seed_of(run_seed: int, question: str, latent: int, repeat: int) -> int:
    """Seed of the responses that share these."""
    return int(digest([run_seed, question, latent, repeat])[:8], 16)


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
    """What a judge said of one trial; ``repeat`` counts gradings of the same response by the same judge.

    Attributes:
        read: ``read_of`` the response it is about, which tells between two that shards made of one trial; may be None.
    """

    trial_id: str
    verdict: Verdict
    repeat: int = 0
    read: str | None = None


@dataclass(frozen=True, kw_only=True)
class Run:
    """A folder whose results all come from the same settings.

    Attributes:
        shard: which part of the run this process works on. It writes in a folder of its own and reads the others', too.
    """

    folder: Path
    shard: Shard | None = None

    @property
    def own(self) -> Path:
        """Where this process writes records."""
        return self.folder / FOLDER / self.shard.name if self.shard else self.folder

    @property
    def has_shards(self) -> bool:
        return bool(shard_folders(self.folder))

    def bind_engine(self, name: str) -> None:
        """Let one engine make every response of the run: from one seed two draw different texts.

        Folders that name none were made with the default engine.

        Raises:
            ValueError: the run, or one of its shards, was begun with another.
        """
        for at in (self.folder, *shard_folders(self.folder)):
            path = at / ENGINE_FILE
            begun = path.read_text().strip() if path.exists() else DEFAULT_ENGINE
            if begun != name and any(at.glob("*.jsonl")):
                raise ValueError(
                    f"{at.name} was begun with the engine {begun}, and this is {name}; set the environment as it was "
                    "then (ESR_SERVERS, ESR_NNSIGHT), or delete the folder"
                )
        if name != DEFAULT_ENGINE:
            write_whole(self.own / ENGINE_FILE, name + "\n")

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
        for record in self.trial_records():
            plan = PlannedTrial(**{name: record[name] for name in names})
            outcome = {name: record[name] for name in ("response", "n_tokens", "stop_reason")}
            trials[record["id"]] = Trial(plan=plan, **outcome)
        return trials

    def trial_records(self) -> Iterator[dict]:
        """As ``trials``, line by line as they were written."""
        return self._trials().records()

    def add_judgements(self, judge: str, judgements: Iterable[Judgement]) -> None:
        """Write what a judge said; it outlasts a kill."""
        self._judgements(judge).append(
            {"trial_id": judgement.trial_id, "repeat": judgement.repeat}
            | ({"read": judgement.read} if judgement.read else {})
            | asdict(judgement.verdict)
            for judgement in judgements
        )

    def judgements(self, judge: str) -> dict[tuple[str, int], Judgement]:
        """Judgements by trial id and repeat, each of the response that ``trials`` has."""
        judgements: dict[tuple[str, int], Judgement] = {}
        for record in self.judgement_records(judge):
            trial_id, repeat, read = record.pop("trial_id"), record.pop("repeat"), record.pop("read", None)
            attempts = tuple(Attempt(**attempt) for attempt in record.pop("attempts"))
            verdict = Verdict(attempts=attempts, **record)
            judgements[trial_id, repeat] = Judgement(trial_id=trial_id, repeat=repeat, verdict=verdict, read=read)
        return judgements

    def judgement_records(self, judge: str) -> Iterator[dict]:
        """As ``judgements``, line by line as they were written."""
        read_of_kept, seen, journal = self._reads_of_differing(), set(), self._judgements(judge)
        for path in journal.paths():
            for _, record in journal.records_of(path):
                trial_id, repeat = record["trial_id"], record["repeat"]
                is_of_other = record.get("read") not in (None, read_of_kept.get(trial_id, record.get("read")))
                if not is_of_other and (trial_id, repeat) not in seen:
                    seen.add((trial_id, repeat))
                    yield record

    def _reads_of_differing(self) -> dict[str, str]:
        """Of trials that shards made differently: ``read_of`` the response that counts."""
        ids = {record["id"] for _, record in self._trials().differing()} if self.has_shards else set()
        if not ids:
            return {}
        return {record["id"]: read_of(record["response"]) for record in self._trials().read() if record["id"] in ids}

    def n_differing(self) -> int:
        """Trials of which two shards hold different responses; one of them counts. See ``Journal.read``."""
        return len(self._reads_of_differing())

    def warn_of_differing(self) -> None:
        """Tell how many trials ``n_differing`` counts, if any."""
        if n := self.n_differing():
            warnings.warn(
                f"{n} trials of {self.folder.name} were made by two shards or more, with different responses (machines "
                "round differently): of each, the response of the first folder by name counts, with its judgement",
                stacklevel=2,
            )

    def judges(self) -> list[str]:
        """Names of the judges that have judged here."""
        found = [path for at in (self.folder, *shard_folders(self.folder)) for path in at.glob("judgements.*.jsonl")]
        return sorted({path.name.split(".", 1)[1][: -len(".jsonl")] for path in found})

    def journal(self, name: str, *key: str) -> Journal:
        """Any other records that the run must not lose."""
        also = tuple(at / f"{name}.jsonl" for at in (self.folder, *shard_folders(self.folder)))
        return Journal(path=self.own / f"{name}.jsonl", key=key, also=also)

    def _trials(self) -> Journal:
        return self.journal("trials", "id")

    def _judgements(self, judge: str) -> Journal:
        return replace(self.journal(f"judgements.{judge}", "trial_id", "repeat"), may_have=("read",))

    def files(self, name: str) -> list[Path]:
        """The files called ``name`` that are there, the run's own before those of its shards."""
        every = (at / name for at in (self.folder, *shard_folders(self.folder)))
        return [path for path in every if path.exists()]

    def frame(self, name: str, make: Callable[[], pd.DataFrame]) -> pd.DataFrame:
        """The result called ``name``: read if it is there, else made and written whole.

        Raises:
            ValueError: shards made it each for itself and differ.
        """
        found = self.files(f"{name}.csv")
        if not found:
            found = [self.own / f"{name}.csv"]
            write_whole(found[0], table_text(make()))
        if len({path.read_bytes() for path in found}) > 1:
            raise ValueError(
                f"{name}.csv differs between {' and '.join(path.parent.name for path in found)}, so their shards are "
                f"not parts of one run; keep one of them in {self.folder.name}, delete the others and their shards"
            )
        return read_written(found[0])


def read_of(response: str) -> str:
    """What tells a response from another one of the same trial."""
    return digest(response)[:8]


def open_run(folder: Path, settings: Any, *, shard: Shard | None = None) -> Run:
    """Start a run, or go on with one made with the same settings; with ``shard``, work on that part alone.

    Raises:
        ValueError: the folder, or one of its shards, holds a run with other settings, and the message names the
            fields that differ; or it was made by a newer kit.
    """
    wanted = json.loads(json.dumps(asdict(settings) if is_dataclass(settings) else settings))
    run = Run(folder=folder, shard=shard)
    for at in (folder, *shard_folders(folder)):
        _check_settings(at, wanted)
    path = run.own / "run.json"
    if not path.exists():
        write_whole(path, json.dumps(_description(wanted), indent=1) + "\n")
    return run


def _check_settings(folder: Path, wanted: dict) -> None:
    if not (folder / "run.json").exists():
        return
    description = json.loads((folder / "run.json").read_text())
    if (number := description.get("version", 1)) != VERSION:
        raise ValueError(
            f"{folder.name} is a run folder of version {number}, and this kit reads version {VERSION}; update the kit "
            "to the one that made it, or move the folder away to start anew"
        )
    found = description["settings"]
    differing = sorted(key for key in wanted.keys() | found.keys() if wanted.get(key) != found.get(key))
    if differing:
        fields = "; ".join(f"{key}: {found.get(key)!r} there, {wanted.get(key)!r} now" for key in differing)
        raise ValueError(f"{folder.name} was made with other settings ({fields}); delete the folder or restore them")


def _description(settings: dict) -> dict:
    return {
        "version": VERSION,
        "settings": settings,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "versions": {name: version(name) for name in PACKAGES},
    }
