"""The vllm engine against a stand-in server: what goes wrong on the way, and the hook that travels."""

import base64
import copy
import json
import pickle
import threading
import time
from dataclasses import replace

import pytest
import torch
import yaml
import zstandard

from esr_utils import study, topic_steering
from esr_utils.catalogue import find_entry
from esr_utils.config import DATA
from esr_utils.directions import ASKED
from esr_utils.engines import vllm as vllm_module
from esr_utils.engines.base import in_flight, with_pair
from esr_utils.engines.vllm import VLLMEngine
from esr_utils.engines.vllm_hook import RowHook
from esr_utils.engines.vllm_server import VERSIONS, Server, ServerError
from esr_utils.scales import TOPIC_STEERING
from esr_utils.steering import Ablate, Row, Sampling, Steer
from esr_utils.tests.conftest import tiny_sae
from esr_utils.tests.vllm_parts import FACTS, standing_in
from esr_utils.topic_steering import TopicSteering

THREE = Sampling(max_new_tokens=3, temperature=0.0, repetition_penalty=1.0)
PLAIN = Row(messages="Why?", sampling=THREE)
STEERED = replace(PLAIN, steer=(Steer(latent=5, strength=4.0),))
ROWS = [replace(PLAIN, seed=i) for i in range(12)]


def engine_on(pair, *servers, **options) -> VLLMEngine:
    return VLLMEngine(pair, [server.url for server in servers], **{"patience_s": 0.5} | options)


# what is checked at the start


def test_a_server_that_is_not_there(tiny_llama):
    with standing_in() as server:
        url = server.url
    with pytest.raises(ServerError, match=f"no server answers at {url} .*; start one as the README says"):
        VLLMEngine(tiny_llama, [url])


def test_a_server_with_another_model(tiny_llama):
    with (
        standing_in(names=("gpt2",)) as server,
        pytest.raises(ServerError, match="serves gpt2 and not tiny-llama; start it with --served-model-name tiny-lla"),
    ):
        engine_on(tiny_llama, server)


@pytest.mark.parametrize(("name", "told"), [("vllm", "0.29.1"), ("vllm-lens", "1.2.0"), ("kit", "0.0.0")])
def test_a_server_of_another_version(tiny_llama, name, told):
    with (
        standing_in(facts=FACTS | {name: told}) as server,
        pytest.raises(ServerError, match=f"runs {'esr_utils' if name == 'kit' else name} {told}, and this kit is wr"),
    ):
        engine_on(tiny_llama, server)


def test_a_server_whose_model_has_another_shape(tiny_llama):
    with (
        standing_in(facts=FACTS | {"n_layers": 30}) as server,
        pytest.raises(ServerError, match="that has d_model 32 and 4 layers, and this one 32 and 30"),
    ):
        engine_on(tiny_llama, server)


def test_a_server_without_vllm_lens(tiny_llama):
    with standing_in(facts={}) as server, pytest.raises(ServerError, match="ran no hook"):
        engine_on(tiny_llama, server)


def test_other_hosts_bring_a_warning_and_this_one_does_not(recwarn):
    Server("http://127.0.0.1:8000"), Server("http://localhost:8000"), Server("http://[::1]:8000")
    assert not recwarn.list
    with pytest.warns(UserWarning, match="hooks run code there"):
        Server("http://10.0.0.7:8000")
    with pytest.raises(ValueError, match="'localhost:8000' is not an address such as http://127.0.0.1:8000"):
        Server("localhost:8000")


def test_the_key_comes_from_the_environment(tiny_llama, monkeypatch):
    monkeypatch.setenv("VLLM_API_KEY", "secret")
    with standing_in() as server:
        engine_on(tiny_llama, server)
        assert server.keys == ["Bearer secret"]


# what a row asks for


def test_every_setting_of_a_row_is_spelled_out(tiny_llama):
    sampling = Sampling(max_new_tokens=3, temperature=0.7, top_p=0.9, repetition_penalty=1.3)
    row = replace(PLAIN, sampling=sampling, seed=2**64 + 5, prefill=(80, 81))
    with standing_in() as server:
        response, _ = engine_on(tiny_llama, server).generate([row, row])
        a, b = server.bodies
    assert response.token_ids == (80, 81, 70, 71, 72)
    assert (response.n_prefill, response.stop_reason) == (2, "length")
    assert a["prompt"] == [*response.prompt_ids, 80, 81]
    assert (a["temperature"], a["top_p"], a["repetition_penalty"], a["seed"]) == (0.7, 0.9, 1.3, 5)
    assert (a["top_k"], a["min_p"], a["max_tokens"], a["ignore_eos"]) == (0, 0.0, 3, True)
    assert a["stop_token_ids"] == sorted(tiny_llama.stop_ids)
    assert a["cache_salt"] != b["cache_salt"]
    assert "vllm_xargs" not in a


def test_a_greedy_row_sends_no_seed(tiny_llama):
    with standing_in() as server:
        engine_on(tiny_llama, server).generate([PLAIN])
        assert server.bodies[0]["seed"] is None


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        (replace(PLAIN, sampling=replace(THREE, temperature=0.001)), "does not sample at temperature 0.001; take 0"),
        (replace(PLAIN, sampling=replace(THREE, max_new_tokens=100)), r"needs 1\d\d tokens and http.* reads 64; start"),
        (replace(PLAIN, steer=(Steer(direction=torch.ones(33), strength=1.0),)), "direction has shape"),
        (replace(PLAIN, ablate=(Ablate(latents=(99,)),)), "latent 99 is not in"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_sent(tiny_llama, row, sentence):
    with standing_in(max_model_len=64) as server:
        with pytest.raises(ValueError, match=sentence):
            engine_on(tiny_llama, server).generate([PLAIN, row])
        assert not server.bodies


def test_latents_of_a_topk_sae_are_refused_and_its_directions_are_not(tiny_llama):
    pair = replace(tiny_llama, sae=tiny_sae("topk"))
    with standing_in() as server:
        with pytest.raises(
            ValueError, match="is a topk SAE, whose latents the vllm engine neither ablates nor records"
        ):
            engine_on(pair, server).generate([replace(PLAIN, ablate=(Ablate(latents=(3,)),))])
        assert not server.bodies
    assert RowHook(in_flight([STEERED], pair)[0], pair).layers == [2, 3]


# what goes wrong on the way


@pytest.mark.parametrize("fault", ["drop", 500, 503])
def test_a_request_that_is_lost_is_made_again(tiny_llama, fault):
    delivered = []
    with standing_in(misbehave=lambda n: fault if n in (2, 3, 9) else None) as server:
        engine = engine_on(tiny_llama, server, n_at_once=2, patience_s=5.0)
        responses = engine.generate(ROWS, on_response=lambda i, response: delivered.append(i))
        assert len(server.bodies) == len(ROWS) + 3
    assert sorted(delivered) == list(range(12))
    assert {response.token_ids for response in responses} == {(70, 71, 72)}


def test_rows_of_a_dead_server_go_to_the_others(tiny_llama):
    delivered = []
    with standing_in(misbehave=lambda n: "drop" if n >= 2 else None) as dying, standing_in() as living:
        engine = engine_on(tiny_llama, dying, living, n_at_once=2)
        engine.generate(ROWS, on_response=lambda i, response: delivered.append(i))
        assert len(dying.bodies) >= 3
        assert len(living.bodies) == 10
    assert sorted(delivered) == list(range(12))


def test_when_all_are_dead_what_was_finished_is_kept(tiny_llama):
    delivered = {}
    with standing_in(misbehave=lambda n: "drop" if n >= 4 else None) as server:
        engine = engine_on(tiny_llama, server, n_at_once=2)
        with pytest.raises(ServerError, match=r"(no server is left \(http|http).* was lost"):
            engine.generate(ROWS, on_response=delivered.__setitem__)
    assert len(delivered) == 4


def test_all_servers_gone_is_one_clear_sentence(tiny_llama):
    with standing_in() as a, standing_in() as b:
        engine = engine_on(tiny_llama, a, b)
    with pytest.raises(
        ServerError, match=r"no server is left \(.* was lost \(ConnectError\)\); what was finished is k"
    ):
        engine.generate(ROWS)


def test_a_refusal_is_told_and_not_tried_again(tiny_llama):
    with standing_in(misbehave=lambda n: 400) as server:
        with pytest.raises(ServerError, match=r"answered with status 400 \(status 400 it is\)"):
            engine_on(tiny_llama, server).generate([PLAIN])
        assert len(server.bodies) == 1


@pytest.mark.parametrize(
    ("reply", "sentence"),
    [
        (b"<html>", "sent something that is not a reply"),
        (b"[1]", "sent something that is not a reply"),
        (b'{"choices": [{"text": "hello", "finish_reason": "length"}]}', "sent a reply without tokens"),
        (
            b'{"choices": [{"token_ids": [70], "finish_reason": "length"}], "hook_results": {"0": {"x": {"__type__": '
            b'"cloudpickle", "data": ""}}}}',
            "sent a cloudpickle back",
        ),
    ],
)
def test_a_malformed_reply(tiny_llama, reply, sentence):
    with standing_in(misbehave=lambda n: reply) as server, pytest.raises(ServerError, match=sentence):
        engine_on(tiny_llama, server).generate([PLAIN])


def test_a_row_that_fails_everywhere_does_not_go_on_for_ever(tiny_llama):
    with standing_in(misbehave=lambda n: 500) as server:
        with pytest.raises(ServerError, match="status 500"):
            engine_on(tiny_llama, server, patience_s=60.0).generate([PLAIN])
        assert len(server.bodies) == 5


@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        ({}, r"the hook at layer 2 of row 0 saw 0 of \d+ tokens"),
        ({"read.2": 5, "read.3": 5, "moved.2": 1.0}, r"the hook at layer 2 of row 0 saw 5 of \d+ tokens"),
        ({"read.2": 999, "read.3": 999, "moved.2": 1.0}, r"saw 999 of \d+ tokens"),
    ],
)
def test_an_edit_that_does_not_prove_itself_is_an_error(tiny_llama, told, sentence):
    with standing_in() as server:
        server.told = told
        with pytest.raises(ServerError, match=sentence):
            engine_on(tiny_llama, server).generate([STEERED])


def test_an_edit_that_moved_nothing_is_an_error(tiny_llama):
    n = len(in_flight([STEERED], tiny_llama)[0].prompt.ids) + 2
    with standing_in() as server:
        server.told = {"read.2": n, "read.3": n, "moved.2": 4.0}
        engine_on(tiny_llama, server).generate([STEERED])
        server.told = {"read.2": n, "read.3": n, "moved.2": 0.0}
        with pytest.raises(ServerError, match="the steering of row 0 changed nothing at layer 2"):
            engine_on(tiny_llama, server).generate([STEERED])


def test_an_interrupt_is_obeyed_while_a_server_hangs(tiny_llama):
    def interrupt(i, response):
        raise KeyboardInterrupt

    with standing_in(misbehave=lambda n: "hang" if n else None) as server:
        start = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            engine_on(tiny_llama, server).generate(ROWS, on_response=interrupt)
        assert time.monotonic() - start < 10


def test_stopped_before_it_began_nothing_is_sent(tiny_llama):
    stop = threading.Event()
    stop.set()
    with standing_in() as server:
        responses = engine_on(tiny_llama, server).generate([replace(PLAIN, prefill=(80,)), PLAIN], stop=stop)
        assert not server.bodies
    assert [(r.token_ids, r.stop_reason) for r in responses] == [((80,), "cancelled"), ((), "cancelled")]


# where notebooks run


# directions in place of latents, and how likely a text is


def packed(tensor: torch.Tensor) -> dict:
    """As vllm-lens sends it."""
    data = base64.b64encode(zstandard.ZstdCompressor().compress(tensor.numpy().tobytes())).decode()
    kinds = {"dtype": "float32", "original_dtype": str(tensor.dtype)}
    return {"__type__": "tensor", "data": data, "shape": tensor.shape, **kinds}


def stream_of(body: dict) -> torch.Tensor:
    """A residual stream for the last token of a prompt, which depends on all of them."""
    return torch.randn(1, 32, generator=torch.Generator().manual_seed(sum(body["prompt"])))


def read_by_hooks(body: dict) -> dict:
    """What hooks say that keep layer 2 and act as they should."""
    n = len(body["prompt"]) + body["max_tokens"] - 1
    return {"read.2": n, "read.3": n, "moved.2": 1.0, "resid.2": packed(stream_of(body))}


def test_topics_are_read_and_steered_on_the_servers(tiny_llama, monkeypatch, tmp_path):
    """No weights are here: whatever is asked of the model itself fails."""
    pair = replace(tiny_llama, model=copy.deepcopy(tiny_llama.model).to("meta"))
    monkeypatch.setattr(study, "results_dir", lambda subject, run, scale: tmp_path / run)
    with standing_in() as one, standing_in() as other:
        one.told = other.told = read_by_hooks
        model = engine_on(pair, one, other)
        assert not model.capabilities().has_weights
        monkeypatch.setattr(topic_steering, "load_engine", lambda subject: model)
        topics = TopicSteering(study.READER, "quick", TOPIC_STEERING["quick"])
        asked = [ASKED.format(topic=topic) for topic in topics.latents()["label"]]
        prompts = [pair.chat_ids([{"role": "user", "content": text}]) for text in asked]
        read = torch.cat([stream_of({"prompt": ids}) for ids in prompts])
        torch.testing.assert_close(topics.directions(), read - read.mean(dim=0))
        assert sorted(body["prompt"] for body in one.bodies + other.bodies) == sorted(map(list, prompts))
        assert topics.engine.servers == model.servers
        topics.engine.generate([replace(PLAIN, steer=(Steer(latent=1, strength=4.0),))])
        (delta,) = [sent_hook(body).delta[2] for body in one.bodies + other.bodies if body["max_tokens"] == 3]
    unit = topics.directions()[1] / topics.directions()[1].norm()
    torch.testing.assert_close(delta, 4.0 * unit)


def sent_hook(body: dict) -> RowHook:
    (hook,) = json.loads(body["vllm_xargs"]["apply_hooks"])
    return pickle.loads(base64.b64decode(hook["fn"]["cloudpickle"]))


def test_an_engine_goes_to_no_pair_with_another_model(tiny_llama, tiny):
    with standing_in() as server:
        engine = engine_on(tiny_llama, server)
        with pytest.raises(ValueError, match="has another model than tiny-llama; make an engine of its own"):
            with_pair(engine, tiny)


def test_the_text_alone_is_scored_in_the_order_of_the_rows(tiny_llama):
    rows = [replace(PLAIN, prefill=(70 + i, 80), sampling=replace(THREE, max_new_tokens=i)) for i in range(8)]
    with standing_in() as server:
        read = engine_on(tiny_llama, server).log_likelihoods([*rows, PLAIN])
        assert {(body["max_tokens"], body["prompt_logprobs"]) for body in server.bodies} == {(1, 0)}
    assert [values.tolist() for values in read[:-1]] == [pytest.approx([-0.7 - i / 100, -0.8]) for i in range(8)]
    assert read[-1].shape == (0,)


def test_a_text_scored_under_an_edit_that_did_not_act_is_an_error(tiny_llama):
    with standing_in() as server, pytest.raises(ServerError, match="the hook at layer 2 of row 0 saw 0 of"):
        engine_on(tiny_llama, server).log_likelihoods([replace(STEERED, prefill=(70,))])


def test_a_reply_without_scores_is_an_error(tiny_llama):
    bare = b'{"choices": [{"token_ids": [70], "finish_reason": "length"}]}'
    with (
        standing_in(misbehave=lambda n: bare) as server,
        pytest.raises(ServerError, match="did not say how likely the text of row 0 is"),
    ):
        engine_on(tiny_llama, server).log_likelihoods([replace(PLAIN, prefill=(70,))])


class Idle(VLLMEngine):
    def __init__(self, pair, servers):
        self.pair, self.servers = pair, servers


def test_one_variable_sends_a_subject_to_servers_and_the_reader_stays(tiny_llama, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "esr_utils.models.load_pair", lambda name, weights=True: asked.append((name, weights)) or tiny_llama
    )
    monkeypatch.setattr(vllm_module, "VLLMEngine", Idle)
    monkeypatch.setenv("ESR_SERVERS", "http://127.0.0.1:8000, http://127.0.0.1:8001,")
    assert study.load_engine("gemma-2-2b").servers == ["http://127.0.0.1:8000", "http://127.0.0.1:8001"]
    assert study.load_engine(study.READER).name == "hf"
    monkeypatch.delenv("ESR_SERVERS")
    assert study.load_engine("smollm2-135m-corrector").name == "hf"
    assert asked == [("gemma-2-2b", False), (study.READER, True), ("smollm2-135m-corrector", True)]


def test_servers_and_ndif_at_once_are_refused(monkeypatch):
    monkeypatch.setenv("ESR_SERVERS", "http://127.0.0.1:8000")
    monkeypatch.setenv("ESR_NNSIGHT", "http://127.0.0.1:9000")
    with pytest.raises(ValueError, match="ESR_NNSIGHT and ESR_SERVERS are both set; unset one of them"):
        study.load_engine("gemma-2-2b")


def test_the_servers_environment_has_the_versions_that_the_kit_is_written_for():
    parts = yaml.safe_load((DATA.parent / "environment-vllm.yml").read_text())["dependencies"]
    pins = dict(line.split("==") for part in parts if isinstance(part, dict) for line in part["pip"] if "==" in line)
    assert pins.keys() == {"vllm", "vllm-lens"}
    assert all(pins[name].startswith(VERSIONS[name]) for name in pins)


def test_the_readme_starts_a_server_as_the_engine_needs_it():
    section = (DATA.parent / "README.md").read_text().split("## vLLM\n")[1].split("\n## ")[0]
    for option in ("PYTHONPATH=.", "--host 127.0.0.1", "--enforce-eager", "--no-enable-prefix-caching"):
        assert option in section
    assert find_entry(section.split("--served-model-name ")[1].split()[0]).model in section
    assert "ESR_SERVERS=" in section
