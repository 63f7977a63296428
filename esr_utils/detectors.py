"""Latents that react to off-topic text: each response read under its own question and under others.

Arrays hold what latents do over the response tokens: ``matched`` [response latent] under the response's own question,
``mismatched`` [derangement response latent] under another's; peaks for the published rules, means for ours.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.stats import rankdata
from tqdm.auto import tqdm

from esr_utils.engines.hf import HFEngine
from esr_utils.latents import SILENT
from esr_utils.steering import READING, Row

MIN_ACTIVE = 0.8  # share of mismatched pairs. Source: paper, appendix (detector search)
READ_AT_ONCE = 64  # pairs whose residual streams are held at a time


@dataclass(frozen=True, kw_only=True)
class Rule:
    """When a latent counts as an off-topic detector.

    Attributes:
        min_superiority: in one draw: share of responses in which its mean activation is higher when the same tokens
            are read under another's question.
        min_frequency: share of draws (one derangement, half of the responses) in which it reaches that.

    Differs from the paper: one derangement of 38 pairs decided there, by peaks; prompt and template tokens were read
    as well, and part of the published list was chosen for firing in corrections.
    """

    min_superiority: float = 0.75
    min_frequency: float = 0.8

    def __post_init__(self) -> None:
        for name in ("min_superiority", "min_frequency"):
            if not 0.5 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} {getattr(self, name)} is outside 0.5 (chance) to 1")


def derangements(n: int, n_draws: int, *, seed: int = 0) -> Int[np.ndarray, "derangement response"]:
    """``n_draws`` different orders of ``n`` responses that leave none in its place.

    Raises:
        ValueError: there are not so many.
    """
    rng = np.random.default_rng(seed)
    found: dict[tuple[int, ...], None] = {}
    for _ in range(1000 * n_draws):
        order = rng.permutation(n)
        if (order != np.arange(n)).all():
            found[tuple(order.tolist())] = None
        if len(found) == n_draws:
            return np.array(list(found))
    raise ValueError(f"{n_draws} different derangements of {n} responses asked for, and {len(found)} were found")


@dataclass(frozen=True, eq=False, kw_only=True)
class Readings:
    """What every latent does over the tokens of each response: reading 0 under its own question, the others under
    another's, a derangement each.
    """

    peaks: Float[np.ndarray, "reading response latent"]
    means: Float[np.ndarray, "reading response latent"]


def read_deranged(
    engine: HFEngine,
    questions: Sequence[str],
    responses: Sequence[str],
    orders: Int[np.ndarray, "derangement response"],
) -> Readings:
    """Each response read under its own question, then under that of each derangement."""
    asked = [list(questions), *([questions[i] for i in order] for order in orders)]
    read = [read_pairs(engine, mine, responses) for mine in tqdm(asked, desc="readings")]
    return Readings(peaks=np.stack([peaks for peaks, _ in read]), means=np.stack([means for _, means in read]))


@torch.inference_mode()
def read_pairs(
    engine: HFEngine, questions: Sequence[str], responses: Sequence[str]
) -> tuple[Float[np.ndarray, "pair latent"], Float[np.ndarray, "pair latent"]]:
    """Peak and mean activation of every latent over the tokens of each response, read as the answer to its question.

    Unsteered, at the reading layer. Question and template tokens are left out.
    """
    pair, peaks, means = engine.pair, [], []
    layer = pair.reading_layer
    rows = [
        Row(messages=question, prefill=response, record_resid=(layer,), sampling=READING)
        for question, response in zip(questions, responses, strict=True)
    ]
    for start in range(0, len(rows), READ_AT_ONCE):
        for read in engine.generate(rows[start : start + READ_AT_ONCE]):
            if not len(read.resid.get(layer, ())):
                raise ValueError("a response has no tokens to read; leave empty responses out")
            acts = pair.sae.encode(read.resid[layer].to(pair.sae.W_enc.device))
            peaks.append(acts.max(dim=0).values.cpu().numpy())
            means.append(acts.mean(dim=0).cpu().numpy())
    return np.stack(peaks), np.stack(means)


def auc(
    matched: Float[np.ndarray, "response latent"], mismatched: Float[np.ndarray, "pair latent"]
) -> Float[np.ndarray, " latent"]:
    """Probability that a latent peaks higher in a mismatched pair than in a matched one; ties count half."""
    n, m = len(matched), len(mismatched)
    ranks = rankdata(np.concatenate([matched, mismatched]), axis=0)
    return (ranks[n:].sum(axis=0) - m * (m + 1) / 2) / (n * m)


def zero_rule(
    matched: Float[np.ndarray, "response latent"], mismatched: Float[np.ndarray, "response latent"]
) -> Bool[np.ndarray, " latent"]:
    """Silent in every matched pair, active in at least 80% of the mismatched ones.

    Source: paper, appendix. Differs from the code: zero has a tolerance of 1e-6, not 1e-8.
    """
    return (matched <= SILENT).all(axis=0) & ((mismatched > SILENT).mean(axis=0) >= MIN_ACTIVE)


def separable_rule(
    matched: Float[np.ndarray, "response latent"], mismatched: Float[np.ndarray, "response latent"]
) -> Bool[np.ndarray, " latent"]:
    """Peaks higher in every mismatched pair than in any matched one (AUC of 1). Source: the authors' released list."""
    return auc(matched, mismatched) == 1.0


def sum_rule(
    matched: Float[np.ndarray, "response latent"], mismatched: Float[np.ndarray, "response latent"]
) -> Bool[np.ndarray, " latent"]:
    """Of the latents active in over 90% of mismatched pairs, the 50 whose summed peaks rise most.

    Source: a later list of the authors. It always finds 50 where so many latents are active at all.
    """
    rise = np.where((mismatched > SILENT).mean(axis=0) > 0.9, mismatched.sum(axis=0) - matched.sum(axis=0), -np.inf)
    top = np.argsort(-rise)[:50]
    chosen = np.zeros(len(rise), dtype=bool)
    chosen[top[rise[top] > 0]] = True
    return chosen


PAPER_RULES = {"zero": zero_rule, "separable": separable_rule, "sum": sum_rule}  # of one derangement's peaks


def superiority(
    matched: Float[np.ndarray, "response latent"], mismatched: Float[np.ndarray, "response latent"]
) -> Float[np.ndarray, " latent"]:
    """Share of responses in which a latent is more active under the other question; no change counts half."""
    rise = mismatched - matched
    return (rise > SILENT).mean(axis=0) + 0.5 * (np.abs(rise) <= SILENT).mean(axis=0)


def paired_effect(
    matched: Float[np.ndarray, "response latent"], mismatched: Float[np.ndarray, "derangement response latent"]
) -> Float[np.ndarray, " latent"]:
    """Mean rise from the matched to the mismatched reading of the same text, over its standard deviation.

    The same tokens are compared, so neither length nor content differs. 0 where a latent never changes.
    """
    rise = mismatched.mean(axis=0) - matched
    spread = rise.std(axis=0, ddof=1)
    return np.divide(rise.mean(axis=0), spread, out=np.zeros(rise.shape[1]), where=spread > 0)


def selection_frequency(
    matched: Float[np.ndarray, "response latent"],
    mismatched: Float[np.ndarray, "derangement response latent"],
    rule: Rule,
    *,
    n_draws: int,
    seed: int = 0,
) -> Float[np.ndarray, " latent"]:
    """Share of draws in which each latent reaches the rule's superiority; a draw is one derangement and half of the
    responses."""
    rng, n = np.random.default_rng(seed), len(matched)
    times = np.zeros(matched.shape[1])
    for _ in range(n_draws):
        half = rng.choice(n, max(2, n // 2), replace=False)
        other = mismatched[rng.integers(len(mismatched)), half]
        times += superiority(matched[half], other) >= rule.min_superiority
    return times / n_draws


def false_discoveries(
    matched: Float[np.ndarray, "response latent"],
    mismatched: Float[np.ndarray, "derangement response latent"],
    rule: Rule,
    *,
    n_draws: int,
    n_shuffles: int,
    seed: int = 0,
) -> Int[np.ndarray, " shuffle"]:
    """How many latents the rule chooses when one reading of each response, any of them, is called the matched one.

    A shuffle that only swaps the two readings of a whole response is too lenient on rare, skewed activations.
    """
    rng, readings = np.random.default_rng(seed), np.concatenate([matched[None], mismatched])
    at, counts = np.arange(len(matched)), []
    for _ in range(n_shuffles):
        called = rng.integers(len(readings), size=len(matched))
        others = readings.copy()
        others[called, at] = matched  # the true match takes the place of the reading that is called so
        frequency = selection_frequency(
            readings[called, at], others[1:], rule, n_draws=n_draws, seed=int(rng.integers(2**31))
        )
        counts.append(int((frequency >= rule.min_frequency).sum()))
    return np.array(counts)


@torch.inference_mode()
def phrase_peaks(
    engine: HFEngine, questions: Sequence[str], openings: Sequence[str], phrases: Sequence[str]
) -> Float[np.ndarray, "phrase latent"]:
    """Peak activation of every latent over the tokens of each phrase, read after the beginning of an answer."""
    pair = engine.pair
    layer, coded = pair.reading_layer, [pair.text_ids(f" {phrase}") for phrase in phrases]
    rows = [
        Row(messages=q, prefill=(*pair.text_ids(o), *ids), record_resid=(layer,), sampling=READING)
        for q, o, ids in zip(questions, openings, coded, strict=True)
    ]
    read = [response.resid[layer][-len(ids) :] for response, ids in zip(engine.generate(rows), coded, strict=True)]
    return np.stack([pair.sae.encode(resid.to(pair.sae.W_enc.device)).max(0).values.cpu().numpy() for resid in read])


def phrase_frequency(
    plain: Float[np.ndarray, "phrase latent"],
    restarts: Float[np.ndarray, "restart latent"],
    *,
    min_auc: float,
    n_draws: int,
    seed: int = 0,
) -> Float[np.ndarray, " latent"]:
    """Share of draws, each of half of both kinds of phrases, in which a latent tells restarts apart by ``min_auc``."""
    rng, times = np.random.default_rng(seed), np.zeros(plain.shape[1])
    for _ in range(n_draws):
        first, second = (
            part[rng.choice(len(part), max(2, len(part) // 2), replace=False)] for part in (plain, restarts)
        )
        times += auc(first, second) >= min_auc
    return times / n_draws
