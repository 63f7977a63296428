"""The explorer as a page of controls around two views; everything it does is a call of ``core.Explorer``."""

from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from pathlib import Path

import ipywidgets as w

from esr_utils.config import ROOT
from esr_utils.explorer import lookup
from esr_utils.explorer.asking import Saving, Settings
from esr_utils.explorer.core import Explorer
from esr_utils.explorer.jobs import Jobs
from esr_utils.explorer.kept import KEPT, Prepared, keep
from esr_utils.explorer.page import to_html
from esr_utils.explorer.picking import WRAPPED, Finder, Measure, PickLine
from esr_utils.explorer.shown import Shown
from esr_utils.explorer.state import Pick, State, StateError
from esr_utils.explorer.subject import Subject
from esr_utils.explorer.view import View
from esr_utils.explorer.worker import Job, Worker
from esr_utils.files import digest, write_whole

N_LISTED = 60
ELSEWHERE = "(Another processor may draw other words; Find an episode tries seeds until one restarts.)"


class App:
    """``root`` is what a notebook shows. The model is touched by the worker alone.

    Args:
        gallery: prepared states to choose from.
        folder: where kept trials and pages go.
        n_tries: limit of the search for an episode, to begin with.
        executor: who does the work; by default a thread of its own.
    """

    def __init__(
        self,
        explorer: Explorer,
        *,
        gallery: Sequence[Prepared] = (),
        folder: Path = KEPT,
        n_tries: int = 64,
        executor: Executor | None = None,
    ):
        self.explorer, self.gallery, self.folder = explorer, list(gallery), folder
        self.view, self.card_view = View(), View(part="card")
        self.jobs = Jobs(explorer, self.view, self.card_view)
        self.worker = Worker(self._on_change, executor=executor)
        self.ready: dict[str, Subject] = {}  # subjects that are loaded and measured
        self.lines: list[PickLine] = []
        self.picked = w.VBox()
        self.settings = Settings(explorer.pairs, on_pair=self._change_pair)
        self.finder = Finder(on_search=self.search, on_choose=self.show_card, on_pick=self.pick)
        self.saving = Saving(self.gallery)
        self.buttons = _make_buttons(n_tries)
        self._connect()
        self.set_state(explorer.state)
        self._change_pair()
        self.root = self._lay_out()

    def state(self) -> State:
        """What the controls say.

        Raises:
            StateError: they cannot be run so.
        """
        return self.settings.state([line.pick() for line in self.lines], self.view.colour)

    def set_state(self, state: State) -> None:
        """Set every control."""
        self.explorer.check(state)
        self.settings.set(state)
        self.view.colour = state.colour
        self.lines = [PickLine(pick, on_remove=self._remove) for pick in state.picks]
        self._show_lines()

    def pick(self, latent: int) -> None:
        """Add a line for a latent, at its calibrated strength if that is known."""
        if latent in [line.latent for line in self.lines]:
            self.jobs.say(f"latent {latent} is picked already")
            return
        subject = self.ready.get(self.settings.pair.value)
        strength = float(subject.calibrated.get(latent, 0.0)) if subject else 0.0
        self.lines.append(PickLine(Pick(latent=latent, strength=strength), on_remove=self._remove))
        self._show_lines()

    def run(self) -> Future | None:
        """Make the answers; whatever is under way is cancelled."""
        return self._start("run", self.jobs.run)

    def sweep(self) -> Future | None:
        """Make the steered answer at several levels of its strengths."""
        return self._start("sweep", self.jobs.sweep)

    def find_episode(self) -> Future | None:
        """Look for a seed whose steered answer restarts, and show it."""
        limit = self.buttons["limit"].value

        def work(state: State, job: Job) -> None:
            if (seed := self.jobs.find_episode(state, limit, job)) is not None:
                self.settings.seed.value = seed

        return self._start("episode", work)

    def search(self) -> None:
        """List what the finder asks for; a sentence is read by the model and waits for its turn."""
        subject, text = self.ready.get(self.settings.pair.value), self.finder.text.value
        if subject and self.finder.way.value == "label":
            self.finder.list(lookup.by_label(subject.labels, text, **self.finder.filters()), n=N_LISTED)
        elif subject and text.strip():
            self._submit("search", lambda job: self._list_firing(subject.name, text))

    def show_card(self, latent: int) -> None:
        """Tell what is known of a latent, after whatever is under way."""
        pair = self.settings.pair.value
        self._submit("card", lambda job: self.jobs.show_card(latent, pair))

    def keep(self) -> None:
        """Add the answers shown to the results folder."""
        if shown := self._shown_or_say():
            self.jobs.say(f"kept in {_told(keep(shown, folder=self.folder))}")

    def save_page(self) -> None:
        """Write the answers shown as one HTML file."""
        if shown := self._shown_or_say():
            page = to_html(shown, swept=self.jobs.swept)
            path = self.folder / "pages" / f"{digest(page)[:12]}.html"
            write_whole(path, page)
            self.jobs.say(f"saved as {_told(path)}")

    def load_text(self) -> None:
        """Set the controls to the state in the text box."""
        text = self.saving.text.value.strip()
        read = State.from_json if text.startswith("{") else State.from_string
        try:
            self.set_state(read(text, pairs=self.explorer.pairs))
        except StateError as error:
            self._refuse(str(error))
        else:
            self.jobs.say("the state is loaded; run it")

    def _list_firing(self, pair: str, text: str) -> None:
        found = self.explorer.fires_on(text, pair=pair)
        for name, (least, most) in self.finder.filters().items():
            found = found[found[name].between(least, most)]
        self.finder.list(found, n=N_LISTED)

    def _start(self, kind: str, work: Callable[[State, Job], None]) -> Future | None:
        """Submit work on what the controls say now; what they cannot say is told on the page."""
        try:
            state = self.state()
        except StateError as error:
            self._refuse(str(error))
            return None
        self.jobs.say("working …")
        return self._submit(kind, lambda job: work(state, job), is_long=True)

    def _submit(self, kind: str, work: Callable[[Job], None], *, is_long: bool = False) -> Future:
        self.view.busy, self.buttons["stop"].disabled = True, False
        return self.worker.submit(kind, work, is_long=is_long)

    def _on_change(self, n_left: int, error: str) -> None:
        self.view.busy, self.buttons["stop"].disabled = n_left > 0, n_left == 0
        if error:
            self._refuse(error)

    def _refuse(self, error: str) -> None:
        self.view.error, self.view.status = error, ""

    def _shown_or_say(self) -> Shown | None:
        if self.jobs.shown is None:
            self.jobs.say("there is nothing to keep yet; run a state first")
        return self.jobs.shown

    def _change_pair(self) -> None:
        """Have a subject loaded and measured; then the lines take over its units."""
        pair = self.settings.pair.value

        def work(job: Job) -> None:
            self.ready[pair] = self.explorer.measured(pair)
            self._measure_lines()
            self.search()
            self.jobs.say(f"{pair} is ready")

        self.jobs.say(f"{pair} is being loaded …")
        self._submit("pair", work)

    def _measure_lines(self) -> None:
        if subject := self.ready.get(self.settings.pair.value):
            for line in (line for line in self.lines if subject.has(line.latent)):
                measure = Measure(
                    relative=subject.relative(line.latent, 1.0), calibrated=subject.calibrated.get(line.latent)
                )
                line.measure_by(measure, subject.label(line.latent))

    def _remove(self, line: PickLine) -> None:
        self.lines.remove(line)
        self._show_lines()

    def _show_lines(self) -> None:
        empty = w.HTML("no latent is picked: find one above, and pick it")
        self.picked.children = [line.root for line in self.lines] or [empty]
        self._measure_lines()

    def _connect(self) -> None:
        saving, buttons = self.saving, self.buttons
        clicks = [
            (buttons["run"], self.run),
            (buttons["stop"], self.worker.stop),
            (buttons["sweep"], self.sweep),
            (buttons["episode"], self.find_episode),
            (saving.as_string, lambda: self._write_state(State.to_string)),
            (saving.as_json, lambda: self._write_state(State.to_json)),
            (saving.load, self.load_text),
            (saving.page, self.save_page),
            (saving.keep, self.keep),
        ]
        for button, call in clicks:
            button.on_click(lambda _, call=call: call())
        saving.gallery.observe(lambda change: self._prepare(change["new"]), "value")
        self.card_view.observe(lambda change: self._card_wanted(change["new"]), "wanted")

    def _write_state(self, write: Callable[[State], str]) -> None:
        try:
            self.saving.text.value = write(self.state())
        except StateError as error:
            self._refuse(str(error))

    def _prepare(self, number: int | None) -> None:
        if number is not None:
            self.set_state(self.gallery[number].state)
            self.jobs.say(f"{self.gallery[number].look_for} {ELSEWHERE}")

    def _card_wanted(self, latent: int) -> None:
        if latent >= 0:
            self.card_view.wanted = -1
            self.show_card(latent)

    def _lay_out(self) -> w.VBox:
        columns = w.HBox(
            [self.settings.root, self.finder.root], layout=w.Layout(flex_flow="row wrap", grid_gap="0 12px")
        )
        buttons = w.HBox(list(self.buttons.values()), layout=WRAPPED)
        parts = [self.saving.gallery, columns, self.card_view, self.picked, buttons, self.view, self.saving.root]
        return w.VBox(parts)


def _make_buttons(n_tries: int) -> dict[str, w.Widget]:
    limit = w.BoundedIntText(description="tries", min=1, max=4096, value=n_tries, layout=w.Layout(width="150px"))
    limit.style, limit.tooltip = {"description_width": "50px"}, "most seeds that are tried to find an episode"
    return {
        "run": w.Button(description="Run", button_style="primary", icon="play"),
        "stop": w.Button(description="Stop", icon="stop", disabled=True),
        "sweep": w.Button(description="Sweep strengths", icon="bars"),
        "episode": w.Button(description="Find an episode", icon="search"),
        "limit": limit,
    }


def _told(path: Path) -> str:
    """The path from the kit's folder, if it is in it."""
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path.name)
