"""Scales of notebook 04."""

from dataclasses import dataclass, replace


@dataclass(frozen=True, kw_only=True)
class AblationScale:
    """Amount of work in notebook 04.

    Attributes:
        n_latents, n_questions: trials of notebook 02 replayed in every arm: steered latents, questions of each.
        n_sets: random sets matched with the detectors.
        n_set_questions: of these questions, how many are replayed with a matched set or random directions.
        n_near: nearest candidates from which a match is drawn.
        n_directions: draws of random directions.
        n_held_out: held-out questions a latent.
        n_read: steered responses on which latents are profiled.
        n_damage: unsteered answers on which the damage is read.
        max_new_tokens: of every response.
    """

    n_latents: int
    n_questions: int
    n_sets: int
    n_set_questions: int
    n_near: int
    n_directions: int
    n_held_out: int
    n_read: int
    n_damage: int
    max_new_tokens: int
    seed: int = 0


_ABLATION = AblationScale(
    n_latents=60,
    n_questions=4,
    n_sets=20,
    n_set_questions=2,
    n_near=10,
    n_directions=4,
    n_held_out=2,
    n_read=80,
    n_damage=20,
    max_new_tokens=128,
)
ABLATION = {
    "quick": AblationScale(
        n_latents=4,
        n_questions=2,
        n_sets=3,
        n_set_questions=1,
        n_near=4,
        n_directions=1,
        n_held_out=1,
        n_read=4,
        n_damage=4,
        max_new_tokens=48,
    ),
    "standard": _ABLATION,
    "paper": replace(_ABLATION, n_latents=1000, n_questions=5, n_set_questions=5, n_held_out=5, max_new_tokens=512),
}
