"""What tells how fast a large folder is runs on a small one: every figure of notebook 02 is drawn from it."""

import re
import subprocess
import sys

import pytest

from esr_utils import frames
from esr_utils.config import ROOT
from esr_utils.plots import RESULTS
from esr_utils.records import Trial
from esr_utils.scales import DETECTION
from esr_utils.tests import large_notebook
from esr_utils.tests.large_notebook import SCALE, LargeDetection
from esr_utils.tests.large_runs import SUBJECT, write_run

N_TRIALS = 10_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("large") / "run"


def test_a_frame_is_made_once_and_anew_when_a_journal_grows(tmp_path, monkeypatch):
    monkeypatch.setattr(large_notebook, "STRENGTHS", {1: 40.0, 2: 41.0})
    detection = LargeDetection(SUBJECT, SCALE, DETECTION[SCALE], folder=tmp_path)
    *made, last = detection.plan()
    write_run(tmp_path, made)
    frame = detection.trials()
    frame["status"] = "changed by its reader"
    with monkeypatch.context() as patch:
        patch.setattr(frames, "judged_frame", lambda *_: pytest.fail("made again"))
        assert detection.trials()["status"].tolist() == ["judged"] * len(made) + ["missing"]
    detection.run.add_trials([Trial(plan=last, response="Bees dance.", n_tokens=3, stop_reason="stop")])
    assert detection.trials()["status"].tolist() == ["judged"] * len(made) + ["unjudged"]


def told(module: str, folder) -> str:
    command = [sys.executable, "-m", f"esr_utils.tests.{module}", str(folder), str(N_TRIALS)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_a_folder_is_written_and_loaded(folder):
    lines = told("large_runs", folder).splitlines()
    assert [line.split("  ")[0] for line in lines][:3] == ["written", "columns", "judged frame"]
    assert all(re.search(r"\d s, \d.* of the processor, peak \d\.\d\d GiB$", line) for line in lines)
    assert N_TRIALS < int(re.search(r"(\d+) attempts", lines[3]).group(1)) < 1.2 * N_TRIALS


def test_every_figure_of_notebook_02_is_drawn_from_it(folder):
    lines = told("large_notebook", folder).splitlines()
    names = {name for name in RESULTS if name.startswith("detection_")}
    assert {path.stem for path in (folder / "figures").glob("*.png")} == names
    assert all(sum(name in line for line in lines) == 1 for name in names)
    assert re.fullmatch(r"\d+ s, \d+ of the processor, peak \d\.\d\d GiB", lines[-1])
