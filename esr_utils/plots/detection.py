"""Figures of notebook 02."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from esr_utils.beside import MODELS, ROUNDED, SUBJECTS
from esr_utils.plots.marks import forest
from esr_utils.plots.style import BLUE, COLUMN_INCHES, GREY, ORANGE, QUANTITY_NAMES, SMALL

PANELS = ("multi_attempt", "esr", "recovery")
STEERED = {"steered": "steered", "without steering": "not steered"}


def rates_beside_paper(rates: pd.DataFrame) -> Figure:
    """Rates with 95% intervals and denominators: the paper's five models above, ours below, never on one line.

    Columns: who, quantity, rate, ci_low, ci_high, n_events, n, origin (``paper`` or ``ours``).
    """
    is_paper = rates["origin"] == "paper"
    known = {"panel": rates["quantity"], "who": rates["who"].map(_short), "arm": "", "value": rates["rate"]}
    interval = np.where(is_paper & rates["n"].notna(), ROUNDED, "")
    frame = rates.assign(**known, interval=interval, note="", source="esr_detection/rates_beside_paper.csv")
    places = pd.MultiIndex.from_product([dict.fromkeys(frame["who"]), PANELS], names=["who", "panel"])
    absent = places.difference(pd.MultiIndex.from_frame(frame[["who", "panel"]]), sort=False).to_frame(index=False)
    frame = pd.concat([frame, absent.assign(arm="", origin="paper", note="a bound only")])
    frame = frame.set_index(["who", "panel"]).loc[places].reset_index()
    titles = {panel: f"{QUANTITY_NAMES[panel]} (%)".replace("response ", "response\n") for panel in PANELS}
    return forest(frame, titles)


def _short(who: str) -> str:
    """The name of a published model, or of a subject with its condition, as the other figures tell it."""
    subject, _, condition = who.partition(", ")
    return f"{SUBJECTS[subject]}, {STEERED[condition]}" if subject in SUBJECTS else MODELS.get(who, who)


def strength_levels(levels: pd.DataFrame) -> Figure:
    """What happens along the latent's own strength: first-attempt score, and rates with their events below.

    Columns: subject, level, quantity (``first_score``, ``multi_attempt``, ``esr``, ``recovery``), value, ci_low,
    ci_high, n_events, n. Level 1 is the calibrated strength.
    """
    panels = ("first_score", *PANELS)
    titles = {"first_score": "first-attempt score"} | {panel: f"{QUANTITY_NAMES[panel]} (%)" for panel in PANELS}
    figure, axes = plt.subplots(1, 4, figsize=(2 * COLUMN_INCHES, 2.3))
    colours = dict(zip(levels["subject"].unique(), (BLUE, ORANGE), strict=False))
    for axis, quantity in zip(axes, panels, strict=True):
        part = levels[levels["quantity"] == quantity]
        for i, (subject, colour) in enumerate(colours.items()):
            _along_levels(axis, part[part["subject"] == subject], colour, row=i, is_score=quantity == "first_score")
        axis.axvline(1.0, color=GREY, ls="--", lw=0.8)
        axis.set_title(titles[quantity].replace("response ", "response\n"), fontsize=7.5)
        axis.set(ylim=(0, None), xticks=(0, 0.5, 1, 1.5))
        axis.tick_params(labelsize=7)
        axis.set_xlabel("level", fontsize=7.5, labelpad=5 + 9 * len(colours))
    n = levels["n"].max()
    told = f"level: share of each latent's calibrated strength; bands: 95%; below: events in up to {n:.0f} trials"
    handles = [plt.Line2D([], [], color=colour, marker="o", ms=3, lw=1) for colour in colours.values()]
    names = [SUBJECTS.get(subject, subject) for subject in colours]
    sns.despine(figure)
    figure.tight_layout(w_pad=1.0)
    figure.legend(handles, names, ncols=2, loc="upper center", bbox_to_anchor=(0.5, 0.02), fontsize=7)
    figure.text(0.5, 1.0, told, fontsize=7, ha="center", va="bottom")
    return figure


def _along_levels(axis: Axes, part: pd.DataFrame, colour: str, *, row: int, is_score: bool) -> None:
    """One subject's line and band; under the axis, on a row of its own, its events at each level."""
    factor = 1 if is_score else 100
    axis.fill_between(part["level"], factor * part["ci_low"], factor * part["ci_high"], alpha=0.2, lw=0, color=colour)
    axis.plot(part["level"], factor * part["value"], "o-", ms=3, lw=1, color=colour, clip_on=False)
    for line in [] if is_score else part.itertuples():
        look = {"xytext": (0, -15 - 9 * row), "textcoords": "offset points", "xycoords": axis.get_xaxis_transform()}
        axis.annotate(f"{line.n_events:.0f}", (line.level, 0), ha="center", va="top", fontsize=6, color=colour, **look)


def first_scores(scores: pd.DataFrame) -> Figure:
    """First-attempt scores without steering and at the calibrated strength, a panel a subject.

    Columns: arm (``<subject>, without steering`` or ``<subject>, steered``), first_score.
    """
    subjects = scores["arm"].str.split(", ").str[0]
    names = list(dict.fromkeys(subjects))
    figure, axes = plt.subplots(len(names), 1, figsize=(COLUMN_INCHES, 0.5 + 1.3 * len(names)), sharex=True)
    for axis, name, colour in zip(np.atleast_1d(axes), names, (BLUE, ORANGE), strict=False):
        for arm, part in scores[subjects == name].groupby("arm", sort=False):
            values, told = part["first_score"].dropna(), STEERED[arm.split(", ")[1]]
            counts, edges = np.histogram(values, bins=np.arange(0, 101, 5))
            look = {"color": GREY, "ls": "--"} if told != "steered" else {"color": colour, "fill": True, "alpha": 0.6}
            label = f"{told}: mean {values.mean():.1f}, n {len(values)}"
            axis.stairs(counts, edges, lw=1.2, label=label, zorder=2 + (told != "steered"), **look)
        axis.legend(fontsize=SMALL, ncols=2, loc="lower center", bbox_to_anchor=(0.45, 0.97), columnspacing=1.0)
        axis.set_ylabel(f"{SUBJECTS.get(name, name)}\ntrials", fontsize=7.5)
        axis.tick_params(labelsize=7)
    np.atleast_1d(axes)[-1].set_xlabel("first-attempt score (0 to 100)", fontsize=8)
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
    axes.set_yticks(range(len(names)), [name.replace(" a step", "\na step") for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.axvspan(*effort[["window_low", "window_high"]].iloc[0], color=GREY, alpha=0.15, lw=0)
    axes.axvline(effort["target"].iloc[0], color=GREY, ls="--", lw=1)
    for i, name in enumerate(names):
        values = effort.loc[effort["effort"] == name, "verified_score"]
        axes.plot(values.mean(), i, "|", ms=16, mew=2, color=ORANGE)
        told = f"mean {values.mean():.1f}\nsd {values.std():.1f}\nn = {len(values)}"
        axes.text(99, i, told, ha="right", va="center", fontsize=SMALL)
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
    """How often 95% intervals hold the true rate in simulated data. Columns: setting, method, coverage, n_sims."""
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
    axes.set_ylim(len(settings) - 0.5, -0.5)
    axes.set_xlabel(f"coverage of 95% intervals (%), {coverage['n_sims'].min():,} simulations each", fontsize=8)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=7)
    sns.despine(figure)
    figure.tight_layout()
    return figure
