"""Tables of the prefill 2x2 and of sustained resistance: rates and scores of each cell, declared contrasts, counts."""

import pandas as pd

from esr_utils import metrics, paired, published, summaries
from esr_utils.prefixes import ARMS, FIT, GENERIC, NONE, OFF_TOPIC, OWN, SOURCES, STEERED, UNSTEERED

PAIRED = ("multi_attempt", "esr", "minimum_gain_esr")
OUTCOMES = (*PAIRED, "improvement")  # its denominator, responses with several attempts, differs from cell to cell
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


def candidates(found: pd.DataFrame, segments: pd.DataFrame) -> pd.DataFrame:
    """What became of every response looked at, and how those that fit are cut.

    Args:
        found: as ``Following.prefixes`` gives it.
        segments: as ``Following.segments`` gives it.

    Returns:
        One line a source of beginnings, and one for the episodes that segments are taken from: taken, a column a
        status, and of the beginnings that fit mean_tokens and ends_sentence (share that stop where a sentence does).
    """
    episodes = segments[segments["arm"] == OWN].assign(source="episodes")
    both = pd.concat([found, episodes], ignore_index=True)
    counts = pd.crosstab(both["source"], both["status"])
    fit = found[found["status"] == FIT].groupby("source")
    cut = pd.DataFrame({"mean_tokens": fit["n_tokens"].mean(), "ends_sentence": fit["ends_sentence"].mean()})
    return counts.join(cut).reindex([*SOURCES, "episodes"]).rename_axis("taken").reset_index()


def cell_table(cells: pd.DataFrame) -> pd.DataFrame:
    """One line a source, cell and outcome: source, prefix, continuation, and the columns of ``metrics.rates``.

    Args:
        cells: as ``Following.cells`` makes it.
    """
    table = metrics.rates(cells, ["source", "prefix", "continuation"])
    return table[table["quantity"].isin(OUTCOMES)].reset_index(drop=True)


def cell_contrasts(cells: pd.DataFrame) -> pd.DataFrame:
    """The declared contrasts within each source, trial by trial: source, contrast, and those of ``paired.rates``."""
    lines = []
    for source in (source for source in SOURCES if (cells["source"] == source).any()):
        mine = cells[cells["source"] == source]
        for contrast, between in CELL_CONTRASTS.items():
            for quantity in PAIRED:
                line = paired.rates(mine, between, quantity=quantity)
                lines.append(line.assign(source=source, contrast=contrast))
    table = pd.concat(lines, ignore_index=True)
    return table[["source", "contrast", *table.columns.drop(["source", "contrast"])]]


def cells_beside_paper(by_cell: pd.DataFrame) -> pd.DataFrame:
    """Restarts after steered beginnings in words: the paper's unsteered continuations, then ours of both kinds.

    Args:
        by_cell: as ``cell_table`` makes it.

    Returns:
        who, continuation, restarts (rate with what it was measured on). The paper's were published without intervals.
    """
    paper = [("paper", UNSTEERED, published.cite(number)) for number in published.PREFILL]
    mine = by_cell[(by_cell["prefix"] == STEERED) & (by_cell["quantity"] == PRIMARY)]
    ours = [(f"ours, {line['source']}", line["continuation"], summaries.told(line)) for _, line in mine.iterrows()]
    return pd.DataFrame([*paper, *ours], columns=["who", "continuation", "restarts"])


def sustained_beside_paper(table: pd.DataFrame, contrasts: pd.DataFrame) -> pd.DataFrame:
    """The paper's three numbers of its matched-prefix control and ours: quantity, paper, ours.

    Args:
        table: as ``sustained_table`` makes it.
        contrasts: as ``sustained_contrasts`` makes it.
    """
    mean, difference = table.set_index("arm"), contrasts.set_index(["arm", "less"])
    own, gain, over = mean.loc[OWN], difference.loc[(GENERIC, NONE)], difference.loc[(OWN, GENERIC)]
    ratio = own["mean"] / mean.loc[GENERIC, "mean"] if mean.loc[GENERIC, "mean"] else float("nan")
    ours = [
        _points(gain, "difference", "n_pairs"),
        _points(own, "mean", "n"),
        f"{ratio:.1f} times; {_points(over, 'difference', 'n_pairs')}",
    ]
    quantities = ["generic less none", "own, level (the paper's may be a gain)", "own over generic (the paper: times)"]
    cited = [published.cite(number) for number in published.MATCHED_PREFIX]
    return pd.DataFrame({"quantity": quantities, "paper": cited, "ours": ours})


def _points(line: pd.Series, value: str, n: str) -> str:
    return f"{line[value]:.1f} points [{line['ci_low']:.1f}, {line['ci_high']:.1f}], {n} = {line[n]:.0f}"


def sustained_table(arms: pd.DataFrame) -> pd.DataFrame:
    """Mean score of the continuation in each arm with its interval: arm, n_planned, n, mean, ci_low, ci_high, ...

    Args:
        arms: as ``Following.arms`` makes it.
    """
    table = metrics.means(arms, ["arm"], "first_score")
    table = table.assign(n_planned=table["arm"].map(arms.groupby("arm").size()))
    return table.sort_values("arm", key=lambda names: names.map(ARMS.index), ignore_index=True)


def sustained_contrasts(arms: pd.DataFrame) -> pd.DataFrame:
    """The declared differences of mean scores, trial by trial: arm, less, and those of ``paired.means``."""
    lines = [
        paired.means(arms, ({"arm": less}, {"arm": arm}), column="first_score").assign(arm=arm, less=less)
        for arm, less in ARM_CONTRASTS
    ]
    table = pd.concat(lines, ignore_index=True)
    return table[["arm", "less", *table.columns.drop(["arm", "less"])]]
