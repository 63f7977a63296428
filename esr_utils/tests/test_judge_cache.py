"""The judge cache keeps every stored reply through kills and threads, and says what is wrong with a file."""

import os
import signal
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from esr_utils.judges.cache import Cache, CacheError, cache_key
from esr_utils.judges.replies import Reply

REPLY = Reply(text='{"attempts": []} \x00 ☕', stop="end_turn", input_tokens=12, output_tokens=3, seconds=0.5)
WRITER = """
import sys
import time
from pathlib import Path
from esr_utils.judges.cache import Cache
from esr_utils.judges.replies import Reply
cache = Cache(Path(sys.argv[1]))
for i in range(100_000):
    cache.put(f"{sys.argv[2]}{i}", Reply(text=str(i) * 50), model="m", form="structured")
    print(i, flush=True)
    time.sleep(0.02)
"""


def writer(path: Path, prefix: str) -> subprocess.Popen:
    command = [sys.executable, "-c", WRITER, str(path), prefix]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_a_reply_comes_back_as_it_was(tmp_path):
    Cache(tmp_path / "new" / "c.sqlite").put("k", REPLY, model="m", form="structured")
    again = Cache(tmp_path / "new" / "c.sqlite")
    assert again.get("k") == REPLY
    assert again.get("other") is None
    assert len(again) == 1


def test_the_first_reply_stays(tmp_path):
    cache = Cache(tmp_path / "c.sqlite")
    cache.put("k", REPLY, model="m", form="structured")
    cache.put("k", Reply(text="later"), model="m", form="structured")
    assert cache.get("k") == REPLY


def test_model_form_and_time_can_be_read_by_any_sqlite(tmp_path):
    Cache(tmp_path / "c.sqlite").put("k", REPLY, model="m", form="faithful")
    row = sqlite3.connect(tmp_path / "c.sqlite").execute("SELECT model, form, time FROM replies").fetchone()
    assert row[:2] == ("m", "faithful")
    assert row[2].endswith("+00:00")


def test_in_memory_leaves_no_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cache = Cache()
    cache.put("k", REPLY, model="m", form="structured")
    assert cache.get("k") == REPLY
    assert os.listdir(tmp_path) == []


def test_many_threads_write_and_read_one_cache(tmp_path):
    cache = Cache(tmp_path / "c.sqlite")

    def work(i: int) -> bool:
        cache.put(str(i), Reply(text=str(i)), model="m", form="structured")
        return cache.get(str(i)).text == str(i)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(60)))
    assert len(cache) == 60


def test_killed_processes_leave_a_cache_that_holds_all_they_stored(tmp_path):
    path = tmp_path / "c.sqlite"
    writers = {prefix: writer(path, prefix) for prefix in "ab"}  # both make the file, and both write to it
    stored = dict.fromkeys(writers, -1)
    for prefix, process in writers.items():
        while stored[prefix] < 5:
            stored[prefix] = int(process.stdout.readline())
    for prefix, process in writers.items():
        process.send_signal(signal.SIGKILL)
        rest = process.communicate()[0].splitlines()
        stored[prefix] = int(rest[-1]) if rest else stored[prefix]
    cache = Cache(path)
    for prefix, last in stored.items():
        assert all(cache.get(f"{prefix}{i}").text == str(i) * 50 for i in range(last + 1))
    cache.put("after", REPLY, model="m", form="structured")
    assert cache.get("after") == REPLY


def test_keys_differ_where_anything_asked_differs():
    asked = {"model": "m", "temperature": 0.0, "repeat": 0}
    assert cache_key(asked) == cache_key(dict(reversed(asked.items())))
    assert (
        len({cache_key({**asked, "repeat": repeat}) for repeat in range(3)} | {cache_key({**asked, "model": "n"})}) == 4
    )


def test_a_file_that_is_no_database_is_named(tmp_path):
    path = tmp_path / "c.sqlite"
    path.write_text("once upon a time " * 100)
    with pytest.raises(CacheError, match=r"c\.sqlite is damaged or is no judge cache .*; move it away and run again"):
        Cache(path)
    assert path.read_text().startswith("once")


def test_a_damaged_cache_is_named(tmp_path):
    path = tmp_path / "c.sqlite"
    cache = Cache(path)
    for i in range(200):
        cache.put(str(i), Reply(text="x" * 500), model="m", form="structured")
    data = bytearray(path.read_bytes())
    data[8192:20480] = os.urandom(12288)
    path.write_bytes(data)
    with pytest.raises(CacheError, match="damaged"):
        Cache(path)


def test_another_programs_database_is_left_alone(tmp_path):
    path = tmp_path / "c.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE theirs (x)")
    before = path.read_bytes()
    with pytest.raises(CacheError, match="another program's database; give the cache another path"):
        Cache(path)
    assert path.read_bytes() == before


def test_a_cache_of_another_version_is_named(tmp_path):
    path = tmp_path / "c.sqlite"
    Cache(path)
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 9")
    with pytest.raises(CacheError, match="version 9, and this kit reads version 1"):
        Cache(path)


def test_a_path_that_cannot_be_a_file_is_named(tmp_path):
    with pytest.raises(CacheError, match="cannot be used"):
        Cache(tmp_path)


def test_an_empty_file_becomes_a_cache(tmp_path):
    path = tmp_path / "c.sqlite"
    path.touch()
    Cache(path).put("k", REPLY, model="m", form="structured")
    assert Cache(path).get("k") == REPLY
