"""What claims need that no result table holds in one line: counted from committed tables, each with its own words."""

from collections.abc import Callable

import pandas as pd

from esr_utils.beside import is_measured, result
from esr_utils.published import wilson

NEAR = 0.1  # what was published as "about" a share is taken to hold this far from it


def detectors() -> pd.DataFrame:
    """Latents that a rule of discovery keeps, a line a rule.

    Columns: rule, n_events (kept of one derangement at most), n (latents read), by_chance (kept at most in a shuffle;
    of the kit's own rule, 0 for those of the paper, which were not shuffled), words.
    """
    rules, shuffles = result("latent_discovery", "rules"), result("latent_discovery", "false_discoveries")["n_chosen"]
    n = len(result("latent_discovery", "statistics"))
    table = rules.assign(n_events=rules["most"], n=n, by_chance=0)
    is_ours = table["rule"].str.endswith("(ours)")
    table.loc[is_ours, "by_chance"] = shuffles.max()
    kept = table["n_events"].map("{:.0f}".format) + f" of {n:,} latents"
    chance = f"; {shuffles.mean():.1f} by chance on average, {shuffles.max()} at most, in {len(shuffles)} shuffles"
    return table.assign(words=kept + is_ours.map({True: chance, False: ""}))


def sets() -> pd.DataFrame:
    """Random sets ablated less nothing ablated, a line a quantity.

    Columns: quantity, n_events (sets whose interval excludes 0), n (sets), words.
    """
    table = result("ablation", "contrasts").query("name == 'matched set'")
    lines = []
    for quantity, mine in table.groupby("quantity", sort=False):
        factor = 1 if quantity == "first_score" else 100
        is_apart, points = (mine["ci_low"] > 0) | (mine["ci_high"] < 0), factor * mine["difference"]
        told = f"{points.mean():.1f} points on average, {points.min():.1f} to {points.max():.1f} in {len(mine)} sets"
        lines.append({"quantity": quantity, "n_events": int(is_apart.sum()), "n": len(mine), "words": told})
    return pd.DataFrame(lines)


def filters() -> pd.DataFrame:
    """Latents that pass both filters of the vocabulary: as the paper tells them, and as the authors' code has them.

    Columns: version, value (share), n_events, n, words.
    """
    table, lines = result("steering", "filters"), []
    for version in ("paper", "code"):
        is_left = table[f"unrelated_{version}"] & table[f"concrete_{version}"]
        counts = {"value": is_left.mean(), "n_events": int(is_left.sum()), "n": len(is_left)}
        told = f"{100 * counts['value']:.1f}%, {counts['n_events']:,} of {counts['n']:,} latents"
        lines.append({"version": version, **counts, "words": told})
    return pd.DataFrame(lines)


def improved() -> pd.DataFrame:
    """Judges beside each other on whether a response with several attempts ends better, a line a pair of them.

    Responses of the report part, on which the offline judge was not fitted. Columns: quantity,
    value, ci_low, ci_high (Wilson: each response is another question or latent), n_events, n.
    """
    attempts = result("validation", "attempts").query("part == 'report'").sort_values(["id", "index"])
    scores = attempts.groupby("id")[["score", "offline_embedding"]]
    gains = (scores.last() - scores.first())[attempts.groupby("id").size() > 1]
    is_better = (gains.dropna() > 0).to_numpy()
    n, n_alike = len(is_better), int((is_better[:, 0] == is_better[:, 1]).sum())
    known = {"quantity": "judge against readers", "value": n_alike / n if n else float("nan"), "n": n}
    return pd.DataFrame([known]).join(wilson(pd.Series([known["value"]]), pd.Series([n])))


# file in claims.csv -> how it is made, and the tables that must be there
TABLES: dict[str, tuple[Callable[[], pd.DataFrame], tuple[str, ...]]] = {
    "latent_discovery/detectors": (detectors, ("rules", "false_discoveries", "statistics")),
    "validation/improved": (improved, ("attempts",)),
    "ablation/sets": (sets, ("contrasts",)),
    "steering/filters": (filters, ("filters",)),
}


def table(file: str) -> pd.DataFrame:
    """The table that a claim names; errors as of ``result_tables.read_table``."""
    run, _, name = file.partition("/")
    return TABLES[file][0]() if file in TABLES else result(run, name)


def is_known(file: str) -> bool:
    """Whether what a claim names has been measured and committed."""
    run, _, name = file.partition("/")
    return bool(file) and all(is_measured(run, part) for part in TABLES.get(file, (None, (name,)))[1])


def beyond_chance(line: pd.Series, bound: float) -> str:
    """Does a rule keep more latents than it keeps by chance?"""
    if line["n_events"] == 0:
        return "differs: no latent is kept"
    if line["n_events"] > line["by_chance"]:
        return "same: more are kept than in any shuffle"
    return "not settled: as many are kept by chance"


def none_apart(line: pd.Series, bound: float) -> str:
    """Does every interval hold 0? One in twenty excludes it by chance."""
    if line["n_events"] == 0:
        return f"not told apart: all {line['n']:.0f} intervals hold 0"
    told = f"{line['n_events']:.0f} of {line['n']:.0f} intervals exclude 0"
    return f"not settled: {told}" if line["n_events"] <= 0.05 * line["n"] else f"differs: {told}"


def about(line: pd.Series, bound: float) -> str:
    """Is a share that was counted in full, not estimated, near the published one?"""
    told = f"within {100 * NEAR:.0f} points of {100 * bound:.0f}%"
    return f"same: {told}" if abs(line["value"] - bound) <= NEAR else f"differs: not {told}"
