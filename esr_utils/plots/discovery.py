"""Figures of notebook 03."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from esr_utils.plots.style import BLUE, COLUMN_INCHES, GREY, ORANGE, SMALL, beside

GROUP_COLOURS = {"detectors": BLUE, "backtracking": ORANGE}
WHERE_NAMES = {
    "off_topic": "off topic,\nthen withdrawn",
    "correction": "restart",
    "on_topic": "last attempt",
    "uncorrected": "off topic,\nnot withdrawn",
    "unsteered": "unsteered\nanswer",
}
STRETCH_COLOURS = {"off_topic": "#fbe3d4", "correction": "#e0d4ea", "on_topic": "#d6e8f5"}


def stability(table: pd.DataFrame, rules: pd.DataFrame) -> Figure:
    """How many latents are chosen at each frequency, beside how many each rule keeps of one derangement.

    Columns: frequency, n_chosen, is_rule; rule, least, mean, most.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(2 * COLUMN_INCHES, 2.3), width_ratios=(1, 1))
    left.plot(table["frequency"], table["n_chosen"], "o-", ms=3, lw=1, color=BLUE)
    at = table[table["is_rule"]].iloc[0]
    left.axvline(at["frequency"], color=GREY, lw=0.8, ls=":")
    left.annotate(
        f"the rule: {at['n_chosen']:.0f} latents",
        (at["frequency"], at["n_chosen"]),
        xytext=(0.72, 0.93),
        textcoords="axes fraction",
        ha="right",
        fontsize=7,
        arrowprops={"arrowstyle": "-", "color": GREY, "lw": 0.7},
    )
    left.set(yscale="log", xlabel="share of draws in which it stands out", ylabel="latents, at least so often")
    left.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    left.yaxis.set_major_formatter("{x:.0f}")
    left.yaxis.set_minor_locator(NullLocator())
    y = np.arange(len(rules))
    right.hlines(y, rules["least"], rules["most"], color=GREY, lw=1.4)
    right.plot(rules["mean"], y, "o", ms=4, color=BLUE)
    for at, line in zip(y, rules.itertuples(), strict=True):
        told = (
            f"{line.mean:.3g}" if line.least == line.most else f"{line.mean:.3g} ({line.least:.0f} to {line.most:.0f})"
        )
        beside(right, at, told, size=7)
    right.set_yticks(y, [name.replace(" (", "\n(") for name in rules["rule"]], fontsize=7)
    right.set(xlabel="latents kept of one derangement", xlim=(-2, None), ylim=(len(rules) - 0.5, -0.5))
    sns.despine(figure)
    figure.tight_layout(w_pad=1.5)
    return figure


def levels(table: pd.DataFrame) -> Figure:
    """Mean activation of each group by stretch, and in responses without a restart; n beside each.

    Columns: group, where, mean, ci_low, ci_high, n.
    """
    groups = [group for group in GROUP_COLOURS if group in set(table["group"])]
    figure, axes = plt.subplots(1, len(groups), figsize=(2 * COLUMN_INCHES, 2.1), squeeze=False, sharey=True)
    for axis, group in zip(axes[0], groups, strict=True):
        mine = table[table["group"] == group].set_index("where").reindex(list(WHERE_NAMES)).dropna(subset=["mean"])
        y = np.arange(len(mine))
        axis.hlines(y, mine["ci_low"], mine["ci_high"], color=GROUP_COLOURS[group], lw=1.2)
        axis.plot(mine["mean"], y, "o", ms=4, color=GROUP_COLOURS[group])
        for at, n in zip(y, mine["n"], strict=True):
            beside(axis, at, f"n {n:.0f}", color=GROUP_COLOURS[group])
        axis.set_yticks(y, [WHERE_NAMES[where].replace("\n", " ") for where in mine.index], fontsize=7.5)
        axis.set(title=group, xlabel="mean activation, 95%", xlim=(0, None), ylim=(len(mine) - 0.5, -0.5))
    sns.despine(figure)
    figure.tight_layout(w_pad=2.0)
    return figure


def traces(table: pd.DataFrame) -> Figure:
    """Groups' activation token by token around the restart (position 0), with the number of episodes below.

    Columns: group, pos, mean, ci_low, ci_high (95%), n.
    """
    figure, (upper, lower) = plt.subplots(2, 1, figsize=(1.4 * COLUMN_INCHES, 3.0), sharex=True, height_ratios=(3, 1))
    for group, mine in table.groupby("group", sort=False):
        colour = GROUP_COLOURS[group]
        upper.fill_between(mine["pos"], mine["ci_low"], mine["ci_high"], color=colour, alpha=0.2, lw=0)
        upper.plot(mine["pos"], mine["mean"], color=colour, lw=1.1, label=group)
        lower.step(mine["pos"], mine["n"], where="mid", color=GREY, lw=1)
    for axis in (upper, lower):
        axis.axvline(-0.5, color=GREY, lw=0.8, ls=":")
    upper.set(ylabel="summed activation, 95%")
    upper.legend(fontsize=7)
    lower.set(xlabel="tokens from the start of the restart", ylabel="episodes", ylim=(0, None))
    sns.despine(figure)
    figure.tight_layout()
    return figure


def episode(table: pd.DataFrame) -> Figure:
    """One response, token by token: the steered latent, the detectors, the backtracking latents.

    Columns: pos, token, stretch, steered, detectors, backtracking.
    """
    names = {"steered": GREY, **GROUP_COLOURS}
    figure, axes = plt.subplots(3, 1, figsize=(2 * COLUMN_INCHES, 3.2), sharex=True)
    for axis, (name, colour) in zip(axes, names.items(), strict=True):
        _shade(axis, table)
        axis.plot(table["pos"], table[name], color=colour, lw=1)
        axis.set_ylabel("steered\nlatent" if name == "steered" else name, fontsize=7)
        axis.tick_params(labelsize=SMALL)
    handles = [plt.Rectangle((0, 0), 1, 1, color=colour) for colour in STRETCH_COLOURS.values()]
    told = [WHERE_NAMES[name].replace("\n", " ") for name in STRETCH_COLOURS]
    figure.legend(handles, told, ncols=3, loc="lower center", bbox_to_anchor=(0.5, -0.05), fontsize=7)
    axes[-1].set_xlabel("tokens from the start of the restart", fontsize=8)
    figure.suptitle("activations; those of the two groups are summed over their latents", fontsize=7)
    figure.align_ylabels()
    sns.despine(figure)
    figure.tight_layout(h_pad=0.6)
    return figure


def _shade(axis: Axes, table: pd.DataFrame) -> None:
    for name, colour in STRETCH_COLOURS.items():
        mine = table.loc[table["stretch"] == name, "pos"]
        if len(mine):
            axis.axvspan(mine.min() - 0.5, mine.max() + 0.5, color=colour, lw=0)
