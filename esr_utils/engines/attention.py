"""Attention of one new token a row, on a CPU: torch's fused kernel spends most of its time there on set-up."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from esr_utils.models import Pair


def one_token_attention(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor, *, scaling: float, **_
) -> tuple[Tensor, None]:
    """What ``sdpa`` gives for a single query [batch head 1 d_head], by two batched products in float32."""
    batch, n_heads, _, d_head = query.shape
    n_groups, n_keys = key.shape[1:3]
    grouped = query.reshape(batch * n_groups, n_heads // n_groups, d_head).float()
    key, value = (x.reshape(batch * n_groups, n_keys, d_head).float() for x in (key, value))
    scores = torch.bmm(grouped, key.transpose(1, 2)).view(batch, n_groups, -1, n_keys)
    weights = scores.mul_(scaling).add_(attention_mask).softmax(-1)
    output = torch.bmm(weights.view(batch * n_groups, -1, n_keys), value)
    return output.to(query.dtype).view(batch, 1, n_heads, d_head), None


@contextmanager
def stepping(pair: Pair) -> Iterator[None]:
    """Use it for the steps of a generation, where the model would use ``sdpa`` on a CPU."""
    from transformers import AttentionInterface

    config = pair.text_config
    before = config._attn_implementation
    if before == "sdpa" and pair.model.device.type == "cpu":
        AttentionInterface.register("esr_one_token", one_token_attention)
        config._attn_implementation = "esr_one_token"
    try:
        yield
    finally:
        config._attn_implementation = before
