"""``data/README.md`` has a line of origin for every file that git keeps in ``data/``, none for what is not there."""

import re
import subprocess
from fnmatch import fnmatch

from esr_utils.config import DATA

TEXT = (DATA / "README.md").read_text()
OWN = ("README.md", "LOG.md")  # tell themselves


def listed() -> dict[str, str]:
    """Pattern of each path in the table -> origin and licence; a folder stands for everything in it."""
    lines = re.findall(r"^\| (`.*?) \| (?:.*?) \| (.*?) \|$", TEXT, re.MULTILINE)
    return {re.sub(r"<\w+>", "*", path): origin for paths, origin in lines for path in re.findall(r"`(.*?)`", paths)}


def kept() -> list[str]:
    found = subprocess.run(["git", "ls-files", "."], cwd=DATA, capture_output=True, text=True, check=True).stdout
    return [path for path in found.splitlines() if path not in OWN]


def fits(path: str, pattern: str) -> bool:
    return fnmatch(path, f"{pattern}*" if pattern.endswith("/") else pattern)


def test_every_file_has_its_origin():
    patterns = listed()
    assert [path for path in kept() if not any(fits(path, pattern) for pattern in patterns)] == []
    assert all(len(origin) > 8 for origin in patterns.values())


def test_every_line_is_of_a_file_that_is_there():
    paths = kept()
    assert [pattern for pattern in listed() if not any(fits(path, pattern) for path in paths)] == []
