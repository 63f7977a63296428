"""A response belongs to its row alone, whatever the batch, the engine or the order of work."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from transformers import RepetitionPenaltyLogitsProcessor

from esr_utils.config import ROOT
from esr_utils.engines import hf
from esr_utils.engines.base import InFlight
from esr_utils.engines.hf import HFEngine
from esr_utils.engines.ndif import NDIFEngine
from esr_utils.engines.replay import ReplayEngine
from esr_utils.engines.reread import RereadEngine
from esr_utils.engines.slots import Slots
from esr_utils.engines.vllm import VLLMEngine
from esr_utils.steering import Ablate, Row, Sampling, Steer
from esr_utils.tests.engine_parts import GREEDY, N_ROWS, PLAIN, QUESTIONS, ROWS, assert_same


class Traffic:
    """What happens to the slots of a run: who moved into a hole, and who joined rows already on their way."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.moved, self.joined_late, self.lengths = 0, 0, set()
        leave, join = Slots.leave, Slots.join

        def watched_leave(slots: Slots, slot: int) -> InFlight:
            self.moved += slot < len(slots.rows) - 1 and slots.rows[-1].n_new > 1
            self.lengths.add(slots.rows[slot].n_new)
            return leave(slots, slot)

        def watched_join(slots: Slots, newcomers: list[InFlight]) -> None:
            self.joined_late += len(newcomers) if any(row.n_new > 1 for row in slots.rows) else 0
            join(slots, newcomers)

        monkeypatch.setattr(Slots, "leave", watched_leave)
        monkeypatch.setattr(Slots, "join", watched_join)


# the most important law: a row is the same alone and in a batch that strangers join and leave


def test_the_strangers_differ_and_end_in_every_way(alone):
    assert min(sum(r.stop_reason == reason for r in alone) for reason in ("stop", "length")) >= 5
    assert len({len(response.token_ids) for response in alone}) > 12
    assert len({response.token_ids for response in alone}) > 0.6 * N_ROWS


@pytest.mark.parametrize(("batch_size", "n_rows"), [(1, 8), (3, N_ROWS), (8, N_ROWS), (64, N_ROWS)])
def test_row_alone_equals_row_in_a_churning_batch(tiny, alone, monkeypatch, batch_size, n_rows):
    order = np.random.default_rng(batch_size).permutation(N_ROWS)[:n_rows]
    traffic = Traffic(monkeypatch)
    together = HFEngine(tiny, batch_size=batch_size).generate([ROWS[i] for i in order])
    for i, response in zip(order, together, strict=True):
        assert_same(response, alone[i])
    if 1 < batch_size < n_rows:
        assert traffic.joined_late > n_rows / 3
    if batch_size > 1:
        assert traffic.moved > 5
        assert len(traffic.lengths) > 8


def test_twins_in_one_batch_come_out_alike_and_a_seed_apart_differ(tiny):
    row = replace(PLAIN, sampling=replace(GREEDY, temperature=1.0, max_new_tokens=20))
    a, b, other = HFEngine(tiny).generate([row, row, replace(row, seed=1)])
    assert_same(a, b)
    assert a.token_ids != other.token_ids


def test_a_row_that_overflows_leaves_its_slot_clean(tiny):
    """Keys and values that are not numbers stay in a slot after their row left; masking does not undo them."""
    ruined = replace(PLAIN, steer=(Steer(direction=torch.full((32,), 1e38), strength=100.0),))
    after = [replace(PLAIN, messages=question) for question in ("How?", "Hi", "Why?")]
    expected = HFEngine(tiny).generate(after)
    got = HFEngine(tiny, batch_size=1).generate([ruined, *after])[1:]
    assert [response.token_ids for response in got] == [response.token_ids for response in expected]


@pytest.mark.parametrize("n_tokens", [1, 200])
def test_reading_in_several_passes_changes_nothing(tiny, alone, n_tokens):
    for a, b in zip(HFEngine(tiny, prefill_tokens=n_tokens).generate(ROWS[:12]), alone[:12], strict=True):
        assert_same(a, b)


def test_rows_in_bfloat16_are_the_same_alone_and_in_a_churning_batch(embedded_pair):
    rows = [
        Row(
            messages=QUESTIONS[i % 3],
            steer=(Steer(latent=100 + i, strength=30.0),) * (i % 4 > 0),
            ablate=(Ablate(latents=(7, 300 + i)),) * (i % 3 > 0),
            seed=i,
            sampling=Sampling(max_new_tokens=4 + 3 * (i % 4), temperature=0.7 * (i % 2)),
            record=(100 + i, 7),
        )
        for i in range(8)
    ]
    together = HFEngine(embedded_pair, batch_size=3).generate(rows)
    for i in (0, 3, 5, 7):
        assert_same(together[i], HFEngine(embedded_pair).generate([rows[i]])[0], tolerance=0.0)


def test_a_row_in_bfloat16_is_the_same_in_any_small_company(embedded_pair):
    """As in the explorer: three answers, or a sweep of six. With wide passes it was not, on a processor with AMX."""
    rows = [
        Row(messages=QUESTIONS[0], steer=(Steer(latent=100, strength=s),), seed=3, sampling=Sampling(max_new_tokens=24))
        for s in (60.0, 0.0, 20.0, 40.0, 50.0, 70.0, 80.0, 90.0, 100.0, 110.0)
    ]
    engine = HFEngine(embedded_pair, prefill_tokens=128)
    (expected,) = engine.generate(rows[:1])
    for n in (2, 3, 6, 10):
        assert engine.generate(rows[:n])[0].token_ids == expected.token_ids


def test_clients_of_servers_still_load_after_nnsight():
    """In a process of its own: as a notebook whose self-tests run nnsight before a judge with a key is asked."""
    lines = "load_before_nnsight(); import nnsight; import anyio._backends._asyncio, anyio.streams.tls"
    script = f"from esr_utils.engines.nnsight import load_before_nnsight; {lines}"
    subprocess.run([sys.executable, "-c", script + "; load_before_nnsight()"], check=True, cwd=ROOT)


# against transformers itself


@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_greedy_equals_transformers_generate(tiny, penalty):
    rows = [replace(PLAIN, messages=q * n) for q in QUESTIONS for n in (1, 3)]
    sampling = replace(GREEDY, max_new_tokens=40, repetition_penalty=penalty)
    for row, response in zip(
        rows, HFEngine(tiny).generate([replace(row, sampling=sampling) for row in rows]), strict=True
    ):
        ids = torch.tensor([tiny.chat_ids([{"role": "user", "content": row.messages}])])
        new = tiny.model.generate(ids, do_sample=False, max_new_tokens=40, repetition_penalty=penalty, pad_token_id=0)[
            0, ids.shape[1] :
        ].tolist()
        is_stopped = new[-1] in tiny.stop_ids
        assert response.token_ids == tuple(new[:-1] if is_stopped else new)
        assert response.stop_reason == ("stop" if is_stopped else "length")


def test_steered_tokens_equal_a_plain_loop_with_a_hook_and_no_cache(tiny):
    sampling = replace(GREEDY, max_new_tokens=30, repetition_penalty=1.3)
    row = replace(PLAIN, steer=(Steer(latent=5, strength=8.0, layer=1),), sampling=sampling)
    response = HFEngine(tiny).generate([row])[0]
    assert response.token_ids != HFEngine(tiny).generate([replace(row, steer=())])[0].token_ids

    def add(module: torch.nn.Module, args: tuple, output: torch.Tensor) -> torch.Tensor:
        return output + 8.0 * tiny.sae.W_dec[5]

    penalise, ids = RepetitionPenaltyLogitsProcessor(1.3), torch.tensor([response.prompt_ids])
    handle = tiny.blocks()[1].register_forward_hook(add)
    for token in response.token_ids:
        assert penalise(ids, tiny.model(ids, use_cache=False).logits[:, -1]).argmax() == token
        ids = torch.cat([ids, torch.tensor([[token]])], dim=1)
    handle.remove()


def test_sampled_first_tokens_have_the_frequencies_of_the_models_softmax(tiny_llama):
    n, sampling = 1500, Sampling(max_new_tokens=1, temperature=0.8, repetition_penalty=1.0)
    responses = HFEngine(tiny_llama).generate([Row(messages="Hi", seed=i, sampling=sampling) for i in range(n)])
    with torch.inference_mode():
        logits = tiny_llama.model(torch.tensor([responses[0].prompt_ids])).logits[0, -1].double()
    probs = (logits / 0.8).softmax(-1).numpy()
    stop = sorted(tiny_llama.stop_ids)
    counts = np.bincount([r.token_ids[0] for r in responses if r.token_ids], minlength=len(probs)).astype(float)
    counts[stop[0]], probs[stop[0]] = n - counts.sum(), probs[stop].sum()
    probs[stop[1:]] = 0.0
    usual = n * probs >= 5
    observed, expected = (np.append(x[usual], x[~usual].sum()) for x in (counts, n * probs))
    assert len(observed) > 5
    assert chisquare(observed, expected).pvalue > 1e-3


@torch.inference_mode()
def test_log_likelihoods_are_those_of_the_models_own_logits(tiny, monkeypatch):
    monkeypatch.setattr(hf, "SCORED_TOKENS", 7)
    rows = [replace(PLAIN, messages=q, prefill=p) for q in QUESTIONS for p in ("Take a pot and some soil.", "No", "")]
    for row, scores in zip(rows, HFEngine(tiny).log_likelihoods(rows), strict=True):
        prompt = tiny.chat_ids([{"role": "user", "content": row.messages}])
        answer = tiny.tokenizer(row.prefill, add_special_tokens=False)["input_ids"]
        log_probs = tiny.model(torch.tensor([[*prompt, *answer]])).logits[0].float().log_softmax(-1)
        expected = [log_probs[len(prompt) - 1 + i, token].item() for i, token in enumerate(answer)]
        np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-4)


def test_log_likelihoods_are_read_under_the_rows_own_edits(tiny):
    answer = (70, 80, 90, 100, 110)
    rows = [replace(row, prefill=answer, scope="all") for row in ROWS[:8]]
    together = HFEngine(tiny).log_likelihoods(rows)
    for row, scores in zip(rows, together, strict=True):
        np.testing.assert_allclose(scores, HFEngine(tiny).log_likelihoods([row])[0], rtol=1e-4, atol=1e-4)
    unedited = HFEngine(tiny).log_likelihoods([replace(row, steer=(), ablate=()) for row in rows])
    moved = [np.abs(a - b).max() > 0.01 for a, b in zip(together, unedited, strict=True)]
    assert moved == [bool(row.steer or row.ablate) for row in rows]


# what is recorded


def test_recorded_values_equal_a_forced_reading_of_the_same_tokens(tiny, alone):
    forced = [
        replace(row, prefill=response.token_ids, sampling=Sampling(max_new_tokens=0))
        for row, response in zip(ROWS, alone, strict=True)
    ]
    for stepped, reread in zip(alone, HFEngine(tiny).generate(forced), strict=True):
        assert reread.token_ids == stepped.token_ids
        is_cut = stepped.stop_reason == "length" and len(stepped.token_ids) > stepped.n_prefill
        n_read = len(stepped.token_ids) - is_cut
        for latent, values in stepped.activations.items():
            assert np.isnan(values).tolist() == [False] * n_read + [True] * is_cut
            assert not np.isnan(reread.activations[latent]).any()
            np.testing.assert_allclose(values[:n_read], reread.activations[latent][:n_read], rtol=1e-3, atol=1e-3)
        for layer, resid in stepped.resid.items():
            torch.testing.assert_close(resid, reread.resid[layer][:n_read], rtol=1e-3, atol=1e-3)


def test_activations_are_recorded_after_every_edit(tiny):
    row = replace(PLAIN, prefill="Well, a pot", record=tuple(range(64)), record_resid=(2,))
    row = replace(row, steer=(Steer(latent=5, strength=40.0),), ablate=(Ablate(latents=(7, 9)),))
    response = HFEngine(tiny).generate([row])[0]
    expected = tiny.sae.encode(response.resid[2]).numpy()
    found = np.stack([response.activations[latent] for latent in range(64)], axis=1)[: len(expected)]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert found[:, 5].min() > 1


def test_activations_are_read_at_the_reading_layer(tiny_llama):
    pair = replace(tiny_llama, steering_layer=1, reading_layer=3)
    response = HFEngine(pair).generate([replace(PLAIN, prefill="Well, a pot", record=(5,), record_resid=(3,))])[0]
    expected = pair.sae.encode(response.resid[3])[:, 5].numpy()
    np.testing.assert_allclose(response.activations[5][: len(expected)], expected, rtol=1e-4, atol=1e-4)


def test_recording_changes_no_token(tiny, alone):
    silent = [replace(row, record=(), record_resid=()) for row in ROWS[:12]]
    assert [r.token_ids for r in HFEngine(tiny).generate(silent)] == [r.token_ids for r in alone[:12]]


# prefill and length


def test_prefill_is_part_of_the_response_in_text_or_ids(tiny):
    ids = tuple(tiny.tokenizer("Well, ", add_special_tokens=False)["input_ids"])
    row = replace(PLAIN, steer=(Steer(latent=5, strength=40.0),), scope="generated", record=(5,))
    by_text, by_ids = HFEngine(tiny).generate([replace(row, prefill="Well, "), replace(row, prefill=ids)])
    assert_same(by_text, by_ids)
    assert (by_text.token_ids[:6], by_text.n_prefill) == (ids, 6)
    assert by_text.text.startswith("Well, ")
    assert (by_text.activations[5][:6] > 1).all()
    assert len(by_text.token_ids) <= 6 + 12


def test_no_new_tokens_reads_the_prefill_and_adds_nothing(tiny):
    row = replace(PLAIN, sampling=replace(GREEDY, max_new_tokens=0), record=(5,))
    read, empty = HFEngine(tiny).generate([replace(row, prefill=(70, 80)), row])
    assert (read.token_ids, read.stop_reason) == ((70, 80), "length")
    assert not np.isnan(read.activations[5]).any()
    assert (empty.token_ids, empty.text, len(empty.activations[5])) == ((), "", 0)


def test_a_continued_response_is_the_uninterrupted_one(tiny):
    whole = HFEngine(tiny).generate([replace(PLAIN, sampling=replace(GREEDY, max_new_tokens=30))])[0]
    cut = whole.token_ids[: len(whole.token_ids) // 2]
    assert cut
    rest = replace(PLAIN, prefill=cut, sampling=replace(GREEDY, max_new_tokens=30 - len(cut)))
    assert HFEngine(tiny).generate([rest])[0].token_ids == whole.token_ids


# what is refused, before any work


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        (Row(messages=""), "the prompt is empty; ask the model something"),
        (Row(messages=" \n"), "the prompt is empty; ask the model something"),
        (Row(messages=[]), "the prompt is empty; ask the model something"),
        (Row(token_ids=()), "the prompt is empty; give at least one token"),
        (
            Row(token_ids=(60,) * 490, prefill=(70,) * 3, sampling=Sampling(max_new_tokens=20)),
            r"a prompt of 493 tokens and 20 new ones exceed the context of tiny-llama \(512 tokens\); "
            "shorten the prompt or max_new_tokens",
        ),
    ],
)
def test_a_prompt_that_cannot_be_read_is_refused_before_any_token(tiny_llama, row, sentence):
    calls = []
    with pytest.raises(ValueError, match=sentence):
        HFEngine(tiny_llama).generate([PLAIN, row], on_token=lambda *call: calls.append(call))
    assert not calls


def test_a_row_may_fill_the_context_to_the_last_token(tiny_llama):
    row = Row(token_ids=(60,) * 500, sampling=replace(GREEDY, max_new_tokens=12))
    assert HFEngine(tiny_llama).generate([row])[0].stop_reason in ("stop", "length")


def test_a_batch_size_below_one_is_refused(tiny_llama):
    with pytest.raises(ValueError, match="batch_size 0 is not a positive number"):
        HFEngine(tiny_llama, batch_size=0)


def test_no_rows_give_no_responses(tiny_llama):
    assert HFEngine(tiny_llama).generate([]) == []
    assert HFEngine(tiny_llama).log_likelihoods([]) == []


@pytest.mark.parametrize("engine", [HFEngine, VLLMEngine, NDIFEngine, RereadEngine, ReplayEngine])
def test_an_engine_that_says_it_scores_texts_does_so_and_no_other(engine):
    assert engine.capabilities(None).scores_text == hasattr(engine, "log_likelihoods")
