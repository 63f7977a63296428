"""Interactive twins of a few figures: the same numbers, with their counts under the pointer. Needs plotly, no torch.

A twin is one html file. All share the ``plotly.min.js`` that is copied once beside them, so they open without a
network.
"""

from collections.abc import Callable, Mapping
from itertools import cycle
from pathlib import Path

import numpy as np
import pandas as pd
from plotly import graph_objects as go
from plotly.subplots import make_subplots

from esr_utils.plots.captions import CAPTIONS
from esr_utils.plots.fine_tuning import CONDITION_NAMES, CONDITIONS
from esr_utils.plots.style import BLUE, GREY, ORANGE, QUANTITY_NAMES

COLOURS = (BLUE, ORANGE, "#009e73", "#cc79a7", "#e69f00", "#56b4e9", GREY)
FIXED = {"paper": GREY, "ours": BLUE, **{CONDITION_NAMES[name]: colour for name, colour in CONDITIONS.items()}}
NAMES = {**QUANTITY_NAMES, "first_score": "first-attempt score", "improvement": "improved, of several"}
SINGLE = ", one training"  # ends the name of a series of small points
Drawn = pd.DataFrame  # columns: panel, series, at, value, low, high, told; a line a point


def rates(table: pd.DataFrame) -> go.Figure:
    """Twin of ``detection.rates_beside_paper``: a row a model."""
    drawn = _drawn(table, value="rate", at="who", series=table["origin"])
    return _panels(drawn, ("multi_attempt", "esr", "recovery"), unit="% of judged trials", is_upright=False)


def levels(table: pd.DataFrame) -> go.Figure:
    """Twin of ``detection.strength_levels``: along the level, 1 being the latent's calibrated strength."""
    drawn = _drawn(table, value="value", at="level", series=table["subject"])
    return _panels(drawn, ("first_score", "multi_attempt", "esr", "recovery"), unit="level", is_upright=True)


def shares(table: pd.DataFrame) -> go.Figure:
    """Twin of ``fine_tuning.shares``: all trainings together as lines, single ones as points."""
    single = np.where(table["training_seed"].notna(), SINGLE, "")
    drawn = _drawn(table, value="value", at="share", series=table["condition"].map(CONDITION_NAMES) + single)
    panels = ("first_score", "multi_attempt", "esr", "minimum_gain_esr")
    return _panels(drawn.assign(at=100 * drawn["at"]), panels, unit="corrections (%)", is_upright=True)


def contrasts(table: pd.DataFrame) -> go.Figure:
    """Twin of ``ablation.contrasts``: a row a kind of arm; matched sets and random directions share theirs."""
    drawn = _drawn(table, value="difference", at="name", series=table["name"])
    drawn["told"] = table["condition"] + "<br>" + drawn["told"]
    figure = _panels(drawn, ("first_score", "multi_attempt", "esr"), unit="points", is_upright=False)
    return figure.update_xaxes(zeroline=True, zerolinecolor=GREY).update_layout(showlegend=False)


TWINS: dict[str, Callable[[pd.DataFrame], go.Figure]] = {
    "detection_rates": rates,
    "detection_levels": levels,
    "tuning_shares": shares,
    "ablation_contrasts": contrasts,
}


def write(name: str, table: pd.DataFrame, folder: Path) -> Path:
    """Write the twin called ``name`` into ``folder``, with plotly's script if it is not there yet."""
    path, figure = folder / f"{name}.html", TWINS[name](table)
    figure.update_layout(title={"text": CAPTIONS[name][0], "font": {"size": 17}})
    figure.write_html(path, include_plotlyjs="directory", div_id=name, config={"displaylogo": False})
    return path


def _drawn(table: pd.DataFrame, *, value: str, at: str, series: pd.Series) -> Drawn:
    """Points in per cent (scores in points), with the words that are shown under the pointer."""
    factor = pd.Series(np.where(table["quantity"] == "first_score", 1, 100), index=table.index)
    columns = {"value": value, "low": "ci_low", "high": "ci_high"}
    drawn = pd.DataFrame({name: (factor * table[column]).round(6) for name, column in columns.items()})
    drawn = drawn.assign(panel=table["quantity"], series=series, at=table[at])
    counts = table.apply(_counts, axis=1) if len(table) else ""
    shown = [f"{line.value:.1f} [{line.low:.1f}, {line.high:.1f}]" for line in drawn.itertuples()]
    return drawn.assign(told=table[at].astype(str) + "<br>" + shown + ", " + counts)


def _counts(line: pd.Series) -> str:
    if "n_pairs" in line:
        return f"{line['n_pairs']:.0f} pairs"
    return f"{line['n_events']:.0f} of {line['n']:.0f}" if line["quantity"] != "first_score" else f"n = {line['n']:.0f}"


def _panels(drawn: Drawn, panels: tuple[str, ...], *, unit: str, is_upright: bool) -> go.Figure:
    """One panel a quantity, one colour a series; upright: values along y over a number, else along x in rows."""
    titles = [NAMES[panel] + (" (%)" if is_upright and panel != "first_score" else "") for panel in panels]
    figure = make_subplots(1, len(panels), subplot_titles=titles, shared_yaxes=not is_upright)
    colours = dict(zip(dict.fromkeys(drawn["series"].str.removesuffix(SINGLE)), cycle(COLOURS), strict=False)) | FIXED
    for column, panel in enumerate(panels, start=1):
        for series, mine in drawn[drawn["panel"] == panel].groupby("series", sort=False):
            look = {"name": series, "legendgroup": series, "showlegend": column == 1}
            trace = _trace(mine.dropna(subset=["value"]), colours[series.removesuffix(SINGLE)], is_upright=is_upright)
            figure.add_trace(trace.update(look), row=1, col=column)
    figure.update_xaxes(title_text=unit)
    if is_upright:
        figure.update_yaxes(rangemode="tozero")
    if not is_upright:
        rows = drawn["at"].unique().tolist()
        figure.update_yaxes(categoryorder="array", categoryarray=rows, range=[len(rows) - 0.5, -0.5])
    legend, margin = {"orientation": "h", "y": -0.25}, {"t": 90, "b": 40}
    return figure.update_layout(template="simple_white", height=430, legend=legend, margin=margin)


def _trace(mine: Drawn, colour: str, *, is_upright: bool) -> go.Scatter:
    """Points, with their intervals unless several share a row; lists, since arrays would be written unreadably."""
    value, at = mine["value"].tolist(), mine["at"].tolist()
    is_single = mine["series"].str.endswith(SINGLE).any()
    ends: Mapping[str, object] = {
        "array": (mine["high"] - mine["value"]).tolist(),
        "arrayminus": (mine["value"] - mine["low"]).tolist(),
        "thickness": 1.2,
        "width": 0,
        "visible": not is_single and mine["at"].is_unique,
    }
    axes = {"x": at, "y": value, "error_y": ends} if is_upright else {"x": value, "y": at, "error_x": ends}
    symbol = "circle-open" if (mine["series"] == "paper").any() else "circle"
    return go.Scatter(
        **axes,
        mode="lines+markers" if is_upright and not is_single else "markers",
        marker={"color": colour, "opacity": 0.4 if is_single else 1.0, "symbol": symbol},
        line={"color": colour},
        text=mine["told"].tolist(),
        hovertemplate="%{text}<extra>%{fullData.name}</extra>",
    )
