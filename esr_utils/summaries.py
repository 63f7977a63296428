"""Tables from judged frames: what the figures of notebook 02 draw, and ours beside the paper's."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from esr_utils import metrics, power, published
from esr_utils.detection import Detection
from esr_utils.judge_examples import FOLDER
from esr_utils.nulls import placebo_trials
from esr_utils.study import JUDGE, MAIN_LEVEL, SECOND_JUDGE

ARMS = {0.0: "without steering", MAIN_LEVEL: "steered"}


def scores_and_rates(trials: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Mean first-attempt score and every rate of each group: ``by``, quantity, value, interval, counts."""
    scores = metrics.means(trials, by, "first_score").rename(columns={"mean": "value"})
    scores = scores.assign(quantity="first_score", n_events=scores["n"])
    rates = metrics.rates(trials, by).rename(columns={"rate": "value"})
    columns = [*by, "quantity", "value", "ci_low", "ci_high", "n_events", "n", "design_effect"]
    return pd.concat([scores[columns], rates[columns]], ignore_index=True)


def beside_paper(trials: pd.DataFrame) -> pd.DataFrame:
    """The paper's five models, then ours without steering and at the calibrated strength.

    Columns: who, quantity, rate, ci_low, ci_high, n_events, n, origin. The paper's intervals are Wilson's with trials
    taken for independent, its event counts worked out from rounded rates; ours are clustered.
    """
    paper = published.main_rates()
    paper = paper.assign(who=paper["model"], origin="paper").join(published.wilson(paper["rate"], paper["n"]))
    arms = trials[trials["level"].isin(ARMS)]
    ours = metrics.rates(arms.assign(arm=arms["level"].map(ARMS)), ["subject", "arm"])
    ours = ours.assign(who=ours["subject"] + ", " + ours["arm"], origin="ours")
    columns = ["who", "quantity", "rate", "ci_low", "ci_high", "n_events", "n", "origin"]
    both = pd.concat([paper[columns], ours[columns]], ignore_index=True)
    return both[both["quantity"].isin(("multi_attempt", "esr", "recovery"))]


def first_score_table(trials: pd.DataFrame) -> pd.DataFrame:
    """First-attempt scores of the two main arms: arm, first_score."""
    arms = trials[trials["level"].isin(ARMS) & trials["first_score"].notna()]
    return pd.DataFrame({"arm": arms["subject"] + ", " + arms["level"].map(ARMS), "first_score": arms["first_score"]})


def effort_table(detection: Detection) -> pd.DataFrame:
    """Verified scores after the calibration that was used, and after one with a single response a step.

    Differs from the paper, which took five responses a step for its largest model and one for the others.
    """
    n = detection.scale.n_samples
    used, single = detection.calibration(), detection.calibration(n_samples=1)
    parts = [used.assign(effort=f"{n} responses a step"), single.assign(effort="1 response a step")]
    columns = ["effort", "latent", "strength", "verified_score", "target", "window_low", "window_high", "is_in_window"]
    return pd.concat(parts)[columns].reset_index(drop=True)


def judge_pairs(detection: Detection) -> pd.DataFrame:
    """First-attempt scores of the offline judge against the second judge (on trials) and the readers (on examples)."""
    first, second = (detection.trials(judge).set_index("trial_id")["first_score"] for judge in (JUDGE, SECOND_JUDGE))
    both = pd.DataFrame({"offline": first, "score": second}).dropna().assign(other="judge by likelihood, on trials")
    read = pd.read_csv(FOLDER / "validation" / "attempts.csv").query("part == 'report'")
    readers = pd.DataFrame({"offline": read["offline_embedding"], "score": read["score"]})
    return pd.concat([both, readers.assign(other="readers, on the report part")])[["other", "offline", "score"]]


def placebo_table(detections: Sequence[Detection]) -> pd.DataFrame:
    """Improvement from first to last part: after real restarts, and where single attempts are split at such places.

    A subject has no placebo line if it gave no single attempt of more than one word.
    """
    lines = []
    for detection in detections:
        trials = detection.trials()
        steered = trials[trials["level"] == MAIN_LEVEL]
        parts = {"restarts": steered, "placebo": placebo_trials(steered, detection.placebo_parts())}
        for name, part in ((name, part) for name, part in parts.items() if len(part)):
            rate = metrics.rates(part, ["subject"]).query("quantity == 'improvement'")
            gain = metrics.means(part, ["subject"], "gain")
            lines.append(rate.assign(parts=name, mean_gain=gain["mean"].to_numpy()))
    columns = ["subject", "parts", "n_events", "n", "rate", "ci_low", "ci_high", "mean_gain"]
    return pd.concat(lines, ignore_index=True)[columns]


def coverage_table(populations: Sequence[power.Population], *, n_sims: int) -> pd.DataFrame:
    """``power.coverage`` with a ``setting`` in words, for the figure."""
    table = power.coverage(populations, n_sims=n_sims, n_draws=2000)
    setting = table["n_latents"].astype(str) + " latents, rate " + table["rate"].astype(str)
    return table.assign(setting=setting)


def told(rate: pd.Series) -> str:
    """A line of ``metrics.rates`` in words: per cent with its interval and the counts behind it."""
    if not rate["n"]:
        return "no trial to count"
    percent = np.round(100 * rate[["rate", "ci_low", "ci_high"]].astype(float), 1)
    return f"{percent['rate']:g}% [{percent['ci_low']:g}, {percent['ci_high']:g}], {rate['n_events']} of {rate['n']}"


def told_mean(line: pd.Series) -> str:
    """A line of ``metrics.means`` in words: the mean with its interval and the trials behind it."""
    if not line["n"]:
        return "no trial to count"
    return f"{line['mean']:.1f} [{line['ci_low']:.1f}, {line['ci_high']:.1f}], n = {line['n']}"


def told_mean_of(frame: pd.DataFrame, column: str) -> str:
    """The same of a column of any frame that has latent and question; the interval is ``metrics.mean_interval``'s."""
    known = frame.dropna(subset=[column])
    values = known[column].to_numpy(dtype=float)
    interval = metrics.mean_interval(known, values, np.random.default_rng(0))
    return told_mean(pd.Series({"mean": values.mean(), "n": len(values), **interval}))


def in_words(table: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Rates and scores for reading: a line a group, a column a quantity, each cell with interval and counts.

    Args:
        table: as ``scores_and_rates`` or ``metrics.rates`` makes it, all of it or some lines.
        by: the columns that name a group, which keep their order.
    """
    cells = [
        told(line.rename({"value": "rate"}))
        if line["quantity"] in metrics.QUANTITIES
        else told_mean(line.rename({"value": "mean"}))
        for _, line in table.iterrows()
    ]
    wide = table.assign(cell=cells).pivot(index=list(by), columns="quantity", values="cell")
    order = table.drop_duplicates(list(by)).set_index(list(by)).index
    return wide.loc[order, list(dict.fromkeys(table["quantity"]))].rename_axis(columns=None)
