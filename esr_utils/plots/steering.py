"""Figures of notebook 01."""

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from scipy.stats import t

from esr_utils.plots.style import BLUE, COLUMN_INCHES, GREY, ORANGE


def resid_norms(norms: pd.DataFrame) -> Figure:
    """Size of the residual stream by layer: as it is, and as far as two texts differ (mean left out).

    Columns: layer, norm, distance_from_mean (medians over tokens), is_steered.
    """
    figure, axes = plt.subplots(figsize=(2 * COLUMN_INCHES, 2.4))
    axes.plot(norms["layer"], norms["norm"], color=GREY, label="norm")
    axes.plot(norms["layer"], norms["distance_from_mean"], color=BLUE, label="distance from the mean token")
    steered = norms.loc[norms["is_steered"], "layer"]
    axes.axvline(steered.iloc[0], color=ORANGE, lw=1, ls="--", label="steering layer")
    axes.set(xlabel="layer", ylabel="residual units (median)", ylim=(0, None))
    axes.legend(loc="upper left")
    sns.despine(figure)
    return figure


def sweep_curve(sweep: pd.DataFrame) -> Figure:
    """Topicality and recorded activation of one latent at rising strength; every response a point."""
    label = sweep["label"].iloc[0]
    figure, (left, right) = plt.subplots(1, 2, figsize=(2 * COLUMN_INCHES, 2.5))
    for axes, column, name in (
        (left, "topicality", "topicality (0 to 100)"),
        (right, "activation", "activation of the latent"),
    ):
        sns.lineplot(sweep, x="strength", y=column, ax=axes, color=BLUE, errorbar=("ci", 95), n_boot=1000, seed=0)
        sns.scatterplot(sweep, x="strength", y=column, ax=axes, color=GREY, s=9, alpha=0.6, linewidth=0)
        axes.set(xlabel="strength (raw)", ylabel=name)
    n = sweep.groupby("strength").size().max()
    figure.suptitle(f"{label} (n = {n} responses a strength; line: mean, 95% over responses)", fontsize=9)
    sns.despine(figure)
    figure.tight_layout()
    return figure


def topicality_over_tokens(curves: pd.DataFrame, *, window: int = 12) -> Figure:
    """Running mean, over tokens, of the information about the question and about the latent's topic."""
    topic = curves["topic"].iloc[0]
    figure, panels = plt.subplots(1, 2, figsize=(2 * COLUMN_INCHES, 2.5), sharey=True)
    n = curves.groupby(["strength", "pos"]).size().max()
    mean = curves.groupby(["strength", "pos"])[["about_question", "about_topic"]].mean().reset_index()
    colours = sns.color_palette("viridis", n_colors=mean["strength"].nunique())
    for axes, column, title in zip(
        panels, ("about_question", "about_topic"), ("about the question", f"about {topic}"), strict=True
    ):
        for colour, (strength, part) in zip(colours, mean.groupby("strength"), strict=True):
            smooth = part[column].rolling(window, min_periods=1, center=True).mean()
            axes.plot(part["pos"], smooth, color=colour, lw=1.2, label=f"{strength:g}")
        axes.axhline(0, color=GREY, lw=0.6)
        axes.set(xlabel="response token", title=title)
    panels[0].set_ylabel("information (nats a token)")
    panels[1].legend(
        title=f"strength,\n{n} responses\neach",
        loc="center left",
        bbox_to_anchor=(1.0, 0.5),
        fontsize=7,
        title_fontsize=7,
    )
    sns.despine(figure)
    figure.tight_layout()
    return figure


def latent_grid(grid: pd.DataFrame) -> Figure:
    """Mean topicality of several latents at several strengths; one line a response."""
    n = grid.groupby(["label", "strength"]).size().min()
    table = grid.pivot_table(index="label", columns="strength", values="topicality", sort=False)
    size = (2 * COLUMN_INCHES, 0.8 + 0.26 * len(table))
    figure, axes = plt.subplots(figsize=size)
    sns.heatmap(table, vmin=0, vmax=100, cmap="viridis", annot=True, fmt=".0f", ax=axes, annot_kws={"size": 7})
    axes.set(xlabel=f"strength (raw); n = {n} responses a cell", ylabel="")
    axes.tick_params(labelsize=7)
    axes.collections[0].colorbar.set_label("topicality")
    figure.tight_layout()
    return figure


def calibration_posteriors(table: pd.DataFrame, beliefs: pd.DataFrame) -> Figure:
    """Belief about each latent's strength after the search, and the score that fresh responses then had."""
    size = (2 * COLUMN_INCHES, 0.8 + 0.3 * len(table))
    figure, (left, right) = plt.subplots(1, 2, figsize=size, width_ratios=(3, 2))
    for i, label in enumerate(table["label"]):
        part = beliefs[beliefs["label"] == label]
        height = 0.85 * part["density"] / part["density"].max()
        left.fill_between(part["strength"], i, i - height, color=BLUE, alpha=0.5, lw=0)
        left.plot([table["strength"].iloc[i]] * 2, [i, i - 0.85], color=ORANGE, lw=1.2)
    left.set_yticks(range(len(table)), table["label"], fontsize=7)
    left.set(xlabel="strength (raw)", title="belief after the search", ylim=(len(table) - 0.7, -1.1))
    right.axvspan(*table[["window_low", "window_high"]].iloc[0], color=GREY, alpha=0.15, lw=0)
    right.axvline(table["target"].iloc[0], color=GREY, ls="--", lw=1)
    n = table["n_verified"].iloc[0]
    half = t.ppf(0.975, n - 1) * table["verified_sd"] / n**0.5
    right.errorbar(table["verified_score"], range(len(table)), xerr=half, fmt="o", color=BLUE)
    right.set(xlabel=f"score of {n} fresh responses,\nmean and 95%", title="verified")
    right.set(xlim=(0, 100), ylim=left.get_ylim(), yticks=[])
    sns.despine(figure)
    figure.tight_layout()
    return figure
