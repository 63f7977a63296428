"""What the later controls of the paper show, as frames: rebuttal and version 2; see ``paper_frames``."""

import numpy as np
import pandas as pd

from esr_utils import published
from esr_utils.beside import (
    CLUSTERED,
    NOT_YET,
    frame_of,
    is_measured,
    one_line,
    paper_line,
    perplexity,
    result,
    words,
)


def prefill() -> pd.DataFrame:
    """Does an unsteered model that reads the beginning of a derailed answer restart too, and does that help?"""
    lines = []
    for number in published.PREFILL:
        n_characters = int(published.line(number)["condition"].split()[3])
        lines.append(paper_line("restart", f"unsteered, first {n_characters:,} characters", number))
    quoted = {"ESR, live steering, low": "p0371", "ESR, live steering, high": "p0372"}
    lines += [paper_line("restart", who, number) for who, number in quoted.items()]
    lines += [paper_line("improvement", "unsteered", "p0369", note="approximate")]
    lines += [paper_line("improvement", "live steering", "p0370", note="approximate")]
    if not is_measured("following", "cells"):
        return frame_of(
            [*lines, *(words(panel, "ours", NOT_YET, origin="ours") for panel in ("restart", "improvement"))]
        )
    for continuation in ("unsteered", "steered"):
        lines += [_cell(continuation, *of) for of in (("restart", "multi_attempt"), ("improvement", "improvement"))]
    return frame_of(lines)


def _cell(continuation: str, panel: str, quantity: str) -> dict:
    """Our rate after the steered beginnings of responses that restarted."""
    chosen = {"source": "restarted", "prefix": "steered", "continuation": continuation, "quantity": quantity}
    row = one_line(result("following", "cells"), chosen, "following/cells.csv")
    line = words(panel, f"ours: continued {continuation}", "" if row["n"] else "no restart", origin="ours")
    ends = {column: row[column] for column in ("ci_low", "ci_high", "n_events", "n")}
    return line | ends | {"value": row["rate"], "interval": CLUSTERED, "source": "following/cells.csv"}


HELD_OUT = {
    "Llama 70B: nothing": ("p0387", "p0389"),
    "Llama 70B: 18 with positive d": ("p0390", "p0392"),
    "Llama 70B: 8 with negative d": ("p0393", "p0395"),
    "Llama 70B: all 26": ("p0396", "p0398"),
}


def held_out() -> pd.DataFrame:
    """Ablation on prompts that the detectors were not found on, by the sign of d; ours: detectors, and backtracking.

    The panel ``change`` is the rate of several attempts less that with nothing ablated, trial by trial: of ours alone.
    """
    panels, lines = ("multi_attempt", "esr"), []
    for who, numbers in HELD_OUT.items():
        lines += [paper_line(panel, who, number) for panel, number in zip(panels, numbers, strict=True)]
    return frame_of([*lines, *_our_held_out(panels)])


def _our_held_out(panels: tuple[str, ...]) -> list[dict]:
    """Rates of the paired trials without intervals of their own, and the interval of their difference."""
    if not is_measured("ablation", "held_out_contrasts"):
        return [words(panel, "ours", NOT_YET, origin="ours") for panel in panels]
    table, lines = result("ablation", "held_out_contrasts"), []
    known = {"source": "ablation/held_out_contrasts.csv"}
    for row in table[table["quantity"].isin(panels)].itertuples():
        arms = {f"ours: {row.condition}{perplexity(row.name)}": row.rate_second}
        if row.condition == table["condition"].iloc[0]:
            arms = {"ours: nothing": row.rate_first} | arms
        for who, rate in arms.items():
            counts = {"value": rate, "n_events": round(rate * row.n_pairs), "n": row.n_pairs}
            lines.append(words(row.quantity, who, "", origin="ours") | known | counts)
        if row.quantity == panels[0]:
            ends = {"value": row.difference, "ci_low": row.ci_low, "ci_high": row.ci_high, "n": row.n_pairs}
            lines.append(words("change", list(arms)[-1], "", origin="ours") | known | ends | {"interval": CLUSTERED})
    return lines


def matched_prefix() -> pd.DataFrame:
    """Gain of steered continuations from an on-topic prefix: a generic one, and the model's own correction."""
    lines = [
        paper_line("points", "generic prefix, gain", "p0376"),
        paper_line("points", "own correction (gain or level?)", "p0377"),
        paper_line("ratio", "own / generic", "p0378"),
        paper_line("share", "due to text read", "p0379", note="approximate"),
    ]
    return frame_of([*lines, *_our_prefixes()])


def _our_prefixes() -> list[dict]:
    """Gain from a generic beginning, level after the own correction, and own over generic, once they are measured."""
    if not is_measured("following", "sustained"):
        return [words(panel, "ours", NOT_YET, origin="ours") for panel in ("points", "ratio", "share")]
    means = result("following", "sustained").set_index("arm")
    between = {"arm": "generic", "less": "none"}
    gain = one_line(result("following", "sustained_contrasts"), between, "following/sustained_contrasts.csv")
    known = {"interval": CLUSTERED, "source": "following/sustained.csv"}
    lines = []
    for who, row, value, n in (
        ("ours: generic prefix, gain", gain, "difference", "n_pairs"),
        ("ours: own correction, level", means.loc["own"], "mean", "n"),
    ):
        ends = {"value": row[value], "ci_low": row["ci_low"], "ci_high": row["ci_high"], "n": row[n]}
        lines.append(words("points", who, "", origin="ours") | known | ends)
    ratio = {"value": means.loc["own", "mean"] / means.loc["generic", "mean"], "n": means.loc["own", "n"]}
    lines.append(words("ratio", "ours: own / generic", "", origin="ours") | known | ratio | {"interval": ""})
    return [*lines, words("share", "ours: due to text read", "not worked out", origin="ours")]


def other_vectors() -> pd.DataFrame:
    """ESR under vectors that are no SAE latents, beside the latents; and the range of their calibrated strengths."""
    lines = [
        paper_line("esr", "SAE latents", "p0038"),
        paper_line("esr", "contrastive vectors", "p0380"),
        paper_line("strength", "lowest of 15", "p0385"),
        paper_line("strength", "highest of 15", "p0386"),
    ]
    return frame_of([*lines, *_our_vectors()])


def _our_vectors() -> list[dict]:
    """ESR of the corrector under its latents and under directions of topics, and the range of their multipliers."""
    if not is_measured("topic_directions", "rates"):
        return [words("esr", "ours", NOT_YET, origin="ours")]
    lines, rates = [], result("topic_directions", "rates")
    for directions, who in (("SAE latents", "ours: SAE latents"), ("topics", "ours: directions of topics")):
        chosen = {"directions": directions, "condition": "steered", "quantity": "esr"}
        row = one_line(rates, chosen, "topic_directions/rates.csv")
        known = {column: row[column] for column in ("ci_low", "ci_high", "n_events", "n")}
        line = words("esr", who, "", origin="ours") | known | {"value": row["rate"], "interval": CLUSTERED}
        lines.append(line | {"source": "topic_directions/rates.csv"})
    multipliers = result("topic_directions", "calibrated")["multiplier"]
    for end, value in (("lowest", multipliers.min()), ("highest", multipliers.max())):
        line = words("strength", f"ours: {end} of {len(multipliers)}", "", origin="ours")
        lines.append(line | {"value": value, "n": len(multipliers), "source": "topic_directions/calibrated.csv"})
    return lines


VERSIONS = {  # what was compared, by version -> number of the relative reduction
    "before version 1: 25 latents, ESR": "p0232",
    "before version 1: 27 latents, ESR": "p0235",
    "version 1: 26 latents, several attempts": "p0092",
    "version 1: 26 latents, ESR": "p0094",
    "rebuttal, held-out prompts: lowest": "p0400",
    "rebuttal, held-out prompts: highest": "p0401",
}
OURS = {  # table of notebook 04 and quantity -> as told
    ("contrasts", "multi_attempt"): "ours: several attempts",
    ("contrasts", "esr"): "ours: ESR",
    ("held_out_contrasts", "multi_attempt"): "ours, held-out: several attempts",
    ("held_out_contrasts", "esr"): "ours, held-out: ESR",
}


def versions() -> pd.DataFrame:
    """How much lower ablation made the rate, as each version of the paper tells it, and ours; below 0: higher.

    Ours have the interval of the paired difference over the rate without ablation, which is taken as known.
    """
    lines = [paper_line("reduction", who, number) for who, number in VERSIONS.items()]
    if not all(is_measured("ablation", name) for name, _ in OURS):
        return frame_of([*lines, words("reduction", "ours", NOT_YET, origin="ours")])
    for (name, quantity), who in OURS.items():
        chosen = {"condition": "detectors", "quantity": quantity}
        row = one_line(result("ablation", name), chosen, f"ablation/{name}.csv")
        ends = {"value": row["difference"], "ci_low": row["ci_high"], "ci_high": row["ci_low"]}
        shares = {key: -value / row["rate_first"] if row["rate_first"] else np.nan for key, value in ends.items()}
        shares["ci_high"] = min(shares["ci_high"], 1.0)  # nothing falls by more than all of it
        line = words(
            "reduction",
            who + perplexity("detectors"),
            "" if row["rate_first"] else "no event without ablation",
            origin="ours",
        )
        known = {"n": row["n_pairs"], "interval": CLUSTERED, "source": f"ablation/{name}.csv"}
        lines.append(line | shares | known)
    return frame_of(lines)
