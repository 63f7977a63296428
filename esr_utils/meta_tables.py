"""Tables of notebook 05: rates by kind of meta-prompt, paired contrasts, ours beside the paper's."""

from collections.abc import Sequence

import pandas as pd

from esr_utils import metrics, published
from esr_utils.meta_prompting import KINDS, NEUTRAL, NONE
from esr_utils.summaries import scores_and_rates

PAIRED = ("multi_attempt", "esr", "minimum_gain_esr")


def by_kind(trials: pd.DataFrame) -> pd.DataFrame:
    """First-attempt score and rates of each kind, with and without steering: subject, level, kind, quantity, ..."""
    table = scores_and_rates(trials, ["subject", "level", "condition"]).rename(columns={"condition": "kind"})
    return table.sort_values("kind", key=lambda kinds: kinds.map(KINDS.index), kind="stable", ignore_index=True)


def contrasts(trials: pd.DataFrame, *, against: Sequence[str] = (NEUTRAL, NONE)) -> pd.DataFrame:
    """Each kind less the neutral suffix and less none, trial by trial: which, and the columns of ``metrics.paired``."""
    lines = []
    for (subject, level), mine in trials.groupby(["subject", "level"]):
        for other in against:
            for kind in (kind for kind in KINDS if kind not in (NONE, other)):
                for quantity in PAIRED:
                    between = ({"condition": other}, {"condition": kind})
                    line = metrics.paired(mine, between, quantity=quantity)
                    lines.append(line.assign(subject=subject, level=level, kind=kind, less=other))
    return pd.concat(lines, ignore_index=True)


def beside_paper(trials: pd.DataFrame, *, level: float) -> pd.DataFrame:
    """Restarts and whole-response recovery by kind: the paper's five models, then ours when steered.

    Columns: who, origin (``paper`` or ``ours``), kind, quantity (``restart`` or ``recovery``), value (0 to 1). The
    paper's are its later, whole-response judge's, which tells explicit restarts from gradual returns.
    """
    ours = metrics.rates(trials[trials["level"] == level], ["subject", "condition"])
    names = {"multi_attempt": "restart", "recovery": "recovery"}
    ours = ours[ours["quantity"].isin(names) & ours["condition"].isin(published.META_PROMPTS)]
    ours = pd.DataFrame(
        {
            "who": ours["subject"],
            "origin": "ours",
            "kind": ours["condition"],
            "quantity": ours["quantity"].map(names),
            "value": ours["rate"],
        }
    )
    return pd.concat([published.meta_prompt_rates().assign(origin="paper"), ours], ignore_index=True)[list(ours)]
