"""Figures of the notebooks, one function each: a frame in, a figure out; ``draw_result`` draws from result files."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from esr_utils.config import results_dir
from esr_utils.plots import ablation, detection, discovery, explorer, fine_tuning, following, meta_prompting, steering
from esr_utils.plots.style import save_figure, use_style

__all__ = ["RESULTS", "committed_folder", "draw_result", "save_figure", "use_style"]

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
    "explorer_traces": (explorer.traces, ("tokens",)),
    "tuning_shares": (fine_tuning.shares, ("by_share",)),
    "tuning_controls": (fine_tuning.controls, ("controls",)),
    "tuning_beside_paper": (fine_tuning.beside_paper, ("beside_paper",)),
}


def committed_folder(name: str) -> Path:
    """Folder of the committed tables that the figure called ``name`` shows."""
    return results_dir(*RUNS[name.split("_")[0]], "standard")


def draw_result(name: str, folder: Path, *, scale: str) -> Path:
    """Draw one figure from the result files it needs; its csv is the first of them."""
    draw, needed = RESULTS[name]
    frames = [pd.read_csv(folder / f"{file}.csv") for file in needed]
    return save_figure(draw(*frames), frames[0], name, scale=scale)
