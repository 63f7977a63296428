"""The explorer's page without a browser: traits, jobs that never interleave, and errors that become sentences."""

import json
import threading
from dataclasses import replace

import pytest

from esr_utils.explorer.app import App
from esr_utils.explorer.kept import Prepared
from esr_utils.explorer.state import Pick
from esr_utils.explorer.worker import Inline, Job, Worker, sentence
from esr_utils.tests.explorer_parts import HalvingJudge, tiny_explorer, tiny_state

WAIT_S = 30


@pytest.fixture
def app(tiny_llama, tmp_path) -> App:
    """A page whose work is done at once."""
    return App(tiny_explorer(tiny_llama), folder=tmp_path, executor=Inline())


@pytest.fixture
def threaded(tiny_llama, tmp_path) -> App:
    """A page as users have it, its subject loaded."""
    app = App(tiny_explorer(tiny_llama), folder=tmp_path)
    app.show_card(7)
    app.worker.submit("wait", lambda job: None).result(WAIT_S)
    return app


def arms(app: App) -> list[str]:
    return [answer["arm"] for answer in app.view.shown["answers"]]


def test_a_run_reaches_the_view(app):
    app.run()
    assert arms(app) == ["unsteered", "steered", "detectors_ablated"]
    assert app.view.live["texts"][1] in app.view.shown["answers"][1]["text"]
    assert (app.view.busy, app.view.error) == (False, "")
    assert "tokens in" in app.view.status


def test_a_run_in_its_thread_is_the_same(app, threaded):
    app.run()
    threaded.run().result(WAIT_S)
    assert threaded.view.shown == app.view.shown


def test_the_same_answers_reach_the_view_twice(app):
    seen = []
    app.view.observe(lambda change: seen.append(bool(change["new"])), "shown")
    app.run()
    app.run()
    assert seen == [True, False, True]


def test_controls_and_state_agree(app, tiny_llama):
    state = tiny_state(
        tiny_llama,
        picks=(Pick(latent=9, strength=-3.5, share=0.5), Pick(latent=1)),
        meta_prompt="focus",
        wording=1,
        temperature=0.0,
        scope="generated",
        share=0.5,
        colour="topicality",
    )
    app.set_state(state)
    assert app.state() == state
    assert "do not let" in app.settings.suffix.value or "Hold your attention" in app.settings.suffix.value


def test_slider_and_boxes_follow_one_another(app):
    (line,) = app.lines
    line.relative.value = 0.5
    assert line.raw.value == pytest.approx(0.5 / line.measure.relative, rel=1e-3)
    line.raw.value = 4.0
    assert (line.slider.value, line.relative.value) == (4.0, pytest.approx(4.0 * line.measure.relative, rel=1e-3))
    line.slider.value = 2.0
    assert line.raw.value == 2.0
    line.raw.value = 500.0
    assert (line.raw.value, line.slider.value, line.slider.high) == (500.0, 500.0, 16.0)
    assert line.slider.marks == [("0", 0.0), ("calibrated 8", 8.0)]
    line.calibrate.click()
    assert line.raw.value == 8.0


def test_a_picked_latent_starts_at_its_calibrated_strength(app):
    app.lines[0].drop.click()
    assert app.lines == []
    app.pick(7)
    app.pick(8)
    app.pick(8)
    assert [(line.latent, line.raw.value) for line in app.lines] == [(7, 8.0), (8, 0.0)]
    assert app.view.status == "latent 8 is picked already"


def test_labels_are_searched_as_the_filters_change(app):
    app.finder.text.value = "oven"
    assert len(app.finder.found.options) == 30
    app.finder.concreteness[0].value = 58
    assert [latent for _, latent in app.finder.found.options] == [59]
    app.finder.found.value = 59
    assert app.card_view.card["latent"] == 59
    app.finder.add.click()
    assert app.lines[-1].latent == 59


def test_a_sentence_lists_the_latents_that_fire(app):
    app.finder.way.value = "sentence"
    app.finder.text.value = "bread rises"
    found = app.explorer.fires_on("bread rises")
    listed = [latent for _, latent in app.finder.found.options]
    assert listed == found[found["density"].notna()].index.tolist()


def test_a_neighbour_that_is_clicked_gets_its_card(app):
    app.card_view.wanted = 12
    assert (app.card_view.card["latent"], app.card_view.wanted) == (12, -1)


def test_a_sweep_fills_the_strip(app):
    app.sweep()
    assert [answer["arm"] for answer in app.view.strip["answers"]][:2] == ["x 0", "x 0.5"]


def test_an_episode_sets_the_seed_and_is_shown(tiny_llama, tmp_path):
    app = App(tiny_explorer(tiny_llama, HalvingJudge()), folder=tmp_path, executor=Inline())
    app.buttons["episode"].click()
    assert app.settings.seed.value == app.view.shown["state"]["seed"]
    assert "of those tried" in app.view.status
    none = App(tiny_explorer(tiny_llama, HalvingJudge("nowhere")), folder=tmp_path, n_tries=5, executor=Inline())
    none.buttons["episode"].click()
    assert none.view.status.startswith("no restart in 5 tries")


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda app: setattr(app.settings.prompt, "value", "  "), "the prompt is empty; ask the model something"),
        (lambda app: setattr(app.lines[0].raw, "value", 1e9), "strength 1e+09 of latent 7 is beyond"),
        (lambda app: app.pick(64), "latent 64 is not in"),
        (lambda app: setattr(app.settings.n_tokens, "value", 4000), "exceed the context of tiny-llama"),
    ],
)
def test_bad_input_reaches_the_page_as_a_sentence(app, spoil, told):
    spoil(app)
    app.run()
    assert told in app.view.error
    assert not app.view.busy
    app.settings.prompt.value, app.settings.n_tokens.value = "And now?", 8
    app.lines = app.lines[:1]
    app.lines[0].raw.value = 1.0
    app.run()
    assert (app.view.error, len(app.view.shown["answers"])) == ("", 3)


def test_an_error_in_the_thread_reaches_the_page(threaded):
    threaded.settings.n_tokens.value = 4000
    future = threaded.run()
    assert "exceed the context" in str(future.exception(WAIT_S))
    assert "exceed the context" in threaded.view.error
    assert not threaded.view.busy


def test_a_second_click_cancels_the_first(threaded):
    started, go_on = threading.Event(), threading.Event()
    run, used, shown = threaded.explorer.run, [], []

    def slow(state, **callbacks):
        used.append(state.seed)
        started.set()
        assert go_on.wait(WAIT_S)
        return run(state, **callbacks)

    threaded.explorer.run = slow
    threaded.view.observe(lambda change: change["new"] and shown.append(change["new"]["state"]["seed"]), "shown")
    first = threaded.run()
    assert started.wait(WAIT_S)
    threaded.settings.seed.value = 8
    waiting = threaded.run()
    threaded.settings.seed.value = 9
    last = threaded.run()
    go_on.set()
    last.result(WAIT_S)
    assert first.result(WAIT_S) is None
    assert waiting.cancelled()
    assert used == [3, 9]
    assert shown == [9]


def test_stop_ends_the_run_with_what_it_has(threaded):
    threaded.settings.n_tokens.value = 200
    stopped = []

    def click(change) -> None:
        if any(change["new"]["texts"]) and not stopped:
            stopped.append(True)
            threaded.buttons["stop"].click()

    threaded.view.observe(click, "live")
    threaded.run().result(WAIT_S)
    reasons = {answer["stop_reason"] for answer in threaded.view.shown["answers"]}
    assert "cancelled" in reasons
    assert "length" not in reasons
    assert threaded.buttons["stop"].disabled


def test_a_state_goes_out_and_comes_back(app):
    app.saving.as_string.click()
    text = app.saving.text.value
    before = app.state()
    app.settings.seed.value = 77
    app.saving.as_json.click()
    assert json.loads(app.saving.text.value)["seed"] == 77
    app.saving.text.value = text
    app.saving.load.click()
    assert app.state() == before


@pytest.mark.parametrize("text", ["esr1.other.AAAA", "nonsense", "{}", ""])
def test_a_state_that_cannot_be_loaded_leaves_the_controls(app, text):
    before = app.state()
    app.saving.text.value = text
    app.saving.load.click()
    assert app.view.error
    assert app.state() == before


def test_a_prepared_state_is_loaded_with_what_to_look_for(tiny_llama, tmp_path):
    state = tiny_state(tiny_llama, seed=21)
    prepared = Prepared(title="one", look_for="see how it turns", state=state)
    app = App(tiny_explorer(tiny_llama), gallery=[prepared], folder=tmp_path, executor=Inline())
    app.saving.gallery.value = 0
    assert app.state() == state
    assert app.view.status.startswith("see how it turns (Another processor")


def test_answers_are_kept_and_saved_as_a_page(app, tmp_path):
    app.saving.keep.click()
    assert app.view.status.startswith("there is nothing to keep yet")
    app.run()
    app.saving.keep.click()
    app.saving.page.click()
    assert len((tmp_path / "tiny-llama" / "trials.jsonl").read_text().splitlines()) == 3
    (page,) = (tmp_path / "pages").glob("*.html")
    assert app.view.shown["answers"][1]["text"].split("<")[0].split("&")[0] in page.read_text()


def test_another_subject_is_loaded_and_measured(tiny_llama, tmp_path):
    explorer = tiny_explorer(tiny_llama)
    explorer.pairs = ("tiny-llama", "twin")
    load = explorer._load
    explorer._load = lambda name: replace(load(name), calibrated={7: 2.0}) if name == "twin" else load(name)
    app = App(explorer, folder=tmp_path, executor=Inline())
    assert app.lines[0].calibrate.description == "calibrated 8"
    app.settings.pair.value = "twin"
    assert app.lines[0].calibrate.description == "calibrated 2"
    assert app.view.status == "twin is ready"


def test_a_job_replaces_waiting_ones_of_its_kind_only():
    done: list[str] = []
    left: list[int] = []
    go_on = threading.Event()
    worker = Worker(lambda n, error: left.append(n))

    def work(name: str):
        def do(job: Job) -> None:
            assert go_on.wait(WAIT_S)
            done.append(name)

        return do

    worker.submit("run", work("run"))
    worker.submit("card", work("first card"))
    worker.submit("search", work("search"))
    last = worker.submit("card", work("second card"))
    go_on.set()
    last.result(WAIT_S)
    worker.submit("end", lambda job: None).result(WAIT_S)
    assert done == ["run", "search", "second card"]


def test_stop_and_runs_leave_other_jobs_alone():
    go_on, done = threading.Event(), []
    worker = Worker(lambda n, error: None)
    worker.submit("run", lambda job: go_on.wait(WAIT_S), is_long=True)
    pair = worker.submit("pair", lambda job: done.append("pair"))
    worker.stop()
    last = worker.submit("run", lambda job: done.append("run"), is_long=True)
    go_on.set()
    last.result(WAIT_S)
    assert done == ["pair", "run"]
    assert pair.done()


def test_errors_are_told_as_sentences():
    assert sentence(ValueError("latent 9 is not here")) == "latent 9 is not here"
    assert sentence(KeyError("no such arm")) == "this failed (KeyError: no such arm)"
    assert sentence(RuntimeError()) == "this failed (RuntimeError: no message)"
