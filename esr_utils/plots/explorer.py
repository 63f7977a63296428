"""Figure of notebook 00: what the explorer shows under the answers, standing still."""

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from esr_utils.plots.style import BLUE, COLUMN_INCHES, GREY, ORANGE, SMALL

OWN = ("arm", "pos", "token", "attempt")  # columns that are no series
COLOURS = {"detectors": BLUE, "backtracking": ORANGE, "topicality": "#009e73"}
ARM_NAMES = {"unsteered": "unsteered", "steered": "steered", "detectors_ablated": "steered,\ndetectors ablated"}
RESTART_COLOUR = "#f0d9d2"
LANE_INCHES = 0.75


def traces(table: pd.DataFrame) -> Figure:
    """Each answer token by token, a lane for each series with one scale for all answers; restarts are shaded.

    Columns: arm, pos, token, attempt (-1 in a restart), and one a series.
    """
    arms = list(dict.fromkeys(table["arm"]))
    names = [name for name in table.columns if name not in OWN]
    size = (2 * COLUMN_INCHES, 0.6 + LANE_INCHES * len(names))
    figure, axes = plt.subplots(len(names), len(arms), figsize=size, sharex=True, sharey="row", squeeze=False)
    for lane, name in zip(axes, names, strict=True):
        for axis, arm in zip(lane, arms, strict=True):
            mine = table[table["arm"] == arm]
            for pos in mine.loc[mine["attempt"] == -1, "pos"]:
                axis.axvspan(pos - 0.5, pos + 0.5, color=RESTART_COLOUR, lw=0)
            axis.plot(mine["pos"], mine[name], color=COLOURS.get(name, GREY), lw=0.9)
            axis.tick_params(labelsize=SMALL)
        lane[0].set_ylabel(name.replace(" ", "\n"), fontsize=7)
    for axis, arm in zip(axes[0], arms, strict=True):
        axis.set_title(ARM_NAMES.get(arm, arm), fontsize=8)
    for axis in axes[-1]:
        axis.set_xlabel("token", fontsize=7)
    figure.suptitle("activations, of groups summed over their latents; topicality in nats a token", fontsize=7)
    figure.align_ylabels()
    sns.despine(figure)
    figure.tight_layout(h_pad=0.5)
    return figure
