"""The questions: the kit's own everyday ones in disjoint splits, one text file a split, one question a line.

The paper's own 38 can take their place.
"""

import re
from pathlib import Path

from esr_utils import reference
from esr_utils.config import DATA, KIT, PAPER, check_stimuli

SPLITS = ("calibration", "evaluation", "discovery", "fine_tuning", "held_out")
FOLDER = DATA / "prompts"
OF_PAPER = ("calibration", "evaluation", "discovery", "fine_tuning")  # splits for which the paper asks the same 38


def load_prompts(split: str, *, folder: Path = FOLDER, stimuli: str = KIT) -> list[str]:
    """The questions of one split, in a fixed order.

    Differs from the paper: the kit's splits share no question. With ``stimuli="paper"`` every split is the paper's 38
    questions, as there, so that what is fitted on them is measured on them.

    Raises:
        ValueError: no such split, one that the paper lacks, or one of its questions stands in another split as well.
        ReferenceFileError: the paper's questions could not be had.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; there are {', '.join(SPLITS)}")
    if check_stimuli(stimuli) == PAPER:
        return _of_paper(split)
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


def _of_paper(split: str) -> list[str]:
    if split not in OF_PAPER:
        raise ValueError(f"the paper's stimuli have no split {split!r}; they serve for {', '.join(OF_PAPER)}")
    return reference.prompts()


def _read(folder: Path, split: str) -> list[str]:
    return (folder / f"{split}.txt").read_text().splitlines()


def _plain(prompt: str) -> str:
    return " ".join(re.findall(r"\w+", prompt.lower()))
