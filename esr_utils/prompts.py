"""The kit's own everyday questions, in disjoint splits: one text file a split, one question a line."""

from esr_utils.config import DATA

SPLITS = ("calibration", "evaluation", "discovery", "fine_tuning", "held_out")


def load_prompts(split: str) -> list[str]:
    """The questions of one split, in a fixed order.

    Raises:
        ValueError: no such split.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; there are {', '.join(SPLITS)}")
    return (DATA / "prompts" / f"{split}.txt").read_text().splitlines()
