"""The explorer without a front end: answers, cards, sweeps and episodes from a state."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import wraps

import numpy as np
import pandas as pd

from esr_utils.engines.base import Response
from esr_utils.explorer import lookup, rows
from esr_utils.explorer.lookup import Card
from esr_utils.explorer.shown import (
    Answer,
    Shown,
    Speller,
    attempt_of,
    by_character,
    group_sums,
    note_of,
    rounded,
    spell,
)
from esr_utils.explorer.state import State, StateError
from esr_utils.explorer.subject import Subject, load_subject
from esr_utils.judging import Case
from esr_utils.steering import Row

LEVELS = (0.0, 0.5, 0.75, 1.0, 1.25, 1.5)
TRIES_AT_ONCE = 16
TOPICALITY = "topicality"
SMOOTHED_TOKENS = 9
WORKING = threading.RLock()  # held while a model is at work for any explorer of this process
OnPiece = Callable[[str, str], None]  # (arm, further text)
OnTry = Callable[[int], None]  # (tries so far)


@dataclass(frozen=True, kw_only=True)
class Found:
    """Outcome of the search for an episode: ``state`` restarts and is the last of ``n_tries``, or there is none."""

    n_tries: int
    state: State | None = None

    def told(self) -> dict[str, int | None]:
        """As a line of a table."""
        return {"n_tries": self.n_tries, "seed": self.state.seed if self.state else None}


def _alone(method: Callable) -> Callable:
    """One thread at a time: hooks of two calls on one model would take each other's rows."""

    @wraps(method)
    def call(*args, **kwargs):
        with WORKING:
            return method(*args, **kwargs)

    return call


class Explorer:
    """Runs states of one or several subjects; each subject is loaded when it is first asked for.

    Threads may share explorers: whatever needs a model waits until another thread's call has ended.

    Attributes:
        state: what ``run`` without an argument runs; the last state that was run.
    """

    def __init__(self, state: State, *, pairs: Sequence[str], load: Callable[[str], Subject] = load_subject):
        self.pairs, self._load = tuple(pairs), load
        self._subjects: dict[str, Subject] = {}
        self.state = self.check(state)

    def check(self, state: State) -> State:
        """``state`` itself, or a StateError if its pair is not among those here."""
        if state.pair not in self.pairs:
            raise StateError(f"the state is of {state.pair!r}, and this explorer holds {', '.join(self.pairs)}")
        return state

    def subject(self, pair: str) -> Subject:
        """The subject called ``pair``, loaded once."""
        with WORKING:
            if pair not in self._subjects:
                self._subjects[pair] = self._load(pair)
            return self._subjects[pair]

    @_alone
    def measured(self, pair: str) -> Subject:
        """The subject called ``pair``, its median norm measured, so that relative strengths need no model."""
        subject = self.subject(pair)
        subject.read  # noqa: B018 (kept by the subject)
        return subject

    def arms(self, state: State) -> list[str]:
        """Names of the answers that ``run`` would give, in order."""
        return list(self._rows(self.subject(self.check(state).pair), state))

    @_alone
    def run(
        self, state: State | None = None, *, on_piece: OnPiece | None = None, stop: threading.Event | None = None
    ) -> Shown:
        """The answers of a state, from one batch: unsteered, steered, and steered with the detectors ablated.

        Once ``stop`` is set, the answers come back as they stand.

        Raises:
            ValueError: a latent out of range, a prompt that does not fit, or anything else the engine refuses.
        """
        state = self.check(state or self.state)
        subject = self.subject(state.pair)
        asked = self._rows(subject, state)
        responses = _generate(subject, asked, on_piece, stop)
        self.state = state
        return self._shown(subject, state, list(asked), responses)

    @_alone
    def sweep(self, state: State, *, levels: Sequence[float] = LEVELS, stop: threading.Event | None = None) -> Shown:
        """The steered answer at several levels of its strengths, from one batch: one answer a level.

        Raises:
            ValueError: as ``run``, or nothing is steered.
        """
        subject = self.subject(self.check(state).pair)
        if not any(pick.strength for pick in state.picks):
            raise ValueError("no latent has a strength, so there is nothing to sweep; give one a strength")
        plain = self._rows(subject, state)["unsteered"]
        asked = {f"x {level:g}": rows.edited(plain, rows.scaled(state, level).picks) for level in levels}
        return self._shown(subject, state, list(asked), _generate(subject, asked, None, stop))

    @_alone
    def find_episode(
        self, state: State, *, limit: int = 64, on_try: OnTry | None = None, stop: threading.Event | None = None
    ) -> Found:
        """Try one seed after another, from the state's own, until the steered answer restarts.

        Answers that were stopped on their way are no tries.

        Raises:
            ValueError: as ``run``, or a limit below 1.
        """
        if limit < 1:
            raise ValueError(f"a limit of {limit} tries leaves nothing to try; choose at least 1")
        subject = self.subject(self.check(state).pair)
        n_tries = 0
        while n_tries < limit:
            n = min(TRIES_AT_ONCE, limit - n_tries)
            tried = [replace(state, seed=state.seed + n_tries + i) for i in range(n)]
            at = self._first_restart(subject, tried, stop)
            if stop and stop.is_set():
                break
            if at is not None:
                return Found(n_tries=n_tries + at + 1, state=tried[at])
            n_tries += n
            if on_try:
                on_try(n_tries)
        return Found(n_tries=n_tries)

    def search(
        self,
        text: str,
        *,
        pair: str | None = None,
        density: tuple[float, float] = (0.0, 1.0),
        concreteness: tuple[float, float] = (0.0, 100.0),
    ) -> pd.DataFrame:
        """Latents by the words of their labels, or by number: see ``lookup.by_label``."""
        labels = self.subject(pair or self.state.pair).labels
        return lookup.by_label(labels, text, density=density, concreteness=concreteness)

    @_alone
    def fires_on(self, sentence: str, *, pair: str | None = None) -> pd.DataFrame:
        """Latents that fire on a sentence: see ``lookup.by_sentence``."""
        return lookup.by_sentence(self.subject(pair or self.state.pair), sentence)

    @_alone
    def card(self, latent: int, *, pair: str | None = None) -> Card:
        """What is known of a latent: see ``lookup.Card``."""
        return lookup.make_card(self.subject(pair or self.state.pair), latent)

    def _rows(self, subject: Subject, state: State) -> dict[str, Row]:
        labels = subject.labels["label"].to_dict()
        return rows.rows(state, groups=subject.groups, labels=labels, record=self._recorded(subject, state))

    def _recorded(self, subject: Subject, state: State) -> list[int]:
        grouped = [latent for group in subject.groups.values() for latent in group]
        latents = {*(pick.latent for pick in state.picks), *grouped, *_coloured(state)}
        return sorted(subject.engine.pair.sae.check_latent(int(latent)) for latent in latents)

    def _first_restart(self, subject: Subject, tried: list[State], stop: threading.Event | None) -> int | None:
        labels = subject.labels["label"].to_dict()
        asked = [rows.rows(state, groups={}, labels=labels) for state in tried]
        responses = subject.engine.generate([arms.get("steered", arms["unsteered"]) for arms in asked], stop=stop)
        cases = [Case(question=s.prompt, response=r.text) for s, r in zip(tried, responses, strict=True)]
        verdicts = subject.judge.judge(cases)
        return next((i for i, verdict in enumerate(verdicts) if len(verdict.attempts) > 1), None)

    def _shown(self, subject: Subject, state: State, arms: list[str], responses: list[Response]) -> Shown:
        texts = [response.text for response in responses]
        verdicts = subject.judge.judge([Case(question=state.prompt, response=text) for text in texts])
        curves = subject.topicality.curves([state.prompt] * len(texts), texts)
        names = _series_names(subject, state)
        answers = []
        for arm, response, verdict, curve in zip(arms, responses, verdicts, curves, strict=True):
            pieces = spell(subject.engine.pair.tokenizer, response.token_ids, response.text)
            series = _activations(subject, names, response)
            series[TOPICALITY] = rounded(_smoothed(by_character(curve, _ends(subject, response.text), pieces)))
            answers.append(
                Answer(
                    arm=arm,
                    text=response.text,
                    pieces=pieces,
                    series=series,
                    attempt=attempt_of(pieces, verdict.attempts),
                    attempts=verdict.attempts,
                    stop_reason=response.stop_reason,
                    note=note_of(response.stop_reason, verdict),
                )
            )
        relative = {pick.latent: round(subject.relative(pick.latent, pick.strength), 4) for pick in state.picks}
        return Shown(state=state, answers=tuple(answers), series=names, relative=relative)


def _generate(
    subject: Subject, asked: dict[str, Row], on_piece: OnPiece | None, stop: threading.Event | None
) -> list[Response]:
    arms = list(asked)
    spellers = [Speller(subject.engine.pair.tokenizer) for _ in arms]

    def stream(index: int, token: int) -> None:
        if piece := spellers[index].add(token):
            on_piece(arms[index], piece)

    return subject.engine.generate(list(asked.values()), on_token=stream if on_piece else None, stop=stop)


def _coloured(state: State) -> list[int]:
    """The latent that colours the tokens, if a latent does."""
    kind, _, number = state.colour.partition(" ")
    return [int(number)] if kind == "latent" and number.isdecimal() else []


def _series_names(subject: Subject, state: State) -> dict[str, str]:
    """Names and descriptions of what is told of each token, the one that colours first."""
    latents = list(dict.fromkeys([*(pick.latent for pick in state.picks), *_coloured(state)]))
    names = {f"latent {latent}": subject.label(latent) for latent in latents}
    names |= {group: f"{len(mine)} latents, summed" for group, mine in subject.groups.items() if mine}
    names[TOPICALITY] = f"information about the question, in nats a token, mean of {SMOOTHED_TOKENS} tokens"
    if state.colour in names:
        names = {state.colour: names[state.colour]} | names
    return names


def _activations(subject: Subject, names: dict[str, str], response: Response) -> dict[str, tuple[float | None, ...]]:
    series = {}
    for name in names:
        if name in subject.groups:
            series[name] = rounded(group_sums(response.activations, subject.groups[name]))
        elif name != TOPICALITY:
            series[name] = rounded(response.activations[int(name.removeprefix("latent "))])
    return series


def _ends(subject: Subject, text: str) -> list[int]:
    coded = subject.topicality.engine.pair.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    return [end for _, end in coded["offset_mapping"]]


def _smoothed(values: np.ndarray) -> np.ndarray:
    """Mean over a window around each token: single tokens jump too much to be read."""
    return pd.Series(values, dtype=float).rolling(SMOOTHED_TOKENS, min_periods=1, center=True).mean().to_numpy()
