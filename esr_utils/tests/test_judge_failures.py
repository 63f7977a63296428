"""Remote judges when the server fails, refuses or has no key: what is tried again, and what is told."""

import logging
import socket
import threading
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from esr_utils.judges.cache import Cache
from esr_utils.judges.errors import JudgeError, UnreachableError
from esr_utils.judges.patience import N_UNREACHED, Limits, Line
from esr_utils.judges.servers import _retry_after_s
from esr_utils.tests.judge_parts import (
    CASE,
    KEY,
    Answer,
    both,
    cases,
    good,
    make,
    refuse_schema,
    shown_response,
)

# When the server fails


@both
def test_a_slow_server_is_asked_again(server, kind):
    server.script.append(Answer(text="late", delay_s=1.0))
    limits = Limits(timeout_s=0.4, n_tries=3, first_wait_s=0.01)
    (verdict,) = make(kind, server, limits=limits).judge([CASE])
    assert verdict.status == "judged"
    assert len(server.bodies) == 2


@both
def test_a_server_that_stays_slow_is_a_failure_with_its_reason(server, kind):
    server.usual = lambda body: Answer(text="late", delay_s=0.5)
    (verdict,) = make(kind, server, limits=Limits(timeout_s=0.1, n_tries=2, first_wait_s=0.01)).judge([CASE])
    assert (verdict.status, verdict.attempts) == ("failed", ())
    assert "no answer within 0.1 s" in verdict.note


@both
def test_retry_after_is_waited_for(server, kind):
    server.script.append(Answer(status=429, text="slow down", headers={"Retry-After": "1"}))
    started = time.perf_counter()
    (verdict,) = make(kind, server).judge([CASE])
    assert time.perf_counter() - started >= 1.0
    assert (verdict.status, len(server.bodies)) == ("judged", 2)


@both
def test_a_server_that_asks_to_wait_too_long_is_not_waited_for(server, kind):
    server.usual = lambda body: Answer(status=429, text="come back tomorrow", headers={"Retry-After": "86400"})
    (verdict,) = make(kind, server).judge([CASE])
    assert (verdict.status, len(server.bodies)) == ("failed", 1)
    assert "429 come back tomorrow" in verdict.note


def test_retry_after_may_be_a_date():
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    assert 28 < _retry_after_s({"retry-after": soon}) <= 30
    assert _retry_after_s({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0.0
    assert _retry_after_s({"retry-after": "soon"}) == _retry_after_s({}) == 0.0


@pytest.mark.parametrize(
    "trouble",
    [
        Answer(status=500, text="oops"),
        Answer(status=529, text="overloaded"),
        Answer(),
        Answer(raw=b'{"id": "half'),
        Answer(status=502, raw=b"<html>bad gateway</html>", headers={"Content-Type": "text/html"}),
    ],
    ids=["500", "529", "dropped", "damaged", "gateway"],
)
@both
def test_trouble_that_passes_is_retried_once_each(server, kind, trouble):
    server.script.extend([trouble, trouble])
    (verdict,) = make(kind, server).judge([CASE])
    assert (verdict.status, verdict.note) == ("judged", "")
    assert len(server.bodies) == 3


@both
def test_a_server_that_always_fails_is_tried_a_fixed_number_of_times(server, kind):
    server.usual = lambda body: Answer(status=500, text="out of order")
    judge = make(kind, server)
    verdicts = judge.judge(cases(2))
    assert [v.status for v in verdicts] == ["failed"] * 2
    assert verdicts[0].note == "no reply in 3 tries at most; the last: 500 out of order (some_error)"
    assert len(server.bodies) == 6
    assert judge.spent.n_replies == len(judge.cache) == 0


@both
def test_no_server_at_all_is_a_failure_with_its_reason(server, kind):
    (verdict,) = make(kind, server, base_url="http://127.0.0.1:9/v1").judge([CASE])
    assert verdict.status == "failed"
    assert "no connection to http://127.0.0.1:9/v1" in verdict.note


@both
def test_a_run_stops_where_nothing_gets_through(server, kind, tmp_path):
    """What was paid for is kept, and is not asked again."""
    limits = Limits(concurrency=1, n_tries=2, first_wait_s=0.01)
    judge = make(kind, server, limits=limits, cache=Cache(tmp_path / "c.sqlite"))
    server.script.extend([good] * 3)
    server.usual = lambda body: Answer()
    sentence = f"^no connection to {server.url(kind)} .*, {N_UNREACHED} requests in a row; .* judge again: .* are kept"
    with pytest.raises(JudgeError, match=sentence) as caught:
        judge.judge(cases(40))
    assert caught.value.__suppress_context__
    assert 3 + 2 * N_UNREACHED <= len(server.bodies) <= 3 + 2 * N_UNREACHED + 2  # one may be sent before it is noticed
    assert len(Cache(tmp_path / "c.sqlite")) == judge.spent.n_replies == 3
    server.usual = good
    server.bodies.clear()
    assert {v.status for v in judge.judge(cases(40))} == {"judged"}
    assert len(server.bodies) == 37


def test_no_connection_counts_over_calls(server):
    judge = make("openai", server, base_url="http://127.0.0.1:9/v1")
    for case in cases(N_UNREACHED - 1):
        assert judge.judge([case])[0].status == "failed"
    with pytest.raises(JudgeError, match="requests in a row"):
        judge.judge([CASE])


def test_a_request_that_is_cut_short_does_not_count():
    line, stop = Line(), threading.Event()
    stop.set()
    for _ in range(2 * N_UNREACHED):
        with pytest.raises(UnreachableError), line.watched(stop):
            raise UnreachableError("no connection")


@pytest.mark.parametrize("between", [good, Answer(status=400, text="too long"), Answer(status=500, text="oops")])
def test_a_server_that_answers_now_and_then_does_not_stop_a_run(server, between):
    limits = Limits(concurrency=1, n_tries=1)
    server.script.extend([*[Answer()] * (N_UNREACHED - 1), between] * 3)
    verdicts = make("openai", server, limits=limits).judge(cases(3 * N_UNREACHED))
    assert sum("no connection" in v.note for v in verdicts) == 3 * (N_UNREACHED - 1)


@both
def test_a_connection_that_never_comes_is_not_a_slow_answer(server, kind, request):
    deaf = socket.create_server(("127.0.0.1", 0), backlog=0)
    request.addfinalizer(deaf.close)
    for _ in range(4):  # fill the queue, so that further ones wait at the door
        caller = socket.socket()
        caller.setblocking(False)
        caller.connect_ex(deaf.getsockname())
        request.addfinalizer(caller.close)
    base_url = f"http://127.0.0.1:{deaf.getsockname()[1]}/v1"
    limits = Limits(timeout_s=0.2, n_tries=1)
    (verdict,) = make(kind, server, base_url=base_url, limits=limits).judge([CASE])
    assert "no connection to" in verdict.note


@both
def test_one_request_that_is_declined_leaves_the_others_alone(server, kind):
    too_long = Answer(status=400, text="prompt is too long")
    server.usual = lambda body: too_long if "Boil 1 " in shown_response(body) else good(body)
    verdicts = make(kind, server).judge(cases(3))
    assert [v.status for v in verdicts] == ["judged", "failed", "judged"]
    assert verdicts[1].note == "the server declined: 400 prompt is too long (some_error)"
    assert len(server.bodies) == 3


@pytest.mark.parametrize(
    ("status", "text", "sentence"),
    [
        (401, f"bad key {KEY}", "refuses the key in (ANTHROPIC|OPENAI)_API_KEY \\(401\\); set a valid one"),
        (403, f"{KEY} may not", "the key in (ANTHROPIC|OPENAI)_API_KEY may not use .* \\(403\\): \\[key\\] may not"),
        (404, "no such model", "there is no .* at http.* \\(404\\): no such model .*; check model and base_url"),
        (402, "pay first", "no credit left"),
        (429, "Quota: insufficient_quota", "no credit left"),
        (400, "Your credit balance is too low", "no credit left"),
        (400, "temperature: Extra inputs are not permitted", "takes no temperature 0.0; give temperature=None"),
    ],
)
@both
def test_what_no_retry_can_mend_stops_at_once(server, kind, status, text, sentence):
    server.usual = lambda body: Answer(status=status, text=text)
    with pytest.raises(JudgeError, match=sentence) as caught:
        make(kind, server, limits=Limits(concurrency=1)).judge(cases(5))
    assert len(server.bodies) <= 2  # the one that failed, and perhaps one that was sent before it was noticed
    assert KEY not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.__suppress_context__


@both
def test_a_web_page_instead_of_a_judge_is_an_error(server, kind):
    server.usual = lambda body: Answer(raw=b"<html>Welcome</html>", headers={"Content-Type": "text/html"})
    with pytest.raises(JudgeError, match=f"does not answer like a server of the {kind} kind; check base_url"):
        make(kind, server).judge([CASE])


def test_an_answer_without_a_reply_is_retried(server):
    server.script.append(Answer(raw=b'{"error": {"message": "upstream is busy", "code": 502}}'))
    assert make("openai", server).judge([CASE])[0].status == "judged"
    server.usual = lambda body: Answer(raw=b'{"error": {"message": "upstream is busy", "code": 502}}')
    (verdict,) = make("openai", server).judge([CASE])
    assert verdict.status == "failed"
    assert "upstream is busy" in verdict.note


@both
def test_a_server_without_structured_output_is_asked_in_words(server, kind):
    server.usual = refuse_schema
    judge = make(kind, server, limits=Limits(concurrency=1))
    with pytest.warns(UserWarning, match="takes no JSON schema; the judge is asked in words"):
        verdicts = judge.judge(cases(3))
    assert {v.status for v in verdicts} == {"judged"}
    assert len(server.bodies) == 4
    assert make(kind, server, cache=judge.cache).judge(cases(3)) == verdicts
    assert len(server.bodies) == 4


# Keys


@both
def test_a_missing_key_is_told_before_anything_is_sent(server, kind, monkeypatch):
    name = f"{kind.upper()}_API_KEY"
    monkeypatch.delenv(name)
    with pytest.raises(
        JudgeError, match=f"^https://judge.example/v1 needs a key: set the environment variable {name}$"
    ):
        make(kind, server, base_url="https://judge.example/v1").judge([CASE])


@both
def test_a_server_on_this_machine_needs_no_key(server, kind, monkeypatch):
    monkeypatch.delenv(f"{kind.upper()}_API_KEY")
    assert make(kind, server).judge([CASE])[0].status == "judged"


@both
def test_the_key_shows_up_nowhere(server, kind, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    server.script.append(Answer(status=500, text=f"key {KEY} fell over"))
    server.usual = lambda body: (
        Answer(status=500, text=f"key {KEY} fell over") if "Boil 1 " in str(body) else good(body)
    )
    judge = make(kind, server, cache=Cache(tmp_path / "c.sqlite"))
    verdicts = judge.judge(cases(3))
    assert verdicts[1].note.endswith("500 key [key] fell over (some_error)")
    shown = [repr(judge), str(vars(judge)), repr(verdicts)]
    assert KEY not in "".join(shown)
    assert KEY.encode() not in (tmp_path / "c.sqlite").read_bytes()
    assert not [record for record in caplog.records if KEY in record.getMessage() and not told_by_server(record)]


def told_by_server(record: logging.LogRecord) -> bool:
    """The SDKs log what a server writes; that this server writes the key is this test's doing."""
    return "fell over" in record.getMessage()
