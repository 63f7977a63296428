"""Marks that the paper's figures share: open and dotted for published numbers, filled and solid for ours."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from esr_utils.beside import AUTHORS, ONE_OF_MANY
from esr_utils.plots.style import BLUE, COLUMN_INCHES, GREY, ORANGE

GREEN = "#009e73"
RANGE = "range over pairs"  # an interval that is none: its ends are what was published
SMALL = 6.5  # points; the smallest text in a figure
TITLES = {
    "first_score": "mean first-attempt score",
    "multi_attempt": "several attempts (%)",
    "improvement": "improved, of several (%)",
    "esr": "ESR (%)",
    "restart": "explicit restarts (%)",
    "shift": "gradual shifts (%)",
    "recovery": "whole response\nrecovers (%)",
}
KEY = "open, dotted: published, naive 95%, ≈ events worked out from rounded rates; filled, solid: ours, 95% clustered"


def forest(frame: pd.DataFrame, panels: Mapping[str, str], *, row_inches: float = 0.25, key: str = KEY) -> Figure:
    """One panel a quantity, one row a ``who``, arms beside each other within it; counts at the right.

    ``frame`` is in the shape of ``esr_utils.beside``; ``panels`` are its panels with their titles. Rates are drawn in
    per cent where the title says so. A line without a value is drawn as its note. Panels share rows where one of them
    has the names of all.
    """
    who = {panel: list(dict.fromkeys(frame.loc[frame["panel"] == panel, "who"])) for panel in panels}
    arms = colours_of(frame)
    most = max(who.values(), key=len)
    is_shared = all(set(names) <= set(most) for names in who.values())
    height = 0.75 + row_inches * len(most) * (1 if len(arms) == 1 else 1.45)
    figure, axes = plt.subplots(1, len(panels), figsize=(2 * COLUMN_INCHES, height), sharey=is_shared, squeeze=False)
    for axis, (panel, title) in zip(axes[0], panels.items(), strict=True):
        names = most if is_shared else who[panel]
        rows(axis, frame[frame["panel"] == panel], names, arms, factor=100.0 if "%" in title else 1.0)
        axis.xaxis.set_major_locator(MaxNLocator(4 if len(panels) < 3 else 3))
        axis.set_title(title, fontsize=8)
        axis.set_yticks(range(len(names)), names, fontsize=7.5)
        axis.set_ylim(len(names) - 0.5, -0.5)
    arm_key(figure, arms)
    finish(figure, key_of(frame, key))
    return figure


def key_of(frame: pd.DataFrame, key: str) -> str:
    """The key, with the right name for what is drawn beside the published numbers."""
    return key.replace("ours", AUTHORS) if (frame["origin"] == AUTHORS).any() else key


def colours_of(frame: pd.DataFrame) -> dict[str, str]:
    """A colour for every arm; with one arm alone, colour tells published from ours instead."""
    arms = list(dict.fromkeys(frame["arm"]))
    return dict(zip(arms, (GREY,) if len(arms) == 1 else (GREY, BLUE, ORANGE, GREEN), strict=False))


def rows(axis: Axes, part: pd.DataFrame, who: Sequence[str], arms: Mapping[str, str], *, factor: float) -> None:
    """Points with their intervals and counts, on the rows named ``who``."""
    for i, (arm, colour) in enumerate(arms.items()):
        for line in part[part["arm"] == arm].itertuples():
            y = who.index(line.who) + 0.62 * ((i + 0.5) / len(arms) - 0.5)
            alone = {"paper": colour, AUTHORS: GREEN}.get(line.origin, BLUE)
            point(axis, line, y, colour if len(arms) > 1 else alone, factor=factor)
    highest = np.nanmax([0, *(factor * part[["value", "ci_high"]].max())])
    lowest = np.nanmin([0, *(factor * part[["value", "ci_low"]].min())])
    axis.set_xlim(1.08 * lowest - 0.03 * highest, 1.08 * highest or 1)
    if lowest < 0:
        axis.axvline(0, color=GREY, lw=0.6, ls="--")
    axis.tick_params(axis="x", labelsize=7)
    axis.tick_params(axis="y", length=0)


def point(axis: Axes, line: tuple, y: float, colour: str, *, factor: float) -> None:
    """One line of a frame at the height ``y``; words where it has no value, no counts where many share the row."""
    is_paper = line.origin == "paper"
    if pd.isna(line.value):
        words = {"fontsize": SMALL, "va": "center", "color": colour, "style": "italic"}
        axis.text(0.03, y, line.note, transform=axis.get_yaxis_transform(), **words)
        return
    ends = [factor * line.ci_low, factor * line.ci_high]
    axis.plot(ends, [y, y], ":" if is_paper else "-", marker="|", ms=5, color=colour, lw=1.2)
    marker = {"at most": "<", "more than": ">"}.get(line.note, "o")
    axis.plot(factor * line.value, y, marker, ms=3.8, color=colour, mfc="white" if is_paper else colour, mew=1)
    if line.note == ONE_OF_MANY:
        return
    told = {"transform": axis.get_yaxis_transform(), "fontsize": SMALL, "va": "center", "color": colour}
    axis.text(1.02, y, counts(line, factor), **told)


def counts(line: tuple, factor: float) -> str:
    """Value and what it was counted on: ``≈`` for what is approximate and for events worked out from a rounded rate."""
    value = number(factor * line.value, is_rate=factor == 100)
    if line.interval == RANGE and line.ci_high > line.ci_low:
        value = f"{value} to {number(factor * line.ci_high, is_rate=factor == 100)}"
    value = {"at most": "at most ", "more than": "more than ", "approximate": "≈"}.get(line.note, "") + value
    if pd.isna(line.n):
        return f"{value}, n not told" if factor == 100 and not value.startswith(("at most", "more than")) else value
    if pd.isna(line.n_events) or factor == 1:
        return f"{value}, n {line.n:,.0f}"
    is_worked_out = "rounded" in line.interval and line.n_events > 0
    return f"{value}, {'≈' if is_worked_out else ''}{line.n_events:,.0f}/{line.n:,.0f}"


def number(value: float, *, is_rate: bool) -> str:
    """One decimal for per cent and for what is large, else three digits."""
    return f"{value:.1f}" if is_rate or abs(value) >= 10 else f"{value:.3g}"


def arm_key(figure: Figure, arms: Mapping[str, str]) -> None:
    """Colours of the arms, below the panels; nothing where there is one alone."""
    if len(arms) > 1:
        handles = [plt.Line2D([], [], color=colour, marker="o", ms=4, lw=1.2) for colour in arms.values()]
        style = {"loc": "upper center", "bbox_to_anchor": (0.5, 0.0), "fontsize": 7.5}
        figure.legend(handles, list(arms), ncols=len(arms), **style)


def finish(figure: Figure, key: str, *, w_pad: float = 2.2) -> None:
    """The key above, no upper and right edges, nothing over anything."""
    sns.despine(figure)
    figure.tight_layout(w_pad=w_pad)
    figure.text(0.5, 1.01, key, fontsize=7, ha="center", va="bottom")
