"""The paper's figures: whole, honest about what was not published, the same every time, clear when a file is bad."""

import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from esr_utils import config, plots, published, result_tables
from esr_utils.beside import NAIVE, NOT_YET, PICTURE
from esr_utils.config import figures_dir
from esr_utils.plots import captions, gallery, interactive, redraw, style
from esr_utils.result_tables import COLUMNS

FRAMES = {name: make() for name, (_, make) in plots.PAPER.items() if name not in ("paper_table2", "paper_table3")}


def files(folder):
    """Every file by its path, but plotly's own script."""
    found = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "plotly.min.js"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def draw_into(folder, monkeypatch) -> list[str]:
    for module in (style, redraw):
        monkeypatch.setattr(module, "figures_dir", lambda scale: folder)
    return redraw.redraw()


@pytest.fixture
def results(tmp_path, monkeypatch):
    """A copy of the committed results that a test may damage; figures go beside it."""
    shutil.copytree(config.DATA / "results", tmp_path / "data" / "results")
    monkeypatch.setattr(config, "DATA", tmp_path / "data")
    monkeypatch.setattr(result_tables, "ROOT", tmp_path)
    return tmp_path / "data" / "results" / "smollm2-135m"


@pytest.fixture
def few(monkeypatch):
    """A few figures of each kind, in one format, so that a test of bad files is quick."""
    monkeypatch.setattr(redraw, "FORMATS", ("png",))
    own = ("detection_rates", "detection_levels", "meta_kinds")
    monkeypatch.setattr(redraw, "RESULTS", {name: plots.RESULTS[name] for name in own})
    monkeypatch.setattr(redraw, "PAPER", dict.fromkeys(("paper_fig3", "paper_fig5", "paper_table1")))


def unmeasured() -> set[str]:
    """Figures of the kit's own whose tables have not been committed yet."""
    needed = {name: files for name, (_, files) in plots.RESULTS.items()}
    folders = {name: plots.committed_folder(name) for name in needed}
    return {name for name in needed if not all((folders[name] / f"{file}.csv").is_file() for file in needed[name])}


def test_everything_drawn_twice_is_the_same_bytes(tmp_path, monkeypatch):
    plt.close("all")  # what other tests drew
    told = draw_into(tmp_path / "one", monkeypatch)
    monkeypatch.setattr(redraw, "FORMATS", ("png",))  # other formats twice: see test_plots
    assert draw_into(tmp_path / "two", monkeypatch) == told
    left_out = unmeasured()
    assert {name for fault in told for name in fault.rstrip(".").split("Not drawn: ")[1].split(", ")} == left_out
    one, two = files(tmp_path / "one"), files(tmp_path / "two")
    assert {name: one[name] for name in two if name != gallery.LINKS} == {
        name: content for name, content in two.items() if name != gallery.LINKS
    }
    drawn = {*plots.RESULTS, *plots.PAPER} - left_out
    named = {f"{name}.{kind}" for name in drawn for kind in (*style.FORMATS, "csv")}
    named |= {f"interactive/{name}.html" for name in drawn & set(interactive.TWINS)}
    assert set(one) == named | {"index.html", "paper_claims.csv", gallery.LINKS}
    check_links(one[gallery.LINKS].decode(), tmp_path / "one")
    assert plt.get_fignums() == []
    committed = files(figures_dir("standard"))
    for name in one:
        if name.endswith(("csv", "index.html")):  # others are not kept, or drawn otherwise by other library versions
            assert committed[name] == one[name], f"{name} is not what make figures writes"


def check_links(script: str, folder):
    """The script names every further file of every figure, and none that is not there."""
    links = json.loads(script.removeprefix("const links = ").split(";\nfor (")[0])
    named = {path for files in links.values() for _, path in files}
    further = [*folder.glob("*.svg"), *folder.glob("*.pdf"), *folder.glob("interactive/*.html")]
    assert named == {str(path.relative_to(folder)) for path in further}
    assert set(links) == {*plots.RESULTS, *plots.PAPER}


@pytest.mark.parametrize("name", plots.PAPER)
def test_a_committed_figure_can_be_read_at_its_size(name):
    height, width, _ = plt.imread(figures_dir("standard") / f"{name}.png").shape
    assert 500 < width / 220 * 100 < 800 or name in ("paper_fig2_gains", "paper_table3")
    assert height < width * 1.3


@pytest.mark.parametrize("name", FRAMES)
def test_nothing_is_drawn_that_was_not_published_or_measured(name):
    frame = FRAMES[name]
    known = frame[frame["value"].notna()]
    assert known["source"].str.len().gt(0).all()
    assert frame.loc[frame["value"].isna(), "note"].str.len().gt(0).all()
    paper = known[known["origin"] == "paper"]
    for line in paper[paper["source"].str.match(r"p\d{4}:")].itertuples():
        number = line.source.split(":")[0]
        unit = published.line(number)["unit"]
        assert line.value == pytest.approx(published.value(number) / (100 if unit.startswith("%") else 1))


@pytest.mark.parametrize("name", FRAMES)
def test_a_published_interval_is_marked_as_naive(name):
    frame = FRAMES[name]
    paper = frame[(frame["origin"] == "paper") & frame["ci_low"].notna()]
    assert paper["interval"].str.contains("naive|range over pairs").all()
    assert not frame.loc[frame["origin"] == "ours", "interval"].str.startswith(NAIVE).any()


def test_a_curve_without_numbers_is_told_in_words():
    assert "curves only" in FRAMES["paper_fig6"].query("panel == 'esr' and origin == 'paper'")["note"].iloc[0]
    assert (FRAMES["paper_fig2"].query("panel == 'improvement'")["note"] == PICTURE).sum() == 4


@pytest.mark.parametrize("name", ["paper_held_out", "paper_other_vectors", "paper_versions", "paper_fig19"])
def test_what_was_not_measured_is_told_in_words(name, results):
    for run in ("ablation", "topic_directions"):
        shutil.rmtree(results.parent / "smollm2-135m-corrector" / run, ignore_errors=True)
    ours = plots.PAPER[name][1]().query("origin == 'ours'")
    assert len(ours)
    assert ours["value"].isna().all()
    assert (ours["note"] == NOT_YET).all()


def test_every_point_of_ours_has_its_denominator():
    for name, frame in FRAMES.items():
        ours = frame[(frame["origin"] == "ours") & frame["value"].notna()]
        assert ours["n"].notna().all() or name == "paper_table1"


def test_every_figure_has_a_caption_and_every_table_its_columns():
    assert list(captions.CAPTIONS) == [*plots.PAPER, *plots.RESULTS]
    for name, (_, needed) in plots.RESULTS.items():
        assert all(f"{plots.committed_folder(name).name}/{table}" in COLUMNS for table in needed)


def test_our_ablation_is_drawn_as_soon_as_it_is_measured(results):
    folder = results.parent / "smollm2-135m-corrector" / "ablation"
    folder.mkdir(parents=True, exist_ok=True)
    numbers = {"value": 0.2, "ci_low": 0.1, "ci_high": 0.3, "n_events": 48, "n": 240}
    arms = [("none", "none"), ("detectors", "detectors"), ("matched set", "set 1"), ("matched set", "set 2")]
    lines = [
        {"name": name, "condition": condition, "quantity": quantity, **numbers}
        for name, condition in arms
        for quantity in ("first_score", "multi_attempt", "esr")
    ]
    pd.DataFrame(lines).to_csv(folder / "by_arm.csv", index=False)
    draw, make = plots.PAPER["paper_fig19"]
    ours = make().query("origin == 'ours' and panel == 'esr'")
    assert ours["who"].to_list() == [
        "ours: nothing",
        "ours: detectors (×957)",
        *["ours: 2 matched sets\n(×3.38 to 22.9)"] * 2,
    ]
    assert (ours["value"] == 0.2).all()
    assert ours["ci_low"].notna().to_list() == [True, True, False, False]
    plt.close(draw(make()))


def test_our_detectors_are_drawn_as_soon_as_they_are_measured(results):
    folder = results.parent / "smollm2-135m-corrector" / "latent_discovery"
    folder.mkdir(parents=True, exist_ok=True)
    means = {"off_topic": 0.4, "correction": 0.3, "on_topic": 0.3, "unsteered": 0.1, "uncorrected": 0.2}
    lines = [
        {"group": "detectors", "where": at, "mean": mean, "ci_low": 0.0, "ci_high": 0.5, "n": 40}
        for at, mean in means.items()
    ]
    pd.DataFrame(lines).to_csv(folder / "levels.csv", index=False)
    draw, make = plots.PAPER["paper_fig20_21"]
    ours = make().query("origin == 'ours'")
    assert ours.query("panel == 'ratio'")["value"].dropna().to_list() == pytest.approx([4.0, 3.0])
    assert len(ours.query("panel == 'ours'")) == 3
    plt.close(draw(make()))


def test_our_beginnings_are_drawn_as_soon_as_they_are_measured(results):
    folder = results.parent / "smollm2-135m-corrector" / "following"
    folder.mkdir(parents=True, exist_ok=True)
    ends = {"ci_low": 0.1, "ci_high": 0.3}
    cell = {"source": "restarted", "prefix": "steered"} | ends
    of = {"multi_attempt": (0.2, 8, 40), "improvement": (0.75, 6, 8)}
    cells = [
        cell | {"continuation": continuation, "quantity": name, "rate": rate, "n_events": n_events, "n": n}
        for continuation in ("steered", "unsteered")
        for name, (rate, n_events, n) in of.items()
    ]
    pd.DataFrame(cells).to_csv(folder / "cells.csv", index=False)
    means = [{"arm": arm, "mean": mean, "n": 40, **ends} for arm, mean in {"own": 30.0, "generic": 20.0}.items()]
    pd.DataFrame(means).to_csv(folder / "sustained.csv", index=False)
    gain = {"arm": "generic", "less": "none", "difference": 5.0, "n_pairs": 40, **ends}
    pd.DataFrame([gain]).to_csv(folder / "sustained_contrasts.csv", index=False)
    for name, values in {"paper_prefill": [0.2, 0.75, 0.2, 0.75], "paper_matched_prefix": [5.0, 30.0, 1.5]}.items():
        draw, make = plots.PAPER[name]
        ours = make().query("origin == 'ours'").dropna(subset=["value"])
        assert ours["value"].to_list() == pytest.approx(values)
        assert ours["ci_low"].notna().all() or name != "paper_prefill"
        plt.close(draw(make()))


def test_our_held_out_questions_are_drawn_as_soon_as_they_are_measured(results):
    folder = results.parent / "smollm2-135m-corrector" / "ablation"
    folder.mkdir(parents=True, exist_ok=True)
    known = {"n_pairs": 200, "rate_first": 0.2, "difference": -0.05, "ci_low": -0.09, "ci_high": -0.01}
    lines = [
        {"name": name, "condition": name, "quantity": quantity, "rate_second": rate, **known}
        for name, rate in {"detectors": 0.15, "backtracking": 0.1}.items()
        for quantity in ("multi_attempt", "esr", "minimum_gain_esr")
    ]
    for name in ("contrasts", "held_out_contrasts"):
        pd.DataFrame(lines).to_csv(folder / f"{name}.csv", index=False)
    draw, make = plots.PAPER["paper_held_out"]
    ours = make().query("origin == 'ours'").set_index(["panel", "who"])
    assert ours.loc["esr", "value"].to_dict() == {
        "ours: nothing": 0.2,
        "ours: detectors (×957)": 0.15,
        "ours: backtracking (×1.58)": 0.1,
    }
    assert ours.loc["multi_attempt", "n_events"].to_list() == [40, 30, 20]
    change = ours.loc[("change", "ours: detectors (×957)")]
    assert change[["value", "ci_low", "ci_high", "n"]].to_list() == [-0.05, -0.09, -0.01, 200]
    figure = draw(make())
    assert figure.axes[2].get_xlim()[0] < -9  # below the lowest end, in per cent
    plt.close(figure)
    draw, make = plots.PAPER["paper_versions"]
    ours = make().query("origin == 'ours'")
    assert ours[["value", "ci_low", "ci_high"]].to_numpy() == pytest.approx(np.tile([0.25, 0.05, 0.45], (4, 1)))
    plt.close(draw(make()))


def test_our_topics_are_drawn_as_soon_as_they_are_measured(results):
    folder = results.parent / "smollm2-135m-corrector" / "topic_directions"
    folder.mkdir(parents=True, exist_ok=True)
    known = {"condition": "steered", "quantity": "esr", "ci_low": 0.0, "ci_high": 0.2, "n_events": 9, "n": 90}
    rates = [known | {"directions": name, "rate": rate} for name, rate in {"topics": 0.1, "SAE latents": 0.15}.items()]
    pd.DataFrame(rates).to_csv(folder / "rates.csv", index=False)
    calibrated = pd.DataFrame({"label": ["a", "b", "c"], "strength": [60, 70, 80], "multiplier": [2.0, 0.5, 1.0]})
    calibrated.to_csv(folder / "calibrated.csv", index=False)
    draw, make = plots.PAPER["paper_other_vectors"]
    ours = make().query("origin == 'ours'")
    assert ours.set_index("who")["value"].to_dict() == {
        "ours: SAE latents": 0.15,
        "ours: directions of topics": 0.1,
        "ours: lowest of 3": 0.5,
        "ours: highest of 3": 2.0,
    }
    plt.close(draw(make()))


class Links(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found, self.open = [], []

    def handle_starttag(self, tag, attrs):
        self.found += [value for key, value in attrs if key in ("href", "src")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_links_what_is_there_and_nothing_else():
    folder, parser = figures_dir("standard"), Links()
    text = (folder / "index.html").read_text()
    parser.feed(text)
    assert parser.open == []
    assert parser.found.count(gallery.LINKS) == 1  # git does not keep it; the page can do without
    assert {link for link in parser.found if not (folder / link).is_file()} <= {gallery.LINKS}
    assert {path.name for path in folder.glob("*.csv")} <= set(parser.found)
    assert "prefers-color-scheme: dark" in text
    assert set(re.findall(r"(\w+) could not be drawn", text)) == unmeasured()


def test_a_missing_folder_is_one_sentence_and_the_rest_is_drawn(results, few, tmp_path, monkeypatch):
    shutil.rmtree(results / "esr_detection")
    faults = draw_into(tmp_path / "figures", monkeypatch)
    (fault,) = faults
    assert fault == (
        "there is no folder data/results/smollm2-135m/esr_detection; restore it with git or run its notebook. "
        "Not drawn: detection_rates, detection_levels, paper_fig3, paper_claims."
    )
    drawn = {path.stem for path in (tmp_path / "figures").glob("*.png")}
    assert drawn == {"meta_kinds", "paper_fig5", "paper_table1"}
    assert "paper_fig3 could not be drawn" in (tmp_path / "figures" / "index.html").read_text()


def test_a_missing_column_and_a_bad_number_are_named(results, few, tmp_path, monkeypatch):
    levels, kinds = results / "esr_detection" / "levels.csv", results / "meta_prompting" / "by_kind.csv"
    pd.read_csv(levels).drop(columns="ci_low").to_csv(levels, index=False)
    bad = pd.read_csv(kinds).astype({"value": object})
    bad.loc[4, "value"] = "twelve"
    bad.to_csv(kinds, index=False)
    faults = draw_into(tmp_path / "figures", monkeypatch)
    assert any("esr_detection/levels.csv lacks the column ci_low" in fault for fault in faults)
    assert any("by_kind.csv has 'twelve' in column value, record 5; give a number." in fault for fault in faults)
    assert {path.stem for path in (tmp_path / "figures").glob("*.png")} == {
        "detection_rates",
        "paper_fig5",
        "paper_table1",
    }


@pytest.mark.parametrize("content", ["", "\x00\xff", 'a,b\n1,2,3\n"'])
def test_a_file_that_is_no_table_is_named(results, few, tmp_path, monkeypatch, content):
    (results / "steering" / "resid_norms.csv").write_text(content, encoding="latin-1")
    faults = draw_into(tmp_path / "figures", monkeypatch)
    (fault,) = faults
    assert "data/results/smollm2-135m/steering/resid_norms.csv" in fault
    assert "paper_table1" in fault


def test_a_folder_that_cannot_be_written_stops_at_once(tmp_path, monkeypatch, capsys):
    (tmp_path / "figures").write_text("not a folder")
    monkeypatch.setattr(redraw, "figures_dir", lambda scale: tmp_path / "figures")
    assert redraw.main() == 1
    told = capsys.readouterr().err
    assert told.startswith("no figure can be written into ")
    assert told.endswith("make it a folder you may write to.\n")
    assert told.count("\n") == 1


def test_redrawing_imports_no_torch():
    code = "import sys, esr_utils.plots.redraw; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_bins_hold_every_trial():
    for name, panel in (("paper_fig2_gains", "gain"), ("paper_fig13", "trials")):
        frame = FRAMES[name]
        counted = frame[(frame["panel"] == panel) & (frame["origin"] == "ours")].groupby("who")
        assert (counted["n_events"].sum() == counted["n"].first()).all()
        assert np.isfinite(counted["x"].sum()).all()


@pytest.mark.parametrize("name", FRAMES)
def test_no_share_and_no_end_of_its_interval_is_impossible(name):
    frame = FRAMES[name]
    shares = frame[frame["panel"].isin([*style.QUANTITY_NAMES, "reduction"])]
    ends = shares[["value", "ci_low", "ci_high"]].stack().dropna()
    assert ends.between(0, 1).all()


@pytest.mark.parametrize("part", ["half", "no line"])
def test_trials_that_were_cut_short_are_named(results, few, tmp_path, monkeypatch, part):
    monkeypatch.setattr(redraw, "PAPER", dict.fromkeys(("paper_fig2_gains", "paper_table1")))
    path = results / "esr_detection" / "trials.jsonl"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] if part == "half" else b"")
    faults = draw_into(tmp_path / "figures", monkeypatch)
    (fault,) = faults
    assert re.match(r"data/results/smollm2-135m/esr_detection/trials.jsonl lacks [\d,]+ of the trials", fault)
    assert fault.endswith("Not drawn: paper_fig2_gains, paper_claims.")
    assert {"meta_kinds", "paper_table1"} <= {path.stem for path in (tmp_path / "figures").glob("*.png")}


def test_rates_in_another_unit_are_named(results, few, tmp_path, monkeypatch):
    levels = results / "esr_detection" / "levels.csv"
    table = pd.read_csv(levels)
    table["value"] = table["value"].where(table["quantity"] == "first_score", 100 * table["value"])
    table.to_csv(levels, index=False)
    (fault,) = draw_into(tmp_path / "figures", monkeypatch)
    assert fault.startswith("data/results/smollm2-135m/esr_detection/levels.csv has ")
    assert "rates are shares from 0 to 1; divide per cent by 100. Not drawn: detection_levels, paper_fig3" in fault
    assert (tmp_path / "figures" / "paper_fig5.png").is_file()


def test_columns_of_another_version_are_named(results, few, tmp_path, monkeypatch):
    rates = results / "esr_detection" / "levels.csv"
    pd.read_csv(rates).rename(columns={"n_events": "events", "n": "trials"}).to_csv(rates, index=False)
    (fault,) = draw_into(tmp_path / "figures", monkeypatch)
    assert "esr_detection/levels.csv lacks the column n_events, n; its columns are" in fault
