"""Speed of the ``vllm`` engine beside ``hf`` on the same rows: ``python -m esr_utils.bench_servers [ADDRESS]``.

For a server on this machine that has the embedded pair in float32 and as many threads as this program. They run in
turn, in rounds, so that a machine that slows down slows both, and the one that waits is idle.
"""

import json
import sys
from functools import partial
from pathlib import Path

import pandas as pd
from tqdm.auto import tqdm

from esr_utils.bench import machine, slug, speeds, timed
from esr_utils.config import DATA
from esr_utils.contenders import BenchSettings, Contender, Heat, ablating, bench_rows, endless, heat, with_engine
from esr_utils.engines.base import Engine
from esr_utils.engines.hf import HFEngine
from esr_utils.engines.vllm import VLLMEngine
from esr_utils.files import write_whole
from esr_utils.models import load_pair

KINDS = ("steered", "steered, ablated and recorded")


def heats(hf: Engine, vllm: Engine, settings: BenchSettings) -> list[Heat]:
    """Both engines on each kind of rows, next to each other, at the largest batch."""
    steered = bench_rows(hf.pair, settings, [settings.n_tokens] * max(settings.batches))
    kinds = zip(KINDS, (steered, ablating(hf.pair, steered, settings.n_latents)), strict=True)
    return [
        heat(Contender(f"{engine.name}, {kind}", partial(with_engine, engine)), len(rows), rows)
        for kind, rows in kinds
        for engine in (hf, vllm)
    ]


def measure(hf: Engine, vllm: Engine, settings: BenchSettings) -> pd.DataFrame:
    """As ``bench.measure``, of both engines."""
    return timed(heats(hf, vllm, settings), range(settings.min_rounds))


def ratios(timings: pd.DataFrame) -> pd.DataFrame:
    """Tokens/s of ``vllm`` over ``hf`` in each round, by kind of rows: median, least, greatest."""
    seconds = timings.pivot(index="round", columns="contender", values="seconds")
    lines = {kind: seconds[f"hf, {kind}"] / seconds[f"vllm, {kind}"] for kind in KINDS}
    return pd.DataFrame({kind: values.agg(["median", "min", "max"]) for kind, values in lines.items()}).T


def save(timings: pd.DataFrame, settings: BenchSettings, folder: Path) -> Path:
    """Write ``<machine>-vllm.json``: machine, settings and every timing."""
    described = machine()
    content = {
        "machine": described,
        "n_tokens": settings.n_tokens,
        "batch": max(settings.batches),
        "timings": timings.to_dict("records"),
    }
    path = folder / f"{slug(described)}-vllm.json"
    write_whole(path, json.dumps(content, indent=1) + "\n")
    return path


def main() -> None:
    servers = sys.argv[1:] or ["http://127.0.0.1:8000"]
    settings = BenchSettings(batches=(32,), n_tokens=100, min_rounds=2)
    hf = HFEngine(endless(load_pair("smollm2-135m", dtype="float32")))
    vllm = VLLMEngine(endless(load_pair("smollm2-135m", dtype="float32", weights=False)), servers)
    timings = measure(hf, vllm, settings)
    save(timings, settings, DATA / "results" / "bench")
    for table in (speeds(timings), ratios(timings)):
        tqdm.write(table.to_string(float_format="{:.3g}".format) + "\n")


if __name__ == "__main__":
    main()
