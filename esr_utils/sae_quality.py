"""How good the embedded SAE is: what it explains on held-out tokens, and what the model loses by it."""

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from esr_utils.corpus import HELD_OUT_EVERY, corpus_prompts, load_shard, model_alone, shard_paths
from esr_utils.hooks import editing
from esr_utils.models import Pair
from esr_utils.sae import SAE

N_ROWS = 64  # responses whose loss is measured


@torch.inference_mode()
def reconstruction(sae: SAE, tokens: Float[Tensor, "token d_model"]) -> dict[str, float]:
    """Explained variance, L0 and dead share on the residual stream of held-out response tokens.

    Explained variance is 1 - |x - x_hat|^2 / |x - mean|^2, summed over tokens. ``without_massive`` leaves out of
    both sums the few dimensions whose mean is over ten times the typical spread of a dimension.
    """
    tokens = tokens.float()
    spread = tokens.std(0)
    massive = tokens.mean(0).abs() > 10 * spread.median()
    error = torch.zeros(tokens.shape[1])
    fired, n_active = torch.zeros(sae.d_sae), 0.0
    for part in tokens.split(4096):
        acts = sae.encode(part)
        error += (part - sae.decode(acts)).pow(2).sum(0)
        fired += (acts > 0).sum(0)
        n_active += float((acts > 0).sum())
    total = (tokens - tokens.mean(0)).pow(2).sum(0)
    return {
        "explained_variance": float(1 - error.sum() / total.sum()),
        "explained_variance_without_massive": float(1 - error[~massive].sum() / total[~massive].sum()),
        "n_massive_dimensions": int(massive.sum()),
        "L0": n_active / len(tokens),
        "dead_share": float((fired == 0).float().mean()),
        "n_held_out_tokens": len(tokens),
    }


@torch.inference_mode()
def loss_recovered(sae: SAE, layer: int) -> dict[str, float]:
    """Cross-entropy (nats a token) of held-out responses: as is, through the SAE, and with the layer wiped.

    Only response tokens are replaced and scored. Recovered = (wiped - SAE) / (wiped - as is), with the layer wiped
    to its mean (the harder yardstick, because the massive dimensions survive) and to zero.
    """
    pair, texts = model_alone(), held_out_responses(layer)
    mean = torch.cat([resid for _, _, resid in texts]).float().mean(0)
    ways = {
        "as_is": lambda x: x,
        "sae": lambda x: sae.decode(sae.encode(x)).to(x.dtype),
        "mean": lambda x: mean.to(x.dtype).expand_as(x),
        "zero": torch.zeros_like,
    }
    loss = {name: _cross_entropy(pair, texts, layer, way) for name, way in ways.items()}
    return {
        **{f"cross_entropy_{name}": value for name, value in loss.items()},
        "loss_recovered_over_mean": (loss["mean"] - loss["sae"]) / (loss["mean"] - loss["as_is"]),
        "loss_recovered_over_zero": (loss["zero"] - loss["sae"]) / (loss["zero"] - loss["as_is"]),
        "n_responses": len(texts),
    }


def held_out_responses(layer: int) -> list[tuple[str, list[int], Tensor]]:
    """(prompt, response tokens, residual stream) of the first held-out rows of the corpus."""
    prompts, found = corpus_prompts(), []
    for path in shard_paths():
        shard = load_shard(path, layer)
        for row in shard.row[shard.prompt % HELD_OUT_EVERY == 0].unique().tolist():
            mine = shard.row == row
            prompt = prompts[int(shard.prompt[mine][0])].text
            found.append((prompt, shard.tokens[mine].tolist(), shard.resid[mine]))
            if len(found) == N_ROWS:
                return found
    return found


def _replaced(resid: Tensor, *, first: int, way: Callable[[Tensor], Tensor]) -> Tensor:
    """The stream, from position ``first`` on passed through ``way``."""
    return torch.cat([resid[:, :first], way(resid[:, first:])], dim=1)


def _cross_entropy(pair: Pair, texts: list, layer: int, way: Callable[[Tensor], Tensor]) -> float:
    total, n_tokens = 0.0, 0
    for prompt, tokens, _ in texts:
        ids = pair.chat_ids([{"role": "user", "content": prompt}])
        with editing(pair.blocks()[layer], partial(_replaced, first=len(ids), way=way)):
            logits = pair.model(torch.tensor([[*ids, *tokens]])).logits[0, len(ids) : -1].float()
        total += float(torch.nn.functional.cross_entropy(logits, torch.tensor(tokens[1:]), reduction="sum"))
        n_tokens += len(tokens) - 1
    return total / n_tokens
