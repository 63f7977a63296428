"""How every figure looks, and how it is kept: a picture with its csv."""

from collections.abc import Sequence
from numbers import Real
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from esr_utils.config import figures_dir

COLUMN_INCHES = 3.4  # width of a column in print
PAD_INCHES = 0.1  # white around what is drawn
SMALL = 6.5  # points; the smallest text in a figure
QUANTITY_NAMES = {
    "multi_attempt": "several attempts",
    "esr": "ESR",
    "minimum_gain_esr": "ESR, gain of 20 or more",
    "recovery": "whole response recovers",
}
# format -> what its file must not say, so that the same figure is the same bytes
METADATA = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
FORMATS = tuple(METADATA)
BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#767676"  # told apart by colour-blind readers too


def use_style() -> None:
    """White ground, thin lines, text that can be read at column width."""
    sns.set_theme(context="paper", style="ticks", palette=[BLUE, ORANGE, "#009e73", "#cc79a7", "#e69f00", "#56b4e9"])
    plt.rcParams.update(
        {
            "figure.dpi": 110,
            "savefig.dpi": 220,
            "axes.titlesize": 9,
            "axes.labelsize": 9,
            "legend.frameon": False,
            "svg.hashsalt": "esr",  # names within the file are otherwise drawn at random
            "svg.fonttype": "path",  # letters look alike where the font is missing,
            "pdf.fonttype": 42,  # and in a pdf the font comes with it
        }
    )


def beside(axis: Axes, y: Real, told: str, *, x: float = 1.02, size: Real = SMALL, color: str | None = None) -> None:
    """Words at the right of the row at height ``y``."""
    axis.text(x, y, told, transform=axis.get_yaxis_transform(), fontsize=size, va="center", color=color)


def save_figure(
    figure: Figure,
    data: pd.DataFrame,
    name: str,
    *,
    scale: str = "standard",
    formats: Sequence[str] = ("png",),
) -> Path:
    """Write ``<name>.png`` and ``<name>.csv`` (the numbers that were drawn); returns the picture's path.

    ``formats``: of ``FORMATS``, with ``png``; svg and pdf stand beside it and are ignored by git.
    """
    folder = figures_dir(scale)
    folder.mkdir(parents=True, exist_ok=True)
    data.to_csv(folder / f"{name}.csv", index=False, float_format="%.6g")
    box = figure.get_tightbbox().padded(PAD_INCHES)  # once: every format would draw the figure again to find it
    for kind in formats:
        figure.savefig(folder / f"{name}.{kind}", bbox_inches=box, metadata=METADATA[kind])
    plt.close(figure)  # a notebook would draw it a second time
    return folder / f"{name}.png"
