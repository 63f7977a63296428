"""What Figs 2 to 6 and 9 to 13 of the paper show, as frames: published numbers and ours, in the shape of ``beside``."""

from pathlib import Path

import pandas as pd

from esr_utils import published
from esr_utils.beside import (
    CLUSTERED,
    MODELS,
    NAIVE,
    NOT_YET,
    ONE_OF_MANY,
    PICTURE,
    ROUNDED,
    SUBJECTS,
    frame_of,
    is_measured,
    naive,
    one_line,
    our_lines,
    paper_line,
    perplexity,
    result,
    words,
)
from esr_utils.claim_pairs import judged
from esr_utils.config import results_dir
from esr_utils.published import MAIN_RATES, RECOVERY_BY_SHARE, SELF_MONITOR, main_rates
from esr_utils.result_tables import short_path

RATES = ("multi_attempt", "improvement", "esr")
LARGEST = "Llama-3.3-70B-Instruct"
BOUNDED = "Llama-3.1-8B-Instruct"


def fig2() -> pd.DataFrame:
    """Several attempts, improvement and ESR of five models as published, and of ours at the calibrated strength."""
    lines = fig2_published()
    for subject in SUBJECTS:
        lines += our_lines("esr_detection", "rates", {"subject": subject, "condition": "steered"}, panels=RATES)
    return frame_of(lines)


def fig2_published() -> list[dict]:
    """Lines of the five models."""
    lines = []
    for model, (multi, esr, _) in MAIN_RATES.items():
        who = MODELS[model]
        bound = {"number": "p0041", "note": "at most"}  # of this model alone nothing but a bound was published
        lines.append(paper_line("multi_attempt", who, **({"number": multi} if multi else bound)))
        lines.append(_improvement(who, model) if model == LARGEST else words("improvement", who, PICTURE))
        lines.append(paper_line("esr", who, esr, note="" if multi else "of a later subset"))
    return lines


def _improvement(who: str, model: str) -> dict:
    """Published only through its two factors: ESR events over events with several attempts, each worked out."""
    rates = main_rates().query("model == @model").set_index("quantity")
    events = (rates["rate"] * rates["n"]).round()
    share, n = events["esr"] / events["multi_attempt"], events["multi_attempt"]
    line = words("improvement", who, "approximate") | naive(share, n) | {"value": share, "n": n}
    return line | {"interval": ROUNDED, "source": "worked out from the rounded rates p0038 and p0039"}


def fig2_gains() -> pd.DataFrame:
    """Our gains from first to last attempt at the calibrated strength: counts by bins of ten points (x, the middle)."""
    lines = [words("gain", "all five", PICTURE)]
    for subject, who in SUBJECTS.items():
        gains = _gains(results_dir(subject, "esr_detection", "standard"))
        counts = pd.cut(gains, [*range(-100, 100, 10), 100.1], right=False).value_counts(sort=False)
        for middle, count in zip(range(-95, 100, 10), counts, strict=True):
            line = words("gain", who, "", origin="ours") | {"value": count, "n_events": count}
            lines.append(line | {"n": len(gains), "x": middle, "source": "esr_detection/trials.jsonl"})
    return frame_of(lines, "x")


def _gains(folder: Path) -> pd.Series:
    """Last less first score of every trial with several attempts at the calibrated strength."""
    if not (folder / "trials.jsonl").is_file():
        raise FileNotFoundError(f"there are no trials in {short_path(folder)}; restore it with git or run notebook 02.")
    return judged(folder).query("level == 1.0 and is_multi")["gain"]


def fig3() -> pd.DataFrame:
    """Along the strength: the published peaks, in standard deviations from the mean strength; ours by level.

    The column x is the strength: of the paper, in standard deviations from the mean; ours, as a share of the latent's
    calibrated one.
    """
    lines = fig3_published()
    levels = result("esr_detection", "levels")
    for level in sorted(set(levels["level"])):
        for subject in SUBJECTS:
            chosen = {"subject": subject, "level": level}
            ours = our_lines("esr_detection", "levels", chosen, panels=RATES)
            lines += [line | {"x": level} for line in ours]
    return frame_of(lines, "x")


def fig3_published() -> list[dict]:
    """Lines of the three peaks."""
    peaks = {"multi_attempt": "p0073", "improvement": "p0074", "esr": "p0075"}
    lines = []
    for panel, number in peaks.items():
        at = published.line(number)["condition"].split(" at ")[1].removesuffix(" sd")
        lines.append(paper_line(panel, MODELS[LARGEST], number, note="peak") | {"x": float(at)})
    return lines


SCORE_AND_RATES = ("first_score", "multi_attempt", "esr")
META_ARMS = ("no meta-prompt", "self-monitoring")


def fig4() -> pd.DataFrame:
    """First score, several attempts and ESR without a meta-prompt and with the self-monitoring one."""
    lines = fig4_published()
    for arm, kind in zip(META_ARMS, ("none", "self_monitor"), strict=True):
        for subject in SUBJECTS:
            chosen = {"subject": subject, "level": 1.0, "kind": kind}
            lines += our_lines("meta_prompting", "by_kind", chosen, panels=SCORE_AND_RATES, arm=arm)
    return frame_of(lines)


def fig4_published() -> list[dict]:
    """Lines of the five models, in both arms."""
    lines = []
    for model, who in MODELS.items():
        without = dict(zip(RATES[::2], MAIN_RATES[model][:2], strict=True))
        if model == LARGEST:
            without["first_score"] = "p0089"
        for arm, numbers in zip(META_ARMS, (without, SELF_MONITOR.get(model, {})), strict=True):
            lines += [_or_picture(panel, who, numbers.get(panel), arm=arm) for panel in SCORE_AND_RATES]
    return lines


def _or_picture(panel: str, who: str, number: str | None, *, arm: str = "") -> dict:
    """A published number, or the words that only a picture was published; of one model a bound."""
    if not number and (panel, who, arm) == ("multi_attempt", MODELS[BOUNDED], "no meta-prompt"):
        return paper_line(panel, who, "p0041", arm=arm, note="at most")
    if not number:
        return words(panel, who, PICTURE, arm=arm)
    unit = published.line(number)["unit"]
    return paper_line(panel, who, number, arm=arm, note="approximate" if "approx" in unit else "")


MANY = "matched set"  # in our tables, an arm drawn several times
ABLATION = {  # what was ablated -> numbers of its first score, several attempts and ESR
    "Llama 70B: nothing": ("p0089", "p0039", "p0038"),
    "Llama 70B: 26 detectors": ("p0090", "p0091", "p0093"),
    "Llama 70B: 3 random sets": ("p0101", "p0099", "p0100"),
}


FIG5 = tuple(ABLATION)[:2]


def fig5() -> pd.DataFrame:
    """What ablating the detector latents does to first score, several attempts and ESR; ours in full and milder."""
    milder = {"detectors by half": "detectors by half", "26 most stable detectors": "26 most stable"}
    return _ablation(FIG5, {"none": "nothing", "detectors": "detectors", **milder})


def fig19() -> pd.DataFrame:
    """The same with random latents ablated: the paper's three sets pooled, and ours, matched, each on a line."""
    ours = {"none": "nothing", "detectors": "detectors", MANY: "matched sets"}
    return _ablation(tuple(ABLATION), ours)


def _ablation(arms: tuple[str, ...], ours: dict[str, str]) -> pd.DataFrame:
    """Published arms, then ours: names of them in ``by_arm`` -> as told."""
    lines, panels = ablation_published(arms), SCORE_AND_RATES
    if not is_measured("ablation", "by_arm"):
        return frame_of([*lines, *(words(panel, "ours", NOT_YET, origin="ours") for panel in panels)])
    table = result("ablation", "by_arm")
    n_sets = table.loc[table["name"] == MANY, "condition"].nunique()
    told = ours | {name: f"{n_sets} {ours[name]}" for name in ours if name == MANY}
    told = {name: words + perplexity(name) for name, words in told.items()}
    for row in table[table["name"].isin(ours) & table["quantity"].isin(panels)].itertuples():
        line = words(row.quantity, f"ours: {told[row.name]}", "", origin="ours")
        ends = {"note": ONE_OF_MANY} if row.name == MANY else {"ci_low": row.ci_low, "ci_high": row.ci_high}
        known = {"value": row.value, "n_events": row.n_events, "n": row.n, "source": "ablation/by_arm.csv"}
        lines.append(line | known | ends | {"interval": "" if row.name == MANY else CLUSTERED})
    return frame_of(lines)


def ablation_published(arms: tuple[str, ...]) -> list[dict]:
    """Lines of arms of ``ABLATION``."""
    return [
        paper_line(panel, arm, number)
        for arm in arms
        for panel, number in zip(SCORE_AND_RATES, ABLATION[arm], strict=True)
    ]


def fig6() -> pd.DataFrame:
    """Along the share of corrections: the published whole-response rates, and ours at each arm's own strengths.

    The column x is the share (0 to 1). Of the paper's own three curves no number was published.
    """
    lines = [paper_line("recovery", MODELS[BOUNDED], "p0284") | {"x": 0.0}]
    lines += [paper_line("recovery", MODELS[BOUNDED], number) | {"x": x} for x, number in RECOVERY_BY_SHARE.items()]
    told = f"curves only, about {published.value('p0102'):,.0f} trials a share"
    lines += [words(panel, MODELS[BOUNDED], told) for panel in RATES]
    for share in sorted(set(result("fine_tuning", "by_share")["share"])):
        chosen = {"share": share, "condition": "recalibrated", "training_seed": ""}
        ours = our_lines("fine_tuning", "by_share", chosen, panels=(*RATES, "recovery"))
        lines += [line | {"who": "ours, fine-tuned", "x": share} for line in ours]
    return frame_of(lines, "x")


RANGES = {  # who and what -> numbers of the low and the high end (none: a bound from below alone)
    "several attempts, version 1": ("p0117", "p0118"),
    "several attempts, repository": ("p0121", None),
    "improved, version 1": ("p0119", "p0120"),
    "improved, repository": ("p0122", "p0123"),
}


def fig9_11() -> pd.DataFrame:
    """Agreement of judges, as published (ranges over pairs of judges) and ours (against two readers)."""
    lines = []
    for who, (low, high) in RANGES.items():
        ends = [paper_line("agreement", who, number)["value"] for number in (low, high) if number]
        line = paper_line("agreement", who, low, note="lowest to highest pair" if high else "more than")
        lines.append(line | ({"ci_low": ends[0], "ci_high": ends[1], "interval": "range over pairs"} if high else {}))
    lines += [words("spearman", "published, by pair", PICTURE)]
    return frame_of([*lines, *_our_agreement()])


def _our_agreement() -> list[dict]:
    """The report part of the judge's validation: two readers of all responses, and the offline judge against them."""
    readers = one_line(result("validation", "readers"), {"part": "report"}, "readers.csv")
    base = words("agreement", "ours: several attempts, two readers", "", origin="ours")
    numbers = {"value": readers["multi-attempt agreement"], "n": readers["n"], "source": "judge/validation/readers.csv"}
    lines = [base | numbers]
    for quantity, table, panel in (
        ("restart precision", "restarts", "agreement"),
        ("restart recall", "restarts", "agreement"),
        ("Spearman", "scores", "spearman"),
    ):
        chosen = {"part": "report", "quantity": quantity}
        chosen |= {"scored by": "embedding"} if table == "scores" else {}
        row = one_line(result("validation", table), chosen, f"{table}.csv")
        who = "ours: judge against readers" if panel == "spearman" else f"ours: {quantity}"
        line = words(panel, who, "", origin="ours") | {"interval": "95%", "source": f"judge/validation/{table}.csv"}
        lines.append(line | {column: row.get(column) for column in ("value", "ci_low", "ci_high", "n_events", "n")})
    return lines


def fig12() -> pd.DataFrame:
    """Several attempts and ESR without steering. The paper's are none in all models together; by model, a picture."""
    lines = [_no_event("all five, version 1", "p0059"), _no_event("all five, repository", "p0065")]
    lines += [words("esr", who, "none, as no restart") for who in ("all five, version 1", "all five, repository")]
    for subject in SUBJECTS:
        chosen = {"subject": subject, "condition": "baseline"}
        lines += our_lines("esr_detection", "rates", chosen, panels=("multi_attempt", "esr"))
    return frame_of(lines)


def _no_event(who: str, number: str) -> dict:
    """No event among the n trials of a published number, with the naive interval."""
    line = paper_line("multi_attempt", who, number)
    return line | naive(0.0, line["n"]) | {"value": 0.0, "interval": NAIVE}


UNSTEERED = {
    "Llama 8B": "p0056",
    "Gemma 9B": "p0057",
    "all five, version 1": "p0058",
    "Gemma 27B and 9B, repository": "p0066",
    "lowest of five, repository": "p0067",
    "highest of five, repository": "p0068",
}


def fig13() -> pd.DataFrame:
    """Mean first-attempt score without steering, and the distribution of ours (panel ``trials``, x a bin's middle)."""
    lines = [paper_line("first_score", who, number) for who, number in UNSTEERED.items()]
    scores = result("esr_detection", "first_scores")
    for subject, who in SUBJECTS.items():
        chosen = {"subject": subject, "level": 0.0}
        lines += our_lines("esr_detection", "levels", chosen, panels=("first_score",))
        mine = scores.loc[scores["arm"] == f"{subject}, without steering", "first_score"]
        counts = pd.cut(mine, range(0, 101, 5), include_lowest=True).value_counts(sort=False)
        for middle, count in zip(range(2, 100, 5), counts, strict=True):
            line = words("trials", who, "", origin="ours") | {"value": count, "n_events": count}
            lines.append(line | {"n": len(mine), "x": middle + 0.5, "source": "esr_detection/first_scores.csv"})
    return frame_of(lines, "x")
