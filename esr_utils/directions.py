"""Directions that are not from an SAE: read from files, made from topics, and put where a pair has its latents.

A direction is a vector in the residual stream, not normalised: its length is the unit of the strength it is used with.
"""

import pickle
import struct
import tokenize
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from esr_utils.engines.base import Engine
from esr_utils.models import Pair
from esr_utils.sae import SAE
from esr_utils.steering import READING, Row

ASKED = "Please tell me what you know about {topic}."
GGUF_NAME = "direction."  # of llama.cpp's control vectors: direction.<layer>
DAMAGED = (  # what the readers of the four formats raise at spoilt files
    *(ValueError, TypeError, RuntimeError, EOFError, LookupError, OverflowError, AssertionError, OSError),
    *(SafetensorError, struct.error, tokenize.TokenError),
)


class DirectionsError(ValueError):
    """A file of directions cannot be used; the message says what to do."""


def load_directions(path: Path | str) -> dict[str, Float[Tensor, " d_model"]]:
    """The directions of a file by name, in float32, each ready for ``Steer(direction=...)``.

    Reads ``.npy`` (one array), ``.pt`` and ``.pth`` (a tensor, or tensors by name), ``.safetensors`` and ``.gguf``
    (control vectors of llama.cpp: ``direction.7`` is to be added after block 7, counted from 0). A tensor of one axis
    is one direction, the rows of one of two axes are called ``name.0``, ``name.1`` and so on. What has no name is
    called as the file is. Code in a file is never run.

    Raises:
        DirectionsError: no such file, another ending, a damaged file, one that holds pickled objects, something that
            is not a tensor of one or two axes, or numbers that are not finite.
    """
    path = Path(path)
    if path.suffix.lower() not in READERS:
        raise DirectionsError(f"{path.name} ends in none of .npy, .pt (or .pth), .safetensors and .gguf; convert it")
    if not path.is_file():
        raise DirectionsError(f"there is no file {path}; check the path")
    directions: dict[str, Tensor] = {}
    for name, value in _read(path).items():
        for part, direction in _parts(f"{name} in {path.name}", str(name), value):
            if part in directions:
                raise DirectionsError(f"{path.name} has two directions called {part}; rename one")
            directions[part] = direction
    if not directions:
        raise DirectionsError(f"{path.name} holds no direction; save at least one")
    return directions


def _read(path: Path) -> dict[str, object]:
    try:
        return READERS[path.suffix.lower()](path)
    except DirectionsError:
        raise
    except pickle.UnpicklingError as error:
        raise DirectionsError(_told_code(path)) from error
    except DAMAGED as error:
        raise DirectionsError(
            f"{path.name} is damaged, cut off or no {path.suffix} file; copy or save it again"
        ) from error


def _told_code(path: Path) -> str:
    return (
        f"{path.name} is damaged or holds pickled objects, which can be code, and is not loaded; save the tensors alone"
    )


def _read_npy(path: Path) -> dict[str, object]:
    with path.open("rb") as file:
        try:
            array = np.lib.format.read_array(file, allow_pickle=False)
        except ValueError as error:
            if "allow_pickle" in str(error):
                raise DirectionsError(_told_code(path)) from error
            raise
    is_real = np.issubdtype(array.dtype, np.integer) or np.issubdtype(array.dtype, np.floating)
    return {path.stem: torch.from_numpy(array.astype(np.float64)) if is_real else array}


def _read_torch(path: Path) -> dict[str, object]:
    found = torch.load(path, map_location="cpu", weights_only=True)
    return dict(found) if isinstance(found, dict) else {path.stem: found}


def _read_gguf(path: Path) -> dict[str, object]:
    from gguf import GGUFReader, dequantize

    tensors = [tensor for tensor in GGUFReader(path).tensors if tensor.name.startswith(GGUF_NAME)]
    if not tensors:
        raise DirectionsError(f"{path.name} has no tensor called {GGUF_NAME}<layer>; give it a control vector")
    return {t.name: torch.from_numpy(np.array(dequantize(t.data, t.tensor_type), np.float32)) for t in tensors}


READERS: dict[str, Callable[[Path], dict[str, object]]] = {
    ".npy": _read_npy,
    ".pt": _read_torch,
    ".pth": _read_torch,
    ".safetensors": load_file,
    ".gguf": _read_gguf,
}


def _parts(told: str, name: str, value: object) -> Iterator[tuple[str, Float[Tensor, " d_model"]]]:
    """The directions in one tensor, checked; ``told`` is how a message calls it."""
    if not isinstance(value, Tensor) or value.is_complex():
        kind = value.dtype if isinstance(value, Tensor | np.ndarray) else type(value).__name__
        raise DirectionsError(f"{told} is not a tensor of real numbers ({kind}); save one")
    if value.ndim not in (1, 2):
        raise DirectionsError(f"{told} has {value.ndim} axes; a direction has one, a list of directions two")
    value = value.detach().float()
    if not value.isfinite().all():
        raise DirectionsError(f"{told} has entries that are not finite float32 numbers; mend or leave out these")
    if value.ndim == 1:
        yield name, value
    else:
        yield from ((f"{name}.{i}", row.clone()) for i, row in enumerate(value))


def topic_directions(engine: Engine, topics: Sequence[str], *, layer: int) -> Float[Tensor, "topic d_model"]:
    """What sets each topic apart when the model is asked about it: one direction a topic, not normalised, in float32.

    The residual stream after block ``layer`` at the last prompt token (the end of the header of the model's turn),
    less its mean over the topics. Unsteered.

    Raises:
        ValueError: fewer than two topics, or one twice.

    Source: the paper's later control with 200 titles of Wikipedia articles. Differs from the paper: topics and
    wording are the kit's own.
    """
    if len(set(topics)) != len(topics) or len(topics) < 2:
        raise ValueError(f"{len(topics)} topics, {len(set(topics))} of them different; give two or more different ones")
    prompts = [engine.pair.chat_ids([{"role": "user", "content": ASKED.format(topic=topic)}]) for topic in topics]
    rows = [
        # engines record response tokens, so the prompt's last token is given as the start of the response
        Row(token_ids=ids[:-1], prefill=ids[-1:], record_resid=(layer,), sampling=READING)
        for ids in prompts
    ]
    read = torch.stack([response.resid[layer][-1].float() for response in engine.generate(rows)])
    return read - read.mean(dim=0)


def with_directions(pair: Pair, directions: Float[Tensor, "direction d_model"], *, name: str) -> Pair:
    """The pair with ``directions`` where its latents were, so that what takes a latent's number takes a row's.

    The model is shared. The dictionary called ``name`` decodes and never encodes: its activations are 0 whatever the
    model reads, so ablating or recording a "latent" of it means nothing.

    Raises:
        ValueError: directions of another length than the residual stream.
    """
    n, length = directions.shape
    if length != pair.d_model:
        raise ValueError(f"directions of {length} numbers do not fit {pair.name}, which has d_model {pair.d_model}")
    W_dec = directions.float().to(pair.sae.W_dec.device)
    dictionary = SAE(
        name=name,
        architecture="standard",
        W_enc=torch.zeros_like(W_dec.T),
        b_enc=W_dec.new_zeros(n),
        W_dec=W_dec,
        b_dec=W_dec.new_zeros(length),
        layer=pair.steering_layer,
    )
    return replace(pair, sae=dictionary)
