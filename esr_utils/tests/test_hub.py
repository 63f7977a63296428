"""What users load from the hub, from tiny twins in a local cache of it: models, templates, SAE files, and refusals."""

import os
import pickle
from dataclasses import replace
from functools import partial
from pathlib import Path

import httpx2
import pytest
import requests
import torch
from huggingface_hub import constants, errors

from esr_utils import hub, machine, models
from esr_utils.catalogue import CATALOGUE, add_entry, find_entry
from esr_utils.engines.hf import HFEngine
from esr_utils.hub import HubError
from esr_utils.machine import Machine, MachineError
from esr_utils.models import Pair, load_pair
from esr_utils.steering import Ablate, Row, Sampling, Steer
from esr_utils.tests import twins
from esr_utils.tests.twins import HUB_PAIRS, sae_weights, write_model, write_sae

GREEDY = Sampling(max_new_tokens=6, temperature=0.0)
BRIEF = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is tea?"}]


@pytest.fixture
def cache(tmp_path, monkeypatch, catalogue) -> Path:
    """An empty hub cache, the hub out of reach; no token; nothing loaded before."""
    monkeypatch.setenv("ESR_CACHE", str(tmp_path / "esr"))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no token"))
    twins.enter(monkeypatch, tmp_path / "hub")
    return tmp_path / "hub"


@pytest.fixture
def twin(cache, tmp_path):
    """Writes the twin of a pair and loads it by name."""

    def load(name: str, **options: object) -> Pair:
        twins.write_twin(name.split("+")[0], cache, tmp_path / "esr")
        return load_pair(name, **options)

    return load


# --- what is loaded


@pytest.mark.parametrize("name", HUB_PAIRS)
def test_a_pair_is_loaded_from_files_of_the_published_formats(twin, name):
    pair, entry, written = twin(name), find_entry(name), sae_weights()
    assert pair.n_layers == twins.CONFIGS[name]["num_hidden_layers"] == entry.shape.n_layers
    assert pair.steering_layer == pair.reading_layer == pair.sae.layer == entry.steering_layer
    assert pair.model.dtype == torch.bfloat16
    is_goodfire = name.startswith("llama")
    assert pair.sae.architecture == ("standard" if is_goodfire else "jumprelu")
    for part in ("W_enc", "W_dec", "b_enc", "b_dec", *(() if is_goodfire else ("threshold",))):
        stored = written[part].bfloat16().float() if is_goodfire else written[part]  # the pickle holds bfloat16
        torch.testing.assert_close(getattr(pair.sae, part), stored, rtol=0, atol=0)
    assert load_pair(name) is pair


@pytest.mark.parametrize("name", ["gemma-2-2b", "gemma-2-27b"])
@torch.inference_mode()
def test_gemma_2_is_loaded_with_its_soft_caps_and_windows(twin, name):
    model = twin(name).model
    assert model.config._attn_implementation == "eager", "the only one that caps attention scores"
    assert model.config.attn_logit_softcapping == 50.0
    assert set(model.config.layer_types) == {"sliding_attention", "full_attention"}
    ids = torch.arange(270, 350)[None]
    assert model(ids).logits.abs().max() <= 30.0
    far = ids.clone()
    far[0, 0] = 300
    sliding = model.model.layers[0]
    kept = []
    handle = sliding.register_forward_hook(lambda module, args, output: kept.append(output))
    model(ids), model(far)
    handle.remove()
    changed = (kept[0] - kept[1]).abs().amax(-1)[0] > 0
    assert changed[:64].any()
    assert not changed[64:].any(), "a token sees no further back than its window"


@pytest.mark.parametrize("name", HUB_PAIRS)
def test_the_engine_follows_the_model_that_was_loaded(twin, name):
    pair = twin(name, dtype="float32")
    (response,) = HFEngine(pair).generate(
        [Row(messages="What is tea?", sampling=replace(GREEDY, repetition_penalty=1.0))]
    )
    ids = torch.tensor([response.prompt_ids])
    expected = pair.model.generate(ids, max_new_tokens=6, do_sample=False, eos_token_id=sorted(pair.stop_ids))
    told = [token for token in expected[0, ids.shape[1] :].tolist() if token not in pair.stop_ids]
    assert list(response.token_ids) == told


@pytest.mark.parametrize(
    ("name", "end", "stops"),
    [
        ("llama-3.1-8b", "<|eot_id|>", {"<|eot_id|>", "<|eom_id|>", "<|end_of_text|>"}),
        ("llama-3.3-70b", "<|eot_id|>", {"<|eot_id|>", "<|eom_id|>", "<|end_of_text|>"}),
        ("gemma-2-2b", "<end_of_turn>", {"<end_of_turn>", "<eos>"}),
        ("gemma-3-270m", "<end_of_turn>", {"<end_of_turn>", "<eos>"}),
    ],
)
def test_turns_end_with_the_template_s_token_and_at_every_end(twin, name, end, stops):
    pair = twin(name)
    assert pair.tokenizer.convert_ids_to_tokens(pair.end_of_turn) == end
    assert set(pair.tokenizer.convert_ids_to_tokens(sorted(pair.stop_ids))) == stops


def test_llama_s_prompt_is_its_template_once_and_on_any_day_the_same(twin):
    pair = twin("llama-3.1-8b")
    text = pair.tokenizer.decode(pair.chat_ids(BRIEF))
    assert text.count("<|begin_of_text|>") == text.count("<|start_header_id|>assistant") == 1
    assert "The day is 26 Jul 2024." in text
    assert "Be brief.<|eot_id|>" in text


def test_a_system_turn_goes_into_the_question_where_the_template_has_none(twin):
    pair = twin("gemma-2-2b")
    expected = "<bos><start_of_turn>user\nBe brief.\n\nWhat is tea?<end_of_turn>\n<start_of_turn>model\n"
    assert pair.tokenizer.decode(pair.chat_ids(BRIEF)) == expected
    assert BRIEF[1]["content"] == "What is tea?", "what was given is left as it was"
    HFEngine(pair).generate([Row(messages=BRIEF, sampling=GREEDY)])


# --- quirks


def test_quirks_change_what_is_run_and_nothing_else(twin):
    plain, paper = twin("llama-3.3-70b"), twin("llama-3.3-70b+paper")
    assert (plain.steering_layer, plain.reading_layer) == (50, 50)
    assert (paper.steering_layer, paper.reading_layer, paper.ablation_layer) == (33, 50, 33)
    again = paper.tokenizer.decode(paper.chat_ids(BRIEF)).removeprefix(plain.tokenizer.decode(plain.chat_ids(BRIEF)))
    assert again == "<|begin_of_text|><|start_header_id|>assistant<|end_header_id|>"
    assert paper.end_of_turn == plain.end_of_turn


def test_ablation_first_takes_the_stream_before_steering_whatever_the_row_says(twin):
    plain, quirky = twin("gemma-2-2b"), twin("gemma-2-2b+ablation_first")
    row = Row(messages="Tea?", sampling=GREEDY, steer=(Steer(latent=3, strength=40.0),), record_resid=(16,))
    after, before = (
        replace(row, ablate=(Ablate(latents=(3, 5), order=o),)) for o in ("after_steering", "before_steering")
    )
    (one,), (other,) = HFEngine(quirky).generate([after]), HFEngine(plain).generate([before])
    (third,) = HFEngine(plain).generate([after])
    assert torch.equal(one.resid[16][0], other.resid[16][0])
    assert not torch.equal(one.resid[16][0], third.resid[16][0])


def test_layer_33_ablates_where_it_steers(twin):
    pair = twin("llama-3.3-70b+layer_33")
    ablate = (Ablate(latents=tuple(range(64))),)
    row = Row(messages="Tea?", prefill="It is", sampling=GREEDY, ablate=ablate, record_resid=(32, 33))
    edited, plain = HFEngine(pair).generate([row, replace(row, ablate=())])
    assert torch.equal(edited.resid[32][0], plain.resid[32][0])
    assert not torch.equal(edited.resid[33][0], plain.resid[33][0])


# --- without weights, and over several devices


@pytest.mark.parametrize("name", ["llama-3.3-70b", "gemma-2-9b"])
def test_without_weights_everything_else_is_real(twin, monkeypatch, name):
    monkeypatch.setattr(machine, "this_machine", lambda: Machine(gpus_gib=(), ram_gib=1.0))
    pair = twin(name, weights=False)
    assert {parameter.device.type for parameter in pair.model.parameters()} == {"meta"}
    assert pair.end_of_turn in pair.stop_ids
    assert pair.sae.W_dec.device.type == "cpu"
    assert len(pair.chat_ids(BRIEF)) > 10
    with pytest.raises(ValueError, match=f"{name} was loaded without its weights; load it with weights=True"):
        HFEngine(pair)


def test_generation_settings_are_the_same_with_and_without_weights(twin):
    with_weights, without = twin("llama-3.1-8b"), twin("llama-3.1-8b", weights=False)
    assert with_weights.stop_ids == without.stop_ids
    assert isinstance(without.model.generation_config.eos_token_id, list)


def test_the_corrector_without_weights_is_its_base_s_model():
    base, corrector = (load_pair(name, weights=False) for name in ("smollm2-135m", "smollm2-135m-corrector"))
    assert {parameter.device.type for parameter in base.model.parameters()} == {"meta"}
    assert corrector.model is base.model
    assert corrector.name == "smollm2-135m-corrector"


@pytest.mark.parametrize("name", ["gemma-2-2b", "llama-3.1-8b"])
def test_a_model_spread_over_devices_by_accelerate_gives_the_same(twin, name):
    from accelerate import dispatch_model

    pair = twin(name)
    layer = pair.steering_layer
    row = Row(
        messages="What is tea?",
        sampling=GREEDY,
        steer=(Steer(latent=3, strength=20.0),),
        ablate=(Ablate(latents=(5, 9)),),
        record=(3,),
        record_resid=(layer,),
    )
    (before,) = HFEngine(pair).generate([row])
    blocks = {f"model.layers.{i}": "cpu" for i in range(pair.n_layers)}
    rest = {"model.embed_tokens": "cpu", "model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "cpu"}
    spread = dispatch_model(pair.model, blocks | rest, main_device="cpu", force_hooks=True)
    assert hasattr(spread.model.layers[layer], "_hf_hook")
    (after,) = HFEngine(replace(pair, model=spread)).generate([row])
    assert after.token_ids == before.token_ids
    assert torch.equal(after.resid[layer], before.resid[layer])


@pytest.mark.parametrize(("n_gpus", "expected"), [(0, None), (1, "cuda"), (8, "auto")])
def test_weights_go_to_the_gpu_or_over_all_of_them(monkeypatch, n_gpus, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: n_gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: n_gpus)
    assert models._device_map() == expected


# --- any release of sae-lens


def test_another_release_takes_its_layer_and_its_size_from_the_files(cache, monkeypatch):
    like = find_entry("gemma-2-2b")
    entry = add_entry("mine", model=like.model, release=like.release, sae_id=like.sae_id, revision=like.revision)
    write_model(cache, like)
    write_sae(cache, entry, sae_weights())
    pair = load_pair("mine")
    assert pair.steering_layer == pair.reading_layer == 16
    models._load_pair.cache_clear()
    monkeypatch.setattr(machine, "this_machine", lambda: Machine(gpus_gib=(), ram_gib=0.0001))
    with pytest.raises(MachineError, match="mine needs 0 GiB in bfloat16 .* this machine has no GPU and 0 GiB"):
        load_pair("mine")


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        (
            {"release": "gemma-scope-2b-pt-res-canonicl"},
            "sae-lens knows no release .*: gemma-scope-2b-pt-res-c",
        ),
        ({"sae_id": "layer_61/width_16k/canonical"}, "has no SAE 'layer_61/width_16k/canonical'; the nearest: layer_"),
    ],
)
def test_a_release_or_id_that_sae_lens_does_not_know_is_met_with_the_nearest(cache, fields, told):
    entry = replace(find_entry("gemma-2-2b"), **fields)
    with pytest.raises(HubError, match=told):
        hub.fetch_sae(entry)


def test_an_sae_of_another_place_in_the_block_is_refused(cache, monkeypatch):
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    entry = replace(find_entry("gemma-2-2b"), release="gemma-scope-2b-pt-mlp-canonical")
    release = get_pretrained_saes_directory()[entry.release]
    monkeypatch.setattr(release, "config_overrides", {"d_in": twins.D_MODEL, "d_sae": twins.D_SAE})
    write_sae(cache, entry, sae_weights())
    with pytest.raises(ValueError, match="reads blocks.16.hook_mlp_out, and the kit edits the residual stream after a"):
        hub.fetch_sae(entry)


def test_a_base_model_without_a_chat_template_is_refused(cache):
    entry = find_entry("gemma-2-2b")
    folder = write_model(cache, entry)
    write_sae(cache, entry, sae_weights())
    settings = (folder / "tokenizer_config.json").read_text()
    (folder / "tokenizer_config.json").write_text(settings.replace("chat_template", "other"))
    with pytest.raises(ValueError, match="google/gemma-2-2b-it has no chat template, .* take its chat model"):
        load_pair("gemma-2-2b")


# --- refusals, before any weights are read


@pytest.fixture
def no_weights(monkeypatch) -> None:
    """Reading weights fails the test."""

    def read(*args, **kwargs):
        pytest.fail("weights were read")

    monkeypatch.setattr(models, "load_model", read)


@pytest.mark.usefixtures("no_weights")
def test_an_sae_of_another_model_is_refused_before_the_weights(cache):
    entry = find_entry("gemma-2-2b")
    write_model(cache, entry, hidden_size=48)
    write_sae(cache, entry, sae_weights())
    sentence = "canonical reads 32 dimensions, but gemma-2-2b has d_model 48: this SAE belongs to another model"
    with pytest.raises(ValueError, match=sentence):
        load_pair("gemma-2-2b")


@pytest.mark.usefixtures("no_weights")
@pytest.mark.parametrize("place", ["steering_layer", "reading_layer", "ablation_layer"])
def test_a_layer_out_of_range_is_refused_before_the_weights(cache, monkeypatch, place):
    monkeypatch.setitem(CATALOGUE, "gemma-2-2b", replace(find_entry("gemma-2-2b"), **{place: 26}))
    write_model(cache, find_entry("gemma-2-2b"))
    write_sae(cache, replace(find_entry("gemma-2-2b"), steering_layer=16), sae_weights())
    with pytest.raises(ValueError, match=r"layer 26 is not in google/gemma-2-2b-it: it has 26 layers \(0 to 25\)"):
        load_pair("gemma-2-2b")


@pytest.mark.usefixtures("no_weights")
def test_a_gated_model_without_a_token_says_what_to_do(cache):
    sentence = (
        "meta-llama/Llama-3.1-8B-Instruct is gated: accept its licence at https://huggingface.co/meta-llama/"
        "Llama-3.1-8B-Instruct, .* set HF_TOKEN to it"
    )
    with pytest.raises(HubError, match=sentence):
        load_pair("llama-3.1-8b")


@pytest.mark.usefixtures("no_weights")
def test_no_network_says_what_to_do(cache, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_made_up")
    with pytest.raises(HubError, match="Llama-3.1-8B-Instruct is not in the local cache and the hub could not be reac"):
        load_pair("llama-3.1-8b")


def test_no_network_for_the_sae_says_what_to_do(cache):
    write_model(cache, find_entry("gemma-2-2b"))
    with pytest.raises(HubError, match="google/gemma-scope-2b-pt-res is not in the local cache and the hub could not"):
        load_pair("gemma-2-2b")


@pytest.mark.usefixtures("no_weights")
@pytest.mark.parametrize(
    ("kind", "told"),
    [
        (errors.GatedRepoError, "is gated: accept its licence at https://huggingface.co/google/gemma-2-2b-it, "),
        (errors.RepositoryNotFoundError, "the hub knows no google/gemma-2-2b-it, or it is private; correct the name"),
        (errors.RevisionNotFoundError, "google/gemma-2-2b-it is there, and not in the pinned revision"),
        (errors.HfHubHTTPError, "google/gemma-2-2b-it could not be read (500 from the hub)"),
    ],
)
def test_what_the_hub_answers_is_said_in_one_sentence(cache, monkeypatch, kind, told):
    def ask(*args, **kwargs):
        raise kind(
            "500 from the hub\nand much more", response=httpx2.Response(500, request=httpx2.Request("GET", "http://x"))
        )

    monkeypatch.setenv("HF_TOKEN", "hf_made_up")
    monkeypatch.setattr("huggingface_hub.hf_hub_download", ask)
    with pytest.raises(HubError) as caught:
        load_pair("gemma-2-2b")
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("error", [httpx2.ConnectError("x"), requests.ConnectionError("x"), requests.Timeout("x")])
def test_a_hub_out_of_reach_is_told_whatever_client_asked(error):
    with (
        pytest.raises(HubError, match="a/b is not in the local cache and the hub could not be reached"),
        hub.explained("a/b"),
    ):
        raise error


# --- pickles


class Harmful:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return partial(os.mkdir), (str(self.path),)


def test_a_pickle_that_would_run_code_is_not_opened(cache, tmp_path):
    entry = find_entry("llama-3.1-8b")
    write_model(cache, entry)
    path = write_sae(cache, entry, sae_weights())
    state = torch.load(path, weights_only=True)
    torch.save(state | {"more": Harmful(tmp_path / "harm")}, path)
    with pytest.raises(HubError, match="Llama-3.1-8B-Instruct-SAE-l19 holds more than tensors and was not opened"):
        load_pair("llama-3.1-8b")
    assert not (tmp_path / "harm").exists()
    pickle.loads(pickle.dumps(Harmful(tmp_path / "harm")))
    assert (tmp_path / "harm").exists(), "it would have done it"


def test_torch_s_switch_that_opens_any_pickle_is_refused(twin, monkeypatch):
    monkeypatch.setenv(hub.UNSAFE_LOADING, "1")
    with pytest.raises(HubError, match="TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD is set, .*; unset it"):
        hub.fetch_sae(find_entry("llama-3.1-8b"))
