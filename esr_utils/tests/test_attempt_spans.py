"""Attempts are what stands before, between and after the restarts."""

import pytest

from esr_utils.judges.restarts import MIN_CHARACTERS, Restart, attempt_spans
from esr_utils.tests.test_restarts import OFF, ON, PLAIN, PLAIN_TOO


def placed(response: str, *parts: str) -> list[Restart]:
    """Restarts by hand, where ``parts`` stand."""
    return [Restart(start=(at := response.index(part)), end=at + len(part)) for part in parts]


LAYOUTS = {
    "one": (f"{OFF} {PLAIN} {ON}", [PLAIN]),
    "two": (f"\n{OFF}\n\n{PLAIN} {ON} {PLAIN_TOO}\n {OFF} \n", [PLAIN, PLAIN_TOO]),
    "none": (f"  {ON}\n", []),
    "at the end": (f"{OFF} {PLAIN}\n", [PLAIN]),
    "at the start": (f"{PLAIN} {ON}", [PLAIN]),
    "side by side": (f"{OFF} {PLAIN}{PLAIN_TOO} {ON}", [PLAIN, PLAIN_TOO]),
}


@pytest.mark.parametrize(("response", "parts"), LAYOUTS.values(), ids=LAYOUTS)
def test_attempts_are_in_order_trimmed_and_cover_all_but_the_restarts(response, parts):
    restarts = placed(response, *parts)
    spans = attempt_spans(response, restarts)
    edges = [edge for span in spans for edge in span]
    assert edges == sorted(edges)
    texts = [response[slice(*span)] for span in spans]
    assert texts == [text.strip() for text in texts]
    assert all(texts)
    covered = {i for start, end in [*spans, *((r.start, r.end) for r in restarts)] for i in range(start, end)}
    assert sum(end - start for start, end in spans) + sum(r.end - r.start for r in restarts) == len(covered)
    assert "".join(character for i, character in enumerate(response) if i not in covered).strip() == ""


def test_a_stretch_too_short_is_no_attempt_of_its_own():
    short, enough = "x" * (MIN_CHARACTERS - 1), "x" * MIN_CHARACTERS
    for middle, n in ((short, 2), (enough, 3)):
        response = f"{OFF} {PLAIN} {middle} {PLAIN_TOO} {ON}"
        assert len(attempt_spans(response, placed(response, PLAIN, PLAIN_TOO))) == n


@pytest.mark.parametrize(("response", "spans"), [("", []), (" \n\t", []), ("No", [(0, 2)]), ("\n No \n", [(2, 4)])])
def test_a_blank_response_has_no_attempt_and_any_other_has_one(response, spans):
    assert attempt_spans(response, []) == spans


def test_a_response_of_little_but_a_restart_is_one_attempt():
    response = f"Tea. {PLAIN} Tea."
    assert attempt_spans(response, placed(response, PLAIN)) == [(0, len(response))]
