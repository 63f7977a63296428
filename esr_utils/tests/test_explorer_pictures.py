"""The explorer as the README shows it, light and dark: ``pytest -m browser --pictures`` writes the pictures anew."""

import shutil

import matplotlib.image
import numpy as np
import pytest

from esr_utils.config import ROOT
from esr_utils.explorer.kept import load_gallery
from esr_utils.tests import browser_parts as parts

pytestmark = pytest.mark.browser
READY = "smollm2-135m-corrector is ready"
PREPARED = "Bookshelf"  # whose steered answer restarts on most processors
LARGEST_BYTES = 400_000


@pytest.fixture(scope="module", params=["light", "dark"])
def themed(request, tmp_path_factory, browser):
    """A page of the app in one theme, with answers and a sweep; ``page.theme`` names it."""
    server = parts.start_voila(tmp_path_factory.mktemp("app"))
    request.addfinalizer(server.close)
    page = parts.open_page(browser, f"{server.page}&theme={request.param}", width=1400, height=1500)
    page.theme = request.param
    page.wait_for_selector(f"text={READY}", timeout=parts.LOAD_MS)
    titles = [one.title for one in load_gallery(["smollm2-135m", "smollm2-135m-corrector"])]
    at = next(i for i, title in enumerate(titles) if title.startswith(PREPARED))
    page.get_by_label("prepared", exact=True).select_option(index=at)
    words = page.get_by_label("words", exact=True)
    words.fill("festival")
    words.press("Enter")
    page.wait_for_timeout(500)
    page.get_by_label("found", exact=True).select_option(index=0)
    page.wait_for_selector(".esr-card:visible h3", timeout=20_000)
    parts.run(page)
    parts.click(page, "Sweep strengths")
    parts.wait_for_status(page, "the sweep is below")
    return page


def picture(page, first: str, last: str, folder):
    """A png from the top of one element to the bottom of another."""
    page.mouse.move(0, 0)
    top, bottom = (page.locator(f"{name} >> visible=true").first.bounding_box() for name in (first, last))
    page.set_viewport_size({"width": 1400, "height": round(bottom["y"] + bottom["height"] + 40)})
    path = folder / f"explorer_{page.theme}.png"
    top, bottom = (page.locator(f"{name} >> visible=true").first.bounding_box() for name in (first, last))
    height = bottom["y"] + bottom["height"] + 8 - top["y"]
    page.screenshot(path=path, clip={"x": 0, "y": top["y"] - 8, "width": 1400, "height": height})
    return path


def test_the_picture_is_whole_and_small(request, themed, tmp_path):
    themed.evaluate("document.querySelectorAll('.esr-text').forEach(text => { text.scrollTop = 0; })")
    token = themed.locator(".esr-grid .esr-panel").nth(1).locator(".esr-token").nth(20)
    token.hover()
    ends = (".widget-dropdown", ".esr-grid") if themed.theme == "light" else (".esr-bar", ".esr-strip")
    path = picture(themed, *ends, tmp_path)
    assert path.stat().st_size <= LARGEST_BYTES
    mean = matplotlib.image.imread(path)[..., :3].mean()
    assert mean > 0.75 if themed.theme == "light" else mean < 0.4
    assert np.ptp(matplotlib.image.imread(path)[..., :3]) > 0.8
    if request.config.getoption("--pictures"):
        shutil.copy(path, ROOT / "figures")


def test_text_can_be_read_on_its_ground(themed):
    assert parts.too_faint(themed, [*parts.TEXTS, ".esr-lane-name", ".esr-facts", ".esr-mark"]) == {}


def test_nothing_is_cut_or_overlaps(themed):
    for width in (1000, 1900):
        themed.set_viewport_size({"width": width, "height": 1500})
        themed.wait_for_timeout(400)
        wide = themed.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 1, f"the page is {wide} pixels too wide at {width}"
        boxes = [box for box in (b.bounding_box() for b in themed.locator(".jupyter-button:visible").all()) if box]
        for i, a in enumerate(boxes):
            for b in boxes[:i]:
                apart = a["x"] + a["width"] <= b["x"] + 1 or b["x"] + b["width"] <= a["x"] + 1
                assert apart or a["y"] + a["height"] <= b["y"] + 1 or b["y"] + b["height"] <= a["y"] + 1
