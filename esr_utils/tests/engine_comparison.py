"""Greedy responses of several engines beside those of ``hf``: equal, or where they part and by how little."""

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from esr_utils.engines.base import Engine, Response
from esr_utils.engines.hf import HFEngine
from esr_utils.models import Pair
from esr_utils.steering import Row, Sampling


def compare_greedy(pair: Pair, engines: Sequence[Engine], rows: Sequence[Row]) -> pd.DataFrame:
    """One line an engine: rows with the same tokens as ``hf``, and the least settled place among those that part.

    ``logit_gap`` is by how much, at the first token that differs, ``hf`` preferred its own to the other's; None if
    all rows agree. ``position`` counts response tokens from 0. Rows are made greedy and without a penalty, so that
    a gap is one of the model's own logits.
    """
    rows = [replace(row, sampling=_greedy(row.sampling)) for row in rows]
    reference = HFEngine(pair)
    expected = reference.generate(rows)
    lines = []
    for engine in engines:
        partings = [
            (row, position, _gap(reference, row, a, b, position))
            for row, a, b in zip(rows, expected, engine.generate(rows), strict=True)
            if (position := first_difference(a, b)) is not None
        ]
        row, position, gap = max(partings, key=lambda parting: parting[2], default=(None, None, None))
        lines.append(
            {
                "engine": engine.name,
                "rows": len(rows),
                "same_tokens": len(rows) - len(partings),
                "row": None if row is None else rows.index(row),
                "position": position,
                "logit_gap": gap,
            }
        )
    return pd.DataFrame(lines)


def first_difference(a: Response, b: Response) -> int | None:
    """First response position at which two responses differ; an end counts as a token."""
    if a.token_ids == b.token_ids:
        return None
    pairs = zip(a.token_ids, b.token_ids, strict=False)
    return next((i for i, (x, y) in enumerate(pairs) if x != y), min(len(a.token_ids), len(b.token_ids)))


def _gap(engine: HFEngine, row: Row, a: Response, b: Response, position: int) -> float:
    """Difference of the two tokens' logits, read with ``hf`` under the row's own edits."""
    end = engine.pair.end_of_turn
    forced = []
    for response in (a, b):
        token = response.token_ids[position] if position < len(response.token_ids) else end
        prefill = (*a.token_ids[:position], token)
        forced.append(replace(row, prefill=prefill, sampling=replace(row.sampling, max_new_tokens=0)))
    own, other = (scores[-1] for scores in engine.log_likelihoods(forced))
    return float(own - other)


def _greedy(sampling: Sampling) -> Sampling:
    return replace(sampling, temperature=0.0, repetition_penalty=1.0)
