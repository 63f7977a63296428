"""Figures of notebook 05."""

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from esr_utils.plots.style import BLUE, COLUMN_INCHES, GREY, ORANGE, QUANTITY_NAMES

KIND_NAMES = {
    "none": "no suffix",
    "neutral": "neutral",
    "focus": "stay focused",
    "self_monitor": "monitor yourself",
    "resist": "resist an outside force",
    "label": "ignore thoughts of …",
}
LEVEL_COLOURS = {0.0: GREY, 1.0: BLUE}


def kinds(by_kind: pd.DataFrame) -> Figure:
    """First-attempt score and restarts under each kind of suffix, with and without steering; a row a subject.

    Columns: subject, level, kind, quantity, value, ci_low, ci_high, n_events, n.
    """
    subjects, panels = list(dict.fromkeys(by_kind["subject"])), ("first_score", "multi_attempt", "minimum_gain_esr")
    height = 0.6 + 1.75 * len(subjects)
    figure, axes = plt.subplots(len(subjects), 3, figsize=(2 * COLUMN_INCHES, height), sharey=True, squeeze=False)
    for row, subject in zip(axes, subjects, strict=True):
        for axis, quantity in zip(row, panels, strict=True):
            _points(axis, by_kind[(by_kind["subject"] == subject) & (by_kind["quantity"] == quantity)], quantity)
        row[0].set_ylabel(subject, fontsize=7.5)
    handles = [plt.Line2D([], [], color=colour, marker="o", ms=3.5, lw=1.1) for colour in LEVEL_COLOURS.values()]
    figure.legend(
        handles, ["without steering", "steered"], ncols=2, loc="lower center", bbox_to_anchor=(0.5, -0.05), fontsize=7
    )
    axes[0][0].invert_yaxis()
    sns.despine(figure)
    figure.tight_layout(w_pad=2.6)
    return figure


def _points(axis: Axes, part: pd.DataFrame, quantity: str) -> None:
    names, is_score = list(KIND_NAMES), quantity == "first_score"
    factor = 1 if is_score else 100
    for i, (level, colour) in enumerate(LEVEL_COLOURS.items()):
        for line in part[part["level"] == level].itertuples():
            y = names.index(line.kind) + 0.32 * (i - 0.5)
            axis.plot([factor * line.ci_low, factor * line.ci_high], [y, y], color=colour, lw=1.1)
            axis.plot(factor * line.value, y, "o", ms=3.2, color=colour)
            told = f"n = {line.n:.0f}" if is_score else f"{line.n_events:.0f}/{line.n:.0f}"
            axis.text(1.02, y, told, transform=axis.get_yaxis_transform(), fontsize=5, va="center", color=colour)
    title = "first-attempt score" if is_score else f"{QUANTITY_NAMES[quantity]} (%)"
    axis.set_title(title, fontsize=7.5)
    axis.set_yticks(range(len(names)), KIND_NAMES.values(), fontsize=7)
    axis.tick_params(axis="x", labelsize=7)


def beside_paper(table: pd.DataFrame) -> Figure:
    """Restarts and recovery by kind: open marks the paper's models, filled ones ours. Different judges and models.

    Columns: who, origin, kind, quantity, value (0 to 1).
    """
    who = table.drop_duplicates("who")[["who", "origin"]]
    names = [kind for kind in KIND_NAMES if kind in set(table["kind"])]
    ours, figure_axes = iter((BLUE, ORANGE)), plt.subplots(1, 2, figsize=(2 * COLUMN_INCHES, 2.5), sharey=True)
    figure, axes = figure_axes
    for (name, origin), marker in zip(who.itertuples(index=False), "os^Dv" + "o" * len(who), strict=False):
        is_paper = origin == "paper"
        colour = GREY if is_paper else next(ours, BLUE)
        for axis, quantity in zip(axes, ("restart", "recovery"), strict=True):
            part = table[(table["who"] == name) & (table["quantity"] == quantity)]
            y = [names.index(kind) + (-0.12 if is_paper else 0.16) for kind in part["kind"]]
            face = "none" if is_paper else colour
            axis.plot(100 * part["value"], y, marker, ms=4.5, color=colour, mfc=face, mew=0.9, label=name)
    for axis, title in zip(axes, ("explicit restarts", "whole response recovers"), strict=True):
        axis.set(title=title, xlabel="% of responses", xlim=(-1, None))
    axes[0].set_yticks(range(len(names)), [KIND_NAMES[name] for name in names])
    axes[0].invert_yaxis()
    axes[1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=6.5)
    sns.despine(figure)
    figure.tight_layout()
    return figure
