"""Tokens and responses as they come, and what is left when a call is stopped or interrupted."""

import threading
from dataclasses import replace

import numpy as np
import pytest

from esr_utils.engines.base import Response
from esr_utils.engines.hf import HFEngine
from esr_utils.steering import LayerEdit
from esr_utils.tests.engine_parts import PLAIN, ROWS, assert_same, has_hooks

N_STREAMED = 20
STREAMED = ROWS[:N_STREAMED]


def test_tokens_stream_in_order_and_each_row_is_delivered_once(tiny, alone):
    streamed, delivered = {i: [] for i in range(N_STREAMED)}, []
    responses = HFEngine(tiny, batch_size=5).generate(
        STREAMED,
        on_token=lambda i, token: streamed[i].append(token),
        on_response=lambda i, response: delivered.append((i, response)),
    )
    assert [tuple(streamed[i]) for i in range(N_STREAMED)] == [r.token_ids[r.n_prefill :] for r in responses]
    assert sorted(i for i, _ in delivered) == list(range(N_STREAMED))
    assert all(response is responses[i] for i, response in delivered)
    assert [i for i, _ in delivered] != sorted(i for i, _ in delivered)
    for response, expected in zip(responses, alone[:N_STREAMED], strict=True):
        assert_same(response, expected)


def test_stopping_gives_back_every_row_as_it_stands(tiny, alone):
    stop, streamed, delivered = threading.Event(), {i: [] for i in range(N_STREAMED)}, []

    def on_token(i: int, token: int) -> None:
        streamed[i].append(token)
        if len(delivered) >= 3:
            stop.set()

    responses = HFEngine(tiny, batch_size=5).generate(
        STREAMED, on_token=on_token, on_response=lambda i, response: delivered.append(i), stop=stop
    )
    assert sorted(delivered) == list(range(N_STREAMED))
    assert [tuple(streamed[i]) for i in range(N_STREAMED)] == [r.token_ids[r.n_prefill :] for r in responses]
    assert 3 <= sum(r.stop_reason != "cancelled" for r in responses) < N_STREAMED - 3
    for response, expected in zip(responses, alone[:N_STREAMED], strict=True):
        if response.stop_reason == "cancelled":
            assert response.token_ids == expected.token_ids[: len(response.token_ids)]
        else:
            assert_same(response, expected)
    assert any(r.stop_reason == "cancelled" and len(r.token_ids) > r.n_prefill for r in responses)


def test_stopped_before_it_began_nothing_is_drawn(tiny_llama):
    stop = threading.Event()
    stop.set()
    response = HFEngine(tiny_llama).generate([replace(PLAIN, prefill=(70, 80), record=(5,))], stop=stop)[0]
    assert (response.token_ids, response.stop_reason) == ((70, 80), "cancelled")
    assert np.isnan(response.activations[5]).tolist() == [True, True]


@pytest.mark.parametrize("where", ["on_token", "on_response", "within a forward pass"])
def test_an_interrupt_leaves_no_hooks_and_loses_no_finished_row(tiny, alone, monkeypatch, where):
    delivered, attention = {}, tiny.text_config._attn_implementation

    def interrupt(*args) -> None:
        if len(delivered) >= 3:
            raise KeyboardInterrupt

    def on_response(i: int, response: Response) -> None:
        delivered[i] = response
        if where == "on_response":
            interrupt()

    apply = LayerEdit.apply
    with monkeypatch.context() as patch:
        if where == "within a forward pass":
            patch.setattr(LayerEdit, "apply", lambda *args: (interrupt(), apply(*args))[1])
        engine = HFEngine(tiny, batch_size=5)
        with pytest.raises(KeyboardInterrupt):
            engine.generate(STREAMED, on_token=interrupt if where == "on_token" else None, on_response=on_response)
    assert not has_hooks(tiny)
    assert tiny.text_config._attn_implementation == attention
    assert 3 <= len(delivered) < N_STREAMED - 3
    for i, response in delivered.items():
        assert_same(response, alone[i])
    assert_same(engine.generate(ROWS[:1])[0], alone[0])
