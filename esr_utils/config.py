"""Where things are."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "data"
SCALE_NAMES = ("quick", "standard", "paper")
KIT, PAPER = STIMULI = ("kit", "paper")  # whose questions and meta-prompts


def check_scale(scale: str) -> str:
    """``scale`` itself, or a ValueError that names the three."""
    if scale not in SCALE_NAMES:
        raise ValueError(f"unknown scale {scale!r}; choose one of {', '.join(SCALE_NAMES)}")
    return scale


def check_stimuli(stimuli: str) -> str:
    """``stimuli`` itself, or a ValueError that names both."""
    if stimuli not in STIMULI:
        raise ValueError(f"unknown stimuli {stimuli!r}; choose one of {', '.join(STIMULI)}")
    return stimuli


def run_name(run: str, stimuli: str) -> str:
    """Folder name of a run. With the paper's stimuli it holds the authors' sentences, and git does not look there."""
    return f"{run}_paper_stimuli" if check_stimuli(stimuli) == PAPER else run


def results_dir(pair: str, run: str, scale: str) -> Path:
    """Folder of a run. ``standard`` is committed; the other scales go where git does not look."""
    folder = DATA / "results" if check_scale(scale) == "standard" else ROOT / "runs" / scale
    return folder / pair / run


def figures_dir(scale: str) -> Path:
    """Folder of the figures of a scale; the committed ones are those of ``standard``."""
    return ROOT / "figures" if check_scale(scale) == "standard" else ROOT / "figures" / scale
