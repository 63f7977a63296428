"""Figs 14 to 21, the tables and the later controls of the paper; frames from ``esr_utils.paper_controls``."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from esr_utils.plots.marks import GREEN, KEY, TITLES, finish, forest
from esr_utils.plots.meta_prompting import KIND_NAMES
from esr_utils.plots.paper import PERPLEXITY
from esr_utils.plots.style import BLUE, COLUMN_INCHES, GREY, ORANGE, SMALL, beside

QUANTITIES = {"restart": (BLUE, "o"), "shift": (GREEN, "s"), "recovery": (ORANGE, "D")}


def fig14_18(frame: pd.DataFrame) -> Figure:
    """Whole-response rates under each kind of meta-prompt, a panel a model; ours count restarts by attempts."""
    figure, axes = plt.subplots(2, 4, figsize=(2 * COLUMN_INCHES, 4.6), sharey=True, sharex=True)
    panels = list(dict.fromkeys(frame["panel"]))
    for axis, panel in zip(axes.flat, panels, strict=False):
        _kinds(axis, frame[frame["panel"] == panel])
    axes[0][0].set_yticks(range(len(KIND_NAMES)), KIND_NAMES.values(), fontsize=7)
    axes[1][0].invert_yaxis()
    axes[1][0].set_xlim(-1.5, None)
    _quantity_key(axes.flat[-1])
    told = "steered responses (%), whole-response judge: of the attempts under these prompts a picture was published"
    key = "open: published, n told without a meta-prompt only, naive 95%; filled: ours, 95% clustered"
    finish(figure, f"{told}\n{key}", w_pad=0.8)
    return figure


def _kinds(axis: Axes, part: pd.DataFrame) -> None:
    kinds = list(KIND_NAMES)
    for i, (quantity, (colour, marker)) in enumerate(QUANTITIES.items()):
        mine = part[(part["arm"] == quantity) & part["value"].notna()]
        if mine.empty:
            continue
        y = [kinds.index(kind) + 0.22 * (i - 1) for kind in mine["who"]]
        is_paper = (mine["origin"] == "paper").any()
        axis.hlines(y, 100 * mine["ci_low"], 100 * mine["ci_high"], color=colour, lw=1, ls=":" if is_paper else "-")
        fill = "white" if is_paper else colour
        axis.plot(100 * mine["value"], y, marker, ms=3.6, color=colour, mfc=fill, mew=0.9, clip_on=False)
    for kind in dict.fromkeys(part.loc[part["value"].isna(), "who"]):
        axis.text(0, kinds.index(kind), "not in the paper", fontsize=SMALL, va="center", color=GREY, style="italic")
    axis.set_title(f"{part['panel'].iloc[0]}, n {part['n'].max():,.0f}", fontsize=8)
    axis.tick_params(labelsize=7, labelbottom=True)


def _quantity_key(axis: Axes) -> None:
    """What the colours stand for, in the panel that is left over."""
    handles = [plt.Line2D([], [], color=colour, marker=marker, ls="", ms=4) for colour, marker in QUANTITIES.values()]
    axis.set_axis_off()
    names = ["explicit restarts", "gradual shifts\n(the paper's alone)", "whole response\nrecovers"]
    axis.legend(handles, names, loc="center", fontsize=7.5, labelspacing=1.0)


def fig20_21(frame: pd.DataFrame) -> Figure:
    """Activation of the detectors by part of the response: published means and ratios, and ours of another SAE."""
    key = "Llama 70B: mean over the detectors, no interval told; Fig 20 is a curve only, no point of it was told"
    panels = {
        "activation": "published: mean activation",
        "ours": "ours: mean activation,\nanother SAE",
        "ratio": "times the baseline",
    }
    return forest(frame, panels, key=f"{key}\nfilled: ours, 95% over responses")


def table1(frame: pd.DataFrame) -> Figure:
    """Where each model is steered: depth on the axis, layer and SAE at the right."""
    figure, axes = plt.subplots(figsize=(2 * COLUMN_INCHES, 0.7 + 0.24 * len(frame)))
    for y, line in enumerate(frame.itertuples()):
        is_paper = line.origin == "paper"
        colour = GREY if is_paper else BLUE
        axes.plot([0, 100], [y, y], color=GREY, lw=0.4, alpha=0.5)
        axes.plot(100 * line.value, y, "o", ms=5, color=colour, mfc="white" if is_paper else colour)
        told = f"layer {line.layer}, {100 * line.value:.1f}%; {line.note}"
        beside(axes, y, told, size=7, color=colour)
    axes.set_yticks(range(len(frame)), frame["who"], fontsize=7.5)
    axes.set(xlim=(0, 100), ylim=(len(frame) - 0.5, -0.5))
    axes.tick_params(axis="x", labelsize=7)
    axes.set_xlabel("depth of the layer (% of layers)", fontsize=8)
    finish(figure, "open: published; filled: ours")
    return figure


def table2(frame: pd.DataFrame) -> Figure:
    """The 26 published detectors: Cohen's d, and mean activation off and on topic, with the published p."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(2 * COLUMN_INCHES, 5.6), sharey=True)
    y = range(len(frame))
    colours = [ORANGE if group == "positive" else BLUE for group in frame["sign_group"]]
    left.barh(y, frame["cohens_d"], color=colours, height=0.65)
    left.axvline(0, color=GREY, lw=0.8)
    left.set_xlabel("Cohen's d", fontsize=8)
    left.set_yticks(y, [f"{line.label}  {line.latent}" for line in frame.itertuples()], fontsize=6.5)
    right.hlines(y, frame["on_topic_mean"], frame["off_topic_mean"], color=GREY, lw=0.8)
    right.plot(frame["off_topic_mean"], y, "o", ms=4, color=ORANGE, label="off topic")
    right.plot(frame["on_topic_mean"], y, "s", ms=3.6, color=BLUE, mfc="white", label="on topic")
    right.set_xscale("symlog", linthresh=1e-4)
    right.set_xlabel("mean SAE activation", fontsize=8)
    for at, line in zip(y, frame.itertuples(), strict=True):
        beside(right, at, f"p {'<' if line.p_is_bound else '='} {line.p:.3f}", color=GREY)
    right.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, 1.06), ncols=2)
    left.set_ylim(len(frame) - 0.4, -0.6)
    for axis in (left, right):
        axis.tick_params(axis="x", labelsize=7)
    told = f"published alone: Llama 70B, n = {frame['n'].iloc[0]} corrected responses"
    finish(figure, f"{told}; p one-sided, not corrected for the number of latents")
    return figure


def table3(frame: pd.DataFrame) -> Figure:
    """Settings of the fine-tuning side by side."""
    figure, axes = plt.subplots(figsize=(1.5 * COLUMN_INCHES, 0.24 * (len(frame) + 1)))
    names = {"setting": "", "paper": "paper, Llama 8B", "sweep": "ours, sweep", "corrector": "ours, corrector"}
    for x, (name, title) in zip((0.0, 0.5, 0.73, 1.0), names.items(), strict=True):
        look = {"ha": "right" if x else "left", "va": "center", "fontsize": 7.5}
        axes.text(x, 0, title, weight="bold", **look)
        for y, value in enumerate(frame[name], start=1):
            axes.text(x, y, value, color=BLUE if name in ("sweep", "corrector") else "black", **look)
    axes.axhline(0.5, color=GREY, lw=0.8)
    axes.set(xlim=(0, 1), ylim=(len(frame) + 0.5, -0.5))
    axes.set_axis_off()
    return figure


def prefill(frame: pd.DataFrame) -> Figure:
    """Restarts of an unsteered model on the beginning of derailed answers, beside live steering."""
    panels = {"restart": "restarts (%)", "improvement": "improved, of restarts (%)"}
    return forest(frame, panels, key=f"published: Llama 70B, rebuttal\n{KEY}", is_stacked=True)


def held_out(frame: pd.DataFrame) -> Figure:
    """Rates on held-out prompts by what was ablated; of ours the change too, trial by trial."""
    panels = {panel: TITLES[panel] for panel in ("multi_attempt", "esr")}
    if (frame["panel"] == "change").any():
        panels["change"] = "several attempts,\nchange (% points)"
    told = "by what was ablated, on held-out prompts; published: Llama 70B, rebuttal"
    told = f"{told}\nd: Cohen's d of a latent's activation, off topic less on topic (the paper's Table 2)"
    return forest(frame, panels, key=f"{told}\n{KEY}, of the change alone\n{PERPLEXITY}")


def matched_prefix(frame: pd.DataFrame) -> Figure:
    """What an on-topic beginning is worth under steering."""
    panels = {"points": "points of score", "ratio": "own correction, times generic", "share": "share due to text read"}
    told = "open: Llama 70B, version 2, known from notes of third parties alone: no n, no interval"
    return forest(frame, panels, key=f"{told}\nfilled, solid: ours, 95% clustered", is_stacked=True)


def other_vectors(frame: pd.DataFrame) -> Figure:
    """ESR under contrastive vectors, and the range of their strengths."""
    panels = {"esr": TITLES["esr"], "strength": "calibrated multiplier"}
    return forest(frame, panels, key=f"published: Llama 70B, rebuttal\n{KEY}", is_stacked=True)


def whole_response(frame: pd.DataFrame) -> Figure:
    """Rates of the whole-response judge."""
    panels = {panel: TITLES[panel].replace("\n", " ") for panel in ("restart", "shift", "recovery")}
    return forest(frame, panels, key=f"whole-response judge, rebuttal; our restarts are counted by attempts\n{KEY}")


def versions(frame: pd.DataFrame) -> Figure:
    """The effect of the ablation as each version tells it."""
    key = "open: Llama 70B, no interval published; filled: ours, 95% clustered, rate without ablation taken as known"
    return forest(frame, {"reduction": "less than without ablation (%)"}, key=f"{key}\n{PERPLEXITY}")
