"""Figures of notebook 05."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from esr_utils.plots.style import BLUE, COLUMN_INCHES, GREY, ORANGE, QUANTITY_NAMES, beside

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
    height = 0.6 + 2.0 * len(subjects)
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
            beside(axis, y, told, color=colour)
    title = "first-attempt score" if is_score else f"{QUANTITY_NAMES[quantity]} (%)"
    axis.set_title(title, fontsize=7.5)
    axis.set_yticks(range(len(names)), KIND_NAMES.values(), fontsize=7)
    axis.tick_params(axis="x", labelsize=7)
    axis.set_xlim(-0.04 * axis.get_xlim()[1], None)


def beside_paper(table: pd.DataFrame) -> Figure:
    """Restarts and recovery by kind: open marks the paper's models, filled ones ours. Different judges and models.

    Columns: who, origin, kind, quantity, value (0 to 1), ci_low, ci_high, n_events, n. Ours have 95% intervals and,
    at the right, events and trials.
    """
    names = [kind for kind in KIND_NAMES if kind in set(table["kind"])]
    height = 1.2 + 0.5 * len(names)
    figure, axes = plt.subplots(1, 2, figsize=(2 * COLUMN_INCHES, height), sharey=True)
    for axis, quantity in zip(axes, ("restart", "recovery"), strict=True):
        part = table[table["quantity"] == quantity]
        _published(axis, part[part["origin"] == "paper"], names)
        _measured(axis, part[part["origin"] == "ours"], names)
    for axis, title in zip(axes, ("explicit restarts (%)", "whole response recovers (%)"), strict=True):
        axis.set(title=title, xlim=(-0.02 * axis.get_xlim()[1], None))
        axis.tick_params(axis="x", labelsize=7)
    axes[0].set_yticks(range(len(names)), [KIND_NAMES[name] for name in names], fontsize=7)
    axes[0].invert_yaxis()
    figure.legend(
        *axes[0].get_legend_handles_labels(), ncols=3, loc="upper center", bbox_to_anchor=(0.5, 0), fontsize=7
    )
    told = "open: published, whole-response judge, rebuttal, n told without a suffix only; filled: ours, 95% clustered"
    figure.suptitle(told, fontsize=7)
    sns.despine(figure)
    figure.tight_layout(w_pad=2.6)
    return figure


def _published(axis: Axes, part: pd.DataFrame, names: Sequence[str]) -> None:
    for i, ((who, mine), marker) in enumerate(zip(part.groupby("who", sort=False), "os^Dv", strict=True)):
        y = [names.index(kind) - 0.38 + 0.06 * i for kind in mine["kind"]]
        axis.plot(100 * mine["value"], y, marker, ms=4, color=GREY, mfc="none", mew=0.9, label=who)


def _measured(axis: Axes, part: pd.DataFrame, names: Sequence[str]) -> None:
    for i, (who, mine) in enumerate(part.groupby("who", sort=False)):
        colour = (BLUE, ORANGE)[i]
        y = np.array([names.index(kind) for kind in mine["kind"]]) + 0.1 + 0.24 * i
        axis.hlines(y, 100 * mine["ci_low"], 100 * mine["ci_high"], color=colour, lw=1.1)
        axis.plot(100 * mine["value"], y, "o", ms=3.5, color=colour, label=who)
        for at, line in zip(y, mine.itertuples(), strict=True):
            beside(axis, at, f"{line.n_events:.0f}/{line.n:.0f}", color=colour)
