"""The explorer in a real JupyterLab and a real browser: ``pytest -m browser``.

Needs a chromium on the path and ``pip install playwright`` (its own browsers are not used).
"""

import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import nbformat
import pytest

from esr_utils.config import ROOT

pytestmark = pytest.mark.browser
TOKEN = "explorer"
START_S = 90
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


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


@pytest.fixture(scope="module")
def lab(request, tmp_path_factory) -> str:
    """Address of a JupyterLab on loopback that holds one notebook with the explorer on a tiny pair."""
    folder = tmp_path_factory.mktemp("lab")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(SET_UP)])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, folder / "tiny.ipynb")
    port = free_port()
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1", f"--port={port}", "--allow-root"]
    command += [f"--IdentityProvider.token={TOKEN}", f"--ServerApp.root_dir={folder}"]
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with (folder / "lab.log").open("w") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=folder)
    request.addfinalizer(server.wait)
    request.addfinalizer(server.terminate)  # the last one added runs first
    address = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + START_S
    while not answers(f"{address}/api?token={TOKEN}"):
        assert time.monotonic() < deadline, (folder / "lab.log").read_text()[-2000:]
        time.sleep(0.3)
    return f"{address}/lab/tree/tiny.ipynb?token={TOKEN}"


def answers(address: str) -> bool:
    try:
        return urllib.request.urlopen(address, timeout=2).status == 200
    except OSError:
        return False


@pytest.fixture(scope="module")
def browser(request):
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    assert chromium, "there is no chromium on the path; install one"
    driver = sync_playwright().start()
    request.addfinalizer(driver.stop)
    opened = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
    request.addfinalizer(opened.close)
    return opened


@pytest.fixture(scope="module")
def page(lab, browser):
    """The notebook with its cell run; one page for all tests, in the order of this file."""
    page = browser.new_page(viewport={"width": 1900, "height": 1400})
    page.problems = []
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.goto(lab)
    page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=60_000)
    page.locator(".jp-CodeCell .cm-content").first.click()
    page.wait_for_selector('.jp-Notebook-ExecutionIndicator[data-status="idle"]', timeout=60_000)
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("text=tiny-llama is ready", timeout=60_000)
    return page


def click(page, name: str) -> None:
    page.locator(f".jupyter-button:has-text('{name}')").first.click()


def run(page) -> None:
    """Run and wait until the answers are drawn."""
    click(page, "Run")
    page.wait_for_selector(".esr-grid .esr-lane", timeout=60_000)


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
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll('.jp-OutputArea input, .jp-OutputArea select, .jp-OutputArea button,'
            + '.jp-OutputArea textarea')]
            .filter(e => e.offsetParent && !(e.labels?.length || e.ariaLabel || e.title)
                && !(e.tagName === 'BUTTON' && e.textContent.trim()))
            .map(e => e.outerHTML.slice(0, 120))"""
    )
    assert unnamed == []


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


def test_the_page_raised_no_errors(page):
    assert page.problems == []
