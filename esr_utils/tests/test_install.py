"""Set-up: a real one, of a project without dependencies, and what is said when it fails."""

import ast
import os
import re
import shutil
import subprocess
import sys
import time
from collections import namedtuple
from dataclasses import dataclass
from pathlib import Path

import pytest

from esr_utils import install
from esr_utils.install import InstallError
from esr_utils.tests.test_embedded import no_index
from esr_utils.tests.test_setup import ROOT, make, outside_make

Usage = namedtuple("Usage", "total used free")


# --- set-up: a real one, of a project without dependencies, in a folder with a space in its name

BACKEND = """
import pathlib, zipfile

def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    needs = pathlib.Path("needs.txt").read_text().split()
    lines = ["Metadata-Version: 2.1", "Name: toy", "Version: 0", "Provides-Extra: dev"]
    with zipfile.ZipFile(f"{wheel_directory}/toy-0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("toy-0.dist-info/METADATA", "\\n".join(lines + [f"Requires-Dist: {n}" for n in needs]) + "\\n")
        wheel.writestr("toy-0.dist-info/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr("toy-0.dist-info/RECORD", "")
    return "toy-0-py3-none-any.whl"
"""
TOY = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n[project]\nname = "toy"\n'


@dataclass(frozen=True, kw_only=True)
class SetUps:
    """What several set-ups of one toy project said, in this order."""

    root: Path
    parallel: list[tuple[int, str]]
    again: subprocess.CompletedProcess
    packages: str
    failed: subprocess.CompletedProcess
    stamp_after_failure: bool


def toy_project(root: Path) -> None:
    (root / "esr_utils").mkdir(parents=True)
    shutil.copy(ROOT / "Makefile", root)
    shutil.copy(ROOT / "esr_utils" / "install.py", root / "esr_utils")
    files = {"backend.py": BACKEND, "needs.txt": "", "constraints.txt": "", "pyproject.toml": TOY + 'version = "0"\n'}
    for name, text in files.items():
        (root / name).write_text(text)


@pytest.fixture(scope="module")
def set_ups(tmp_path_factory) -> SetUps:
    """Two at once over a half-made .venv, one more, and one whose new requirement cannot be had."""
    root = tmp_path_factory.mktemp("set up") / "a folder"
    toy_project(root)
    (root / ".venv" / "bin").mkdir(parents=True)
    (root / ".venv" / "half-made").write_text("")
    environment = outside_make(no_index())
    target = ["make", ".venv/.installed", f"PYTHON={sys.executable}"]
    options = {"cwd": root, "env": environment, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    pair = [subprocess.Popen(target, **options) for _ in range(2)]
    parallel = [(process.wait(), process.stdout.read()) for process in pair]
    again = make(*target[1:], cwd=root, env=environment)
    packages = " ".join(path.name for path in (root / ".venv").glob("lib/python*/site-packages/toy-0*"))
    (root / "needs.txt").write_text("no-such-thing-anywhere>=2")
    later = time.time() + 2
    os.utime(root / "pyproject.toml", (later, later))
    failed = make(*target[1:], cwd=root, env=environment)
    stamp = (root / ".venv" / ".installed").exists()
    return SetUps(
        root=root, parallel=parallel, again=again, packages=packages, failed=failed, stamp_after_failure=stamp
    )


def test_set_up_installs_in_a_folder_with_spaces(set_ups):
    assert [code for code, _ in set_ups.parallel] == [0, 0], set_ups.parallel
    assert "toy-0.dist-info" in set_ups.packages


def test_parallel_set_ups_make_one(set_ups):
    first, second = sorted((text for _, text in set_ups.parallel), key=len, reverse=True)
    assert [text.count("fetching packages") for text in (first, second)] == [1, 0]
    assert "waiting for it to end" in second


def test_half_made_venv_is_made_anew(set_ups):
    assert any("removing a .venv that was not completed" in text for _, text in set_ups.parallel)
    assert not (set_ups.root / ".venv" / "half-made").exists()


def test_second_run_installs_nothing(set_ups):
    assert set_ups.again.returncode == 0
    assert "is up to date" in set_ups.again.stdout
    assert "fetching" not in set_ups.again.stdout


def test_set_up_is_told_in_a_few_calm_lines(set_ups):
    told = max((text for _, text in set_ups.parallel), key=len).splitlines()
    assert len(told) <= 8, told
    assert all(re.match(r"\[\d+:\d\d\] \S", line) for line in told), told


def test_no_index_is_told_in_one_sentence(set_ups):
    assert set_ups.failed.returncode == 2
    said = [line for line in set_ups.failed.stderr.splitlines() if not line.startswith("make")]
    assert len(said) == 1, said
    assert "set-up failed: pip got no answer from a package index (ERROR: Could not find" in said[0]
    assert "no-such-thing-anywhere" in said[0]
    assert "PIP_INDEX_URL" in said[0]


def test_failed_set_up_does_not_count(set_ups):
    assert not set_ups.stamp_after_failure
    assert make("-q", ".venv/.installed", cwd=set_ups.root).returncode == 1


# --- set-up: the stamp, and errors that need no set-up


def stamped(root: Path, *, edited_s_later: float) -> Path:
    """A folder whose set-up began a minute ago and has just written its stamp; its inputs were edited since, or not."""
    began = time.time() - 60
    (root / ".venv").mkdir()
    for name in install.INPUTS:
        (root / name).write_text("")
        os.utime(root / name, (began + edited_s_later, began + edited_s_later))
    install.write_stamp(root, began)
    return root


def test_stamp_counts_until_an_input_is_edited(tmp_path):
    assert install.is_complete(stamped(tmp_path, edited_s_later=-5.0))


def test_input_edited_during_the_set_up_is_installed_next_time(tmp_path):
    assert not install.is_complete(stamped(tmp_path, edited_s_later=5.0))


def test_stamp_is_gone_before_anything_is_changed(tmp_path):
    root = stamped(tmp_path, edited_s_later=5.0)
    assert not install.take_stamp(root), "a .venv without its Python is made anew"
    assert not install.stamp_path(root).exists()
    assert not install.take_stamp(root)


def test_install_can_be_read_by_an_old_python():
    tree = ast.parse(Path(install.__file__).read_text(), feature_version=(3, 6))
    imported = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {alias.name for node in imported if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in imported if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in names} <= sys.stdlib_module_names


@pytest.mark.parametrize("version", [(3, 10, 13), (3, 14, 0), (2, 7, 18)])
def test_wrong_python_is_named(version):
    given = ".".join(map(str, version))
    with pytest.raises(
        InstallError, match=rf"/bin/python is Python {given} .*3.11 to 3.13.*make run PYTHON=python3.11"
    ):
        install.check_python(version, "/bin/python")


def test_python_without_venv_is_told(monkeypatch):
    install.check_python((3, 12, 1), sys.executable)
    monkeypatch.setattr(install, "find_spec", lambda name: None if name == "ensurepip" else "there")
    with pytest.raises(InstallError, match="its module ensurepip is missing; .*apt install python3-venv"):
        install.check_python((3, 12, 1), sys.executable)


def test_too_little_disk_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(install.shutil, "disk_usage", lambda path: Usage(9 * 10**9, 6 * 10**9, 3 * 10**9))
    with pytest.raises(InstallError, match="has 3.0 GB free and the set-up needs 4.0 GB; free some space"):
        install.make_venv(tmp_path)
    assert not (tmp_path / ".venv").exists()


CAUSES = {
    "disk": (["ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device\n"], "TMPDIR"),
    "index in a build": (
        ["  ERROR: Could not find setuptools>=77 (from versions: none)\n", "note: x\n"],
        "PIP_INDEX_URL",
    ),
    "cut connection": (["Traceback\n", "ReadTimeoutError: Read timed out.\n"], "PIP_INDEX_URL"),
    "other": (
        ["WARNING: a\n", "ERROR: No matching distribution found for x==9\n", "b\n"],
        "install.log:\nERROR: No matching",
    ),
}


@pytest.mark.parametrize("cause", CAUSES)
def test_failure_of_pip_is_explained(cause):
    lines, expected = CAUSES[cause]
    told = install.explain(lines)
    assert expected in told
    assert "WARNING" not in told
