"""What a run of the explorer gives: answers in tokens, each with its numbers, ready to be drawn or kept."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from jaxtyping import Float

from esr_utils.explorer.state import State
from esr_utils.judging import Attempt, Verdict

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

HELD = "\ufffd"  # what a tokenizer gives for a character whose last byte is still to come
RESTART = -1  # of a token that stands between two attempts
OVERFLOW = "the edits are too strong for the model's number format; lower the strengths"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One answer.

    Attributes:
        arm: name of what was done to the model: see ``rows.ARMS``, or a level of a sweep.
        pieces: the text of each token; together they are ``text``.
        series: name -> one number a token (None where the model never read it): activations of latents, summed
            activations of groups, and ``topicality`` in nats.
        attempt: number of the attempt that each token belongs to, from 0; ``RESTART`` between attempts.
        attempts: as the judge gave them, in characters of ``text``.
        note: what a reader should know: why there is no score, or that the edits were too strong.
    """

    arm: str
    text: str
    pieces: tuple[str, ...]
    series: dict[str, tuple[float | None, ...]]
    attempt: tuple[int, ...]
    attempts: tuple[Attempt, ...]
    stop_reason: str
    note: str = ""

    @property
    def is_multi(self) -> bool:
        """Whether the answer restarts: whether it holds several attempts."""
        return len(self.attempts) > 1

    @property
    def scores(self) -> list[float]:
        return [attempt.score for attempt in self.attempts]


@dataclass(frozen=True, kw_only=True)
class Shown:
    """The answers of one run, side by side.

    Attributes:
        series: names of what can be told of a token, with a description each; the first colours the tokens.
        relative: latent -> its strength as a share of the median norm of the residual stream.
    """

    state: State
    answers: tuple[Answer, ...]
    series: dict[str, str]
    relative: dict[int, float] = field(default_factory=dict)

    def answer(self, arm: str) -> Answer:
        """The answer called ``arm``, or a KeyError that names those there are."""
        for answer in self.answers:
            if answer.arm == arm:
                return answer
        raise KeyError(f"there is no answer {arm!r}; there are {', '.join(answer.arm for answer in self.answers)}")

    def to_dict(self) -> dict:
        """Plain lists and numbers, as the view and JSON take them."""
        return json.loads(json.dumps({"id": self.state.to_string(), **asdict(self)}, allow_nan=False))

    def frame(self) -> pd.DataFrame:
        """One line a token: arm, pos, token, attempt, and each series."""
        parts = [
            pd.DataFrame(
                {"arm": a.arm, "pos": range(len(a.pieces)), "token": a.pieces, "attempt": a.attempt, **a.series}
            )
            for a in self.answers
        ]
        return pd.concat(parts, ignore_index=True)

    def table(self) -> pd.DataFrame:
        """One line an answer: arm, n_tokens, n_attempts, scores (in order, as text), note, text."""
        lines = [
            (a.arm, len(a.pieces), len(a.attempts), " → ".join(f"{s:g}" for s in a.scores), a.note, a.text)
            for a in self.answers
        ]
        return pd.DataFrame(lines, columns=["arm", "n_tokens", "n_attempts", "scores", "note", "text"])


class Speller:
    """The text that each further token adds. Special tokens and half characters add nothing until they can be read."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase"):
        self.tokenizer = tokenizer
        self.ids: list[int] = []
        self.text = ""

    def add(self, token: int) -> str:
        self.ids.append(token)
        text = self.tokenizer.decode(self.ids, skip_special_tokens=True)
        if text.endswith(HELD) or not text.startswith(self.text):
            return ""
        piece, self.text = text[len(self.text) :], text
        return piece


def spell(tokenizer: "PreTrainedTokenizerBase", token_ids: Sequence[int], text: str) -> tuple[str, ...]:
    """Each token's piece of ``text``; what cannot be read to the very end goes to the last token."""
    speller = Speller(tokenizer)
    pieces = [speller.add(token) for token in token_ids]
    if pieces and text.startswith(speller.text):
        pieces[-1] += text[len(speller.text) :]
    return tuple(pieces)


def attempt_of(pieces: Sequence[str], attempts: Sequence[Attempt]) -> tuple[int, ...]:
    """The attempt of each token: a token may begin with the space before its word, so its last character decides."""
    lasts = np.maximum(np.cumsum([len(piece) for piece in pieces]) - 1, 0)
    found = [next((i for i, a in enumerate(attempts) if a.start <= last < a.end), RESTART) for last in lasts]
    return tuple(_without_edges(found, len(attempts)))


def _without_edges(found: list[int], n_attempts: int) -> list[int]:
    """Blank tokens before the first attempt and after the last one are no restart."""
    if not n_attempts or n_attempts - 1 not in found:
        return [0] * len(found)
    first, last = found.index(0) if 0 in found else 0, len(found) - 1 - found[::-1].index(n_attempts - 1)
    return [0 if i < first else n_attempts - 1 if i > last else value for i, value in enumerate(found)]


def rounded(values: Float[np.ndarray, " pos"]) -> tuple[float | None, ...]:
    """Numbers for the view; what the model never read is None."""
    return tuple(round(float(value), 3) if np.isfinite(value) else None for value in values)


def by_character(
    values: Float[np.ndarray, " read"], ends: Sequence[int], pieces: Sequence[str]
) -> Float[np.ndarray, " pos"]:
    """``values`` of tokens that end at the characters ``ends``, for the tokens of ``pieces`` of the same text.

    A text can be cut into tokens in several ways; each piece takes the value at its last character.
    """
    lasts = np.maximum(np.cumsum([len(piece) for piece in pieces]), 1)
    at = np.searchsorted(np.asarray(ends), lasts, side="left")
    padded = np.append(values, np.nan)
    return padded[np.minimum(at, len(values))]


def group_sums(activations: Mapping[int, np.ndarray], latents: Sequence[int]) -> Float[np.ndarray, " pos"]:
    """Summed activation of several latents, token by token."""
    return np.sum([activations[latent] for latent in latents], axis=0)


def note_of(stop_reason: str, verdict: Verdict) -> str:
    """What a reader should know of an answer, in a sentence; mostly nothing."""
    if stop_reason == "overflow":
        return OVERFLOW
    if stop_reason == "cancelled":
        return "stopped before its end"
    return verdict.note or ("" if verdict.attempts else f"no score: {verdict.status}")
