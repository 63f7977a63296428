"""Random clicks, keys and numbers on the explorer with the embedded pair: ``pytest -m browser --clicking-s=600 -s``."""

import random
import time

import psutil
import pytest

from esr_utils.explorer.kept import load_gallery
from esr_utils.tests import browser_parts as parts

pytestmark = pytest.mark.browser
SEED = 20260206
GROWTH_MB = 200
FROZEN_S = 2.0
READY = "smollm2-135m-corrector is ready"
PARTS = {  # what can be clicked or filled, with a weight
    ".jupyter-button:visible:enabled": 6,
    ".jupyter-widgets select:visible": 4,
    "input[type=number]:visible": 4,
    ".esr-range:visible": 4,
    ".esr-text:visible": 3,
    ".esr-bar select:visible": 2,
    ".esr-columns button:visible": 1,
    "input[type=text]:visible": 1,
    "textarea:visible": 1,
}
TYPED = [
    "0",
    "1",
    "-3",
    "24",
    "0.5",
    "1e9",
    "99999",
    "ocean",
    "jazz",
    "How do you bake bread?",
    "  ",
    "esr1.x.y",
    "<b>",
]
KEYS = ["ArrowRight", "ArrowLeft", "Home", "End", "PageUp", "PageDown", "Enter", "Tab"]
GONE = ("Timeout", "not attached", "detached", "not find option")
NEXT_FRAME = "() => new Promise(done => requestAnimationFrame(() => done(performance.now())))"


class Clicker:
    """Does one random thing after another, and times how long the page takes to draw its next frame."""

    def __init__(self, page, rng: random.Random):
        self.page, self.rng, self.n_done, self.slowest_s = page, rng, 0, 0.0

    def act(self) -> None:
        kind = self.rng.choices(list(PARTS), weights=list(PARTS.values()))[0]
        found = self.page.locator(kind)
        if not (n := found.count()):
            return
        self._use(kind, found.nth(self.rng.randrange(n)).element_handle(timeout=2000))
        began = time.monotonic()
        self.page.evaluate(NEXT_FRAME)
        self.slowest_s = max(self.slowest_s, time.monotonic() - began)
        self.n_done += 1
        self.page.wait_for_timeout(self.rng.choice([0, 50, 200, 1000]))

    def _use(self, kind: str, element) -> None:
        """The element may have gone meanwhile, as when its line was dropped; then this does nothing."""
        from playwright.sync_api import Error

        try:
            if "select" in kind:
                options = element.evaluate("e => e.options.length")
                element.select_option(index=self.rng.randrange(max(1, options)), timeout=1000)
            elif kind.startswith(("input[", "textarea")):
                element.fill(self._typed(kind), timeout=1000)
                element.press("Tab", timeout=1000)
            elif kind.startswith((".esr-range", ".esr-text")):
                element.focus()
                element.press(self.rng.choice(KEYS), timeout=1000)
            else:
                element.click(timeout=1000)
        except Error as error:
            if not any(word in str(error) for word in GONE):
                raise

    def _typed(self, kind: str) -> str:
        numbers = [text for text in TYPED if text.strip() and set(text) <= set("0123456789.e-") and text[0] != "e"]
        return self.rng.choice(numbers if "number" in kind else TYPED)


@pytest.fixture
def server(request, tmp_path):
    started = parts.start_voila(tmp_path)
    request.addfinalizer(started.close)
    return started


def memory_mb(page, server) -> tuple[float, float]:
    """Resident memory of the kernel, and the heap of the page after its garbage was collected."""
    session = page.context.new_cdp_session(page)
    session.send("HeapProfiler.collectGarbage")
    heap = session.send("Runtime.getHeapUsage")["usedSize"]
    session.detach()
    (kernel,) = server.kernels()
    return psutil.Process(kernel.pid).memory_info().rss / 1e6, heap / 1e6


def settle(page) -> None:
    """End what runs, and set the controls to a state that can be run."""
    if page.locator(".jupyter-button:has-text('Stop'):enabled").count():
        parts.click(page, "Stop")
    page.wait_for_selector(".jupyter-button:has-text('Stop'):disabled", timeout=120_000)
    box = page.locator(".widget-textarea:has(label:text-is('state')) textarea")
    box.fill(load_gallery(["smollm2-135m-corrector"])[0].state.to_string())
    box.blur()
    parts.click(page, "Load this state")
    page.wait_for_timeout(1500)
    page.wait_for_selector(".jupyter-button:has-text('Stop'):disabled", timeout=120_000)


def warm_up(page) -> None:
    """Everything that takes memory once and keeps it: both subjects, three answers, a sweep, 16 answers, a card."""
    page.get_by_label("subject", exact=True).select_option("smollm2-135m")
    page.wait_for_selector("text=smollm2-135m is ready", timeout=parts.LOAD_MS)
    settle(page)
    parts.run(page)
    parts.click(page, "Sweep strengths")
    parts.wait_for_status(page, "the sweep is below")
    page.get_by_label("tries", exact=True).fill("16")
    parts.click(page, "Find an episode")
    page.wait_for_selector("text=/of those tried|no restart in/", timeout=240_000)
    page.get_by_label("found", exact=True).select_option(index=0)
    page.wait_for_selector(".esr-card:visible h3", timeout=20_000)


def test_random_clicks_break_nothing(request, server, browser):
    page = parts.open_page(browser, server.page)
    page.wait_for_selector(f"text={READY}", timeout=parts.LOAD_MS)
    page.on("dialog", lambda dialog: dialog.dismiss())
    warm_up(page)
    kernel_before, heap_before = memory_mb(page, server)
    clicker = Clicker(page, random.Random(SEED))
    until = time.monotonic() + request.config.getoption("--clicking-s")
    while time.monotonic() < until:
        clicker.act()
        for said in page.locator(".esr-error:visible").all_inner_texts():
            assert "this failed (" not in said, said
    settle(page)
    parts.run(page)
    kernel, heap = memory_mb(page, server)
    print(
        f"\n{clicker.n_done} actions; slowest frame {clicker.slowest_s:.2f} s; kernel {kernel_before:.0f} to "
        f"{kernel:.0f} MB; page {heap_before:.1f} to {heap:.1f} MB"
    )
    assert len(parts.texts(page)) == 3
    assert page.problems == []
    assert "Traceback" not in server.said()
    assert clicker.slowest_s < FROZEN_S
    assert (kernel - kernel_before) + (heap - heap_before) <= GROWTH_MB
