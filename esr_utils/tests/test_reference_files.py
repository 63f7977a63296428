"""The authors' files: fetched from a server of this test that can misbehave, checked and cached."""

import errno
import socket
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from esr_utils import reference, reference_files
from esr_utils.reference_files import COMMIT, REPOSITORY, USUAL_URL, ReferenceFileError, reference_file
from esr_utils.tests.reference_parts import QUESTIONS, Answer, Repository, made_up, whole


@pytest.fixture
def repository(request, tmp_path, monkeypatch) -> Repository:
    return made_up(request, tmp_path, monkeypatch)


def cut(handler: BaseHTTPRequestHandler, body: bytes) -> None:
    """Promise the whole and close half way."""
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body[: len(body) // 2])


def short(handler: BaseHTTPRequestHandler, body: bytes) -> None:
    whole(handler, body[:10])


def endless(handler: BaseHTTPRequestHandler, body: bytes) -> None:
    handler.send_response(200)
    handler.end_headers()
    while True:
        handler.wfile.write(body)


def changed(handler: BaseHTTPRequestHandler, body: bytes) -> None:
    whole(handler, body.replace(b"ants", b"bees"))


def dropped(handler: BaseHTTPRequestHandler, body: bytes) -> None:
    handler.connection.shutdown(socket.SHUT_RDWR)


def silent(handler: BaseHTTPRequestHandler, body: bytes) -> None:
    time.sleep(1.0)


def trickling(handler: BaseHTTPRequestHandler, body: bytes) -> None:
    handler.send_response(200)
    handler.end_headers()
    for byte in body:
        handler.wfile.write(bytes([byte]))
        handler.wfile.flush()
        time.sleep(0.1)


def refusing(code: int) -> Answer:
    return lambda handler, body: handler.send_error(code)


def unused_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def test_a_file_is_fetched_once_and_then_read_without_a_server(repository, monkeypatch):
    first = reference.prompts()
    monkeypatch.setenv("ESR_REFERENCE_URL", f"http://127.0.0.1:{unused_port()}")
    assert reference.prompts() == first
    assert repository.asked == [reference.PROMPTS]
    assert repository.kept() == ["prompts.txt"]


def test_the_address_is_that_of_the_commit_unless_a_variable_names_another(monkeypatch):
    monkeypatch.delenv("ESR_REFERENCE_URL", raising=False)
    assert reference_files._url("a b.py") == f"{USUAL_URL}/a%20b.py"
    assert f"https://raw.githubusercontent.com/{REPOSITORY}/{COMMIT}" == USUAL_URL
    monkeypatch.setenv("ESR_REFERENCE_URL", "http://mirror.example/x/")
    assert reference_files._url("a/b.py") == "http://mirror.example/x/a/b.py"


def test_a_folder_serves_as_well(repository, monkeypatch):
    monkeypatch.setenv("ESR_REFERENCE_URL", (repository.folder / "files").as_uri())
    assert reference.prompts() == QUESTIONS
    assert repository.asked == []


@pytest.mark.parametrize("url", ["ftp://mirror/x", "data:text/plain,hello", "mirror.example/x", "javascript:x", "/tmp"])
def test_other_kinds_of_address_are_refused(repository, monkeypatch, url):
    monkeypatch.setenv("ESR_REFERENCE_URL", url)
    with pytest.raises(ReferenceFileError, match="ESR_REFERENCE_URL is '.*'; it must begin with http://, https:// or"):
        reference.prompts()
    assert repository.kept() == []


@pytest.mark.parametrize("url", ["http://", "http://[::1/x", "http://127.0.0.1:port", "http://a b/", "http://ü..é"])
def test_an_address_without_sense_is_told(repository, monkeypatch, url):
    monkeypatch.setenv("ESR_REFERENCE_URL", url)
    with pytest.raises(ReferenceFileError, match="could not fetch http:/"):
        reference.prompts()


@pytest.mark.parametrize("answer", [changed, endless])
def test_another_file_is_refused_at_once_and_not_kept(repository, answer):
    repository.answers = [answer]
    sentence = r"prompts.txt has SHA-256 \w{12}\.\.\., expected \w{12}\.\.\.: it is not the file of commit 3c29a49"
    with pytest.raises(ReferenceFileError, match=sentence):
        reference.prompts()
    assert repository.kept() == []
    assert len(repository.asked) == 1


BAD = {
    cut: "it ended after 24 of 49 bytes",
    short: "it ended after 10 of 49 bytes",
    dropped: "RemoteDisconnected|reset",
    silent: "timed out",
    trickling: "it was not complete after 0.3 s",
    refusing(503): "the server answered 503",
    refusing(429): "the server answered 429",
}


@pytest.mark.parametrize(("answer", "told"), BAD.items(), ids=[told[:30] for told in BAD.values()])
def test_what_may_pass_is_tried_again_a_few_times_and_then_told(repository, answer, told):
    repository.answers = [answer] * 9
    with pytest.raises(ReferenceFileError, match=rf"could not fetch http.*prompts.txt \(.*({told})") as caught:
        reference.prompts()
    assert "connect once, or set ESR_REFERENCE_URL" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(repository.asked) == 3
    assert repository.kept() == []


@pytest.mark.parametrize("answer", list(BAD), ids=[told[:30] for told in BAD.values()])
def test_a_failure_that_passes_is_not_noticed(repository, answer):
    repository.answers = [answer]
    assert reference.prompts() == QUESTIONS
    assert len(repository.asked) == 2


@pytest.mark.parametrize("code", [403, 404])
def test_a_refusal_is_final(repository, code):
    repository.answers = [refusing(code)] * 3
    with pytest.raises(ReferenceFileError, match=rf"the server refuses http.*prompts.txt \({code} .*correct or unset"):
        reference.prompts()
    assert len(repository.asked) == 1
    assert repository.kept() == []


def test_no_connection_is_told(repository, monkeypatch):
    monkeypatch.setenv("ESR_REFERENCE_URL", f"http://127.0.0.1:{unused_port()}")
    with pytest.raises(ReferenceFileError, match="could not fetch .*refused.*; connect once, or set ESR_REFERENCE"):
        reference.prompts()
    assert repository.kept() == []


def test_a_missing_folder_is_told_without_waiting(repository, monkeypatch):
    monkeypatch.setenv("ESR_REFERENCE_URL", "file:///no/such/folder")
    asked, ask = [], reference_files.urlopen
    monkeypatch.setattr(reference_files, "urlopen", lambda url, timeout: asked.append(url) or ask(url, timeout=timeout))
    with pytest.raises(ReferenceFileError, match="could not fetch file:///no/such/folder/prompts.txt .*No such file"):
        reference.prompts()
    assert len(asked) == 1


def test_a_full_disk_is_told_and_leaves_nothing(repository, monkeypatch):
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ReferenceFileError, match="could not write .*No space left on device.*free some space or point"):
        reference.prompts()
    assert repository.kept() == []


def test_an_interrupted_write_leaves_nothing(repository, monkeypatch):
    def interrupted(path: Path, target: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        reference.prompts()
    assert repository.kept() == []


def test_a_cache_that_is_no_folder_is_told(repository, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("ESR_CACHE", str(tmp_path / "file"))
    with pytest.raises(ReferenceFileError, match="could not write .*point ESR_CACHE to another folder"):
        reference.prompts()


@pytest.mark.parametrize("damage", [b"", b"half", b"another text, just as long, with other words!!!!!"])
def test_a_damaged_copy_is_fetched_anew(repository, damage):
    cached = reference_file(reference.PROMPTS)
    cached.write_bytes(damage)
    assert reference.prompts() == QUESTIONS
    assert len(repository.asked) == 2


def test_a_file_without_a_checksum_is_not_fetched(repository):
    with pytest.raises(ReferenceFileError, match="no checksum is known for '../../secret'; the files that are known"):
        reference_file("../../secret")
    assert repository.asked == []
