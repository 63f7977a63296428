"""The hook that travels to a vLLM server: its edits, its records and its proof."""

import io
import pickle
import pickletools
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from esr_utils.engines.base import in_flight
from esr_utils.engines.vllm_hook import Collect, RowHook
from esr_utils.engines.vllm_server import _tensor
from esr_utils.steering import Ablate, Interventions, Row
from esr_utils.tests.test_vllm import STEERED


def a_hook(pair, row: Row, **options) -> RowHook:
    return pickle.loads(pickle.dumps(RowHook(in_flight([row], pair)[0], pair, **options)))


EDITED = replace(
    STEERED,
    token_ids=tuple(range(60, 70)),
    messages=None,
    prefill=(80, 81),
    ablate=(Ablate(latents=(7, 9), share=0.5), Ablate(latents=(11,), order="before_steering", layer=1)),
    record=(9, 5),
    record_resid=(1,),
)


def read_by(hook: RowHook, layer: int, resid: torch.Tensor, cuts: list[int]) -> tuple[torch.Tensor, dict]:
    """The stream after the hook, read in pieces."""
    ctx = SimpleNamespace(layer_idx=layer, saved={})
    parts = [hook(ctx, part.clone()) for part in torch.tensor_split(resid, cuts)]
    return torch.cat(parts), ctx.saved


@pytest.mark.parametrize("scope", ["all", "generated"])
@pytest.mark.parametrize("cuts", [[12, 13, 14], [4, 9, 12, 13, 14]])
def test_the_hook_does_what_the_shared_arithmetic_does(tiny, scope, cuts):
    row, resid = replace(EDITED, scope=scope), torch.randn(15, 32, generator=torch.Generator().manual_seed(0)) * 3
    is_response = torch.arange(15)[None] >= 10
    edits = Interventions([row], tiny)
    for layer in (1, 2):
        hook = a_hook(tiny, row)
        edited, saved = read_by(hook, layer, resid, cuts)
        expected = edits.edits[layer].apply(resid[None], edits.in_scope(is_response))[0]
        torch.testing.assert_close(edited, expected, rtol=0, atol=0)
        assert saved[f"read.{layer}"] == 15
        if layer == 2:
            assert saved["moved.2"] > 0
            acts = tiny.sae.encode(expected[10:], torch.tensor([9, 5])).float()
            torch.testing.assert_close(saved["activations"], acts, rtol=1e-5, atol=1e-5)
        else:
            torch.testing.assert_close(saved["resid.1"], expected[10:], rtol=0, atol=0)


def test_a_request_that_is_read_again_from_the_start_is_edited_at_the_same_places(tiny_llama):
    resid = torch.randn(15, 32)
    row = replace(EDITED, scope="generated")
    whole, expected = read_by(a_hook(tiny_llama, row), 2, resid, [12, 13, 14])
    hook, ctx = a_hook(tiny_llama, row), SimpleNamespace(layer_idx=2, saved={})
    for part in (resid[:12], resid[12:13], resid[13:14]):
        hook(ctx, part)
    again = [hook(ctx, resid[:12]), hook(ctx, resid[12:14]), hook(ctx, resid[14:])]
    torch.testing.assert_close(torch.cat(again), whole, rtol=0, atol=0)
    assert ctx.saved["read.2"] == expected["read.2"] == 15
    torch.testing.assert_close(ctx.saved["activations"], expected["activations"], equal_nan=True)


def test_what_is_read_beyond_the_end_is_left_out_and_overflow_is_found(tiny_llama):
    hook, ctx = a_hook(tiny_llama, EDITED), SimpleNamespace(layer_idx=2, saved={})
    for part in (torch.randn(12, 32), *torch.randn(5, 1, 32)):
        hook(ctx, part)
    assert ctx.saved["activations"].shape == (5, 2)
    ctx = SimpleNamespace(layer_idx=3, saved={})
    bad = torch.randn(12, 32)
    bad[7, 3] = torch.inf
    assert a_hook(tiny_llama, EDITED)(ctx, bad) is None
    assert ctx.saved["overflow_at"] == 7


def test_a_streamed_rows_report_is_brought_back_once(tiny_llama):
    hook, ctx = a_hook(tiny_llama, EDITED, key="k1"), SimpleNamespace(layer_idx=2, saved={})
    hook(ctx, torch.randn(12, 32))
    first, second = (SimpleNamespace(layer_idx=2, saved={}) for _ in range(2))
    Collect("k1")(first, torch.zeros(1, 32))
    Collect("k1")(second, torch.zeros(1, 32))
    assert first.saved["read.2"] == 12
    assert second.saved == {}


def test_the_hook_travels_as_names_and_numbers(tiny_llama):
    """No bytecode, which another Python could not read, and no latent that the row does not name."""
    packed = pickle.dumps(RowHook(in_flight([EDITED], tiny_llama)[0], tiny_llama))
    strings = [arg for op, arg, _ in pickletools.genops(io.BytesIO(packed)) if op.name == "SHORT_BINUNICODE"]
    assert "esr_utils.engines.vllm_hook" in strings
    assert not any("cloudpickle" in text or text == "CodeType" for text in strings)
    assert pickle.loads(packed).model.sae.W_dec.shape == (4, 32)


def test_tensors_come_back_in_their_dtype():
    import base64

    import zstandard

    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        values = torch.randn(3, 4).to(dtype)
        stored = (values.view(torch.int16) if dtype == torch.bfloat16 else values).numpy()
        data = base64.b64encode(zstandard.ZstdCompressor().compress(stored.tobytes())).decode()
        packed = {"__type__": "tensor", "data": data, "dtype": str(stored.dtype), "shape": [3, 4]}
        back = _tensor(packed | {"original_dtype": str(dtype)})
        assert back.dtype == dtype
        assert torch.equal(back, values)
