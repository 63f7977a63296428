"""Figures: one function each, a frame in, a figure out; ``draw_result`` and ``draw_paper`` draw from result files."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from esr_utils import paper_controls as control_frames
from esr_utils import paper_frames as frames
from esr_utils import paper_later as later
from esr_utils.config import results_dir
from esr_utils.plots import (
    ablation,
    detection,
    discovery,
    explorer,
    fine_tuning,
    following,
    meta_prompting,
    paper,
    paper_controls,
    steering,
)
from esr_utils.plots.style import save_figure, use_style
from esr_utils.result_tables import read_table

__all__ = ["PAPER", "RESULTS", "RUNS", "committed_folder", "draw_paper", "draw_result", "save_figure", "use_style"]

# first word of a figure's name -> subject and run in whose folder its tables are
BASE, CORRECTOR = "smollm2-135m", "smollm2-135m-corrector"
RUNS = {
    "steering": (BASE, "steering"),
    "detection": (BASE, "esr_detection"),
    "discovery": (CORRECTOR, "latent_discovery"),
    "ablation": (CORRECTOR, "ablation"),
    "prefill": (CORRECTOR, "following"),
    "sustained": (CORRECTOR, "following"),
    "meta": (BASE, "meta_prompting"),
    "explorer": (CORRECTOR, "explorer"),
    "tuning": (BASE, "fine_tuning"),
}
RESULTS: dict[str, tuple[Callable[..., Figure], tuple[str, ...]]] = {
    "explorer_traces": (explorer.traces, ("tokens",)),
    "steering_resid_norms": (steering.resid_norms, ("resid_norms",)),
    "steering_sweep": (steering.sweep_curve, ("sweep",)),
    "steering_topicality_over_tokens": (steering.topicality_over_tokens, ("curves",)),
    "steering_latent_grid": (steering.latent_grid, ("grid",)),
    "steering_calibration": (steering.calibration_posteriors, ("calibration", "beliefs")),
    "detection_effort": (detection.calibration_effort, ("effort",)),
    "detection_first_scores": (detection.first_scores, ("first_scores",)),
    "detection_rates": (detection.rates_beside_paper, ("rates_beside_paper",)),
    "detection_levels": (detection.strength_levels, ("levels",)),
    "detection_judges": (detection.judge_agreement, ("judge_pairs",)),
    "detection_coverage": (detection.interval_coverage, ("coverage",)),
    "discovery_stability": (discovery.stability, ("stability", "rules")),
    "discovery_levels": (discovery.levels, ("levels",)),
    "discovery_traces": (discovery.traces, ("aligned",)),
    "discovery_episode": (discovery.episode, ("episode",)),
    "ablation_arms": (ablation.arms, ("by_arm",)),
    "ablation_contrasts": (ablation.contrasts, ("contrasts",)),
    "prefill_cells": (following.cells, ("cells",)),
    "sustained_scores": (following.scores, ("sustained", "sustained_contrasts")),
    "meta_kinds": (meta_prompting.kinds, ("by_kind",)),
    "meta_beside_paper": (meta_prompting.beside_paper, ("beside_paper",)),
    "tuning_shares": (fine_tuning.shares, ("by_share",)),
    "tuning_controls": (fine_tuning.controls, ("controls",)),
    "tuning_beside_paper": (fine_tuning.beside_paper, ("beside_paper",)),
}
# the paper's figures, tables and later controls -> the function that draws, and the one that makes its frame
PAPER: dict[str, tuple[Callable[[pd.DataFrame], Figure], Callable[[], pd.DataFrame]]] = {
    "paper_fig2": (paper.fig2, frames.fig2),
    "paper_fig2_gains": (paper.fig2_gains, frames.fig2_gains),
    "paper_fig3": (paper.fig3, frames.fig3),
    "paper_fig4": (paper.fig4, frames.fig4),
    "paper_fig5": (paper.ablation, frames.fig5),
    "paper_fig6": (paper.fig6, frames.fig6),
    "paper_fig9_11": (paper.fig9_11, frames.fig9_11),
    "paper_fig12": (paper.fig12, frames.fig12),
    "paper_fig13": (paper.fig13, frames.fig13),
    "paper_fig14_18": (paper_controls.fig14_18, control_frames.fig14_18),
    "paper_fig19": (paper.ablation, frames.fig19),
    "paper_fig20_21": (paper_controls.fig20_21, control_frames.fig20_21),
    "paper_table1": (paper_controls.table1, control_frames.table1),
    "paper_table2": (paper_controls.table2, control_frames.table2),
    "paper_table3": (paper_controls.table3, control_frames.table3),
    "paper_prefill": (paper_controls.prefill, later.prefill),
    "paper_matched_prefix": (paper_controls.matched_prefix, later.matched_prefix),
    "paper_other_vectors": (paper_controls.other_vectors, later.other_vectors),
    "paper_held_out": (paper_controls.held_out, later.held_out),
    "paper_whole_response": (paper_controls.whole_response, control_frames.whole_response),
    "paper_versions": (paper_controls.versions, later.versions),
}


def committed_folder(name: str) -> Path:
    """Folder of the committed tables that the figure called ``name`` shows."""
    return results_dir(*RUNS[name.split("_")[0]], "standard")


def draw_result(name: str, folder: Path, *, scale: str, formats: Sequence[str] = ("png",)) -> Path:
    """Draw one figure from the result files it needs; its csv is the first of them.

    Raises: what ``result_tables.read_table`` raises.
    """
    draw, needed = RESULTS[name]
    frames_read = [read_table(folder, file) for file in needed]
    return save_figure(draw(*frames_read), frames_read[0], name, scale=scale, formats=formats)


def draw_paper(name: str, *, scale: str = "standard", formats: Sequence[str] = ("png",)) -> Path:
    """Draw one figure of the paper, published numbers beside the committed results; its csv is what is drawn."""
    draw, make = PAPER[name]
    frame = make()
    return save_figure(draw(frame), frame, name, scale=scale, formats=formats)
