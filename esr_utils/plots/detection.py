"""Figures of notebook 02."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from esr_utils.plots.style import BLUE, COLUMN_INCHES, GREY, ORANGE, QUANTITY_NAMES


def rates_beside_paper(rates: pd.DataFrame) -> Figure:
    """Rates with 95% intervals and denominators: the paper's five models above, ours below, never on one line.

    Columns: who, quantity, rate, ci_low, ci_high, n_events, n, origin (``paper`` or ``ours``).
    """
    panels = ("multi_attempt", "esr", "recovery")
    who = list(dict.fromkeys(rates["who"]))
    height = 0.9 + 0.27 * len(who)
    figure, axes = plt.subplots(1, 3, figsize=(2 * COLUMN_INCHES, height), sharey=True)
    for axis, quantity in zip(axes, panels, strict=True):
        part = rates[rates["quantity"] == quantity]
        for line in part.itertuples():
            y, colour = who.index(line.who), GREY if line.origin == "paper" else BLUE
            x = 100 * np.array([line.rate, line.ci_low, line.ci_high])
            axis.plot(x[1:], [y, y], color=colour, lw=1.2)
            axis.plot(x[0], y, "o", ms=4, color=colour, mfc="white" if line.origin == "paper" else colour)
            told = f"{line.n_events:.0f}/{line.n:.0f}" if line.n else "no trial"
            axis.text(1.02, y, told, transform=axis.get_yaxis_transform(), fontsize=6, va="center", color=colour)
        axis.set(title=QUANTITY_NAMES[quantity], xlabel="% of judged trials", xlim=(-0.02 * axis.get_xlim()[1], None))
        axis.axhline(sum(rates.drop_duplicates("who")["origin"] == "paper") - 0.5, color=GREY, lw=0.6, ls=":")
    axes[0].set_yticks(range(len(who)), who)
    axes[0].invert_yaxis()
    sns.despine(figure)
    figure.tight_layout(w_pad=3.0)
    return figure


def strength_levels(levels: pd.DataFrame) -> Figure:
    """What happens along the latent's own strength: first-attempt score, and rates with their counts.

    Columns: subject, level, quantity (``first_score``, ``multi_attempt``, ``esr``, ``recovery``), value, ci_low,
    ci_high, n_events, n. Level 1 is the calibrated strength.
    """
    panels = {"first_score": "first-attempt score", **{q: f"{QUANTITY_NAMES[q]} (%)" for q in ("multi_attempt", "esr")}}
    panels["recovery"] = f"{QUANTITY_NAMES['recovery']} (%)"
    figure, axes = plt.subplots(1, 4, figsize=(2 * COLUMN_INCHES, 2.2))
    colours = dict(zip(levels["subject"].unique(), (BLUE, ORANGE), strict=False))
    for axis, (quantity, title) in zip(axes, panels.items(), strict=True):
        factor = 1 if quantity == "first_score" else 100
        for subject, part in levels[levels["quantity"] == quantity].groupby("subject", sort=False):
            axis.fill_between(
                part["level"],
                factor * part["ci_low"],
                factor * part["ci_high"],
                alpha=0.2,
                lw=0,
                color=colours[subject],
            )
            axis.plot(part["level"], factor * part["value"], "o-", ms=3, lw=1, color=colours[subject], label=subject)
            if quantity != "first_score":
                for line in part.itertuples():
                    axis.annotate(
                        f"{line.n_events:.0f}",
                        (line.level, factor * line.value),
                        fontsize=6,
                        xytext=(0, 3),
                        textcoords="offset points",
                        ha="center",
                    )
        axis.axvline(1.0, color=GREY, ls="--", lw=0.8)
        axis.set_title(title, fontsize=7.5)
        axis.set(xlabel="level", ylim=(0, None))
    n = levels["n"].max()
    figure.suptitle(f"level: share of each latent's calibrated strength; up to {n:.0f} trials a level", fontsize=8)
    if len(colours) > 1:
        axes[0].legend(fontsize=6)
    sns.despine(figure)
    figure.tight_layout()
    return figure


def first_scores(scores: pd.DataFrame) -> Figure:
    """First-attempt scores without steering and at the calibrated strength. Columns: arm, first_score."""
    figure, axes = plt.subplots(figsize=(COLUMN_INCHES, 2.3))
    arms = list(dict.fromkeys(scores["arm"]))
    for arm, colour in zip(arms, (GREY, BLUE, ORANGE, "#009e73"), strict=False):
        values = scores.loc[scores["arm"] == arm, "first_score"].dropna()
        label = f"{arm}: mean {values.mean():.1f}, n = {len(values)}"
        sns.histplot(x=values, binwidth=5, binrange=(0, 100), ax=axes, color=colour, alpha=0.45, lw=0, label=label)
    axes.set(xlabel="first-attempt score (0 to 100)", ylabel="trials")
    axes.legend(fontsize=6.5, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    sns.despine(figure)
    figure.tight_layout()
    return figure


def calibration_effort(effort: pd.DataFrame) -> Figure:
    """Verified score of every latent after calibrations of different effort.

    Columns: effort, verified_score, target, window_low, window_high.
    """
    figure, axes = plt.subplots(figsize=(COLUMN_INCHES, 2.2))
    names = list(dict.fromkeys(effort["effort"]))
    for i, name in enumerate(names):
        values = effort.loc[effort["effort"] == name, "verified_score"]
        spread = i + 0.4 * ((np.arange(len(values)) * 0.618) % 1 - 0.5)  # apart, and the same in every drawing
        axes.plot(values, spread, "o", color=BLUE, ms=3, alpha=0.6, mew=0)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.axvspan(*effort[["window_low", "window_high"]].iloc[0], color=GREY, alpha=0.15, lw=0)
    axes.axvline(effort["target"].iloc[0], color=GREY, ls="--", lw=1)
    for i, name in enumerate(names):
        values = effort.loc[effort["effort"] == name, "verified_score"]
        axes.plot(values.mean(), i, "|", ms=16, mew=2, color=ORANGE)
        axes.text(
            99,
            i - 0.32,
            f"mean {values.mean():.1f}, sd {values.std():.1f}, n = {len(values)}",
            ha="right",
            fontsize=6.5,
        )
    axes.set(xlabel="score of fresh first attempts", ylabel="", xlim=(0, 100))
    sns.despine(figure)
    figure.tight_layout()
    return figure


def judge_agreement(pairs: pd.DataFrame) -> Figure:
    """First-attempt scores of the offline judge against another's, one panel each. Columns: other, offline, score."""
    others = list(dict.fromkeys(pairs["other"]))
    figure, axes = plt.subplots(
        1, len(others), figsize=(2 * COLUMN_INCHES, 2.6), sharex=True, sharey=True, squeeze=False
    )
    for axis, other in zip(axes[0], others, strict=True):
        part = pairs[pairs["other"] == other]
        axis.plot([0, 100], [0, 100], color=GREY, lw=0.8, ls="--")
        axis.plot(part["score"], part["offline"], "o", ms=2.5, alpha=0.4, color=BLUE, mew=0)
        rho = part["score"].corr(part["offline"], method="spearman")
        axis.set(title=f"Spearman {rho:.2f}, n = {len(part)}", xlabel=other, xlim=(-2, 102), ylim=(-2, 102))
    axes[0][0].set_ylabel("offline judge")
    sns.despine(figure)
    figure.tight_layout()
    return figure


def interval_coverage(coverage: pd.DataFrame) -> Figure:
    """How often 95% intervals hold the true rate in simulated data. Columns: setting, method, coverage."""
    figure, axes = plt.subplots(figsize=(2 * COLUMN_INCHES, 0.8 + 0.24 * coverage["setting"].nunique()))
    axes.axvspan(93, 97, color=GREY, alpha=0.15, lw=0)
    axes.axvline(95, color=GREY, lw=0.8, ls="--")
    settings = list(dict.fromkeys(coverage["setting"]))
    for (method, part), colour in zip(
        coverage.groupby("method", sort=False), (BLUE, "#009e73", "#cc79a7", ORANGE), strict=False
    ):
        y = [settings.index(setting) for setting in part["setting"]]
        axes.plot(100 * part["coverage"], y, "o", ms=4, color=colour, label=method)
    axes.set_yticks(range(len(settings)), settings)
    axes.invert_yaxis()
    axes.set(xlabel="coverage of 95% intervals (%)")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=7)
    sns.despine(figure)
    figure.tight_layout()
    return figure
