"""Journals keep what was written through kills, full disks and second writers, and say what is wrong with a file."""

import errno
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from esr_utils.journal import Journal, JournalError

RECORDS = [{"id": str(i), "n": i, "share": i / 7, "text": "x" * i} for i in range(5)]
LATER = {"id": "later", "n": -1}
CHUNK = 65_536  # the journal looks for the last newline in steps of this
DAMAGED = {
    "cut off": b'{"id": "1", "n"',
    "blank": b"",
    "not text": b"\xff\xfe\x80",
    "zeros": b"\x00" * 16,
    "no object": b"[1, 2]",
    "without its key": b'{"n": 1}',
}
TEXTS = {
    "emoji": "☕ 👩‍👩‍👧 \U0001f9e0",
    "languages": "日本語 العربية हिन्दी Ελληνικά ไทย",
    "newlines": "one\ntwo\r\nthree\rfour\n",
    "separators": "a\u2028b\u2029c\x85d\x0be\x0cf",
    "controls": "\x00\x01\x1b[31m\x7f",
    "quotes": '{"id": "\\n"}, \'\\\\',
    "lone surrogate": "half a pair \ud83d, the other half \udc00",
}
STEADY = """
import sys
from pathlib import Path
from esr_utils.journal import Journal
journal = Journal(path=Path(sys.argv[1]), key=("id",))
for i in range(100_000):
    journal.append([{"id": i, "text": str(i) * 500}])
    print(i, flush=True)
"""
HOLDING = """
import os
import sys
from pathlib import Path
from esr_utils.journal import Journal
fsync = os.fsync
def held(descriptor):
    print("writing", flush=True)
    sys.stdin.readline()
    fsync(descriptor)
os.fsync = held
Journal(path=Path(sys.argv[1]), key=("id",)).append([{"id": "theirs"}])
"""


def a_journal(tmp_path: Path, lines: bytes | None = None) -> Journal:
    """The journal of a test; ``lines`` is what its file holds, None for no file."""
    path = tmp_path / "trials.jsonl"
    if lines is not None:
        path.write_bytes(lines)
    return Journal(path=path, key=("id",))


def written(tmp_path: Path) -> Journal:
    journal = a_journal(tmp_path)
    journal.append(RECORDS)
    return journal


def full_after(n_bytes: int):
    """An ``os.write`` on a disk that has room for ``n_bytes`` more."""
    real, left = os.write, n_bytes

    def write(descriptor, data):
        nonlocal left
        if not left:
            raise OSError(errno.ENOSPC, "No space left on device")
        n = real(descriptor, data[:left])
        left -= n
        return n

    return write


def failing(number: int):
    def fail(*_):
        raise OSError(number, os.strerror(number))

    return fail


def script(source: str, path: Path) -> subprocess.Popen:
    command = [sys.executable, "-c", source, str(path)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_records_come_back_in_the_order_written(tmp_path):
    journal = a_journal(tmp_path / "new" / "folder")
    for record in RECORDS:
        journal.append([record])
    journal.append([LATER])
    assert journal.read() == [*RECORDS, LATER]


@pytest.mark.parametrize("lines", [None, b""], ids=["no file", "an empty file"])
def test_nothing_written_reads_as_no_records(tmp_path, lines):
    journal = a_journal(tmp_path, lines)
    assert journal.read() == []
    journal.append([])
    assert journal.read() == []
    journal.append([LATER])
    assert journal.read() == [LATER]


def test_a_killed_process_leaves_every_record_that_it_finished(tmp_path):
    journal = a_journal(tmp_path)
    process = script(STEADY, journal.path)
    last = -1
    while last < 20:
        last = int(process.stdout.readline())
    process.send_signal(signal.SIGKILL)
    rest = process.communicate()[0].splitlines()
    last = int(rest[-1]) if rest else last
    records = journal.read()
    assert len(records) in (last + 1, last + 2)  # it may have been killed between writing one and saying so
    assert records == [{"id": i, "text": str(i) * 500} for i in range(len(records))]


@pytest.mark.parametrize(
    "half", [b"{", b'{"id": "half', b'{"id": "half"}'], ids=["a brace", "in the key", "no newline"]
)
def test_a_half_written_last_line_is_not_read_and_goes_with_the_next_append(tmp_path, half):
    journal = written(tmp_path)
    whole = journal.path.read_bytes()
    journal.path.write_bytes(whole + half)
    assert journal.read() == RECORDS
    assert journal.path.read_bytes() == whole + half  # reading leaves the file alone
    journal.append([LATER])
    assert journal.read() == [*RECORDS, LATER]
    assert journal.path.read_bytes().startswith(whole + b'{"id": "later"')


@pytest.mark.parametrize("length", [1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 5])
@pytest.mark.parametrize("records", [RECORDS, []], ids=["after others", "alone"])
def test_a_half_line_of_any_length_is_dropped_whole(tmp_path, length, records):
    journal = a_journal(tmp_path, b"")
    journal.append(records)
    with journal.path.open("ab") as file:
        file.write(b"{" * length)
    journal.append([LATER])
    assert journal.read() == [*records, LATER]


def test_a_large_journal_with_a_long_half_line_is_repaired(tmp_path):
    journal = a_journal(tmp_path)
    many = [{"id": str(i), "text": str(i) * 3000} for i in range(300)]
    journal.append(many)
    assert journal.path.stat().st_size > 2_000_000
    with journal.path.open("ab") as file:
        file.write(b'{"id": "half", "text": "' + b"y" * 1_000_000)
    journal.append([LATER])
    assert journal.read() == [*many, LATER]


@pytest.mark.parametrize("line", DAMAGED.values(), ids=DAMAGED.keys())
def test_a_damaged_line_is_named_with_what_to_do(tmp_path, line):
    journal = written(tmp_path)
    lines = journal.path.read_bytes().split(b"\n")
    lines[2] = line
    journal.path.write_bytes(b"\n".join(lines))
    told = f"{re.escape(str(journal.path))}, line 3 is damaged .*; delete that line and run again"
    with pytest.raises(JournalError, match=told):
        journal.read()


def test_following_the_advice_on_a_damaged_line_keeps_the_others(tmp_path):
    journal = written(tmp_path)
    lines = journal.path.read_bytes().split(b"\n")
    journal.path.write_bytes(b"\n".join(lines[:2] + lines[3:]))
    assert journal.read() == RECORDS[:2] + RECORDS[3:]


def test_the_same_record_twice_is_one(tmp_path):
    journal = written(tmp_path)
    journal.append([LATER, RECORDS[1]])
    assert journal.read() == [*RECORDS, LATER]


def test_two_records_of_one_key_that_differ_are_named(tmp_path):
    journal = written(tmp_path)
    journal.append([{**RECORDS[1], "n": 100}])
    with pytest.raises(JournalError, match=r"trials\.jsonl, line 6: another line has id '1' and differs"):
        journal.read()


def test_records_are_told_apart_by_every_field_of_the_key(tmp_path):
    journal = Journal(path=tmp_path / "judgements.jsonl", key=("trial_id", "repeat"))
    records = [{"trial_id": trial, "repeat": repeat} for trial in "ab" for repeat in range(2)]
    journal.append(records)
    assert journal.read() == records
    journal.append([{"trial_id": "a", "repeat": 1, "note": "other"}])
    with pytest.raises(JournalError, match=r"line 5: another line has trial_id 'a', repeat 1 and differs"):
        journal.read()


@pytest.mark.parametrize("room", [0, 1, 7, 40])
def test_a_disk_that_fills_up_leaves_what_was_there(tmp_path, monkeypatch, room):
    journal = written(tmp_path)
    before = journal.path.read_bytes()
    told = f"no space left for {re.escape(str(journal.path))}; what was finished is kept: free some space and run again"
    with monkeypatch.context() as patch:
        patch.setattr("os.write", full_after(room))
        with pytest.raises(JournalError, match=told):
            journal.append([LATER, {**LATER, "id": "and another"}])
    assert journal.path.read_bytes() == before
    journal.append([LATER])
    assert journal.read() == [*RECORDS, LATER]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_is_full_at_the_last_moment_leaves_what_was_there(tmp_path, monkeypatch, number):
    journal = written(tmp_path)
    before = journal.path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", failing(number))
        with pytest.raises(JournalError, match="no space left for .*free some space and run again"):
            journal.append([LATER])
    assert journal.path.read_bytes() == before


def test_a_full_disk_after_a_kill_leaves_the_whole_lines(tmp_path, monkeypatch):
    journal = written(tmp_path)
    before = journal.path.read_bytes()
    journal.path.write_bytes(before + b'{"id": "half')
    monkeypatch.setattr("os.write", full_after(7))
    with pytest.raises(JournalError, match="no space left"):
        journal.append([LATER])
    assert journal.path.read_bytes() == before


def test_another_failure_of_the_disk_is_told_as_it_is_and_leaves_what_was_there(tmp_path, monkeypatch):
    journal = written(tmp_path)
    before = journal.path.read_bytes()
    monkeypatch.setattr("os.fsync", failing(errno.EIO))
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        journal.append([LATER])
    assert journal.path.read_bytes() == before


def test_a_second_process_that_writes_is_told_to_wait(tmp_path, request):
    journal = written(tmp_path)
    other = script(HOLDING, journal.path)
    request.addfinalizer(other.kill)
    assert other.stdout.readline() == "writing\n"
    told = f"another process is writing {re.escape(str(journal.path))}; wait until it has ended"
    with pytest.raises(JournalError, match=told):
        journal.append([LATER])
    other.communicate("\n")
    journal.append([LATER])
    assert journal.read() == [*RECORDS, {"id": "theirs"}, LATER]


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
def test_any_text_comes_back_as_it_was_on_a_line_of_its_own(tmp_path, text):
    journal = a_journal(tmp_path)
    records = [{"id": text, "text": text}, LATER]
    journal.append(records)
    assert journal.read() == records
    assert journal.path.read_bytes().count(b"\n") == 2


def test_numbers_come_back_to_the_last_digit(tmp_path):
    journal = a_journal(tmp_path)
    record = {"id": "a", "third": 1 / 3, "tiny": 5e-324, "whole": 65.0, "seed": 2**63 + 1, "none": None}
    journal.append([record])
    (found,) = journal.read()
    assert found == record
    assert isinstance(found["whole"], float)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_number_that_json_has_no_word_for_is_refused_before_anything_is_written(tmp_path, bad):
    journal = a_journal(tmp_path)
    with pytest.raises(ValueError, match="not JSON compliant"):
        journal.append([LATER, {"id": "bad", "score": bad}])
    assert not journal.path.exists()
