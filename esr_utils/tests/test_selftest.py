"""The self-test passes on every tiny pair, and each of its checks fails when what it checks is broken."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from esr_utils.engines import base, hf, selftest
from esr_utils.engines.base import InFlight
from esr_utils.engines.hf import HFEngine
from esr_utils.engines.selftest import CHECKS, self_test
from esr_utils.engines.slots import SlotCache, Slots
from esr_utils.engines.transformer_lens import TransformerLensEngine
from esr_utils.models import Pair
from esr_utils.sae import SAE
from esr_utils.steering import Interventions, LayerEdit, Row, steering_delta
from esr_utils.tests.conftest import tiny_pair, tiny_sae

Patch = pytest.MonkeyPatch
APPLY, CONTRIBUTION = LayerEdit.apply, LayerEdit._contribution


def edits_in_scheduler_order(patch: Patch) -> None:
    """Edit i goes to slot i in order of arrival, while the slots fill their holes from the end.

    So it may go in an engine whose scheduler and batch each keep an order of their own.
    """
    arrived: dict[int, int] = {}

    class SchedulerOrder(hf.Plan):
        def __init__(self, group: list[InFlight], pair: Pair, *, n_ghosts: int = 0):
            super().__init__(group, pair, n_ghosts=n_ghosts)
            for row in group:
                arrived.setdefault(id(row), len(arrived))
            rows = [*sorted(group, key=lambda row: arrived[id(row)]), *[group[0]] * n_ghosts]
            self.edits = Interventions([row.row for row in rows], pair, [row.delta for row in rows])

    patch.setattr(hf, "Plan", SchedulerOrder)


def a_neighbours_delta(patch: Patch) -> None:
    def apply(self: LayerEdit, resid: Tensor, in_scope: Tensor) -> Tensor:
        self.delta = self.delta.roll(1, dims=0)
        try:
            return APPLY(self, resid, in_scope)
        finally:
            self.delta = self.delta.roll(-1, dims=0)

    patch.setattr(LayerEdit, "apply", apply)


def a_cache_that_stays_behind(patch: Patch) -> None:
    patch.setattr(SlotCache, "move", lambda self, source, target, n_tokens: None)


def tokens_that_stay_behind(patch: Patch) -> None:
    leave = Slots.leave

    def forgetful(self: Slots, slot: int) -> InFlight:
        before = self.buffer.clone()
        gone = leave(self, slot)
        self.buffer.copy_(before)
        return gone

    patch.setattr(Slots, "leave", forgetful)


def random_numbers_by_slot(patch: Patch) -> None:
    draw = hf.Sampler.draw
    stream = torch.rand(64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    patch.setattr(hf.Sampler, "draw", lambda self, logits, seen, uniform: draw(self, logits, seen, stream[: len(seen)]))


def cached_positions_off_by_one(patch: Patch) -> None:
    forward = HFEngine._forward

    def shifted(self: HFEngine, ids: Tensor, positions: Tensor, *rest) -> Tensor:
        return forward(self, ids, positions - 1 if ids.shape[1] == 1 else positions, *rest)

    patch.setattr(HFEngine, "_forward", shifted)


def a_cache_that_forgets_the_last_token(patch: Patch) -> None:
    write_at = SlotCache.write_at

    def wrong(self: SlotCache, slots: Tensor, positions: Tensor, n_keys: int) -> None:
        write_at(self, slots, positions - 1 if n_keys else positions, n_keys)

    patch.setattr(SlotCache, "write_at", wrong)


def changed_edit(change: Callable[[LayerEdit, Tensor, Tensor], Tensor]) -> Callable[[Patch], None]:
    """The edited stream becomes ``change(edit, stream before, stream after)``."""

    def patch_apply(patch: Patch) -> None:
        def apply(self: LayerEdit, resid: Tensor, in_scope: Tensor) -> Tensor:
            return change(self, resid, APPLY(self, resid, in_scope))

        patch.setattr(LayerEdit, "apply", apply)

    return patch_apply


edits_that_do_nothing = changed_edit(lambda edit, before, after: before)
edits_at_strength_zero_too = changed_edit(lambda edit, before, after: after + 0.001)
edits_that_drop_the_error = changed_edit(lambda edit, before, after: edit_without_error(edit, before))


def edit_without_error(edit: LayerEdit, resid: Tensor) -> Tensor:
    sae = tiny_sae("standard")
    acts = sae.encode(resid)
    acts[..., edit.latents] = 0.0
    return sae.decode(acts)


def changed_delta(layers_up: int, factor: float) -> Callable[[Patch], None]:
    def patch_delta(patch: Patch) -> None:
        def delta(row: Row, pair: Pair) -> dict[int, Tensor]:
            return {layer + layers_up: factor * vector for layer, vector in steering_delta(row, pair).items()}

        patch.setattr(base, "steering_delta", delta)

    return patch_delta


twice_the_strength = changed_delta(0, 2.0)
one_layer_too_low = changed_delta(-1, 1.0)


def half_the_contribution(patch: Patch) -> None:
    patch.setattr(LayerEdit, "_contribution", lambda self, resid, share: 0.5 * CONTRIBUTION(self, resid, share))


def silent_latents_read_as_if_active(patch: Patch) -> None:
    def reader(self: SAE, latents: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda resid: (resid.float() @ self.W_enc[:, latents] + self.b_enc[latents]).double()

    patch.setattr(SAE, "reader", reader)


def hooks_that_stay(patch: Patch) -> None:
    patch.setattr(torch.utils.hooks.RemovableHandle, "remove", lambda self: None)


def an_sae_of_something_else(patch: Patch) -> None:
    """The tiny pairs' own SAEs are random."""


def an_engine_with_another_penalty(patch: Patch) -> None:
    next_tokens = TransformerLensEngine._next_tokens

    def penalised(self: TransformerLensEngine, rows: list[InFlight]) -> list[int]:
        for row in rows:
            row.row = replace(row.row, sampling=replace(row.row.sampling, repetition_penalty=1.3))
        return next_tokens(self, rows)

    patch.setattr(TransformerLensEngine, "_next_tokens", penalised)


def an_engine_that_ablates_half(patch: Patch) -> None:
    of_row = LayerEdit.of_row  # nnsight alone edits row by row

    def half(self: LayerEdit, i: int) -> LayerEdit:
        edit = of_row(self, i)
        edit.after, edit.before = edit.after / 2, edit.before / 2
        return edit

    patch.setattr(LayerEdit, "of_row", half)


SABOTAGES = [
    (selftest.row_alone_equals_row_in_churning_batch, edits_in_scheduler_order),
    (selftest.row_alone_equals_row_in_churning_batch, a_neighbours_delta),
    (selftest.row_alone_equals_row_in_churning_batch, a_cache_that_stays_behind),
    (selftest.row_alone_equals_row_in_churning_batch, tokens_that_stay_behind),
    (selftest.row_alone_equals_row_in_churning_batch, random_numbers_by_slot),
    (selftest.cache_equals_no_cache, cached_positions_off_by_one),
    (selftest.cache_equals_no_cache, a_cache_that_forgets_the_last_token),
    (selftest.strength_zero_changes_nothing, edits_at_strength_zero_too),
    (selftest.ablating_silent_latents_changes_nothing, silent_latents_read_as_if_active),
    (selftest.ablating_silent_latents_changes_nothing, edits_at_strength_zero_too),
    (selftest.residual_changes_by_strength_times_direction, edits_that_do_nothing),
    (selftest.residual_changes_by_strength_times_direction, twice_the_strength),
    (selftest.residual_changes_by_strength_times_direction, one_layer_too_low),
    (selftest.ablation_takes_the_contribution_away, edits_that_do_nothing),
    (selftest.ablation_takes_the_contribution_away, half_the_contribution),
    (selftest.ablation_takes_the_contribution_away, edits_that_drop_the_error),
    (selftest.steering_is_live, edits_that_do_nothing),
    (selftest.no_hook_stays_behind, hooks_that_stay),
    (selftest.sae_is_in_range, an_sae_of_something_else),
    (selftest.engines_agree, an_engine_with_another_penalty),
    (selftest.engines_agree, an_engine_that_ablates_half),
]


def test_every_check_but_that_of_the_sae_passes_on_every_tiny_pair(tiny):
    checks = [check for check in CHECKS if check is not selftest.sae_is_in_range]
    table = self_test(tiny, checks=checks)
    assert table["passed"].all(), table.to_string()
    assert table["check"].tolist() == [check.__name__.replace("_", " ") for check in checks]


def test_every_check_passes_on_a_topk_pair(tiny_llama):
    pair = replace(tiny_llama, sae=tiny_sae("topk"))
    table = self_test(pair, checks=[check for check in CHECKS if check is not selftest.sae_is_in_range])
    assert table["passed"].all(), table.to_string()


def test_an_sae_that_explains_the_stream_is_in_range(tiny_llama):
    eye = torch.eye(32)
    perfect = replace(tiny_sae("standard"), W_enc=torch.cat([eye, -eye], 1), W_dec=torch.cat([eye, -eye]))
    pair = replace(tiny_llama, sae=replace(perfect, b_enc=torch.zeros(64), b_dec=torch.zeros(32)))
    finding = selftest.sae_is_in_range(pair)
    assert finding.passed, finding.measured
    assert finding.measured == "explained variance 1.00, L0 32"


@pytest.mark.parametrize(("check", "sabotage"), SABOTAGES, ids=lambda function: function.__name__)
def test_a_check_fails_when_what_it_checks_is_broken(check, sabotage, monkeypatch):
    sabotage(monkeypatch)
    finding = check(tiny_pair("llama"))
    assert not finding.passed, finding.measured


def test_every_check_has_a_sabotage():
    assert {check for check, _ in SABOTAGES} == set(CHECKS)


def test_every_check_passes_on_the_embedded_pair(embedded_pair):
    table = self_test(embedded_pair)
    assert table["passed"].all(), table.to_string()
