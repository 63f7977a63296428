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
from esr_utils.plots.style import BLUE, COLUMN_INCHES, GREY, SMALL, beside

GREEN = "#009e73"
RANGE = "range over pairs"  # an interval that is none: its ends are what was published
TITLES = {
    "first_score": "mean first-attempt score",
    "multi_attempt": "several attempts (%)",
    "improvement": "improved, of several (%)",
    "esr": "ESR (%)",
    "restart": "explicit restarts (%)",
    "shift": "gradual shifts (%)",
    "recovery": "whole response\nrecovers (%)",
}
MARKERS = ("o", "D", "s", "^")  # one an arm
CORRECTOR = "the corrector was fine-tuned to restart"
KEY = "open, dotted: published, naive 95%, ≈ events worked out from rounded rates; filled, solid: ours, 95% clustered"


def forest(
    frame: pd.DataFrame,
    panels: Mapping[str, str],
    *,
    row_inches: float = 0.25,
    key: str = KEY,
    is_stacked: bool = False,
) -> Figure:
    """One panel a quantity, one row a ``who``, arms beside each other within it; counts at the right.

    ``frame`` is in the shape of ``esr_utils.beside``; ``panels`` are its panels with their titles. Rates are drawn in
    per cent where the title says so. Colour tells published from ours, the marker tells arms. A line without a value
    is drawn as its note. Panels share rows where one of them has the names of all. ``is_stacked``: panels with rows of
    their own, one below the other.
    """
    who = {panel: list(dict.fromkeys(frame.loc[frame["panel"] == panel, "who"])) for panel in panels}
    arms = dict(zip(dict.fromkeys(frame["arm"]), MARKERS, strict=False))
    most = max(who.values(), key=len)
    is_shared = not is_stacked and all(set(names) <= set(most) for names in who.values())
    if is_stacked:
        figure, axes = _stack([len(names) for names in who.values()], row_inches)
    else:
        height = 0.75 + row_inches * len(most) * (1 if len(arms) == 1 else 1.45)
        figure, axes = plt.subplots(1, len(panels), figsize=(2 * COLUMN_INCHES, height), sharey=is_shared)
    for axis, (panel, title) in zip(np.atleast_1d(axes), panels.items(), strict=True):
        names = most if is_shared else who[panel]
        rows(axis, frame[frame["panel"] == panel], names, arms, factor=100.0 if "%" in title else 1.0)
        axis.xaxis.set_major_locator(MaxNLocator(4 if is_stacked or len(panels) < 3 else 2))
        axis.set_title(title, fontsize=8)
        axis.set_yticks(range(len(names)), names, fontsize=7)
        axis.set_ylim(len(names) - 0.5, -0.5)
        _divide(axis, frame, names)
    arm_key(figure, arms)
    finish(figure, key_of(frame, key) if key else "", w_pad=1.6)
    return figure


def _stack(n_rows: Sequence[int], row_inches: float) -> tuple[Figure, np.ndarray]:
    """Panels below each other, each as high as its rows need."""
    height = sum(n_rows) * row_inches + 0.6 * len(n_rows)
    return plt.subplots(len(n_rows), 1, figsize=(2 * COLUMN_INCHES, height), height_ratios=[n + 0.5 for n in n_rows])


def _divide(axis: Axes, frame: pd.DataFrame, names: Sequence[str]) -> None:
    """A line between published rows and those below that are not."""
    published = set(frame.loc[frame["origin"] == "paper", "who"])
    n = sum(name in published for name in names)
    if 0 < n < len(names) and all(name in published for name in names[:n]):
        axis.axhline(n - 0.5, color=GREY, lw=0.6, alpha=0.6)


def key_of(frame: pd.DataFrame, key: str) -> str:
    """The key, with the right name for what is drawn beside the published numbers, and what the corrector is."""
    if (frame["origin"] == AUTHORS).any():
        return key.replace("ours", AUTHORS)
    return f"{key}\n{CORRECTOR}" if frame["who"].str.contains("corrector").any() else key


def rows(axis: Axes, part: pd.DataFrame, who: Sequence[str], arms: Mapping[str, str], *, factor: float) -> None:
    """Points with their intervals and counts, on the rows named ``who``; ``arms`` have a marker each."""
    for i, (arm, marker) in enumerate(arms.items()):
        for line in part[part["arm"] == arm].itertuples():
            y = who.index(line.who) + 0.62 * ((i + 0.5) / len(arms) - 0.5)
            point(axis, line, y, marker, factor=factor)
    for name, many in part[part["note"] == ONE_OF_MANY].groupby("who"):
        middle = number(factor * many["value"].mean(), is_rounded=True)
        told = f"mean {middle}, {len(many)} × {many['n'].iloc[0]:,.0f}"
        beside(axis, float(who.index(name)), told, x=1.05, color=BLUE)
    highest = np.nanmax([0, *(factor * part[["value", "ci_high"]].max())])
    lowest = np.nanmin([0, *(factor * part[["value", "ci_low"]].min())])
    axis.set_xlim(1.08 * lowest - 0.03 * highest, 1.08 * highest or 1)
    if lowest < 0:
        axis.axvline(0, color=GREY, lw=0.6, ls="--")
    axis.tick_params(axis="x", labelsize=7)
    axis.tick_params(axis="y", length=0)


def point(axis: Axes, line: tuple, y: float, marker: str, *, factor: float) -> None:
    """One line of a frame at the height ``y``; words where it has no value, no counts where many share the row."""
    is_paper = line.origin == "paper"
    colour = {"paper": GREY, AUTHORS: GREEN}.get(line.origin, BLUE)
    if pd.isna(line.value):
        words = {"fontsize": SMALL, "va": "center", "color": colour, "style": "italic"}
        axis.text(0.03, y, line.note, transform=axis.get_yaxis_transform(), **words)
        return
    ends = [factor * line.ci_low, factor * line.ci_high]
    axis.plot(ends, [y, y], ":" if is_paper else "-", marker="|", ms=4, mew=0.9, color=colour, lw=1.2, clip_on=False)
    if line.note == ONE_OF_MANY:
        axis.plot(factor * line.value, y, "o", ms=3.8, color=colour, mew=0, alpha=0.4, clip_on=False)
        return
    if line.interval != RANGE:
        marker = {"at most": "<", "more than": ">"}.get(line.note, marker)
        look = {"ms": 3.8, "mew": 1, "clip_on": False, "zorder": 3}
        axis.plot(factor * line.value, y, marker, color=colour, mfc="white" if is_paper else colour, **look)
    beside(axis, y, counts(line, factor), x=1.05, color=colour)


def counts(line: tuple, factor: float) -> str:
    """Value and what it was counted on: ``≈`` for what is approximate and for events worked out from a rounded rate."""
    is_rounded = factor == 100 or line.panel == "first_score"
    value = number(factor * line.value, is_rounded=is_rounded)
    if line.interval == RANGE and line.ci_high > line.ci_low:
        value = f"{value} to {number(factor * line.ci_high, is_rounded=is_rounded)}"
    value = {"at most": "at most ", "more than": "more than ", "approximate": "≈"}.get(line.note, "") + value
    if pd.isna(line.n):
        return f"{value}, n not told" if is_rounded and not value.startswith(("at most", "more than")) else value
    if pd.isna(line.n_events) or factor == 1:
        return f"{value}, n {line.n:,.0f}"
    is_worked_out = "rounded" in line.interval and line.n_events > 0
    return f"{value}, {'≈' if is_worked_out else ''}{line.n_events:,.0f}/{line.n:,.0f}"


def number(value: float, *, is_rounded: bool) -> str:
    """One decimal for per cent, scores and what is large, else three digits."""
    return f"{value:.1f}" if is_rounded or abs(value) >= 10 else f"{value:.3g}"


def arm_key(figure: Figure, arms: Mapping[str, str]) -> None:
    """Markers of the arms, below the panels; nothing where there is one alone."""
    if len(arms) > 1:
        handles = [plt.Line2D([], [], color="black", marker=marker, ms=4, ls="") for marker in arms.values()]
        style = {"loc": "upper center", "bbox_to_anchor": (0.5, 0.0), "fontsize": 7.5}
        figure.legend(handles, list(arms), ncols=len(arms), **style)


def finish(figure: Figure, key: str, *, w_pad: float = 2.2) -> None:
    """The key above, no upper and right edges, nothing over anything."""
    sns.despine(figure)
    figure.tight_layout(w_pad=w_pad)
    figure.text(0.5, 1.01, key, fontsize=7, ha="center", va="bottom")
