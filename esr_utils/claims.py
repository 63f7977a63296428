"""Every claim of the paper beside what the kit measured: claim, published, ours, verdict.

What is ours is looked up in committed results at the place that ``data/published/claims.csv`` names; the verdict
follows from its interval by the claim's rule. Two arms are compared by their differences trial by trial where
``claim_pairs`` can pair them, else by whether their intervals overlap. Our models, judge and questions differ from
the paper's, and the corrector was fine-tuned to restart: a verdict says whether the same holds here, not whether the
paper is right.
"""

from collections.abc import Callable, Iterator

import pandas as pd

from esr_utils import claim_pairs, claim_tables, published
from esr_utils.beside import NOT_YET, PAIR, SUBJECTS, one_line, perplexity

NOT_HERE = "cannot be measured here"
FEW_EVENTS = 5  # fewer may be the judge's mistakes
FEW_TRIALS = 10  # an interval on fewer holds nearly every value
NAMES = {"rate": "value", "difference": "value", "mean": "value"}
WHO = {PAIR: SUBJECTS[PAIR], f"{PAIR}-corrector": f"{SUBJECTS[f'{PAIR}-corrector']} (fine-tuned to restart)"}
OTHERS = "other measurements"
SEVERAL = "; and "
RUN_WHO = {  # where a table has no subject
    "fine_tuning": "ours, fine-tuned (notebook 06)",
    "validation": "ours, {quantity}",
    "ablation": WHO[f"{PAIR}-corrector"],
    "following": WHO[f"{PAIR}-corrector"],
    "latent_discovery": WHO[f"{PAIR}-corrector"],
    "latent_discovery/detectors": "ours, {rule}",
    "steering/filters": "ours, filters of the {version}",
    "topic_directions": WHO[f"{PAIR}-corrector"],
}


def answers() -> pd.DataFrame:
    """One line a claim and, where the kit has two subjects, a subject of it.

    Columns: id, section, claim, published (with model, condition, n and version), who, ours (with interval and counts),
    verdict, rule, file. Nothing measured: ``verdict`` is "not measured yet", or says why it cannot be measured here.
    """
    lines = []
    for claim in published.claims().itertuples():
        known = {"id": claim.Index, "section": claim.section, "claim": claim.claim, "published": _told(claim.numbers)}
        for found in _findings(claim):
            lines.append({**known, **found, "rule": claim.rule, "file": claim.file})
    return pd.DataFrame(lines)


def by_claim(table: pd.DataFrame) -> pd.DataFrame:
    """One line a claim for reading: section, claim, a column for each of our two subjects, and one for what is neither.

    A cell is the verdict with what was measured; the last column says of what it is. Several of one claim and column
    stand after each other.

    Args:
        table: as ``answers`` makes it.
    """
    names = {who: SUBJECTS[subject] for subject, who in WHO.items()}
    column = table["who"].map(names).fillna(OTHERS)
    measured = table["ours"].where(table["ours"] == "", " (" + table["ours"] + ")")
    prefix = table["who"].str.removeprefix("ours, ").where((column == OTHERS) & (table["who"] != ""), "")
    cell = prefix.where(prefix == "", prefix + ": ") + table["verdict"] + measured
    cells = table[["id", "section", "claim"]].assign(column=column, cell=cell)
    wide = cells.groupby(["id", "section", "claim", "column"], sort=False)["cell"].agg(SEVERAL.join).unstack()
    order = pd.MultiIndex.from_frame(cells[["id", "section", "claim"]].drop_duplicates())
    return wide.loc[order, [*SUBJECTS.values(), OTHERS]].fillna("").reset_index().drop(columns="id")


def _told(numbers: str) -> str:
    return "; ".join(published.cite(number) for number in numbers.split())


def _findings(claim: tuple) -> Iterator[dict[str, str]]:
    """Who, ours and verdict: once for every combination of the places that ``where`` gives."""
    if not claim_tables.is_known(claim.file):
        yield {"who": "", "ours": "", "verdict": f"{NOT_HERE}: {claim.reason}" if claim.reason else NOT_YET}
        return
    table = claim_tables.table(claim.file)
    for place in places(claim.where):
        told = RUN_WHO.get(claim.file, RUN_WHO.get(claim.file.split("/")[0], ""))
        who = WHO[place["subject"]] if "subject" in place else told.format(**place)
        line = _renamed(one_line(table, place, f"{claim.file}.csv"))
        if claim.against:
            found = _against(claim, table, line, place)
        else:
            rule = PAIRED if "difference" in table else SINGLE
            found = {"ours": in_words(line), "verdict": rule[claim.rule](line, claim.bound)}
        yield {"who": who, **found, "verdict": found["verdict"] + _damage(claim.file, place)}


def _damage(file: str, place: dict[str, str]) -> str:
    """What an ablation of ours did to the model besides: without it a verdict on its effect would mislead."""
    told = perplexity(place.get("condition", "none")).strip(" ()\n") if file.startswith("ablation/") else ""
    return f"; the ablation took the perplexity of unsteered answers to {told}" if told else ""


def _against(claim: tuple, table: pd.DataFrame, line: pd.Series, place: dict[str, str]) -> dict[str, str]:
    """Two lines of a table: by their differences where trials can be paired, else by their intervals."""
    other_place = place | next(places(claim.against))
    other = _renamed(one_line(table, other_place, f"{claim.file}.csv"))
    ours = f"{in_words(line)} against {in_words(other)}"
    pairs = claim_pairs.difference(claim.file, other_place, place)
    if pairs is None:
        return {"ours": ours, "verdict": compared(claim.rule, line, other)}
    pairs = _renamed(pairs)
    return {"ours": f"{ours}; {in_words(pairs)}", "verdict": PAIRED[claim.rule](pairs, claim.bound)}


def _renamed(line: pd.Series) -> pd.Series:
    """A line of any of our tables, with its ``value`` and its ``n`` under these names."""
    counted = next(name for name in ("n", "n_pairs", "n_episodes") if name in line.index)
    return pd.concat([line.rename(NAMES).drop("n", errors="ignore"), pd.Series({"n": line[counted]})])


def places(where: str) -> Iterator[dict[str, str]]:
    """Values by column from ``column=value;column=one|other``; every combination of the alternatives."""
    pairs = [part.split("=", 1) for part in where.split(";")]
    chosen: list[dict[str, str]] = [{}]
    for column, values in pairs:
        chosen = [place | {column: value} for place in chosen for value in values.split("|")]
    yield from chosen


def in_words(line: pd.Series) -> str:
    """Value with interval and counts: rates and their differences in per cent, scores and activations as they are."""
    if not line["n"]:
        return "no trial to count"
    if "words" in line.index:
        return line["words"]
    quantity = line.get("quantity", "activation")
    value, low, high = (line[column] for column in ("value", "ci_low", "ci_high"))
    if quantity == "activation":
        return f"{value:.3g} [{low:.3g}, {high:.3g}], n = {line['n']:.0f}"
    factor, is_paired = 1 if quantity == "first_score" else 100, "n_pairs" in line.index
    unit = " points" if is_paired else "" if factor == 1 else "%"
    counts = f"{line['n']:.0f} pairs" if is_paired else f"n = {line['n']:.0f}"
    if factor == 100 and not is_paired:
        counts = f"{line['n_events']:.0f} of {line['n']:.0f}"
    return f"{factor * value:.1f}{unit} [{factor * low:.1f}, {factor * high:.1f}], {counts}"


def happens(line: pd.Series, bound: float) -> str:
    """Is there such an event at all? A few may be mistakes of the judge."""
    if line["n_events"] == 0:
        return f"no event in {line['n']:.0f}"
    if line["n_events"] < FEW_EVENTS:
        return f"too few events: {line['n_events']:.0f} in {line['n']:.0f}"
    return "same: it happens, interval excludes 0"


def never(line: pd.Series, bound: float) -> str:
    """Is there none?"""
    events = f"{line['n_events']:.0f} in {line['n']:.0f}"
    return f"same: no event in {line['n']:.0f}" if line["n_events"] == 0 else f"differs: {events}"


def below(line: pd.Series, bound: float) -> str:
    """Is the whole interval below the bound?"""
    return _beside_bound(line, bound, same="below", differs="above")


def above(line: pd.Series, bound: float) -> str:
    """Is the whole interval above the bound?"""
    return _beside_bound(line, bound, same="above", differs="below")


def _beside_bound(line: pd.Series, bound: float, *, same: str, differs: str) -> str:
    where = _side(line, bound)
    return {same: f"same: interval {same} {bound:g}", differs: f"differs: interval {differs} {bound:g}"}.get(
        where, f"not settled: interval holds {bound:g}"
    )


def holds(line: pd.Series, bound: float) -> str:
    """Is the bound within the interval?"""
    if line["n"] < FEW_TRIALS:
        return f"too few trials: {line['n']:.0f}"
    where = _side(line, bound)
    return f"same: interval holds {bound:g}" if where == "around" else f"differs: interval {where} {bound:g}"


def _side(line: pd.Series, bound: float) -> str:
    if line["ci_high"] < bound:
        return "below"
    return "above" if line["ci_low"] > bound else "around"


def rises(line: pd.Series, bound: float) -> str:
    """Is the paired difference positive?"""
    return _direction(line, 1)


def falls(line: pd.Series, bound: float) -> str:
    """Is the paired difference negative?"""
    return _direction(line, -1)


def unchanged(line: pd.Series, bound: float) -> str:
    """Does the interval of the paired difference hold 0?"""
    excludes = line["ci_low"] > 0 or line["ci_high"] < 0
    return "differs: interval excludes 0" if excludes else "not told apart: interval holds 0"


def _direction(line: pd.Series, sign: int) -> str:
    if line["value"] == 0:
        return "no difference seen, interval holds 0"
    told = "same direction" if line["value"] * sign > 0 else "opposite direction"
    if line["ci_low"] > 0 or line["ci_high"] < 0:
        return f"{told}, interval excludes 0"
    return f"not settled: {told}, interval holds 0"


def compared(rule: str, line: pd.Series, other: pd.Series) -> str:
    """Two rates with an interval each, not paired: are they apart, and in which direction?

    Raises:
        ValueError: if the rule is not one of rises, falls and same.
    """
    if rule not in ("rises", "falls", "same"):
        raise ValueError(f"no rule {rule!r} for two rates in claims.csv; choose rises, falls or same.")
    if min(line["n"], other["n"]) < FEW_TRIALS:
        return f"too few trials: {line['n']:.0f} and {other['n']:.0f}"
    apart = line["ci_low"] > other["ci_high"] or line["ci_high"] < other["ci_low"]
    if rule == "same":
        return "differs: intervals apart" if apart else "not told apart: intervals overlap"
    if line["value"] == other["value"]:
        return "no difference seen"
    sign = 1 if rule == "rises" else -1
    told = "same direction" if (line["value"] - other["value"]) * sign > 0 else "opposite direction"
    return f"{told}, intervals apart" if apart else f"not settled: {told}, intervals overlap"


SINGLE: dict[str, Callable[[pd.Series, float], str]] = {
    "happens": happens,
    "never": never,
    "below": below,
    "above": above,
    "holds": holds,
    "beyond_chance": claim_tables.beyond_chance,
    "none_apart": claim_tables.none_apart,
    "about": claim_tables.about,
}
PAIRED: dict[str, Callable[[pd.Series, float], str]] = {"rises": rises, "falls": falls, "same": unchanged}
RULES = {*SINGLE, *PAIRED}
