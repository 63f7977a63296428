"""What every engine takes and gives, and what they share: prompts in tokens, and sampling with a seed a row."""

import copy
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from esr_utils.models import Pair
from esr_utils.steering import Interventions, Row, check_layer, steering_delta

PART_ROWS = 8  # rows drawn at once
StopReason = Literal["stop", "length", "cancelled", "overflow"]
OnToken = Callable[[int, int], None]  # (index of the row, token id)
OnResponse = Callable[[int, "Response"], None]  # (index of the row, its finished response)


@dataclass(frozen=True, eq=False, kw_only=True)
class Response:
    """What one row gave.

    Attributes:
        token_ids: response tokens, prefill included, the end-of-turn token left out.
        text: those tokens as text.
        stop_reason: the model ended its turn, the length ran out, a stop event cancelled it, or the edits were too
            strong for the model's number format and nothing could be read any more.
        activations: latent -> one value per response token, after every edit. The very last token of a response
            that was cut off has no value (NaN): the model never read it.
        resid: layer -> residual stream of each response token that the model read, in the model's dtype.
    """

    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    n_prefill: int
    text: str
    stop_reason: StopReason
    activations: dict[int, Float[np.ndarray, " pos"]] = field(default_factory=dict)
    resid: dict[int, Float[Tensor, "read d_model"]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """What an engine can do beyond the contract; asked before a study makes anything.

    Attributes:
        scores_text: says how likely a text is, which ablations need; it has ``log_likelihoods``.
        has_weights: its model is on this machine, so it can be trained.
    """

    scores_text: bool
    has_weights: bool


@runtime_checkable
class Engine(Protocol):
    """Rows in, responses out, in the same order. A batch may mix anything."""

    name: str
    pair: Pair

    def generate(
        self,
        rows: Sequence[Row],
        *,
        on_token: OnToken | None = None,
        on_response: OnResponse | None = None,
        stop: threading.Event | None = None,
    ) -> list[Response]: ...

    def capabilities(self) -> Capabilities: ...


def with_pair(engine: Engine, pair: Pair) -> Engine:
    """The same engine where it is, here or on its servers, on a pair with the same model and another dictionary."""
    if pair.model is not engine.pair.model:
        raise ValueError(f"{pair.name} has another model than {engine.pair.name}; make an engine of its own")
    other = copy.copy(engine)
    other.pair = pair
    return other


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A row in tokens: the prompt, then the response tokens that are given beforehand."""

    ids: tuple[int, ...]
    prefill: tuple[int, ...]


def tokenize(row: Row, pair: Pair) -> Prompt:
    """Exact prompt tokens of a row.

    Raises:
        ValueError: an empty prompt, or one that does not fit the model's context with its response.
    """
    if row.token_ids is not None:
        ids = tuple(row.token_ids)
    else:
        messages = [{"role": "user", "content": row.messages}] if isinstance(row.messages, str) else row.messages
        if not messages or not messages[-1].get("content", "").strip():
            raise ValueError("the prompt is empty; ask the model something")
        ids = pair.chat_ids(messages)
    if not ids:
        raise ValueError("the prompt is empty; give at least one token")
    prefill = pair.text_ids(row.prefill) if isinstance(row.prefill, str) else tuple(row.prefill)
    outside = [token for token in (*ids, *prefill) if not 0 <= token < pair.text_config.vocab_size]
    if outside:
        raise ValueError(
            f"token {outside[0]} is not in the vocabulary of {pair.name} (0 to {pair.text_config.vocab_size - 1})"
        )
    total = len(ids) + len(prefill) + row.sampling.max_new_tokens
    if total > pair.context_tokens:
        raise ValueError(
            f"a prompt of {len(ids) + len(prefill)} tokens and {row.sampling.max_new_tokens} new ones exceed the "
            f"context of {pair.name} ({pair.context_tokens} tokens); shorten the prompt or max_new_tokens"
        )
    return Prompt(ids=ids, prefill=prefill)


def uniforms(row: Row) -> Float[np.ndarray, " pos"]:
    """The row's random stream, one number for each token it may draw: it depends on the row's seed alone."""
    return np.random.default_rng(row.seed).random(row.sampling.max_new_tokens)


@dataclass
class InFlight:
    """One row on its way, with everything that belongs to it and to no other."""

    index: int
    row: Row
    prompt: Prompt
    delta: dict[int, Tensor]
    uniforms: np.ndarray
    tokens: list[int] = field(default_factory=list)
    recorded: list[np.ndarray] = field(default_factory=list)
    resid: dict[int, list[Tensor]] = field(default_factory=dict)

    @property
    def n_read(self) -> int:
        """Tokens so far: prompt, prefill and what was drawn."""
        return len(self.prompt.ids) + len(self.tokens)

    @property
    def n_new(self) -> int:
        return len(self.tokens) - len(self.prompt.prefill)


def in_flight(rows: Sequence[Row], pair: Pair) -> list[InFlight]:
    """Rows in tokens, each checked in full, before any work is done.

    Raises:
        ValueError: one sentence on the first row that names something that does not exist or does not fit.
    """
    ready = []
    for i, row in enumerate(rows):
        delta = steering_delta(row, pair)
        Interventions([row], pair, [delta])
        for latent in row.record:
            pair.sae.check_latent(latent)
        for layer in row.record_resid:
            check_layer(pair, layer)
        prompt = tokenize(row, pair)
        ready.append(InFlight(i, row, prompt, delta, uniforms(row), tokens=list(prompt.prefill)))
    return ready


def make_response(row: InFlight, reason: StopReason, pair: Pair) -> Response:
    """The finished record of a row."""
    values = np.full((len(row.tokens), len(row.row.record)), np.nan, dtype=np.float32)
    if row.recorded:
        values[: len(row.recorded)] = np.stack(row.recorded)
    return Response(
        prompt_ids=row.prompt.ids,
        token_ids=tuple(row.tokens),
        n_prefill=len(row.prompt.prefill),
        text=pair.tokenizer.decode(row.tokens, skip_special_tokens=True),
        stop_reason=reason,
        activations={latent: values[:, j] for j, latent in enumerate(row.row.record)},
        resid={layer: torch.cat(parts) for layer, parts in row.resid.items()},
    )


class Sampler:
    """Draws the next token of every row of a batch, each with its own settings and random number."""

    def __init__(self, rows: Sequence[Row], device: torch.device | str = "cpu"):
        def column(name: str) -> Tensor:
            return torch.tensor([float(getattr(row.sampling, name)) for row in rows], device=device)[:, None]

        temperature = column("temperature")
        self.is_greedy = temperature[:, 0] == 0
        self.divisor = torch.where(temperature == 0, 1.0, temperature)
        self.top_p = column("top_p")
        self.penalty = column("repetition_penalty")
        self.penalises = bool((self.penalty != 1).any())
        self.truncates = bool((self.top_p < 1).any())

    def draw(
        self,
        logits: Float[Tensor, "batch vocab"],
        seen: Int[Tensor, "batch pos"],
        uniform: Float[Tensor, " batch"],
    ) -> Int[Tensor, " batch"]:
        """Next tokens by inverse transform: the token at which the cumulative probability passes ``uniform``.

        ``seen`` holds every prompt and response token so far; pad it with any token of the same row.
        """
        parts = [slice(i, i + PART_ROWS) for i in range(0, len(logits), PART_ROWS)]
        return torch.cat([self._draw(logits[part], seen[part], uniform[part], part) for part in parts])

    def _draw(self, logits: Tensor, seen: Tensor, uniform: Tensor, part: slice) -> Tensor:
        """``draw`` for a few rows: what is worked out on the way then stays in the processor's cache."""
        scaled = logits / self.divisor[part]  # float32 in one pass; the penalty commutes with a positive divisor
        if self.penalises:
            values = scaled.gather(1, seen)
            penalty = self.penalty[part]
            scaled.scatter_(1, seen, torch.where(values > 0, values / penalty, values * penalty))
        is_greedy = self.is_greedy[part]
        if is_greedy.all():
            return scaled.argmax(-1)
        probs = scaled.softmax(-1)
        if self.truncates:
            probs = self._nucleus(probs, self.top_p[part])
        tokens = _inverse_transform(probs, uniform)
        if is_greedy.any():
            tokens[is_greedy] = scaled[is_greedy].argmax(-1)
        return tokens

    def _nucleus(self, probs: Tensor, top_p: Tensor) -> Tensor:
        """Keep the likeliest tokens that together reach top_p, the one that crosses it included."""
        ranked, order = probs.sort(-1, descending=True)
        keep = ranked.cumsum(-1) - ranked < top_p
        kept = torch.zeros_like(probs).scatter_(1, order, ranked * keep)
        return torch.where(top_p < 1, kept, probs)


def _inverse_transform(probs: Tensor, uniform: Tensor) -> Tensor:
    """First token whose cumulative probability exceeds ``uniform``, found block by block for speed."""
    n_vocab, block = probs.shape[1], 256
    blocks = torch.nn.functional.pad(probs, (0, -n_vocab % block)) if n_vocab % block else probs
    blocks = blocks.view(len(probs), -1, block)
    mass = blocks.sum(-1).double().cumsum(-1)
    target = uniform.to(mass)[:, None] * mass[:, -1:]
    which = (mass <= target).sum(-1).clamp(max=blocks.shape[1] - 1)
    rows = torch.arange(len(probs), device=probs.device)
    before = torch.where(which > 0, mass[rows, (which - 1).clamp(min=0)], 0.0)
    inside = blocks[rows, which].double().cumsum(-1) <= (target[:, 0] - before)[:, None]
    token = (which * block + inside.sum(-1).clamp(max=block - 1)).clamp(max=n_vocab - 1)
    # rounding can step onto a token that cannot occur; the likeliest of the row stands in
    impossible = probs[rows, token] <= 0
    if impossible.any():
        token[impossible] = probs[impossible].argmax(-1)
    return token
