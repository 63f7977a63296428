"""Rows in flight and their key-value cache, in numbered slots that move together.

A row joins at the next free slot and keeps its tokens at their true positions from 0; when it ends, the last row
moves into the hole, so the rows in flight are always the first ``n`` slots and no step is spent on a finished one.
"""

import torch
from jaxtyping import Int
from torch import Tensor

from esr_utils.engines.base import InFlight

KEY_BLOCK, MIN_KEYS = 32, 64  # so the span of a row's attention does not follow its neighbours' lengths
MIN_BATCH = 2  # a product with a single row rounds differently, so a lone row runs beside a ghost of itself


class SlotCache:
    """Keys and values of every layer and slot, allocated once and written in place.

    Follows the two methods that transformers' attention layers call. transformers' own dynamic cache copies itself
    at every token, and its static one has a single length for the whole batch.
    """

    def __init__(self, n_layers: int, n_slots: int, n_tokens: int):
        self.keys: list[Tensor | None] = [None] * n_layers
        self.values: list[Tensor | None] = [None] * n_layers
        self.n_slots, self.n_tokens = n_slots, n_tokens
        self.slots = self.positions = torch.empty(0, dtype=torch.long)
        self.n_keys = 0

    def write_at(self, slots: Int[Tensor, " batch"], positions: Int[Tensor, "batch pos"], n_keys: int) -> None:
        """Where the coming forward pass writes, and how many keys it attends to (0: only to its own)."""
        self.slots, self.positions, self.n_keys = slots[:, None], positions, n_keys

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, *args, **kwargs) -> tuple[Tensor, Tensor]:
        """Store one layer's new keys and values [batch head pos d_head]; return those to attend to."""
        n_tokens = max(self.n_keys, -(-keys.shape[2] // KEY_BLOCK) * KEY_BLOCK)
        self.keys[layer_idx] = self._grown(self.keys[layer_idx], n_tokens, like=keys)
        self.values[layer_idx] = self._grown(self.values[layer_idx], n_tokens, like=values)
        self.keys[layer_idx][self.slots, :, self.positions] = keys.transpose(1, 2)
        self.values[layer_idx][self.slots, :, self.positions] = values.transpose(1, 2)
        if not self.n_keys:
            return keys, values
        window = (slice(0, len(keys)), slice(None), slice(0, self.n_keys))
        return self.keys[layer_idx][window], self.values[layer_idx][window]

    def _grown(self, stored: Tensor | None, n_tokens: int, *, like: Tensor) -> Tensor:
        """``stored``, with room for ``n_tokens``: it grows block by block, so that a step reads one piece of memory."""
        if stored is not None and stored.shape[2] >= n_tokens:
            return stored
        grown = like.new_zeros(self.n_slots, like.shape[1], n_tokens, like.shape[3])
        if stored is not None:
            grown[:, :, : stored.shape[2]] = stored
        return grown

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0  # positions and masks are always given

    def clear(self, slot: int) -> None:
        """Forget a slot's content. Only what is not a number must go: a mask hides everything else."""
        for tensor in (*self.keys, *self.values):
            tensor[slot] = 0.0

    def move(self, source: int, target: int, n_tokens: int) -> None:
        """Copy the first ``n_tokens`` of one slot into another."""
        for tensor in (*self.keys, *self.values):
            tensor[target, :, :n_tokens] = tensor[source, :, :n_tokens]


class Slots:
    """The rows in flight, their token buffer and their cache."""

    def __init__(self, n_layers: int, n_slots: int, n_tokens: int, device: torch.device | str = "cpu"):
        n_tokens = max(MIN_KEYS, -(-n_tokens // KEY_BLOCK) * KEY_BLOCK)
        self.cache = SlotCache(n_layers, max(MIN_BATCH, n_slots), n_tokens)
        self.buffer = torch.zeros(n_slots, n_tokens, dtype=torch.long)
        self.n_slots, self.device = n_slots, device
        self.rows: list[InFlight] = []

    def n_keys(self) -> int:
        """Keys that the coming step attends to, those of the longest row and a little more."""
        longest = max(row.n_read for row in self.rows)
        return max(MIN_KEYS, -(-longest // KEY_BLOCK) * KEY_BLOCK)

    @property
    def n_free(self) -> int:
        return self.n_slots - len(self.rows)

    def join(self, newcomers: list[InFlight]) -> None:
        for row in newcomers:
            ids = torch.tensor([*row.prompt.ids, *row.tokens])
            self.buffer[len(self.rows)] = ids[0]  # padding that the repetition penalty may see: its own first token
            self.buffer[len(self.rows), : len(ids)] = ids
            self.rows.append(row)

    def append(self, slot: int, token: int) -> None:
        row = self.rows[slot]
        self.buffer[slot, row.n_read] = token
        row.tokens.append(token)

    def leave(self, slot: int) -> InFlight:
        """Take a row out; the last one moves into its slot, cache and tokens with it."""
        gone, last = self.rows[slot], len(self.rows) - 1
        if slot != last:
            self.cache.move(last, slot, self.rows[last].n_read)
            self.buffer[slot] = self.buffer[last]
            self.rows[slot] = self.rows[last]
        self.rows.pop()
        return gone

    def lengths(self) -> Int[Tensor, " batch"]:
        return torch.tensor([row.n_read for row in self.rows])

    def seen(self, rows: list[InFlight]) -> Int[Tensor, "batch pos"]:
        """Every token so far of each of ``rows``, padded with the row's first token."""
        ids = {id(row) for row in rows}
        slots = [i for i, row in enumerate(self.rows) if id(row) in ids]
        return self.buffer[slots, : max(row.n_read for row in rows)].to(self.device)
