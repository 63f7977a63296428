"""Sampling is what transformers' own processors define, drawn with the row's random numbers and no one else's."""

import numpy as np
import pytest
import torch
from jaxtyping import Float, Int
from scipy.stats import chisquare
from torch import Tensor
from transformers import RepetitionPenaltyLogitsProcessor, TemperatureLogitsWarper, TopPLogitsWarper

from esr_utils.engines.base import Sampler, uniforms
from esr_utils.steering import Row, Sampling

MIXED = (
    Sampling(temperature=0.0, repetition_penalty=1.0),
    Sampling(temperature=0.0, repetition_penalty=1.5),
    Sampling(temperature=0.7, repetition_penalty=1.0),
    Sampling(temperature=1.3, repetition_penalty=1.2, top_p=0.9),
    Sampling(temperature=0.6, repetition_penalty=0.8, top_p=0.5),
)


def rows(*samplings: Sampling) -> list[Row]:
    return [Row(token_ids=(60,), sampling=sampling) for sampling in samplings]


def logits_and_seen(n: int, n_vocab: int) -> tuple[Float[Tensor, "n vocab"], Int[Tensor, "n pos"]]:
    generator = torch.Generator().manual_seed(5)
    return 3 * torch.randn(n, n_vocab, generator=generator), torch.randint(n_vocab, (n, 40), generator=generator)


def processed(logits: Tensor, seen: Tensor, sampling: Sampling) -> Float[Tensor, "n vocab"]:
    """Logits after transformers' processors, in the order of its ``generate``."""
    logits = RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty)(seen, logits.clone())
    if sampling.temperature:
        logits = TemperatureLogitsWarper(sampling.temperature)(seen, logits)
    return TopPLogitsWarper(sampling.top_p)(seen, logits) if sampling.top_p < 1 else logits


@pytest.mark.parametrize("n_vocab", [100, 512, 1000])
@pytest.mark.parametrize("sampling", MIXED[2:])
def test_draws_are_the_inverse_transform_of_what_transformers_would_sample_from(sampling, n_vocab):
    logits, seen = logits_and_seen(500, n_vocab)
    uniform = torch.linspace(0, 1, 501, dtype=torch.float64)[:-1]
    cumulative = processed(logits, seen, sampling).double().softmax(-1).cumsum(-1)
    expected = (cumulative <= uniform[:, None]).sum(-1)
    assert torch.equal(Sampler(rows(*[sampling] * 500)).draw(logits, seen, uniform), expected)


def test_greedy_is_the_argmax_after_the_penalty_of_prompt_and_response():
    logits, seen = logits_and_seen(500, 100)
    penalised = processed(logits, seen, MIXED[1]).argmax(-1)
    assert (penalised != logits.argmax(-1)).float().mean() > 0.1
    uniform = torch.full((500,), 0.99, dtype=torch.float64)
    assert torch.equal(Sampler(rows(*[MIXED[1]] * 500)).draw(logits, seen, uniform), penalised)


def test_a_penalty_counts_a_token_once_however_often_it_was_seen():
    logits, seen = logits_and_seen(4, 100)
    sampler, uniform = Sampler(rows(*MIXED[:4])), torch.full((4,), 0.5, dtype=torch.float64)
    padded = torch.cat([seen, seen[:, :1].expand(-1, 30)], dim=1)
    assert torch.equal(sampler.draw(logits, seen, uniform), sampler.draw(logits, padded, uniform))


def test_a_row_draws_the_same_alone_and_among_others():
    logits, seen = logits_and_seen(60, 1000)
    uniform = torch.rand(60, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    batch = rows(*MIXED * 12)
    together = Sampler(batch).draw(logits, seen, uniform)
    for i, row in enumerate(batch):
        assert Sampler([row]).draw(logits[i : i + 1], seen[i : i + 1], uniform[i : i + 1]) == together[i]


def test_half_precision_logits_are_sampled_in_float32():
    logits, seen = logits_and_seen(60, 1000)
    logits, uniform = logits.bfloat16(), torch.linspace(0, 0.999, 60, dtype=torch.float64)
    sampler = Sampler(rows(*MIXED * 12))
    assert torch.equal(sampler.draw(logits, seen, uniform), sampler.draw(logits.float(), seen, uniform))


@pytest.mark.parametrize("uniform", [0.0, 0.5, 1 - 2**-53])
def test_a_token_of_probability_zero_is_never_drawn(uniform):
    logits = torch.full((1, 700), -torch.inf)
    logits[0, [300, 301]] = 0.0
    uniform = torch.tensor([uniform], dtype=torch.float64)
    drawn = Sampler(rows(MIXED[2])).draw(logits, torch.zeros(1, 1, dtype=torch.long), uniform)
    assert drawn.item() == (300 if uniform < 0.5 else 301)


def test_a_tiny_top_p_leaves_the_likeliest_token():
    logits, seen = logits_and_seen(50, 1000)
    sampling = Sampling(temperature=1.0, top_p=1e-6, repetition_penalty=1.0)
    drawn = Sampler(rows(*[sampling] * 50)).draw(logits, seen, torch.linspace(0, 0.999, 50, dtype=torch.float64))
    assert torch.equal(drawn, logits.argmax(-1))


def test_drawing_leaves_the_logits_as_they_were():
    logits, seen = logits_and_seen(5, 100)
    before = logits.clone()
    Sampler(rows(*MIXED)).draw(logits, seen, torch.full((5,), 0.5, dtype=torch.float64))
    assert torch.equal(logits, before)


def test_frequencies_match_the_softmax():
    logits = torch.randn(1, 40, generator=torch.Generator().manual_seed(7))
    n, sampling = 20_000, Sampling(temperature=0.8, repetition_penalty=1.0)
    uniform = torch.tensor(np.random.default_rng(8).random(n))
    drawn = Sampler(rows(*[sampling] * n)).draw(logits.expand(n, -1), torch.zeros(n, 1, dtype=torch.long), uniform)
    expected = n * (logits[0].double() / 0.8).softmax(-1).numpy()
    assert chisquare(np.bincount(drawn, minlength=40), expected).pvalue > 1e-3


def test_random_numbers_belong_to_the_seed_and_a_longer_response_begins_like_a_shorter_one():
    def stream(seed: int, n: int) -> np.ndarray:
        return uniforms(Row(token_ids=(60,), seed=seed, sampling=Sampling(max_new_tokens=n)))

    assert np.array_equal(stream(1, 50)[:20], stream(1, 20))
    assert not np.isclose(stream(1, 20), stream(2, 20)).any()
    assert np.array_equal(stream(1, 20), uniforms(Row(messages="hello", seed=1, sampling=Sampling(max_new_tokens=20))))
