"""An SAE read here encodes and decodes as sae-lens does, and chosen latents read the same as all of them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file, save_file

from esr_utils.sae import SAE, from_sae_lens, load_sae
from esr_utils.tests.conftest import tiny_sae

if TYPE_CHECKING:
    import sae_lens

KINDS = ("standard", "jumprelu", "topk")
RESID = 2.0 * torch.randn(3, 17, 32, generator=torch.Generator().manual_seed(3))
SIZES = {"d_in": 32, "d_sae": 64}


def sae_lens_sae(kind: str, **options) -> "sae_lens.SAE":
    """A random SAE of sae-lens with biases and decoder norms that show when they are forgotten."""
    import sae_lens

    name = {"standard": "Standard", "jumprelu": "JumpReLU", "topk": "TopK"}.get(kind, kind)
    if name == "TopK" or "TopK" in name:
        options = {"k": 8, **options}
    config = getattr(sae_lens, f"{name}SAEConfig")(**SIZES, **options)
    config.metadata.hook_name = "blocks.17.hook_resid_post"
    sae = getattr(sae_lens, f"{name}SAE")(config)
    generator = torch.Generator().manual_seed(4)
    for key, parameter in sorted(sae.named_parameters()):
        values = torch.randn(parameter.shape, generator=generator)
        parameter.data = values.abs() if key == "threshold" else values * 0.5
    return sae


def assert_reads_as(ours: SAE, theirs: "sae_lens.SAE") -> None:
    with torch.no_grad():
        acts = theirs.encode(RESID)
        assert 0 < (acts > 0).float().mean() < 0.9
        torch.testing.assert_close(ours.encode(RESID), acts)
        torch.testing.assert_close(ours.decode(acts), theirs.decode(acts))


@pytest.mark.parametrize("apply_b_dec_to_input", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_round_trip_with_sae_lens(kind, apply_b_dec_to_input, tmp_path):
    theirs = sae_lens_sae(kind, apply_b_dec_to_input=apply_b_dec_to_input)
    theirs.save_model(tmp_path)
    loaded, converted = load_sae(tmp_path, name="mine"), from_sae_lens(theirs, name="mine")
    for ours in (loaded, converted):
        assert_reads_as(ours, theirs)
        assert (ours.name, ours.architecture, ours.layer, ours.d_model, ours.d_sae) == ("mine", kind, 17, 32, 64)


@pytest.mark.parametrize("kind", ["BatchTopKTraining", "TopKTraining"])
def test_what_sae_lens_saves_after_training_reads_as_its_own_inference_model(kind, tmp_path):
    import sae_lens

    trained = sae_lens_sae(kind)
    if kind == "BatchTopKTraining":
        trained.topk_threshold.fill_(1.5)
    trained.save_inference_model(tmp_path)
    ours = load_sae(tmp_path)
    assert ours.architecture == {"BatchTopKTraining": "jumprelu", "TopKTraining": "topk"}[kind]
    assert_reads_as(ours, sae_lens.SAE.load_from_disk(tmp_path))


def test_a_topk_sae_that_ranks_by_decoder_norm_reads_as_in_sae_lens():
    theirs = sae_lens_sae("topk", rescale_acts_by_decoder_norm=True)
    assert_reads_as(from_sae_lens(theirs, name="rescaled"), theirs)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("apply_b_dec_to_input", [True, False])
def test_chosen_latents_are_the_columns_of_the_full_encode(kind, apply_b_dec_to_input):
    sae = replace(tiny_sae(kind), apply_b_dec_to_input=apply_b_dec_to_input)
    latents = torch.tensor([63, 5, 17, 0])
    full = sae.encode(RESID)[..., latents]
    assert (full > 0).any()
    for chosen in (sae.encode(RESID, latents), sae.reader(latents)(RESID)):
        torch.testing.assert_close(chosen.float(), full)


@pytest.mark.parametrize("kind", ["standard", "jumprelu"])
def test_what_a_hook_reads_does_not_depend_on_the_width_of_the_batch(kind):
    read = tiny_sae(kind).reader(torch.arange(0, 64, 3))
    resid = RESID.reshape(-1, 32)
    one_by_one = torch.stack([read(row) for row in resid])
    assert torch.equal(read(resid).float(), one_by_one.float())


def test_topk_keeps_the_k_largest_of_all_latents_whichever_are_asked_for():
    sae = tiny_sae("topk")
    dense = replace(sae, architecture="standard", k=None).encode(RESID)
    acts = sae.encode(RESID)
    assert ((acts > 0).sum(dim=-1) == 8).all()
    assert torch.equal(acts.sort(dim=-1).values[..., -8:], dense.sort(dim=-1).values[..., -8:])
    latent = torch.tensor([5])
    assert ((dense[..., latent] > 0) & (sae.encode(RESID, latent) == 0)).any()
    with pytest.raises(ValueError, match="tiny topk SAE is a topk SAE: which latents survive depends on all of them"):
        sae.columns(latent)


def test_jumprelu_is_silent_at_its_threshold_and_unchanged_above_it():
    sae = tiny_sae("jumprelu")
    unit = replace(sae, W_enc=torch.eye(32, 64), b_enc=torch.zeros(64))
    resid = torch.tensor([0.1, 0.2, 0.25, -0.3]).repeat(8)
    assert torch.equal(unit.encode(resid)[:4], torch.tensor([0.0, 0.0, 0.25, 0.0]))


def test_a_direction_is_the_decoder_row_as_stored():
    sae = replace(tiny_sae("standard"), W_dec=3.0 * tiny_sae("standard").W_dec)
    assert torch.equal(sae.direction(5), sae.W_dec[5])
    assert sae.direction(5).norm() == pytest.approx(3.0)


@pytest.mark.parametrize("latent", [64, -1])
def test_a_latent_out_of_range_names_the_sae_and_its_range(latent):
    with pytest.raises(ValueError, match=rf"latent {latent} is not in tiny topk SAE: it has 64 latents \(0 to 63\)"):
        tiny_sae("topk").direction(latent)


# files that cannot be read


def write_sae(folder: Path, **options) -> Path:
    """What sae-lens writes for a standard SAE, with some options changed."""
    sae = tiny_sae("standard")
    save_file({key: getattr(sae, key).contiguous() for key in ("W_enc", "b_enc", "W_dec", "b_dec")}, folder / WEIGHTS)
    (folder / "cfg.json").write_text(json.dumps({"architecture": "standard", **options}))
    return folder


WEIGHTS = "sae_weights.safetensors"


def test_an_sae_without_a_hook_name_has_no_layer_and_is_named_after_its_folder(tmp_path):
    sae = load_sae(write_sae(tmp_path))
    assert (sae.name, sae.layer) == (tmp_path.name, None)
    assert torch.equal(sae.W_enc, load_file(tmp_path / WEIGHTS)["W_enc"])


def test_half_precision_weights_are_read_as_float32(tmp_path):
    weights = load_file(write_sae(tmp_path) / WEIGHTS)
    save_file({key: value.bfloat16() for key, value in weights.items()}, tmp_path / WEIGHTS)
    assert torch.equal(load_sae(tmp_path).W_dec, weights["W_dec"].bfloat16().float())


@pytest.mark.parametrize("missing", ["cfg.json", WEIGHTS])
def test_a_missing_file_is_named(tmp_path, missing):
    (write_sae(tmp_path) / missing).unlink()
    with pytest.raises(FileNotFoundError, match=f"{tmp_path} holds no {missing}: it is not an SAE saved by sae-lens"):
        load_sae(tmp_path)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"architecture": "gated"}, r"my SAE: architecture 'gated' is not one of \('standard', 'jumprelu', 'topk'\)"),
        ({"architecture": "jumprelu"}, "my SAE: a jumprelu SAE needs a threshold"),
        ({"architecture": "topk"}, "my SAE: a topk SAE needs k"),
        (
            {"normalize_activations": "layer_norm"},
            r"my SAE normalises its input \(layer_norm\); fold the scale in first",
        ),
    ],
)
def test_an_sae_that_is_not_supported_says_why(tmp_path, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        load_sae(write_sae(tmp_path, **options), name="my SAE")
