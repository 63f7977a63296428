"""The paper's published numbers, as a frame: what the kit's own results are shown beside."""

from functools import lru_cache

import pandas as pd
from statsmodels.stats.proportion import proportion_confint

from esr_utils.config import DATA

UNITS = (  # what a unit begins with
    *("%", "fraction", "x", "d", "p (", "SAE activation", "score", "points", "multiplier", "factor", "raw boost"),
    *("trials", "responses", "rows", "episodes", "attempts", "examples", "prompts", "latents", "vectors", "characters"),
    *("tokens", "steps", "sets", "bins", "levels", "models", "judges", "subjects", "ratios", "layer index", "L2 norm"),
)


def _read(name: str, columns: str) -> pd.DataFrame:
    """A table of the published record; a ValueError if it lacks one of its columns (named with blanks between)."""
    frame = pd.read_csv(DATA / "published" / f"{name}.csv")
    if absent := set(columns.split()) - set(frame):
        told = ", ".join(sorted(absent))
        raise ValueError(f"data/published/{name}.csv lacks the column {told}; restore it with git.")
    return frame


@lru_cache(maxsize=1)
def published() -> pd.DataFrame:
    """One line a number, indexed by id: quantity, model, condition, value, unit, interval, n, source, version.

    Where versions disagree each has its own line. Values are texts, since some hold two numbers: see ``value``.
    """
    columns = "id quantity model condition value unit ci_low ci_high n source version note"
    table = _read("published", columns).set_index("id").astype({"value": str})
    is_known = table["unit"].fillna("x").str.startswith(UNITS)
    if not is_known.all():
        number, unit = table.index[~is_known][0], table.loc[~is_known, "unit"].iloc[0]
        raise ValueError(f"data/published/published.csv has the unit {unit!r} of {number}; restore it with git.")
    return table


def line(number: str) -> pd.Series:
    """The line of a published number.

    Raises:
        ValueError: if there is none with that id.
    """
    if number not in published().index:
        raise ValueError(f"data/published/published.csv has no number {number}; restore it with git.")
    return published().loc[number]


def value(number: str) -> float:
    """A published number in its unit (per cent as per cent).

    Raises:
        ValueError: if its line is missing, or holds no single number.
    """
    try:
        return float(line(number)["value"])
    except ValueError as error:
        given = line(number)["value"]
        raise ValueError(f"number {number} in data/published/published.csv is {given!r}, not a number.") from error


def cite(number: str) -> str:
    """A published number with what it was measured on, ready for a table."""
    told = line(number)
    n = "" if pd.isna(told["n"]) else f", n = {float(told['n']):,.0f}"
    return f"{told['value']} ({told['model']}, {told['condition']}{n}; {told['version']})"


MAIN_RATES = {  # the paper's steered baseline: number of the multi-attempt rate, ESR rate and whole-response recovery
    "Llama-3.3-70B-Instruct": ("p0039", "p0038", "p0255"),
    "Llama-3.1-8B-Instruct": (None, "p0259", "p0260"),  # of its multi-attempt rate only a bound (1.2%) was published
    "Gemma-2-27B-it": ("p0049", "p0050", "p0265"),
    "Gemma-2-9B-it": ("p0047", "p0048", "p0270"),
    "Gemma-2-2B-it": ("p0045", "p0046", "p0275"),
}


def main_rates() -> pd.DataFrame:
    """Published rates of the five steered models: model, quantity, rate (0 to 1), n, version."""
    numbers = published()
    lines = []
    for model, ids in MAIN_RATES.items():
        for quantity, number in zip(("multi_attempt", "esr", "recovery"), ids, strict=True):
            if number:
                row = numbers.loc[number]
                lines.append((model, quantity, value(number) / 100, float(row["n"]), row["version"]))
    return pd.DataFrame(lines, columns=["model", "quantity", "rate", "n", "version"])


# share of self-corrections in the mix -> number of the whole-response improvement rate; none was published for share 0
RECOVERY_BY_SHARE = {i / 10: f"p0{284 + 2 * i}" for i in range(1, 10)}


def recovery_by_share() -> pd.DataFrame:
    """Published whole-response improvement of fine-tuned Llama-3.1-8B models: share, value (0 to 1), n."""
    lines = published().loc[list(RECOVERY_BY_SHARE.values())]
    values, n = lines["value"].astype(float) / 100, lines["n"].astype(float)
    return pd.DataFrame({"share": list(RECOVERY_BY_SHARE), "value": values.to_numpy(), "n": n.to_numpy()})


META_PROMPTS = {  # kind -> condition of the whole-response rates, with the authors' name of the variant
    "none": "whole-response judge",
    "focus": "meta-prompt dont_get_distracted",
    "self_monitor": "meta-prompt self_monitor",
    "resist": "meta-prompt resist_manipulation",
    "label": "meta-prompt ignore_latent_label",
}
WHOLE_RESPONSE = {  # quantity -> as published
    "restart": "holistic explicit restart rate",
    "shift": "holistic gradual shift rate",
    "recovery": "holistic improvement rate",
}
ANALYSIS = "whole_response_judge_analysis.md"  # a summary of it rounds some of its rates otherwise


def meta_prompt_rates() -> pd.DataFrame:
    """Published whole-response rates of the steered models, with a meta-prompt and without.

    Columns: who, kind, quantity (``restart`` or ``recovery``), value (0 to 1), n (NaN where it was not published).
    """
    numbers, parts = published().query("source == @ANALYSIS"), []
    names = numbers["quantity"].str.removesuffix(" (score>=7)")
    for kind, condition in META_PROMPTS.items():
        for quantity in ("restart", "recovery"):
            lines = numbers[(numbers["condition"] == condition) & (names == WHOLE_RESPONSE[quantity])]
            known = {"value": lines["value"].astype(float) / 100, "n": lines["n"].astype(float)}
            parts.append(pd.DataFrame({"who": lines["model"], "kind": kind, "quantity": quantity, **known}))
    return pd.concat(parts, ignore_index=True)


SELF_MONITOR = {  # model -> numbers of the multi-attempt and ESR rates under the self-monitoring meta-prompt
    "Llama-3.3-70B-Instruct": {"multi_attempt": "p0079", "esr": "p0081"},
    "Gemma-2-9B-it": {"multi_attempt": "p0084"},
    "Gemma-2-2B-it": {"multi_attempt": "p0085"},
}


def self_monitor_rates() -> pd.DataFrame:
    """Published rates by attempts, all of them: who, quantity, none, self_monitor (0 to 1), note (on the latter)."""
    numbers, lines = published(), []
    without = main_rates().set_index(["model", "quantity"])["rate"]
    for model, ids in SELF_MONITOR.items():
        for quantity, number in ids.items():
            row = numbers.loc[number]
            note = row["unit"].removeprefix("%").strip(" ()")
            lines.append((model, quantity, without[model, quantity], value(number) / 100, note))
    return pd.DataFrame(lines, columns=["who", "quantity", "none", "self_monitor", "note"])


@lru_cache(maxsize=1)
def detectors() -> pd.DataFrame:
    """The authors' off-topic detectors of Llama-3.3-70B, one line a latent of any of their lists.

    Columns: latent, label, cohens_d, off_topic_mean, on_topic_mean, p (one-sided; a bound where p_is_bound) of the
    paper's Table 2; in_paper_26, in_separability_25, in_sum_50: in which list; sign_group; is_backtracking: also among
    the latents chosen for firing in corrections; matched_active, mismatched_active: share of pairs (0 to 1).
    """
    columns = (
        "latent label cohens_d off_topic_mean on_topic_mean p p_is_bound in_paper_26 sign_group in_separability_25"
    )
    return _read("detectors", f"{columns} in_sum_50 is_backtracking matched_active mismatched_active")


PREFILL = ("p0365", "p0366", "p0367", "p0368")  # restarts after steered beginnings, by their characters
MATCHED_PREFIX = ("p0376", "p0377", "p0378")  # gain from a generic beginning, own correction, own over generic


@lru_cache(maxsize=1)
def claims() -> pd.DataFrame:
    """Claims of the paper, one line each, indexed by claim id; ``claims.answers`` looks up what the kit measured.

    Columns: section, claim (in our words), numbers (ids of published numbers, blanks between), rule (of those in
    ``claims.RULES``), file (``run/table`` among committed results, or one of ``claim_tables.TABLES``; empty: not
    measured yet), where (the line of it, as ``column=value``, with ``;`` between and ``|`` between alternatives),
    against (of the line it is compared with, what differs), bound (of rules that need one; a share or a
    score), reason (why the kit cannot measure it on the embedded pair; such a claim has no file).
    """
    table = _read("claims", "id section claim numbers rule file where against bound reason").set_index("id")
    bounds = pd.to_numeric(table["bound"])
    return table.fillna(dict.fromkeys(table.columns.drop("bound"), "")).assign(bound=bounds)


def wilson(rates: pd.Series, n: pd.Series) -> pd.DataFrame:
    """Events worked out from rounded rates (0 to 1), and the naive 95% interval: n_events, ci_low, ci_high.

    NaN where no number of trials was published. Trials are taken for independent, which they are not: the paper draws
    five a latent, so the interval is too narrow.
    """
    events = (rates * n).round()
    low, high = proportion_confint(events.fillna(0), n.fillna(1), method="wilson")
    ends = pd.DataFrame({"ci_low": low, "ci_high": high}, index=n.index).where(n.notna(), axis=0)
    return pd.concat([events.rename("n_events"), ends], axis=1)
