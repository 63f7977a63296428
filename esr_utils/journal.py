"""Files that only grow: one JSON record a line, each on disk before the next begins, readable after any kill."""

import errno
import fcntl
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

Record = dict[str, object]


class JournalError(RuntimeError):
    """A journal cannot be read or written; the message says what to do."""


@dataclass(frozen=True, kw_only=True)
class Journal:
    """Records of one kind, told apart by the fields in ``key``.

    Attributes:
        path: where this process writes.
        also: what other workers write, read as if it stood here.
        may_have: fields that tell records apart as well, and that a record may lack.
    """

    path: Path
    key: tuple[str, ...]
    also: tuple[Path, ...] = ()
    may_have: tuple[str, ...] = ()

    def read(self) -> list[Record]:
        """Every whole record once, file by file in the order written. A half-written last line is left out.

        Files are read in the order of their names, those higher up first, whoever reads. Where two of them differ in
        a record (two machines made it, and rounded differently), the first counts; ``differing`` has the others.

        Raises:
            JournalError: another line is not JSON or has no key, or two lines of one file have one key and differ.
        """
        return list(self.records())

    def records(self) -> Iterator[Record]:
        """As ``read``, one by one."""
        seen: set[tuple] = set()
        for path in self.paths():
            for key, record in self.records_of(path):
                if key not in seen:
                    seen.add(key)
                    yield record

    def differing(self) -> list[tuple[Path, Record]]:
        """Records that do not count, since a file before theirs has the same key with another content."""
        records: dict[tuple, Record] = {}
        return [
            (path, record)
            for path in self.paths()
            for key, record in self.records_of(path)
            if records.setdefault(key, record) != record
        ]

    def paths(self) -> list[Path]:
        """The files that are there, in the order in which they count."""
        every = {self.path, *self.also}
        return sorted((path for path in every if path.exists()), key=lambda path: (len(path.parts), path))

    def records_of(self, path: Path) -> Iterator[tuple[tuple, Record]]:
        """Keys and records of one file, without repeated lines."""
        seen: dict[tuple, int] = {}
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    return  # cut off by a kill
                record = self._parse(path, line, number)
                key = (*(record[field] for field in self.key), *(record.get(field) for field in self.may_have))
                content = hash(line)
                if key not in seen:
                    seen[key] = content
                    yield key, record
                elif seen[key] != content:
                    raise JournalError(
                        f"{path}, line {number}: another line has {self._told(key)} and differs; "
                        "delete the one that is wrong and run again"
                    )

    def append(self, records: Iterable[Record]) -> None:
        """Write records so that they outlast a kill; all of them or, on a full disk, none.

        Raises:
            JournalError: the disk is full, or another process is writing here.
        """
        text = "".join(json.dumps(record, allow_nan=False) + "\n" for record in records)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab", buffering=0) as file, locked(file.fileno(), self.path):
                end = _drop_half_line(self.path)
                try:
                    _write_all(file.fileno(), text.encode())
                    os.fsync(file.fileno())
                except OSError:
                    os.truncate(self.path, end)
                    raise
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise JournalError(
                f"no space left for {self.path}; what was finished is kept: free some space and run again"
            ) from None

    def _parse(self, path: Path, line: bytes, number: int) -> Record:
        try:
            record = json.loads(line)
            for field in self.key:
                record[field]
        except (ValueError, KeyError, TypeError):
            raise JournalError(
                f"{path}, line {number} is damaged ({line[:40].decode(errors='replace')!r}...); "
                "delete that line and run again: what it held is made anew"
            ) from None
        return record

    def _told(self, key: tuple) -> str:
        return ", ".join(f"{field} {value!r}" for field, value in zip(self.key, key, strict=False))


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


@contextmanager
def locked(descriptor: int, path: Path) -> Iterator[None]:
    """Hold the open file for this process alone.

    Raises:
        JournalError: another process holds it.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise JournalError(f"another process is writing {path}; wait until it has ended") from None
    yield  # the lock goes with the file


def _drop_half_line(path: Path) -> int:
    """Cut off a last line that a kill left without its newline; returns the length of what stays."""
    with path.open("rb+") as file:
        end = file.seek(0, os.SEEK_END)
        while end:
            start = max(0, end - 65_536)
            file.seek(start)
            newline = file.read(end - start).rfind(b"\n")
            if newline >= 0:
                end = start + newline + 1
                break
            end = start
        file.truncate(end)
    return end
