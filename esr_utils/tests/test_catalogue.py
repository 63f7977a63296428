"""What is known of a pair before anything is loaded; and what a machine is told that cannot hold it."""

import ast
import re
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from esr_utils import machine
from esr_utils.catalogue import (
    CATALOGUE,
    StrengthPrior,
    add_entry,
    find_entry,
    with_fine_tuned,
)
from esr_utils.config import ROOT
from esr_utils.hub import shape_of
from esr_utils.machine import Machine, MachineError, check_fits, describe, this_machine
from esr_utils.tests.conftest import tiny_sae
from esr_utils.tests.twins import CONFIGS, HUB_PAIRS, PAPER_PAIRS

README = (ROOT / "README.md").read_text()
LAPTOP = Machine(gpus_gib=(), ram_gib=16.0)
ONE_GPU = Machine(gpus_gib=(24.0,), ram_gib=64.0)
TWO_GPUS = Machine(gpus_gib=(79.1, 79.1), ram_gib=256.0)


def on(monkeypatch, computer: Machine) -> None:
    monkeypatch.setattr(machine, "this_machine", lambda: computer)


def test_the_catalogue_needs_no_torch():
    code = "import sys, esr_utils.catalogue; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", HUB_PAIRS)
def test_sizes_are_those_of_the_published_configuration(name):
    from transformers import AutoConfig

    settings = dict(CONFIGS[name])
    config, shape = AutoConfig.for_model(settings.pop("model_type"), **settings), find_entry(name).shape
    assert shape_of(config, tiny_sae("standard", d_sae=64)) == replace(shape, d_sae=64)


def test_sizes_of_the_embedded_pair_are_those_of_its_model(embedded_pair):
    assert shape_of(embedded_pair.model.config, embedded_pair.sae) == find_entry("smollm2-135m").shape


@pytest.mark.parametrize("name", PAPER_PAIRS)
def test_the_paper_s_pairs_steer_where_their_sae_was_trained(name):
    entry = find_entry(name)
    assert f"{entry.steering_layer}" in entry.sae_id.split("/")[0].split("_")
    assert entry.labels.split("/")[1].startswith(f"{entry.steering_layer}-")
    assert 0 <= entry.steering_layer < entry.shape.n_layers
    assert entry.is_gated
    assert len(entry.revision) == 40


@pytest.mark.parametrize("name", HUB_PAIRS)
def test_sae_lens_knows_the_sae_and_where_its_labels_are(name):
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    entry = find_entry(name)
    release = get_pretrained_saes_directory()[entry.release]
    assert release.neuronpedia_id[entry.sae_id] == entry.labels
    assert release.model in (entry.model, entry.model.removeprefix("google/").removesuffix("-it"))


def test_memory_is_worked_out_from_the_sizes():
    shape = find_entry("llama-3.1-8b").shape
    assert shape.weights_gib("bfloat16") == pytest.approx(8_030_261_248 * 2 / 2**30)
    assert shape.sae_gib == pytest.approx(4 * (2 * 4096 * 65_536 + 2 * 65_536 + 4096) / 2**30)
    assert shape.cache_gib("float32") == pytest.approx(4 * 2 * 32 * 1024 * 64 * 640 / 2**30)
    assert shape.memory_gib("bfloat16") == pytest.approx(14.96 + 2.0 + 5.0, abs=0.02)


def test_quirks_are_off_unless_named():
    plain, paper = find_entry("llama-3.3-70b"), find_entry("llama-3.3-70b+paper")
    assert (plain.steering_layer, plain.ablation_layer, plain.repetition_penalty) == (50, None, 1.1)
    assert not plain.ablates_first
    assert not plain.header_again
    assert (paper.steering_layer, paper.ablation_layer, paper.repetition_penalty) == (33, 33, 1.2)
    assert paper.ablates_first
    assert len(paper.header_again) == 4
    some = find_entry("llama-3.3-70b+layer_33+penalty")
    assert (some.steering_layer, some.repetition_penalty, some.header_again) == (33, 1.2, ())
    assert some.name == "llama-3.3-70b+layer_33+penalty", "its results lie in a folder of their own"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("gemma-2-2b+layer_33", "gemma-2-2b has no quirk 'layer_33'; allowed: ablation_first, paper"),
        ("smollm2-135m+paper", "smollm2-135m has no quirk 'paper'; allowed: none"),
        ("llama-3.3-70b+", "llama-3.3-70b has no quirk ''; allowed: layer_33, doubled_header, "),
        ("lama-3.1-8b+paper", "unknown pair 'lama-3.1-8b'; the nearest in the catalogue: llama-3.1-8b"),
    ],
)
def test_a_quirk_that_does_not_exist_is_met_with_those_that_do(name, told):
    with pytest.raises(ValueError, match=told.replace("+", r"\+")):
        find_entry(name)


def test_any_release_of_sae_lens_joins_the_catalogue(catalogue):
    add_entry("mine", model="Qwen/Qwen3-1.7B", release="a-release", sae_id="an-id")
    assert find_entry("mine").steering_layer is None
    assert with_fine_tuned("mine") == ["mine"]
    line = describe().set_index("pair").loc["mine"]
    assert line["SAE"] == "a-release/an-id"
    assert line["labels"] == "none"
    assert line["here"] is None
    with pytest.raises(ValueError, match="mine is in the catalogue already; choose another name"):
        add_entry("mine", model="x", release="y", sae_id="z")
    with pytest.raises(ValueError, match="'a/b' cannot name a folder"):
        add_entry("a/b", model="x", release="y", sae_id="z")


def test_an_entry_has_one_sae_and_a_known_dtype():
    entry = find_entry("gemma-2-2b")
    with pytest.raises(ValueError, match="an SAE is either a folder, or a release and an id"):
        replace(entry, sae_id=None)
    with pytest.raises(ValueError, match="dtype 'int4' is not one of bfloat16, float32"):
        replace(entry, dtype="int4")


def test_every_pair_of_the_paper_has_the_prior_of_its_calibration():
    priors = {name: find_entry(name).prior for name in PAPER_PAIRS}
    assert priors["llama-3.3-70b"] == StrengthPrior(mean=7.0, sd=5.0, upper=100.0)
    assert all(0 < prior.mean < prior.upper for prior in priors.values())


# --- what fits


def test_this_machine_has_memory():
    found = this_machine()
    assert 0.5 < found.ram_gib < 100_000
    assert len(found.gpus_gib) == (torch.cuda.device_count() if torch.cuda.is_available() else 0)


@pytest.mark.parametrize(
    ("computer", "fitting"),
    [
        (LAPTOP, {"smollm2-135m", "smollm2-135m-corrector", "gemma-3-270m", "gemma-2-2b"}),
        (ONE_GPU, {"smollm2-135m", "smollm2-135m-corrector", "gemma-3-270m", "gemma-2-2b", "llama-3.1-8b"}),
        (TWO_GPUS, set(CATALOGUE)),
    ],
)
def test_the_table_says_what_fits(monkeypatch, computer, fitting):
    on(monkeypatch, computer)
    table = describe().set_index("pair")
    assert set(table.index[table["here"].astype(bool)]) == fitting
    assert table.loc["llama-3.3-70b", "GiB bfloat16"] == pytest.approx(147.9)
    assert set(table["this machine"]) == {computer.told}


def test_no_gpu_for_a_pair_that_needs_one(monkeypatch):
    on(monkeypatch, LAPTOP)
    sentence = "llama-3.1-8b needs a GPU with 23 GiB, and torch finds none on this machine; of the "
    with pytest.raises(MachineError, match=sentence + "catalogue these fit: smollm2-135m, gemma-3-270m, gemma-2-2b$"):
        check_fits(find_entry("llama-3.1-8b"), "bfloat16")


def test_too_little_memory_is_met_with_what_would_do(monkeypatch):
    on(monkeypatch, ONE_GPU)
    sentence = (
        r"gemma-2-27b needs 70 GiB in bfloat16 \(weights 50.7, SAE 4.5, 64 responses 14.4\), and this machine has "
        "1 GPU with 24 GiB; 4 such GPUs would do in bfloat16; of the catalogue these fit: .*llama-3.1-8b$"
    )
    with pytest.raises(MachineError, match=sentence):
        check_fits(find_entry("gemma-2-27b"), "bfloat16")
    with pytest.raises(MachineError, match="llama-3.1-8b needs 42 GiB in float32 .*; bfloat16 would fit; "):
        check_fits(find_entry("llama-3.1-8b"), "float32")


def test_a_machine_for_nothing_is_told_so(monkeypatch):
    on(monkeypatch, Machine(gpus_gib=(), ram_gib=0.5))
    with pytest.raises(MachineError, match="has no GPU and 0 GiB of main memory; 1 GiB would do in bfloat16; no pair "):
        check_fits(find_entry("smollm2-135m"), "bfloat16")


# --- the README


def test_the_readme_s_table_is_the_catalogue():
    numbers = r"(\d+) \| ([\d,]+) \| ([\d.]+) \| ([\d.]+)"
    lines = re.findall(rf"^\| `([\w.-]+)` \| (.*), {numbers} \| (\w+) \| (.*) \|$", README, re.MULTILINE)
    assert [line[0] for line in lines] == list(CATALOGUE)
    for (_, sae, layer, d_sae, half, full, needs_gpu, quirks), entry in zip(lines, CATALOGUE.values(), strict=True):
        assert sae == (f"`{entry.release}`" if entry.release else "this kit's")
        assert (int(layer), int(d_sae.replace(",", ""))) == (entry.steering_layer, entry.shape.d_sae)
        assert float(half) == pytest.approx(entry.shape.memory_gib("bfloat16"), abs=0.051)
        assert float(full) == pytest.approx(entry.shape.memory_gib("float32"), abs=0.051)
        assert needs_gpu == ("yes" if entry.needs_gpu else "no")
        assert quirks == (", ".join(f"`{quirk.name}`" for quirk in entry.quirks) or "none")


def test_the_readme_s_example_of_another_release_is_one_that_sae_lens_knows(catalogue):
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    (code,) = re.findall(
        r"^```python\nfrom esr_utils.catalogue import add_entry\n(.*?)^```", README, re.MULTILINE | re.DOTALL
    )
    (call,) = ast.parse(code).body
    entry = add_entry(call.value.args[0].value, **{word.arg: word.value.value for word in call.value.keywords})
    release = get_pretrained_saes_directory()[entry.release]
    assert release.model == entry.model
    assert release.neuronpedia_id[entry.sae_id] == entry.labels


def test_the_readme_s_gpus_hold_what_it_runs_on_them():
    small, middle, large = (Machine(gpus_gib=gpus, ram_gib=64.0) for gpus in ((11.6,), (23.5,), (79.1, 79.1)))
    assert small.fits(find_entry("gemma-2-2b"), "bfloat16")
    assert middle.fits(find_entry("llama-3.1-8b"), "bfloat16")
    assert large.fits(find_entry("llama-3.3-70b"), "bfloat16")
    assert "needs 148 GiB in bfloat16, so two GPUs of 80 GB" in " ".join(README.split())
