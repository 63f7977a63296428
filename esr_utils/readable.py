"""How a table is shown: numbers rounded, p-values as they are reported, columns under names that say what they hold."""

from collections.abc import Mapping

import pandas as pd

LEAST_P = 0.001
P_COLUMNS = ("p", "p_holm", "mcnemar_p", "p among matched sets")


def p_value(p: float) -> str:
    """A p-value with three decimals, ``< 0.001`` below that; nothing where there is none."""
    if pd.isna(p):
        return ""
    return f"{p:.3f}" if p >= LEAST_P else f"< {LEAST_P:g}"


def table(frame: pd.DataFrame, *, decimals: int = 3, names: Mapping[str, str] | None = None) -> pd.DataFrame:
    """A frame for reading: ``P_COLUMNS`` are texts in it, and columns have the ``names`` given here.

    To be shown and not to be kept: result files hold the numbers.
    """
    told = {column: frame[column].map(p_value) for column in frame.columns.intersection(P_COLUMNS)}
    return frame.round(decimals).assign(**told).rename(columns=names or {})
