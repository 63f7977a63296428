"""What README and log tell of detectors and their ablation is what was measured."""

import re

import pandas as pd

from esr_utils.ablation import SETS
from esr_utils.config import DATA, ROOT, results_dir

CORRECTOR = "smollm2-135m-corrector"
README = " ".join((ROOT / "README.md").read_text().split())
LOG = (DATA / "LOG.md").read_text().split("## Notebook 04 at `standard`: ablation\n")[1].split("\n## ")[0]
ARMS = {
    "nothing": "none",
    "78 detectors": "detectors",
    "78 detectors by half": "detectors by half",
    "26 most stable detectors": "26 most stable detectors",
    "78 detectors, read before steering": "detectors before steering",
    "18 backtracking latents": "backtracking",
}
DRAWN = {"a matched set, mean and range of 20": SETS, "random directions of 78, 4 draws": "random directions"}


def of(line: pd.Series) -> str:
    return f"{line['n_events']:.0f} of {line['n']:.0f}"


def table(run: str, name: str) -> pd.DataFrame:
    return pd.read_csv(results_dir(CORRECTOR, run, "standard") / f"{name}.csv")


def test_every_single_arm_is_told_as_measured():
    arms = table("ablation", "by_arm").set_index(["condition", "quantity"])
    costs = table("ablation", "side_effects").set_index("condition")["perplexity_ratio"]
    told = re.findall(r"^\| ([^|]+) \| ([\d.]+) \| (\d+) of (\d+) \| (\d+) \| ([\d.]+) \|$", LOG, re.MULTILINE)
    assert [name for name, *_ in told] == list(ARMS)
    for name, score, n_multi, n, n_esr, cost in told:
        arm = ARMS[name]
        multi = arms.loc[(arm, "multi_attempt")]
        assert (int(n_multi), int(n)) == (multi["n_events"], multi["n"])
        assert int(n_esr) == arms.loc[(arm, "esr"), "n_events"]
        assert score == f"{arms.loc[(arm, 'first_score'), 'value']:.1f}"
        assert cost == f"{costs[arm]:.3g}"


def test_arms_that_are_drawn_several_times_are_told_as_measured():
    arms, costs = table("ablation", "by_arm"), table("ablation", "side_effects")
    for words, name in DRAWN.items():
        (line,) = re.findall(rf"^\| {words}, of (\d+) trials \| (.*) \|$", LOG, re.MULTILINE)
        mine = arms[arms["name"] == name]
        assert set(mine["n"]) - {0} >= {int(line[0])}
        cells = []
        for quantity, factor, unit in (("first_score", 1, ""), ("multi_attempt", 100, "%"), ("esr", 100, "%")):
            values = factor * mine.loc[mine["quantity"] == quantity, "value"]
            cells.append(f"{values.mean():.1f} [{values.min():.1f} to {values.max():.1f}]{unit}")
        ratio = costs.loc[costs["name"] == name, "perplexity_ratio"]
        assert line[1] == " | ".join([*cells, f"{ratio.min():.3g} to {ratio.max():.3g}"])


def test_the_place_among_the_sets_is_told_as_measured():
    place = (
        table("ablation", "place_among_sets").query("condition == 'detectors' and quantity == 'multi_attempt'").iloc[0]
    )
    assert f"two-sided p = {place['p']:.3f}" in README
    assert place["sets_least"] > place["difference"]  # none falls as far
    assert place["sets_most"] > abs(place["difference"])  # one rises further


def test_the_activations_are_told_as_measured():
    means = table("latent_discovery", "levels").query("group == 'detectors'").set_index("where")["mean"]
    assert f"({means['off_topic']:.2f} against {means['on_topic']:.2f})" in README
    assert f"restart itself ({means['correction']:.2f})" in README
    assert f"unsteered answers they are at {means['unsteered']:.2f}" in README
    assert table("latent_discovery", "false_discoveries")["n_chosen"].max() == 0
    frequency = table("latent_discovery", "statistics")["frequency"]
    assert f"Of {len(frequency):,} latents {(frequency >= 0.8).sum()} are more active" in README
    assert set(table("latent_discovery", "rules").query("rule.str.endswith('(paper)')")["most"]) == {0}
    assert "the paper's own rule keeps none" in README


def test_the_milder_ablations_are_told_as_measured():
    arms = table("ablation", "by_arm").set_index(["condition", "quantity"])
    mild = ["detectors by half", "26 most stable detectors"]
    assert {of(arms.loc[(name, "multi_attempt")]) for name in mild} == {"1 of 240"}
    assert "1 of 240 trials restarts each" in README
    costs = table("ablation", "side_effects").set_index("name")["perplexity_ratio"]
    by_half, stable = (f"{costs[name]:.3g}" for name in mild)
    assert f"perplexity rises {by_half} and {stable} times" in README
    directions = costs["random directions"]
    assert f"same norms ({directions.min():.3g} to {directions.max():.3g} times)" in README
    score = arms.xs("first_score", level="quantity")["value"]
    assert all(0.45 < score[name] / score["none"] < 0.55 for name in mild)  # half of it
    drawn = table("ablation", "by_arm").query("name == 'random directions' and quantity == 'multi_attempt'")["value"]
    assert ((drawn > arms.loc[("none", "multi_attempt"), "value"] / 2).sum(), len(drawn)) == (3, 4)
    assert "leave most restarts in three draws of four" in README
