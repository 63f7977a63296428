"""Whatever joins and leaves, each slot holds one row's tokens and that row's own keys and values."""

import numpy as np
import pytest
import torch
from jaxtyping import Int
from torch import Tensor

from esr_utils.engines.base import InFlight, Prompt
from esr_utils.engines.slots import KEY_BLOCK, MIN_KEYS, SlotCache, Slots
from esr_utils.steering import Row


def row_of(index: int, n_prompt: int, n_response: int = 0) -> InFlight:
    """A row whose tokens say whose they are and where they stand: 1000 x index + position."""
    ids = [1000 * index + i for i in range(n_prompt + n_response)]
    prompt = Prompt(ids=tuple(ids[:n_prompt]), prefill=())
    return InFlight(index, Row(token_ids=prompt.ids), prompt, {}, np.zeros(0), tokens=ids[n_prompt:])


def read(slots: Slots, which: Int[Tensor, " batch"], positions: Int[Tensor, "batch pos"], n_keys: int) -> Tensor:
    """A forward pass of one layer whose keys are the tokens themselves."""
    slots.cache.write_at(which, positions, n_keys)
    tokens = slots.buffer[which[:, None], positions].float()[:, None, :, None]
    return slots.cache.update(tokens, -tokens, 0)[0]


def admit(slots: Slots, newcomers: list[InFlight]) -> None:
    first, longest = len(slots.rows), max(row.n_read for row in newcomers)
    slots.join(newcomers)
    read(slots, torch.arange(first, len(slots.rows)), torch.arange(longest).expand(len(newcomers), -1), 0)


def step(slots: Slots) -> None:
    for i, row in enumerate(slots.rows):
        slots.append(i, 1000 * row.index + row.n_read)
    read(slots, torch.arange(len(slots.rows)), slots.lengths()[:, None] - 1, slots.n_keys())


def assert_each_slot_is_one_row(slots: Slots) -> None:
    for i, row in enumerate(slots.rows):
        expected = torch.tensor([*row.prompt.ids, *row.tokens])
        assert torch.equal(expected, 1000 * row.index + torch.arange(row.n_read))
        assert torch.equal(slots.buffer[i, : row.n_read], expected)
        assert torch.equal(slots.cache.keys[0][i, 0, : row.n_read, 0], expected.float())
        assert torch.equal(slots.cache.values[0][i, 0, : row.n_read, 0], -expected.float())


@pytest.mark.parametrize("n_slots", [1, 2, 5])
def test_rows_keep_their_own_tokens_and_cache_through_any_joining_and_leaving(n_slots):
    rng, slots = np.random.default_rng(0), Slots(1, n_slots, 100)
    started, left = 0, []
    for _ in range(60):
        newcomers = [row_of(started + i, int(rng.integers(1, 30))) for i in range(rng.integers(0, slots.n_free + 1))]
        started += len(newcomers)
        if newcomers:
            admit(slots, newcomers)
        if slots.rows:
            step(slots)
            assert_each_slot_is_one_row(slots)
        for slot in reversed(range(len(slots.rows))):
            if rng.random() < 0.2 or slots.rows[slot].n_read > 90:
                expected = slots.rows[slot]
                assert slots.leave(slot) is expected
                left.append(expected.index)
        assert_each_slot_is_one_row(slots)
        assert len(slots.rows) + slots.n_free == n_slots
    assert sorted([*left, *[row.index for row in slots.rows]]) == list(range(started))
    assert len(left) > 5


def test_the_last_row_moves_into_the_hole():
    slots = Slots(1, 3, 50)
    admit(slots, [row_of(1, 5), row_of(2, 9), row_of(3, 7)])
    slots.leave(0)
    assert [row.index for row in slots.rows] == [3, 2]
    slots.leave(1)
    assert [row.index for row in slots.rows] == [3]
    assert_each_slot_is_one_row(slots)


def test_a_step_attends_to_the_rows_in_flight_and_a_reading_to_its_own_keys():
    cache = SlotCache(1, 4, 64)
    keys = torch.randn(2, 3, 5, 8)
    cache.write_at(torch.tensor([1, 2]), torch.arange(5).expand(2, -1), 0)
    assert torch.equal(cache.update(keys, -keys, 0)[0], keys)
    cache.write_at(torch.arange(3), torch.tensor([[0], [5], [5]]), 32)
    one = torch.randn(3, 3, 1, 8)
    attended, values = cache.update(one, -one, 0)
    assert attended.shape == (3, 3, 32, 8)
    assert torch.equal(attended[1:, :, :5], keys)
    assert torch.equal(attended[1:, :, 5:6], one[1:])
    assert torch.equal(values, -attended)


def test_keys_come_in_blocks_that_hold_the_longest_row():
    slots = Slots(1, 2, 300)
    admit(slots, [row_of(1, 5), row_of(2, 10)])
    assert slots.n_keys() == MIN_KEYS
    slots.leave(0)
    admit(slots, [row_of(3, MIN_KEYS + 1)])
    assert slots.n_keys() == MIN_KEYS + KEY_BLOCK
    step(slots)
    assert_each_slot_is_one_row(slots)


def test_seen_holds_every_token_of_the_rows_asked_for_and_nothing_of_others():
    slots = Slots(1, 4, 60)
    admit(slots, [row_of(1, 5, 2), row_of(2, 30), row_of(3, 9, 1)])
    slots.leave(1)
    admit(slots, [row_of(4, 3)])
    asked = [slots.rows[i] for i in (0, 2)]
    seen = slots.seen(asked)
    assert [row.index for row in asked] == [1, 4]
    for tokens, row in zip(seen.tolist(), asked, strict=True):
        assert set(tokens) == {*row.prompt.ids, *row.tokens}
