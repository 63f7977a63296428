"""Scales of notebook 00."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ExplorerScale:
    """Amount of work in notebook 00.

    Attributes:
        max_new_tokens: of every answer.
        n_tries: most seeds that are tried to find an episode.
        levels: of the strength sweep, as shares of the strengths of the state.
    """

    max_new_tokens: int
    n_tries: int
    levels: tuple[float, ...]


_STANDARD = ExplorerScale(max_new_tokens=128, n_tries=128, levels=(0.0, 0.5, 0.75, 1.0, 1.25, 1.5))
EXPLORER = {
    "quick": ExplorerScale(max_new_tokens=48, n_tries=16, levels=(0.0, 1.0, 1.5)),
    "standard": _STANDARD,
    "paper": ExplorerScale(max_new_tokens=512, n_tries=512, levels=_STANDARD.levels),
}
