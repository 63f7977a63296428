"""From the catalogue to notebook 02, on the tiny twin of each of the paper's five pairs."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from esr_utils import config, detection, study
from esr_utils.catalogue import find_entry
from esr_utils.config import ROOT
from esr_utils.detection import Detection
from esr_utils.latents import load_labels
from esr_utils.metrics import LOST, flow
from esr_utils.prompts import load_prompts
from esr_utils.scales import DETECTION
from esr_utils.study import JUDGE, READER
from esr_utils.tests import twins
from esr_utils.tests.test_detection import Reading
from esr_utils.tests.twins import PAPER_PAIRS
from esr_utils.wheels import cache_dir

SHORT = replace(DETECTION["quick"], n_latents=3, n_questions=2, levels=(0.0, 1.0), n_steps=2, max_new_tokens=8)
ENTER = """
from pathlib import Path
import pytest
from esr_utils import config
from esr_utils.tests import twins
twins.enter(pytest.MonkeyPatch(), Path("hub").resolve())
config.ROOT = Path().resolve()
"""


@pytest.fixture
def folder(tmp_path, monkeypatch, catalogue) -> Path:
    """Where the hub, labels and results of a test are."""
    monkeypatch.setenv("ESR_CACHE", str(tmp_path / "esr"))
    monkeypatch.setattr(config, "ROOT", tmp_path)
    load_labels.cache_clear()
    twins.enter(monkeypatch, tmp_path / "hub")
    return tmp_path


@pytest.mark.parametrize("name", PAPER_PAIRS)
def test_detection_runs_on_the_twin_from_the_catalogue_alone(folder, monkeypatch, name):
    twins.write_twin(name, folder / "hub", folder / "esr")
    monkeypatch.setattr(detection, "load_prompts", lambda split, stimuli: load_prompts(split, stimuli=stimuli)[:4])
    judge, load = Reading(name=JUDGE), study.load_engine
    monkeypatch.setattr(study, "load_engine", lambda subject: None if subject == READER else load(subject))
    monkeypatch.setattr("esr_utils.judges.offline.offline_judge", lambda reader, **_: judge)
    with pytest.warns(UserWarning, match="these labels carry no concreteness"):
        detected = Detection(name, "quick", SHORT).measure()
    assert detected.run.folder == folder / "runs" / "quick" / name / "esr_detection"
    (line,) = flow(detected.trials(), []).to_dict("records")
    assert {way: line[way] for way in LOST} == dict.fromkeys(LOST, 0)
    assert line["judged"] == 3 * 2 * 2
    prior = find_entry(name).prior
    assert detected.calibration()["strength"].between(0, prior.upper).all()


def test_a_pair_without_a_prior_has_it_measured_once(folder, monkeypatch):
    twins.write_twin("gemma-3-270m", folder / "hub", folder / "esr")
    measured = Detection("gemma-3-270m", "quick", SHORT).prior()
    assert 0 < measured.mean < measured.upper
    assert measured.upper / measured.mean == pytest.approx(2.0 / 0.7, rel=1e-3)
    monkeypatch.setattr(study, "load_engine", lambda subject: pytest.fail("measured again"))
    assert Detection("gemma-3-270m", "quick", SHORT).prior() == measured


def test_the_penalty_of_the_authors_runs_is_a_quirk():
    scale = DETECTION["quick"]
    assert Detection("llama-3.3-70b", "quick", scale).sampling.repetition_penalty == 1.1
    assert Detection("llama-3.3-70b+penalty", "quick", scale).sampling.repetition_penalty == 1.2


@pytest.mark.twins
@pytest.mark.parametrize("name", PAPER_PAIRS)
def test_notebook_02_runs_live_on_the_twin(tmp_path, monkeypatch, catalogue, name):
    import nbformat

    (tmp_path / "esr").mkdir()
    for model in cache_dir().iterdir():  # of the offline judge
        (tmp_path / "esr" / model.name).symlink_to(model)
    twins.enter(monkeypatch, tmp_path / "hub")
    twins.write_twin(name, tmp_path / "hub", tmp_path / "esr")
    notebook = nbformat.read(ROOT / "notebooks" / "02_esr_detection.ipynb", as_version=4)
    notebook.cells.insert(0, nbformat.v4.new_code_cell(ENTER))
    nbformat.write(notebook, tmp_path / "in.ipynb")
    command = [sys.executable, "-m", "papermill", "in.ipynb", "out.ipynb", "-p", "PAIR", name, "-p", "SCALE", "quick"]
    environment = {"ESR_CACHE": str(tmp_path / "esr"), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=os.environ | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    results = tmp_path / "runs" / "quick" / name / "esr_detection"
    rates = pd.read_csv(results / "rates.csv")
    assert set(rates["subject"]) == {name}
    assert (tmp_path / "figures" / "quick" / "detection_rates.png").stat().st_size > 0
