"""Run folders: settings, versions and results of one run, kept so that a run can stop anywhere and go on."""

import json
import os
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass, is_dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

PACKAGES = ("torch", "transformers", "sae-lens", "transformer-lens", "nnsight", "numpy", "pandas")


@dataclass(frozen=True, kw_only=True)
class Run:
    """A folder whose results all come from the same settings."""

    folder: Path

    def frame(self, name: str, make: Callable[[], pd.DataFrame]) -> pd.DataFrame:
        """The result called ``name``: read if it is there, else made and written whole."""
        path = self.folder / f"{name}.csv"
        if not path.exists():
            write_whole(path, make().to_csv(index=False, float_format="%.6g"))
        return pd.read_csv(path)


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
