"""The build of the embedded SAE on made-up data, and the promises of the shipped one."""

import json
from collections import Counter

import pytest
import torch

from esr_utils.config import ROOT
from esr_utils.corpus import HELD_OUT_EVERY, corpus_prompts, corpus_rows, model_alone
from esr_utils.embedded_labels import around_peak, make_label, near_words
from esr_utils.embedded_sae import FOLDER, Activations, Recipe, train
from esr_utils.sae import load_sae
from esr_utils.sae_quality import reconstruction

RECIPE = Recipe(layer=3, d_sae=64, k=4, n_samples=60_000, batch=512, lr=3e-3)


@pytest.fixture(scope="module")
def made_up() -> Activations:
    """Sums of three of 24 sparse directions, with a massive constant dimension, off centre."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(24, 32, generator=generator), dim=1)
    chosen = torch.rand(20_000, 24, generator=generator).topk(3, dim=1).indices
    weights = torch.zeros(20_000, 24).scatter_(1, chosen, 4 + torch.rand(20_000, 3, generator=generator))
    tokens = weights @ directions + 0.5
    tokens[:, 0] += 500.0
    mean = tokens.mean(0)
    return Activations(train=tokens[:18_000], held_out=tokens[18_000:], mean=mean, scale=float((tokens - mean).std()))


@pytest.mark.parametrize("architecture", ["batchtopk", "topk"])
def test_a_trained_sae_explains_sparse_data_in_raw_units(made_up, tmp_path, architecture):
    sae = train(Recipe(**{**vars(RECIPE), "architecture": architecture}), made_up, tmp_path)
    quality = reconstruction(sae, made_up.held_out)
    assert quality["explained_variance"] > 0.8
    assert quality["explained_variance_without_massive"] > 0.8
    assert quality["n_massive_dimensions"] == 1
    assert sae.layer == 3
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(64))


def test_a_trained_sae_loads_in_sae_lens_and_means_the_same(made_up, tmp_path):
    import sae_lens

    sae = train(RECIPE, made_up, tmp_path)
    other = sae_lens.SAE.load_from_disk(str(tmp_path))
    acts = other.encode(made_up.held_out)
    torch.testing.assert_close(sae.encode(made_up.held_out), acts, rtol=1e-3, atol=1e-2)
    torch.testing.assert_close(sae.decode(acts), other.decode(acts), rtol=1e-3, atol=1e-2)


def test_the_corpus_is_as_broad_as_the_readme_says():
    prompts = corpus_prompts()
    assert len(prompts) >= 1500
    assert len({prompt.topic for prompt in prompts}) >= 300
    assert corpus_prompts() == prompts


def test_the_model_is_there_before_its_sae():
    pair = model_alone()
    assert (pair.n_layers, pair.sae.d_model, pair.sae.d_sae) == (30, 576, 1)


def test_every_row_of_the_corpus_has_its_own_seed():
    rows = [row for shard in (0, 1, 9) for _, row in corpus_rows(shard)]
    assert len({row.seed for row in rows}) == len(rows)


def test_the_shipped_sae_keeps_its_promises():
    quality = json.loads((FOLDER / "quality.json").read_text())
    assert quality["explained_variance_without_massive"] >= 0.75
    assert quality["L0"] <= 64
    assert quality["dead_share"] <= 0.10
    assert quality["loss_recovered_over_mean"] >= 0.90
    assert quality["corpus"]["n_response_tokens"] >= 2_000_000
    assert quality["corpus"]["held_out_every"] == HELD_OUT_EVERY


def test_the_shipped_sae_loads_in_sae_lens():
    import sae_lens

    ours, theirs = load_sae(FOLDER / "sae"), sae_lens.SAE.load_from_disk(str(FOLDER / "sae"))
    resid = 50 * torch.randn(4, ours.d_model, generator=torch.Generator().manual_seed(0)) + ours.b_dec
    torch.testing.assert_close(ours.encode(resid), theirs.encode(resid), rtol=1e-3, atol=1e-2)


def context(text: list[str], peak: int) -> dict:
    return {"tokens": text, "acts": [0.0] * len(text), "peak": peak}


@pytest.mark.parametrize(
    ("tokens", "peak", "word"),
    [
        ([" the", " sour", "dough", " bread"], 2, "sourdough"),
        ([" end", ".", " Then"], 1, "."),
        ([" end", "\n\n", "Then"], 1, "line break"),
        (["13. Collection", "\n", "14", "."], 2, "14"),
        ([" don", "'t", " go"], 0, "don't"),
    ],
)
def test_the_peak_word_is_whole(tokens, peak, word):
    assert around_peak(context(tokens, peak))[1] == word


def test_the_word_before_the_peak_is_found_across_tokens():
    assert around_peak(context([" such", " as", " bas", "il"], 3))[0] == "as"
    assert around_peak(context(["the", " end", ".", "\n", "Then"], 4))[0] == "line break"
    assert around_peak(context(["Then"], 0))[0] == ""


def test_near_words_are_those_the_corpus_would_not_give_by_chance():
    contexts = [context([" the", " yeast", " rises", " slowly"], 1)] * 6 + [context([" the", " cat"], 1)]
    background = Counter({"the": 900, "slowly": 80, "yeast": 1, "rises": 2, "cat": 30})
    assert near_words(contexts, background)[:2] == ["yeast", "rises"]
    assert "the" not in near_words(contexts, background)


def test_a_label_names_the_word_and_the_topic():
    contexts = [context([" the", " yeast", " rises"], 1)] * 8
    label = make_label(contexts, ["baking bread", "tides"], True, Counter({"yeast": 1, "rises": 1, "the": 98}))
    assert label.startswith("“yeast”")
    assert label.endswith("about baking bread, tides")


def test_the_readme_tells_the_measured_quality():
    quality, readme = json.loads((FOLDER / "quality.json").read_text()), (ROOT / "README.md").read_text()
    variance, without = quality["explained_variance"], quality["explained_variance_without_massive"]
    n_dead = round(quality["dead_share"] * quality["recipe"]["d_sae"])
    told = (
        f"explains {variance:.3f} of the variance ({without:.3f} without massive dimensions) with {quality['L0']:.1f} "
        f"active latents a token; {n_dead} of {quality['recipe']['d_sae']} is dead, and "
        f"{quality['loss_recovered_over_mean']:.3f} of the loss is recovered over wiping the layer to its mean"
    )
    assert told in " ".join(readme.split())
    for number in ("n_response_tokens", "n_prompts", "n_topics"):
        assert f"{quality['corpus'][number]:,}" in readme
    assert f"{quality['n_held_out_tokens']:,}" in readme
