"""A pair: a chat model with an SAE at one hook point. ``load_pair`` loads one of the catalogue."""

import copy
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from torch import Tensor

from esr_utils import embedded, hub
from esr_utils.catalogue import DTYPE_BYTES, PairEntry, find_entry
from esr_utils.machine import check_fits
from esr_utils.sae import SAE

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from esr_utils.steering import Message

ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_FILES = ("adapter_config.json", ADAPTER_WEIGHTS)


class AdapterError(ValueError):
    """An adapter cannot be used; the message says what to do."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Pair:
    """A loaded model with its SAE, ready for an engine.

    Layers count decoder blocks from 0; an edit at ``layer`` acts on the residual stream after that block
    (``blocks.{layer}.hook_resid_post``).
    """

    name: str
    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"
    sae: SAE
    steering_layer: int
    reading_layer: int
    ablation_layer: int | None = None
    ablates_first: bool = False
    header_again: tuple[str, ...] = ()
    template_options: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        check_width(self.sae, self.d_model, self.name)

    @property
    def text_config(self):
        return self.model.config.get_text_config()

    @property
    def n_layers(self) -> int:
        return self.text_config.num_hidden_layers

    @property
    def d_model(self) -> int:
        return self.text_config.hidden_size

    @property
    def context_tokens(self) -> int:
        return self.text_config.max_position_embeddings

    @property
    def stop_ids(self) -> frozenset[int]:
        """Tokens that end the assistant's turn: the model's, the tokenizer's, and the template's own."""
        eos = self.model.generation_config.eos_token_id
        ids = eos if isinstance(eos, list) else [eos]
        return frozenset([*ids, self.tokenizer.eos_token_id, self.end_of_turn]) - {None}

    def template_ids(self, messages: Sequence["Message"], *, add_generation_prompt: bool) -> tuple[int, ...]:
        """Token ids of a conversation in the model's own template.

        A system turn goes in front of the first user turn where the template has no place for one.
        """
        told = list(messages) if self.has_system_role else _folded(messages)
        encoded = self.tokenizer.apply_chat_template(
            told, add_generation_prompt=add_generation_prompt, return_dict=True, **dict(self.template_options)
        )
        return tuple(encoded["input_ids"])

    def chat_ids(self, messages: Sequence["Message"]) -> tuple[int, ...]:
        """Token ids of a conversation, ready for the assistant's turn."""
        ids = self.template_ids(messages, add_generation_prompt=True)
        return (*ids, *self.tokenizer.convert_tokens_to_ids(list(self.header_again)))

    def text_ids(self, text: str) -> tuple[int, ...]:
        """Token ids of a text within a turn: nothing is put around it."""
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    @cached_property
    def has_system_role(self) -> bool:
        """Whether the template takes a system turn; that of Gemma 2 refuses it."""
        from jinja2 import TemplateError

        try:
            self.tokenizer.apply_chat_template(
                [{"role": "system", "content": "?"}, {"role": "user", "content": "?"}], tokenize=False
            )
        except TemplateError:
            return False
        return True

    @cached_property
    def end_of_turn(self) -> int:
        """Token with which the template ends an assistant's turn; not always the tokenizer's end of text.

        Raises:
            ValueError: the template ends turns with ordinary text.
        """
        turn = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]
        whole = self.template_ids(turn, add_generation_prompt=False)
        after = whole[len(self.template_ids(turn[:1], add_generation_prompt=True)) :]
        added = {token for token, known in self.tokenizer.added_tokens_decoder.items() if known.special}
        for token in after:
            if token in added or token in self.tokenizer.all_special_ids:
                return token
        raise ValueError(f"the chat template of {self.name} ends no turn with a token of its own; the kit needs one")

    def soft_capped(self, logits: Tensor) -> Tensor:
        """Logits as the model samples from them: Gemma 2 bends what its head puts out."""
        cap = getattr(self.text_config, "final_logit_softcapping", None)
        return logits if cap is None else cap * torch.tanh(logits / cap)

    def base_model(self) -> torch.nn.Module:
        """The decoder without its language-model head; its ``layers`` are the blocks."""
        decoder = self.model.model
        return getattr(decoder, "language_model", decoder)

    def blocks(self) -> torch.nn.ModuleList:
        return self.base_model().layers


def _folded(messages: Sequence["Message"]) -> list["Message"]:
    """The conversation with system turns put in front of the first user turn."""
    system = [message["content"] for message in messages if message["role"] == "system"]
    others = [dict(message) for message in messages if message["role"] != "system"]
    if system and others:
        others[0]["content"] = "\n\n".join([*system, others[0]["content"]])
    return others


def check_width(sae: SAE, d_model: int, name: str) -> None:
    """Raise a ValueError if the SAE cannot be one of this model."""
    if sae.d_model != d_model:
        raise ValueError(
            f"{sae.name} reads {sae.d_model} dimensions, but {name} has d_model {d_model}: "
            "this SAE belongs to another model"
        )


def load_pair(name: str = "smollm2-135m", *, dtype: str | None = None, weights: bool = True) -> Pair:
    """Load a pair of the catalogue; the second call with the same arguments returns the same object.

    It goes to the GPU if there is one, over all of them if there are several, and else to main memory.

    Args:
        weights: False leaves the model's weights where they are (they are on torch's ``meta`` device) and loads
            everything else, for an engine that runs elsewhere. An adapter is then not merged.

    Raises:
        MachineError: the pair does not fit this machine.
        HubError: the model or the SAE could not be had.
        ValueError: no such pair, or parts that do not belong together.
    """
    entry = find_entry(name)
    dtype = dtype or entry.dtype
    if dtype not in DTYPE_BYTES:
        raise ValueError(f"dtype {dtype!r} is not one of {', '.join(DTYPE_BYTES)}")
    return _load_pair(entry, dtype, weights)


@lru_cache(maxsize=3)
def _load_pair(entry: PairEntry, dtype: str, weights: bool) -> Pair:
    if entry.base and entry.adapter:
        base = _load_pair(find_entry(entry.base), dtype, weights)
        return adapted(base, entry.adapter, name=entry.name) if weights else replace(base, name=entry.name)
    if weights:
        check_fits(entry, dtype)
    config = None if entry.is_embedded else hub.fetch_config(entry)
    sae = hub.fetch_sae(entry)
    steering, reading = _layers(entry, sae)
    if config is not None:
        _check_parts(entry, config, sae, {steering, reading, entry.ablation_layer} - {None})
        if weights and entry.shape is None:
            check_fits(replace(entry, shape=hub.shape_of(config, sae)), dtype)
    model, tokenizer = _load_parts(entry, dtype, weights)
    pair = Pair(
        name=entry.name,
        model=model,
        tokenizer=tokenizer,
        sae=sae,
        steering_layer=steering,
        reading_layer=reading,
        ablation_layer=entry.ablation_layer,
        ablates_first=entry.ablates_first,
        header_again=entry.header_again,
        template_options=entry.template_options,
    )
    return replace(pair, sae=sae.to(next(pair.blocks()[reading].parameters()).device)) if weights else pair


def _layers(entry: PairEntry, sae: SAE) -> tuple[int, int]:
    """Steering and reading layer: the entry's, else the one the SAE was trained on."""
    trained = sae.layer if entry.steering_layer is None else entry.steering_layer
    if trained is None:
        raise ValueError(f"{sae.name} does not say its layer; give steering_layer in the entry of {entry.name}")
    reading = sae.layer if entry.reading_layer is None else entry.reading_layer
    return trained, trained if reading is None else reading


def _check_parts(entry: PairEntry, config: "PretrainedConfig", sae: SAE, layers: set[int]) -> None:
    """Raise a ValueError if SAE, layers and model do not belong together: before any weights are read."""
    text = config.get_text_config()
    check_width(sae, text.hidden_size, entry.name)
    for layer in sorted(layers):
        if not 0 <= layer < text.num_hidden_layers:
            raise ValueError(
                f"layer {layer} is not in {entry.model}: it has {text.num_hidden_layers} layers "
                f"(0 to {text.num_hidden_layers - 1})"
            )


def _load_parts(entry: PairEntry, dtype: str, weights: bool) -> tuple["PreTrainedModel", "PreTrainedTokenizerBase"]:
    load = load_model if weights else load_without_weights
    if entry.is_embedded:
        return load(embedded.model_dir(), dtype, device_map=_device_map(), local_files_only=True)
    with hub.explained(entry.model):
        model, tokenizer = load(entry.model, dtype, device_map=_device_map(), revision=entry.revision)
    if tokenizer.chat_template is None:
        raise ValueError(f"{entry.model} has no chat template, and questions are asked in one; take its chat model")
    return model, tokenizer


def _device_map() -> str | None:
    """Where weights go: nowhere in particular, onto the only GPU, or over all of them."""
    if not torch.cuda.is_available():
        return None
    return "cuda" if torch.cuda.device_count() == 1 else "auto"


def adapted(pair: Pair, folder: Path, *, name: str) -> Pair:
    """The pair with a LoRA adapter merged into a copy of its model; its SAE is shared.

    Raises:
        AdapterError: no adapter there, a damaged one, or one of another base.
    """
    from peft import PeftConfig, PeftModel

    if not all((folder / name).exists() for name in ADAPTER_FILES):
        raise AdapterError(
            f"there is no adapter in {folder} ({', '.join(ADAPTER_FILES)}); train one or give its folder"
        )
    try:
        base = PeftConfig.from_pretrained(folder).base_model_name_or_path
        if base != pair.name:
            raise AdapterError(f"the adapter in {folder} belongs to {base}, not to {pair.name}; load it on {base}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers for an attribute under its old name
            model = PeftModel.from_pretrained(copy.deepcopy(pair.model), folder)
    except AdapterError:
        raise
    except (RuntimeError, OSError, ValueError, TypeError, SafetensorError) as error:
        raise AdapterError(f"the adapter in {folder} does not fit {pair.name} or is damaged ({error})") from None
    return replace(pair, name=name, model=model.merge_and_unload().eval())


def load_model(
    source: Path | str, dtype: str, *, device_map: str | None = None, **options: object
) -> tuple["PreTrainedModel", "PreTrainedTokenizerBase"]:
    """A model and its tokenizer from a folder or the hub, in evaluation mode. ``options`` say which files."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(source, dtype=getattr(torch, dtype), device_map=device_map, **options)
    return model.eval(), AutoTokenizer.from_pretrained(source, **options)


def load_without_weights(
    source: Path | str, dtype: str, *, device_map: str | None = None, **options: object
) -> tuple["PreTrainedModel", "PreTrainedTokenizerBase"]:
    """As ``load_model``, the model's weights left out: its configuration and generation settings are real."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    config = AutoConfig.from_pretrained(source, **options)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
    model.generation_config = hub.generation_config_of(source, **options) or model.generation_config
    return model.eval(), AutoTokenizer.from_pretrained(source, **options)
