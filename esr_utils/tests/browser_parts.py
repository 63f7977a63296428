"""Servers on loopback and a browser, for the tests marked ``browser``."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import psutil

from esr_utils.config import ROOT
from esr_utils.explorer.serve import NOTEBOOK, until_explorer

TOKEN = "explorer"
START_S = 90
LOAD_MS = 150_000
TEXTS = [".esr-token", ".esr-status", ".esr-panel h3", ".esr-scores"]
CONTRAST = 4.5  # of text, as WCAG asks
RATIO = """element => {
    const parts = colour => [...colour.match(/[\\d.]+/g).map(Number), 1].slice(0, 4);
    const over = (top, below) => [0, 1, 2].map(i => top[i] * top[3] + below[i] * (1 - top[3]));
    const light = colour => colour
        .map(c => c / 255).map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
        .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
    const grounds = [];
    for (let at = element; at && !grounds.some(ground => ground[3] === 1); at = at.parentElement)
        grounds.unshift(parts(getComputedStyle(at).backgroundColor));
    const ground = grounds.reduce((below, top) => over(top, below), [255, 255, 255]);
    const both = [light(over(parts(getComputedStyle(element).color), ground)), light(ground)];
    return (Math.max(...both) + 0.05) / (Math.min(...both) + 0.05);
}"""
CHROMIUM = ["--no-sandbox", "--enable-precise-memory-info"]


class Server:
    """A server that a test started, with the folder it works in and the address of its page."""

    def __init__(self, options: list[str], folder: Path, page: str):
        self.folder, port = folder, free_port()
        command = [sys.executable, "-m", *options, f"--port={port}", "--no-browser"]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, env=_environment(folder), stdout=log, stderr=log, cwd=folder)
        address = f"http://127.0.0.1:{port}"
        self.page = f"{address}{page}?token={TOKEN}"
        deadline = time.monotonic() + START_S
        while not answers(f"{address}/voila/static/voila.js") and not answers(f"{address}/api?token={TOKEN}"):
            assert self.process.poll() is None, self.said()[-2000:]
            assert time.monotonic() < deadline, self.said()[-2000:]
            time.sleep(0.3)

    @property
    def log(self) -> Path:
        return self.folder / "server.log"

    def said(self) -> str:
        return self.log.read_text()

    def kernels(self) -> list[psutil.Process]:
        found = psutil.Process(self.process.pid).children(recursive=True)
        return [child for child in found if _is_kernel(child)]

    def close(self) -> None:
        for process in [*self.kernels(), self.process]:
            process.terminate()
        self.process.wait(20)


def _is_kernel(process: psutil.Process) -> bool:
    try:
        return "ipykernel_launcher" in " ".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.ZombieProcess):  # it has just ended
        return False


def _environment(folder: Path) -> dict[str, str]:
    cache = os.environ.get("ESR_CACHE", str(Path.home() / ".cache" / "esr"))
    handed_down = {name: os.environ[name] for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT") if name in os.environ}
    mine = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return handed_down | mine | {"ESR_CACHE": cache, "HF_HUB_OFFLINE": "1"}


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def answers(address: str) -> bool:
    try:
        return urllib.request.urlopen(address, timeout=2).status == 200
    except OSError:
        return False


def start_lab(folder: Path, notebook: nbformat.NotebookNode) -> Server:
    """JupyterLab that holds one notebook."""
    nbformat.write(notebook, folder / "explorer.ipynb")
    options = ["jupyterlab", "--ip=127.0.0.1", "--allow-root", f"--IdentityProvider.token={TOKEN}"]
    return Server([*options, f"--ServerApp.root_dir={folder}"], folder, "/lab/tree/explorer.ipynb")


def start_voila(folder: Path) -> Server:
    """What ``make explore APP=1`` starts."""
    return Server(["esr_utils.explorer.serve", f"--token={TOKEN}"], folder, "/")


def published() -> nbformat.NotebookNode:
    """Notebook 00 up to the explorer, as it stands before it is run."""
    notebook = until_explorer(None, nbformat.read(NOTEBOOK, as_version=4), "")
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return notebook


def start_browser():
    """Debian's chromium under playwright: the driver to stop and the browser to close."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    assert chromium, "there is no chromium on the path; install one"
    driver = sync_playwright().start()
    return driver, driver.chromium.launch(executable_path=chromium, args=CHROMIUM)


def open_page(browser, address: str, *, width: int = 1900, height: int = 1400):
    """A page that collects what goes wrong in it and which other hosts it asks."""
    page = browser.new_page(viewport={"width": width, "height": height})
    page.problems, page.elsewhere = [], []
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.on("requestfinished", lambda request: _note_host(page, request.url))
    page.on("requestfailed", lambda request: request.failure == "csp" or _note_host(page, request.url))
    page.goto(address, timeout=LOAD_MS)
    return page


def _note_host(page, url: str) -> None:
    if url.startswith(("http", "ws")) and "//127.0.0.1:" not in url:
        page.elsewhere.append(url)


def run_all_cells(page, ready: str) -> None:
    """Run a notebook in JupyterLab from top to bottom, until the explorer says ``ready``."""
    page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=60_000)
    page.wait_for_selector('.jp-Notebook-ExecutionIndicator[data-status="idle"]', timeout=60_000)
    page.locator(".jp-CodeCell .cm-content").first.click()
    begun = page.locator(".jp-InputPrompt", has_text=re.compile(r"\[[*\d]+\]")).first
    for _ in range(10):  # a kernel that has just been connected to may not take it
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        page.wait_for_timeout(1500)
        if begun.count():
            break
    page.wait_for_selector(f"text={ready}", timeout=LOAD_MS)


def click(page, name: str) -> None:
    page.locator(f".jupyter-button:has-text('{name}')").first.click()


def run(page) -> None:
    """Run and wait until the answers are drawn."""
    page.evaluate("document.querySelectorAll('.esr-lane').forEach(lane => lane.classList.add('test-old'))")
    click(page, "Run")
    page.wait_for_selector(".esr-grid .esr-lane:not(.test-old)", timeout=120_000)


def texts(page) -> list[str]:
    return page.locator(".esr-grid .esr-text").all_inner_texts()


def alert(page, words: str = "") -> str:
    """The error that stands on the page, once it holds these words."""
    shown = page.locator(".esr-error:visible", has_text=words)
    shown.wait_for(timeout=20_000)
    return shown.inner_text()


def wait_for_status(page, words: str, *, seconds: float = 120.0) -> str:
    said = page.locator(".esr-status:visible", has_text=words)
    said.wait_for(timeout=seconds * 1000)
    return said.inner_text()


def too_faint(page, names: list[str]) -> dict[str, float]:
    """Contrast of the first element of each kind with its ground, where it is less than text should have."""
    ratios = {name: page.locator(f"{name} >> visible=true").first.evaluate(RATIO) for name in names}
    return {name: round(ratio, 2) for name, ratio in ratios.items() if ratio < CONTRAST}


def choose_theme(page, name: str) -> None:
    """Have JupyterLab take a theme, by its menu."""
    page.get_by_role("menuitem", name="Settings", exact=True).click()
    for words in ("Theme", name):
        page.locator(".lm-Menu-item", has_text=re.compile(rf"^{words}\s*$")).click()
    page.wait_for_selector(f"body[data-jp-theme-name='{name}']", state="attached")
