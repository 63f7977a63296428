"""Replies of remote judges, kept in one SQLite file, so that nothing is asked, or paid for, twice."""

import json
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

from esr_utils.judges.replies import Reply

APPLICATION_ID = 0x45535243  # stands in the file's header and tells it from other SQLite files
VERSION = 1
_TABLE = """CREATE TABLE IF NOT EXISTS replies (
    key TEXT PRIMARY KEY, model TEXT NOT NULL, form TEXT NOT NULL, text TEXT NOT NULL, stop TEXT NOT NULL,
    input_tokens INTEGER, output_tokens INTEGER, seconds REAL NOT NULL, time TEXT NOT NULL)"""


class CacheError(RuntimeError):
    """A cache cannot be read or written; the message says what to do."""


def cache_key(asked: Mapping[str, object]) -> str:
    """A name for everything that a reply depends on."""
    return sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


class Cache:
    """Replies by key. Each is on disk before the next is asked for, so a kill loses none that was stored.

    Any number of threads and processes may share a file. Without a ``path`` it lives in memory, as long as the object.

    Raises:
        CacheError: the file is damaged, is something else, or cannot be written.
    """

    def __init__(self, path: Path | None = None):
        self.path = path
        self._lock = threading.Lock()
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
        with self._told():
            self._connection = sqlite3.connect(
                path or ":memory:", timeout=60, isolation_level=None, check_same_thread=False
            )
            self._open()

    def get(self, key: str) -> Reply | None:
        fields = "text, stop, input_tokens, output_tokens, seconds"
        with self._told():
            row = self._connection.execute(f"SELECT {fields} FROM replies WHERE key = ?", (key,)).fetchone()
        return Reply(**dict(zip(fields.split(", "), row, strict=True))) if row else None

    def put(self, key: str, reply: Reply, *, model: str, form: str) -> None:
        """Store a reply. If another process was first, its reply stays."""
        row = (key, model, form, reply.text, reply.stop, reply.input_tokens, reply.output_tokens, reply.seconds)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        with self._told():
            self._connection.execute("INSERT OR IGNORE INTO replies VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", (*row, now))

    def __len__(self) -> int:
        with self._told():
            return self._connection.execute("SELECT count(*) FROM replies").fetchone()[0]

    def _open(self) -> None:
        """Check that the file is a cache, or make it one, all at once or not at all."""
        is_filled = self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] > 0
        if self._pragma("application_id") != APPLICATION_ID:
            if is_filled:
                raise CacheError(f"{self.path} is another program's database; give the cache another path")
            self._make()
        found = self._pragma("user_version")
        if found != VERSION:
            raise CacheError(
                f"{self.path} is a judge cache of version {found}, and this kit reads version {VERSION}; "
                "give the cache another path, or use the kit that made it"
            )
        if self._pragma("quick_check") != "ok":
            raise sqlite3.DatabaseError("its pages do not fit together")

    def _make(self) -> None:
        self._connection.execute("BEGIN IMMEDIATE")
        self._connection.execute(_TABLE)  # unless another process made it meanwhile
        self._connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        self._connection.execute(f"PRAGMA user_version = {VERSION}")
        self._connection.execute("COMMIT")

    def _pragma(self, name: str) -> object:
        return self._connection.execute(f"PRAGMA {name}").fetchone()[0]

    @contextmanager
    def _told(self) -> Iterator[None]:
        """One thread at a time, with SQLite's errors told in words."""
        try:
            with self._lock:
                yield
        except sqlite3.OperationalError as error:
            raise CacheError(
                f"the judge cache {self.path} cannot be used ({error}); see that its folder can be written, that the "
                "disk is not full and that no other program holds the file"
            ) from None
        except sqlite3.DatabaseError as error:
            raise CacheError(
                f"{self.path} is damaged or is no judge cache ({error}); move it away and run again: "
                "what it held is asked, and paid for, anew"
            ) from None
