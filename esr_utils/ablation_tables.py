"""Tables of notebook 04: arms, paired contrasts, their place among matched sets, and what the run could have seen."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from esr_utils import metrics, paired, power, published
from esr_utils.ablation import DETECTORS, DIRECTIONS, NONE, SETS, Ablation
from esr_utils.summaries import scores_and_rates

QUANTITIES = ("multi_attempt", "esr", "minimum_gain_esr")
BEGINS_OFF_TOPIC = 50.0  # first-attempt score below which a response counts as begun off topic


def by_arm(trials: pd.DataFrame) -> pd.DataFrame:
    """First-attempt score and every rate of each arm, in the plan's order: name, condition, quantity, value, ..."""
    order = trials["condition"].drop_duplicates().tolist()
    table = scores_and_rates(trials, ["name", "condition"])
    return table.sort_values("condition", key=lambda names: names.map(order.index), kind="stable", ignore_index=True)


def contrasts(trials: pd.DataFrame) -> pd.DataFrame:
    """Each arm less none, trial by trial.

    Columns: name, condition, and those of ``paired.rates``; for ``first_score`` those of ``paired.means``.
    """
    lines = []
    for (name, condition), _ in trials.groupby(["name", "condition"], sort=False):
        if condition == NONE:
            continue
        between = ({"condition": NONE}, {"condition": condition})
        mine = [paired.rates(trials, between, quantity=quantity) for quantity in QUANTITIES]
        mine.append(paired.means(trials, between, column="first_score"))
        lines.append(pd.concat(mine).assign(name=name, condition=condition))
    return pd.concat(lines, ignore_index=True)


def shared(trials: pd.DataFrame) -> pd.DataFrame:
    """Trials of the latents, questions and repeats that were replayed in every arm, matched sets included."""
    n_arms = trials.groupby(list(metrics.PAIR_KEY))["condition"].transform("nunique")
    return trials[n_arms == trials["condition"].nunique()]


def place_among_sets(trials: pd.DataFrame) -> pd.DataFrame:
    """Where each arm's difference from none lies among those of the matched sets, on the trials that all arms share.

    Columns: condition, quantity, difference, sets_mean, sets_least, sets_most, n_sets, p: share of sets whose
    difference is at least as far from 0, the arm itself counted in (so p is at least 1 / (1 + n_sets)).
    """
    table = contrasts(shared(trials))
    sets = table[table["name"] == SETS]
    lines = []
    for line in table[~table["name"].isin([SETS, DIRECTIONS])].itertuples():
        drawn = sets.loc[sets["quantity"] == line.quantity, "difference"].to_numpy()
        p = (1 + np.sum(np.abs(drawn) >= abs(line.difference) - 1e-12)) / (1 + len(drawn))
        spread = {"sets_mean": drawn.mean(), "sets_least": drawn.min(), "sets_most": drawn.max(), "n_sets": len(drawn)}
        known = {"condition": line.condition, "quantity": line.quantity, "n_pairs": line.n_pairs}
        lines.append({**known, "difference": line.difference, **spread, "p": p})
    return pd.DataFrame(lines)


def less_sets(trials: pd.DataFrame) -> pd.DataFrame:
    """Detectors less the mean of the matched sets, trial by trial: one line a quantity, with a clustered interval.

    What the detectors do beyond what ablating so much of anything does. The sets are taken as given.
    """
    key, trials = list(metrics.PAIR_KEY), shared(trials)
    outcomes = metrics.outcomes(trials).assign(first_score=trials["first_score"])
    lines = []
    for quantity in (*QUANTITIES, "first_score"):
        known = trials[[*key, "name"]].assign(value=outcomes[quantity]).dropna(subset=["value"])
        pairs = known.groupby([*key, "name"])["value"].mean().unstack("name")[[DETECTORS, SETS]].dropna().reset_index()
        values = (pairs[DETECTORS] - pairs[SETS]).to_numpy(dtype=float)
        interval = metrics.mean_interval(pairs, values, np.random.default_rng(0))
        means = {DETECTORS: pairs[DETECTORS].mean(), SETS: pairs[SETS].mean(), "difference": values.mean()}
        lines.append({"quantity": quantity, "n_pairs": len(pairs), **means, **interval})
    return pd.DataFrame(lines)


def begun_off_topic(trials: pd.DataFrame, conditions: Sequence[str]) -> pd.DataFrame:
    """Arms less none among the trials that begin off topic in both: is there less to withdraw, or less withdrawing?

    A comparison given what the ablation may itself have changed, so it describes and does not prove.
    """
    low = trials[trials["first_score"] < BEGINS_OFF_TOPIC]
    lines = [
        paired.rates(low, ({"condition": NONE}, {"condition": condition}), quantity="multi_attempt").assign(
            condition=condition
        )
        for condition in conditions
    ]
    return pd.concat(lines, ignore_index=True)


def what_could_be_seen(trials: pd.DataFrame, contrast: pd.Series) -> pd.DataFrame:
    """The power that a paired contrast had, from what was measured: one line.

    Columns: n_pairs, base_rate, design_effect (1 if it was below), pair_correlation (of the two outcomes of a pair),
    detectable_fall (with 80% power), n_for_a_quarter (trials an arm that would show a fall by a quarter of the rate,
    the size that the paper reports).
    """
    arms = [trials[trials["condition"] == condition] for condition in (NONE, contrast["condition"])]
    values = [metrics.outcomes(arm)[contrast["quantity"]].to_numpy(dtype=float) for arm in arms]
    correlation = float(np.nan_to_num(pd.DataFrame(values).T.dropna().corr().iloc[0, 1]))
    comparison = power.Comparison(
        n_trials=int(contrast["n_pairs"]),
        base_rate=float(np.clip(contrast["rate_first"], 1e-3, 0.999)),
        design_effect=max(1.0, float(np.nan_to_num(contrast["design_effect"], nan=1.0))),
        pair_correlation=min(max(correlation, 0.0), 0.99),
    )
    return pd.DataFrame(
        [
            {
                "n_pairs": comparison.n_trials,
                "base_rate": comparison.base_rate,
                "design_effect": comparison.design_effect,
                "pair_correlation": comparison.pair_correlation,
                "detectable_fall": power.minimal_detectable(comparison, "fall"),
                "n_for_a_quarter": power.trials_needed(comparison, 0.75 * comparison.base_rate),
            }
        ]
    )


def side_effects(ablation: Ablation) -> pd.DataFrame:
    """What arms do besides: perplexity of unsteered answers over that without ablation, size of edit, steering lost.

    Columns: name, condition, perplexity_ratio, removed_norm, steering_removed (both NaN before steering).
    """
    damage = ablation.damage().merge(ablation.removed(), on="condition", how="left")
    base = damage.loc[damage["condition"] == NONE, "log_likelihood"].iloc[0]
    names = {arm.condition: arm.name for arm in ablation.arms}
    ratio = np.exp(base - damage["log_likelihood"])
    return damage.assign(name=damage["condition"].map(names), perplexity_ratio=ratio)[
        ["name", "condition", "perplexity_ratio", "removed_norm", "steering_removed"]
    ]


def beside_paper(contrasts: pd.DataFrame, place: pd.DataFrame) -> pd.DataFrame:
    """Rates without and with ablation: the paper's Llama-3.3-70B and ours, evaluation and random controls.

    Columns: quantity, arm, paper (without, with), ours (without, with), difference (ours, points), interval, p.
    """
    numbers = {
        ("multi_attempt", DETECTORS): ("p0039", "p0091"),
        ("esr", DETECTORS): ("p0038", "p0093"),
        ("first_score", DETECTORS): ("p0089", "p0090"),
    }
    table, places = (frame.set_index(["quantity", "condition"]) for frame in (contrasts, place))
    lines = []
    for (quantity, arm), ids in numbers.items():
        line, factor = table.loc[(quantity, arm)], 1 if quantity == "first_score" else 100
        ours = [line["mean_first"], line["mean_second"]] if factor == 1 else [line["rate_first"], line["rate_second"]]
        shown = [factor * value for value in (*ours, line["difference"], line["ci_low"], line["ci_high"])]
        paper = " to ".join(f"{published.published().loc[number, 'value']}" for number in ids)
        lines.append(
            {
                "quantity": quantity,
                "paper, Llama-3.3-70B": paper,
                "ours": f"{shown[0]:.1f} to {shown[1]:.1f}",
                "difference": f"{shown[2]:.1f} [{shown[3]:.1f}, {shown[4]:.1f}]",
                "p among matched sets": round(places.loc[(quantity, arm), "p"], 3),
            }
        )
    return pd.DataFrame(lines)
