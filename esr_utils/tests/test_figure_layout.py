"""Every figure can be read in print: no small text, no text over text, no marker cut off, no wider than the page."""

import warnings

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import StepPatch
from matplotlib.text import Text

from esr_utils import plots
from esr_utils.plots.style import COLUMN_INCHES
from esr_utils.result_tables import read_table

NAMES = [*plots.PAPER, *plots.RESULTS]
LEAST_POINTS = 6.0
PAGE_INCHES = 2 * COLUMN_INCHES + 0.2
SLACK = 1.0  # pixels by which boxes of text may touch
TOUCHING = 0.3  # of the smaller box: lines of text stand closer than their boxes are high


@pytest.fixture(scope="module", autouse=True)
def style():
    plots.use_style()
    yield
    plt.close("all")


@pytest.fixture(scope="module", params=NAMES)
def figure(request) -> Figure:
    """The figure as it is saved, after one drawing of it."""
    name = request.param
    plt.close("all")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # a layout that does not fit
        if name in plots.PAPER:
            draw, make = plots.PAPER[name]
            figure = draw(make())
        else:
            draw, needed = plots.RESULTS[name]
            figure = draw(*(read_table(plots.committed_folder(name), table) for table in needed))
        figure.canvas.draw()
    return figure


def texts(figure: Figure) -> list[Text]:
    """What is written in a figure: words of axes that are switched off are left out, so are ticks beyond the ends."""
    beyond = set()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
                at = tick.get_loc()
                if not (low - 1e-9 <= at <= high + 1e-9 and tick.get_visible() and axes.axison):
                    beyond |= {tick.label1, tick.label2}
    shown = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
    return [text for text in shown if text not in beyond]


def test_no_text_is_small_and_no_figure_wider_than_a_page(figure):
    box = figure.get_tightbbox()
    scale = min(1.0, PAGE_INCHES / box.width)
    assert scale == 1.0, f"{box.width:.2f} inches wide"
    small = {text.get_text(): text.get_fontsize() for text in texts(figure) if text.get_fontsize() < LEAST_POINTS}
    assert not small


def test_no_text_stands_over_another(figure):
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts(figure)]
    over = []
    for i, (one, a) in enumerate(boxes):
        for other, b in boxes[i + 1 :]:
            width = min(a.x1, b.x1) - max(a.x0, b.x0)
            height = min(a.y1, b.y1) - max(a.y0, b.y0)
            if width > SLACK and height > TOUCHING * min(a.height, b.height):
                over.append((one, other))
    assert not over


def test_no_marker_is_cut_off(figure):
    for axes in figure.axes:
        low, high = axes.get_window_extent().get_points()
        for line in axes.lines:
            if line.get_marker() in ("", "None", None, "|") or line.get_transform() != axes.transData:
                continue
            at = axes.transData.transform(np.column_stack(line.get_data()))
            at = at[np.isfinite(at).all(axis=1)]
            reach = 0.5 * line.get_markersize() * figure.dpi / 72 if line.get_clip_on() else 0
            inside = (at >= low + reach - SLACK) & (at <= high - reach + SLACK)
            assert inside.all(), f"{line.get_label()}: {np.array(line.get_data()).T[~inside.all(axis=1)]}"


def test_no_legend_lies_over_what_is_drawn(figure):
    for axes in figure.axes:
        legends = [legend for legend in (axes.get_legend(), *figure.legends) if legend]
        points = [axes.transData.transform(np.column_stack(line.get_data())) for line in axes.lines]
        points += [axes.transData.transform(corners(patch)) for patch in axes.patches if isinstance(patch, StepPatch)]
        for box in (legend.get_window_extent() for legend in legends):
            for at in points:
                covered = ((at > [box.x0, box.y0]) & (at < [box.x1, box.y1])).all(axis=1)
                assert not covered.any()


def corners(patch: StepPatch) -> np.ndarray:
    data = patch.get_data()
    return np.column_stack([np.repeat(data.edges, 2)[1:-1], np.repeat(data.values, 2)])
