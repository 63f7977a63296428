"""The vllm engine against real vLLM servers with the embedded pair, in float32: the laws that every engine keeps."""

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from esr_utils.directions import topic_directions, with_directions
from esr_utils.embedded import model_dir
from esr_utils.engines.base import Response, with_pair
from esr_utils.engines.hf import HFEngine
from esr_utils.engines.selftest import strangers
from esr_utils.engines.vllm import VLLMEngine
from esr_utils.engines.vllm_server import ServerError
from esr_utils.models import Pair, load_pair
from esr_utils.steering import Ablate, Row, Sampling, Steer
from esr_utils.tests.conftest import tiny_pair
from esr_utils.tests.engine_comparison import compare_greedy, first_difference
from esr_utils.tests.vllm_parts import RealServer

pytestmark = pytest.mark.vllm

GREEDY = Sampling(max_new_tokens=12, temperature=0.0)
PLAIN = Row(messages="Explain how to repot a plant.", sampling=GREEDY)
STRENGTH = 60.0
TOPICS = ("the sea", "bread", "a chess club")
EDGE = 1e-2  # logits closer than this may change places by rounding


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("vllm")


@pytest.fixture(scope="module")
def server(folder, request) -> RealServer:
    server = RealServer(model_dir(), folder / "server.log")
    request.addfinalizer(server.end)
    return server.wait()


@pytest.fixture(scope="module")
def pair() -> Pair:
    return load_pair("smollm2-135m", dtype="float32")


@pytest.fixture(scope="module")
def engine(server) -> VLLMEngine:
    return VLLMEngine(load_pair("smollm2-135m", dtype="float32", weights=False), [server.url])


@pytest.fixture(scope="module")
def rows(pair) -> list[Row]:
    """Rows that differ in everything, and keep a residual stream."""
    kept = ((), (29,), (3, 18))
    return [
        replace(row, record_resid=kept[i % 3])
        for i, row in enumerate(strangers(pair, 18, strength=STRENGTH, max_new_tokens=18))
    ]


@pytest.fixture(scope="module")
def greedy(rows) -> list[Row]:
    return [replace(row, sampling=replace(row.sampling, temperature=0.0)) for row in rows]


@pytest.fixture(scope="module")
def together(engine, rows) -> list[Response]:
    return engine.generate(rows)


def assert_close(a: Response, b: Response, *, tolerance: float = 2e-3) -> None:
    assert (a.token_ids, a.stop_reason, a.text) == (b.token_ids, b.stop_reason, b.text)
    assert (a.prompt_ids, a.n_prefill, list(a.activations)) == (b.prompt_ids, b.n_prefill, list(b.activations))
    for latent in a.activations:
        np.testing.assert_allclose(a.activations[latent], b.activations[latent], rtol=tolerance, atol=tolerance)
    assert list(a.resid) == list(b.resid)
    for layer in a.resid:
        error = (a.resid[layer] - b.resid[layer]).norm() / b.resid[layer].norm()
        assert a.resid[layer].shape == b.resid[layer].shape
        assert error < tolerance


# against hf


def test_greedy_tokens_are_those_of_hf_but_for_rounding(engine, pair, rows):
    table = compare_greedy(pair, [engine], rows).iloc[0]
    assert table["rows"] == 18
    assert table["same_tokens"] >= 17
    assert table["same_tokens"] == 18 or table["logit_gap"] < EDGE


def test_greedy_responses_and_records_are_those_of_hf_with_the_penalty(engine, pair, greedy):
    same = 0
    for got, expected in zip(engine.generate(greedy), HFEngine(pair).generate(greedy), strict=True):
        if first_difference(got, expected) is None:
            assert_close(got, expected)
            same += 1
    assert same >= 17


def test_a_turn_that_ends_is_cut_and_recorded_as_hf_does(engine, pair):
    row = Row(
        messages="Hi",
        sampling=replace(GREEDY, max_new_tokens=60),
        record=(7,),
        record_resid=(29,),
        steer=(Steer(latent=3, strength=1.0),),
    )
    got, expected = engine.generate([row])[0], HFEngine(pair).generate([row])[0]
    assert got.stop_reason == "stop"
    assert_close(got, expected)


def test_sampled_first_tokens_have_the_frequencies_of_the_models_softmax(engine, pair):
    n, sampling = 600, Sampling(max_new_tokens=1, temperature=0.8, top_p=0.9, repetition_penalty=1.0)
    responses = engine.generate([Row(messages="Hi", seed=i, sampling=sampling) for i in range(n)])
    with torch.no_grad():
        probs = (pair.model(torch.tensor([responses[0].prompt_ids])).logits[0, -1].double() / 0.8).softmax(-1)
    ranked, order = probs.sort(descending=True)
    probs[order[ranked.cumsum(0) - ranked >= 0.9]] = 0.0
    probs = (probs / probs.sum()).numpy()
    counts = np.bincount([r.token_ids[0] for r in responses if r.token_ids], minlength=len(probs)).astype(float)
    assert counts[probs == 0].sum() == 0
    usual = n * probs >= 5
    observed, expected = counts[usual], n * probs[usual]
    if (~usual & (probs > 0)).any():
        observed, expected = np.append(observed, n - observed.sum()), np.append(expected, n * probs[~usual].sum())
    assert len(observed) > 2
    assert chisquare(observed, expected).pvalue > 1e-3


# seeds belong to rows


def test_a_row_alone_is_the_row_among_strangers(engine, rows, together):
    for i in (1, 3, 6, 11, 17):
        assert_close(engine.generate([rows[i]])[0], together[i])


def test_the_same_rows_in_another_order_and_company_give_the_same(engine, rows, together):
    again = engine.generate([replace(rows[0], seed=99), *rows[::-1]])
    for got, expected in zip(again[:0:-1], together, strict=True):
        assert_close(got, expected)


def test_another_seed_draws_other_tokens(engine):
    sampling = Sampling(max_new_tokens=20, temperature=1.0)
    a, b, other = engine.generate([replace(PLAIN, sampling=sampling, seed=seed) for seed in (1, 1, 2)])
    assert a.token_ids == b.token_ids != other.token_ids


# edits


def test_steering_is_live_and_without_strength_it_is_not(engine):
    def steered(strength: float) -> Row:
        return replace(PLAIN, steer=(Steer(latent=5, strength=strength),))

    plain, zero, strong = engine.generate([PLAIN, steered(0.0), steered(STRENGTH)])
    assert zero.token_ids == plain.token_ids != strong.token_ids


def test_the_stream_changes_by_strength_times_direction(engine, pair):
    row = replace(PLAIN, prefill="First, find a pot.", scope="generated", record_resid=(17, 18))
    row = replace(row, sampling=replace(GREEDY, max_new_tokens=0))
    before, after = engine.generate([row, replace(row, steer=(Steer(latent=5, strength=STRENGTH),))])
    moved = after.resid[18] - before.resid[18]
    torch.testing.assert_close(moved, (STRENGTH * pair.sae.direction(5)).expand_as(moved), rtol=1e-3, atol=2e-3)
    torch.testing.assert_close(after.resid[17], before.resid[17], rtol=1e-4, atol=1e-4)
    assert after.token_ids == before.token_ids
    assert after.stop_reason == "length"


def test_ablating_silent_latents_changes_nothing_and_others_do(engine, pair):
    seen = engine.generate([replace(PLAIN, record=tuple(range(pair.sae.d_sae)), record_resid=(29,))])[0]
    most = {latent: np.nanmax(values) for latent, values in seen.activations.items()}
    silent = tuple(latent for latent, value in most.items() if value == 0)[:40]
    loud = tuple(sorted(most, key=most.get)[-40:])
    row = replace(PLAIN, scope="generated", record_resid=(29,))
    a, b = engine.generate([replace(row, ablate=(Ablate(latents=latents),)) for latents in (silent, loud)])
    assert_close(a, replace(seen, activations={}))
    assert first_difference(b, seen) is not None


def test_a_row_that_overflows_ends_and_leaves_its_neighbours_alone(engine):
    ruined = replace(PLAIN, steer=(Steer(direction=torch.full((576,), 1e38), strength=100.0),))
    alone = engine.generate([PLAIN])[0]
    bad, good = engine.generate([ruined, PLAIN])
    assert (bad.stop_reason, bad.token_ids) == ("overflow", ())
    assert good.token_ids == alone.token_ids


def test_a_steered_prompt_does_not_poison_the_cache_of_a_plain_one(engine):
    """Longer than the block of the prefix cache, which is where steered keys would be found again."""
    row = replace(PLAIN, messages="Here is a list. " + "Soil, pots and water are on it. " * 40 + "What is on it?")
    plain = engine.generate([row])[0]
    steered = engine.generate([replace(row, steer=(Steer(latent=5, strength=STRENGTH),))])[0]
    assert len(plain.prompt_ids) > 300
    assert steered.token_ids != plain.token_ids
    assert engine.generate([row])[0].token_ids == plain.token_ids


# directions in place of latents, and how likely a text is


def test_directions_of_topics_are_those_of_hf_and_steer_alike(engine, pair):
    here = HFEngine(pair)
    ours, theirs = (topic_directions(e, TOPICS, layer=pair.steering_layer) for e in (here, engine))
    torch.testing.assert_close(theirs, ours, rtol=1e-3, atol=2e-3)
    units = torch.nn.functional.normalize(ours, dim=1)
    rows = [replace(PLAIN, steer=(Steer(latent=i, strength=2 * STRENGTH),)) for i in range(len(TOPICS))]
    on = [with_pair(e, with_directions(e.pair, units, name="topics")) for e in (here, engine)]
    expected, steered = ([response.token_ids for response in e.generate(rows)] for e in on)
    assert steered == expected
    assert engine.generate([PLAIN])[0].token_ids not in steered


def test_texts_are_as_likely_as_on_hf_under_the_same_edits(engine, pair):
    text = "First, find a pot. Then fill it with soil, and water it."
    row = replace(PLAIN, prefill=text, sampling=replace(GREEDY, max_new_tokens=0))
    ablated = replace(row, ablate=(Ablate(latents=(5, 9, 40)),))
    rows = [row, ablated, replace(row, steer=(Steer(latent=5, strength=STRENGTH),))]
    ours, theirs = HFEngine(pair).log_likelihoods(rows), engine.log_likelihoods(rows)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-3, atol=2e-3)
    assert np.abs(theirs[2] - theirs[0]).max() > 0.1


# streaming and stopping


def test_streamed_rows_are_the_whole_ones(engine, rows, together):
    streamed, delivered = {i: [] for i in range(len(rows))}, []
    responses = engine.generate(
        rows,
        on_token=lambda i, token: streamed[i].append(token),
        on_response=lambda i, response: delivered.append(i),
    )
    assert sorted(delivered) == list(range(len(rows)))
    assert [tuple(streamed[i]) for i in range(len(rows))] == [r.token_ids[r.n_prefill :] for r in responses]
    for got, expected in zip(responses, together, strict=True):
        assert_close(got, expected)


def test_stopping_gives_back_every_row_as_it_stands(engine, rows):
    long = [replace(row, sampling=replace(row.sampling, max_new_tokens=60)) for row in rows]
    whole, stop, n_seen = engine.generate(long), threading.Event(), []

    def on_token(i: int, token: int) -> None:
        n_seen.append(i)
        if len(n_seen) > 150:
            stop.set()

    responses = engine.generate(long, on_token=on_token, stop=stop)
    cut = [i for i, response in enumerate(responses) if response.stop_reason == "cancelled"]
    assert len(cut) > 6
    assert sum(len(responses[i].token_ids) > responses[i].n_prefill for i in cut) > 6
    for i in cut:
        n = len(responses[i].token_ids)
        assert responses[i].token_ids == whole[i].token_ids[:n]
        for latent, values in responses[i].activations.items():
            np.testing.assert_allclose(values[: n - 1], whole[i].activations[latent][: n - 1], rtol=2e-3, atol=2e-3)
    assert engine.generate(long[:1])[0].token_ids == whole[0].token_ids


# servers


def test_a_server_with_a_model_of_another_shape_is_refused(server):
    other = replace(tiny_pair("llama"), name="smollm2-135m")
    with pytest.raises(ServerError, match="and this one 576 and 30"):
        VLLMEngine(other, [server.url])


def test_a_server_killed_in_mid_run_costs_nothing_and_with_the_last_one_the_rest_waits(
    server, folder, rows, together, request
):
    second = RealServer(model_dir(), folder / "second.log")
    request.addfinalizer(second.end)
    second.wait()
    pair = load_pair("smollm2-135m", dtype="float32", weights=False)
    engine = VLLMEngine(pair, [server.url, second.url], n_at_once=3, patience_s=2.0)
    delivered: dict[int, Response] = {}

    def kill(i: int, response: Response) -> None:
        delivered[i] = response
        if len(delivered) == 4:
            second.end(kill=True)

    engine.generate(rows, on_response=kill)
    assert sorted(delivered) == list(range(len(rows)))
    for i, response in delivered.items():
        assert_close(response, together[i])

    third = RealServer(model_dir(), folder / "third.log")
    request.addfinalizer(third.end)
    third.wait()
    engine, finished = VLLMEngine(pair, [third.url], n_at_once=3, patience_s=2.0), {}

    def end(i: int, response: Response) -> None:
        finished[i] = response
        if len(finished) == 4:
            third.end(kill=True)

    with pytest.raises(ServerError, match=r"no server is left .*; what was finished is kept: start a server and run"):
        engine.generate(rows, on_response=end)
    assert 4 <= len(finished) < len(rows)
    left = [i for i in range(len(rows)) if i not in finished]
    rest = VLLMEngine(pair, [server.url]).generate([rows[i] for i in left])
    for i, response in [*finished.items(), *zip(left, rest, strict=True)]:
        assert_close(response, together[i])
