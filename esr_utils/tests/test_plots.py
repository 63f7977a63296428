"""Figures: drawn from committed files, without torch, the same bytes every time."""

import subprocess
import sys

import pandas as pd
import pytest

from esr_utils import plots
from esr_utils.config import figures_dir
from esr_utils.plots import committed_folder, style


@pytest.fixture
def figures(tmp_path, monkeypatch):
    """Figures of this test go to a folder of its own."""
    monkeypatch.setattr(style, "figures_dir", lambda scale: tmp_path)
    plots.use_style()
    return tmp_path


@pytest.mark.parametrize("name", plots.RESULTS)
def test_a_figure_drawn_twice_is_the_same_file(name, figures):
    first = plots.draw_result(name, committed_folder(name), scale="standard").read_bytes()
    assert plots.draw_result(name, committed_folder(name), scale="standard").read_bytes() == first
    assert len(first) > 10_000


@pytest.mark.parametrize("name", plots.RESULTS)
def test_every_committed_figure_has_its_picture_and_its_csv(name):
    folder = figures_dir("standard")
    assert (folder / f"{name}.png").is_file()
    drawn = pd.read_csv(folder / f"{name}.csv")
    source = pd.read_csv(committed_folder(name) / f"{plots.RESULTS[name][1][0]}.csv")
    pd.testing.assert_frame_equal(drawn, source)


def test_drawing_imports_no_torch():
    code = "import sys, esr_utils.plots, esr_utils.published, esr_utils.records; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
