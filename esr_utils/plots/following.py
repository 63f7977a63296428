"""Figures of the prefill 2x2 and of sustained resistance."""

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from esr_utils.plots.style import BLUE, COLUMN_INCHES, GREY, ORANGE, QUANTITY_NAMES, SMALL

CELLS = (("steered", "steered"), ("steered", "unsteered"), ("unsteered", "steered"), ("unsteered", "unsteered"))
SOURCES = {"restarted": BLUE, "uncorrected": ORANGE}
SOURCE_NAMES = {"restarted": "of responses that restarted", "uncorrected": "of matched ones that did not"}
ARM_NAMES = {
    "own": "own correction",
    "generic": "unsteered answer",
    "off_topic": "own first attempt",
    "none": "nothing",
}


def cells(table: pd.DataFrame) -> Figure:
    """Rates in the four cells, for beginnings of both sources.

    Columns: source, prefix, continuation, quantity, rate, ci_low, ci_high, n_events, n.
    """
    panels = ("multi_attempt", "esr", "minimum_gain_esr")
    figure, axes = plt.subplots(1, 3, figsize=(2 * COLUMN_INCHES, 2.3), sharey=True)
    for axis, quantity in zip(axes, panels, strict=True):
        part = table[table["quantity"] == quantity]
        for i, (source, colour) in enumerate(SOURCES.items()):
            mine = part[part["source"] == source].set_index(["prefix", "continuation"])
            for y, cell in enumerate(CELLS):
                if cell in mine.index:
                    _rate(axis, mine.loc[cell], y=y + 0.3 * (i - 0.5), colour=colour)
        axis.set_title(f"{QUANTITY_NAMES[quantity]} (%)", fontsize=7.5)
        axis.tick_params(labelsize=7)
    axes[0].set_yticks(
        range(len(CELLS)), [f"{prefix} beginning,\ncontinued {rest}" for prefix, rest in CELLS], fontsize=7
    )
    axes[0].invert_yaxis()
    handles = [plt.Line2D([], [], color=colour, marker="o", ms=3.5, lw=1.1) for colour in SOURCES.values()]
    names = [f"beginnings {name}" for name in SOURCE_NAMES.values()]
    figure.legend(handles, names, ncols=2, loc="lower center", bbox_to_anchor=(0.5, -0.07), fontsize=7)
    sns.despine(figure)
    figure.tight_layout(w_pad=2.6)
    return figure


def _rate(axis: Axes, line: pd.Series, *, y: float, colour: str) -> None:
    axis.plot([100 * line["ci_low"], 100 * line["ci_high"]], [y, y], color=colour, lw=1.1)
    axis.plot(100 * line["rate"], y, "o", ms=3.2, color=colour)
    told = f"{line['n_events']:.0f}/{line['n']:.0f}"
    axis.text(1.02, y, told, transform=axis.get_yaxis_transform(), fontsize=SMALL, va="center", color=colour)


def scores(means: pd.DataFrame, contrasts: pd.DataFrame) -> Figure:
    """Mean score of the continuation in each arm, and the declared differences, trial by trial.

    Columns: of ``means`` arm, mean, ci_low, ci_high, n; of ``contrasts`` arm, less, difference, ci_low, ci_high,
    n_pairs.
    """
    figure, axes = plt.subplots(1, 2, figsize=(2 * COLUMN_INCHES, 1.9))
    _intervals(axes[0], means["mean"], means, n=means["n"], names=means["arm"].map(ARM_NAMES), colour=BLUE)
    axes[0].set(title="score of the continuation, 95%", xlim=(0, None))
    names = contrasts["arm"].map(ARM_NAMES) + "\nless " + contrasts["less"].map(ARM_NAMES)
    _intervals(axes[1], contrasts["difference"], contrasts, n=contrasts["n_pairs"], names=names, colour=ORANGE)
    axes[1].axvline(0, color=GREY, lw=0.8, ls=":")
    axes[1].set(title="difference (points), 95%")
    sns.despine(figure)
    figure.tight_layout(w_pad=2.6)
    return figure


def _intervals(
    axis: Axes, values: pd.Series, table: pd.DataFrame, *, n: pd.Series, names: pd.Series, colour: str
) -> None:
    for y, (value, line, count) in enumerate(zip(values, table.itertuples(), n, strict=True)):
        axis.plot([line.ci_low, line.ci_high], [y, y], color=colour, lw=1.1)
        axis.plot(value, y, "o", ms=3.5, color=colour)
        told = f"n = {count:.0f}"
        axis.text(1.02, y, told, transform=axis.get_yaxis_transform(), fontsize=SMALL, va="center", color=colour)
    axis.set_yticks(range(len(table)), names, fontsize=7)
    axis.tick_params(axis="x", labelsize=7)
    axis.title.set_fontsize(7.5)
    axis.set_ylim(len(table) - 0.5, -0.5)
