"""The shipped corrector is the adapter that was measured, and README and log tell what was measured."""

import json
import re
from dataclasses import asdict

import pandas as pd
import pytest

from esr_utils import metrics
from esr_utils.catalogue import CATALOGUE
from esr_utils.config import DATA, ROOT, results_dir
from esr_utils.embedded_corrector import BASE, CORRECTOR, examples, settings, sweep
from esr_utils.files import digest
from esr_utils.wheels import sha256

FOLDER = results_dir(CORRECTOR, "corrector", "standard")
ADAPTER = CATALOGUE[CORRECTOR].adapter


@pytest.fixture(scope="module")
def trials() -> pd.DataFrame:
    return pd.read_csv(FOLDER / "trials.csv", keep_default_na=False, na_values=[""])


def test_the_adapter_is_the_one_that_was_measured():
    measured = json.loads((FOLDER / "run.json").read_text())["settings"]
    assert measured["adapter_sha256"] == sha256(ADAPTER / "adapter_model.safetensors")
    record = json.loads((ADAPTER / "training.json").read_text())
    assert record["base"] == BASE
    source = sweep()  # its committed run opens with today's settings
    assert record["settings"] == asdict(settings())
    assert record["examples_sha256"] == digest([asdict(example) for example in examples(source)])


def test_trials_of_base_and_corrector_pair_off(trials):
    keys = ["level", "latent", "question", "seed", "strength"]
    mine = {name: set(part[keys].itertuples(index=False, name=None)) for name, part in trials.groupby("subject")}
    assert mine[BASE] == mine[CORRECTOR]
    assert len(mine[BASE]) == 3 * 360


def percent(rate: pd.Series) -> str:
    return "{:.1f}% [{:.1f}, {:.1f}]".format(*(100 * rate[name] for name in ("rate", "ci_low", "ci_high")))


def test_the_log_tells_what_was_measured(trials):
    section = (DATA / "LOG.md").read_text().split("## The shipped corrector\n")[1].split("\n## ")[0]
    line = r"^\| (base|corrector), ([\d.]+) \| ([\d.]+) \| (\d+) of (\d+), (.*?) \| (\d+).*? \| (.*?) \| (\d+) \|$"
    told = re.findall(line, section, re.MULTILINE)
    assert len(told) == 6
    rates = metrics.rates(trials, ["subject", "level"]).set_index(["subject", "level", "quantity"])
    for who, level, first, multi, n, multi_rate, improved, esr_rate, large in told:
        cell = ({"base": BASE, "corrector": CORRECTOR}[who], float(level))
        part = trials[(trials["subject"] == cell[0]) & (trials["level"] == cell[1])]
        assert f"{part['first_score'].mean():.1f}" == first
        is_large = (part["gain"] >= 20) & (part["last_score"] >= 50)
        counts = [part["is_multi"].sum(), len(part), part["is_improved"].sum(), is_large.sum()]
        assert counts == [int(count) for count in (multi, n, improved, large)]
        assert [percent(rates.loc[(*cell, name)]) for name in ("multi_attempt", "esr")] == [multi_rate, esr_rate]


def test_the_readme_tells_rates_and_perplexity_as_measured(trials):
    readme = " ".join((ROOT / "README.md").read_text().split())
    rates = metrics.rates(trials[trials["subject"] == CORRECTOR], ["level"]).set_index(["level", "quantity"])
    for cell in ((1.5, "multi_attempt"), (1.5, "improvement"), (0.0, "multi_attempt")):
        rate, low, high = rates.loc[cell, ["rate", "ci_low", "ci_high"]]
        assert f"{rate:.0%} [{low:.0%}, {high:.0%}]" in readme
    perplexity = pd.read_csv(FOLDER / "perplexity.csv").set_index("subject")["perplexity"]
    assert f"(perplexity {perplexity[CORRECTOR]:.2f} against {perplexity[BASE]:.2f})" in readme


def test_the_readme_tells_the_rates_at_its_own_strengths_as_measured():
    readme = " ".join((ROOT / "README.md").read_text().split())
    folder = results_dir(BASE, "esr_detection", "standard")
    rates = pd.read_csv(folder / "rates.csv").query("subject == @CORRECTOR and condition == 'steered'")
    told = [rates.set_index("quantity").loc[name] for name in ("multi_attempt", "improvement")]
    placebo = pd.read_csv(folder / "placebo.csv").query("subject == @CORRECTOR and parts == 'placebo'").iloc[0]
    for rate, low, high in (line[["rate", "ci_low", "ci_high"]] for line in (*told, placebo)):
        assert f"{rate:.0%} [{low:.0%}, {high:.0%}]" in readme
