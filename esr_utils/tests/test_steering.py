"""An edit does what it says to the residual stream, and nothing else anywhere else."""

from dataclasses import replace

import jaxtyping
import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from esr_utils.engines.hf import HFEngine
from esr_utils.models import Pair
from esr_utils.sae import SAE
from esr_utils.steering import Ablate, Interventions, Row, Sampling, Steer
from esr_utils.tests.conftest import tiny_sae

LAYER = 2  # of the tiny pairs, for steering and reading
PROMPT, ANSWER = tuple(range(60, 90)), tuple(range(100, 112))
DIRECTION = torch.linspace(-1.0, 1.0, 32)
KINDS = ("standard", "jumprelu", "topk")


def forced(**edits) -> Row:
    """A fixed prompt with a fixed answer, read once and not continued."""
    return Row(token_ids=PROMPT, prefill=ANSWER, sampling=Sampling(max_new_tokens=0), **edits)


def streams(pair: Pair, row: Row) -> Float[Tensor, "layer pos d_model"]:
    """The residual stream after each block, as the next module receives it; seen from outside the engine."""
    kept: list[Tensor] = []
    receivers = [*pair.blocks()[1:], pair.base_model().norm]
    handles = [r.register_forward_pre_hook(lambda module, args: kept.append(args[0][0].clone())) for r in receivers]
    HFEngine(pair).generate([row])
    for handle in handles:
        handle.remove()
    return torch.stack(kept)[:, : len(PROMPT) + len(ANSWER)]


def edited(resid: Tensor, row: Row, pair: Pair) -> Tensor:
    edit = Interventions([row], pair).edits[LAYER]
    return edit.apply(resid[None], torch.ones(1, len(resid), dtype=torch.bool))[0]


def some_resid(seed: int = 0) -> Float[Tensor, "pos d_model"]:
    return torch.randn(20, 32, generator=torch.Generator().manual_seed(seed))


def with_latents(sae: SAE, resid: Tensor, values: dict[int, float]) -> Tensor:
    """Encode, set some latents, decode, and add the reconstruction error back: what ablation is meant to equal."""
    acts = sae.encode(resid)
    changed = acts.clone()
    for latent, value in values.items():
        changed[:, latent] = value
    return sae.decode(changed) + (resid - sae.decode(acts))


@pytest.fixture(params=KINDS)
def of_kind(request, tiny_llama) -> Pair:
    """The tiny Llama with each kind of SAE."""
    return replace(tiny_llama, sae=tiny_sae(request.param))


@pytest.fixture
def unchecked(monkeypatch) -> None:
    """As users run the package: without the type checks that tests add, which would complain first."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


# adding


def test_the_stream_changes_by_strength_times_direction_at_its_layer_and_not_below(tiny):
    before = streams(tiny, forced())
    after = streams(tiny, forced(steer=(Steer(latent=5, strength=3.0),)))
    assert torch.equal(after[:LAYER], before[:LAYER])
    assert torch.equal(after[LAYER], before[LAYER] + 3.0 * tiny.sae.W_dec[5])
    assert not torch.equal(after[LAYER + 1], before[LAYER + 1])


def test_several_directions_add_up_each_at_its_own_layer(tiny):
    low = (Steer(latent=5, strength=2.0, layer=1), Steer(direction=DIRECTION, strength=-1.5, layer=1))
    high = Steer(latent=9, strength=4.0, layer=3)
    before, some, all_ = (streams(tiny, forced(steer=steer)) for steer in ((), low, (*low, high)))
    assert torch.equal(some[0], before[0])
    torch.testing.assert_close(some[1], before[1] + 2.0 * tiny.sae.W_dec[5] - 1.5 * DIRECTION)
    assert torch.equal(all_[:3], some[:3])
    torch.testing.assert_close(all_[3], some[3] + 4.0 * tiny.sae.W_dec[9])


def test_a_direction_of_ones_own_acts_as_the_latent_it_was_copied_from(tiny):
    by_latent = streams(tiny, forced(steer=(Steer(latent=5, strength=3.0),)))
    by_direction = streams(tiny, forced(steer=(Steer(direction=tiny.sae.W_dec[5], strength=3.0),)))
    assert torch.equal(by_latent, by_direction)


def test_strength_zero_is_the_baseline(tiny):
    assert torch.equal(streams(tiny, forced(steer=(Steer(latent=5, strength=0.0),))), streams(tiny, forced()))


def test_scope_generated_leaves_prompt_tokens_untouched(tiny):
    edits = {"steer": (Steer(latent=5, strength=3.0),), "ablate": (Ablate(latents=(0, 1, 2)),)}
    before, after = streams(tiny, forced()), streams(tiny, forced(**edits, scope="generated"))
    prompt = slice(0, len(PROMPT))
    assert torch.equal(after[:, prompt], before[:, prompt])
    assert (after[LAYER, len(PROMPT) :] != before[LAYER, len(PROMPT) :]).any(dim=-1).all()
    everywhere = streams(tiny, forced(**edits))
    assert (everywhere[LAYER] != before[LAYER]).any(dim=-1).all()


def test_edits_keep_the_dtype_of_the_stream_and_round_once(tiny_llama):
    resid = some_resid().bfloat16()
    steered = edited(resid, forced(steer=(Steer(latent=5, strength=3.0),)), tiny_llama)
    assert torch.equal(steered, (resid.float() + 3.0 * tiny_llama.sae.W_dec[5]).bfloat16())


# ablating


def test_ablation_equals_encode_zero_decode_and_the_error(of_kind):
    resid, latents = some_resid(), (3, 7, 11)
    expected = with_latents(of_kind.sae, resid, dict.fromkeys(latents, 0.0))
    assert not torch.allclose(expected, resid)
    torch.testing.assert_close(edited(resid, forced(ablate=(Ablate(latents=latents),)), of_kind), expected)


def test_ablation_equals_encode_zero_decode_and_the_error_on_real_text(embedded_pair):
    sae, layer = embedded_pair.sae, embedded_pair.reading_layer
    text = "Rinse the rice, cover it with water and let it simmer. I mean, the ships sailed at dawn."
    row = Row(messages="How do I cook rice?", prefill=text, record_resid=(layer,), sampling=Sampling(max_new_tokens=0))
    (read,) = HFEngine(embedded_pair).generate([row])
    resid = read.resid[layer].float()
    latents = sae.encode(resid).sum(0).topk(40).indices.tolist()
    edit = Interventions([replace(row, ablate=(Ablate(latents=tuple(latents)),))], embedded_pair).edits[layer]
    taken = edit.apply(resid[None], torch.ones(1, len(resid), dtype=torch.bool))[0]
    expected = with_latents(sae, resid, dict.fromkeys(latents, 0.0))
    assert (expected - resid).norm(dim=-1).median() > 10  # so there is something to compare
    torch.testing.assert_close(taken, expected, rtol=1e-4, atol=2e-3)


def test_share_one_half_takes_away_half(of_kind):
    resid = some_resid()
    whole, half = (
        resid - edited(resid, forced(ablate=(Ablate(latents=(3, 7), share=s),)), of_kind) for s in (1.0, 0.5)
    )
    assert whole.abs().max() > 0.1
    torch.testing.assert_close(2 * half, whole)


def test_share_zero_and_a_silent_latent_change_nothing(tiny):
    silent = Ablate(latents=(tiny.sae.d_sae - 1,))
    for ablation in (silent, Ablate(latents=(0, 1, 2), share=0.0)):
        assert torch.equal(streams(tiny, forced(ablate=(ablation,))), streams(tiny, forced()))


def test_ablation_leaves_the_layers_below_alone_and_reads_its_own(tiny):
    before = streams(tiny, forced())
    after = streams(tiny, forced(ablate=(Ablate(latents=(0, 1, 2), layer=1),)))
    assert torch.equal(after[0], before[0])
    torch.testing.assert_close(after[1], with_latents(tiny.sae, before[1], {0: 0.0, 1: 0.0, 2: 0.0}))


def test_after_steering_takes_away_what_the_steering_excites(of_kind):
    resid, steer = some_resid(), Steer(latent=5, strength=6.0)
    row = forced(steer=(steer,), ablate=(Ablate(latents=(5, 7)),))
    steered = resid + 6.0 * of_kind.sae.W_dec[5]
    torch.testing.assert_close(edited(resid, row, of_kind), with_latents(of_kind.sae, steered, {5: 0.0, 7: 0.0}))


def test_before_steering_leaves_what_the_steering_excites(of_kind):
    silent = of_kind.sae.encode(some_resid())[:, 7] == 0
    resid, steer = some_resid()[silent], Steer(latent=7, strength=6.0)
    assert len(resid) > 3
    early = edited(resid, forced(steer=(steer,), ablate=(Ablate(latents=(7,), order="before_steering"),)), of_kind)
    late = edited(resid, forced(steer=(steer,), ablate=(Ablate(latents=(7,)),)), of_kind)
    torch.testing.assert_close(early, resid + 6.0 * of_kind.sae.W_dec[7])
    assert ((early - late).norm(dim=-1) > 1).all()


def test_a_steered_latent_ablated_before_steering_is_set_to_the_strength(of_kind):
    """Its own contribution goes, the strength comes: both together are a clamp."""
    ablate = Ablate(latents=(5,), order="before_steering")
    row = forced(steer=(Steer(latent=5, strength=6.0),), ablate=(ablate,))
    expected = with_latents(of_kind.sae, some_resid(), {5: 6.0})
    torch.testing.assert_close(edited(some_resid(), row, of_kind), expected)


def test_without_steering_the_two_orders_are_the_same(of_kind):
    rows = [forced(ablate=(Ablate(latents=(3, 7), order=o),)) for o in ("before_steering", "after_steering")]
    early, late = (edited(some_resid(), row, of_kind) for row in rows)
    assert torch.equal(early, late)


def test_the_edit_of_a_row_is_the_same_alone_and_among_others(of_kind):
    orders = ("before_steering", "after_steering")
    rows = [
        forced(
            steer=(Steer(latent=i, strength=float(i)),) * (i % 3 > 0),
            ablate=(Ablate(latents=(i, 2 * i, 40 - i), share=1.0 - i / 20, order=orders[i % 2]),) * (i % 4 > 0),
        )
        for i in range(1, 13)
    ]
    resid = torch.stack([some_resid(i) for i in range(12)])
    edit, everywhere = Interventions(rows, of_kind).edits[LAYER], torch.ones(12, 20, dtype=torch.bool)
    together = edit.apply(resid, everywhere)
    for i, row in enumerate(rows):
        alone = edited(resid[i], row, of_kind) if row.steer or row.ablate else resid[i]
        assert torch.equal(together[i], alone)
        assert torch.equal(edit.of_row(i).apply(resid[i : i + 1], everywhere[i : i + 1])[0], together[i])


def test_a_latent_ablated_in_two_shares_is_refused(tiny_llama):
    with pytest.raises(ValueError, match="latent 3"):
        Interventions([forced(ablate=(Ablate(latents=(3,)), Ablate(latents=(3, 7), share=0.1)))], tiny_llama)


def test_steering_acts_at_the_steering_layer_and_ablation_at_the_reading_layer(tiny_llama):
    pair = replace(tiny_llama, steering_layer=1, reading_layer=3)
    before = streams(pair, forced())
    steered = streams(pair, forced(steer=(Steer(latent=5, strength=3.0),)))
    ablated = streams(pair, forced(ablate=(Ablate(latents=(0, 1, 2)),)))
    assert [torch.equal(a, b) for a, b in zip(steered, before, strict=True)] == [True, False, False, False]
    assert [torch.equal(a, b) for a, b in zip(ablated, before, strict=True)] == [True, True, True, False]


# hooks


def test_after_a_run_the_model_has_no_hooks(tiny):
    row = forced(steer=(Steer(latent=5, strength=3.0),), ablate=(Ablate(latents=(1,)),), record=(2,), record_resid=(0,))
    HFEngine(tiny).generate([row])
    assert not [module for module in tiny.model.modules() if module._forward_hooks or module._forward_pre_hooks]


def test_a_hook_that_never_fires_raises(tiny_llama, monkeypatch):
    elsewhere = torch.nn.ModuleList([torch.nn.Identity() for _ in range(4)])
    monkeypatch.setattr(Pair, "blocks", lambda self: elsewhere)
    with pytest.raises(RuntimeError, match=r"no token passed the hook at layer \[2\] of tiny-llama"):
        HFEngine(tiny_llama).generate([forced(steer=(Steer(latent=5, strength=3.0),))])


# the sentences users meet


@pytest.mark.parametrize("strength", [float("nan"), float("inf"), float("-inf")])
def test_a_strength_that_is_not_finite_is_named(strength):
    with pytest.raises(ValueError, match=f"strength {strength} is not a finite number; 0 leaves the model unsteered"):
        Steer(latent=5, strength=strength)


@pytest.mark.parametrize("given", [{}, {"latent": 5, "direction": DIRECTION}])
def test_a_steer_takes_a_latent_or_a_direction(given):
    with pytest.raises(ValueError, match="a Steer takes either a latent or a direction, and not both"):
        Steer(strength=1.0, **given)


@pytest.mark.parametrize(
    ("ablation", "sentence"),
    [
        ({"latents": ()}, "an Ablate needs at least one latent"),
        ({"latents": (7, 3, 7)}, r"latents \[3, 7, 7\] name one latent twice"),
        ({"latents": (3,), "share": 1.5}, r"share 1.5 is outside 0 \(nothing\) to 1 \(zero-ablation\)"),
        ({"latents": (3,), "share": -0.5}, "share -0.5 is outside 0"),
        ({"latents": (3,), "share": float("nan")}, "share nan is outside 0"),
    ],
)
def test_an_ablation_that_cannot_be_is_named(ablation, sentence):
    with pytest.raises(ValueError, match=sentence):
        Ablate(**ablation)


@pytest.mark.parametrize(
    ("sampling", "sentence"),
    [
        ({"max_new_tokens": -1}, "max_new_tokens -1 is negative"),
        ({"temperature": -0.1}, "temperature -0.1 is not a number from 0 up"),
        ({"temperature": float("nan")}, "temperature nan is not a number from 0 up"),
        ({"top_p": 0.0}, r"top_p 0.0 is outside 0 \(exclusive\) to 1"),
        ({"top_p": 1.1}, "top_p 1.1 is outside 0"),
        ({"repetition_penalty": 0.0}, "repetition_penalty 0.0 is not a positive number"),
        ({"repetition_penalty": float("inf")}, "repetition_penalty inf is not a positive number"),
    ],
)
def test_a_sampling_setting_out_of_range_is_named(sampling, sentence):
    with pytest.raises(ValueError, match=sentence):
        Sampling(**sampling)


@pytest.mark.parametrize("given", [{}, {"messages": "hello", "token_ids": (60,)}])
def test_a_row_takes_messages_or_token_ids(given):
    with pytest.raises(ValueError, match="a Row takes either messages or token_ids, and not both"):
        Row(**given)


@pytest.mark.usefixtures("unchecked")
def test_an_unknown_scope_or_order_is_named():
    with pytest.raises(ValueError, match="scope 'prompt' is neither 'all' nor 'generated'"):
        Row(messages="hello", scope="prompt")
    with pytest.raises(ValueError, match="order 'during' is neither 'after_steering' nor 'before_steering'"):
        Ablate(latents=(3,), order="during")


@pytest.mark.parametrize("latent", [64, -1])
@pytest.mark.parametrize("where", ["steer", "ablate", "record"])
def test_a_latent_out_of_range_names_the_sae_and_its_range(tiny_llama, where, latent):
    edits = {
        "steer": (Steer(latent=latent, strength=1.0),),
        "ablate": (Ablate(latents=(3, latent)),),
        "record": (3, latent),
    }
    sentence = rf"latent {latent} is not in tiny standard SAE: it has 64 latents \(0 to 63\)"
    with pytest.raises(ValueError, match=sentence):
        HFEngine(tiny_llama).generate([forced(**{where: edits[where]})])


@pytest.mark.parametrize("layer", [4, -1])
@pytest.mark.parametrize("where", ["steer", "ablate", "record_resid"])
def test_a_layer_that_does_not_exist_is_named_with_the_range(tiny_llama, where, layer):
    edits = {
        "steer": (Steer(latent=5, strength=1.0, layer=layer),),
        "ablate": (Ablate(latents=(3,), layer=layer),),
        "record_resid": (layer,),
    }
    with pytest.raises(ValueError, match=rf"layer {layer} is not in tiny-llama: it has 4 layers \(0 to 3\)"):
        HFEngine(tiny_llama).generate([forced(**{where: edits[where]})])


def test_a_direction_of_the_wrong_width_is_named(tiny_llama):
    row = forced(steer=(Steer(direction=torch.ones(31), strength=1.0),))
    with pytest.raises(ValueError, match=r"direction has shape \(31,\), but tiny-llama has d_model 32"):
        HFEngine(tiny_llama).generate([row])


@pytest.mark.parametrize("kind", ["standard", "jumprelu", "topk"])
def test_an_edit_goes_where_its_block_is(tiny_llama, kind):
    """``meta`` stands in for another GPU: it takes tensors of its own alone."""
    pair = replace(tiny_llama, sae=tiny_sae(kind))
    row = Row(token_ids=PROMPT, steer=(Steer(latent=3, strength=2.0),), ablate=(Ablate(latents=(5, 9)),))
    edits = Interventions([row, row], pair)
    there = edits.edits[LAYER].apply(torch.empty(2, 7, 32, device="meta"), torch.ones(2, 7, dtype=torch.bool))
    assert there.device.type == "meta"
    assert there.shape == (2, 7, 32)
    assert edits.in_scope(torch.ones(2, 7, dtype=torch.bool, device="meta")).device.type == "meta"
    assert pair.sae.W_dec.device.type == "cpu", "the SAE itself stays"


def test_edits_go_to_the_ablation_layer_of_the_pair_and_first_if_it_says_so(tiny_llama):
    row = Row(token_ids=PROMPT, steer=(Steer(latent=3, strength=9.0),), ablate=(Ablate(latents=(3, 5)),))
    assert set(Interventions([row], replace(tiny_llama, ablation_layer=1)).edits) == {1, LAYER}
    first = replace(row, ablate=(replace(row.ablate[0], order="before_steering"),))
    quirky = replace(tiny_llama, ablates_first=True)
    assert torch.equal(edited(some_resid(), row, quirky), edited(some_resid(), first, tiny_llama))
    assert not torch.equal(edited(some_resid(), row, quirky), edited(some_resid(), row, tiny_llama))
