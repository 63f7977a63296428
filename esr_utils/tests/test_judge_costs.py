"""What remote judges keep, what they cost, and what they are called."""

import re
from pathlib import Path

import pytest

from esr_utils.judges.anthropic_judge import PRICE, AnthropicJudge
from esr_utils.judges.cache import Cache
from esr_utils.judges.costs import Price
from esr_utils.judges.errors import BudgetError
from esr_utils.judges.openai_judge import OpenAIJudge
from esr_utils.judges.patience import Limits
from esr_utils.judges.rubric import FAITHFUL, faithful
from esr_utils.judging import Case
from esr_utils.tests.judge_parts import CASE, both, cases, make


@both
def test_a_second_run_makes_no_call_and_needs_no_key(server, kind, tmp_path, monkeypatch):
    first = make(kind, server, cache=Cache(tmp_path / "c.sqlite"))
    verdicts = first.judge(cases(4))
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    monkeypatch.delenv("OPENAI_API_KEY")
    second = make(kind, server, cache=Cache(tmp_path / "c.sqlite"))
    assert second.judge(cases(4)) == verdicts
    assert len(server.bodies) == 4
    assert second.spent.n_replies == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"model": "other"},
        {"repeat": 1},
        {"temperature": None},
        {"max_tokens": 100},
        {"rubric": FAITHFUL},
        {"rubric": faithful("{question} <json> {label} <response x>\n{response}\n</response x>")},
    ],
    ids=["model", "repeat", "temperature", "max_tokens", "form", "wording"],
)
@both
def test_another_judge_asks_anew(server, kind, changes):
    cache = Cache()
    make(kind, server, cache=cache).judge([CASE])
    make(kind, server, cache=cache, **changes).judge([CASE])
    assert len(server.bodies) == len(cache) == 2


@both
def test_patience_is_not_part_of_the_question(server, kind):
    cache = Cache()
    make(kind, server, cache=cache).judge([CASE])
    make(kind, server, cache=cache, limits=Limits(concurrency=1), price=PRICE, max_usd=1.0).judge([CASE])
    assert len(server.bodies) == 1


@both
def test_a_budget_stop_keeps_what_was_paid_for(server, kind, tmp_path):
    asked = {"price": PRICE, "cache": Cache(tmp_path / "c.sqlite"), "limits": Limits(concurrency=2)}
    judge = make(kind, server, max_usd=0.006, **asked)
    with pytest.raises(BudgetError, match="stops at max_usd=0.006: .* raise max_usd and judge again"):
        judge.judge(cases(10))
    n_paid = len(server.bodies)
    assert 1 <= n_paid == judge.spent.n_replies == len(judge.cache) < 10
    assert judge.spent.usd <= 0.006
    judge.max_usd = 1.0
    assert [v.status for v in judge.judge(cases(10))] == ["judged"] * 10
    assert len(server.bodies) == 10


def test_a_budget_needs_a_price():
    with pytest.raises(ValueError, match="max_usd cannot be kept to without a price"):
        AnthropicJudge(max_usd=1.0)


@both
def test_an_estimate_counts_cached_and_empty_as_free(server, kind, monkeypatch):
    judge = make(kind, server, price=Price(input_usd=1.0, output_usd=10.0))
    judge.judge(cases(2))
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    monkeypatch.delenv("OPENAI_API_KEY")
    estimate = judge.estimate([*cases(5), *cases(5), Case(question="?", response=" ")])
    assert (estimate.n_calls, estimate.n_cached, estimate.n_empty) == (3, 2, 1)
    assert estimate.usd == pytest.approx((estimate.input_tokens + 10 * estimate.output_tokens) / 1e6)
    assert 3 * 500 < estimate.input_tokens < 3 * 2000
    assert len(server.bodies) == 2
    assert judge.estimate(cases(2)).usd == 0.0


@both
def test_an_estimate_without_a_price_says_so(server, kind):
    estimate = make(kind, server).estimate(cases(2))
    assert estimate.usd is None
    assert re.match(
        r"2 calls \(0 more are cached, 0 responses are empty\), about .* at an unknown price", str(estimate)
    )


@pytest.mark.parametrize(
    ("judge", "name"),
    [
        (AnthropicJudge(), "anthropic-claude-haiku-4-5-structured"),
        (AnthropicJudge(model="claude-3-5-sonnet-20240620"), "anthropic-claude-3-5-sonnet-20240620-structured"),
        (OpenAIJudge(model="gpt-5-mini", rubric=FAITHFUL), "openai-gpt-5-mini-faithful"),
        (OpenAIJudge(model="gpt-5-mini", temperature=None, repeat=2), "openai-gpt-5-mini-structured-tnone-repeat2"),
        (
            OpenAIJudge(model="Qwen/Qwen3-32B:free", base_url="https://openrouter.ai/api/v1/"),
            "openrouter.ai-qwen-qwen3-32b-free-structured",
        ),
        (OpenAIJudge(model="../../x", base_url="http://localhost:11434/v1"), "localhost-11434-x-structured"),
        (OpenAIJudge(model="x", base_url="http://judge.local/v1"), "judge.local-80-x-structured"),
        (
            OpenAIJudge(model="o4", temperature=None, max_tokens=9000, reasoning_effort="Low"),
            "openai-o4-structured-tnone-tokens9000-effort-low",
        ),
    ],
)
def test_names_are_safe_for_files(judge, name):
    assert judge.name == name
    assert Path(name).name == name
    assert name in repr(judge)


@pytest.mark.parametrize(
    "changes",
    [
        {"base_url": "http://localhost:8001/v1"},
        {"base_url": "http://localhost/v1"},
        {"base_url": "https://localhost/v1"},
        {"max_tokens": 8192},
        {"temperature": None},
        {"reasoning_effort": "low"},
        {"reasoning_effort": "none"},
    ],
    ids=str,
)
def test_judges_that_differ_have_names_that_differ(changes):
    usual = {"model": "x", "base_url": "http://localhost:8000/v1"}
    assert OpenAIJudge(**{**usual, **changes}).name != OpenAIJudge(**usual).name


def test_a_port_that_is_no_port_is_an_error():
    with pytest.raises(ValueError, match="[Pp]ort"):
        OpenAIJudge(base_url="http://localhost:99999/v1")


def test_another_wording_has_another_name():
    names = {AnthropicJudge(rubric=faithful(f"{word} {{question}} {{response}} {{label}}")).name for word in "ab"}
    assert len(names | {AnthropicJudge(rubric=FAITHFUL).name}) == 3
