"""What the worker does for the page: each job calls the explorer and writes what it gets into the views' traits."""

import time
from collections.abc import Sequence
from dataclasses import asdict

from esr_utils.explorer.core import Explorer
from esr_utils.explorer.shown import Shown
from esr_utils.explorer.state import State
from esr_utils.explorer.view import View
from esr_utils.explorer.worker import Job

STREAM_S = 0.1  # between two messages to the page while answers grow


class Stream:
    """Collects pieces of answers and gives the view the whole of them, a few times a second."""

    def __init__(self, view: View, arms: Sequence[str]):
        self.view, self.texts, self.sent_s = view, dict.fromkeys(arms, ""), 0.0
        self.send()

    def __call__(self, arm: str, piece: str) -> None:
        is_first = not any(self.texts.values())
        self.texts[arm] += piece
        if is_first or time.monotonic() - self.sent_s >= STREAM_S:
            self.send()

    def send(self) -> None:
        self.sent_s = time.monotonic()
        self.view.live = {"arms": list(self.texts), "texts": list(self.texts.values())}


class Jobs:
    """Jobs of one page. A job that was replaced shows nothing.

    Attributes:
        shown: the last answers that were shown.
        swept: the last sweep that was shown.
    """

    def __init__(self, explorer: Explorer, view: View, card_view: View):
        self.explorer, self.view, self.card_view = explorer, view, card_view
        self.shown: Shown | None = None
        self.swept: Shown | None = None

    def run(self, state: State, job: Job) -> None:
        started = time.monotonic()
        self.view.shown = {}  # the same answers again must reach the page again
        stream = Stream(self.view, self.explorer.arms(state))
        shown = self.explorer.run(state, on_piece=stream, stop=job.stop)
        if job.is_replaced:
            return
        self.shown = shown
        if self.view.colour not in shown.series:
            self.view.colour = next(iter(shown.series))
        self.view.shown = shown.to_dict()
        n_tokens = sum(len(answer.pieces) for answer in shown.answers)
        self.say(f"{n_tokens} tokens in {time.monotonic() - started:.1f} s")

    def sweep(self, state: State, job: Job) -> None:
        swept = self.explorer.sweep(state, stop=job.stop)
        if not job.is_replaced:
            self.swept = swept
            self.view.strip = swept.to_dict()
            self.say("the sweep is below the answers")

    def find_episode(self, state: State, limit: int, job: Job) -> int | None:
        """The seed that restarts, whose answers are then shown; None if there is none within the limit."""

        def count(n_tries: int) -> None:
            self.say(f"{n_tries} of {limit} seeds tried, no restart yet")

        found = self.explorer.find_episode(state, limit=limit, on_try=count, stop=job.stop)
        if job.is_replaced:
            return None
        if found.state is None:
            self.say(f"no restart in {found.n_tries} tries; change the latent, the strength or the question")
            return None
        self.run(found.state, job)
        self.say(f"seed {found.state.seed} restarts, number {found.n_tries} of those tried")
        return found.state.seed

    def show_card(self, latent: int, pair: str) -> None:
        self.card_view.card = asdict(self.explorer.card(latent, pair=pair))

    def say(self, status: str) -> None:
        """A sentence above the answers, in place of an error that stood there."""
        self.view.error, self.view.status = "", status
