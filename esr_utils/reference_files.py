"""The authors' files, as their public repository holds them at one commit: fetched, checked and cached, never run.

The kit holds none of their sentences, only where each file is and what it must be (``reference_files.csv``).
"""

import csv
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import quote
from urllib.request import urlopen

from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential

from esr_utils.config import DATA
from esr_utils.files import write_whole
from esr_utils.wheels import cache_dir

REPOSITORY = "agencyenterprise/endogenous-steering-resistance"
COMMIT = "3c29a49f9077fa1df58f5e90b5cca7ae8621311c"
USUAL_URL = f"https://raw.githubusercontent.com/{REPOSITORY}/{COMMIT}"
VARIABLE = "ESR_REFERENCE_URL"
SCHEMES = ("http", "https", "file")
LIST = DATA / "published" / "reference_files.csv"
CHUNK_BYTES = 65_536


class ReferenceFileError(RuntimeError):
    """A file of the authors could not be had or read; the message says what to do."""


class _PassingError(Exception):
    """A failure that another try may not meet."""


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long a server is waited for.

    Attributes:
        silence_s: without a byte. limit_s: for a whole file.
        n_tries: of one file; first_wait_s: before the second, doubles with each.
    """

    silence_s: float = 20.0
    limit_s: float = 120.0
    n_tries: int = 3
    first_wait_s: float = 1.0


PATIENCE = Patience()


@dataclass(frozen=True, kw_only=True)
class ReferenceFile:
    """A file of the repository at ``COMMIT``, and what it must be."""

    path: str
    n_bytes: int
    sha256: str

    def is_this(self, data: bytes) -> bool:
        return sha256(data).hexdigest() == self.sha256


def reference_file(path: str) -> Path:
    """The verified copy of one of the authors' files; fetched on first use, then read from the cache.

    Raises:
        ReferenceFileError: a file that is not on the list, no connection, another file than expected, no space.
    """
    entry = _entry(path)
    cached = cache_dir() / f"reference-{COMMIT[:7]}" / path
    if not (cached.is_file() and entry.is_this(cached.read_bytes())):
        data = _fetch(entry)
        try:
            write_whole(cached, data)
        except OSError as error:
            raise ReferenceFileError(
                f"could not write {cached} ({error.strerror}); free some space or point ESR_CACHE to another folder"
            ) from None
    return cached


def _entry(path: str) -> ReferenceFile:
    with LIST.open(newline="") as file:
        lines = {line["path"]: line for line in csv.DictReader(file)}
    if path not in lines:
        raise ReferenceFileError(f"no checksum is known for {path!r}; the files that are known are {', '.join(lines)}")
    return ReferenceFile(path=path, n_bytes=int(lines[path]["bytes"]), sha256=lines[path]["sha256"])


def _fetch(entry: ReferenceFile) -> bytes:
    url = _url(entry.path)
    tries = 1 if url.lower().startswith("file:") else PATIENCE.n_tries
    retrying = Retrying(
        retry=retry_if_exception_type(_PassingError),
        stop=stop_after_attempt(tries),
        wait=wait_exponential(multiplier=PATIENCE.first_wait_s),
        reraise=True,
    )
    try:
        data = retrying(_download, url, entry.n_bytes)
    except _PassingError as error:
        raise ReferenceFileError(
            f"could not fetch {url} ({error}); connect once, or set {VARIABLE} to the address, http(s) or file, of a "
            f"copy of {REPOSITORY} at commit {COMMIT[:7]}"
        ) from None
    if not entry.is_this(data):
        raise ReferenceFileError(
            f"{url} has SHA-256 {sha256(data).hexdigest()[:12]}..., expected {entry.sha256[:12]}...: it is not the "
            f"file of commit {COMMIT[:7]}, and nothing of it was kept; set {VARIABLE} to a true copy, or unset it"
        )
    return data


def _url(path: str) -> str:
    base = os.environ.get(VARIABLE) or USUAL_URL
    if base.partition("://")[0].lower() not in SCHEMES:
        raise ReferenceFileError(
            f"{VARIABLE} is {base!r}; it must begin with http://, https:// or file:// (or unset it to use GitHub)"
        )
    return f"{base.rstrip('/')}/{quote(path)}"


def _download(url: str, n_bytes: int) -> bytes:
    """The body, of which no more is read than tells that it is too long."""
    data, end = b"", time.monotonic() + PATIENCE.limit_s
    with _told_apart(url), urlopen(url, timeout=PATIENCE.silence_s) as answer:
        while len(data) <= n_bytes and (chunk := answer.read1(CHUNK_BYTES)):
            data += chunk
            if time.monotonic() > end:
                raise _PassingError(f"it was not complete after {PATIENCE.limit_s:g} s")
    if len(data) < n_bytes:
        raise _PassingError(f"it ended after {len(data):,} of {n_bytes:,} bytes")
    return data


@contextmanager
def _told_apart(url: str) -> Iterator[None]:
    """Failures that may pass, told in a few words; a refusal (4xx) is final."""
    try:
        yield
    except HTTPError as error:
        if error.code >= 500 or error.code in (408, 429):
            raise _PassingError(f"the server answered {error.code}") from None
        raise ReferenceFileError(
            f"the server refuses {url} ({error.code} {error.reason}); if {VARIABLE} is set, correct or unset it, else "
            f"set it to the address of a copy of {REPOSITORY} at commit {COMMIT[:7]}"
        ) from None
    except URLError as error:
        raise _PassingError(str(error.reason)) from None
    except (OSError, HTTPException, ValueError) as error:  # the last: an address that makes no sense
        raise _PassingError(f"{type(error).__name__}: {error}".removesuffix(": ")) from None
