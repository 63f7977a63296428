"""Figures: drawn from committed files, without torch, the same bytes every time."""

import json
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from esr_utils import plots
from esr_utils.config import figures_dir
from esr_utils.plots import ablation, committed_folder, interactive, style


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


def test_every_format_is_the_same_bytes_in_another_process(figures):
    code = (
        "import sys, pathlib; from esr_utils import plots; from esr_utils.plots import style; "
        "folder = pathlib.Path(sys.argv[1]); style.figures_dir = lambda scale: folder; plots.use_style(); "
        "plots.draw_paper('paper_fig5', formats=style.FORMATS)"
    )
    for folder, seed in (("one", "1"), ("two", "2")):
        subprocess.run([sys.executable, "-c", code, str(figures / folder)], check=True, env={"PYTHONHASHSEED": seed})
    for kind in (*style.FORMATS, "csv"):
        one, two = ((figures / folder / f"paper_fig5.{kind}").read_bytes() for folder in ("one", "two"))
        assert one == two, kind
        assert len(one) > 500
    assert b"<svg" in (figures / "one" / "paper_fig5.svg").read_bytes()
    assert (figures / "one" / "paper_fig5.pdf").read_bytes().startswith(b"%PDF")


def an_ablation() -> pd.DataFrame:
    """Contrasts as notebook 04 makes them, with made-up numbers."""
    names = ("detectors", "detectors by half", "detectors before steering", "backtracking", "random directions")
    arms = [*zip(names, names, strict=True), ("matched set", "matched set 0"), ("matched set", "matched set 1")]
    lines = [
        {"name": name, "condition": condition, "quantity": quantity, "n_pairs": 240, "ci_low": -0.2, "ci_high": 0.1}
        for name, condition in arms
        for quantity in ablation.PANELS
    ]
    return pd.DataFrame(lines).assign(difference=np.linspace(-0.1, 0.03, len(lines)))


def a_table(name: str) -> pd.DataFrame:
    path = committed_folder(name) / f"{plots.RESULTS[name][1][0]}.csv"
    return pd.read_csv(path) if name != "ablation_contrasts" else an_ablation()


def traces_of(html: str) -> list[dict]:
    """The traces that a twin's page draws."""
    start = re.search(r'Plotly\.newPlot\(\s*"\w+",\s*', html).end()
    return json.JSONDecoder().raw_decode(html[start:])[0]


@pytest.mark.parametrize("name", interactive.TWINS)
def test_a_twin_holds_every_point_and_needs_no_network(name, tmp_path):
    table = a_table(name)
    html = interactive.write(name, table, tmp_path).read_text()
    assert (tmp_path / "plotly.min.js").is_file()
    assert 'src="plotly.min.js"' in html
    assert "http" not in html
    assert len(html) < 100_000
    is_upright = name in ("detection_levels", "tuning_shares")
    drawn = [value for trace in traces_of(html) for value in trace["y" if is_upright else "x"]]
    value = {"detection_rates": "rate", "ablation_contrasts": "difference"}.get(name, "value")
    panels = {"detection_rates": ("multi_attempt", "esr", "recovery"), "ablation_contrasts": ablation.PANELS}
    panels["detection_levels"] = ("first_score", "multi_attempt", "esr", "recovery")
    panels["tuning_shares"] = ("first_score", "multi_attempt", "esr", "minimum_gain_esr")
    shown = table[table["quantity"].isin(panels[name])].dropna(subset=[value])
    expected = shown[value] * np.where(shown["quantity"] == "first_score", 1, 100)
    assert sorted(drawn) == pytest.approx(sorted(expected), abs=1e-5)


def test_twins_draw_the_kits_own_figures_and_share_one_script(tmp_path):
    assert set(interactive.TWINS) <= set(plots.RESULTS)
    for name in ("detection_rates", "detection_levels"):
        first = interactive.write(name, a_table(name), tmp_path).read_bytes()
        assert interactive.write(name, a_table(name), tmp_path).read_bytes() == first
    assert [path.name for path in tmp_path.glob("*.js")] == ["plotly.min.js"]


def test_drawing_imports_no_torch():
    modules = "esr_utils.plots, esr_utils.plots.interactive, esr_utils.published, esr_utils.records"
    code = f"import sys, {modules}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
