"""Tiny twins of the pairs that come from the hub: their architectures, tokenizers and SAE files in a local hub cache.

The configurations have the sizes of the published models, of which a twin keeps the layers and narrows the rest, so
that everything which reads files is the code that users run. Weights are random and all texts are made up.
"""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from esr_utils import hub, machine, models
from esr_utils.catalogue import CATALOGUE, PairEntry, find_entry
from esr_utils.machine import Machine

PAPER_PAIRS = ("gemma-2-2b", "gemma-2-9b", "gemma-2-27b", "llama-3.1-8b", "llama-3.3-70b")
HUB_PAIRS = ("gemma-3-270m", *PAPER_PAIRS)
LARGE = Machine(gpus_gib=(80.0,) * 4, ram_gib=512.0)
D_MODEL, D_SAE = 32, 8192
NARROW = {
    "hidden_size": D_MODEL,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "query_pre_attn_scalar": 8,
    "max_position_embeddings": 4096,
    "sliding_window": 64,
    "initializer_range": 0.2,
}
SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")


def _sized(*sizes: int, head_dim: int, **rest: object) -> dict[str, object]:
    return {**dict(zip(SIZES, sizes, strict=True)), "head_dim": head_dim, **rest}


def _llama(*sizes: int) -> dict[str, object]:
    scaling = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "rope_type": "llama3"}
    return _sized(
        *sizes,
        head_dim=128,
        architectures=["LlamaForCausalLM"],
        model_type="llama",
        vocab_size=128_256,
        max_position_embeddings=131_072,
        rope_theta=500_000.0,
        rope_scaling={**scaling, "original_max_position_embeddings": 8192},
        rms_norm_eps=1e-5,
        tie_word_embeddings=False,
    )


def _gemma_2(*sizes: int, head_dim: int, scalar: int) -> dict[str, object]:
    return _sized(
        *sizes,
        head_dim=head_dim,
        architectures=["Gemma2ForCausalLM"],
        model_type="gemma2",
        vocab_size=256_000,
        max_position_embeddings=8192,
        sliding_window=4096,
        query_pre_attn_scalar=scalar,
        attn_logit_softcapping=50.0,
        final_logit_softcapping=30.0,
        hidden_activation="gelu_pytorch_tanh",
    )


CONFIGS = {
    "gemma-3-270m": _sized(
        640,
        2048,
        18,
        4,
        1,
        head_dim=256,
        architectures=["Gemma3ForCausalLM"],
        model_type="gemma3_text",
        vocab_size=262_144,
        max_position_embeddings=32_768,
        sliding_window=512,
        query_pre_attn_scalar=256,
        layer_types=["full_attention" if (i + 1) % 6 == 0 else "sliding_attention" for i in range(18)],
    ),
    "gemma-2-2b": _gemma_2(2304, 9216, 26, 8, 4, head_dim=256, scalar=256),
    "gemma-2-9b": _gemma_2(3584, 14_336, 42, 16, 8, head_dim=256, scalar=256),
    "gemma-2-27b": _gemma_2(4608, 36_864, 46, 32, 16, head_dim=128, scalar=144),
    "llama-3.1-8b": _llama(4096, 14_336, 32, 32, 8),
    "llama-3.3-70b": _llama(8192, 28_672, 80, 64, 8),
}
LLAMA_SPECIAL = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|eom_id|>",
    "<|eot_id|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
)
GEMMA_SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<start_of_turn>", "<end_of_turn>")
LLAMA_TEMPLATE = (
    "{% set day = date_string if date_string is defined else 'an unknown day' %}{{ bos_token }}"
    "{% set told = messages[0]['content'] if messages[0]['role'] == 'system' else '' %}"
    "<|start_header_id|>system<|end_header_id|>\n\nThe day is {{ day }}.\n\n{{ told }}<|eot_id|>"
    "{% for m in messages if m['role'] != 'system' %}"
    "<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
GEMMA_TEMPLATE = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system turns here') }}{% endif %}"
    "{% for m in messages %}<start_of_turn>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n"
    "{{ m['content'] | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)


def _llama_tokenizer():
    """Byte-level BPE, as Llama 3's, with one word that is a single token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    word, merges = "assistant", []
    for n in range(1, len(word)):
        merges.append((word[:n], word[n]))
    pieces = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *(word[: n + 1] for n in range(1, len(word)))]
    tokenizer = Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(LLAMA_SPECIAL))
    bos = (LLAMA_SPECIAL[0], tokenizer.token_to_id(LLAMA_SPECIAL[0]))
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{bos[0]} $A", special_tokens=[bos])
    settings = {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"}
    return tokenizer, {"tokenizer_class": "PreTrainedTokenizerFast", **settings, "chat_template": LLAMA_TEMPLATE}


def _gemma_tokenizer():
    """BPE over characters that falls back to bytes, spaces as a letter of their own, as Gemma's."""
    from tokenizers import Tokenizer, decoders, models, normalizers

    letters = [chr(i) for i in range(33, 127)]
    pieces = [*GEMMA_SPECIAL, *(f"<0x{i:02X}>" for i in range(256)), "\n", "▁", *letters]
    vocab = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens(list(GEMMA_SPECIAL))
    names = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"}
    return tokenizer, {"tokenizer_class": "GemmaTokenizer", **names, "chat_template": GEMMA_TEMPLATE}


def _snapshot(cache: Path, repo: str, revision: str) -> Path:
    """Folder of one revision in a hub cache, as the hub's client lays it out."""
    root, commit = cache / f"models--{repo.replace('/', '--')}", "0" * 40 if revision == "main" else revision
    (root / "refs").mkdir(parents=True, exist_ok=True)
    (root / "refs" / "main").write_text(commit)
    folder = root / "snapshots" / commit
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def write_model(cache: Path, entry: PairEntry, **changes: object) -> Path:
    """The twin of the pair's model, with files named and filled as the published ones are."""
    from transformers import AutoConfig, AutoModelForCausalLM

    folder = _snapshot(cache, entry.model, entry.revision)
    is_llama = entry.name.startswith("llama")
    tokenizer, settings = _llama_tokenizer() if is_llama else _gemma_tokenizer()
    ids = {name: tokenizer.token_to_id(name) for name in (LLAMA_SPECIAL if is_llama else GEMMA_SPECIAL)}
    named = {"bos_token_id": ids["<|begin_of_text|>" if is_llama else "<bos>"]}
    if is_llama:
        named["eos_token_id"] = [ids["<|end_of_text|>"], ids["<|eom_id|>"], ids["<|eot_id|>"]]
    else:  # the published generation settings of Gemma 2 name the end of text alone
        named |= {"eos_token_id": ids["<eos>"], "pad_token_id": ids["<pad>"]}
    config = {**CONFIGS[entry.name], **NARROW, "vocab_size": tokenizer.get_vocab_size(), **named, **changes}
    if is_llama:
        config = {key: value for key, value in config.items() if key not in ("query_pre_attn_scalar", "sliding_window")}
    (folder / "config.json").write_text(json.dumps({**config, "torch_dtype": "bfloat16"}, indent=1))
    torch.manual_seed(len(entry.name))
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), dtype=torch.bfloat16)
    with torch.no_grad():  # predictions are sharp and never a special token, the end of a turn among them
        model.lm_head.weight *= 4.0
        model.lm_head.weight[list(ids.values())] = 0.0
    save_file({k: v.clone() for k, v in _stored(model).items()}, folder / "model.safetensors", {"format": "pt"})
    (folder / "generation_config.json").write_text(json.dumps({**named, "do_sample": True, "temperature": 0.6}))
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=1))
    return folder


def _stored(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """What a published file holds: a tied head is stored once, as the embedding."""
    tensors = model.state_dict()
    if model.config.tie_word_embeddings:
        tensors.pop("lm_head.weight")
    return tensors


def sae_weights(*, d_model: int = D_MODEL, d_sae: int = D_SAE) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    W_dec = torch.nn.functional.normalize(torch.randn(d_sae, d_model, generator=generator), dim=1)
    return {
        "W_enc": W_dec.T.contiguous(),
        "b_enc": torch.full((d_sae,), -0.1),
        "W_dec": W_dec,
        "b_dec": torch.randn(d_model, generator=generator) * 0.1,
        "threshold": torch.full((d_sae,), 0.2),
    }


def write_sae(cache: Path, entry: PairEntry, weights: dict[str, torch.Tensor]) -> Path:
    """The pair's SAE as its publisher's file: Goodfire's pickle, GemmaScope's npz or GemmaScope 2's safetensors."""
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    release = get_pretrained_saes_directory()[entry.release]
    path = _snapshot(cache, release.repo_id, "main") / release.saes_map[entry.sae_id]
    if release.conversion_func == "goodfire":
        linear = {"encoder_linear": ("W_enc", "b_enc"), "decoder_linear": ("W_dec", "b_dec")}
        state = {f"{name}.weight": weights[w].T.bfloat16() for name, (w, _) in linear.items()}
        torch.save(state | {f"{name}.bias": weights[b].bfloat16() for name, (_, b) in linear.items()}, path)
        return path
    path.mkdir(parents=True, exist_ok=True)
    if release.conversion_func == "gemma_2":
        np.savez(path / "params.npz", **{name: value.numpy() for name, value in weights.items()})
        return path / "params.npz"
    save_file({name.lower(): value for name, value in weights.items()}, path / "params.safetensors")
    point = f"model.layers.{entry.steering_layer}.output"
    config = {"architecture": "jump_relu", "model_name": "gemma-v3-270m-it", "hf_hook_point_in": point}
    (path / "config.json").write_text(json.dumps(config))
    return path / "params.safetensors"


def narrow_releases(patch: pytest.MonkeyPatch, cache: Path) -> None:
    """sae-lens knows the widths of Goodfire's and GemmaScope's SAEs by heart, and asks the hub for GemmaScope 2's."""
    from sae_lens.loading import pretrained_sae_loaders
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    def shapes(repo: str, filename: str) -> dict[str, list[int]]:
        from safetensors import safe_open

        with safe_open(_snapshot(cache, repo, "main") / filename, "pt") as file:
            return {name: list(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118

    patch.setattr(pretrained_sae_loaders, "get_safetensors_tensor_shapes", shapes)
    for name in HUB_PAIRS[1:]:
        release = get_pretrained_saes_directory()[find_entry(name).release]
        patch.setattr(release, "config_overrides", {"d_in": D_MODEL, "d_sae": D_SAE})


def write_labels(cache: Path, entry: PairEntry) -> None:
    """The pair's labels, as they lie in the cache once they were fetched."""
    table = pd.DataFrame({"latent": range(D_SAE), "label": [f"thing number {i}" for i in range(D_SAE)]})
    path = cache / "labels" / f"{str(entry.labels).replace('/', '__')}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(path, index=False)


def enter(patch: pytest.MonkeyPatch, hub_cache: Path) -> None:
    """From here on the hub is ``hub_cache`` and the machine has four large GPUs, which torch does not see."""
    import huggingface_hub.constants

    patch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(hub_cache))
    patch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    patch.setattr(machine, "this_machine", lambda: LARGE)
    patch.delenv(hub.UNSAFE_LOADING, raising=False)
    narrow_releases(patch, hub_cache)
    models._load_pair.cache_clear()
    for name in HUB_PAIRS:  # the twins' latents all take part, as a real SAE's do
        entry = CATALOGUE[name]
        patch.setitem(CATALOGUE, name, replace(entry, shape=replace(entry.shape, d_sae=D_SAE)))


def write_twin(name: str, hub_cache: Path, esr_cache: Path) -> None:
    entry = find_entry(name)
    write_model(hub_cache, entry)
    write_sae(hub_cache, entry, sae_weights())
    write_labels(esr_cache, entry)
