"""Scales of the controls of notebook 04 that ablate nothing."""

from dataclasses import dataclass, replace


@dataclass(frozen=True, kw_only=True)
class FollowingScale:
    """Amount of work in the controls of notebook 04.

    Attributes:
        n_prefixes: most steered beginnings of each source (restarted, uncorrected); each fills four cells.
        n_repeats: responses of a cell or arm that differ in the seed alone.
        max_new_tokens: of every response in a cell, its beginning included.
        min_new_tokens: that a beginning leaves at least for the continuation.
        n_episodes: most responses that restarted whose segments are used; each fills four arms.
        segment_tokens: with which a response is begun.
        continued_tokens: new ones after a segment.
    """

    n_prefixes: int
    n_repeats: int
    max_new_tokens: int
    min_new_tokens: int
    n_episodes: int
    segment_tokens: int
    continued_tokens: int
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.min_new_tokens < self.max_new_tokens:
            raise ValueError(
                f"min_new_tokens {self.min_new_tokens} must lie between 0 and max_new_tokens {self.max_new_tokens}, "
                "so that there is room for a beginning; lower it"
            )


_FOLLOWING = FollowingScale(
    n_prefixes=60,
    n_repeats=3,
    max_new_tokens=128,
    min_new_tokens=32,
    n_episodes=60,
    segment_tokens=24,
    continued_tokens=48,
)
FOLLOWING = {
    "quick": replace(_FOLLOWING, n_prefixes=3, n_repeats=1, n_episodes=4, continued_tokens=24),
    "standard": _FOLLOWING,
    "paper": replace(
        _FOLLOWING,
        n_prefixes=200,
        n_repeats=1,
        max_new_tokens=512,
        min_new_tokens=256,
        n_episodes=200,
        segment_tokens=48,
        continued_tokens=256,
    ),
}
