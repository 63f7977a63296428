"""Records as columns, for folders of a million trials: read from the journals once, then from a copy beside them.

The copy (``cache/*.parquet``) is made for large folders only, holds nothing that the journals do not, and is made anew
whenever one of them has another size or time of writing. It can be deleted at any time.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import fields
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from esr_utils.bulk import is_filled, read_sound
from esr_utils.files import write_whole
from esr_utils.records import PlannedTrial, Run, seed_of

LARGE_BYTES = 64 * 2**20  # of journals; below, reading them takes a second
CHUNK = 50_000  # records held as Python objects at once
FORM = 2  # of the copies: another number makes them anew

TYPES = {str: pa.string(), int: pa.int64(), float: pa.float64()}


def _schema(**types: type | pa.DataType) -> pa.Schema:
    """Fields that must have a value."""
    return pa.schema([pa.field(name, TYPES.get(kind, kind), nullable=False) for name, kind in types.items()])


PLAN = {field.name: field.type for field in fields(PlannedTrial)}
SEEDED = ("run_seed", "question", "latent", "repeat")
TRIAL = _schema(id=str, **PLAN, response=str, n_tokens=int, stop_reason=str)
ATTEMPT = pa.struct(list(_schema(start=int, end=int, score=float)))
ATTEMPTS = pa.list_(pa.field("item", ATTEMPT, nullable=False))
JUDGEMENT = _schema(trial_id=str, repeat=int, status=str, attempts=ATTEMPTS).append(pa.field("recovery", pa.float64()))


def trial_columns(run: Run) -> pd.DataFrame:
    """One line a finished trial: ``trial_id``, its plan, ``seed``, ``response``, ``n_tokens``, ``stop_reason``."""
    return _kept(run, "trials", _trial_paths(run), lambda: _trials(run))


def verdict_columns(run: Run, judge: str) -> pd.DataFrame:
    """One line a first grading: ``trial_id``, ``status``, ``recovery``, ``n_attempts``, ``first_score``,
    ``last_score``."""
    return _kept(run, f"judgements.{judge}", _judged_paths(run, judge), lambda: _verdicts(_judgements(run, judge)))


def attempt_columns(run: Run, judge: str) -> pd.DataFrame:
    """One line an attempt of a first grading: ``trial_id``, ``index`` (from 0), ``start``, ``end``, ``score``."""
    return _kept(run, f"attempts.{judge}", _judged_paths(run, judge), lambda: _attempts(_judgements(run, judge)))


def state(run: Run, judge: str) -> str:
    """What differs as soon as there are other trials or judgements."""
    return _stamp(run, _judged_paths(run, judge))


def _trial_paths(run: Run) -> list[Path]:
    return run.journal("trials").paths()


def _judged_paths(run: Run, judge: str) -> list[Path]:
    return [*run.journal(f"judgements.{judge}").paths(), *_trial_paths(run)]


def _trials(run: Run) -> pa.Table:
    table = read_sound(_trial_paths(run), TRIAL, ["id"])
    if table is None:
        table = _line_by_line(run.trial_records(), TRIAL, f"{run.folder.name}/trials.jsonl")
    seeds = _seeds(table.select(SEEDED).to_pandas())
    return table.rename_columns({"id": "trial_id"}).add_column(len(PLAN) + 1, "seed", pa.array(seeds))


def _seeds(drawn: pd.DataFrame) -> np.ndarray:
    """``seed_of`` each line, worked out once for those that share it."""
    of_line = drawn.groupby(list(SEEDED), sort=False).ngroup().to_numpy()
    which = drawn[~drawn.duplicated()].itertuples(index=False)
    return np.array([seed_of(*values) for values in which], dtype="int64")[of_line]


def _judgements(run: Run, judge: str) -> pa.Table:
    """First gradings."""
    table = None
    ids = _schema(id=str)
    if not run.has_shards or read_sound(_trial_paths(run), ids, ["id"]) is not None:  # else some may not count
        table = read_sound(run.journal(f"judgements.{judge}").paths(), JUDGEMENT, ["trial_id", "repeat"])
    if table is None:
        table = _line_by_line(run.judgement_records(judge), JUDGEMENT, f"{run.folder.name}/judgements.{judge}.jsonl")
    _check_scores(table, run, judge)
    return table.filter(pc.field("repeat") == 0)


def _check_scores(judgements: pa.Table, run: Run, judge: str) -> None:
    for values, most in ((_flat(judgements, "score"), 100), (judgements["recovery"].drop_null().to_numpy(), 10)):
        if n := int((~((values >= 0) & (values <= most))).sum()):
            raise ValueError(
                f"{n} numbers in {run.folder.name}/judgements.{judge}.jsonl are not scores from 0 to {most}; restore "
                "the file, or delete those lines and run again: they are judged anew"
            )


def _line_by_line(records: Iterator[dict], schema: pa.Schema, where: str) -> pa.Table:
    parts = [schema.empty_table()]
    while chunk := list(islice(records, CHUNK)):
        columns = {name: [record.get(name) for record in chunk] for name in schema.names}
        parts.append(pa.table({name: pa.array(columns[name], schema.field(name).type) for name in schema.names}))
        if absent := [field.name for field in schema if not is_filled(parts[-1][field.name], field)]:
            raise ValueError(
                f"records of {where} have no value for {', '.join(absent)}; restore the file, or delete it"
            )
    return pa.concat_tables(parts, promote_options="default")


def _verdicts(judgements: pa.Table) -> pa.Table:
    n_attempts, scores = _n_attempts(judgements), _flat(judgements, "score")
    ends = np.cumsum(n_attempts)
    has_any = n_attempts > 0
    first, last = (np.full(len(n_attempts), np.nan) for _ in range(2))
    first[has_any], last[has_any] = scores[(ends - n_attempts)[has_any]], scores[ends[has_any] - 1]
    measured = {"n_attempts": n_attempts, "first_score": first, "last_score": last}
    kept = judgements.select(["trial_id", "status", "recovery"])
    return pa.table({name: kept[name] for name in kept.column_names} | measured)


def _attempts(judgements: pa.Table) -> pa.Table:
    n_attempts = _n_attempts(judgements)
    of_line = np.repeat(np.arange(len(n_attempts)), n_attempts)
    index = np.arange(len(of_line)) - np.repeat(np.cumsum(n_attempts) - n_attempts, n_attempts)
    parts = {name: _flat(judgements, name) for name in ("start", "end", "score")}
    return pa.table({"trial_id": judgements["trial_id"].take(pa.array(of_line)), "index": index, **parts})


def _n_attempts(judgements: pa.Table) -> np.ndarray:
    return pc.list_value_length(judgements["attempts"]).to_numpy().astype("int64")


def _flat(judgements: pa.Table, name: str) -> np.ndarray:
    """One field of all attempts, one after another."""
    return pc.struct_field(pc.list_flatten(judgements["attempts"]), [name]).to_numpy()


def _kept(run: Run, name: str, paths: Sequence[Path], make: Callable[[], pa.Table]) -> pd.DataFrame:
    """The table called ``name``: from its copy if that is of these journals as they are, else made."""
    path, stamp = run.own / "cache" / f"{name}.parquet", _stamp(run, paths)
    if path.exists() and pq.read_schema(path).metadata.get(b"stamp") == stamp.encode():
        return pq.read_table(path).to_pandas()
    table = make()
    if sum(source.stat().st_size for source in paths) > LARGE_BYTES:
        stamped = table.replace_schema_metadata({"stamp": stamp})
        with suppress(OSError):  # no room, or not ours to write: it is read from the journals next time, too
            write_whole(path, lambda file: pq.write_table(stamped, file, compression="zstd"))
    return table.to_pandas()


def _stamp(run: Run, paths: Sequence[Path]) -> str:
    """What differs when one of the files does."""
    return json.dumps(
        [FORM, *((str(p.relative_to(run.folder)), p.stat().st_size, p.stat().st_mtime_ns) for p in paths)]
    )
