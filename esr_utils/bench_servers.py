"""Speed of the ``vllm`` engine beside ``hf`` on the same rows: ``python -m esr_utils.bench_servers [ADDRESS]``.

For a server on this machine that has the embedded pair in float32 and as many threads as this program. They run in
turn, in rounds, so that a machine that slows down slows both, and the one that waits is idle.
"""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
from tqdm.auto import tqdm

from esr_utils.bench import machine, seconds_of, slug, speeds
from esr_utils.config import DATA
from esr_utils.contenders import BenchSettings, Contender, Heat, Tokens, ablating, bench_rows, endless, with_engine
from esr_utils.engines.base import Engine
from esr_utils.engines.hf import HFEngine
from esr_utils.engines.vllm import VLLMEngine
from esr_utils.models import load_pair
from esr_utils.records import write_whole
from esr_utils.steering import Row

KINDS = ("steered", "steered, ablated and recorded")


def heats(hf: Engine, vllm: Engine, settings: BenchSettings) -> list[Heat]:
    """Both engines on each kind of rows, next to each other, at the largest batch."""
    steered = bench_rows(hf.pair, settings, [settings.n_tokens] * max(settings.batches))
    kinds = zip(KINDS, (steered, ablating(hf.pair, steered, settings.n_latents)), strict=True)
    return [
        Heat(Contender(f"{engine.name}, {kind}", _call(engine)), len(rows), rows, settings.n_tokens * len(rows))
        for kind, rows in kinds
        for engine in (hf, vllm)
    ]


def _call(engine: Engine) -> Callable[[Sequence[Row]], Tokens]:
    return lambda rows: with_engine(engine, rows)


def measure(hf: Engine, vllm: Engine, settings: BenchSettings) -> pd.DataFrame:
    """One line a heat and round, as ``bench.measure`` gives them, after a warm-up of each heat."""
    todo = heats(hf, vllm, settings)
    for heat in todo:
        heat.contender.call([replace(row, sampling=replace(row.sampling, max_new_tokens=2)) for row in heat.rows])
    return pd.DataFrame(
        [
            {
                "contender": heat.contender.name,
                "batch": heat.batch,
                "round": n,
                "tokens": heat.n_tokens,
                "seconds": seconds_of(heat),
            }
            for n in range(settings.min_rounds)
            for heat in tqdm(todo, desc=f"round {n + 1}")
        ]
    )


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
