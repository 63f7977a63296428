"""The explorer in a real JupyterLab and a real browser: ``pytest -m browser``.

Needs a chromium on the path and ``pip install playwright`` (its own browsers are not used).
"""

import re

import nbformat
import pytest

from esr_utils.tests.browser_parts import (
    TEXTS,
    choose_theme,
    click,
    open_page,
    run,
    run_all_cells,
    start_lab,
    too_faint,
)

pytestmark = pytest.mark.browser
SET_UP = """
from pathlib import Path
from esr_utils.explorer.app import App
from esr_utils.tests.conftest import tiny_pair
from esr_utils.tests.explorer_parts import tiny_explorer
pair = tiny_pair("llama")
pair.model.generation_config.eos_token_id = [2]
app = App(tiny_explorer(pair), folder=Path("kept"))
app.settings.n_tokens.value = 120
app.root
"""


@pytest.fixture(scope="module")
def lab(request, tmp_path_factory) -> str:
    """Address of a JupyterLab on loopback that holds one notebook with the explorer on a tiny pair."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(SET_UP)])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    server = start_lab(tmp_path_factory.mktemp("lab"), notebook)
    request.addfinalizer(server.close)
    return server.page


@pytest.fixture(scope="module")
def page(lab, browser):
    """The notebook with its cell run; one page for all tests, in the order of this file."""
    page = open_page(browser, lab)
    run_all_cells(page, "tiny-llama is ready")
    return page


def test_three_answers_come_side_by_side(page):
    run(page)
    panels = page.locator(".esr-grid .esr-panel")
    assert [panels.nth(i).get_attribute("data-arm") for i in range(panels.count())] == [
        "unsteered",
        "steered",
        "detectors_ablated",
    ]
    assert page.locator(".esr-grid .esr-token").count() > 100
    tops = {round(panels.nth(i).bounding_box()["y"]) for i in range(3)}
    assert len(tops) == 1


def test_nothing_moves_while_the_answers_grow(page):
    def boxes() -> list:
        parts = page.locator(".esr-panel, .esr-bar, .esr-text")
        return [parts.nth(i).bounding_box() for i in range(parts.count())]

    before = boxes()
    click(page, "Run")
    seen = []
    for _ in range(12):
        seen.append(boxes())
        page.wait_for_timeout(60)
    page.wait_for_selector(".esr-grid .esr-lane", timeout=60_000)
    assert all(there == before for there in [*seen, boxes()])


def test_arrow_keys_move_through_the_tokens(page):
    text = page.locator(".esr-text").nth(1)
    text.focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    readout = page.locator(".esr-readout").nth(1).inner_text()
    assert "(token 2)" in readout
    assert "detectors" in readout
    assert page.locator(".esr-panel").nth(1).locator(".esr-here").count() == 1


def test_colours_follow_the_choice(page):
    token = page.locator(".esr-panel").nth(1).locator(".esr-token").nth(5)
    before = token.evaluate("span => span.style.getPropertyValue('--esr-tint')")
    page.locator(".esr-bar select:visible").first.select_option("topicality")
    page.wait_for_timeout(300)
    assert token.evaluate("span => span.style.getPropertyValue('--esr-tint')") != before


def test_a_bad_prompt_is_told_as_an_alert(page):
    prompt = page.locator("textarea").first
    prompt.fill("  ")
    prompt.blur()
    click(page, "Run")
    alert = page.locator(".esr-error:visible")
    alert.wait_for(timeout=10_000)
    assert alert.inner_text() == "the prompt is empty; ask the model something"
    prompt.fill("And now?")
    prompt.blur()
    run(page)


def test_every_control_has_a_name(page):
    """As the browser tells it to screen readers."""
    told = page.locator(".jp-OutputArea").first.aria_snapshot()
    controls = re.findall(r"- ((?:button|slider|combobox|listbox|textbox|spinbutton)\b.*)", told)
    assert len(controls) > 30
    assert [control for control in controls if not re.search(r'"[^"]*\w\w[^"]*"', control)] == []


def test_a_second_tab_shows_the_same_answers(page, lab, browser):
    page.keyboard.press("Control+s")  # the second tab reads the notebook from disk, and the widgets from the kernel
    page.wait_for_timeout(1000)
    other = browser.new_page(viewport={"width": 1000, "height": 1200})
    other.goto(lab)
    other.wait_for_selector(".esr-grid .esr-lane", timeout=60_000)
    assert other.locator(".esr-text").nth(1).inner_text() == page.locator(".esr-text").nth(1).inner_text()
    wide = other.locator(".esr-view").last.evaluate("view => view.scrollWidth - view.clientWidth")
    assert wide <= 1
    other.close()


def test_a_tab_closed_in_the_middle_leaves_the_kernel_working(page, lab, browser):
    other = browser.new_page(viewport={"width": 1000, "height": 1200})
    other.goto(lab)
    other.wait_for_selector(".esr-grid .esr-lane", timeout=60_000)
    click(other, "Run")
    other.close()
    page.wait_for_timeout(1500)
    run(page)


@pytest.mark.parametrize("theme", ["JupyterLab Dark", "JupyterLab Dark High Contrast", "JupyterLab Light"])
def test_text_can_be_read_in_every_theme(page, theme):
    choose_theme(page, theme)
    page.wait_for_timeout(500)
    assert too_faint(page, TEXTS) == {}


def test_the_page_raised_no_errors(page):
    assert page.problems == []
