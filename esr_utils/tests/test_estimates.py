"""What a study is said to cost is what the committed runs hold, and what the README tells."""

import json
import re
import subprocess
import sys
from collections import Counter

import pandas as pd
import pytest

from esr_utils.bench import speeds
from esr_utils.config import DATA, ROOT, results_dir
from esr_utils.contenders import STEERED
from esr_utils.estimates import STUDIES, estimate

BASE, CORRECTOR = "smollm2-135m", "smollm2-135m-corrector"
BENCH = DATA / "results" / "bench" / "amd-epyc-2-cores.csv"
README = (ROOT / "README.md").read_text()


def records(pair: str, run: str, name: str) -> list[dict]:
    return [json.loads(line) for line in (results_dir(pair, run, "standard") / name).open()]


def n_lines(pair: str, run: str, name: str) -> int:
    return len(records(pair, run, name))


@pytest.mark.parametrize("pair", [BASE, CORRECTOR])
def test_detection_took_as_many_responses_as_estimated(pair):
    parts = estimate("detection", "standard")
    stages = Counter(probe["stage"] == -1 for probe in records(pair, "esr_detection", "probes.jsonl"))
    assert stages[False] == parts.loc["calibration", "responses"]
    assert stages[True] == parts.loc["verification", "responses"]
    assert n_lines(pair, "esr_detection", "trials.jsonl") == parts.loc["trials", "responses"]
    assert n_lines(pair, "esr_detection", "judgements.offline.jsonl") == parts.loc["trials", "judge_calls"]


def test_the_check_of_methods_took_as_much_as_estimated():
    parts = estimate("detection", "standard")
    repeated = n_lines(BASE, "esr_detection", "probes_1_sample.jsonl")
    assert repeated == parts.loc["calibration, one sample a step", "responses"]
    second = n_lines(BASE, "esr_detection", "judgements.offline-likelihood.jsonl")
    assert second == parts.loc["second judge", "judge_calls"]
    assert parts.loc["second judge", "responses"] == 0


def test_the_placebo_took_as_much_as_estimated_or_less_where_single_attempts_ran_out():
    at_most = estimate("detection", "standard").loc["placebo, both parts", "judge_calls"]
    n = {
        pair: len(pd.read_csv(results_dir(pair, "esr_detection", "standard") / "placebo_parts.csv"))
        for pair in (BASE, CORRECTOR)
    }
    assert n[BASE] == at_most
    assert n[CORRECTOR] < at_most


@pytest.mark.parametrize(
    ("pair", "study"),
    [(BASE, "meta_prompting"), (CORRECTOR, "meta_prompting"), (CORRECTOR, "ablation"), (BASE, "fine_tuning")],
)
def test_other_studies_took_as_many_trials_as_estimated(pair, study):
    assert n_lines(pair, study, "trials.jsonl") == estimate(study, "standard").loc["all", "responses"]


def test_parts_of_ablation_and_fine_tuning_are_those_of_the_runs():
    arms = Counter(re.sub(r" \d+$", "", t["condition"]) for t in records(CORRECTOR, "ablation", "trials.jsonl"))
    parts = estimate("ablation", "standard")["responses"]
    assert arms["matched set"] == parts["matched sets"]
    assert arms["random directions"] == parts["random directions"]
    assert arms["detectors by half"] * 6 == parts["single arms"]
    tuned = records(BASE, "fine_tuning", "trials.jsonl")
    parts = estimate("fine_tuning", "standard")["responses"]
    assert sum(t["subject"] == "base" for t in tuned) == parts["base"]
    assert sum(t["condition"] == "probe" for t in tuned) == parts["probes for their own strengths"]
    assert sum(t["condition"] == "recalibrated" for t in tuned) == parts["arms at their own strengths"]


def test_detection_at_paper_scale_counted_by_hand():
    parts = estimate("detection", "paper")
    assert parts["responses"].to_list() == [50_000, 20_000, 30_000, 10_000, 0, 0, 110_000]
    assert parts["judge_calls"].to_list() == [50_000, 20_000, 30_000, 10_000, 300, 600, 110_900]
    assert parts.loc["all", "tokens_at_most"] == 110_000 * 512
    assert estimate("meta_prompting", "paper").loc["all", "responses"] == 1000 * 5 * 2 * 6
    assert estimate("ablation", "paper").loc["all", "responses"] == 1000 * 5 * (6 + 20 + 4) + 1000 * 5 * 3
    assert estimate("fine_tuning", "paper").loc["all", "responses"] == 285 * (5 * 2 + 36 * (5 * 3 + 4))


@pytest.mark.parametrize("study", STUDIES)
def test_no_rate_is_invented(study):
    untold = estimate(study, "quick")
    assert untold[["hours", "usd"]].isna().all(axis=None)
    told = estimate(study, "quick", tokens_per_s=10.0, usd_per_call=0.0)
    assert (told["hours"] * 36_000 - untold["tokens_at_most"]).abs().max() < 1e-6
    assert (told["usd"] == 0).all()
    assert estimate(study, "quick", usd_per_call=0.5)["usd"].equals(untold["judge_calls"] / 2)


def measured_rate() -> float:
    """Tokens/s of full steered batches in the committed bench."""
    return pd.read_csv(BENCH).set_index(["contender", "batch"]).loc[(STEERED, 64), "tokens_per_s"]


def test_the_committed_speeds_follow_from_the_committed_timings():
    timings = json.loads(BENCH.with_suffix(".json").read_text())["timings"]
    table = speeds(pd.DataFrame(timings)).set_index(["contender", "batch"])
    assert measured_rate() == pytest.approx(table.loc[(STEERED, 64), "tokens_per_s"], rel=1e-5)


def test_what_cannot_be_estimated_is_refused():
    with pytest.raises(ValueError, match="no estimate for study 'discovery'; choose one of detection, meta_prompting"):
        estimate("discovery", "paper")
    with pytest.raises(ValueError, match="unknown scale 'huge'"):
        estimate("detection", "huge")
    with pytest.raises(ValueError, match="tokens_per_s is 0"):
        estimate("detection", "paper", tokens_per_s=0.0)


def test_an_estimate_needs_no_torch():
    code = "import sys, esr_utils.estimates; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


# --- the README


def section() -> str:
    return README.split("## What the paper's scale costs\n")[1].split("\n## ")[0]


def test_the_readme_s_costs_are_the_estimates():
    rate = measured_rate()
    assert f"hours of generation at {rate:.0f} tokens/s" in section()
    told = dict(re.findall(r"^\| `(\w+)`.*? \| (.*) \|$", section(), re.MULTILINE))
    assert list(told) == list(STUDIES)
    for study, cells in told.items():
        line = estimate(study, "paper", tokens_per_s=rate).loc["all"]
        counts = [f"{int(line[name]):,}" for name in ("responses", "tokens_at_most", "judge_calls")]
        assert cells.split(" | ") == [*counts, f"{line['hours']:.1f}"]


def test_the_readme_s_shares_of_detection_are_the_estimates():
    n = estimate("detection", "paper")["responses"]
    search, verify, repeat = (n[part] for part in ("calibration", "verification", "calibration, one sample a step"))
    told = " ".join(section().split())
    assert f"{search + verify + repeat:,} of the {n['all']:,} responses calibrate" in told
    assert f"{search:,} search, {verify:,} verify, and {repeat:,} repeat" in told


def test_the_readme_sets_the_count_beside_the_time_that_was_taken():
    hours = estimate("detection", "standard", tokens_per_s=measured_rate())["hours"]
    of_both = 2 * hours["all"] - hours["calibration, one sample a step"]  # which the corrector's run leaves out
    taken = re.search(r"^\| `02_esr_detection` .*? / (\d+) \| no", README, re.MULTILINE)[1]
    told = " ".join(section().split())
    assert (
        f"for {60 * of_both:.0f} minutes at `standard`, both models, and the table of notebooks gives it {taken}"
        in told
    )


def test_the_readme_s_example_runs():
    (code,) = re.findall(r"^```python\n(.*?)^```", section(), re.MULTILINE | re.DOTALL)
    *lines, last = code.strip().splitlines()
    names: dict = {}
    exec("\n".join(lines), names)
    assert eval(last, names)[["hours", "usd"]].notna().all(axis=None)
