"""Rows for the tests of engines, of which hardly two agree in any field, and how responses are compared."""

import numpy as np
import torch

from esr_utils.engines.base import Response
from esr_utils.models import Pair
from esr_utils.steering import Ablate, Row, Sampling, Steer

N_ROWS = 36
QUESTIONS = ("How?", "Explain how to repot a plant, please, I have an hour.", "Why is it so? Tell me in two words.")
GREEDY = Sampling(max_new_tokens=12, temperature=0.0, repetition_penalty=1.0)
PLAIN = Row(messages=QUESTIONS[1], sampling=GREEDY)


def stranger(i: int) -> Row:
    """Row ``i`` of a batch in which hardly two rows agree in any field."""
    rng = np.random.default_rng([11, i])
    latents = [int(latent) for latent in rng.choice(63, 8, replace=False)]
    steers = (
        Steer(latent=latents[0], strength=float(rng.uniform(2, 12))),
        Steer(direction=torch.tensor(rng.normal(size=32)).float(), strength=float(rng.uniform(0.5, 3)), layer=i % 4),
        Steer(latent=latents[1], strength=float(rng.uniform(-6, 6)), layer=1),
    )
    ablates = (
        Ablate(
            latents=tuple(latents[2:5]), share=(1.0, 0.5)[i % 2], order=("after_steering", "before_steering")[i % 2]
        ),
        Ablate(latents=tuple(latents[5:7]), layer=(i + 1) % 4),
    )
    return Row(
        messages=QUESTIONS[i % 3],
        prefill=("", "", "Well, ", (70, 80, 90))[i % 4],
        steer=steers[: i % 4],
        ablate=ablates[: i // 2 % 3],
        scope=("all", "generated")[i // 3 % 2],
        seed=i,
        sampling=Sampling(
            max_new_tokens=(0, 1, 28)[i % 3] if i > 32 else int(rng.integers(3, 28)),
            temperature=(0.0, 0.7, 1.2)[i % 3],
            top_p=(1.0, 0.8)[i // 2 % 2],
            repetition_penalty=(1.0, 1.1, 1.3)[i // 3 % 3],
        ),
        record=tuple(latents[: i % 5]),
        record_resid=((), (3,), (0, 2))[i % 3],
    )


ROWS = [stranger(i) for i in range(N_ROWS)]


def assert_same(a: Response, b: Response, *, tolerance: float = 1e-4) -> None:
    """The same tokens, and the same recorded values but for the float32 rounding of a batch of another width."""
    assert (a.token_ids, a.stop_reason, a.text) == (b.token_ids, b.stop_reason, b.text)
    assert (a.prompt_ids, a.n_prefill) == (b.prompt_ids, b.n_prefill)
    assert list(a.activations) == list(b.activations)
    assert list(a.resid) == list(b.resid)
    for latent in a.activations:
        np.testing.assert_allclose(a.activations[latent], b.activations[latent], rtol=tolerance, atol=tolerance)
    for layer in a.resid:
        torch.testing.assert_close(a.resid[layer], b.resid[layer], rtol=tolerance, atol=tolerance)


def has_hooks(pair: Pair) -> bool:
    return any(module._forward_hooks or module._forward_pre_hooks for module in pair.model.modules())
