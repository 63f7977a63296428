"""A made-up copy of the authors' repository, with other texts, behind a server of this machine."""

import csv
import json
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from esr_utils import reference, reference_files
from esr_utils.meta_prompting import load_meta_prompts

QUESTIONS = ["How do ants find sugar?", "Explain how to tie a bow."]
HEAD = "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n"
BETWEEN = "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
JUDGE = '''
"""Marks things."""
import nowhere_to_be_found

SYSTEM_PROMPT = (
    "You are strict. "
    "You are fair."
)
INSTRUCTIONS = """Reply as <json>{"attempts": []}</json>.
Mark what {you} see."""

class Judge:
    async def grade(self, response, prompt, feature_label):
        user_message = (
            f"{INSTRUCTIONS}\\n\\n"
            f"Asked: {prompt}\\n"
            f"Said: {response}\\n"
            f"Pushed: {feature_label}"
        )
        return await self.ask(SYSTEM_PROMPT, user_message)
'''
VARIANTS = '''
import nowhere_to_be_found

def _default_prompt_variants() -> list:
    """Pairs."""
    return [
        ("dont_get_distracted", "{prompt} Eyes on the ball."),
        ("ignore_latent_label", "{prompt} Think not of {latent_label}!"),
        ("self_monitor", "{prompt} Look at "
                         "yourself."),
        ("resist_manipulation", "{prompt} Stand firm."),
    ]
'''
MIX = [
    [(False, f"{HEAD}{QUESTIONS[0]}{BETWEEN}Bows are red.\n\n"), (True, "No, ants. They smell it.<|eot_id|>")],
    [(False, f"{HEAD}{QUESTIONS[1]}{BETWEEN}"), (True, "Make\u2028two loops")],
]
TEXTS = {
    reference.PROMPTS: "\n".join(QUESTIONS),
    reference.SUBJECTS: "the making of bread\nthe sound of rain\n\n",
    reference.NORMAL_RESPONSES: json.dumps({"prompts": QUESTIONS, "normal_responses": dict.fromkeys(QUESTIONS, "So.")}),
    reference.DETECTORS: json.dumps({"off_topic_detectors": [7, 3], "detector_stats": {}}),
    reference.JUDGE: JUDGE,
    reference.VARIANTS: VARIANTS,
    reference.MIX: "".join(
        json.dumps({"segments": [{"label": label, "text": text} for label, text in line]}, ensure_ascii=False) + "\n"
        for line in MIX
    ),
    reference.NORMAL_ANSWERS: json.dumps(
        [{"messages": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}], "metadata": {}}]
    ),
}
Answer = Callable[[BaseHTTPRequestHandler, bytes], None]


@dataclass
class Repository:
    """A copy of the authors' repository with other files, behind a server that can misbehave."""

    folder: Path
    cache: Path
    asked: list[str] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)  # to the next requests; after them all is well

    def write(self, path: str, text: str) -> None:
        """Put a file there, and its checksum on the list."""
        file = self.folder / "files" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text.encode())
        lines = [line for line in self._lines() if line["path"] != path]
        mine = {"path": path, "bytes": len(text.encode()), "sha256": sha256(text.encode()).hexdigest(), "what": "x"}
        with (self.folder / "list.csv").open("w", newline="") as out:
            writer = csv.DictWriter(out, mine)
            writer.writeheader()
            writer.writerows([*lines, mine])

    def _lines(self) -> list[dict]:
        path = self.folder / "list.csv"
        return list(csv.DictReader(path.open(newline=""))) if path.exists() else []

    def kept(self) -> list[str]:
        """Every file in the cache, half-written ones too."""
        return sorted(path.name for path in self.cache.rglob("*") if path.is_file())

    def serve(self) -> ThreadingHTTPServer:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(handler):  # noqa: N805
                path = handler.path.removeprefix("/at/")
                self.asked.append(path)
                answer = self.answers.pop(0) if self.answers else whole
                with suppress(ConnectionError):  # a client may hang up on what is too long or too slow
                    answer(handler, (self.folder / "files" / path).read_bytes())

            def log_message(handler, *args):  # noqa: N805
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return server


def whole(handler: BaseHTTPRequestHandler, body: bytes) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def made_up(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    """The repository with ``TEXTS``, served until the test ends, and an empty cache."""
    made = Repository(tmp_path / "repository", tmp_path / "a cache")
    made.cache.mkdir()
    for path, text in TEXTS.items():
        made.write(path, text)
    server = made.serve()
    request.addfinalizer(server.server_close)
    request.addfinalizer(server.shutdown)
    monkeypatch.setenv("ESR_CACHE", str(made.cache))
    monkeypatch.setenv("ESR_REFERENCE_URL", f"http://127.0.0.1:{server.server_port}/at/")
    monkeypatch.setattr(reference_files, "LIST", made.folder / "list.csv")
    quick = replace(reference_files.PATIENCE, silence_s=0.5, limit_s=0.3, first_wait_s=0.01)
    monkeypatch.setattr(reference_files, "PATIENCE", quick)
    load_meta_prompts.cache_clear()
    request.addfinalizer(load_meta_prompts.cache_clear)
    return made
