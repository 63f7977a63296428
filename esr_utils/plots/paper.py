"""Figs 2 to 6, 9 to 13 and 19 of the paper, from published numbers and ours; frames from ``esr_utils.paper_frames``."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from esr_utils.beside import AUTHORS
from esr_utils.plots.marks import GREEN, KEY, TITLES, finish, forest, key_of
from esr_utils.plots.style import BLUE, COLUMN_INCHES, GREY, ORANGE, SMALL

COLOURS = {"ours, base": BLUE, "ours, corrector": ORANGE, "ours, fine-tuned": BLUE}
LINES = {"ours, base": "--", "ours, corrector": "-"}
FEW = 10  # trials below which a point says its own number
SDS = "sd from the mean strength"
PERPLEXITY = "×: perplexity of our unsteered answers under the ablation, times that without it"
RATES = ("multi_attempt", "improvement", "esr")


def fig2(frame: pd.DataFrame) -> Figure:
    """Rates of the steered models."""
    return forest(frame, {panel: TITLES[panel] for panel in RATES})


def fig2_gains(frame: pd.DataFrame) -> Figure:
    """The distribution of last less first score of ours; the paper's was published as a picture only."""
    figure, axes = plt.subplots(figsize=(COLUMN_INCHES, 2.0))
    steps(axes, frame[frame["origin"] == "ours"], width=10.0)
    axes.axvline(0, color=GREY, lw=0.8, ls="--")
    axes.set_xlabel("last less first score (points)", fontsize=8)
    axes.set_ylabel("trials with\nseveral attempts", fontsize=8)
    told = "ours; of the paper's gains a picture was published, no numbers"
    finish(figure, key_of(frame, told))
    return figure


def steps(axis: Axes, part: pd.DataFrame, *, width: float) -> None:
    """A histogram of each ``who``: n_events trials in the bin whose middle is x."""
    for who, mine in part.groupby("who", sort=False):
        edges = [*(mine["x"] - width / 2), mine["x"].iloc[-1] + width / 2]
        told = f"{who}, n = {mine['n'].iloc[0]:.0f}"
        look = {"color": COLOURS[who], "ls": LINES[who], "zorder": 3 if LINES[who] == "--" else 2}
        axis.stairs(mine["n_events"], edges, lw=1.3, label=told, **look)
    axis.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axis.legend(fontsize=SMALL, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    axis.tick_params(labelsize=7)


def fig3(frame: pd.DataFrame) -> Figure:
    """Rates along the strength: above, the three peaks that the paper tells of its curves; below, ours by level."""
    figure, axes = plt.subplots(2, 3, figsize=(2 * COLUMN_INCHES, 3.9))
    origin = frame.loc[frame["origin"] != "paper", "origin"].iloc[0]
    xlabel = SDS if origin == AUTHORS else "level (share of the latent's strength)"
    for column, panel in zip(axes.T, RATES, strict=True):
        part = frame[frame["panel"] == panel]
        _peak(column[0], part[part["origin"] == "paper"].iloc[0])
        along(column[1], part[part["origin"] == origin], xlabel=xlabel)
        column[0].set_title(TITLES[panel], fontsize=8, pad=11)
    axes[0][0].set_ylabel("Llama 70B", fontsize=8)
    axes[1][0].set_ylabel(origin, fontsize=8)
    axes[1][0].legend(fontsize=SMALL, loc="upper left")
    key = f"above: of the paper's curves only the peaks are told\n{KEY}"
    finish(figure, key_of(frame, key), w_pad=1.2)
    return figure


def _peak(axis: Axes, line: pd.Series) -> None:
    axis.plot([line["x"]] * 2, [100 * line["ci_low"], 100 * line["ci_high"]], ":", color=GREY, lw=1.2)
    axis.plot(line["x"], 100 * line["value"], "o", ms=4.2, color=GREY, mfc="white")
    n = "n not told" if pd.isna(line["n"]) else f"≈{line['n_events']:.0f}/{line['n']:.0f}"
    told = f"peak {100 * line['value']:.1f}, {n}"
    axis.text(0.5, 1.0, told, transform=axis.transAxes, fontsize=SMALL, ha="center", va="bottom", color=GREY)
    top = 100 * (line["value"] if pd.isna(line["ci_high"]) else line["ci_high"])
    axis.set(xlim=(-3.2, 3.2), ylim=(0, 1.2 * top))
    axis.set_xlabel(SDS, fontsize=7.5)
    axis.tick_params(labelsize=7)


def along(axis: Axes, part: pd.DataFrame, *, xlabel: str) -> None:
    """Lines with bands along x, one a ``who``; published ones open and dotted; on few trials a faint point alone."""
    for who, mine in part.dropna(subset=["value"]).groupby("who", sort=False):
        is_paper = mine["origin"].iloc[0] == "paper"
        colour, is_few = GREY if is_paper else COLOURS.get(who, GREEN), mine["n"] < FEW
        enough = mine[~is_few]
        low, high = 100 * enough["ci_low"], 100 * enough["ci_high"]
        axis.fill_between(enough["x"], low, high, color=colour, alpha=0.15, lw=0)
        look = {"ls": ":" if is_paper else "-", "color": colour, "mfc": "white" if is_paper else colour}
        if len(enough):  # of an empty line that is not clipped the layout would make room at the figure's corner
            axis.plot(enough["x"], 100 * enough["value"], marker="o", ms=3, lw=1, label=who, clip_on=False, **look)
        for line in mine[is_few].itertuples():
            _few(axis, line, colour)
    least, most = part["n"].min(), part["n"].max()
    told = f"n {most:,.0f}" if least == most else f"n {max(least, 0):,.0f} to {most:,.0f}"
    axis.text(0.5, 1.0, told, transform=axis.transAxes, fontsize=SMALL, ha="center", va="bottom", color=GREY)
    axis.set_ylim(0, None)
    axis.set_xlabel(xlabel, fontsize=7.5)
    axis.tick_params(labelsize=7)


def _few(axis: Axes, line: tuple, colour: str) -> None:
    """A point without line and interval, since an interval on so few holds nearly everything."""
    axis.plot(line.x, 100 * line.value, "o", ms=3, color=colour, mew=0, alpha=0.5, clip_on=False)
    look = {"xytext": (3, -9 if line.value > 0.1 else 3), "textcoords": "offset points", "fontsize": SMALL}
    axis.annotate(f"n {line.n:.0f}", (line.x, 100 * line.value), color=colour, **look)


def fig4(frame: pd.DataFrame) -> Figure:
    """First score and rates without a meta-prompt and with the self-monitoring one."""
    return forest(frame, {panel: TITLES[panel] for panel in ("first_score", "multi_attempt", "esr")}, row_inches=0.3)


def ablation(frame: pd.DataFrame) -> Figure:
    """First score and rates by what was ablated (Figs 5 and 19)."""
    panels = {panel: TITLES[panel] for panel in ("first_score", "multi_attempt", "esr")}
    key = f"by what was ablated\n{KEY}"
    has_costs = frame["who"].str.contains("×").any()
    return forest(frame, panels, row_inches=0.3, key=f"{key}\n{PERPLEXITY}" if has_costs else key)


def fig6(frame: pd.DataFrame) -> Figure:
    """Along the share of corrections: published whole-response rates at the left, then ours."""
    figure, axes = plt.subplots(1, 5, figsize=(2 * COLUMN_INCHES, 2.1))
    paper = frame[(frame["origin"] == "paper") & (frame["panel"] == "recovery")]
    along(axes[0], paper, xlabel="share of corrections")
    axes[0].set_title("Llama 8B: whole\nresponse recovers (%)", fontsize=7.5, pad=11)
    titles = ("several\nattempts (%)", "improved,\nof several (%)", "ESR (%)", "whole response\nrecovers (%)")
    for axis, panel, title in zip(axes[1:], (*RATES, "recovery"), titles, strict=True):
        part = frame[(frame["origin"] == "ours") & (frame["panel"] == panel)]
        along(axis, part, xlabel="share of corrections")
        axis.set_title(f"ours: {title}", fontsize=7.5, pad=11)
    for axis in axes:
        axis.set_xlim(-0.06, 0.94)
    highest = max(axes[0].get_ylim()[1], axes[-1].get_ylim()[1])
    for axis in (axes[0], axes[-1]):  # the same quantity: the same scale
        axis.set_ylim(0, highest)
    told = frame.loc[frame["panel"] == "esr", "note"].iloc[0]
    finish(figure, f"Fig 6 itself: {told}\n{KEY}", w_pad=0.6)
    return figure


def fig9_11(frame: pd.DataFrame) -> Figure:
    """Agreement of judges, and how their first scores go together."""
    key = "dotted: published, lowest to highest pair of judges (by pair a picture only); filled, solid: ours, 95%"
    panels = {"agreement": "agreement, precision, recall (%)", "spearman": "Spearman, first scores"}
    figure = forest(frame, panels, key=key, is_stacked=True)
    figure.axes[0].set(xlim=(70, 101), xticks=(70, 80, 90, 100))
    figure.axes[1].set(xlim=(0, 1.03), xticks=(0, 0.25, 0.5, 0.75, 1))
    return figure


def fig12(frame: pd.DataFrame) -> Figure:
    """Several attempts and ESR without steering."""
    panels = {panel: f"{TITLES[panel]}, no steering" for panel in ("multi_attempt", "esr")}
    return forest(frame, panels, key=f"by model the paper shows a picture only\n{KEY}")


def fig13(frame: pd.DataFrame) -> Figure:
    """Mean first scores without steering, and the distribution of ours."""
    figure = forest(frame, {"first_score": TITLES["first_score"], "trials": ""}, key="")
    left, right = figure.axes
    right.remove()
    axis = figure.add_subplot(1, 2, 2)
    steps(axis, frame[frame["panel"] == "trials"], width=5.0)
    axis.set_xlabel("first-attempt score", fontsize=7.5)
    axis.set_ylabel("trials", fontsize=7.5)
    left.set_xlim(0, 100)
    told = "open: published, no interval, of the distribution a picture only; filled and lines: ours, 95% clustered"
    finish(figure, key_of(frame, told))
    return figure
