"""A recorded response comes back for its own row and for no other."""

from dataclasses import replace

import jaxtyping
import pytest
import torch

from esr_utils.engines.hf import HFEngine
from esr_utils.engines.replay import ReplayEngine, row_key
from esr_utils.steering import Ablate, Row, Sampling, Steer
from esr_utils.tests.conftest import tiny_pair

STEER, ABLATE = Steer(latent=5, strength=3.0), Ablate(latents=(3, 7))
OWN = Steer(direction=torch.ones(32), strength=3.0)
ROW = Row(messages="How?", steer=(STEER,), ablate=(ABLATE,), sampling=Sampling(max_new_tokens=6))
CHANGES = {
    "prompt": {"messages": "Why?"},
    "system prompt": {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "How?"}]},
    "prefill": {"prefill": "Well"},
    "seed": {"seed": 1},
    "scope": {"scope": "generated"},
    "strength": {"steer": (replace(STEER, strength=3.5),)},
    "steered latent": {"steer": (replace(STEER, latent=6),)},
    "steering layer": {"steer": (replace(STEER, layer=1),)},
    "steered twice": {"steer": (STEER, STEER)},
    "own direction": {"steer": (OWN,)},
    "other direction": {"steer": (replace(OWN, direction=torch.ones(32) - 1e-6),)},
    "not steered": {"steer": ()},
    "ablated latent": {"ablate": (replace(ABLATE, latents=(3, 8)),)},
    "share": {"ablate": (replace(ABLATE, share=0.5),)},
    "order": {"ablate": (replace(ABLATE, order="before_steering"),)},
    "ablation layer": {"ablate": (replace(ABLATE, layer=1),)},
    "not ablated": {"ablate": ()},
    "max_new_tokens": {"sampling": replace(ROW.sampling, max_new_tokens=7)},
    "temperature": {"sampling": replace(ROW.sampling, temperature=0.7)},
    "top_p": {"sampling": replace(ROW.sampling, top_p=0.9)},
    "repetition_penalty": {"sampling": replace(ROW.sampling, repetition_penalty=1.2)},
}


def test_replay_gives_the_recorded_responses_in_the_order_of_the_rows_and_streams_them(tiny_llama):
    rows = [replace(ROW, seed=i, prefill="Well" * (i % 2)) for i in range(5)]
    responses = HFEngine(tiny_llama).generate(rows)
    streamed, finished = {i: [] for i in range(5)}, {}
    order = [3, 0, 4, 4]
    replayed = ReplayEngine.of(tiny_llama, rows, responses).generate(
        [rows[i] for i in order], on_token=lambda i, t: streamed[i].append(t), on_response=finished.__setitem__
    )
    assert [r is responses[i] for r, i in zip(replayed, order, strict=True)] == [True] * 4
    assert finished == dict(enumerate(replayed))
    assert [streamed[i] for i in range(4)] == [list(r.token_ids[r.n_prefill :]) for r in replayed]


def test_a_row_that_was_never_recorded_is_an_error(tiny_llama):
    engine = ReplayEngine.of(tiny_llama, [ROW], HFEngine(tiny_llama).generate([ROW]))
    with pytest.raises(KeyError, match=r"row 1 was never recorded \(seed 7\); generate it with another engine first"):
        engine.generate([ROW, replace(ROW, seed=7)])


def test_every_field_that_matters_changes_the_key(tiny_llama):
    keys = {name: row_key(replace(ROW, **change), tiny_llama) for name, change in CHANGES.items()}
    assert len({row_key(ROW, tiny_llama), *keys.values()}) == len(CHANGES) + 1


def test_what_is_recorded_does_not_change_the_key(tiny_llama):
    assert row_key(replace(ROW, record=(3,), record_resid=(1,)), tiny_llama) == row_key(ROW, tiny_llama)


def test_the_same_prompt_in_other_words_has_the_same_key(tiny_llama):
    prefill = tuple(tiny_llama.tokenizer("Well", add_special_tokens=False)["input_ids"])
    ids = tiny_llama.chat_ids([{"role": "user", "content": "How?"}])
    same = replace(ROW, messages=None, token_ids=ids, prefill=prefill)
    assert row_key(same, tiny_llama) == row_key(replace(ROW, prefill="Well"), tiny_llama)


def test_a_whole_number_as_strength_has_the_same_key(tiny_llama, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users run it: 3 is accepted for 3.0
    assert row_key(replace(ROW, steer=(replace(STEER, strength=3),)), tiny_llama) == row_key(ROW, tiny_llama)


def test_another_model_or_another_layer_of_the_pair_changes_the_key(tiny_llama):
    others = [
        tiny_pair("gemma3"),
        replace(tiny_llama, steering_layer=1),
        replace(tiny_llama, reading_layer=1),
    ]
    assert len({row_key(ROW, pair) for pair in (tiny_llama, *others)}) == 4


def test_latents_that_were_not_recorded_are_not_replayed_as_if_they_were(tiny_llama):
    engine = ReplayEngine.of(tiny_llama, [ROW], HFEngine(tiny_llama).generate([ROW]))
    with pytest.raises(KeyError, match="latent"):
        engine.generate([replace(ROW, record=(3,))])
