"""The kit's own everyday questions, in disjoint splits: one text file a split, one question a line."""

import re
from pathlib import Path

from esr_utils.config import DATA

SPLITS = ("calibration", "evaluation", "discovery", "fine_tuning", "held_out")
FOLDER = DATA / "prompts"


def load_prompts(split: str, *, folder: Path = FOLDER) -> list[str]:
    """The questions of one split, in a fixed order.

    Raises:
        ValueError: no such split, or one of its questions stands in another split as well.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; there are {', '.join(SPLITS)}")
    prompts = _read(folder, split)
    own = {_plain(prompt): prompt for prompt in prompts}
    for other in SPLITS:
        shared = [own[plain] for plain in map(_plain, _read(folder, other)) if plain in own] if other != split else []
        if shared:
            raise ValueError(
                f"{shared[0]!r} stands in {split}.txt and in {other}.txt, and what is fitted on one must not be "
                "measured on the other; take it out of one of them"
            )
    return prompts


def _read(folder: Path, split: str) -> list[str]:
    return (folder / f"{split}.txt").read_text().splitlines()


def _plain(prompt: str) -> str:
    return " ".join(re.findall(r"\w+", prompt.lower()))
