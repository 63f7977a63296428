"""A server for the tests of remote judges: it speaks both languages and misbehaves on demand."""

import json
import re
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from esr_utils.judges.anthropic_judge import AnthropicJudge
from esr_utils.judges.openai_judge import OpenAIJudge
from esr_utils.judges.patience import Limits
from esr_utils.judges.remote import RemoteJudge
from esr_utils.judging import Case

KEY = "sk-test-0123456789abcdef"
FAST = Limits(concurrency=4, timeout_s=5.0, n_tries=3, n_asks=3, first_wait_s=0.01, longest_wait_s=2.0)
CASE = Case(question="How do you make tea?", response="Boil water. Then steep the leaves.", label="astronomy")
KINDS = ("anthropic", "openai")
both = pytest.mark.parametrize("kind", KINDS)


def cases(n: int) -> list[Case]:
    return [Case(question="How do you make tea?", response=f"Boil {i} cups.", label="astronomy") for i in range(n)]


# The server


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the server sends: ``text`` in the shape of its language, or ``raw`` bytes; None of both drops the line."""

    status: int = 200
    text: str | None = None
    raw: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    stop: str = ""


def reply_text(*attempts: tuple[str, object]) -> str:
    listed = [{"attempt_text": text, "score": score} for text, score in attempts]
    return json.dumps({"comment": "ok", "attempts": listed, "recovery": 2})


def shown_response(body: dict) -> str:
    return re.search(r"<response (\w+)>\n(.*)\n</response \1>", body["messages"][-1]["content"], re.DOTALL)[2]


def good(body: dict) -> Answer:
    """One attempt, the whole response, scored 70."""
    text = reply_text((shown_response(body), 70))
    return Answer(text=f"Fine. <json>{text}</json>" if "<json>" in body["messages"][-1]["content"] else text)


def refuse_schema(body: dict) -> Answer:
    if "response_format" in body or "output_config" in body:
        return Answer(status=400, text="response_format / output_config: json_schema is not supported")
    return good(body)


class Server(ThreadingHTTPServer):
    """Takes answers from ``script`` while there are any, then from ``usual``. Counts requests at once."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.script: deque = deque()
        self.usual: Callable[[dict], Answer] = good
        self.bodies: list[dict] = []
        self.headers: list[dict[str, str]] = []
        self.n_now = self.n_most = 0
        self.lock = threading.Lock()

    def url(self, kind: str) -> str:
        return f"http://127.0.0.1:{self.server_port}" + ("/v1" if kind == "openai" else "")

    def answer(self, body: dict, headers: dict[str, str]) -> Answer:
        with self.lock:
            self.bodies.append(body)
            self.headers.append(headers)
            self.n_now += 1
            self.n_most = max(self.n_most, self.n_now)
            step = self.script.popleft() if self.script else self.usual
        answer = step if isinstance(step, Answer) else step(body)
        time.sleep(answer.delay_s)
        with self.lock:
            self.n_now -= 1
        return answer


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        answer = self.server.answer(body, {name.lower(): value for name, value in self.headers.items()})
        if answer.text is None and answer.raw is None:
            self.close_connection = True
            return
        shape = {"/v1/messages": message, "/v1/chat/completions": completion}[self.path]
        data = answer.raw if answer.raw is not None else json.dumps(shape(answer, body)).encode()
        try:
            self.send_response(answer.status)
            for name, value in {"Content-Type": "application/json", **answer.headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
        except ConnectionError:
            pass  # the client did not wait

    def log_message(self, *args):
        pass


def message(answer: Answer, body: dict) -> dict:
    if answer.status >= 400:
        return {"type": "error", "error": {"type": "some_error", "message": answer.text}}
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": body["model"],
        "content": [{"type": "text", "text": answer.text}],
        "stop_reason": answer.stop or "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": 1000, "output_tokens": 100},
    }


def completion(answer: Answer, body: dict) -> dict:
    if answer.status >= 400:
        return {"error": {"message": answer.text, "type": "some_error", "param": None, "code": None}}
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": answer.text},
        "finish_reason": answer.stop or "stop",
    }
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": body["model"],
        "choices": [choice],
        "usage": {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100},
    }


def serve(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Server:
    """A server that runs until the test ends, and keys for it."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server = Server()
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    request.addfinalizer(server.server_close)
    request.addfinalizer(server.shutdown)
    return server


def make(kind: str, server: Server, **changes) -> RemoteJudge:
    judge = {"anthropic": AnthropicJudge, "openai": OpenAIJudge}[kind]
    return judge(**{"base_url": server.url(kind), "limits": FAST, **changes})
