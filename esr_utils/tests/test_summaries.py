"""Tables of notebook 02: ours and the paper's are told apart, and every rate keeps its counts."""

import numpy as np
import pandas as pd
import pytest

from esr_utils import metrics, published, summaries
from esr_utils.detection import Detection
from esr_utils.power import Population, simulate_trials
from esr_utils.scales import DETECTION
from esr_utils.study import READER


@pytest.fixture
def trials() -> pd.DataFrame:
    """Both main arms of a simulated run, the unsteered one without any restart."""
    steered = simulate_trials(np.random.default_rng(0), Population(rate=0.2)).assign(subject="ours", level=1.0)
    silent = {"n_attempts": 1, "is_multi": False, "is_improved": False, "gain": np.nan}
    baseline = steered.assign(level=0.0, condition="baseline", **silent)
    return pd.concat([steered, baseline], ignore_index=True)


def test_paper_and_ours_stand_on_lines_of_their_own(trials):
    table = summaries.beside_paper(trials)
    assert set(table["origin"]) == {"paper", "ours"}
    assert set(table.loc[table["origin"] == "paper", "who"]) == set(published.MAIN_RATES)
    ours = table[table["origin"] == "ours"].set_index(["who", "quantity"])
    assert ours.loc[("ours, without steering", "multi_attempt"), "n_events"] == 0
    assert ours.loc[("ours, steered", "multi_attempt"), "n_events"] == trials["is_multi"].sum()


def test_published_rates_are_those_of_the_file():
    rates = published.main_rates().set_index(["model", "quantity"])["rate"]
    assert rates["Llama-3.3-70B-Instruct", "multi_attempt"] == pytest.approx(0.074)
    assert rates["Llama-3.3-70B-Instruct", "esr"] == pytest.approx(0.038)
    assert ("Llama-3.1-8B-Instruct", "multi_attempt") not in rates, "only a bound was published"


def test_levels_hold_the_mean_score_and_every_rate(trials):
    table = summaries.scores_and_rates(trials, ["subject", "level"]).set_index(["level", "quantity"])
    mean = trials.loc[trials["level"] == 1.0, "first_score"].mean()
    assert table.loc[(1.0, "first_score"), "value"] == pytest.approx(mean)
    assert table.loc[(0.0, "multi_attempt"), "n"] == (trials["level"] == 0.0).sum()


def test_a_rate_is_told_with_its_interval_and_counts():
    rate = pd.Series({"rate": 0.05, "ci_low": 0.0123, "ci_high": 0.1, "n_events": 3, "n": 60}, dtype=object)
    assert summaries.told(rate) == "5% [1.2, 10], 3 of 60"
    assert summaries.told(pd.Series({"n": 0})) == "no trial to count"


def test_a_mean_is_told_with_its_interval_and_count(trials):
    steered = trials[trials["level"] == 1.0]
    (line,) = metrics.means(steered, ["subject"], "first_score").to_dict("records")
    told = f"{line['mean']:.1f} [{line['ci_low']:.1f}, {line['ci_high']:.1f}], n = {len(steered)}"
    assert summaries.told_mean(pd.Series(line)) == told
    assert summaries.told_mean_of(steered, "first_score") == told
    assert summaries.told_mean(pd.Series({"n": 0})) == "no trial to count"


def test_groups_and_quantities_in_words_keep_their_order(trials):
    table = summaries.scores_and_rates(trials, ["subject", "level"]).sort_values("level", ascending=False)
    told = summaries.in_words(table[table["quantity"].isin(["first_score", "esr"])], ["subject", "level"])
    assert list(told.index) == [("ours", 1.0), ("ours", 0.0)]
    assert list(told.columns) == list(dict.fromkeys(table["quantity"]))[:1] + ["esr"]
    n = (trials["level"] == 1.0).sum()
    assert told.loc[("ours", 1.0), "esr"].endswith(f"{trials['is_improved'].sum()} of {n}")
    assert told.loc[("ours", 1.0), "first_score"] == summaries.told_mean_of(
        trials[trials["level"] == 1.0], "first_score"
    )


def test_a_subject_without_a_splittable_response_has_no_placebo_line(trials):
    class Wordless(Detection):
        def trials(self):
            return trials.assign(trial_id=[str(i) for i in range(len(trials))])

        def placebo_parts(self):
            return pd.DataFrame({"trial_id": [], "index": [], "score": []})

    (line,) = summaries.placebo_table([Wordless(READER, "quick", DETECTION["quick"])]).to_dict("records")
    assert line["parts"] == "restarts"
    assert line["n"] == trials["is_multi"].sum()
