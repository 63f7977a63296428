"""Reading a judge's reply: from raw text to a ``Verdict``, or one sentence on why that cannot be done.

A reply that cannot be read is never counted as "no attempts", and an attempt counts only if the response holds it.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from esr_utils.judges.rubric import Form
from esr_utils.judging import Attempt, Verdict

QUOTES = ('""', "''", "``", "“”", "‘’", "«»")
CUT_OFF = ("max_tokens", "length")  # what the two kinds of server say of a reply that ran out of tokens
DECLINED = ("refusal", "content_filter")

_SCORED = {
    "type": "object",
    "properties": {"attempt_text": {"type": "string"}, "score": {"type": "number"}},
    "required": ["attempt_text", "score"],
    "additionalProperties": False,
}
# Limits of the numbers are checked here and not in the schema: not every server takes them there.
SCHEMA: dict[str, object] = {
    "type": "object",
    "properties": {
        "comment": {"type": "string"},
        "attempts": {"type": "array", "items": _SCORED},
        "recovery": {"type": "number"},
    },
    "required": ["comment", "attempts", "recovery"],
    "additionalProperties": False,
}


class UnreadableError(ValueError):
    """A reply gives no verdict; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What a judge sent. ``stop`` is the server's word on why the reply ended; tokens are None if it did not say."""

    text: str
    stop: str = ""
    input_tokens: int | None = None
    output_tokens: int | None = None
    seconds: float = 0.0


class _Scored(BaseModel):
    model_config = ConfigDict(strict=True)
    attempt_text: str
    score: float = Field(ge=0, le=100, allow_inf_nan=False)


class _Faithful(BaseModel):
    model_config = ConfigDict(strict=True)
    attempts: list[_Scored]


class _Structured(_Faithful):
    recovery: float = Field(ge=0, le=10, allow_inf_nan=False)


def read_reply(reply: Reply, response: str, *, form: Form) -> Verdict:
    """The verdict that ``reply`` gives on ``response``.

    Raises:
        UnreadableError: no JSON, a missing or wrong field, or an attempt that the response does not hold.
    """
    if reply.stop in DECLINED:
        raise UnreadableError("the judge declined to reply")
    try:
        fields = _parse(reply.text, form=form)
        spans = quoted_spans([scored.attempt_text for scored in fields.attempts], response)
    except UnreadableError as error:
        cut = " (it was cut off at max_tokens)" if reply.stop in CUT_OFF else ""
        raise UnreadableError(f"{error}{cut}") from None
    attempts = [
        Attempt(start=start, end=end, score=scored.score)
        for (start, end), scored in zip(spans, fields.attempts, strict=True)
    ]
    recovery = fields.recovery if isinstance(fields, _Structured) else None
    return Verdict(status="judged" if attempts else "no_attempt", attempts=tuple(attempts), recovery=recovery)


def _json_parts(text: str, *, tags: bool) -> Iterator[str]:
    """What may be the JSON of a reply: between the first <json> and the first </json>, then the outermost braces.

    Source of the faithful form: the paper's parser. Differs from the paper: the braces are also tried where the tags
    hold no JSON, since a response may itself contain a tag.
    """
    if text.lstrip().startswith("<think>"):  # some servers leave a model's thoughts in its reply
        text = text.partition("</think>")[2]
    start, end = text.find("<json>"), text.find("</json>")
    if tags and 0 <= start < end:
        yield text[start + len("<json>") : end]
    start, end = text.find("{"), text.rfind("}")
    if 0 <= start < end:
        yield text[start : end + 1]


def _parse(text: str, *, form: Form) -> _Faithful:
    reason = f"it holds no JSON object: {_shown(text)}"
    for part in _json_parts(text, tags=form == "faithful"):
        try:
            found = json.loads(part, strict=False)  # not strict: line breaks inside strings pass
        except (ValueError, RecursionError) as error:
            reason = f"its JSON is broken ({_shown(str(error))}): {_shown(part)}"
        else:
            return _validated(found, form=form)
    raise UnreadableError(reason)


def _validated(found: object, *, form: Form) -> _Faithful:
    try:
        return (_Structured if form == "structured" else _Faithful).model_validate(found)
    except ValidationError as errors:
        first = errors.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the whole"
        raise UnreadableError(f"{where}: {first['msg']}, given {_shown(repr(first['input']))}") from None


def quoted_spans(texts: list[str], response: str) -> list[tuple[int, int]]:
    """Characters of each text in ``response``, each searched after the end of the one before.

    Runs of whitespace match any other run, and quotation marks around a text are overlooked if it is not there with
    them. Nothing else is forgiven.

    Raises:
        UnreadableError: a text is empty, not in the response, or only before the end of an earlier one.
    """
    spans: list[tuple[int, int]] = []
    for number, text in enumerate(texts, start=1):
        told = f"attempt {number} of {len(texts)}"
        if not text.strip():
            raise UnreadableError(f"{told} is empty")
        span = _find(text, response, after=spans[-1][1] if spans else 0)
        if span is None and _find(text, response, after=0):
            raise UnreadableError(f"{told} overlaps another or is out of order: {_shown(text)}")
        if span is None:
            raise UnreadableError(f"{told} is not in the response: {_shown(text)}")
        spans.append(span)
    return spans


def _find(text: str, response: str, *, after: int) -> tuple[int, int] | None:
    text = text.strip()
    bare = text[1:-1] if len(text) > 1 and text[0] + text[-1] in QUOTES else ""
    for words in (text.split(), bare.split()):
        match = re.compile(r"\s+".join(map(re.escape, words))).search(response, after) if words else None
        if match:
            return match.span()
    return None


def _shown(text: str) -> str:
    """The start of ``text`` on one line, for a message."""
    line = " ".join(text.split())
    return line if len(line) <= 60 else f"{line[:60]}..."
