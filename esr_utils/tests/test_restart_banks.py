"""The banks of phrases that the gate is fitted to share nothing with what it is reported on."""

import re
from itertools import combinations

import pytest

from esr_utils.config import DATA
from esr_utils.judges.restarts import sentences_of
from esr_utils.tests.test_restarts import NEAR_MISSES, RESTARTS

BANKS = sorted((DATA / "judge" / "phrases").glob("*.txt"))


def words_of(sentence: str) -> str:
    return " ".join(re.findall(r"[a-z']+", sentence.lower().replace("’", "'")))


def test_the_gate_was_not_fitted_to_the_sentences_of_this_file():
    banks = {words_of(line) for bank in BANKS for line in bank.read_text().splitlines()}
    answers = [text for answer in NEAR_MISSES for *_, text in sentences_of(answer)]
    assert [line for line in (*RESTARTS, *answers) if words_of(line) in banks] == []


@pytest.mark.parametrize("bank", BANKS, ids=lambda bank: bank.stem)
def test_the_lines_of_a_bank_are_distinct(bank):
    lines = [words_of(line) for line in bank.read_text().splitlines()]
    assert all(lines)
    assert len(set(lines)) == len(lines)


def test_no_line_is_in_two_banks():
    lines = {bank.stem: {words_of(line) for line in bank.read_text().splitlines()} for bank in BANKS}
    shared = {(a, b): lines[a] & lines[b] for a, b in combinations(lines, 2)}
    assert {pair: both for pair, both in shared.items() if both} == {}


@pytest.mark.parametrize("kind", ["restarts", "near_misses"])
def test_the_reported_part_is_in_no_bank_that_the_gate_is_fitted_to(kind):
    report = {
        words_of(line) for bank in BANKS if bank.stem == f"{kind}_report" for line in bank.read_text().split("\n")
    }
    others = {words_of(line) for bank in BANKS if not bank.stem.endswith("_report") for line in bank.open()}
    assert len(report) > 40
    assert report & others <= {""}
