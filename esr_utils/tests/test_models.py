"""A pair knows its model: template, stop tokens, soft caps, blocks; and an unknown name is met with the nearest."""

from dataclasses import replace

import pytest
import torch

from esr_utils.catalogue import find_entry, with_fine_tuned
from esr_utils.models import load_pair
from esr_utils.tests.conftest import tiny_pair, tiny_sae


def test_an_unknown_pair_is_met_with_the_nearest_names():
    with pytest.raises(ValueError, match="unknown pair 'smolm-135m'; the nearest in the catalogue: .*smollm2-135m"):
        load_pair("smolm-135m")
    with pytest.raises(ValueError, match="unknown pair '0'; the nearest in the catalogue: .*smollm2-135m"):
        find_entry("0")


def test_an_sae_of_another_width_is_refused(tiny_llama):
    sentence = "tiny standard SAE reads 16 dimensions, but tiny-llama has d_model 32: this SAE belongs to another model"
    with pytest.raises(ValueError, match=sentence):
        replace(tiny_llama, sae=tiny_sae("standard", d_model=16))


def test_chat_ids_follow_the_template_up_to_the_assistants_turn(tiny):
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello?"}]
    expected = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHello?<|im_end|>\n<|im_start|>assistant\n"
    assert tiny.tokenizer.decode(tiny.chat_ids(messages)) == expected


@pytest.mark.parametrize(("eos", "expected"), [([2, 40, 41], {2, 40, 41}), (40, {2, 40})])
def test_stop_ids_are_the_models_and_the_tokenizers(tiny_llama, monkeypatch, eos, expected):
    monkeypatch.setattr(tiny_llama.model.generation_config, "eos_token_id", eos)
    assert tiny_llama.stop_ids == expected


@torch.inference_mode()
def test_soft_capped_head_of_the_base_model_is_what_the_model_itself_puts_out(tiny):
    ids = torch.arange(60, 100)[None]
    hidden = tiny.base_model()(input_ids=ids).last_hidden_state
    torch.testing.assert_close(tiny.soft_capped(tiny.model.lm_head(hidden)), tiny.model(input_ids=ids).logits)


def test_blocks_are_as_many_as_the_configuration_says_and_inside_the_model(tiny):
    inside = {id(module) for module in tiny.model.modules()}
    assert len(tiny.blocks()) == tiny.n_layers == 4
    assert all(id(block) in inside for block in tiny.blocks())


def test_a_turn_ends_with_the_templates_token_and_not_with_the_end_of_text():
    pair = tiny_pair("llama")
    pair.tokenizer.eos_token = "<pad>"  # as Gemma, whose turns end with a token of their own
    assert pair.tokenizer.decode([pair.end_of_turn]) == "<|im_end|>"


def test_a_pair_comes_with_those_fine_tuned_from_it():
    assert with_fine_tuned("smollm2-135m") == ["smollm2-135m", "smollm2-135m-corrector"]
    assert with_fine_tuned("smollm2-135m-corrector") == ["smollm2-135m-corrector"]


def test_a_template_that_ends_no_turn_with_a_token_is_refused():
    pair = tiny_pair("llama")
    pair.tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}. {% endfor %}"
    with pytest.raises(ValueError, match="the chat template of tiny-llama ends no turn with a token of its own"):
        pair.end_of_turn  # noqa: B018


def test_an_unknown_dtype_is_met_with_those_allowed():
    with pytest.raises(ValueError, match="dtype 'float16' is not one of bfloat16, float32"):
        load_pair("smollm2-135m", dtype="float16")
