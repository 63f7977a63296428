"""Published numbers and the kit's own results in one shape, side by side: the lines that the paper's figures draw.

Columns of every frame here: panel, who, arm, origin (``paper``, ``ours`` or ``AUTHORS``), value (rates are 0 to 1,
scores 0 to 100), ci_low, ci_high, n_events, n, interval (how it was made), note (said in the figure), source. A line
without a value says in its note why there is none: nothing is drawn for it but those words.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from esr_utils import published
from esr_utils.config import DATA, results_dir
from esr_utils.result_tables import read_table

LINE = ("panel", "who", "arm", "origin", "value", "ci_low", "ci_high", "n_events", "n", "interval", "note", "source")
MODELS = {  # as published -> as told in a figure
    "Llama-3.3-70B-Instruct": "Llama 70B",
    "Llama-3.1-8B-Instruct": "Llama 8B",
    "Gemma-2-27B-it": "Gemma 27B",
    "Gemma-2-9B-it": "Gemma 9B",
    "Gemma-2-2B-it": "Gemma 2B",
}
PAIR = "smollm2-135m"
# on the corrector alone, which has restarts to study
CORRECTOR_RUNS = ("latent_discovery", "ablation", "following", "topic_directions")
SUBJECTS = {PAIR: "ours, base", f"{PAIR}-corrector": "ours, corrector"}
NAIVE = "naive (Wilson)"
ROUNDED = f"{NAIVE}, events worked out from the rounded rate"
COUNTED = {  # published rate -> published number of its events, where there is one
    "p0045": "p0043",
    "p0387": "p0388",
    "p0390": "p0391",
    "p0393": "p0394",
    "p0396": "p0397",
}
CLUSTERED = "95%, clustered or exact"
PICTURE = "picture, no number"
NOT_YET = "not measured yet"
AUTHORS = "authors' code"  # origin of what is counted from result files of the authors' code; it is not ours
ONE_OF_MANY = "one of many"  # drawn as a point of its own, without interval and counts


def result(run: str, name: str) -> pd.DataFrame:
    """A committed table of the embedded pair; see ``result_tables.read_table`` for errors."""
    return read_table(_folder(run), name)


def is_measured(run: str, name: str) -> bool:
    """Whether a table of the runs that are not all there yet (``CORRECTOR_RUNS``) has been committed."""
    return run not in CORRECTOR_RUNS or (_folder(run) / f"{name}.csv").is_file()


def perplexity(name: str) -> str:
    """What an ablation of ours does to language, for its name: perplexity of unsteered answers, times that without."""
    if name == "none" or not is_measured("ablation", "side_effects"):
        return ""
    costs = result("ablation", "side_effects").query("name == @name")["perplexity_ratio"]
    if costs.empty:
        return ""
    least, most = f"{costs.min():.3g}", f"{costs.max():.3g}"
    return f" (×{least})" if least == most else f"\n(×{least} to {most})"


def _folder(run: str) -> Path:
    if run == "validation":
        return DATA / "judge" / run
    return results_dir(f"{PAIR}-corrector" if run in CORRECTOR_RUNS else PAIR, run, "standard")


def paper_line(panel: str, who: str, number: str | None, *, arm: str = "", note: str = "") -> dict:
    """One published number; rates get the naive interval where their n was published. ``None``: ``note`` alone.

    Events are those that were published, else worked out from the rounded rate.
    """
    line = dict.fromkeys(LINE, np.nan) | {"panel": panel, "who": who, "arm": arm, "origin": "paper"}
    line |= {"interval": "", "note": note, "source": ""}
    if number is None:
        return line
    row = published.line(number)
    is_rate = row["unit"].startswith("%")
    line |= {"value": published.value(number) / (100 if is_rate else 1), "n": row["n"]}
    line["source"] = f"{number}: {row['source']} ({row['version']})"
    if is_rate and pd.notna(row["n"]):
        counted = published.value(COUNTED[number]) / row["n"] if number in COUNTED else line["value"]
        line |= naive(counted, row["n"]) | {"interval": NAIVE if number in COUNTED else ROUNDED}
    return line


def naive(rate: float, n: float) -> dict[str, float]:
    """Events, ci_low and ci_high of a rate (0 to 1), trials taken for independent."""
    return published.wilson(pd.Series([rate]), pd.Series([n])).iloc[0].to_dict()


def words(panel: str, who: str, note: str, *, origin: str = "paper", arm: str = "") -> dict:
    """A line that has no number, and says why."""
    return paper_line(panel, who, None, arm=arm, note=note) | {"origin": origin}


def our_lines(run: str, name: str, chosen: Mapping[str, object], *, panels: Sequence[str], arm: str = "") -> list[dict]:
    """Lines of a committed table where its columns have the ``chosen`` values, one for every panel (quantity).

    Raises:
        ValueError: if no line or several fit.
    """
    frame = result(run, name)
    subject = chosen.get("subject", PAIR)
    lines = []
    for panel in panels:
        row = one_line(frame, {**chosen, "quantity": panel}, f"{run}/{name}.csv")
        line = dict.fromkeys(LINE, np.nan) | {"panel": panel, "who": SUBJECTS[str(subject)], "arm": arm}
        line |= {column: row[column] for column in ("ci_low", "ci_high", "n_events", "n")}
        line |= {"origin": "ours", "value": row["value" if "value" in row else "rate"], "interval": CLUSTERED}
        line |= {"note": "" if row["n"] else "no trial to count", "source": f"{run}/{name}.csv"}
        lines.append(line)
    return lines


def one_line(frame: pd.DataFrame, chosen: Mapping[str, object], told: str) -> pd.Series:
    """The one line whose columns have these values; ``told`` names the table in the error."""
    fits = np.logical_and.reduce([_same(frame[column], value) for column, value in chosen.items()])
    if fits.sum() != 1:
        asked = ", ".join(f"{column} {value}" for column, value in chosen.items())
        raise ValueError(f"{told} has {fits.sum()} lines with {asked}; there must be one.")
    return frame[fits].iloc[0]


def _same(column: pd.Series, value: object) -> np.ndarray:
    """Where a column has a value; an empty one stands for a field that is not known."""
    if value == "":
        return column.isna().to_numpy()
    return (column == (float(value) if pd.api.types.is_numeric_dtype(column) else value)).to_numpy()


def frame_of(lines: Sequence[Mapping[str, object]], *more: str) -> pd.DataFrame:
    """The frame of some lines; ``more`` names further columns."""
    return pd.DataFrame(lines, columns=[*LINE, *more])
