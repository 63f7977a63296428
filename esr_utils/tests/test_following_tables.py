"""Tables and figures of the prefill 2x2 and of sustained resistance: counts, signs and order."""

from itertools import product

import numpy as np
import pandas as pd
import pytest

from esr_utils import following_tables, paired
from esr_utils.following import CELLS
from esr_utils.frames import score_measures
from esr_utils.plots import following as figures
from esr_utils.prefixes import ARMS, SOURCES


@pytest.fixture(scope="module")
def cells() -> pd.DataFrame:
    """After a steered beginning of a response that restarted, every unsteered and every fourth steered trial does."""
    lines = []
    for source, cell, latent, question, repeat in product(SOURCES, CELLS.values(), range(4), ("a?", "b?"), (0, 1)):
        rare = cell == ("steered", "steered") and latent == 0
        restarts = source == "restarted" and (cell == ("steered", "unsteered") or rare)
        known = {"subject": "ours", "source": source, "prefix": cell[0], "continuation": cell[1], "latent": latent}
        scores = [20.0, 60.0] if restarts else [30.0]
        lines.append(known | {"question": question, "repeat": repeat, "status": "judged"} | score_measures(scores))
    return pd.DataFrame(lines)


def test_every_cell_of_every_source_has_its_counts(cells):
    table = following_tables.cell_table(cells).set_index(["source", "prefix", "continuation", "quantity"])
    assert len(table) == 2 * 4 * len(following_tables.OUTCOMES)
    assert table.loc[("restarted", "steered", "unsteered", "multi_attempt"), ["n_events", "n"]].tolist() == [16, 16]
    assert table.loc[("restarted", "steered", "steered", "minimum_gain_esr"), ["n_events", "n"]].tolist() == [4, 16]
    assert table.loc["uncorrected", "n_events"].eq(0).all()


def test_contrasts_are_those_declared_and_the_second_less_the_first(cells):
    table = following_tables.cell_contrasts(cells).set_index(["source", "contrast", "quantity"])
    beginning, continuation = following_tables.CELL_CONTRASTS
    told = table.loc[("restarted", beginning, "multi_attempt"), ["difference", "rate_first", "rate_second", "n_pairs"]]
    assert told.tolist() == [1.0, 0.0, 1.0, 16]
    assert table.loc[("restarted", continuation, "esr"), "difference"] == -0.75
    assert table.loc[("uncorrected", beginning, "multi_attempt"), "difference"] == 0


@pytest.fixture(scope="module")
def arms() -> pd.DataFrame:
    """Continuations score 60, 40, 20 and 30 on average, and latents differ; one own continuation is empty."""
    mean, lines = {"own": 60.0, "generic": 40.0, "off_topic": 20.0, "none": 30.0}, []
    for arm, latent, question in product(ARMS, range(4), ("a?", "b?", "c?")):
        known = {"subject": "ours", "arm": arm, "latent": latent, "question": question, "repeat": 1000}
        lines.append(known | {"status": "judged"} | score_measures([mean[arm] + 4 * latent - 6]))
    lines[0] |= {"status": "empty"} | score_measures([])
    return pd.DataFrame(lines)


def test_mean_scores_stand_in_one_order_with_their_counts(arms):
    table = following_tables.sustained_table(arms)
    assert table["arm"].tolist() == list(ARMS)
    assert table["n"].tolist() == [11, 12, 12, 12]
    assert table["mean"].tolist()[1:] == [40.0, 20.0, 30.0]


def test_differences_are_paired_so_what_latents_share_cancels(arms):
    table = following_tables.sustained_contrasts(arms).set_index(["arm", "less"])
    assert list(table.index) == [("own", "generic"), ("own", "off_topic"), ("generic", "none")]
    assert table["difference"].tolist() == [20.0, 40.0, 10.0]
    assert table.loc[("own", "generic"), ["n_pairs", "n_lost", "n_unmatched"]].tolist() == [11, 1, 0]
    assert (table["ci_high"] - table["ci_low"]).max() < 1e-9


def test_a_paired_mean_allows_for_shared_latents():
    rng = np.random.default_rng(0)
    known = {"subject": "ours", "repeat": 0, "status": "judged"}
    lines = []
    for latent, shift in enumerate(rng.normal(0, 10, 8)):
        for question, arm in product("abc", ("x", "y")):
            value = 40 + (shift + 5 if arm == "y" else 0) + rng.normal(0, 0.1)
            lines.append(known | {"arm": arm, "latent": latent, "question": question} | score_measures([value]))
    (line,) = paired.means(pd.DataFrame(lines), ({"arm": "x"}, {"arm": "y"}), column="first_score").itertuples()
    values = pd.DataFrame(lines).pivot(index=["latent", "question"], columns="arm", values="first_score")
    difference = values["y"] - values["x"]
    assert line.difference == pytest.approx(difference.mean())
    assert line.design_effect > 2
    of_latents = difference.groupby("latent").mean()
    assert (line.ci_high - line.difference) > 1.9 * of_latents.std(ddof=1) / np.sqrt(8)


def test_an_arm_that_is_not_there_is_told(arms):
    with pytest.raises(ValueError, match="no trial has {'arm': 'shout'}"):
        paired.means(arms, ({"arm": "own"}, {"arm": "shout"}), column="first_score")


def test_beside_the_paper_stand_its_four_lengths_and_our_steered_beginnings(cells):
    table = following_tables.cells_beside_paper(following_tables.cell_table(cells))
    assert [told.split(" ")[0] for told in table["restarts"][:4]] == ["7.0", "13.5", "11.3", "11.9"]
    ours = table[table["who"] == "ours, restarted"].set_index("continuation")["restarts"]
    assert ours["unsteered"].startswith("100% [")
    assert ours["steered"].endswith("4 of 16")


def test_beside_the_papers_gain_stands_generic_less_none(arms):
    both = following_tables.sustained_table(arms), following_tables.sustained_contrasts(arms)
    table = following_tables.sustained_beside_paper(*both)
    assert [told.split(" ")[0] for told in table["paper"]] == ["21.8", "54.5", "2.1"]
    assert table["ours"].str.extract(r"([\d.]+) (?:points|times)")[0].tolist() == ["10.0", "60.5", "1.5"]
    assert table["ours"].iloc[2].endswith("n_pairs = 11")


def test_candidates_are_counted_by_what_became_of_them():
    found = pd.DataFrame({"source": ["restarted"] * 3 + ["uncorrected"], "status": ["fit", "fit", "short", "fit"]})
    found = found.assign(n_tokens=[10, 20, 90, 15], ends_sentence=[True, False, True, False])
    segments = pd.DataFrame({"arm": [*ARMS, *ARMS], "status": ["fit"] * 4 + ["restart"] * 4})
    table = following_tables.candidates(found, segments).set_index("taken")
    assert table.loc["restarted"].to_dict() == {
        "fit": 2,
        "restart": 0,
        "short": 1,
        "mean_tokens": 15.0,
        "ends_sentence": 0.5,
    }
    assert table.loc["episodes", ["fit", "restart", "short"]].tolist() == [1, 1, 0]
    assert list(table.index) == [*SOURCES, "episodes"]


def test_figures_show_every_cell_and_arm_with_its_counts(cells, arms):
    for figure, told in (
        (figures.cells(following_tables.cell_table(cells)), {"16/16": 3, "4/16": 3, "0/16": 18}),
        (
            figures.scores(following_tables.sustained_table(arms), following_tables.sustained_contrasts(arms)),
            {"n = 11": 3, "n = 12": 4},
        ),
    ):
        texts = [text.get_text() for axes in figure.axes for text in axes.texts]
        assert {count: texts.count(count) for count in told} == told
        figures.plt.close(figure)
