"""The engines for cross-checks give what ``hf`` gives."""

import threading
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch

from esr_utils.engines.base import Engine
from esr_utils.engines.hf import HFEngine
from esr_utils.steering import Steer
from esr_utils.tests.conftest import tiny_pair
from esr_utils.tests.engine_parts import GREEDY, PLAIN, ROWS, assert_same, has_hooks


@pytest.fixture(scope="session")
def transformer_lens(tiny) -> Engine:
    from esr_utils.engines.transformer_lens import TransformerLensEngine

    return TransformerLensEngine(tiny)


@pytest.fixture(scope="session")
def nnsight(tiny) -> Engine:
    from esr_utils.engines.nnsight import NNsightEngine

    return NNsightEngine(tiny)


@pytest.mark.parametrize("name", ["transformer_lens", "nnsight"])
def test_other_engines_agree_with_hf_on_mixed_rows(request, tiny, alone, name):
    rows = [replace(row, record_resid=()) for row in ROWS[-16:]]
    streamed, delivered = {i: [] for i in range(16)}, []
    responses = request.getfixturevalue(name).generate(
        rows,
        on_token=lambda i, token: streamed[i].append(token),
        on_response=lambda i, response: delivered.append((i, response)),
    )
    assert delivered == list(enumerate(responses))
    assert [tuple(streamed[i]) for i in range(16)] == [r.token_ids[r.n_prefill :] for r in responses]
    for response, expected in zip(responses, alone[-16:], strict=True):
        assert (response.token_ids, response.stop_reason) == (expected.token_ids, expected.stop_reason)
        assert list(response.activations) == list(expected.activations)
        for latent, values in response.activations.items():
            np.testing.assert_allclose(values, expected.activations[latent], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["transformer_lens", "nnsight"])
def test_other_engines_stop_where_they_stand(request, tiny, name):
    stop = threading.Event()
    row = replace(PLAIN, sampling=replace(GREEDY, max_new_tokens=20))
    expected = HFEngine(tiny).generate([row])[0].token_ids
    response = request.getfixturevalue(name).generate([row], on_token=lambda *call: stop.set(), stop=stop)[0]
    assert (response.token_ids, response.stop_reason) == (expected[:1], "cancelled")


def test_other_engines_give_the_stream_that_was_asked_for(tiny, transformer_lens):
    row = replace(PLAIN, prefill="Well", record_resid=(1,))
    expected = HFEngine(tiny).generate([row])[0].resid[1]
    found = transformer_lens.generate([row])[0].resid[1]
    torch.testing.assert_close(found[: len(expected)], expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["transformer_lens", "nnsight"])
def test_other_engines_leave_the_pairs_model_as_it_was(request, tiny, alone, name):
    request.getfixturevalue(name).generate([ROWS[5]])
    assert not has_hooks(tiny)
    assert_same(HFEngine(tiny).generate([ROWS[5]])[0], alone[5])


def test_a_second_transformer_lens_engine_can_be_made_and_the_tokenizer_stays_as_it_was():
    from esr_utils.engines.transformer_lens import TransformerLensEngine

    pair = tiny_pair("llama")
    before = dict(pair.tokenizer.special_tokens_map), pair.tokenizer.padding_side
    TransformerLensEngine(pair)
    assert (dict(pair.tokenizer.special_tokens_map), pair.tokenizer.padding_side) == before
    TransformerLensEngine(pair)


def test_a_transformer_lens_hook_that_never_fires_raises(transformer_lens, monkeypatch):
    monkeypatch.setattr(transformer_lens.bridge, "hooks", lambda fwd_hooks: nullcontext())
    steered = replace(PLAIN, steer=(Steer(latent=5, strength=1.0),))
    with pytest.raises(RuntimeError, match=r"no token passed the hook at layer \[2\] of tiny-"):
        transformer_lens.generate([steered])
