"""Fixtures: tiny random pairs of every architecture in the catalogue, and the embedded pair.

The tiny models know nothing, but the laws of an engine do not depend on what a model knows.
"""

import pytest
import torch

from esr_utils.catalogue import CATALOGUE, PairEntry
from esr_utils.engines.base import Response
from esr_utils.models import Pair, load_pair
from esr_utils.sae import SAE

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "initializer_range": 0.3,  # large enough for peaked, varied predictions
}
TINY = ("llama", "gemma2", "gemma3")


def pytest_addoption(parser) -> None:
    parser.addoption("--clicking-s", type=float, default=30.0, help="seconds of random clicking (marker browser)")
    parser.addoption(
        "--pictures", action="store_true", help="write the README's pictures of the explorer (marker browser)"
    )


@pytest.fixture(scope="session")
def browser(request):
    """A headless chromium, for tests marked ``browser``."""
    from esr_utils.tests.browser_parts import start_browser

    driver, opened = start_browser()
    request.addfinalizer(driver.stop)
    request.addfinalizer(opened.close)  # the last one added runs first
    return opened


@pytest.fixture
def server(request, monkeypatch):
    """The stand-in for the services of remote judges; tests of other servers have fixtures of their own."""
    from esr_utils.tests.judge_parts import serve

    return serve(request, monkeypatch)


def byte_tokenizer():
    """One token a byte, with ChatML's two special tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {char: i for i, char in enumerate(["<pad>", "<|im_start|>", "<|im_end|>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<pad>", "<|im_start|>", "<|im_end|>"])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<|im_end|>")
    fast.chat_template = CHATML
    return fast


def tiny_model(kind: str, vocab_size: int, **overrides):
    """A random model of the architecture ``kind``, float32, with the features that make it special."""
    from transformers import (
        Gemma2Config,
        Gemma2ForCausalLM,
        Gemma3ForCausalLM,
        Gemma3TextConfig,
        LlamaConfig,
        LlamaForCausalLM,
    )

    shape = {**SHAPE, "vocab_size": vocab_size, "pad_token_id": 0, "eos_token_id": 2, "bos_token_id": 1, **overrides}
    sliding = {
        "sliding_window": 24,
        "layer_types": ["sliding_attention", "full_attention"] * (shape["num_hidden_layers"] // 2),
        "query_pre_attn_scalar": 8,
    }
    torch.manual_seed(0)
    if kind == "llama":
        model = LlamaForCausalLM(LlamaConfig(**shape))
    elif kind == "gemma2":
        config = Gemma2Config(**shape, **sliding, attn_logit_softcapping=5.0, final_logit_softcapping=3.0)
        config._attn_implementation = "eager"  # the one that applies the soft cap
        model = Gemma2ForCausalLM(config)
    else:
        model = Gemma3ForCausalLM(Gemma3TextConfig(**shape, **sliding))
    model.config.architectures = [type(model).__name__]  # as in a published checkpoint
    model.generation_config.eos_token_id = [2, *range(40, 60)]  # some letters end a turn, so rows end at any time
    return model.eval()


def tiny_sae(architecture: str, *, d_model: int = 32, d_sae: int = 64, layer: int = 2) -> SAE:
    """A random SAE whose last latent is silent on any input that occurs."""
    generator = torch.Generator().manual_seed(1)
    W_dec = torch.nn.functional.normalize(torch.randn(d_sae, d_model, generator=generator), dim=1)
    b_enc = torch.full((d_sae,), -0.1)
    b_enc[-1] = -1e6
    return SAE(
        name=f"tiny {architecture} SAE",
        architecture=architecture,
        W_enc=W_dec.T.clone(),
        b_enc=b_enc,
        W_dec=W_dec,
        b_dec=torch.randn(d_model, generator=generator) * 0.1,
        threshold=torch.full((d_sae,), 0.2) if architecture == "jumprelu" else None,
        k=8 if architecture == "topk" else None,
        layer=layer,
    )


def tiny_pair(kind: str, architecture: str = "standard") -> Pair:
    tokenizer = byte_tokenizer()
    return Pair(
        name=f"tiny-{kind}",
        model=tiny_model(kind, len(tokenizer)),
        tokenizer=tokenizer,
        sae=tiny_sae(architecture),
        steering_layer=2,
        reading_layer=2,
    )


@pytest.fixture(scope="session", params=TINY)
def tiny(request) -> Pair:
    """Each architecture in turn, with the kind of SAE that is published for it."""
    return tiny_pair(request.param, "standard" if request.param == "llama" else "jumprelu")


@pytest.fixture(scope="session")
def alone(tiny) -> list[Response]:
    """Each row of ``engine_parts`` as it comes out with nobody beside it."""
    from esr_utils.engines.hf import HFEngine
    from esr_utils.tests.engine_parts import ROWS

    return [HFEngine(tiny).generate([row])[0] for row in ROWS]


@pytest.fixture(scope="session")
def tiny_llama() -> Pair:
    return tiny_pair("llama")


@pytest.fixture(scope="session")
def embedded_pair() -> Pair:
    """The real model with its shipped SAE, in bfloat16 as users run it."""
    return load_pair("smollm2-135m")


@pytest.fixture
def catalogue(request) -> dict[str, PairEntry]:
    """The catalogue, which the test may change."""
    kept = dict(CATALOGUE)

    def restore() -> None:
        CATALOGUE.clear()
        CATALOGUE.update(kept)

    request.addfinalizer(restore)  # noqa: PT021 - the import hook of jaxtyping keeps yield fixtures from running
    return CATALOGUE


# Faults of the restart gate that are known and not mended yet; a test that passes again must be taken from this list.
KNOWN_FAULTS = (
    "test_everyday_answers_do_not_restart",
    "test_a_restart_needs_no_full_stop_before_it[The tea is a fish and then]",
)


def pytest_collection_modifyitems(items):
    for item in items:
        if item.name in KNOWN_FAULTS:
            item.add_marker(pytest.mark.xfail(strict=True, reason="a known fault of the restart gate, see data/LOG.md"))
