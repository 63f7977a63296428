"""The paper's published numbers, as a frame: what the kit's own results are shown beside."""

from functools import lru_cache

import pandas as pd

from esr_utils.config import DATA


@lru_cache(maxsize=1)
def published() -> pd.DataFrame:
    """One line a number, indexed by id: quantity, model, condition, value, unit, interval, n, source, version."""
    return pd.read_csv(DATA / "published" / "published.csv", index_col="id")


def cite(number: str) -> str:
    """A published number with what it was measured on, ready for a table."""
    line = published().loc[number]
    n = "" if pd.isna(line["n"]) else f", n = {float(line['n']):,.0f}"
    return f"{line['value']} ({line['model']}, {line['condition']}{n}; {line['version']})"
