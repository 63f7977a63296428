"""Servers for the tests of the vllm engine: a real one, and a stand-in that fails in ways a real one seldom does."""

import json
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx

from esr_utils.config import DATA
from esr_utils.engines.vllm_server import VERSIONS

READY_S = 300
FACTS = {"d_model": 32, "n_layers": 4, "vllm": "0.30.0", "vllm-lens": "1.3.0", "kit": VERSIONS["kit"]}


class StandIn(ThreadingHTTPServer):
    """Answers every request with tokens 70, 71, 72, and does to some what ``misbehave`` says.

    ``misbehave``: number of the request, from 0, -> nothing (behave), bytes to send instead, a status, or ``drop``.
    """

    daemon_threads, request_queue_size = True, 64

    def __init__(self, *, names=("tiny-llama",), facts=FACTS, misbehave=lambda n: None, max_model_len=512):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.names, self.facts, self.misbehave, self.max_model_len = names, facts, misbehave, max_model_len
        self.told: dict | Callable[[dict], dict] = {}  # what hooks of rows save, or how that follows from a request
        self.bodies: list[dict] = []
        self.keys: list[str | None] = []
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def listing(self) -> dict:
        return {"data": [{"id": name, "max_model_len": self.max_model_len} for name in self.names]}

    def handle_error(self, request, client_address) -> None:
        """A client that hangs up is part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    server: StandIn

    def do_GET(self) -> None:
        self.server.keys.append(self.headers["Authorization"])
        self._send(200, json.dumps(self.server.listing()).encode())

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if body["max_tokens"] == 1 and body.keys() <= {"model", "prompt", "max_tokens", "vllm_xargs"}:  # the probe
            choice = {"token_ids": [5], "finish_reason": "length"}
            self._send(200, json.dumps({"choices": [choice], "hook_results": {"0": self.server.facts}}).encode())
            return
        with self.server.lock:
            fault = self.server.misbehave(len(self.server.bodies))
            self.server.bodies.append(body)
        if fault == "drop":
            self.connection.shutdown(socket.SHUT_RDWR)
        elif fault == "hang":
            time.sleep(60)
        elif isinstance(fault, int):
            self._send(fault, json.dumps({"error": {"message": f"status {fault} it is"}}).encode())
        else:
            choice = {"token_ids": [70, 71, 72][: body["max_tokens"]], "finish_reason": "length"}
            if "prompt_logprobs" in body:
                choice["prompt_logprobs"] = [{str(token): {"logprob": -token / 100}} for token in body["prompt"]]
            told = self.server.told(body) if callable(self.server.told) else self.server.told
            reply = {"choices": [choice]} | ({"hook_results": {"0": told}} if told else {})
            self._send(200, fault or json.dumps(reply).encode())

    def _send(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args) -> None:
        """Quiet."""


@contextmanager
def standing_in(**options) -> Iterator[StandIn]:
    server = StandIn(**options)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class RealServer:
    """A vLLM server with vllm-lens on this machine's processor, by the interpreter that ESR_VLLM_PYTHON names."""

    def __init__(self, model: Path, log: Path, *, name: str = "smollm2-135m", options: tuple[str, ...] = ()):
        python = os.environ.get("ESR_VLLM_PYTHON")
        assert python, "set ESR_VLLM_PYTHON to the Python of an environment with vllm and vllm-lens"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        command = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)]
        command += ["--served-model-name", name, "--host", "127.0.0.1", "--port", str(self.port), "--dtype", "float32"]
        command += ["--enforce-eager", "--no-enable-prefix-caching", "--max-model-len", "1024"]
        command += ["--no-enable-chunked-prefill", "--max-num-batched-tokens", "8192", *options]
        settings = {
            "PYTHONPATH": str(DATA.parent),
            "OMP_WAIT_POLICY": "PASSIVE",
            "GOMP_SPINCOUNT": "0",
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "HF_HUB_OFFLINE": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_LENS_STRICT_COMPATIBILITY": "1",
            "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, sorted(os.sched_getaffinity(0)))),
        }
        self.url, self.log = f"http://127.0.0.1:{self.port}", log
        with log.open("w") as output:
            self.process = subprocess.Popen(
                command, env=os.environ | settings, stdout=output, stderr=output, cwd=log.parent, start_new_session=True
            )

    def wait(self) -> "RealServer":
        deadline = time.monotonic() + READY_S
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                if httpx.get(f"{self.url}/health", trust_env=False).status_code == httpx.codes.OK:
                    return self
            except httpx.TransportError:
                time.sleep(1)
        tail = "\n".join(self.log.read_text().splitlines()[-20:])
        self.end()
        raise AssertionError(f"the vLLM server did not come up:\n{tail}")

    def end(self, *, kill: bool = False) -> None:
        """End it and what it started, politely or not."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, 9 if kill else 15)
            try:
                self.process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, 9)
                self.process.wait()
