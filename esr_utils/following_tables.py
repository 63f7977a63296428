"""Tables of the prefill 2x2 and of sustained resistance: rates and scores of each cell, declared contrasts, counts."""

import pandas as pd

from esr_utils import metrics
from esr_utils.prefixes import ARMS, GENERIC, NONE, OFF_TOPIC, OWN, SOURCES, STEERED, UNSTEERED

OUTCOMES = ("multi_attempt", "esr", "minimum_gain_esr")
PRIMARY = "multi_attempt"  # declared: of both cell contrasts
Arm = dict[str, object]

# declared before the runs: the second less the first
CELL_CONTRASTS: dict[str, tuple[Arm, Arm]] = {
    "steered less unsteered beginning, continued unsteered": (
        {"prefix": UNSTEERED, "continuation": UNSTEERED},
        {"prefix": STEERED, "continuation": UNSTEERED},
    ),
    "steered less unsteered continuation of a steered beginning": (
        {"prefix": STEERED, "continuation": UNSTEERED},
        {"prefix": STEERED, "continuation": STEERED},
    ),
}
ARM_CONTRASTS = ((OWN, GENERIC), (OWN, OFF_TOPIC), (GENERIC, NONE))  # the first less the second


def candidates(found: pd.DataFrame, by: str) -> pd.DataFrame:
    """How many beginnings or segments were looked at, and what became of them: ``by``, then a column a status."""
    return pd.crosstab(found[by], found["status"]).reset_index().rename_axis(columns=None)


def cell_table(cells: pd.DataFrame) -> pd.DataFrame:
    """One line a source, cell and outcome: source, prefix, continuation, and the columns of ``metrics.rates``.

    Args:
        cells: as ``Following.cells`` makes it.
    """
    table = metrics.rates(cells, ["source", "prefix", "continuation"])
    return table[table["quantity"].isin(OUTCOMES)].reset_index(drop=True)


def cell_contrasts(cells: pd.DataFrame) -> pd.DataFrame:
    """The declared contrasts within each source, trial by trial: source, contrast, and those of ``metrics.paired``."""
    lines = []
    for source in (source for source in SOURCES if (cells["source"] == source).any()):
        mine = cells[cells["source"] == source]
        for contrast, between in CELL_CONTRASTS.items():
            for quantity in OUTCOMES:
                line = metrics.paired(mine, between, quantity=quantity)
                lines.append(line.assign(source=source, contrast=contrast))
    table = pd.concat(lines, ignore_index=True)
    return table[["source", "contrast", *table.columns.drop(["source", "contrast"])]]


def sustained_table(arms: pd.DataFrame) -> pd.DataFrame:
    """Mean score of the continuation in each arm with its interval: arm, n_planned, n, mean, ci_low, ci_high, ...

    Args:
        arms: as ``Following.arms`` makes it.
    """
    table = metrics.means(arms, ["arm"], "first_score")
    table = table.assign(n_planned=table["arm"].map(arms.groupby("arm").size()))
    return table.sort_values("arm", key=lambda names: names.map(ARMS.index), ignore_index=True)


def sustained_contrasts(arms: pd.DataFrame) -> pd.DataFrame:
    """The declared differences of mean scores, trial by trial: arm, less, and those of ``metrics.paired_means``."""
    lines = [
        metrics.paired_means(arms, ({"arm": less}, {"arm": arm}), column="first_score").assign(arm=arm, less=less)
        for arm, less in ARM_CONTRASTS
    ]
    table = pd.concat(lines, ignore_index=True)
    return table[["arm", "less", *table.columns.drop(["arm", "less"])]]
