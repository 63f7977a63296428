"""Scales of notebook 04, the directions that are not from an SAE."""

from dataclasses import dataclass, replace


@dataclass(frozen=True, kw_only=True)
class TopicSteeringScale:
    """Amount of work with directions of topics in notebook 04.

    Attributes:
        n_topics: directions steered along, one a topic; the mean over these topics is taken off each.
        The rest is as in ``DetectionScale``.
    """

    n_topics: int
    n_questions: int
    levels: tuple[float, ...] = (0.0, 1.0)
    n_repeats: int = 1
    n_steps: int = 10
    n_samples: int = 4
    n_verify: int = 10
    n_compared: int = 100
    n_placebo: int = 100
    max_new_tokens: int = 128
    seed: int = 0


_TOPICS = TopicSteeringScale(n_topics=6, n_questions=4, n_steps=8, n_samples=3, n_verify=8)
_FEW = {"n_steps": 4, "n_samples": 2, "n_verify": 4, "n_compared": 8, "n_placebo": 8, "max_new_tokens": 48}
TOPIC_STEERING = {
    "quick": TopicSteeringScale(n_topics=4, n_questions=2, **_FEW),
    "standard": _TOPICS,
    "paper": replace(_TOPICS, n_topics=200, n_questions=5, n_steps=10, n_samples=5, n_verify=10, max_new_tokens=512),
}
