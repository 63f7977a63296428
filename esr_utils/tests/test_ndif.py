"""Rows through nnsight's NDIF client: to a model in this process, and to a server that lacks this package."""

import copy
import inspect
import json
import os
import subprocess
import sys
import threading
import time
import urllib.request
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from esr_utils import study
from esr_utils.catalogue import PairEntry
from esr_utils.engines import shipped
from esr_utils.engines.base import Sampler
from esr_utils.engines.hf import HFEngine
from esr_utils.engines.ndif import Estimate, NDIFEngine
from esr_utils.engines.ndif_checks import NDIFError, Service, find_service
from esr_utils.models import Pair
from esr_utils.steering import Ablate, Row, Sampling
from esr_utils.study import load_engine
from esr_utils.tests import ndif_stand_in
from esr_utils.tests.conftest import tiny_pair
from esr_utils.tests.engine_parts import GREEDY, PLAIN, ROWS, assert_same

N_SENT = 12
SENT = ("visited", "chosen", "gathered", "edited", "activations", "drawn")
pytestmark = pytest.mark.filterwarnings("ignore:.*the first .* rows took:UserWarning")


def without_weights(pair: Pair) -> Pair:
    """The pair as ``load_pair(name, weights=False)`` gives it."""
    return replace(pair, model=copy.deepcopy(pair.model).to("meta"), tokenizer=copy.deepcopy(pair.tokenizer))


@pytest.fixture(scope="module")
def server(request, tiny_llama, tmp_path_factory) -> str:
    """Address of a stand-in that runs ``tiny_llama`` in a process of its own."""
    folder = tmp_path_factory.mktemp("ndif")
    tiny_llama.model.save_pretrained(folder / "model")
    tiny_llama.tokenizer.save_pretrained(folder / "model")
    command = [sys.executable, ndif_stand_in.__file__, str(folder / "port"), str(folder / "model")]
    with open(folder / "log", "w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    request.addfinalizer(lambda: (process.terminate(), process.wait()))
    until = time.monotonic() + 120
    while not (folder / "port").exists():
        assert process.poll() is None, (folder / "log").read_text()
        assert time.monotonic() < until, "the stand-in did not start"
        time.sleep(0.1)
    return "http://127.0.0.1:" + (folder / "port").read_text()


def engine_at(address: str, pair: Pair, **options) -> NDIFEngine:
    return NDIFEngine(without_weights(pair), find_service(address, ndif_stand_in.REPO), **options)


# in this process


def test_rows_in_one_generation_are_those_of_hf(tiny):
    here = replace(tiny, model=copy.deepcopy(tiny.model), tokenizer=copy.deepcopy(tiny.tokenizer))
    responses = NDIFEngine(here, None).generate(ROWS)
    assert {response.stop_reason for response in responses} == {"stop", "length"}
    for response, expected in zip(responses, HFEngine(tiny).generate(ROWS), strict=True):
        assert_same(response, expected, tolerance=1e-3)


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("top_p", [1.0, 0.7])
@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_what_is_sent_draws_as_the_engines_do(temperature, top_p, penalty):
    row = Row(messages="?", sampling=Sampling(temperature=temperature, top_p=top_p, repetition_penalty=penalty))
    generator = torch.Generator().manual_seed(0)
    settings = {"temperature": temperature, "top_p": top_p, "repetition_penalty": penalty}
    seen, drawn = [3, 5, 3, 70], set()
    for uniform in np.random.default_rng(0).random(60):
        logits = 3 * torch.randn(200, generator=generator)
        expected = Sampler([row]).draw(logits[None].clone(), torch.tensor([seen]), torch.tensor([uniform]))
        drawn.add(shipped.drawn(logits, seen, float(uniform), settings))
        assert shipped.drawn(logits, seen, float(uniform), settings) == expected.item()
    assert len(drawn) > 10


def test_a_row_without_numbers_ends_as_overflow(tiny_llama):
    assert (
        shipped.drawn(torch.tensor([1.0, torch.nan]), [0], 0.5, {"temperature": 0.0, "repetition_penalty": 1.0}) == -1
    )


@pytest.mark.parametrize("function", [getattr(shipped, name) for name in SENT])
def test_what_is_sent_names_nothing_but_torch(function):
    free = inspect.getclosurevars(inspect.unwrap(function))
    assert not free.nonlocals
    assert set(free.globals) <= {"torch", "Tensor"}


# to a server


def test_rows_through_a_server_are_those_of_hf(server, tiny_llama):
    rows = ROWS[:N_SENT]
    delivered = []
    responses = engine_at(f"{server}/run", tiny_llama, batch_size=5).generate(
        rows, on_response=lambda i, response: delivered.append(i)
    )
    assert delivered == list(range(N_SENT))
    for response, expected in zip(responses, HFEngine(tiny_llama).generate(rows), strict=True):
        assert_same(response, expected, tolerance=1e-3)


def sizes(server: str) -> list[list[int]]:
    with urllib.request.urlopen(f"{server}/sizes") as reply:
        return json.load(reply)["requests"]


def test_a_response_is_one_request_and_neither_a_whole_sae_nor_logits_travel(server, tiny_llama):
    """Widths at which a whole SAE (4 MB) or the logits of each token (1 kB) would show."""
    rng = torch.Generator().manual_seed(0)
    sae = replace(
        tiny_llama.sae,
        W_enc=torch.randn(32, 16384, generator=rng),
        W_dec=torch.randn(16384, 32, generator=rng),
        b_enc=torch.zeros(16384),
    )
    sampling = replace(GREEDY, max_new_tokens=100, temperature=1.2)
    ablate = (Ablate(latents=tuple(range(26))),)
    rows = [replace(PLAIN, sampling=sampling, record=(5, 9000), ablate=ablate, seed=seed) for seed in range(8)]
    before = len(sizes(server))
    responses = engine_at(f"{server}/run", replace(tiny_llama, sae=sae)).generate(rows)
    sent = sizes(server)[before:]
    n_tokens = sum(len(response.token_ids) for response in responses)
    assert n_tokens > 40
    assert len(sent) == 1
    assert sent[0][0] < 60_000
    assert sent[0][1] < 250 * n_tokens


def test_the_first_of_several_requests_says_what_the_run_will_take(server, tiny_llama):
    with pytest.warns(UserWarning, match=r"tiny-llama on ndif: the first 2 rows took [\d.]+ s .* 4 rows take"):
        engine_at(f"{server}/run", tiny_llama, batch_size=2).generate(ROWS[:4])
    assert (
        str(Estimate(12.0, 4, 400))
        == "the first 4 rows took 12.0 s (3.0 s a row); at that rate 400 rows take 20 minutes"
    )


def test_a_stop_event_is_seen_between_requests(server, tiny_llama):
    stop = threading.Event()
    responses = engine_at(f"{server}/run", tiny_llama, batch_size=2).generate(
        ROWS[:4], on_response=lambda *call: stop.set(), stop=stop
    )
    assert [response.stop_reason == "cancelled" for response in responses] == [False, False, True, True]


# what is refused, and what goes wrong


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("deploying", r"tiny/llama is not up on .* \(it is DEPLOYING\); wait until it is RUNNING"),
        ("absent", r"tiny/llama is not on .*; it runs other/model"),
        ("old", r"nnsight is [\d.]+ here and 0.5.1 on .*; install nnsight==0.5.1 here"),
        ("serve", r"is an nnsight-serve, which runs vLLM's modules .* set ESR_SERVERS"),
    ],
)
def test_a_server_that_cannot_be_used_is_refused_in_a_sentence(server, kind, sentence):
    with pytest.raises(NDIFError, match=sentence):
        find_service(f"{server}/{kind}", ndif_stand_in.REPO)


def test_another_revision_is_told(server):
    with pytest.warns(
        UserWarning, match=r"runs tiny/llama at revision main, and the pair is pinned to abc; its weights"
    ):
        find_service(f"{server}/run", ndif_stand_in.REPO, "abc")


def test_the_variable_chooses_the_engine_of_a_pair_that_is_not_embedded(server, tiny_llama, monkeypatch):
    loaded = []

    def load(name: str, *, weights: bool = True) -> Pair:
        loaded.append((name, weights))
        return without_weights(tiny_llama) if not weights else tiny_llama

    entry = PairEntry(name="tiny", model=ndif_stand_in.REPO, release="r", sae_id="s")
    monkeypatch.setattr("esr_utils.models.load_pair", load)
    monkeypatch.setenv("ESR_NNSIGHT", f"{server}/run")
    assert load_engine("smollm2-135m").name == "hf"
    monkeypatch.setattr(study, "find_entry", lambda name: entry)
    engine = load_engine("tiny")
    assert (engine.name, engine.pair.model.device.type) == ("ndif", "meta")
    assert not engine.capabilities().has_weights
    assert loaded == [("smollm2-135m", True), ("tiny", False)]
    monkeypatch.setattr(study, "find_entry", lambda name: replace(entry, adapter=Path("a")))
    with pytest.raises(NDIFError, match="tiny has an adapter that only this machine has; unset ESR_NNSIGHT"):
        load_engine("tiny")


def test_a_lesser_difference_of_versions_is_said_and_allowed(server):
    with pytest.warns(UserWarning, match=r"versions differ from .*: torch 2\.[\d.+a-z]+ here, 2\.0\.0 there"):
        find_service(f"{server}/patched", ndif_stand_in.REPO)


def test_no_key_and_no_server_are_told_before_any_work(monkeypatch):
    monkeypatch.delenv("NDIF_API_KEY", raising=False)
    with pytest.raises(NDIFError, match=r"NDIF_API_KEY is not set; get a key at https://login.ndif.us"):
        find_service("ndif", ndif_stand_in.REPO)
    with pytest.raises(NDIFError, match=r"http://127.0.0.1:9 cannot be reached \(.*\); check the address"):
        find_service("http://127.0.0.1:9", ndif_stand_in.REPO)
    with pytest.raises(NDIFError, match="ESR_NNSIGHT=localhost is neither ndif nor an address"):
        find_service("localhost", ndif_stand_in.REPO)


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("fail", r"did not do the job: OutOfMemoryError: CUDA out of memory; what was finished before is kept"),
        ("reject", r"did not do the job: Failed to send request: Invalid API key"),
        ("drop", r"the connection to .* was lost \(.*\); run the cell again to go on"),
    ],
)
def test_a_failed_request_is_told_and_loses_only_its_rows(server, tiny_llama, kind, sentence):
    engine, delivered = engine_at(f"{server}/run", tiny_llama, batch_size=2), []

    def then_fail(i: int, response: object) -> None:
        delivered.append(i)
        engine.service = replace(engine.service, host=f"{server}/{kind}")

    with pytest.raises(NDIFError, match=sentence):
        engine.generate(ROWS[:4], on_response=then_fail)
    assert delivered == [0, 1]


def test_a_topk_sae_is_not_sent(tiny_llama):
    pair = without_weights(tiny_pair("llama", "topk"))
    engine = NDIFEngine(pair, Service(host="http://127.0.0.1:9", api_key="", model_key=ndif_stand_in.KEY))
    with pytest.raises(ValueError, match="tiny topk SAE is a topk SAE: .* a whole SAE is not sent"):
        engine.generate([replace(PLAIN, record=(5,))])


def test_a_batch_size_below_one_is_refused(tiny_llama):
    with pytest.raises(ValueError, match="batch_size 0 is not a positive number"):
        NDIFEngine(tiny_llama, None, batch_size=0)
