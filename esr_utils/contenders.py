"""What the benchmark times: ways to generate the same rows, and the rows they are given.

Every contender reads the same prompts and draws the same number of tokens for each row, at the same temperature and
repetition penalty, from the whole vocabulary. The end of turn is an ordinary token here (no stop ids, no
``eos_token_id``), so nothing stops early and nothing pays for suppressing it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from esr_utils.corpus import corpus_prompts
from esr_utils.engines.base import tokenize
from esr_utils.engines.hf import HFEngine
from esr_utils.hooks import editing
from esr_utils.models import Pair
from esr_utils.steering import Ablate, Row, Sampling, Steer, steering_delta

STEERED = "hf, steered"
ABLATING = "hf, steered, ablating and recording"
UNSTEERED = "hf, unsteered"
GENERATE = "transformers.generate, unsteered"
BRIDGE = "TransformerBridge.generate, hook"
NNSIGHT = "nnsight generate, an invoke a row"
ALONE = "transformers.generate, hook, a row at a time"
MIXED_STEERED = "hf, steered, mixed lengths"
MIXED_GENERATE = "transformers.generate, unsteered, mixed lengths"
FIRST_TOKEN = "hf, steered, first token"

Tokens = list[list[int]]  # the new tokens of each row


@dataclass(frozen=True, kw_only=True)
class BenchSettings:
    """How much is measured; the targets are for the largest batch.

    Attributes:
        n_alone: rows of the contender that takes one row at a time.
        mixed_tokens: shortest and longest response where lengths differ.
        n_latents: how many are ablated and recorded, the same ones in every row.
        budget_s: rounds repeat until one more would end later than this, but at least ``min_rounds`` times.
    """

    batches: tuple[int, ...] = (1, 16, 64)
    n_tokens: int = 96
    n_alone: int = 2
    mixed_tokens: tuple[int, int] = (16, 192)
    n_latents: int = 26
    strengths: tuple[float, float] = (20.0, 60.0)
    temperature: float = 0.6
    repetition_penalty: float = 1.1
    seed: int = 0
    min_rounds: int = 3
    max_rounds: int = 5
    budget_s: float = 480.0

    def __post_init__(self) -> None:
        if not self.batches or min(self.batches) < 1:
            raise ValueError(f"batches {self.batches} are not positive numbers")
        if not 1 <= self.min_rounds <= self.max_rounds:
            raise ValueError(f"{self.min_rounds} to {self.max_rounds} rounds is not a range from 1 up")


@dataclass(frozen=True, eq=False)
class Contender:
    """A way to generate: rows in, the new tokens of each row out."""

    name: str
    call: Callable[[Sequence[Row]], Tokens]


@dataclass(frozen=True, eq=False)
class Heat:
    """One line of the table: a contender, its batch size, its rows and how many tokens it has to give."""

    contender: Contender
    batch: int
    rows: list[Row]
    n_tokens: int


# --- what is timed


def schedule(pair: Pair, settings: BenchSettings) -> list[Heat]:
    """One round: every contender at every batch size, then the special cases. What is compared closely is adjacent."""
    engine, largest = HFEngine(endless(pair), batch_size=max(settings.batches)), max(settings.batches)
    low, high = settings.mixed_tokens
    lengths = np.random.default_rng(settings.seed).integers(low, high, largest, endpoint=True).tolist()
    mixed = bench_rows(pair, settings, lengths)
    few = bench_rows(pair, settings, [settings.n_tokens] * settings.n_alone)
    usual = [bench_rows(pair, settings, [settings.n_tokens] * batch) for batch in settings.batches]
    first = Contender(FIRST_TOKEN, lambda rows: first_token(engine, rows))
    everyone = contenders(engine, pair, settings)
    return [
        *(heat(contender, len(rows), rows) for rows in usual for contender in everyone),
        heat(Contender(ALONE, lambda rows: one_at_a_time(pair, rows)), 1, few),
        heat(Contender(MIXED_STEERED, lambda rows: with_engine(engine, rows)), largest, mixed),
        heat(Contender(MIXED_GENERATE, lambda rows: with_generate(pair, rows)), largest, mixed),
        *(Heat(first, n, bench_rows(pair, settings, [256] * n), 1) for n in (1, 3)),
    ]


def contenders(engine: HFEngine, pair: Pair, settings: BenchSettings) -> list[Contender]:
    """Those that run at every batch size."""
    from esr_utils.engines.nnsight import NNsightEngine
    from esr_utils.engines.transformer_lens import TransformerLensEngine

    bridge, traced = TransformerLensEngine(pair).bridge, NNsightEngine(pair).model
    return [
        Contender(STEERED, lambda rows: with_engine(engine, rows)),
        Contender(ABLATING, lambda rows: with_engine(engine, ablating(pair, rows, settings.n_latents))),
        Contender(UNSTEERED, lambda rows: with_engine(engine, [replace(row, steer=()) for row in rows])),
        Contender(GENERATE, lambda rows: with_generate(pair, rows)),
        Contender(BRIDGE, lambda rows: with_bridge(bridge, pair, rows)),
        Contender(NNSIGHT, lambda rows: with_nnsight(traced, pair, rows)),
    ]


def heat(contender: Contender, batch: int, rows: list[Row]) -> Heat:
    """A heat in which every row gets the length it asks for."""
    return Heat(contender, batch, rows, sum(row.sampling.max_new_tokens for row in rows))


def bench_rows(pair: Pair, settings: BenchSettings, lengths: Sequence[int]) -> list[Row]:
    """Rows on different prompts, each with a latent and a strength of its own."""
    rng = np.random.default_rng(settings.seed)
    latents = rng.choice(pair.sae.d_sae, len(lengths), replace=False).tolist()
    strengths = rng.uniform(*settings.strengths, len(lengths)).tolist()
    sampling = Sampling(temperature=settings.temperature, repetition_penalty=settings.repetition_penalty)
    return [
        Row(
            messages=prompt.text,
            steer=(Steer(latent=latent, strength=strength),),
            seed=settings.seed + i,
            sampling=replace(sampling, max_new_tokens=length),
        )
        for i, (prompt, latent, strength, length) in enumerate(
            zip(corpus_prompts()[: len(lengths)], latents, strengths, lengths, strict=True)
        )
    ]


def ablating(pair: Pair, rows: Sequence[Row], n_latents: int) -> list[Row]:
    latents = tuple(np.linspace(0, pair.sae.d_sae - 1, n_latents, dtype=int).tolist())
    return [replace(row, ablate=(Ablate(latents=latents),), record=latents) for row in rows]


# --- ways to generate


class EndlessPair(Pair):
    """A pair whose end-of-turn token ends nothing, so that every row gets the length it asks for."""

    @property
    def stop_ids(self) -> frozenset[int]:
        return frozenset()


def endless(pair: Pair) -> EndlessPair:
    return EndlessPair(**{field.name: getattr(pair, field.name) for field in fields(pair)})


def with_engine(engine: HFEngine, rows: Sequence[Row]) -> Tokens:
    return [list(response.token_ids[response.n_prefill :]) for response in engine.generate(rows)]


class _Streamed(Exception):
    """Leaves ``generate`` as soon as the first token is there."""


def first_token(engine: HFEngine, rows: Sequence[Row]) -> Tokens:
    """Generate until the first token is streamed, and no further."""
    streamed: list[int] = []

    def on_token(index: int, token: int) -> None:
        streamed.append(token)
        raise _Streamed

    try:
        engine.generate(rows, on_token=on_token)
    except _Streamed:
        return [streamed]
    raise RuntimeError("the engine streamed no token")


def with_generate(pair: Pair, rows: Sequence[Row]) -> Tokens:
    """``transformers.generate``: it runs until the longest row ends, and what the others have too much is cut off."""
    ids, mask = left_padded(pair, rows)
    texts = pair.model.generate(ids, attention_mask=mask, **_generate_settings(rows))
    return _new_tokens(texts, ids.shape[1], rows)


def one_at_a_time(pair: Pair, rows: Sequence[Row]) -> Tokens:
    """What tutorials do: for each row a forward hook that adds one vector, and a call of ``transformers.generate``."""
    tokens: Tokens = []
    for row in rows:
        with editing(pair.blocks()[pair.steering_layer], steering_vectors(pair, [row]).add):
            tokens += with_generate(pair, [row])
    return tokens


def with_bridge(bridge: object, pair: Pair, rows: Sequence[Row]) -> Tokens:
    """TransformerLens, with a hook that adds to each row its own vector.

    ``TransformerBridge.generate`` takes an attention mask, a temperature and a repetition penalty, but one value for
    the whole batch; rows cannot have their own sampling, seed or length.
    """
    ids, mask = left_padded(pair, rows)
    vectors, sampling = steering_vectors(pair, rows), rows[0].sampling
    hook = (f"blocks.{pair.steering_layer}.hook_resid_post", lambda resid, hook: resid + vectors)
    with bridge.hooks(fwd_hooks=[hook]):
        texts = bridge.generate(
            ids,
            attention_mask=mask,
            max_new_tokens=_longest(rows),
            stop_at_eos=False,
            do_sample=sampling.temperature > 0,
            temperature=sampling.temperature,
            repetition_penalty=sampling.repetition_penalty,
            verbose=False,
        )
    return _new_tokens(texts, ids.shape[1], rows)


def with_nnsight(traced: object, pair: Pair, rows: Sequence[Row]) -> Tokens:
    """nnsight, one ``invoke`` a row, each adding its vector at every step; sampling is again one for the batch."""
    block, n_steps = traced.model.layers[pair.steering_layer], _longest(rows)
    prompts = [list(tokenize(row, pair).ids) for row in rows]
    vectors = steering_vectors(pair, rows)
    with traced.generate(**_generate_settings(rows)) as tracer:
        for prompt, vector in zip(prompts, vectors, strict=True):
            with tracer.invoke(prompt):
                for _ in tracer.iter[:n_steps]:
                    block.output = block.output + vector
        with tracer.invoke():
            texts = tracer.result.save()
    return _new_tokens(texts, max(map(len, prompts)), rows)


def left_padded(pair: Pair, rows: Sequence[Row]) -> tuple[Int[Tensor, "batch pos"], Int[Tensor, "batch pos"]]:
    """Prompts and their mask. The padding is a token of the row itself, so the penalty falls on no other."""
    prompts = [list(tokenize(row, pair).ids) for row in rows]
    width, device = max(map(len, prompts)), pair.model.device
    ids = [prompt[:1] * (width - len(prompt)) + prompt for prompt in prompts]
    mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def steering_vectors(pair: Pair, rows: Sequence[Row]) -> Float[Tensor, "batch 1 d_model"]:
    """What each row adds at the steering layer, in the model's dtype."""
    vectors = torch.stack([steering_delta(row, pair)[pair.steering_layer] for row in rows])
    return vectors[:, None].to(pair.model.device, pair.model.dtype)


def _generate_settings(rows: Sequence[Row]) -> dict:
    sampling = rows[0].sampling
    drawing = {"do_sample": True, "temperature": sampling.temperature, "top_k": 0, "top_p": sampling.top_p}
    return {
        "max_new_tokens": _longest(rows),
        "eos_token_id": None,
        "repetition_penalty": sampling.repetition_penalty,
        **(drawing if sampling.temperature > 0 else {"do_sample": False}),
    }


def _longest(rows: Sequence[Row]) -> int:
    return max(row.sampling.max_new_tokens for row in rows)


def _new_tokens(texts: Tensor, n_prompt: int, rows: Sequence[Row]) -> Tokens:
    lists = texts[:, n_prompt:].tolist()
    return [tokens[: row.sampling.max_new_tokens] for tokens, row in zip(lists, rows, strict=True)]
