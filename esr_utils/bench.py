"""Speed of the ``hf`` engine beside what else one might use, measured on this machine: ``python -m esr_utils.bench``.

All contenders run in one process, in rounds, so a machine that slows down slows them all; a ratio is the median of
the ratios within the rounds.
"""

import json
import os
import platform
import re
import subprocess
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import pandas as pd
import torch
from tqdm.auto import tqdm

from esr_utils.config import DATA
from esr_utils.contenders import (
    ABLATING,
    ALONE,
    BRIDGE,
    FIRST_TOKEN,
    GENERATE,
    MIXED_GENERATE,
    MIXED_STEERED,
    STEERED,
    BenchSettings,
    Heat,
    schedule,
)
from esr_utils.files import write_whole
from esr_utils.models import Pair, load_pair

Key = tuple[str, int]  # contender, batch


# --- timing


def measure(pair: Pair, settings: BenchSettings) -> pd.DataFrame:
    """``timed`` for every contender, round by round until the budget is spent."""
    return timed(schedule(pair, settings), _rounds(settings))


def timed(heats: Sequence[Heat], rounds: Iterable[int]) -> pd.DataFrame:
    """One line a heat and round: contender, batch, round, tokens, seconds. Each contender is warmed up first."""
    for heat in tqdm(heats, desc="warm-up"):
        heat.contender.call([replace(row, sampling=replace(row.sampling, max_new_tokens=2)) for row in heat.rows])
    timings = [
        {
            "contender": heat.contender.name,
            "batch": heat.batch,
            "round": n,
            "tokens": heat.n_tokens,
            "seconds": seconds_of(heat),
        }
        for n in rounds
        for heat in tqdm(heats, desc=f"round {n + 1}")
    ]
    return pd.DataFrame(timings)


def _rounds(settings: BenchSettings) -> Iterator[int]:
    start = time.perf_counter()
    for n in range(settings.max_rounds):
        per_round = (time.perf_counter() - start) / max(n, 1)
        if n >= settings.min_rounds and per_round * (n + 1) > settings.budget_s:
            return
        yield n


def seconds_of(heat: Heat) -> float:
    """Wall time of one heat, tokenising included, because every contender has to.

    Raises:
        RuntimeError: it gave another number of tokens than it was asked for, so its time means nothing.
    """
    _synchronise()
    start = time.perf_counter()
    tokens = heat.contender.call(heat.rows)
    _synchronise()
    seconds = time.perf_counter() - start
    n_tokens = sum(map(len, tokens))
    if n_tokens != heat.n_tokens:
        raise RuntimeError(
            f"{heat.contender.name} gave {n_tokens} tokens at batch {heat.batch}; {heat.n_tokens} were asked for"
        )
    return seconds


def _synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


# --- tables


def speeds(timings: pd.DataFrame) -> pd.DataFrame:
    """The first table: seconds and tokens per second of each contender at each batch size."""
    groups = timings.groupby(["contender", "batch"], sort=False)
    table = groups.agg(
        tokens=("tokens", "first"),
        n_rounds=("round", "size"),
        seconds_median=("seconds", "median"),
        seconds_min=("seconds", "min"),
        seconds_max=("seconds", "max"),
    ).reset_index()
    return table.assign(tokens_per_s=table["tokens"] / table["seconds_median"])


@dataclass(frozen=True)
class Target:
    """A figure to reach: ``speedup`` of ``of`` over ``over`` in tokens/s, its ``overhead``, or plain ``seconds``."""

    what: str
    kind: Literal["speedup", "overhead", "seconds"]
    limit: float
    of: Key
    over: Key | None = None

    def measured(self, seconds: dict[Key, pd.Series]) -> pd.Series:
        """The figure in each round, from ``seconds`` (per token, or in all for ``seconds``) by contender and batch."""
        if self.kind == "seconds":
            return seconds[self.of]
        ratio = seconds[self.of] / seconds[self.over]
        return 1 / ratio if self.kind == "speedup" else ratio - 1

    def is_reached(self, value: float) -> bool:
        return value >= self.limit if self.kind == "speedup" else value <= self.limit

    def text(self) -> str:
        if self.kind == "speedup":
            return f">= {self.limit:g}x"
        return f"<= {self.limit:.0%}" if self.kind == "overhead" else f"<= {self.limit:g} s"


def targets(batch: int) -> list[Target]:
    """What the engine is built to reach, at the largest batch."""
    steered, mixed = (STEERED, batch), ((MIXED_STEERED, batch), (MIXED_GENERATE, batch))
    return [
        Target("steered over transformers.generate unsteered", "speedup", 1.2, steered, (GENERATE, batch)),
        Target("mixed lengths: useful tokens over transformers.generate", "speedup", 1.5, *mixed),
        Target("steered over one row at a time with a hook", "speedup", 8.0, steered, (ALONE, 1)),
        Target("steered over TransformerBridge.generate with a hook", "speedup", 1.5, steered, (BRIDGE, batch)),
        Target("overhead of ablating and recording", "overhead", 0.05, (ABLATING, batch), steered),
        Target("first streamed token, one row", "seconds", 1.0, (FIRST_TOKEN, 1)),
        Target("first streamed token, three rows", "seconds", 1.0, (FIRST_TOKEN, 3)),
    ]


def ratios(timings: pd.DataFrame) -> pd.DataFrame:
    """The second table: each figure's median, least and greatest value over the rounds, and whether it is reached."""
    groups = timings.set_index("round").groupby(["contender", "batch"])
    seconds = {key: group["seconds"] / group["tokens"] for key, group in groups}
    rows = []
    for target in targets(int(timings.loc[timings["contender"] == STEERED, "batch"].max())):
        values = target.measured(seconds)
        median = float(values.median())
        spread = {"measured": median, "measured_min": float(values.min()), "measured_max": float(values.max())}
        rows.append({"ratio": target.what, **spread, "target": target.text(), "reached": target.is_reached(median)})
    return pd.DataFrame(rows)


# --- machine and files


def machine() -> dict:
    """What the numbers were measured on; no host name, no paths. Only Linux tells the flags of the processor."""
    info = Path("/proc/cpuinfo")
    told = dict(re.findall(r"^(model name|flags)\s*: (.*)$", info.read_text(), re.M)) if info.is_file() else {}
    flags = told["flags"].split() if "flags" in told else None
    return {
        "cpu": told.get("model name") or platform.processor() or platform.machine(),
        "n_cores": os.cpu_count(),
        "n_threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "has_amx": None if flags is None else "amx_tile" in flags,
        "has_avx512_bf16": None if flags is None else "avx512_bf16" in flags,
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "versions": {name: version(name) for name in ("torch", "transformers", "transformer-lens", "nnsight")},
        "date": datetime.now(UTC).date().isoformat(),
        "commit": _commit(),
    }


def _commit() -> str | None:
    """The commit of this checkout, ``-dirty`` if files differ from it; None where there is no git."""
    if not (DATA.parent / ".git").exists():
        return None
    command = ["git", "-C", str(DATA.parent), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def slug(described: dict) -> str:
    """Name of a machine's files, for example ``amd-epyc-2-cores``."""
    name = f"{described['cpu']} {described['n_cores']} cores {described['gpu'] or ''}".lower()
    return re.sub(r"[^a-z0-9]+", "-", re.sub(r"\((r|tm)\)", "", name)).strip("-")


def save(timings: pd.DataFrame, settings: BenchSettings, folder: Path) -> Path:
    """Write ``<machine>.csv`` (speeds) and ``<machine>.json`` (machine, settings, ratios, every timing)."""
    described = machine()
    path = folder / f"{slug(described)}.json"
    content = {
        "machine": described,
        "settings": asdict(settings),
        "ratios": ratios(timings).to_dict("records"),
        "timings": timings.to_dict("records"),
    }
    write_whole(path, json.dumps(content, indent=1) + "\n")
    write_whole(path.with_suffix(".csv"), speeds(timings).to_csv(index=False, float_format="%.6g"))
    return path


def main() -> None:
    pair, settings = load_pair("smollm2-135m"), BenchSettings()
    timings = measure(pair, settings)
    save(timings, settings, DATA / "results" / "bench")
    for table in (speeds(timings), ratios(timings)):
        tqdm.write(table.to_string(index=False, float_format="{:.3g}".format) + "\n")


if __name__ == "__main__":
    main()
