"""The explorer with the embedded pair in a real JupyterLab and as a real Voila app: ``pytest -m browser -s``.

``-s`` shows the times that are measured on the way. The tests of one front end share a page, in the order of this file.
"""

import json
import re
from dataclasses import replace
from statistics import median

import pytest

from esr_utils.config import ROOT
from esr_utils.explorer.kept import load_gallery
from esr_utils.explorer.state import Pick, State
from esr_utils.tests import browser_parts as parts

pytestmark = pytest.mark.browser
PAIR = "smollm2-135m-corrector"
READY = f"{PAIR} is ready"
FIRST_TOKEN_MS = 1000
REDRAW_MS = 100
STRENGTHS = ".esr-range[aria-label^='strength']"
WATCH = """async ([start, isDone]) => {
    const begun = performance.now();
    eval(start);
    while (!eval(isDone) && performance.now() - begun < 20000) await new Promise(requestAnimationFrame);
    return performance.now() - begun;
}"""
CLICK_RUN = "[...document.querySelectorAll('.jupyter-button')].find(e => e.textContent.includes('Run')).click()"
HAS_TEXT = "[...document.querySelectorAll('.esr-grid .esr-text')].some(e => e.textContent && !e.querySelector('span'))"
MOVE = """window.slider = document.querySelector('.esr-range[aria-label^="strength"]');
window.box = document.querySelector('label[title="strength, raw units"] + input');
window.before = box.value; slider.value = 0.9 * Number(slider.value);
slider.dispatchEvent(new Event('input', {bubbles: true}));"""
CHOOSE_COLOUR = """window.token = document.querySelectorAll('.esr-panel .esr-token')[9];
window.tinted = () => token.style.getPropertyValue('--esr-tint');
window.before = tinted(); window.choice = [...document.querySelectorAll('.esr-bar select')].find(e => e.offsetParent);
choice.value = choice.value === 'topicality' ? 'detectors' : 'topicality'; choice.dispatchEvent(new Event('change'));"""


@pytest.fixture(scope="module", params=["jupyterlab", "voila"])
def server(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    started = parts.start_voila(folder) if request.param == "voila" else parts.start_lab(folder, parts.published())
    started.front_end = request.param
    request.addfinalizer(started.close)
    return started


@pytest.fixture(scope="module")
def page(request, server, browser):
    page = parts.open_page(browser, server.page)
    request.addfinalizer(page.close)
    make_ready(page, server)
    return page


def make_ready(page, server) -> None:
    if server.front_end == "jupyterlab":
        parts.run_all_cells(page, READY)
    page.wait_for_selector(f"text={READY}", timeout=parts.LOAD_MS)


def control(page, label: str):
    """The control with this description."""
    return page.get_by_label(label, exact=True).locator("visible=true").first


def load(page, text: str) -> None:
    """Put a state into the text box and load it."""
    box = page.locator(".widget-textarea:has(label:text-is('state')) textarea")
    box.fill(text)
    box.blur()
    parts.click(page, "Load this state")


def report(server, what: str, milliseconds: float) -> None:
    print(f"\n{server.front_end}: {what} {milliseconds:.0f} ms")


def test_latents_are_found_and_one_is_picked(page):
    words = control(page, "words")
    words.fill("ocean")
    words.press("Enter")
    page.wait_for_selector("select option:has-text('ocean')", state="attached", timeout=10_000)
    found = page.locator("select[size], select[multiple]").first
    found.select_option(index=0)
    page.wait_for_selector(".esr-card:visible h3", timeout=20_000)
    card = page.locator(".esr-card:visible")
    assert "ocean" in card.inner_text()
    assert card.locator("svg rect.esr-column").count() == 20, "the histogram"
    headings = card.locator("h4").all_inner_texts()
    assert headings == ["strongest contexts", "activations", "top logits", "bottom logits", "nearest by decoder cosine"]
    parts.click(page, "Pick this latent")
    page.locator(STRENGTHS).nth(1).wait_for(timeout=5000)


def test_filters_narrow_what_is_found(page):
    def count() -> int:
        return int(page.locator(".widget-html", has_text=re.compile(r"^\d+ latents")).first.inner_text().split()[0])

    words = control(page, "words")
    words.fill("")
    words.press("Enter")
    page.wait_for_selector("text=4096 latents", timeout=10_000)
    for end, value in (("concrete from", "20"), ("density % to", "0.05")):
        before = count()
        control(page, end).fill(value)
        control(page, end).press("Enter")
        page.wait_for_function(f"!document.body.textContent.includes('{before} latents')", timeout=10_000)
        assert 0 < count() < before


def test_the_calibrated_strength_is_marked_on_the_slider(page):
    slider = page.locator(".esr-slider:has-text('calibrated')").first
    mark = slider.locator(".esr-mark").nth(1)
    strength = float(mark.inner_text().split()[-1])
    track, at = slider.locator(".esr-range").bounding_box(), mark.bounding_box()
    reach = float(slider.locator(".esr-range").get_attribute("max"))
    expected = track["x"] + 8 + (track["width"] - 16) * (strength / reach + 1) / 2
    assert abs(at["x"] + at["width"] / 2 - expected) < 2
    assert track["x"] < at["x"] < track["x"] + track["width"]


def test_a_moved_slider_is_followed_at_once(page, server):
    taken = [page.evaluate(WATCH, [MOVE, "box.value !== before"]) for _ in range(9)]
    report(server, "strength slider to the numbers beside it, median of 9", float(median(taken)))
    report(server, "the slowest of them", float(max(taken)))
    assert median(taken) <= REDRAW_MS
    page.locator(STRENGTHS).first.press("ArrowRight")


def test_three_answers_stream_and_differ(page, server):
    load(page, prepared().to_string())
    parts.wait_for_status(page, "the state is loaded")
    taken = page.evaluate(WATCH, [CLICK_RUN, HAS_TEXT])
    report(server, "click to the first streamed token", float(taken))
    seen = []
    while not page.locator(".esr-grid .esr-lane").count():
        seen.append([len(text) for text in parts.texts(page)])
        page.wait_for_timeout(100)
    assert len({tuple(lengths) for lengths in seen}) > 5, "the texts grow step by step"
    assert all(min(lengths[i] for lengths in seen) < max(lengths[i] for lengths in seen) for i in range(3))
    assert len(set(parts.texts(page))) == 3
    assert taken <= FIRST_TOKEN_MS


def test_colours_change_at_once(page, server):
    taken = page.evaluate(WATCH, [CHOOSE_COLOUR, "tinted() !== before"])
    report(server, "choice of a colour to its drawing", float(taken))
    assert taken <= REDRAW_MS


def test_stop_leaves_what_was_written(page):
    parts.click(page, "Run")
    page.wait_for_function(HAS_TEXT, timeout=10_000)
    parts.click(page, "Stop")
    page.wait_for_selector(".esr-grid .esr-lane", timeout=30_000)
    assert page.locator(".esr-scores", has_text="stopped before its end").count() == 3
    assert any(parts.texts(page))


def test_a_state_is_restored_to_the_letter(page):
    state = prepared()
    load(page, state.to_string())
    parts.wait_for_status(page, "the state is loaded")
    page.wait_for_timeout(500)  # whatever a control would send back of its own has come by now
    parts.click(page, "State as JSON")
    box = page.locator(".widget-textarea:has(label:text-is('state')) textarea")
    page.wait_for_function("e => e.value.startsWith('{')", arg=box.element_handle(), timeout=5000)
    shown = State.from_json(box.input_value(), pairs=[PAIR])
    assert shown == state


def prepared() -> State:
    return replace(load_gallery([PAIR])[0].state, max_new_tokens=24)


BAD_STATES = {
    "of another pair": (prepared().to_string().replace(PAIR, "gemma-2-2b"), r"two pairs|of the pair 'gemma-2-2b'"),
    "of another pair, as JSON": (
        prepared().to_json().replace(PAIR, "gemma-2-2b"),
        r"^the state is of the pair 'gemma-2-2b', whose latents are not those here",
    ),
    "of another version": (prepared().to_string().replace("esr1.", "esr9."), r"^the state is of version '9'"),
    "too strong": (
        json.dumps({**json.loads(prepared().to_json()), "picks": [{"latent": 1, "strength": 1e9}]}),
        "1e\\+09",
    ),
    "cut off": (prepared().to_string()[:-9], r"^the state is damaged"),
}


@pytest.mark.parametrize("name", BAD_STATES)
def test_a_bad_state_is_told_in_a_sentence(page, name):
    text, told = BAD_STATES[name]
    load(page, text)
    page.wait_for_timeout(300)
    assert re.search(told, parts.alert(page)), parts.alert(page)


def test_bad_controls_are_told_in_a_sentence(page):
    load(page, prepared().to_string())
    parts.wait_for_status(page, "the state is loaded")
    box = page.locator("label[title='strength, raw units'] + input").first
    box.fill("1e9")
    box.press("Enter")
    parts.click(page, "Run")
    assert parts.alert(page).startswith("strength 1e+09 of latent 3877 is beyond 1e+06")
    load(page, prepared().to_string())
    parts.wait_for_status(page, "the state is loaded")
    prompt = control(page, "prompt")
    prompt.fill("   ")
    prompt.blur()
    parts.click(page, "Run")
    assert parts.alert(page, "prompt") == "the prompt is empty; ask the model something"


def test_a_latent_out_of_range_is_told_in_a_sentence(page):
    load(page, replace(prepared(), picks=(Pick(latent=99999, strength=5.0),)).to_string())
    parts.wait_for_status(page, "the state is loaded")
    parts.click(page, "Run")
    assert re.match(r"latent 99999 is not in .*: it has 4096 latents \(0 to 4095\)", parts.alert(page))


def test_a_sweep_is_shown_and_saved_with_the_page(page, browser):
    load(page, prepared().to_string())
    parts.wait_for_status(page, "the state is loaded")
    parts.run(page)
    parts.click(page, "Sweep strengths")
    parts.wait_for_status(page, "the sweep is below the answers")
    assert page.locator(".esr-strip .esr-panel:visible").count() == 6
    parts.click(page, "Save as page")
    saved = ROOT / parts.wait_for_status(page, "saved as").removeprefix("saved as ")
    assert saved.is_relative_to(ROOT / "runs")
    alone = parts.open_page(browser, saved.as_uri())
    assert parts.texts(alone) == parts.texts(page)
    assert alone.locator(".esr-strip .esr-panel").count() == 6
    strips = [shown.locator(".esr-strip .esr-text").all_inner_texts() for shown in (alone, page)]
    assert strips[0] == strips[1]
    assert (alone.problems, alone.elsewhere) == ([], [])
    alone.close()
    saved.unlink()


def test_a_trial_is_added_to_the_results(page):
    parts.click(page, "Keep trial")
    kept = ROOT / parts.wait_for_status(page, "kept in").removeprefix("kept in ")
    newest = json.loads(kept.read_text().splitlines()[-1])
    assert newest["state"]["prompt"] == prepared().prompt


def test_the_view_fits_a_narrow_page(page):
    page.set_viewport_size({"width": 1000, "height": 1200})
    page.wait_for_timeout(500)
    for part in page.locator(".esr-view:visible").all():
        assert part.evaluate("view => view.scrollWidth - view.clientWidth") <= 1
    page.set_viewport_size({"width": 1900, "height": 1400})


def test_a_reload_brings_the_explorer_back(page, server):
    before = parts.texts(page)
    if server.front_end == "jupyterlab":
        page.keyboard.press("Control+s")
        page.wait_for_timeout(1500)
    page.reload(timeout=parts.LOAD_MS)
    if server.front_end == "voila":  # a page of its own kernel; the state brings the same answers
        page.wait_for_selector(f"text={READY}", timeout=parts.LOAD_MS)
        load(page, prepared().to_string())
        parts.wait_for_status(page, "the state is loaded")
        parts.run(page)
    page.wait_for_selector(".esr-grid .esr-lane", timeout=60_000)
    assert parts.texts(page) == before


def test_two_tabs_and_one_that_is_closed_in_the_middle(page, server, browser):
    other = parts.open_page(browser, server.page, width=1000)
    if server.front_end == "voila":
        other.wait_for_selector(f"text={READY}", timeout=parts.LOAD_MS)
    other.locator(".jupyter-button:has-text('Run')").first.wait_for(timeout=60_000)
    parts.click(other, "Run")
    other.wait_for_timeout(700)
    other.close(run_before_unload=True)
    parts.run(page)
    assert len(parts.texts(page)) == 3
    if server.front_end == "voila":
        for _ in range(600):  # it is taken away within two minutes
            if len(server.kernels()) == 1:
                break
            page.wait_for_timeout(200)
        assert len(server.kernels()) == 1, "the closed tab's kernel is gone"


def test_nothing_was_raised_and_nothing_asked_elsewhere(page, server):
    assert page.problems == []
    assert page.elsewhere == []
    assert "Traceback" not in server.said()
