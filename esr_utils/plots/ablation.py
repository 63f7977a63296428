"""Figures of notebook 04."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from esr_utils.plots.style import BLUE, COLUMN_INCHES, GREY, ORANGE, QUANTITY_NAMES, beside

PANELS = ("first_score", "multi_attempt", "esr")
MANY = ("matched set", "random directions")  # kinds of arm that are drawn several times


def arms(by_arm: pd.DataFrame) -> Figure:
    """First-attempt score, several attempts and ESR of each arm; arms drawn several times are a dot each, one row.

    Columns: name, condition, quantity, value, ci_low, ci_high, n_events, n.
    """
    table = by_arm.rename(columns={"value": "x"})
    table["told"] = [_counted(line) for line in table.itertuples()]
    return _panels(table, {**QUANTITY_NAMES, "first_score": "first-attempt score"}, zero=None)


def contrasts(contrasts: pd.DataFrame) -> Figure:
    """Each arm less no ablation, trial by trial, in points: matched sets and random directions are the null.

    Columns: name, condition, quantity, difference, ci_low, ci_high, n_pairs.
    """
    table = contrasts.rename(columns={"difference": "x"})
    table["told"] = "n " + table["n_pairs"].astype(int).astype(str)
    titles = {name: f"{title}, change" for name, title in QUANTITY_NAMES.items()}
    return _panels(table, {**titles, "first_score": "first score, change"}, zero=0.0)


def _counted(line: tuple) -> str:
    return f"n {line.n:.0f}" if line.quantity == "first_score" else f"{line.n_events:.0f}/{line.n:.0f}"


def _panels(table: pd.DataFrame, titles: dict[str, str], *, zero: float | None) -> Figure:
    names = list(dict.fromkeys(table["name"]))
    names.sort(key=lambda name: name in MANY)
    figure, axes = plt.subplots(1, 3, figsize=(2 * COLUMN_INCHES, 0.8 + 0.3 * len(names)), sharey=True)
    for axis, quantity in zip(axes, PANELS, strict=True):
        is_score = quantity == "first_score"
        _rows(axis, table[table["quantity"] == quantity], names, 1.0 if is_score else 100.0)
        axis.set_title(titles[quantity], fontsize=7.5)
        axis.set_xlabel("points" if zero is not None or is_score else "% of judged trials", fontsize=7)
        axis.tick_params(labelsize=7)
        if zero is not None:
            axis.axvline(zero, color=GREY, lw=0.8, ls=":")
    axes[0].set_yticks(range(len(names)), names)
    axes[0].set_ylim(len(names) - 0.5, -0.5)
    sns.despine(figure)
    figure.tight_layout(w_pad=1.5)
    told = "lines: 95%, latents and questions resampled; rings: one draw each, bar: their mean"
    figure.text(0.5, 1.0, told, fontsize=7, ha="center", va="bottom")
    return figure


def _rows(axis: Axes, part: pd.DataFrame, names: Sequence[str], factor: float) -> None:
    for y, name in enumerate(names):
        mine = part[part["name"] == name]
        x = factor * mine["x"].to_numpy()
        if name in MANY:
            spread = np.linspace(-0.25, 0.25, len(x)) if len(x) > 1 else np.zeros(1)
            axis.plot(x, y + spread, "o", ms=2.5, color=GREY, mfc="none", mew=0.7)
            axis.plot([x.mean()] * 2, [y - 0.3, y + 0.3], color=GREY, lw=1.2)
            colour, told = GREY, f"{len(x)} × {mine['told'].iloc[0].split('/')[-1].removeprefix('n ')}"
        else:
            colour, told = {"none": GREY, "detectors": BLUE}.get(name, ORANGE), mine["told"].iloc[0]
            axis.plot(factor * mine[["ci_low", "ci_high"]].to_numpy()[0], [y, y], color=colour, lw=1.2)
            axis.plot(x, [y], "o", ms=4, color=colour, clip_on=False)
        beside(axis, y, told, x=1.03, color=colour)
