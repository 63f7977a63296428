"""What the notebooks' texts say of the committed runs is what these hold. A text that changes needs a new look here."""

import json
from dataclasses import replace

import pandas as pd
import pytest

from esr_utils import metrics, published
from esr_utils.config import ROOT, results_dir
from esr_utils.explorer import kept
from esr_utils.scales import EXPLORER
from esr_utils.tests.test_notebooks import read

BASE, CORRECTOR = "smollm2-135m", "smollm2-135m-corrector"
CONTINUED = "steered less unsteered continuation of a steered beginning"
BEGUN = "steered less unsteered beginning, continued unsteered"


def table(subject: str, run: str, name: str) -> pd.DataFrame:
    return pd.read_csv(results_dir(subject, run, "standard") / f"{name}.csv")


def texts(name: str) -> str:
    script, _ = read(name)
    return " ".join(" ".join(c.source for c in script.cells if c.cell_type == "markdown").split())


def holds_zero(line: pd.Series) -> bool:
    return bool(line["ci_low"] <= 0 <= line["ci_high"])


def test_no_response_comes_out_alike_on_another_processor():
    assert "in the committed run none comes out alike" in texts("03_latent_discovery")
    assert not table(CORRECTOR, "latent_discovery", "reading_check")["is_same_text"].any()


def test_contrasts_of_the_prefill():
    assert (
        "In the committed run the first is above zero for the uncorrected beginnings and touches zero for the others, "
        "and neither second one is below zero"
    ) in texts("04_ablation")
    lines = table(CORRECTOR, "following", "cell_contrasts").set_index(["quantity", "contrast", "source"]).sort_index()
    begun = lines.loc["multi_attempt", BEGUN]
    assert begun.loc["uncorrected", "ci_low"] > 0
    assert begun.loc["restarted", "ci_low"] == pytest.approx(0, abs=1e-4)
    assert (lines.loc["multi_attempt", CONTINUED]["ci_high"] > 0).all()
    assert lines.loc[("minimum_gain_esr", CONTINUED, "restarted"), "ci_high"] < 0
    assert "rarer under steering is a restart that ends 20 points better, of responses that had" in texts("04_ablation")


def test_own_corrections_are_not_seen_to_protect():
    assert "both contrasts of `own` hold zero" in texts("04_ablation")
    own = table(CORRECTOR, "following", "sustained_contrasts").query("arm == 'own'")
    assert [holds_zero(line) for _, line in own.iterrows()] == [True, True]


def test_real_drifts_less_pasted_ones():
    assert "in the committed run that interval holds zero" in texts("06_fine_tuning")
    lines = table(BASE, "fine_tuning", "contrasts").set_index(["condition", "less", "quantity"])
    assert holds_zero(lines.loc[("recalibrated", "pasted drifts", "minimum_gain_esr")])


def test_self_monitoring_in_the_corrector():
    assert "rarer than without a suffix" in texts("07_paper_figures")
    lines = table(BASE, "meta_prompting", "contrasts").query("level == 1 and quantity == 'multi_attempt'")
    lines = lines[lines["kind"] == "self_monitor"].set_index(["subject", "less"])
    assert lines.loc[(CORRECTOR, "none"), "ci_high"] < 0
    assert holds_zero(lines.loc[(CORRECTOR, "neutral")])
    assert all(holds_zero(lines.loc[(BASE, other)]) for other in ("none", "neutral"))


def test_versions_of_the_published_reduction():
    assert "larger before version 1 than in it, and on held-out prompts of the rebuttal it lies between" in texts(
        "07_paper_figures"
    )
    told = pd.read_csv(ROOT / "figures" / "paper_versions.csv").query("origin == 'paper'").set_index("who")["value"]
    before, first, later = (told[told.index.str.startswith(name)] for name in ("before", "version 1", "rebuttal"))
    assert first.max() < later.min() < later.max() < before.min()


def test_whole_responses_recover_most_in_the_gemmas():
    assert "most in the three Gemmas, which hardly restart" in texts("07_paper_figures")
    rates = published.main_rates().query("quantity == 'recovery'").set_index("model")["rate"]
    is_gemma = rates.index.str.startswith("Gemma")
    assert (is_gemma.sum(), rates[is_gemma].min() > rates[~is_gemma].max()) == (3, True)


def test_the_minimum_gain_is_as_told():
    for name in ("02_esr_detection", "05_meta_prompting"):
        gain, last = metrics.MINIMUM_GAIN, metrics.MINIMUM_LAST_SCORE
        assert f"a gain of {gain:.0f} points that ends at {last:.0f} or more" in texts(name)
    assert f"the whole response gets {metrics.RECOVERED:.0f} of 10 or more" in texts("02_esr_detection")


def test_the_explorers_answers_are_those_of_the_first_prepared_state():
    """But for the colours of the page, which change no answer: notebook 00 opens the run without them."""
    state = kept.load_gallery([BASE, CORRECTOR])[0].state
    state = replace(state, max_new_tokens=EXPLORER["standard"].max_new_tokens, colour="")
    run = json.loads((results_dir(CORRECTOR, "explorer", "standard") / "run.json").read_text())
    assert run["settings"]["state"] == state.to_string()
