"""Catalogue of pairs: a chat model with an SAE at one hook point. ``load_pair`` loads one."""

import copy
import difflib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from torch import Tensor

from esr_utils import embedded
from esr_utils.config import DATA
from esr_utils.sae import SAE, load_sae

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from esr_utils.steering import Message


@dataclass(frozen=True, kw_only=True)
class PairEntry:
    """What the catalogue knows of a pair before anything is loaded.

    ``adapter``: a LoRA adapter of the pair called ``base``, merged into its model.
    """

    name: str
    sae_folder: Path
    steering_layer: int
    reading_layer: int
    dtype: str
    memory_gib: float
    base: str | None = None
    adapter: Path | None = None


_EMBEDDED = PairEntry(
    name="smollm2-135m",
    sae_folder=DATA / "embedded" / "sae",
    steering_layer=18,
    reading_layer=18,
    dtype="bfloat16",
    memory_gib=2.0,
)
_CORRECTOR = replace(
    _EMBEDDED,
    name="smollm2-135m-corrector",
    memory_gib=2.3,
    base="smollm2-135m",
    adapter=DATA / "embedded" / "corrector",
)
CATALOGUE = {entry.name: entry for entry in (_EMBEDDED, _CORRECTOR)}


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

    def __post_init__(self) -> None:
        if self.sae.d_model != self.d_model:
            raise ValueError(
                f"{self.sae.name} reads {self.sae.d_model} dimensions, but {self.name} has d_model {self.d_model}: "
                "this SAE belongs to another model"
            )

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
        """Tokens that end the assistant's turn."""
        eos = self.model.generation_config.eos_token_id
        ids = eos if isinstance(eos, list) else [eos]
        return frozenset([*ids, self.tokenizer.eos_token_id])

    def chat_ids(self, messages: Sequence["Message"]) -> tuple[int, ...]:
        """Token ids of a conversation in the model's own template, ready for the assistant's turn."""
        encoded = self.tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, return_dict=True)
        return tuple(encoded["input_ids"])

    @property
    def end_of_turn(self) -> int:
        """Token with which the template ends an assistant's turn; not always the tokenizer's end of text."""
        turn = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]
        whole = self.tokenizer.apply_chat_template(turn, return_dict=True)["input_ids"]
        after = whole[len(self.chat_ids(turn[:1])) :]
        return next(token for token in after if token in self.stop_ids)

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


def find_entry(name: str) -> PairEntry:
    """The catalogue entry called ``name``, or a ValueError with the nearest names."""
    if name not in CATALOGUE:
        near = difflib.get_close_matches(name, CATALOGUE, n=3, cutoff=0.3) or sorted(CATALOGUE)
        raise ValueError(f"unknown pair {name!r}; the nearest in the catalogue: {', '.join(near)}")
    return CATALOGUE[name]


def with_fine_tuned(name: str) -> list[str]:
    """The pair called ``name`` and those of the catalogue that were fine-tuned from it."""
    return [find_entry(name).name, *(entry.name for entry in CATALOGUE.values() if entry.base == name)]


def load_pair(name: str = "smollm2-135m", *, dtype: str | None = None) -> Pair:
    """Load a pair of the catalogue; the second call with the same arguments returns the same object."""
    return _load_pair(name, dtype or find_entry(name).dtype)


@lru_cache(maxsize=3)
def _load_pair(name: str, dtype: str) -> Pair:
    entry = find_entry(name)
    if entry.base and entry.adapter:
        return adapted(_load_pair(entry.base, dtype), entry.adapter, name=name)
    model, tokenizer = load_model(embedded.model_dir(), dtype)
    return Pair(
        name=entry.name,
        model=model,
        tokenizer=tokenizer,
        sae=load_sae(entry.sae_folder, name=f"{entry.name} SAE"),
        steering_layer=entry.steering_layer,
        reading_layer=entry.reading_layer,
    )


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


def load_model(folder: Path, dtype: str) -> tuple["PreTrainedModel", "PreTrainedTokenizerBase"]:
    """A model and its tokenizer from a local folder, in evaluation mode."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype), local_files_only=True)
    return model.eval(), AutoTokenizer.from_pretrained(folder, local_files_only=True)
