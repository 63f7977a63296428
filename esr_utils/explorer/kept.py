"""Trials that a reader keeps, and the prepared states."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from esr_utils.config import DATA, ROOT
from esr_utils.explorer.shown import Shown
from esr_utils.explorer.state import VERSION, State
from esr_utils.files import digest
from esr_utils.records import open_run

KEPT = ROOT / "runs" / "explorer"
GALLERY = DATA / "explorer" / "gallery.json"


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A state worth looking at, and what to look for."""

    title: str
    look_for: str
    state: State


def keep(shown: Shown, *, folder: Path = KEPT) -> Path:
    """Add the answers of a run to a folder of results; the same answers are kept once. Returns the file.

    Raises:
        JournalError: the disk is full, or the file is being written by another process.
    """
    run = open_run(folder / shown.state.pair, {"explorer_version": VERSION})
    journal = run.journal("trials", "id")
    known = {record["id"] for record in journal.read()}
    made = [_record(shown, answer) for answer in shown.answers]
    journal.append(record for record in made if record["id"] not in known)
    return journal.path


def _record(shown: Shown, answer) -> dict:
    content = {
        "arm": answer.arm,
        "state": json.loads(shown.state.to_json()),
        "response": answer.text,
        "stop_reason": answer.stop_reason,
        "attempts": [asdict(attempt) for attempt in answer.attempts],
    }
    return {"id": digest(content)[:16], **content}


def load_gallery(pairs: Sequence[str], *, path: Path = GALLERY) -> list[Prepared]:
    """The prepared states of these pairs, in the order of the file."""
    found = json.loads(path.read_text(encoding="utf-8"))
    mine = [one for one in found if one["state"]["pair"] in pairs]
    return [
        Prepared(
            title=one["title"],
            look_for=one["look_for"],
            state=State.from_json(json.dumps(one["state"]), pairs=pairs),
        )
        for one in mine
    ]
