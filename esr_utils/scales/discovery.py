"""Scales of notebook 03."""

from dataclasses import dataclass, replace


@dataclass(frozen=True, kw_only=True)
class DiscoveryScale:
    """Amount of work in notebook 03.

    Attributes:
        n_answers: unsteered answers, one a discovery question.
        n_derangements: orders in which they are read under others' questions.
        n_draws: of a derangement and half of the answers, for the stability of a choice.
        n_shuffles: repetitions with labels left to chance.
        n_phrases: restarts, and as many near misses, that latents are to tell apart.
        min_auc: at which they do.
        n_trials: steered trials of notebook 02 that are read, of those with several attempts and of the others.
        n_checked: episodes that are made again to compare what is recorded with what is read.
        max_new_tokens: of an answer.
    """

    n_answers: int
    n_derangements: int
    n_draws: int
    n_shuffles: int
    n_phrases: int
    min_auc: float = 0.7
    n_trials: int
    n_checked: int
    max_new_tokens: int
    seed: int = 0


_DISCOVERY = DiscoveryScale(
    n_answers=40,
    n_derangements=20,
    n_draws=100,
    n_shuffles=100,
    n_phrases=200,
    n_trials=1_000_000,
    n_checked=20,
    max_new_tokens=128,
)
DISCOVERY = {
    "quick": DiscoveryScale(
        n_answers=16,
        n_derangements=4,
        n_draws=20,
        n_shuffles=5,
        n_phrases=24,
        n_trials=12,
        n_checked=4,
        max_new_tokens=48,
    ),
    "standard": _DISCOVERY,
    "paper": replace(_DISCOVERY, max_new_tokens=512),
}
