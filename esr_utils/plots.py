"""One function a figure: a frame in, a figure out. ``save_figure`` writes the picture and its csv side by side.

``python -m esr_utils.plots`` draws every figure again from committed results, without torch.
"""

from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from scipy.stats import t

from esr_utils.config import figures_dir, results_dir

COLUMN_INCHES = 3.4  # width of a column in print
BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#767676"  # told apart by colour-blind readers too


def use_style() -> None:
    """White ground, thin lines, text that can be read at column width."""
    sns.set_theme(context="paper", style="ticks", palette=[BLUE, ORANGE, "#009e73", "#cc79a7", "#e69f00", "#56b4e9"])
    plt.rcParams.update(
        {"figure.dpi": 110, "savefig.dpi": 220, "axes.titlesize": 9, "axes.labelsize": 9, "legend.frameon": False}
    )


def save_figure(figure: Figure, data: pd.DataFrame, name: str, *, scale: str = "standard") -> Path:
    """Write ``<name>.png`` and ``<name>.csv`` (the numbers that were drawn); returns the picture's path."""
    folder = figures_dir(scale)
    folder.mkdir(parents=True, exist_ok=True)
    data.to_csv(folder / f"{name}.csv", index=False, float_format="%.6g")
    path = folder / f"{name}.png"
    figure.savefig(path, bbox_inches="tight", metadata={"Software": None})
    plt.close(figure)  # a notebook would draw it a second time
    return path


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
    panels[1].legend(title="strength", loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=7, title_fontsize=7)
    sns.despine(figure)
    figure.tight_layout()
    return figure


def latent_grid(grid: pd.DataFrame) -> Figure:
    """Mean topicality of several latents at several strengths; one line a response."""
    n = grid.groupby(["label", "strength"]).size().min()
    table = grid.pivot_table(index="label", columns="strength", values="topicality", sort=False)
    figure, axes = plt.subplots(figsize=(2 * COLUMN_INCHES, 0.6 + 0.26 * len(table)))
    sns.heatmap(table, vmin=0, vmax=100, cmap="viridis", annot=True, fmt=".0f", ax=axes, annot_kws={"size": 7})
    axes.set(xlabel=f"strength (raw); n = {n} responses a cell", ylabel="")
    axes.collections[0].colorbar.set_label("topicality")
    return figure


def calibration_posteriors(table: pd.DataFrame, beliefs: pd.DataFrame) -> Figure:
    """Belief about each latent's strength after the search, and the score that fresh responses then had."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(2 * COLUMN_INCHES, 0.8 + 0.3 * len(table)), width_ratios=(3, 2))
    for i, label in enumerate(table["label"]):
        part = beliefs[beliefs["label"] == label]
        height = 0.85 * part["density"] / part["density"].max()
        left.fill_between(part["strength"], i, i - height, color=BLUE, alpha=0.5, lw=0)
        left.plot([table["strength"].iloc[i]] * 2, [i, i - 0.85], color=ORANGE, lw=1.2)
    left.set_yticks(range(len(table)), table["label"])
    left.set(xlabel="strength (raw)", title="belief after the search", ylim=(len(table) - 0.7, -1.1))
    right.axvspan(*table[["window_low", "window_high"]].iloc[0], color=GREY, alpha=0.15, lw=0)
    right.axvline(table["target"].iloc[0], color=GREY, ls="--", lw=1)
    n = table["n_verified"].iloc[0]
    half = t.ppf(0.975, n - 1) * table["verified_sd"] / n**0.5
    right.errorbar(table["verified_score"], range(len(table)), xerr=half, fmt="o", color=BLUE)
    right.set(xlabel=f"mean of {n} fresh responses, 95%", title="verified")
    right.set(xlim=(0, 100), ylim=left.get_ylim(), yticks=[])
    sns.despine(figure)
    figure.tight_layout()
    return figure


QUANTITY_NAMES = {
    "multi_attempt": "several attempts",
    "esr": "ESR",
    "minimum_gain_esr": "ESR, gain of 20 or more",
    "recovery": "whole response recovers",
}


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


RUNS = {"steering": "steering", "detection": "esr_detection"}  # first word of a figure's name -> folder of its run
RESULTS: dict[str, tuple[Callable[..., Figure], tuple[str, ...]]] = {
    "steering_resid_norms": (resid_norms, ("resid_norms",)),
    "steering_sweep": (sweep_curve, ("sweep",)),
    "steering_topicality_over_tokens": (topicality_over_tokens, ("curves",)),
    "steering_latent_grid": (latent_grid, ("grid",)),
    "steering_calibration": (calibration_posteriors, ("calibration", "beliefs")),
    "detection_effort": (calibration_effort, ("effort",)),
    "detection_first_scores": (first_scores, ("first_scores",)),
    "detection_rates": (rates_beside_paper, ("rates_beside_paper",)),
    "detection_levels": (strength_levels, ("levels",)),
    "detection_judges": (judge_agreement, ("judge_pairs",)),
    "detection_coverage": (interval_coverage, ("coverage",)),
}


def draw_result(name: str, folder: Path, *, scale: str) -> Path:
    """Draw one figure from the result files it needs; its csv is the first of them."""
    draw, needed = RESULTS[name]
    frames = [pd.read_csv(folder / f"{file}.csv") for file in needed]
    return save_figure(draw(*frames), frames[0], name, scale=scale)


def main() -> None:
    use_style()
    for name in RESULTS:
        run = RUNS[name.split("_")[0]]
        draw_result(name, results_dir("smollm2-135m", run, "standard"), scale="standard")


if __name__ == "__main__":
    main()
