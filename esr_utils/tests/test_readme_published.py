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


def counted(table: pd.DataFrame, **chosen: object) -> pd.Series:
    """Events and trials of the one line with these values."""
    for column, value in chosen.items():
        table = table[table[column] == value]
    (line,) = [line for _, line in table.iterrows()]
    return line[["n_events", "n"]].astype(int)


def of(line: pd.Series) -> str:
    return f"{line['n_events']} of {line['n']:,}"


def changed(before: pd.Series, after: pd.Series) -> str:
    assert before["n"] == after["n"]
    return f"{before['n_events']} to {of(after)}"


def test_rates_under_steering():
    rates = result("esr_detection", "rates")
    for told, (number, quantity) in STEERED.items():
        ours = [of(counted(rates, subject=name, condition="steered", quantity=quantity)) for name in SUBJECTS]
        known = f"{published.value(number):g}% of {published.line(number)['n']:,.0f}"
        assert row(f"steered: {told}", known, *ours) in README


def test_rates_without_steering():
    rates = result("esr_detection", "rates")
    ours = [of(counted(rates, subject=name, condition="baseline", quantity="multi_attempt")) for name in SUBJECTS]
    assert published.value("p0059") == 0
    known = f"0 of {published.line('p0059')['n']:,.0f}, five models"
    assert row("not steered: several attempts", known, *ours) in README


def test_rates_under_the_meta_prompt():
    kinds = result("meta_prompting", "by_kind")
    ours = [
        changed(*(counted(kinds, subject=name, level=1, quantity="multi_attempt", kind=kind) for kind in KINDS))
        for name in SUBJECTS
    ]
    known = f"{published.value('p0039'):g} to {published.value('p0079'):g}%"
    assert row("told to monitor itself: several attempts", known, *ours) in README


def test_rates_under_ablation_and_what_it_costs():
    arms = result("ablation", "by_arm")
    ours = changed(*(counted(arms, condition=name, quantity="multi_attempt") for name in ("none", "detectors")))
    after = published.line("p0091")
    known = f"{published.value('p0039'):g} to {published.value('p0091'):g}% of {after['n']:,.0f}"
    assert row("detectors ablated: several attempts", known, "not run", ours) in README
    assert perplexity("detectors") == " (×957)"
    assert "multiplies the perplexity of unsteered answers by 957" in " ".join(README.split())


def test_agreement_on_what_became_better():
    line = claim_tables.improved().iloc[0]
    assert f"agree in {line['n_events']:.0f} of {line['n']} responses" in " ".join(README.split())
