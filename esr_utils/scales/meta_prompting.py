"""Scales of notebook 05, and the kinds of meta-prompt that it compares."""

from dataclasses import dataclass

NONE, NEUTRAL = "none", "neutral"
KINDS = (NONE, NEUTRAL, "focus", "self_monitor", "resist", "label")


@dataclass(frozen=True, kw_only=True)
class MetaPromptingScale:
    """Amount of work in notebook 05.

    Attributes:
        n_latents, n_questions: evaluation latents of notebook 02, and questions of each; every kind of suffix answers
            all of them, with and without steering.
        max_new_tokens: of every response.
    """

    n_latents: int
    n_questions: int
    max_new_tokens: int
    seed: int = 0


META_PROMPTING = {
    "quick": MetaPromptingScale(n_latents=4, n_questions=2, max_new_tokens=48),
    "standard": MetaPromptingScale(n_latents=16, n_questions=4, max_new_tokens=128),
    "paper": MetaPromptingScale(n_latents=1000, n_questions=5, max_new_tokens=512),
}
