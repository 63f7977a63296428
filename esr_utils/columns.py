"""Records as columns, for folders of a million trials: read line by line once, then from a copy beside the journals.

The copy (``cache/*.parquet``) is made for large folders only, holds nothing that the journals do not, and is made anew
whenever one of them has another size or time of writing. It can be deleted at any time.
"""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import fields
from itertools import islice
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from esr_utils.records import PlannedTrial, Run

PLAN = tuple(field.name for field in fields(PlannedTrial))
TRIAL = ("trial_id", *PLAN, "seed", "response", "n_tokens", "stop_reason")
VERDICT = ("trial_id", "repeat_judged", "status", "recovery", "starts", "ends", "scores")
LARGE_BYTES = 64 * 2**20  # of journals; below, reading them takes a second or two
CHUNK = 50_000  # records held as Python objects at once
FORM = 1  # of the copies: another number makes them anew

Line = tuple[object, ...]


def trial_columns(run: Run) -> pd.DataFrame:
    """One line a finished trial: ``TRIAL``."""
    journal = run.journal("trials", "id")
    return _kept(run, "trials", journal.paths(), lambda: _trial_lines(run), TRIAL)


def verdict_columns(run: Run, judge: str) -> pd.DataFrame:
    """One line a judgement: ``VERDICT``; the attempts' ``starts``, ``ends`` and ``scores`` are lists."""
    paths = [*run.journal(f"judgements.{judge}").paths(), *run.journal("trials").paths()]
    return _kept(run, f"judgements.{judge}", paths, lambda: _verdict_lines(run, judge), VERDICT)


def _trial_lines(run: Run) -> Iterator[Line]:
    seeds: dict[Line, int] = {}
    for record in run.trial_records():
        plan = {name: record[name] for name in PLAN}
        drawn = tuple(plan[name] for name in ("run_seed", "question", "latent", "repeat"))
        if drawn not in seeds:
            seeds[drawn] = PlannedTrial(**plan).seed
        outcome = record["response"], record["n_tokens"], record["stop_reason"]
        yield record["id"], *plan.values(), seeds[drawn], *outcome


def _verdict_lines(run: Run, judge: str) -> Iterator[Line]:
    for record in run.judgement_records(judge):
        attempts = record["attempts"]
        parts = [[attempt[name] for attempt in attempts] for name in ("start", "end", "score")]
        yield record["trial_id"], record["repeat"], record["status"], record["recovery"], *parts


def _kept(
    run: Run, name: str, paths: Sequence[Path], lines: Callable[[], Iterator[Line]], columns: Sequence[str]
) -> pd.DataFrame:
    path = run.own / "cache" / f"{name}.parquet"
    sources = [(str(p.relative_to(run.folder)), p.stat().st_size, p.stat().st_mtime_ns) for p in paths]
    stamp = json.dumps([FORM, *sources])
    if path.exists() and pq.read_schema(path).metadata.get(b"stamp") == stamp.encode():
        return pq.read_table(path).to_pandas()
    table = _as_table(lines(), columns)
    if sum(size for _, size, _ in sources) > LARGE_BYTES:
        with suppress(OSError):  # no room, or not ours to write: it is read line by line next time, too
            _write(table.replace_schema_metadata({"stamp": stamp}), path)
    return table.to_pandas()


def _as_table(lines: Iterator[Line], columns: Sequence[str]) -> pa.Table:
    parts = []
    while chunk := list(islice(lines, CHUNK)):
        parts.append(pa.table(dict(zip(columns, map(pa.array, zip(*chunk, strict=True)), strict=True))))
    empty = pa.table({name: pa.array([]) for name in columns})
    return pa.concat_tables(parts, promote_options="permissive") if parts else empty


def _write(table: pa.Table, path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        pq.write_table(table, partial, compression="zstd")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
