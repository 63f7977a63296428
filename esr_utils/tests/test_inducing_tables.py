"""Tables of the sweep: which trials stand behind each line, and which less which a difference is."""

from itertools import product

import numpy as np
import pandas as pd
import pytest

from esr_utils import inducing_tables, published
from esr_utils.frames import score_measures

ARMS = [(np.nan, "base", 0)] + [
    (share, source, seed)
    for share, source in ((0.0, "steered"), (0.4, "steered"), (0.4, "pasted"), (0.4, "shuffled"))
    for seed in (0, 1)
]
RECOVERS = {"steered": 3, "pasted": 1, "shuffled": 0, "base": 0}  # of 4 latents, with corrections


def scores_of(share: float, source: str, condition: str, latent: int) -> list[float]:
    if condition != "baseline" and share > 0 and latent < RECOVERS[source]:
        return [20.0, 60.0]
    return [60.0 if condition == "baseline" else 30.0]


@pytest.fixture(scope="module")
def trials() -> pd.DataFrame:
    lines = []
    for share, source, seed in ARMS:
        for condition, latent, question in product(inducing_tables.CONDITIONS, range(4), ("a?", "b?", "c?")):
            if source == "base" and condition == "recalibrated":
                continue
            known = {"subject": f"{source}-{share}-{seed}", "condition": condition, "latent": latent}
            known |= {"question": question, "repeat": 0, "share": share, "source": source, "training_seed": seed}
            measured = score_measures(scores_of(share, source, condition, latent), recovery=2.0 + 2 * latent)
            lines.append(known | {"status": "judged"} | measured)
    return pd.DataFrame(lines)


def test_a_share_holds_its_seeds_together_and_each_alone_and_no_control(trials):
    table = inducing_tables.by_share(trials)
    several = table[(table["quantity"] == "multi_attempt") & (table["condition"] == "fixed") & (table["share"] == 0.4)]
    assert several["training_seed"].fillna(-1).tolist() == [-1, 0, 1]
    assert several["n_events"].tolist() == [18, 9, 9]
    assert several["n"].tolist() == [24, 12, 12]


def test_the_controls_stand_in_order_from_the_base_to_real_drifts(trials):
    table = inducing_tables.controls(trials, 0.4)
    several = table[(table["quantity"] == "multi_attempt") & (table["condition"] == "fixed")]
    assert several["arm"].tolist() == [
        "base, not fine-tuned",
        "no corrections",
        "shuffled answers",
        "pasted drifts",
        "real drifts",
    ]
    assert several["n_events"].tolist() == [0, 0, 0, 6, 18]
    assert several["n"].tolist() == [12, 24, 24, 24, 24]


def test_a_contrast_is_real_drifts_less_the_other_by_latent_question_and_seed(trials):
    table = inducing_tables.contrasts(trials, 0.4, ["pasted drifts"])
    line = table[(table["condition"] == "recalibrated") & (table["quantity"] == "minimum_gain_esr")].iloc[0]
    assert line["n_pairs"] == 24
    assert line["difference"] == pytest.approx((18 - 6) / 24)
    assert (line["n_only_first"], line["n_only_second"]) == (0, 12)
    unsteered = table[(table["condition"] == "baseline") & (table["quantity"] == "multi_attempt")].iloc[0]
    assert unsteered["difference"] == 0


def test_beside_the_paper_stand_its_own_numbers_and_ours_at_own_strengths(trials):
    table = inducing_tables.beside_paper(trials)
    paper = table[table["origin"] == "paper"].set_index("share")
    assert paper.loc[0.9, "value"] == pytest.approx(0.186)
    assert paper.loc[0.1, "n"] == 200
    assert len(paper) == len(published.RECOVERY_BY_SHARE) == 9
    ours = table[table["origin"] == "ours"]
    assert ours["n"].tolist() == [24, 24]
    assert ours["value"].tolist() == pytest.approx([0.25, 0.25])  # latent 3 alone reaches 7 of 10
