"""Figs 2 to 5 from result files of the authors' code: published numbers beside what ``import_authors`` has read.

Frames are those of ``esr_utils.beside``, drawn by the same functions as the paper's figures; what is counted here has
the origin ``AUTHORS`` and is never called ours.
"""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from esr_utils import metrics, paper_frames
from esr_utils.beside import AUTHORS, CLUSTERED, MODELS, frame_of, words
from esr_utils.plots import paper
from esr_utils.plots.style import save_figure

N_DRAWS = 2000  # of the bootstrap: a thousand latents in seconds; ends of two seeds differ by some 4% of the width
MOST_STRENGTHS = 30  # a sweep gives all latents the same few


def fig2(trials: pd.DataFrame) -> pd.DataFrame:
    """Several attempts, improvement and ESR at each latent's own strength, a line a model.

    Args:
        trials: as ``authors.import_authors`` gives them, of one file or of several together.

    Raises:
        ValueError: none of the trials is of that kind. So do the other figures.
    """
    lines = _lines(_at_own_strength(trials, "steered"), paper_frames.RATES)
    return frame_of([*paper_frames.fig2_published(), *lines])


def fig3(trials: pd.DataFrame) -> pd.DataFrame:
    """The same along the strength, which is told in standard deviations from the mean (x), as the paper does.

    Differs from the paper: mean and deviation are those of the latents in ``trials``, there of every calibrated latent.
    """
    swept = trials[trials["condition"].isin(["steered", "baseline"])]
    n = swept["strength"].nunique()
    if not 2 <= n <= MOST_STRENGTHS:
        raise ValueError(f"{n} strengths in the trials, and a sweep has 2 to {MOST_STRENGTHS}; give a file of a sweep")
    own = (swept["strength"] / swept["level"]).where(swept["level"] > 0).groupby(swept["latent"]).median()
    lines = []
    for strength, mine in swept.groupby("strength"):
        x = (strength - own.mean()) / own.std(ddof=0)
        lines += [line | {"x": x} for line in _lines(mine, paper_frames.RATES)]
    return frame_of([*paper_frames.fig3_published(), *lines], "x")


def fig4(trials: pd.DataFrame) -> pd.DataFrame:
    """First score, several attempts and ESR without a meta-prompt and with the self-monitoring one."""
    lines = paper_frames.fig4_published()
    for arm, condition in zip(paper_frames.META_ARMS, ("steered", "self_monitor"), strict=True):
        mine = _at_own_strength(trials, condition)
        lines += [line | {"arm": arm} for line in _lines(mine, paper_frames.SCORE_AND_RATES)]
    return frame_of(lines)


def fig5(trials: pd.DataFrame) -> pd.DataFrame:
    """First score, several attempts and ESR with nothing ablated and with what the file says was."""
    lines = paper_frames.ablation_published(paper_frames.FIG5)
    for told, condition in (("nothing", "steered"), ("ablated", "ablated")):
        mine = _lines(_at_own_strength(trials, condition), paper_frames.SCORE_AND_RATES)
        lines += [line | {"who": f"{line['who']}: {told}"} for line in mine]
    return frame_of(lines)


FIGURES: dict[str, tuple[Callable[[pd.DataFrame], Figure], Callable[[pd.DataFrame], pd.DataFrame]]] = {
    "fig2": (paper.fig2, fig2),
    "fig3": (paper.fig3, fig3),
    "fig4": (paper.fig4, fig4),
    "fig5": (paper.ablation, fig5),
}


def draw(name: str, trials: pd.DataFrame, *, scale: str) -> Path:
    """Draw one of ``FIGURES`` as ``authors_<name>.png`` with its csv; errors as of its frame."""
    make_figure, make_frame = FIGURES[name]
    frame = make_frame(trials)
    return save_figure(make_figure(frame), frame, f"authors_{name}", scale=scale)


def _at_own_strength(trials: pd.DataFrame, condition: str) -> pd.DataFrame:
    """Trials of one condition, each at the strength that its latent was calibrated to."""
    mine = trials[(trials["condition"] == condition) & (trials["level"] == 1.0)]
    if mine.empty:
        known = ", ".join(sorted(set(trials["condition"])))
        raise ValueError(
            f"no trial is {condition} at its latent's own strength; conditions are {known}: add such a file"
        )
    return mine


def _lines(trials: pd.DataFrame, panels: tuple[str, ...]) -> list[dict]:
    """One line a model and panel, with intervals that allow for shared latents and questions."""
    rates = metrics.rates(trials, ["subject"], n_draws=N_DRAWS).rename(columns={"rate": "value"})
    scores = metrics.means(trials, ["subject"], "first_score", n_draws=N_DRAWS).rename(columns={"mean": "value"})
    table = pd.concat([rates, scores.assign(quantity="first_score", n_events=scores["n"])])
    lines = []
    for row in table[table["quantity"].isin(panels)].to_dict("records"):
        known = {column: row[column] for column in ("value", "ci_low", "ci_high", "n_events", "n")}
        model = row["subject"].split("/")[-1]
        note = "" if row["n"] else "no trial to count"
        line = words(row["quantity"], f"{AUTHORS}, {MODELS.get(model, model)}", note, origin=AUTHORS)
        lines.append(line | known | {"interval": CLUSTERED, "source": f"trials of {row['subject']}"})
    return lines
