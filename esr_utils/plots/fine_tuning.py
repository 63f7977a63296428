"""Figures of notebook 06."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from esr_utils.plots.style import BLUE, COLUMN_INCHES, GREY, ORANGE, QUANTITY_NAMES, beside

CONDITIONS = {"baseline": GREY, "fixed": BLUE, "recalibrated": ORANGE}
CONDITION_NAMES = {
    "baseline": "without steering",
    "fixed": "the base's strengths",
    "recalibrated": "the arm's own strengths",
}


def shares(by_share: pd.DataFrame) -> Figure:
    """Along the share of corrections: first-attempt score and rates, unsteered and at both strengths.

    Columns: share, condition, training_seed (empty: all seeds together), quantity, value, ci_low, ci_high, n_events, n.
    Lines and bands are all seeds together; small points are single trainings.
    """
    panels = ("first_score", "multi_attempt", "esr", "minimum_gain_esr")
    figure, axes = plt.subplots(1, 4, figsize=(2 * COLUMN_INCHES, 2.4))
    for axis, quantity in zip(axes, panels, strict=True):
        part = by_share[by_share["quantity"] == quantity]
        for condition, colour in CONDITIONS.items():
            _band(axis, part[part["condition"] == condition], quantity=quantity, colour=colour)
        title = "first-attempt score" if quantity == "first_score" else f"{QUANTITY_NAMES[quantity]} (%)"
        axis.set_title(title, fontsize=7.5)
        axis.set(ylim=(0, None), xticks=100 * np.unique(part["share"]))
        axis.set_xlabel("corrections (%)", fontsize=8)
        axis.tick_params(labelsize=7)
    _legend(figure)
    together = by_share[by_share["training_seed"].isna()]
    n = together["n"].max()
    told = f"bands: 95%, latents and questions resampled; up to {n:.0f} trials a point; faint: single trainings"
    figure.suptitle(told, fontsize=8, y=0.96)
    sns.despine(figure)
    figure.tight_layout()
    return figure


def _legend(figure: Figure) -> None:
    handles = [plt.Line2D([], [], color=colour, marker="o", ms=3, lw=1) for colour in CONDITIONS.values()]
    names = list(CONDITION_NAMES.values())
    figure.legend(handles, names, ncols=3, loc="lower center", bbox_to_anchor=(0.5, -0.08), fontsize=7)


def _band(axis: Axes, part: pd.DataFrame, *, quantity: str, colour: str) -> None:
    factor = 1 if quantity == "first_score" else 100
    together = part[part["training_seed"].isna()].sort_values("share")
    single = part[part["training_seed"].notna()]
    x = 100 * together["share"]
    axis.fill_between(x, factor * together["ci_low"], factor * together["ci_high"], color=colour, alpha=0.15, lw=0)
    axis.plot(x, factor * together["value"], "o-", color=colour, ms=3, lw=1, clip_on=False)
    axis.plot(100 * single["share"], factor * single["value"], ".", color=colour, ms=5, alpha=0.5, mew=0, clip_on=False)


def controls(table: pd.DataFrame) -> Figure:
    """Arms at one share beside the base: what the drifts and the answers in the corrections are worth.

    Columns: arm, condition, quantity, value, ci_low, ci_high, n_events, n.
    """
    panels = ("multi_attempt", "improvement", "minimum_gain_esr")
    names = QUANTITY_NAMES | {"improvement": "improved, of several"}
    arms = list(dict.fromkeys(table["arm"]))
    figure, axes = plt.subplots(1, 3, figsize=(2 * COLUMN_INCHES, 0.9 + 0.5 * len(arms)), sharey=True)
    for axis, quantity in zip(axes, panels, strict=True):
        for i, (condition, colour) in enumerate(CONDITIONS.items()):
            part = table[(table["quantity"] == quantity) & (table["condition"] == condition)].dropna(subset=["value"])
            for line in part.itertuples():
                y = arms.index(line.arm) + 0.25 * (i - 1)
                axis.plot([100 * line.ci_low, 100 * line.ci_high], [y, y], color=colour, lw=1.1)
                axis.plot(100 * line.value, y, "o", ms=3.5, color=colour)
                beside(axis, y, f"{line.n_events:.0f}/{line.n:.0f}", color=colour)
        axis.set_title(f"{names[quantity]} (%)", fontsize=8)
        axis.tick_params(axis="x", labelsize=7)
    axes[1].axvline(50, color=GREY, lw=0.8, ls=":")
    axes[0].set_yticks(range(len(arms)), arms, fontsize=8)
    axes[0].invert_yaxis()
    _legend(figure)
    sns.despine(figure)
    figure.tight_layout(w_pad=3.0)
    return figure


def beside_paper(table: pd.DataFrame) -> Figure:
    """Whole-response recovery by share of corrections: as published for an 8B model, and ours, never on one axis.

    Columns: who, origin (``paper`` or ``ours``), share, value, ci_low, ci_high, n.
    """
    who = list(dict.fromkeys(table["who"]))
    figure, axes = plt.subplots(1, len(who), figsize=(2 * COLUMN_INCHES, 2.3), squeeze=False, sharex=True, sharey=True)
    for axis, name in zip(axes[0], who, strict=True):
        part = table[table["who"] == name].sort_values("share")
        is_paper = part["origin"].iloc[0] == "paper"
        colour = GREY if is_paper else ORANGE
        low, high = part["value"] - part["ci_low"], part["ci_high"] - part["value"]
        axis.errorbar(
            100 * part["share"],
            100 * part["value"],
            yerr=[100 * low, 100 * high],
            fmt="o-",
            color=colour,
            mfc="white" if is_paper else colour,
            ms=4,
            lw=1,
        )
        least, most = part["n"].min(), part["n"].max()
        told = f"n = {most:.0f}" if least == most else f"n = {least:.0f} to {most:.0f}"
        told += ", 95% naive" if is_paper else ", 95% clustered"
        axis.set(title=f"{name}\n{told}", xlabel="corrections (%)", ylim=(0, None))
        axis.title.set_fontsize(7.5)
    axes[0][0].set_ylabel("whole response\nrecovers (%)", fontsize=8)
    sns.despine(figure)
    figure.tight_layout()
    return figure
