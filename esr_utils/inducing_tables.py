"""Tables of notebook 06, from the judged frame of a sweep: by share, controls, contrasts, ours beside the paper's."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from esr_utils import paired, published
from esr_utils.inducing import BASE
from esr_utils.summaries import scores_and_rates

CONDITIONS = ("baseline", "fixed", "recalibrated")
COLUMNS = ["quantity", "value", "ci_low", "ci_high", "n_events", "n"]


def by_share(trials: pd.DataFrame) -> pd.DataFrame:
    """First-attempt score and rates at every share of corrections, seeds together and one by one.

    Columns: share, condition, training_seed (NaN: all seeds together), quantity, value, ci_low, ci_high, n_events, n.
    Intervals of all seeds together allow for shared latents and questions, not for other seeds than these.
    """
    swept = trials[trials["source"] == "steered"]
    together = scores_and_rates(swept, ["share", "condition"]).assign(training_seed=np.nan)
    single = scores_and_rates(swept, ["share", "condition", "training_seed"])
    return pd.concat([together, single], ignore_index=True)[["share", "condition", "training_seed", *COLUMNS]]


def controls(trials: pd.DataFrame, share: float) -> pd.DataFrame:
    """The same for the arms at one share, the one without corrections and the base, seeds together."""
    return scores_and_rates(named_arms(trials, share), ["arm", "condition"])[["arm", "condition", *COLUMNS]]


def named_arms(trials: pd.DataFrame, share: float) -> pd.DataFrame:
    """Trials of the controls with their ``arm`` in words, in the order in which they are to be shown."""
    is_normal = (trials["source"] == "steered") & (trials["share"] == 0)
    names = {
        "base, not fine-tuned": trials["source"] == BASE,
        "no corrections": is_normal,
        "shuffled answers": trials["source"] == "shuffled",
        "pasted drifts": trials["source"] == "pasted",
        "real drifts": (trials["source"] == "steered") & (trials["share"] == share),
    }
    arm = pd.Categorical(np.select(list(names.values()), list(names), default=""), categories=list(names))
    return trials.assign(arm=arm).dropna(subset=["arm"])


def contrasts(trials: pd.DataFrame, share: float, others: Sequence[str]) -> pd.DataFrame:
    """Corrections of real drifts less each other arm, trial by trial: same latent, question, seed and training seed.

    One line a condition, other arm and quantity, with the columns of ``paired.rates``. Intervals and p allow for
    these trainings only: another seed of the same mix gives another model.

    Raises:
        ValueError: an arm has no trial in some condition.
    """
    # arms pair off by what they share: their names differ, their training seeds do not
    arms = named_arms(trials, share).assign(subject=lambda t: "seed " + t["training_seed"].astype(str))
    lines = []
    for condition in CONDITIONS:
        for other in others:
            between = ({"arm": other, "condition": condition}, {"arm": "real drifts", "condition": condition})
            for quantity in ("multi_attempt", "esr", "minimum_gain_esr"):
                line = paired.rates(arms, between, quantity=quantity)
                lines.append(line.assign(condition=condition, less=other))
    return pd.concat(lines, ignore_index=True)


def beside_paper(trials: pd.DataFrame) -> pd.DataFrame:
    """Whole-response recovery by share: published for fine-tuned 8B models, ours at an arm's own strengths.

    Columns: who, origin, share, value, ci_low, ci_high, n. The published intervals are Wilson's, trials taken for
    independent and events worked out from rounded rates. Of the paper's ESR rates by share only a curve was published.
    """
    paper = published.recovery_by_share()
    paper = paper.assign(who="Llama-3.1-8B, published", origin="paper")
    paper = paper.join(published.wilson(paper["value"], paper["n"]))
    ours = by_share(trials).query("condition == 'recalibrated' and quantity == 'recovery' and training_seed.isna()")
    ours = ours.assign(who="ours, embedded model", origin="ours")
    columns = ["who", "origin", "share", "value", "ci_low", "ci_high", "n"]
    return pd.concat([paper[columns], ours[columns]], ignore_index=True)
