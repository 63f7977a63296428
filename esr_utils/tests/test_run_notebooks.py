"""Notebooks run in a row as ``make run`` does."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import nbformat.v4
import pytest

from esr_utils import run_notebooks
from esr_utils.tests.test_setup import ROOT


def write_notebook(root: Path, name: str, *cells: str, tags: tuple[str, ...] = ("parameters",)) -> None:
    first = nbformat.v4.new_code_cell('PAIR = "toy"\nSCALE = "standard"', metadata={"tags": list(tags)})
    rest = [nbformat.v4.new_code_cell(cell) for cell in cells]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# Toy"), first, *rest])
    (root / "notebooks").mkdir(exist_ok=True, parents=True)
    (root / "notebooks" / f"{name}.ipynb").write_text(json.dumps(notebook))


FACTS = """
import json, os, sys
names = ["HF_HUB_OFFLINE", "JUPYTER_PLATFORM_DIRS", "ESR_CACHE"]
facts = {"scale": SCALE, "pair": PAIR, "python": sys.prefix, "cwd": os.getcwd(), "env": [os.environ[n] for n in names]}
print(json.dumps(facts))
memory = bytearray(300_000_000)
"""


@dataclass(frozen=True, kw_only=True)
class Session:
    root: Path
    exit_code: int
    said: str
    error: str


@pytest.fixture(scope="module")
def session(tmp_path_factory) -> Session:
    """Three notebooks run as ``make run`` does, the first two failing, with a broken kernel in the user's folder."""
    root = tmp_path_factory.mktemp("run all") / "a folder"
    write_notebook(root, "01_failing", "x = 1", 'raise ValueError("first line\\nlast line")', "x = 2")
    write_notebook(root, "02_dying", "import os; os._exit(3)", "x = 2")
    write_notebook(root, "03_fine", FACTS)
    broken = root / "home" / ".local" / "share" / "jupyter" / "kernels" / "python3"
    broken.mkdir(parents=True)
    (broken / "kernel.json").write_text('{"argv": ["/bin/false"], "display_name": "broken", "language": "python"}')
    code = (
        "import sys, pathlib; from esr_utils.run_notebooks import main; sys.exit(main([], pathlib.Path(sys.argv[1])))"
    )
    environment = os.environ | {"HOME": str(root / "home"), "PYTHONPATH": str(ROOT), "ESR_CACHE": "a cache"}
    environment |= {"JUPYTER_PREFER_ENV_PATH": "0"}  # the user's own kernels would come first
    done = subprocess.run(
        [sys.executable, "-c", code, str(root)], cwd=root, env=environment, capture_output=True, text=True
    )
    return Session(root=root, exit_code=done.returncode, said=done.stdout, error=done.stderr)


def test_failing_notebook_is_named_with_cell_and_last_line(session):
    assert session.exit_code == 1, session.error
    assert "01_failing, cell 4 of 5: ValueError: last line" in session.said
    assert "as far as it got: runs/notebooks/01_failing.ipynb" in session.said
    partial = json.loads((session.root / "runs" / "notebooks" / "01_failing.ipynb").read_text())
    assert any(result["output_type"] == "error" for cell in partial["cells"] for result in cell.get("outputs", []))


def test_dying_kernel_is_named_with_its_cell(session):
    assert re.search(r"02_dying, cell [34] of 4: .*Kernel died", session.said), session.said


def test_notebook_runs_with_this_python_at_the_quick_scale(session):
    executed = json.loads((session.root / "runs" / "notebooks" / "03_fine.ipynb").read_text())
    facts = json.loads("".join(executed["cells"][-1]["outputs"][0]["text"]))
    assert facts == {
        "scale": "quick",
        "pair": "toy",
        "python": sys.prefix,
        "cwd": str(session.root / "notebooks"),
        "env": ["1", "1", str(session.root / "a cache")],
    }


def test_summary_holds_time_and_memory_of_each(session):
    table = session.said.split("peak memory\n")[1]
    assert re.findall(r"^(\d\d_\w+) +[\d.]+ s +[\d.]+ GiB  (\w+)$", table, re.MULTILINE) == [
        ("01_failing", "failed"),
        ("02_dying", "failed"),
        ("03_fine", "ok"),
    ]
    small, large = (float(re.search(rf"{name} .* ([\d.]+) GiB", table)[1]) for name in ("01_failing", "03_fine"))
    assert large - small > 0.15, "the 300 MB that the kernel took are counted"
    assert "2 of 3 failed" in table
    assert "figures/quick (0 png)" in table


def test_running_writes_nothing_to_the_home_folder(session):
    written = {path.relative_to(session.root / "home").parts[0] for path in (session.root / "home").rglob("*")}
    assert not written & {".ipython", ".jupyter"}


def test_unknown_notebook_names_the_nearest(session, capsys):
    assert run_notebooks.main(["3_fin"], session.root) == 2
    assert capsys.readouterr().err.startswith("unknown notebook '3_fin'; the nearest: 03_fine")


def test_notebook_whose_scale_cannot_be_set_is_refused(tmp_path, capsys):
    write_notebook(tmp_path, "01_untagged", tags=())
    assert run_notebooks.main([], tmp_path) == 2
    assert "01_untagged.ipynb has no cell tagged 'parameters' that sets SCALE" in capsys.readouterr().err


def test_no_notebooks_is_an_error(tmp_path, capsys):
    assert run_notebooks.main([], tmp_path) == 2
    assert "there are no notebooks in" in capsys.readouterr().err


INTERRUPTED = """
import pathlib, signal, sys
from esr_utils.run_notebooks import main
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.exit(main([], pathlib.Path(sys.argv[1])))
"""


def test_interrupt_ends_at_once_and_takes_the_kernel_along(tmp_path):
    write_notebook(tmp_path, "01_long", "import os, time\nopen('pid', 'w').write(str(os.getpid()))\ntime.sleep(60)")
    options = {"env": os.environ | {"PYTHONPATH": str(ROOT)}, "stderr": subprocess.PIPE, "text": True}
    running = subprocess.Popen([sys.executable, "-c", INTERRUPTED, str(tmp_path)], stdout=subprocess.DEVNULL, **options)
    pid = tmp_path / "notebooks" / "pid"
    wait_until(lambda: pid.exists() and pid.read_text())
    running.send_signal(signal.SIGINT)
    started = time.monotonic()
    assert running.wait(timeout=20) == 130
    assert time.monotonic() - started < 2
    assert running.stderr.read().strip() == "interrupted; the notebooks executed so far are in runs/notebooks"
    wait_until(lambda: not is_alive(int(pid.read_text())))


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def wait_until(is_so, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
