"""``python -m esr_utils.run_notebooks [NAME ...]``: execute the notebooks live at the quick scale, one by one."""

import difflib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SCALE = "quick"
PATH_VARIABLES = ("ESR_CACHE", "ESR_SMOLLM2_WHEEL", "ESR_MINILM_WHEEL")
MAXRSS_BYTES = 1 if sys.platform == "darwin" else 1024  # the unit of ru_maxrss
ADDED_BY_PAPERMILL = {"injected-parameters", "papermill-error-cell-tag"}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How one notebook went. ``peak_gib`` is the memory of its largest process, which is its kernel."""

    name: str
    seconds: float
    peak_gib: float
    error: str | None

    def line(self) -> str:
        return f"{self.seconds:7.1f} s {self.peak_gib:6.2f} GiB  {'failed' if self.error else 'ok'}"


def main(names: Sequence[str], root: Path = ROOT) -> int:
    """Exit status: 0 all executed, 1 some failed, 2 nothing was started, 130 interrupted."""
    try:
        notebooks = find_notebooks(names, root)
        shutil.rmtree(root / "runs" / SCALE, ignore_errors=True)  # results of an earlier run: this one is live
    except ValueError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    try:
        outcomes = [run_one(path, root) for path in notebooks]
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted; the notebooks executed so far are in runs/notebooks\n")
        return 130
    sys.stdout.write(summary(outcomes, root))
    return 1 if any(outcome.error for outcome in outcomes) else 0


def find_notebooks(names: Sequence[str], root: Path = ROOT) -> list[Path]:
    """The notebooks called ``names``, or all of them, in the order of their numbers.

    Raises:
        ValueError: an unknown name, no notebooks at all, or one whose scale cannot be set.
    """
    found = {path.stem: path for path in sorted((root / "notebooks").glob("[0-9]*.ipynb"))}
    if not found:
        raise ValueError(
            f"there are no notebooks in {root / 'notebooks'}: names such as 01_steering.ipynb are looked for"
        )
    for name in names:
        if name not in found:
            near = difflib.get_close_matches(name, found, n=3, cutoff=0.3) or list(found)
            raise ValueError(f"unknown notebook {name!r}; the nearest: {', '.join(near)}")
    chosen = [path for stem, path in found.items() if stem in names or not names]
    for path in chosen:
        _check_parameters(path)
    return chosen


def _check_parameters(path: Path) -> None:
    """Without a tagged cell papermill would run the notebook at its own scale, an hour instead of a minute."""
    tagged = (cell for cell in _cells(path) if "parameters" in _tags(cell))
    if not any(re.search(r"^SCALE\b", "".join(cell["source"]), re.MULTILINE) for cell in tagged):
        raise ValueError(
            f"{path.name} has no cell tagged 'parameters' that sets SCALE, so it cannot be run at {SCALE!r}"
        )


def run_one(path: Path, root: Path) -> Outcome:
    """Execute one notebook in a process of its own and tell how it went."""
    output = root / "runs" / "notebooks" / path.name
    output.parent.mkdir(parents=True, exist_ok=True)
    output.unlink(missing_ok=True)
    sys.stdout.write(f"{path.stem:<24}")
    sys.stdout.flush()
    started = time.monotonic()
    exit_code, peak_bytes = _papermill(path, output, root)
    error = _explain(output) if exit_code else None
    outcome = Outcome(name=path.stem, seconds=time.monotonic() - started, peak_gib=peak_bytes / 2**30, error=error)
    sys.stdout.write(outcome.line() + "\n")
    if error:
        kept = output if output.is_file() else output.with_suffix(".log")
        sys.stdout.write(f"  {path.stem}, {error}\n  as far as it got: {kept.relative_to(root)}\n")
    sys.stdout.flush()
    return outcome


def _papermill(path: Path, output: Path, root: Path) -> tuple[int, int]:
    """Exit code, and peak memory in bytes of papermill or the kernel it started, whichever was larger."""
    command = [sys.executable, "-m", "papermill", str(path), str(output), "--parameters", "SCALE", SCALE]
    command += ["--kernel", "python3", "--language", "python", "--cwd", str(path.parent), "--no-progress-bar"]
    with output.with_suffix(".log").open("w") as log:
        child = subprocess.Popen(command, env=kernel_environment(root), stdout=log, stderr=subprocess.STDOUT)
    try:
        _, status, usage = os.wait4(child.pid, 0)
    except KeyboardInterrupt:
        child.kill()  # its kernel notices within a second and ends as well
        raise
    child.returncode = os.waitstatus_to_exitcode(status)
    return child.returncode, usage.ru_maxrss * MAXRSS_BYTES


def kernel_environment(root: Path) -> dict[str, str]:
    """This Python's own kernel, no model hub, and nothing read from or written to the user's IPython folder.

    Kernels work in ``notebooks/``, so paths given relative to here are made absolute.
    """
    kernels = [str(Path(sys.prefix) / "share" / "jupyter"), os.environ.get("JUPYTER_PATH", "")]
    given = {name: os.environ[name] for name in PATH_VARIABLES if os.environ.get(name)}
    paths = {name: os.path.abspath(os.path.expanduser(path)) for name, path in given.items()}
    jupyter = {
        "JUPYTER_PATH": os.pathsep.join(filter(None, kernels)),
        "JUPYTER_PLATFORM_DIRS": "1",
        "IPYTHONDIR": str(root / "runs" / "ipython"),
        "HF_HUB_OFFLINE": "1",
    }
    return os.environ | paths | jupyter


def _explain(output: Path) -> str:
    """Cell and last line of the error in a notebook that failed; cells count from 1 as in the notebook itself."""
    log = output.with_suffix(".log")
    cells = _own_cells(output) if output.is_file() else []
    for number, cell in enumerate(cells, start=1):
        for result in cell.get("outputs", []):
            if result["output_type"] == "error":
                told = (result["evalue"].strip() or "no message").splitlines()[-1]
                return f"cell {number} of {len(cells)}: {result['ename']}: {told}"
    reached = max((n for n, cell in enumerate(cells, start=1) if _status(cell) not in (None, "pending")), default=0)
    where = f"cell {reached} of {len(cells)}" if reached else "before the first cell"
    return f"{where}: {(log.read_text().strip() or 'no message').splitlines()[-1]}"


def _own_cells(path: Path) -> list[dict]:
    return [cell for cell in _cells(path) if not ADDED_BY_PAPERMILL & _tags(cell)]


def _cells(path: Path) -> list[dict]:
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def _tags(cell: dict) -> set[str]:
    return set(cell["metadata"].get("tags", []))


def _status(cell: dict) -> str | None:
    return cell["metadata"].get("papermill", {}).get("status")


def summary(outcomes: Sequence[Outcome], root: Path) -> str:
    """Times and memory of all notebooks, and where to look."""
    return "\n".join(_summary_lines(outcomes, root)) + "\n"


def _summary_lines(outcomes: Sequence[Outcome], root: Path) -> Iterator[str]:
    yield f"\n{'notebook':<24}{'time':>9}{'peak memory':>13}"
    for outcome in outcomes:
        yield f"{outcome.name:<24}{outcome.line()}"
    n_failed = sum(outcome.error is not None for outcome in outcomes)
    seconds, peak = sum(o.seconds for o in outcomes), max(o.peak_gib for o in outcomes)
    yield f"{f'{n_failed} of {len(outcomes)} failed':<24}{seconds:7.1f} s {peak:6.2f} GiB"
    n_figures = len(list((root / "figures" / SCALE).glob("*.png")))
    yield f"\nexecuted notebooks: runs/notebooks\nfigures: figures/{SCALE} ({n_figures} png)"


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main(sys.argv[1:]))
