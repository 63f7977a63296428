"""Does this engine, on this pair, do what it says? ``self_test`` runs every check and returns a table.

Each check is a law of steering that holds for any model; a hook that does nothing, or acts on a neighbour, breaks one.
"""

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch

from esr_utils.engines.base import Engine, Response
from esr_utils.engines.hf import HFEngine
from esr_utils.models import Pair
from esr_utils.steering import READING, Ablate, Row, Sampling, Steer

QUESTIONS = (
    "Explain how to repot a plant.",
    "How do you read a bus timetable?",
    "How do you sharpen a kitchen knife? Please be brief, I have five minutes before the guests arrive.",
    "Explain how to split a restaurant bill.",
)
MIN_EXPLAINED, MAX_L0 = 0.6, 100.0
ORDERS = ("after_steering", "before_steering")
MAX_RELATIVE_ERROR = {torch.float32: 1e-3, torch.bfloat16: 0.05, torch.float16: 0.01}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What a check measured, what it should have been, and whether it was."""

    measured: str
    expected: str
    passed: bool


Check = Callable[[Pair], Finding]


def strangers(pair: Pair, n: int, *, strength: float, max_new_tokens: int = 24) -> list[Row]:
    """Rows that share nothing: their own latents, strengths, ablations, scopes, sampling and lengths."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(n):
        latents = tuple(int(latent) for latent in rng.choice(pair.sae.d_sae, 6, replace=False))
        steer = (Steer(latent=latents[0], strength=float(strength * rng.uniform(0.5, 1.5))),) if i % 4 else ()
        ablate = (Ablate(latents=latents[1:], share=(1.0, 0.5)[i % 2], order=ORDERS[i // 2 % 2]),) if i % 3 else ()
        sampling = Sampling(
            max_new_tokens=int(rng.integers(max_new_tokens // 3, max_new_tokens + 1)),
            temperature=0.7 * (i % 2),
            top_p=(1.0, 0.9)[i // 2 % 2],
        )
        rows.append(
            Row(
                messages=QUESTIONS[i % len(QUESTIONS)],
                prefill="Well," if i % 5 == 0 else "",
                steer=steer,
                ablate=ablate,
                scope=("all", "generated")[i // 2 % 2],
                seed=i,
                sampling=sampling,
                record=latents[:2],
            )
        )
    return rows


def typical_strength(pair: Pair) -> float:
    """Half the median residual norm at the steering layer: a strength that shows without wrecking the text."""
    return 0.5 * float(
        _read(pair, layers=(pair.steering_layer,)).resid[pair.steering_layer].float().norm(dim=-1).median()
    )


def in_float32(pair: Pair) -> Pair:
    """The pair with a copy of its model in float32."""
    return replace(pair, model=copy.deepcopy(pair.model).float())


def row_alone_equals_row_in_churning_batch(pair: Pair) -> Finding:
    """Rows end and are replaced at different times; each must come out as if it had been alone.

    In float32: processors whose bfloat16 products depend on the width of a batch (AMX) can change a token by rounding
    alone.
    """
    pair, n_alone = in_float32(pair), 8
    rows = strangers(pair, 24, strength=typical_strength(pair))
    together = HFEngine(pair, batch_size=6).generate(rows)
    picked = [int(i) for i in np.linspace(0, len(rows) - 1, n_alone)]
    alone = [HFEngine(pair).generate([rows[i]])[0] for i in picked]
    same = sum(together[i].token_ids == a.token_ids for i, a in zip(picked, alone, strict=True))
    return Finding(measured=f"{same} of {n_alone} rows", expected=f"{n_alone} of {n_alone}", passed=same == n_alone)


def cache_equals_no_cache(pair: Pair) -> Finding:
    """Token by token with a cache, or the whole text in one reading: the residual stream is the same."""
    row = strangers(pair, 2, strength=typical_strength(pair))[1]
    row = replace(row, record_resid=(pair.n_layers - 1,))
    stepped = HFEngine(pair).generate([row])[0]
    forced = replace(row, prefill=stepped.token_ids, sampling=replace(row.sampling, max_new_tokens=0))
    reread = HFEngine(pair).generate([forced])[0]
    a, b = (response.resid[pair.n_layers - 1].float() for response in (stepped, reread))
    n = min(len(a), len(b))
    error = float((a[:n] - b[:n]).norm() / b[:n].norm())
    limit = MAX_RELATIVE_ERROR[pair.model.dtype]
    return Finding(measured=f"relative difference {error:.1e}", expected=f"under {limit:.0e}", passed=error < limit)


def strength_zero_changes_nothing(pair: Pair) -> Finding:
    """Steering with strength 0 gives the unsteered residual stream, bit for bit."""
    n = _n_different(_read(pair), _read(pair, steer=(Steer(latent=0, strength=0.0),)))
    return Finding(measured=f"{n} values differ", expected="0", passed=n == 0)


def ablating_silent_latents_changes_nothing(pair: Pair) -> Finding:
    """Latents that do not fire on this text contribute nothing that could be taken away."""
    before = _read(pair, layers=(pair.reading_layer,))
    acts = pair.sae.encode(before.resid[pair.reading_layer].to(pair.sae.W_enc.device)).max(dim=0).values
    silent = tuple((acts == 0).nonzero()[:, 0][:16].tolist())
    n = _n_different(_read(pair), _read(pair, ablate=(Ablate(latents=silent, layer=pair.reading_layer),)))
    return Finding(measured=f"{n} values differ, {len(silent)} latents", expected="0", passed=n == 0 and bool(silent))


def residual_changes_by_strength_times_direction(pair: Pair) -> Finding:
    """At the steered layer the stream is the old one plus strength x direction, rounded once; below it, the same."""
    layer, strength = pair.steering_layer, typical_strength(pair)
    layers = tuple(range(layer + 1))[-2:]
    before = _read(pair, layers=layers)
    after = _read(pair, layers=layers, steer=(Steer(latent=0, strength=strength),))
    expected = before.resid[layer].float() + strength * pair.sae.direction(0).cpu()
    n_wrong = int((expected.to(pair.model.dtype) != after.resid[layer]).sum())
    n_below = sum(int((before.resid[below] != after.resid[below]).sum()) for below in layers[:-1])
    return Finding(
        measured=f"{n_wrong} values off at layer {layer}, {n_below} changed below it",
        expected="0, 0",
        passed=n_wrong == n_below == 0,
    )


def ablation_takes_the_contribution_away(pair: Pair) -> Finding:
    """Zero-ablation equals encoding, zeroing the latents, decoding, and adding the reconstruction error back."""
    layer = pair.reading_layer
    before = _read(pair, layers=(layer,)).resid[layer].float()
    sae = pair.sae.to("cpu")
    acts = sae.encode(before)
    latents = acts.sum(dim=0).topk(8).indices
    edited = acts.clone()
    edited[:, latents] = 0.0
    expected = sae.decode(edited) + (before - sae.decode(acts))
    ablate = (Ablate(latents=tuple(latents.tolist()), layer=layer),)
    ablated = _read(pair, layers=(layer,), ablate=ablate).resid[layer].float()
    error = float((ablated - expected).norm() / (before - expected).norm())
    limit = MAX_RELATIVE_ERROR[pair.model.dtype]
    return Finding(measured=f"relative difference {error:.1e}", expected=f"under {limit:.0e}", passed=error < limit)


def steering_is_live(pair: Pair) -> Finding:
    """The text becomes less likely, or more, under steering: the edit reaches the logits."""
    rows = [_forced_row(pair), _forced_row(pair, steer=(Steer(latent=0, strength=typical_strength(pair)),))]
    unsteered, steered = HFEngine(pair).log_likelihoods(rows)
    moved = float(np.abs(unsteered - steered).mean())
    return Finding(measured=f"{moved:.3f} nats a token", expected="over 0.01", passed=moved > 0.01)


def no_hook_stays_behind(pair: Pair) -> Finding:
    """After a run the model is as it was."""
    before = _n_hooks(pair)
    _read(pair, steer=(Steer(latent=0, strength=1.0),), ablate=(Ablate(latents=(1,)),))
    left = _n_hooks(pair) - before
    return Finding(measured=f"{left} hooks left", expected="0", passed=left == 0)


def sae_is_in_range(pair: Pair) -> Finding:
    """Explained variance (each dimension's mean left out) and active latents a token, on responses made now."""
    rows = [
        Row(messages=question, seed=i, sampling=Sampling(max_new_tokens=48), record_resid=(pair.reading_layer,))
        for i, question in enumerate(QUESTIONS)
    ]
    resid = torch.cat([r.resid[pair.reading_layer] for r in HFEngine(pair).generate(rows)]).float()
    sae = pair.sae.to("cpu")
    acts = sae.encode(resid)
    explained = 1 - float((resid - sae.decode(acts)).pow(2).sum() / (resid - resid.mean(0)).pow(2).sum())
    l0 = float((acts > 0).sum(dim=1).float().mean())
    return Finding(
        measured=f"explained variance {explained:.2f}, L0 {l0:.0f}",
        expected=f"over {MIN_EXPLAINED}, under {MAX_L0:.0f}",
        passed=explained > MIN_EXPLAINED and 0 < l0 < MAX_L0,
    )


def engines_agree(pair: Pair, *, n_rows: int = 32, max_new_tokens: int = 16) -> Finding:
    """The same greedy rows, steered and ablated, through every engine installed: the same tokens.

    In float32, where rounding does not decide between two tokens that are almost equally likely.
    """
    pair = in_float32(pair)
    rows = strangers(pair, n_rows, strength=typical_strength(pair), max_new_tokens=max_new_tokens)
    rows = [replace(row, sampling=replace(row.sampling, temperature=0.0)) for row in rows]
    answers = {engine.name: engine.generate(rows) for engine in all_engines(pair)}
    reference = answers.pop("hf")
    same = {
        name: sum(a.token_ids == b.token_ids for a, b in zip(reference, other, strict=True))
        for name, other in answers.items()
    }
    measured = ", ".join(f"{name} {n} of {n_rows}" for name, n in same.items())
    return Finding(measured=measured, expected=f"{n_rows} of {n_rows} as hf", passed=set(same.values()) == {n_rows})


def engines_agree_on_eight_rows(pair: Pair) -> Finding:
    """``engines_agree`` for the impatient."""
    return engines_agree(pair, n_rows=8, max_new_tokens=8)


CHECKS: tuple[Check, ...] = (
    row_alone_equals_row_in_churning_batch,
    cache_equals_no_cache,
    strength_zero_changes_nothing,
    ablating_silent_latents_changes_nothing,
    residual_changes_by_strength_times_direction,
    ablation_takes_the_contribution_away,
    steering_is_live,
    no_hook_stays_behind,
    sae_is_in_range,
    engines_agree,
)
QUICK_CHECKS: tuple[Check, ...] = (*CHECKS[:-1], engines_agree_on_eight_rows)


def self_test(pair: Pair, *, checks: Sequence[Check] = CHECKS) -> pd.DataFrame:
    """One line a check: what it says, what was measured, what was expected, whether it holds, seconds."""
    lines = []
    for check in checks:
        start = time.perf_counter()
        finding = check(pair)
        lines.append(
            {
                "check": check.__name__.replace("_", " "),
                "measured": finding.measured,
                "expected": finding.expected,
                "passed": finding.passed,
                "seconds": round(time.perf_counter() - start, 1),
            }
        )
    return pd.DataFrame(lines)


def all_engines(pair: Pair) -> list[Engine]:
    """The engines that run a model in this process."""
    from esr_utils.engines.nnsight import NNsightEngine
    from esr_utils.engines.transformer_lens import TransformerLensEngine

    return [HFEngine(pair), TransformerLensEngine(pair), NNsightEngine(pair)]


def _forced_row(pair: Pair, **edits) -> Row:
    """A fixed answer to a fixed question, read but not continued."""
    answer = "First, find a pot that is a little larger than the old one. Then add some fresh soil."
    return Row(messages=QUESTIONS[0], prefill=answer, sampling=READING, scope="generated", **edits)


def _read(pair: Pair, *, layers: tuple[int, ...] | None = None, **edits) -> Response:
    """The fixed answer with its residual stream at ``layers`` (None: the last one)."""
    layers = (pair.n_layers - 1,) if layers is None else layers
    return HFEngine(pair).generate([_forced_row(pair, record_resid=layers, **edits)])[0]


def _n_different(a: Response, b: Response) -> int:
    return sum(int((a.resid[layer] != b.resid[layer]).sum()) for layer in a.resid)


def _n_hooks(pair: Pair) -> int:
    return sum(len(block._forward_hooks) + len(block._forward_pre_hooks) for block in pair.blocks())
