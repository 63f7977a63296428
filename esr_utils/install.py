"""Makes .venv with everything the kit needs. The Makefile runs it as ``python3 -I esr_utils/install.py``.

It runs on the system's own Python, before anything is installed: standard library only, and no syntax newer than
Python 3.6, so that a wrong version is told in words. The stamp ``.venv/.installed`` is written last; a .venv without
it was cut short and is made anew.
"""

import fcntl
import os
import re
import shutil
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

OLDEST, NEWEST = (3, 11), (3, 13)
NEEDED_BYTES = 4_000_000_000  # 2.4 GB installed; pip's downloads, their cache and their unpacking beside it
INPUTS = ("pyproject.toml", "constraints.txt")
UNREACHABLE = ("from versions: none", "connection", "Connection", "Max retries", "timed out", "SSLError")
DOWNLOAD = re.compile(r"Downloading (?:\S*/)?(\w[\w.]*)-\d\S* \((\d+(?:\.\d+)? [MG]B)\)")
LARGE_MB = 30
AGAIN = "run the same command again"
BEGAN = time.time()


class InstallError(RuntimeError):
    """The environment could not be made; the message says what to do."""


def main() -> int:
    try:
        install(Path(__file__).resolve().parent.parent)
    except InstallError as error:
        sys.stderr.write(f"set-up failed: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write(f"set-up interrupted; {AGAIN} to start it anew\n")
        return 130
    return 0


def install(root: Path) -> None:
    """Make ``root/.venv``, or bring it in step with ``INPUTS``; nothing to do if it is. Others wait their turn."""
    check_python(sys.version_info[:3], sys.executable)
    with (root / "constraints.txt").open("r+") as lock:
        wait_for_turn(lock)
        if is_complete(root):
            return
        began = time.time()
        if take_stamp(root):
            say("bringing .venv in step with " + " and ".join(INPUTS))
        else:
            make_venv(root)
        run_pip(root, lock)
        write_stamp(root, began)
        say("ready")


def check_python(version: tuple, program: str) -> None:
    if not OLDEST <= tuple(version[:2]) <= NEWEST:
        given = ".".join(map(str, version))
        raise InstallError(
            f"{program} is Python {given} and the kit needs 3.11 to 3.13; name another one, for example: "
            "make run PYTHON=python3.11"
        )
    missing = [name for name in ("venv", "ensurepip") if find_spec(name) is None]
    if missing:
        raise InstallError(
            f"{program} cannot make virtual environments, because its module {missing[0]} is missing; install it "
            "(Debian and Ubuntu: apt install python3-venv) or name another Python: make run PYTHON=python3.11"
        )


def wait_for_turn(lock: object) -> None:
    """One set-up at a time. The lock passes to pip, so it holds until a pip that lost its parent has ended too."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say("another set-up of this folder is running; waiting for it to end")
        fcntl.flock(lock, fcntl.LOCK_EX)


def stamp_path(root: Path) -> Path:
    return root / ".venv" / ".installed"


def venv_python(root: Path) -> Path:
    return root / ".venv" / "bin" / "python"


def is_complete(root: Path) -> bool:
    """The same question that make asks: the stamp is there, and not older than what .venv was made from."""
    stamp = stamp_path(root)
    return stamp.exists() and all(stamp.stat().st_mtime >= (root / name).stat().st_mtime for name in INPUTS)


def take_stamp(root: Path) -> bool:
    """Remove the stamp, so that a set-up cut short does not count. True if it was there, on a .venv that works."""
    stamp = stamp_path(root)
    if not stamp.exists():
        return False
    stamp.unlink()
    return venv_python(root).exists()


def write_stamp(root: Path, began: float) -> None:
    """Dated at the start of the set-up: what was edited while it ran is newer, and is installed next time."""
    stamp_path(root).touch()
    os.utime(str(stamp_path(root)), (began, began))


def make_venv(root: Path) -> None:
    """A new, empty .venv in place of a half-made one."""
    if (root / ".venv").exists():
        say("removing a .venv that was not completed")
        shutil.rmtree(str(root / ".venv"))
    check_space(root)
    version = ".".join(map(str, sys.version_info[:3]))
    say(f"setting up .venv with Python {version}: about 2.5 GB and a few minutes, once")
    command = [sys.executable, "-m", "venv", str(root / ".venv")]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        told = (done.stdout.strip() or "no message").splitlines()[-1]
        raise InstallError(f"{sys.executable} -m venv failed ({told}); name another Python: make run PYTHON=python3.11")


def check_space(root: Path) -> None:
    free = shutil.disk_usage(str(root)).free
    if free < NEEDED_BYTES:
        raise InstallError(
            f"{root} has {free / 1e9:.1f} GB free and the set-up needs {NEEDED_BYTES / 1e9:.1f} GB; "
            f"free some space and {AGAIN}"
        )


def run_pip(root: Path, lock: object) -> None:
    """Install the kit with its pinned dependencies; the whole output goes to .venv/install.log."""
    command = [str(venv_python(root)), "-m", "pip", "install", "--disable-pip-version-check", "--no-input"]
    command += ["--progress-bar", "off", "--constraint", "constraints.txt", "--editable", ".[dev]"]
    environment = dict(os.environ, PIP_USER="0", PYTHONUNBUFFERED="1")
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "errors": "replace"}
    say("fetching packages")
    with subprocess.Popen(command, cwd=str(root), env=environment, pass_fds=[lock.fileno()], **options) as pip:
        try:
            lines = [tell_stage(line) for line in pip.stdout]
        except KeyboardInterrupt:
            pip.terminate()
            raise
    (root / ".venv" / "install.log").write_text("".join(lines), encoding="utf-8")
    if pip.returncode:
        raise InstallError(explain(lines))


def tell_stage(line: str) -> str:
    """Say what takes time: large files, an index that does not answer, unpacking. The rest stays in the log."""
    download = DOWNLOAD.search(line)
    if download and (download.group(2).endswith("GB") or float(download.group(2)[:-3]) >= LARGE_MB):
        say(f"fetching {download.group(1)} ({download.group(2)})")
    if "Retrying (Retry(total=4" in line:
        say("no answer from the package index yet; trying again")
    if line.startswith("Installing collected packages"):
        n_packages = line.count(",") + 1
        say(f"unpacking packages ({n_packages})")
    return line


def explain(lines: "list[str]") -> str:
    """One sentence from the output of a pip that failed, and its ERROR lines if the cause is not a known one."""
    errors = [line.strip() for line in lines if line.strip().startswith("ERROR")]
    last = [line.strip() for line in lines[-3:]]
    told = "\n".join(errors + last)
    if "No space left on device" in told:
        return f"the disk is full; free some space, or point TMPDIR to a larger disk if /tmp is small, and {AGAIN}"
    if any(sign in told for sign in UNREACHABLE):
        return (
            f"pip got no answer from a package index ({(errors + last)[0]}); connect to the network, or name your "
            f"mirror in PIP_INDEX_URL, and {AGAIN}"
        )
    return "pip could not install the kit; its whole output is in .venv/install.log:\n" + "\n".join(errors or last)


def say(text: str) -> None:
    minutes, seconds = divmod(int(time.time() - BEGAN), 60)
    sys.stdout.write(f"[{minutes}:{seconds:02d}] {text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
