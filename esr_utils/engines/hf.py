"""The default engine: a transformers model, one forward hook a layer, and a batch that rows join and leave.

Rows differ in anything. Finished rows leave at once and waiting ones take their slots, so no step is spent on
padding; edits are rebuilt from the rows themselves whenever the batch changes, so none can land on a neighbour.
"""

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import groupby

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from esr_utils.engines import masks
from esr_utils.engines.attention import stepping
from esr_utils.engines.base import (
    Capabilities,
    InFlight,
    OnResponse,
    OnToken,
    Response,
    Sampler,
    StopReason,
    in_flight,
    make_response,
)
from esr_utils.engines.plan import Plan
from esr_utils.engines.slots import KEY_BLOCK, MIN_BATCH, Slots
from esr_utils.models import Pair
from esr_utils.steering import Row

READ_BLOCK, MIN_READ = 8, 40  # rows are padded for reading to a multiple of the one, and to no less than the other
PREFILL_TOKENS = 4096  # most prompt tokens read in one forward pass
SCORED_TOKENS = 512  # positions whose full-vocabulary logits are held at once


class HFEngine:
    """Runs rows on the pair's transformers model, ``batch_size`` at a time.

    ``prefill_tokens``: most prompt tokens read in one forward pass. On processors with AMX the products of wider passes
    round otherwise in bfloat16, as do those of up to 32 tokens; from MIN_READ to 128, and with up to 32 rows, a row
    comes out the same in any company.
    """

    name = "hf"

    def __init__(self, pair: Pair, *, batch_size: int = 64, prefill_tokens: int = PREFILL_TOKENS):
        if batch_size < 1:
            raise ValueError(f"batch_size {batch_size} is not a positive number")
        self.prefill_tokens = prefill_tokens
        self.pair, self.batch_size = pair, batch_size
        self.device = pair.model.device  # over several GPUs: where tokens go in
        if self.device.type == "meta":
            raise ValueError(f"{pair.name} was loaded without its weights; load it with weights=True to run it here")

    def capabilities(self) -> Capabilities:
        return Capabilities(scores_text=True, has_weights=True)

    @torch.inference_mode()
    def generate(
        self,
        rows: Sequence[Row],
        *,
        on_token: OnToken | None = None,
        on_response: OnResponse | None = None,
        stop: threading.Event | None = None,
    ) -> list[Response]:
        """Responses in the order of ``rows``.

        Everything is checked before the first token. ``on_response`` is called as each row ends, so nothing
        finished is lost to an interrupt. Once ``stop`` is set, rows come back as they stand (``cancelled``).
        """
        waiting = deque(self._ready(rows))
        run = _Run(self, waiting, on_token, on_response)
        while (waiting or run.slots.rows) and not (stop and stop.is_set()):
            run.admit()
            run.step()
        run.cancel_rest()
        return [run.responses[i] for i in range(len(rows))]

    @torch.inference_mode()
    def log_likelihoods(
        self, rows: Sequence[Row], *, stretch_tokens: int | None = None
    ) -> list[Float[np.ndarray, " pos"]]:
        """Log-probability (natural) of each prefill token of each row, given its prompt and under its edits.

        Args:
            stretch_tokens: read the prefill in stretches of about this many tokens, each straight after the prompt
                and blind to the stretches before it. None reads it whole.
        """
        results: dict[int, np.ndarray] = {}
        for group in _groups(sorted(in_flight(rows, self.pair), key=lambda row: row.n_read), self.prefill_tokens):
            stretches = [_stretches(row, stretch_tokens) for row in group]
            hidden = self._read(group, stretches)
            _check_finite(hidden, group)
            before = [_predecessors(row, stretch) for row, stretch in zip(group, stretches, strict=True)]
            scores = self._log_probs(
                torch.cat([hidden[i, at] for i, at in enumerate(before)]), [t for row in group for t in row.tokens]
            )
            ends = np.cumsum([len(row.tokens) for row in group])[:-1]
            results.update(zip((row.index for row in group), np.split(scores, ends), strict=True))
        return [results[i] for i in range(len(rows))]

    def _log_probs(self, hidden: Tensor, tokens: list[int]) -> np.ndarray:
        targets, parts = torch.tensor(tokens, dtype=torch.long, device=self.device), []
        for start in range(0, len(tokens), SCORED_TOKENS):
            part = slice(start, start + SCORED_TOKENS)
            logits = self._logits(hidden[part]).float()
            parts.append(logits.gather(1, targets[part, None])[:, 0] - logits.logsumexp(-1))
        return torch.cat(parts).cpu().numpy() if parts else np.zeros(0, dtype=np.float32)

    def _ready(self, rows: Sequence[Row]) -> list[InFlight]:
        """Rows in tokens, longest first: the short ones then fill the gaps at the end."""
        ready = in_flight(rows, self.pair)
        return sorted(ready, key=lambda r: -(r.n_read + r.row.sampling.max_new_tokens))

    def _read(self, group: list[InFlight], stretches: list[list[int]] | None = None, slots: Slots | None = None):
        """Read whole prompts (and prefills) at once, right-padded; hidden states [row pos d_model].

        With ``slots`` the keys and values go there, to the group's own slots, which are the last ones.
        """
        longest = max(map(_read_length, group))
        ids = torch.zeros(len(group), longest, dtype=torch.long)
        is_response = torch.zeros(len(group), longest, dtype=torch.bool)
        stretch = torch.zeros(len(group), longest, dtype=torch.long)
        for i, row in enumerate(group):
            ids[i, : row.n_read] = torch.tensor([*row.prompt.ids, *row.tokens])
            is_response[i, len(row.prompt.ids) : row.n_read] = True
            if stretches:
                stretch[i, len(row.prompt.ids) : row.n_read] = torch.tensor(stretches[i], dtype=torch.long)
        positions = masks.stretch_positions(stretch)
        if slots:
            first = len(slots.rows) - len(group)
            slots.cache.write_at(torch.arange(first, len(slots.rows)), positions, n_keys=0)
        with Plan(group, self.pair).hooks(is_response.to(self.device)):
            return self._forward(ids, positions, masks.windowed(stretch), positions, slots and slots.cache)

    def _forward(self, ids: Tensor, positions: Tensor, visible: Tensor, key_positions: Tensor, cache: object) -> Tensor:
        """Hidden states before the head. ``visible`` [batch query key]: which keys each query attends to."""
        ids, positions, visible, keys = (x.to(self.device) for x in (ids, positions, visible, key_positions))
        output = self.pair.base_model()(
            input_ids=ids,
            attention_mask=masks.additive(visible, positions, keys, self.pair.text_config, self.pair.model.dtype),
            position_ids=positions,
            past_key_values=cache,
            use_cache=cache is not None,
        )
        return output.last_hidden_state.to(self.device)

    def _logits(self, hidden: Tensor) -> Tensor:
        return self.pair.soft_capped(self.pair.model.lm_head(hidden)).to(self.device)


class _Run:
    """One call of ``generate``: who waits, who is in flight, who is done."""

    def __init__(
        self,
        engine: HFEngine,
        waiting: deque[InFlight],
        on_token: OnToken | None,
        on_response: OnResponse | None,
    ):
        self.engine, self.waiting = engine, waiting
        self.on_token, self.on_response = on_token, on_response
        self.responses: dict[int, Response] = {}
        longest = max((row.n_read + row.row.sampling.max_new_tokens for row in waiting), default=1)
        n_slots = min(engine.batch_size, len(waiting))
        self.slots = Slots(engine.pair.n_layers, n_slots, longest + KEY_BLOCK, engine.device)
        self.plan: Plan | None = None  # of the rows in flight

    def admit(self) -> None:
        """Let waiting rows in once an eighth of the slots is free: one reading pass serves several."""
        if self.slots.rows and self.slots.n_free < max(1, self.slots.n_slots // 8):
            return
        while self.waiting and self.slots.n_free:
            n = min(self.slots.n_free, len(self.waiting))
            for group in _groups([self.waiting.popleft() for _ in range(n)], self.engine.prefill_tokens):
                self._join(group)

    def _join(self, group: list[InFlight]) -> None:
        self.slots.join(group)
        self.plan = None
        hidden = self.engine._read(group, slots=self.slots)
        last = torch.tensor([row.n_read - 1 for row in group], device=self.engine.device)
        first = len(self.slots.rows) - len(group)
        self._draw(hidden[torch.arange(len(group)), last], first)

    def step(self) -> None:
        """One token for every row in flight."""
        rows = self.slots.rows
        if not rows:
            return
        n_ghosts = MIN_BATCH - min(len(rows), MIN_BATCH)
        if self.plan is None:
            self.plan = Plan(rows, self.engine.pair, n_ghosts=n_ghosts)
        n = len(rows) + n_ghosts
        last = self.slots.lengths().expand(n) - 1
        n_keys = self.slots.n_keys()
        slots = torch.arange(n)
        self.slots.cache.write_at(slots, last[:, None], n_keys)
        with stepping(self.engine.pair), self.plan.hooks(torch.ones(n, 1, dtype=torch.bool, device=self.engine.device)):
            ids = self.slots.buffer[slots.clamp(max=len(rows) - 1), last][:, None]
            keys = torch.arange(n_keys)[None]
            visible = masks.causal(last[:, None], n_keys)
            hidden = self.engine._forward(ids, last[:, None], visible, keys, self.slots.cache)
        self._draw(hidden[: len(rows), 0], 0)

    def _draw(self, hidden: Tensor, first: int) -> None:
        """Draw the next token of the rows from slot ``first`` on, and let those that are done leave."""
        rows = self.slots.rows[first:]
        is_number = hidden.isfinite().all(dim=-1).tolist()
        ended: dict[int, StopReason] = {first + i: "overflow" for i in range(len(rows)) if not is_number[i]}
        n_max = [row.row.sampling.max_new_tokens for row in rows]
        drawing = [i for i, row in enumerate(rows) if is_number[i] and row.n_new < n_max[i]]
        tokens = dict(zip(drawing, self._next_tokens(hidden, rows, drawing), strict=True))
        for i, row in enumerate(rows):
            if tokens.get(i) in self.engine.pair.stop_ids:
                ended[first + i] = "stop"
                continue
            if i in tokens:
                self.slots.append(first + i, tokens[i])
                if self.on_token:
                    self.on_token(row.index, tokens[i])
            if is_number[i] and row.n_new == n_max[i]:
                ended[first + i] = "length"
        for slot in sorted(ended, reverse=True):
            if ended[slot] == "overflow":
                self.slots.cache.clear(slot)
            self._finish(self.slots.leave(slot), ended[slot])
            self.plan = None

    def _next_tokens(self, hidden: Tensor, rows: list[InFlight], drawing: list[int]) -> list[int]:
        if not drawing:
            return []
        rows = [rows[i] for i in drawing]
        uniform = torch.tensor([row.uniforms[row.n_new] for row in rows], device=hidden.device)
        logits = self.engine._logits(hidden[drawing] if len(drawing) > 1 else hidden[drawing].repeat(2, 1))
        sampler = Sampler([row.row for row in rows], hidden.device)
        return sampler.draw(logits[: len(rows)], self.slots.seen(rows), uniform).tolist()

    def _finish(self, row: InFlight, reason: StopReason) -> None:
        self.responses[row.index] = make_response(row, reason, self.engine.pair)
        if self.on_response:
            self.on_response(row.index, self.responses[row.index])

    def cancel_rest(self) -> None:
        for row in [*self.slots.rows, *self.waiting]:
            self._finish(row, "cancelled")
        self.slots.rows.clear()
        self.waiting.clear()


def _groups(rows: list[InFlight], n_tokens: int) -> Iterator[list[InFlight]]:
    """Rows that are read together: of one padded length, which is their own, and no more than fit one pass."""
    for length, same in groupby(sorted(rows, key=_read_length), key=_read_length):
        alike, n = list(same), max(1, n_tokens // length)
        yield from (alike[i : i + n] for i in range(0, len(alike), n))


def _read_length(row: InFlight) -> int:
    """Length to which a row is padded for reading: its own, whatever is read with it."""
    return max(MIN_READ, -(-row.n_read // READ_BLOCK) * READ_BLOCK)


def _check_finite(hidden: Tensor, group: list[InFlight]) -> None:
    for row, is_number in zip(group, hidden.isfinite().flatten(1).all(dim=1).tolist(), strict=True):
        if not is_number:
            raise ValueError(f"row {row.index} overflows the model's number format; lower its strength")


def _stretches(row: InFlight, n_tokens: int | None) -> list[int]:
    """For each prefill token the number of its stretch, from 1; stretches are of about equal length."""
    n = -(-len(row.tokens) // n_tokens) if n_tokens else 1
    return [1 + i * n // len(row.tokens) for i in range(len(row.tokens))]


def _predecessors(row: InFlight, stretches: list[int]) -> Tensor:
    """Position whose hidden state predicts each prefill token: the one before it, or the prompt's last one."""
    first = len(row.prompt.ids)
    starts = [i == 0 or stretches[i] != stretches[i - 1] for i in range(len(stretches))]
    return torch.tensor(
        [first - 1 if is_start else first + i - 1 for i, is_start in enumerate(starts)], dtype=torch.long
    )
