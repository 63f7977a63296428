"""Tables of notebook 05: rates by kind of meta-prompt, paired contrasts, ours beside the paper's."""

import numpy as np
import pandas as pd

from esr_utils import metrics, paired, published
from esr_utils.meta_prompting import PRIMARY
from esr_utils.scales.meta_prompting import KINDS, NEUTRAL, NONE
from esr_utils.summaries import scores_and_rates

PAIRED = ("multi_attempt", "esr", "minimum_gain_esr")


def by_kind(trials: pd.DataFrame) -> pd.DataFrame:
    """First-attempt score and rates of each kind, with and without steering: subject, level, kind, quantity, ..."""
    table = scores_and_rates(trials, ["subject", "level", "condition"]).rename(columns={"condition": "kind"})
    return table.sort_values("kind", key=lambda kinds: kinds.map(KINDS.index), kind="stable", ignore_index=True)


def contrasts(trials: pd.DataFrame) -> pd.DataFrame:
    """Each kind less the neutral suffix and less none, trial by trial: which, and the columns of ``paired.rates``."""
    lines = []
    for (subject, level), mine in trials.groupby(["subject", "level"]):
        for other in (NEUTRAL, NONE):
            for kind in (kind for kind in KINDS if kind not in (NONE, other)):
                for quantity in PAIRED:
                    between = ({"condition": other}, {"condition": kind})
                    line = paired.rates(mine, between, quantity=quantity)
                    lines.append(line.assign(subject=subject, level=level, kind=kind, less=other))
    return pd.concat(lines, ignore_index=True)


def beside_paper(trials: pd.DataFrame, *, level: float) -> pd.DataFrame:
    """Restarts and whole-response recovery by kind: the paper's five models, then ours at ``level``.

    Columns: who, origin (``paper`` or ``ours``), kind, quantity (``restart`` or ``recovery``), value (0 to 1), ci_low,
    ci_high, n_events, n. The paper's are its later, whole-response judge's, which tells explicit restarts from gradual
    returns; of their trials under meta-prompts no number was published, so they have no interval. A restart of ours is
    a response with several attempts.
    """
    ours = metrics.rates(trials[trials["level"] == level], ["subject", "condition"])
    names = {"multi_attempt": "restart", "recovery": "recovery"}
    ours = ours[ours["quantity"].isin(names)].replace({"quantity": names})
    ours = ours.rename(columns={"subject": "who", "condition": "kind", "rate": "value"}).assign(origin="ours")
    unknown = dict.fromkeys(("ci_low", "ci_high", "n_events"), np.nan)
    paper = published.meta_prompt_rates().assign(origin="paper", **unknown)
    columns = ["who", "origin", "kind", "quantity", "value", "ci_low", "ci_high", "n_events", "n"]
    return pd.concat([paper[columns], ours[columns]], ignore_index=True)


def with_and_without(trials: pd.DataFrame, *, level: float) -> pd.DataFrame:
    """Rates by attempts without a suffix and when told to monitor itself: the paper's models, then ours at ``level``.

    Columns: who, origin, quantity (``multi_attempt``, ``esr``), none, self_monitor (both 0 to 1), ratio (NaN where the
    rate without a suffix is 0), note (ours: events and trials, without a suffix and with it).
    """
    lines = []
    for subject, mine in trials[trials["level"] == level].groupby("subject"):
        rates = metrics.rates(mine, ["condition"]).set_index(["quantity", "condition"])
        counts = rates["n_events"].astype(str) + "/" + rates["n"].astype(str)
        for quantity in ("multi_attempt", "esr"):
            note = f"{counts[quantity, NONE]}, {counts[quantity, PRIMARY[0]]}"
            known = {kind: rates.loc[(quantity, kind), "rate"] for kind in (NONE, PRIMARY[0])}
            lines.append({"who": subject, "origin": "ours", "quantity": quantity, **known, "note": note})
    both = pd.concat([published.self_monitor_rates().assign(origin="paper"), pd.DataFrame(lines)], ignore_index=True)
    ratio = both[PRIMARY[0]] / both[NONE].where(both[NONE] > 0)
    return both.assign(ratio=ratio)[["who", "origin", "quantity", NONE, PRIMARY[0], "ratio", "note"]]
