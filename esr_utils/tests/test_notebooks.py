"""Notebooks: script and notebook in step, executed from committed results, short cells, nothing private."""

import re
import statistics

import jupytext
import nbformat
import pytest

from esr_utils.config import ROOT

SCRIPTS = sorted((ROOT / "notebooks").glob("[0-9]*.py"))
NAMES = [script.stem for script in SCRIPTS]


def read(name: str) -> tuple[nbformat.NotebookNode, nbformat.NotebookNode]:
    folder = ROOT / "notebooks"
    return jupytext.read(folder / f"{name}.py"), nbformat.read(folder / f"{name}.ipynb", as_version=4)


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.mark.parametrize("name", NAMES)
def test_script_and_notebook_hold_the_same_cells(name):
    script, notebook = read(name)
    assert [(c.cell_type, c.source) for c in script.cells] == [(c.cell_type, c.source) for c in notebook.cells]


@pytest.mark.parametrize("name", NAMES)
def test_notebook_was_executed_in_order_and_without_an_error(name):
    _, notebook = read(name)
    assert [c.execution_count for c in code_cells(notebook)] == list(range(1, len(code_cells(notebook)) + 1))
    kinds = {output.output_type for cell in code_cells(notebook) for output in cell.outputs}
    assert "error" not in kinds


@pytest.mark.parametrize("name", NAMES)
def test_outputs_show_no_local_path(name):
    text = (ROOT / "notebooks" / f"{name}.ipynb").read_text()
    assert not re.findall(r"(?<![\w.:/])/(?:home|root|tmp|work|Users|usr)/[\w./-]+", text)


@pytest.mark.parametrize("name", NAMES)
def test_parameters_are_the_two_dials(name):
    script, _ = read(name)
    (cell,) = [c for c in script.cells if "parameters" in c.metadata.get("tags", [])]
    assert re.findall(r"^(\w+) = ", cell.source, flags=re.M) == ["PAIR", "SCALE"]


@pytest.mark.parametrize("name", NAMES)
def test_cells_are_short(name):
    script, _ = read(name)
    lengths = [len([line for line in c.source.splitlines() if line.strip()]) for c in code_cells(script)]
    assert statistics.median(lengths) <= 8
    assert max(lengths) <= 20
