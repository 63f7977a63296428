"""Run folders: made once, whole or not at all, and never mixed."""

from dataclasses import dataclass, replace

import pandas as pd
import pytest

from esr_utils.records import open_run, write_whole


@dataclass(frozen=True)
class Settings:
    n: int = 3
    strengths: tuple[float, ...] = (0.0, 1.0)


def test_a_result_is_made_once_and_then_read(tmp_path):
    made = []
    for _ in range(2):
        run = open_run(tmp_path / "run", Settings())
        frame = run.frame("numbers", lambda: made.append(1) or pd.DataFrame({"x": [1, 2]}))
        assert frame["x"].tolist() == [1, 2]
    assert made == [1]


def test_other_settings_are_refused_by_name(tmp_path):
    open_run(tmp_path / "run", Settings())
    with pytest.raises(ValueError, match=r"other settings \(n: 3 there, 4 now\)"):
        open_run(tmp_path / "run", replace(Settings(), n=4))


def test_a_full_disk_leaves_no_half_written_file(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(tmp_path / "a.csv", "x\n")
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_while_making_a_result_leaves_the_others(tmp_path):
    run = open_run(tmp_path / "run", Settings())
    run.frame("first", lambda: pd.DataFrame({"x": [1]}))

    def interrupted() -> pd.DataFrame:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.frame("second", interrupted)
    assert sorted(path.name for path in run.folder.iterdir()) == ["first.csv", "run.json"]


def test_run_json_tells_versions_but_no_names_of_machines_or_folders(tmp_path):
    text = (open_run(tmp_path / "run", Settings()).folder / "run.json").read_text()
    assert '"torch"' in text
    assert str(tmp_path) not in text
