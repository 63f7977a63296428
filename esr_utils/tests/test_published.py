"""The published record: whole, unambiguous, and cited by every claim."""

import csv
import hashlib
import re

import pandas as pd
import pytest

from esr_utils import published
from esr_utils.claim_tables import TABLES
from esr_utils.claims import PAIRED, RULES, SINGLE, places
from esr_utils.config import DATA
from esr_utils.result_tables import COLUMNS

NUMBERS = ("value", "ci_low", "ci_high", "n")
# of all numbers as they were collected from the paper: a line lost or a digit changed shows
COLLECTED = "9bddc63c67ad4f3ee22183e43756e1ace62ef67faf35b71e8433a6a3ecd7a384"
COUNTED = "trials|prompts|models|latents|episodes|responses|examples|rows|levels|layer index|vectors|judges|sets|ratios"


def lines() -> list[dict[str, str]]:
    with (DATA / "published" / "published.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def canonical(line: dict[str, str], column: str) -> str:
    text = line[column]
    if column not in NUMBERS or not text or "/" in text:
        return text
    return repr(float(text))


def test_every_collected_number_is_there_unchanged():
    text = "\n".join("|".join(canonical(line, column) for column in line) for line in lines())
    assert hashlib.sha256(text.encode()).hexdigest() == COLLECTED


def test_ids_are_unique_and_without_a_gap():
    ids = [line["id"] for line in lines()]
    assert ids == [f"p{i:04d}" for i in range(1, len(ids) + 1)]


def fits(line: dict[str, str]) -> bool:
    """Whether a value can be one in its unit."""
    unit = line["unit"]
    if "/" in line["value"]:
        return unit == "rows" and sum(map(int, line["value"].split("/"))) == int(line["n"])
    value, upper = float(line["value"]), float("inf")
    for limit, starts in {100: ("%", "score 0-100", "score points"), 10: "score 0-10", 1: ("p (", "fraction")}.items():
        upper = min(upper, limit) if unit.startswith(starts) and not (limit == 10 and "100" in unit) else upper
    is_whole = value == int(value)
    is_count = re.match(f"({COUNTED})\\b", unit) and not line["quantity"].startswith("mean")
    return (-2 if unit == "d" else 0) <= value <= upper and (is_whole or not is_count)


def test_every_value_fits_its_unit():
    assert [line["id"] for line in lines() if not fits(line)] == []


@pytest.mark.parametrize(
    ("value", "unit"), [("101", "%"), ("1.5", "fraction"), ("2.5", "trials"), ("-1", "%"), ("11", "score 0-10")]
)
def test_a_value_that_does_not_fit_is_seen(value, unit):
    assert not fits({"value": value, "unit": unit, "quantity": "rate", "n": ""})


def test_every_line_says_what_it_is_and_where_it_is_from():
    for line in lines():
        assert all(line[column] for column in ("quantity", "model", "source", "version")), line["id"]
        if line["ci_low"] or line["ci_high"]:
            assert float(line["ci_low"]) <= float(line["value"]) <= float(line["ci_high"]), line["id"]
        assert not line["n"] or int(line["n"]) > 0, line["id"]


def test_where_versions_disagree_both_are_kept():
    table = published.published()
    same = table.groupby(["quantity", "model", "condition"])["value"].nunique()
    assert {"total trials", "multi-attempt rate upper bound", "ESR ratio to baseline"} <= set(
        same[same > 1].index.levels[0]
    )
    for one, other in (
        ("p0041", "p0042"),
        ("p0060", "p0064"),
        ("p0082", "p0083"),
        ("p0102", "p0103"),
        ("p0255", "p0279"),
    ):
        assert published.value(one) != published.value(other)
        assert (table.loc[one, ["source", "version"]] != table.loc[other, ["source", "version"]]).any()


def test_a_number_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="has no number p9999"):
        published.line("p9999")


def test_a_column_that_is_missing_is_named(tmp_path, monkeypatch):
    (tmp_path / "published").mkdir()
    (tmp_path / "published" / "claims.csv").write_text("id,section,claim,numbers,file,where,against,bound,reason\n")
    monkeypatch.setattr(published, "DATA", tmp_path)
    published.claims.cache_clear()
    with pytest.raises(ValueError, match=r"data/published/claims.csv lacks the column rule; restore it with git."):
        published.claims()


def test_a_text_is_not_taken_for_a_number():
    with pytest.raises(ValueError, match="p0404 .* is '91/760', not a number"):
        published.value("p0404")


def test_intervals_of_rounded_rates_are_those_that_were_derived():
    rates, n = pd.Series([0.074, 0.1]), pd.Series([4877.0, float("nan")])
    known, unknown = published.wilson(rates, n).to_dict("records")
    derived = published.line("p0413")
    assert [round(100 * known[end], 1) for end in ("ci_low", "ci_high")] == [
        derived["ci_low"],
        round(derived["ci_high"], 1),
    ]
    assert all(pd.isna(value) for value in unknown.values())


def test_the_detectors_are_the_published_sets():
    table = published.detectors()
    assert table["latent"].is_unique
    assert table[["in_paper_26", "in_separability_25", "in_sum_50"]].sum().to_list() == [26, 25, 50]
    chosen = table[table["in_paper_26"] == 1]
    assert chosen["sign_group"].value_counts().to_dict() == {"positive": 18, "negative": 8}
    assert ((chosen["cohens_d"] > 0) == (chosen["sign_group"] == "positive")).all()


def test_the_detectors_have_the_numbers_of_table_2():
    numbers, table = published.published().query("source == 'Table 2'"), published.detectors().set_index("latent")
    columns = {
        "Cohen's d off- vs on-topic": "cohens_d",
        "off-topic mean activation": "off_topic_mean",
        "on-topic mean activation": "on_topic_mean",
        "p-value off- vs on-topic": "p",
    }
    assert len(numbers) == len(columns) * 26
    for number, line in numbers.iterrows():
        latent = table.loc[int(line["condition"].removeprefix("latent "))]
        assert latent[columns[line["quantity"]]] == published.value(number), number
        if line["quantity"].startswith("p-value"):
            assert bool(latent["p_is_bound"]) == ("stated '<" in line["unit"]), number


def test_every_claim_has_numbers_a_rule_and_a_place():
    claims = published.claims()
    assert claims.index.is_unique
    assert claims["claim"].is_unique
    assert set(claims["rule"]) <= RULES
    for claim in claims.itertuples():
        numbers = claim.numbers.split()
        assert numbers
        assert set(numbers) <= set(published.published().index), claim.Index
        assert bool(claim.file) == bool(claim.where), claim.Index
        if claim.file:
            assert claim.file in {*COLUMNS, *TABLES}, claim.Index
            assert claim.against or claim.rule in {*SINGLE, *PAIRED}, claim.Index
            assert (claim.rule in ("below", "above", "holds", "about")) == (claim.bound == claim.bound), claim.Index


def test_every_headline_number_belongs_to_a_claim():
    table = published.published()
    is_headline = table["source"].str.contains("Abstract|Sec. 3") & table["unit"].str.match("%|x$")
    told = set(" ".join(published.claims()["numbers"]).split())
    assert set(table.index[is_headline]) - told == set()


def test_places_combine_the_alternatives():
    assert list(places("a=1|2;b=x")) == [{"a": "1", "b": "x"}, {"a": "2", "b": "x"}]
    assert list(places("a=")) == [{"a": ""}]


def test_an_unknown_unit_is_named(monkeypatch, tmp_path):
    (tmp_path / "published").mkdir()
    text = (published.DATA / "published" / "published.csv").read_text()
    (tmp_path / "published" / "published.csv").write_text(text.replace("layer index", "furlongs", 1))
    monkeypatch.setattr(published, "DATA", tmp_path)
    with pytest.raises(ValueError, match="published.csv has the unit 'furlongs' of p0001; restore it with git"):
        published.published.__wrapped__()
