"""Attention masks that are always given in full, so that no default of a library decides what a token sees."""

import torch
from jaxtyping import Bool, Int
from torch import Tensor


def causal(positions: Int[Tensor, "batch query"], n_keys: int) -> Bool[Tensor, "batch query key"]:
    """Every query sees the keys at and before its own position, out of ``n_keys`` that stand at positions 0, 1, ..."""
    return torch.arange(n_keys, device=positions.device) <= positions[:, :, None]


def windowed(stretch: Int[Tensor, "batch pos"]) -> Bool[Tensor, "batch query key"]:
    """Causal, but a token of stretch k > 0 sees only stretch 0 (the prompt) and its own."""
    index = torch.arange(stretch.shape[1], device=stretch.device)
    before = index[None, :] <= index[:, None]
    return before & ((stretch[:, None, :] == 0) | (stretch[:, None, :] == stretch[:, :, None]))


def stretch_positions(stretch: Int[Tensor, "batch pos"]) -> Int[Tensor, "batch pos"]:
    """Positions at which each stretch follows straight on stretch 0, as if the others were not there."""
    index = torch.arange(stretch.shape[1], device=stretch.device).expand(len(stretch), -1)
    n_prompt = (stretch == 0).long().cumprod(dim=1).sum(dim=1, keepdim=True)
    is_first = torch.nn.functional.pad(stretch[:, 1:] != stretch[:, :-1], (1, 0), value=True)
    start = torch.where(is_first, index, 0).cummax(dim=1).values
    return torch.where(stretch > 0, n_prompt + index - start, index)


def additive(
    visible: Bool[Tensor, "batch query key"],
    positions: Int[Tensor, "batch query"],
    key_positions: Int[Tensor, "batch_or_1 key"],
    config: object,
    dtype: torch.dtype,
) -> Tensor | dict[str, Tensor]:
    """Masks as transformers adds them to attention scores, [batch 1 query key]; one for each kind of layer if the
    model mixes full and sliding attention."""
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    masks = {"full_attention": visible}
    if "sliding_attention" in kinds:
        near = positions[:, :, None] - key_positions[:, None, :] < config.sliding_window
        masks["sliding_attention"] = visible & near
    lowest = torch.finfo(dtype).min
    filled = {
        kind: torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, lowest)[:, None]
        for kind, mask in masks.items()
    }
    return filled if len(kinds) > 1 else filled[kinds.pop()]
