"""What the README tells of published numbers beside ours is what was published and measured."""

import pandas as pd

from esr_utils import claim_tables, published
from esr_utils.beside import perplexity, result
from esr_utils.config import ROOT

README = (ROOT / "README.md").read_text()
SUBJECTS = ("smollm2-135m", "smollm2-135m-corrector")
KINDS = ("none", "self_monitor")
STEERED = {  # as told -> published number, quantity of ours
    "several attempts": ("p0039", "multi_attempt"),
    "ESR": ("p0038", "esr"),
    "whole response recovers": ("p0255", "recovery"),
}


def row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def only(table: pd.DataFrame, **chosen: object) -> pd.Series:
    """The one line with these values."""
    for column, value in chosen.items():
        table = table[table[column] == value]
    (line,) = [line for _, line in table.iterrows()]
    return line


def interval(line: pd.Series, value: str) -> tuple[float, ...]:
    return tuple(100 * line[name] for name in (value, "ci_low", "ci_high"))


def of(line: pd.Series) -> str:
    rate, low, high = interval(line, "rate" if "rate" in line else "value")
    return f"{line['n_events']:.0f} of {line['n']:.0f}, {rate:.1f}% [{low:.1f}, {high:.1f}]"


def changed(before: pd.Series, after: pd.Series, contrast: pd.Series) -> str:
    assert before["n"] == after["n"] == contrast["n_pairs"]
    difference, low, high = interval(contrast, "difference")
    counts = f"{before['n_events']:.0f} to {after['n_events']:.0f} of {after['n']:.0f}"
    return f"{counts}, {difference:.1f} points [{low:.1f}, {high:.1f}]"


def test_rates_under_steering():
    rates = result("esr_detection", "rates")
    for told, (number, quantity) in STEERED.items():
        ours = [of(only(rates, subject=name, condition="steered", quantity=quantity)) for name in SUBJECTS]
        known = f"{published.value(number):g}% of {published.line(number)['n']:,.0f}"
        assert row(f"steered: {told}", known, *ours) in README


def test_rates_without_steering():
    rates = result("esr_detection", "rates")
    ours = [of(only(rates, subject=name, condition="baseline", quantity="multi_attempt")) for name in SUBJECTS]
    assert published.value("p0059") == 0
    known = f"0 of {published.line('p0059')['n']:,.0f}, five models"
    assert row("not steered: several attempts", known, *ours) in README


def test_rates_under_the_meta_prompt():
    kinds, contrasts = result("meta_prompting", "by_kind"), result("meta_prompting", "contrasts")
    ours = []
    for name in SUBJECTS:
        chosen = {"subject": name, "level": 1, "quantity": "multi_attempt"}
        before, after = (only(kinds, kind=kind, **chosen) for kind in KINDS)
        ours.append(changed(before, after, only(contrasts, kind=KINDS[1], less=KINDS[0], **chosen)))
    known = f"{published.value('p0039'):g} to {published.value('p0079'):g}%"
    assert row("told to monitor itself: several attempts", known, *ours) in README


def test_rates_under_ablation_and_what_it_costs():
    arms = result("ablation", "by_arm")
    before, after = (only(arms, condition=name, quantity="multi_attempt") for name in ("none", "detectors"))
    contrast = only(result("ablation", "contrasts"), condition="detectors", quantity="multi_attempt")
    ours = changed(before, after, contrast)
    known = f"{published.value('p0039'):g} to {published.value('p0091'):g}% of {published.line('p0091')['n']:,.0f}"
    assert row("detectors ablated: several attempts", known, "not run", ours) in README
    assert perplexity("detectors") == " (×957)"
    assert "multiplies the perplexity of unsteered answers by 957" in " ".join(README.split())


def test_agreement_on_what_became_better():
    line = claim_tables.improved().iloc[0]
    assert f"agree in {line['n_events']:.0f} of {line['n']} responses" in " ".join(README.split())
