"""Tables of notebook 03: what was chosen and how surely, what the paper's rules choose, and what the latents do."""

from itertools import combinations

import numpy as np
import pandas as pd

from esr_utils import latents, published, readable
from esr_utils.detectors import PAPER_RULES, Rule
from esr_utils.discovery import Discovery
from esr_utils.episodes import STRETCHES, mean_with_interval, paired_tests
from esr_utils.study import READER

OURS = "stable superiority (ours)"
RULE_NAMES = {
    "zero": "silent when matched, 80% active (paper)",
    "separable": "AUC of 1 on peaks (authors' list)",
    "sum": "50 largest rises of peaks (authors' later list)",
}


def stability(discovery: Discovery) -> pd.DataFrame:
    """How many latents are chosen at each frequency: frequency, n_chosen (at least so often), is_rule."""
    frequency = discovery.statistics()["frequency"]
    steps = np.round(np.arange(0.05, 1.001, 0.05), 2)
    n_chosen = [int((frequency >= step - 1e-9).sum()) for step in steps]
    return pd.DataFrame({"frequency": steps, "n_chosen": n_chosen, "is_rule": steps == Rule().min_frequency})


def false_discovery(discovery: Discovery) -> pd.DataFrame:
    """One line: latents read, chosen, chosen by chance (mean and largest of the shuffles), share that is false."""
    n_chosen, by_chance = len(discovery.detectors()), discovery.false_discoveries()["n_chosen"]
    line = {
        "n_latents": len(discovery.statistics()),
        "n_chosen": n_chosen,
        "n_shuffles": len(by_chance),
        "mean_by_chance": by_chance.mean(),
        "most_by_chance": by_chance.max(),
        "false_discovery_rate": by_chance.mean() / n_chosen,
    }
    return pd.DataFrame([line])


def rules(discovery: Discovery) -> pd.DataFrame:
    """Each of the paper's rules over all derangements, and ours.

    Columns: rule, least, mean and most latents kept of one derangement, in_all (kept every time), overlap (mean Jaccard
    index of two derangements, NaN if none is kept), n_ours (kept at least once and chosen by our rule as well).
    """
    kept, n, ours = discovery.paper_rules(), discovery.scale.n_derangements, set(discovery.detectors())
    lines = []
    for rule in PAPER_RULES:
        mine = kept[kept["rule"] == rule]
        sets = [set(mine.loc[mine["derangement"] == i, "latent"]) for i in range(n)]
        sizes, shared = [len(of) for of in sets], [len(a & b) / len(a | b) for a, b in combinations(sets, 2) if a | b]
        line = {"rule": RULE_NAMES[rule], "least": min(sizes), "mean": np.mean(sizes), "most": max(sizes)}
        overlap = np.mean(shared) if shared else np.nan
        lines.append(
            line | {"in_all": len(set.intersection(*sets)), "overlap": overlap, "n_ours": len(set.union(*sets) & ours)}
        )
    whole = dict.fromkeys(("least", "mean", "most", "in_all", "n_ours"), len(ours))
    return pd.DataFrame([*lines, {"rule": OURS, **whole, "overlap": np.nan}])


def chosen_latents(discovery: Discovery) -> pd.DataFrame:
    """Both groups, latent by latent: group, label, how it was chosen, and the paired test of off- less on-topic.

    The test is that of ``episodes.paired_tests``, with Holm's correction over both groups.
    """
    group = {latent: name for name, chosen in discovery.groups().items() for latent in chosen}
    table = paired_tests(discovery.stretch_means()).set_index("latent")
    known = discovery.statistics()[["frequency", "superiority", "auc", "active"]]
    known = known.join(discovery.restart_statistics()["restart_auc"])
    table = known.loc[list(group)].join(table, how="left").join(latents.load_labels(READER)["label"])
    return table.assign(group=pd.Series(group)).reset_index()


def levels(discovery: Discovery) -> pd.DataFrame:
    """Mean activation of each group by stretch of the episodes and in responses without a restart.

    Columns: group, where (a stretch, ``uncorrected`` or ``unsteered``), mean, ci_low, ci_high (95%, t, over episodes or
    responses), n. Responses count, not latents: a group's latents are averaged first.
    """
    whole = discovery.response_means().rename(columns={"kind": "where", "mean": "value"})
    stretches = group_means(discovery).melt(
        id_vars=["trial_id", "group"], value_vars=STRETCHES, var_name="where", value_name="value"
    )
    both = pd.concat([stretches, whole], ignore_index=True).dropna(subset=["value"])
    lines = [
        {"group": group, "where": where, **mean_with_interval(mine["value"].to_numpy())}
        for (group, where), mine in both.groupby(["group", "where"], sort=False)
    ]
    return pd.DataFrame(lines)


def group_means(discovery: Discovery) -> pd.DataFrame:
    """Mean over each group's latents in each stretch of each episode: trial_id, group, and the three stretches."""
    of = {latent: name for name, chosen in discovery.groups().items() for latent in chosen}
    means = discovery.stretch_means()
    return (
        means.assign(group=means["latent"].map(of))
        .groupby(["trial_id", "group"], as_index=False)[list(STRETCHES)]
        .mean()
    )


def group_tests(discovery: Discovery) -> pd.DataFrame:
    """The declared test: a group's mean off topic less on topic, over episodes. One line a group."""
    tests = paired_tests(group_means(discovery).rename(columns={"group": "latent"}))
    return tests.rename(columns={"latent": "group"})


def times_baseline(levels: pd.DataFrame, where: str) -> str:
    """The detectors' mean activation in a stretch over that in unsteered answers, in words.

    The interval is the stretch's own, and takes the unsteered mean as known.

    Args:
        levels: as ``levels`` makes it.
        where: a stretch.
    """
    means = levels[levels["group"] == "detectors"].set_index("where")
    ratio = means.loc[where, ["mean", "ci_low", "ci_high"]].astype(float) / means.loc["unsteered", "mean"]
    return f"{ratio['mean']:.2f} [{ratio['ci_low']:.2f}, {ratio['ci_high']:.2f}], n = {means.loc[where, 'n']:.0f}"


def published_detectors() -> pd.DataFrame:
    """The paper's 26 for reading, by falling d: p in words, a bound where a bound was published."""
    table = published.detectors().query("in_paper_26 == 1").sort_values("cohens_d", ascending=False)
    bound = "< " + table["p"].map("{:g}".format)
    columns = ["latent", "label", "cohens_d", "off_topic_mean", "on_topic_mean", "p", "in_separability_25"]
    told = table.assign(p=table["p"].map(readable.p_value).where(table["p_is_bound"] == 0, bound))
    return told[[*columns, "is_backtracking"]]


def published_signs() -> pd.DataFrame:
    """The 26 published detectors by the sign of their effect.

    Columns: sign, n, is_significant (p below 0.05, one-sided, as published), in_separability_25 (found by shuffling
    too), is_backtracking (also counted as a backtracking latent).
    """
    table = published.detectors().query("in_paper_26 == 1")
    sign = np.where(table["cohens_d"] > 0, "more active off topic", "more active on topic")
    counted = table.assign(sign=sign, n=1, is_significant=(table["p"] < 0.05).astype(int))
    columns = ["n", "is_significant", "in_separability_25", "is_backtracking"]
    return counted.groupby("sign")[columns].sum().reset_index()
