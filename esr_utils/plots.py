"""One function a figure: a frame in, a figure out. ``save_figure`` writes the picture and its csv side by side.

``python -m esr_utils.plots`` draws every figure again from committed results, without torch.
"""

from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
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


RESULTS: dict[str, tuple[Callable[..., Figure], tuple[str, ...]]] = {
    "resid_norms": (resid_norms, ("resid_norms",)),
    "sweep": (sweep_curve, ("sweep",)),
    "topicality_over_tokens": (topicality_over_tokens, ("curves",)),
    "latent_grid": (latent_grid, ("grid",)),
    "calibration": (calibration_posteriors, ("calibration", "beliefs")),
}


def draw_result(name: str, folder: Path, *, scale: str) -> Path:
    """Draw one figure from the result files it needs; its csv is the first of them."""
    draw, needed = RESULTS[name]
    frames = [pd.read_csv(folder / f"{file}.csv") for file in needed]
    return save_figure(draw(*frames), frames[0], f"steering_{name}", scale=scale)


def main() -> None:
    use_style()
    for name in RESULTS:
        draw_result(name, results_dir("smollm2-135m", "steering", "standard"), scale="standard")


if __name__ == "__main__":
    main()
