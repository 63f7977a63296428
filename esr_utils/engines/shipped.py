"""What runs inside a model on another machine: plain torch, one row, no other name of this package.

The source of these functions travels with a request, since the server does not have this package; each is handed the
others that it calls. They are ``LayerEdit.apply``, ``SAE.encode`` and ``Sampler.draw`` for one row, and tests hold them
to those.
"""

import torch
from torch import Tensor


def activations(resid: Tensor, columns: dict) -> Tensor:
    """Activations of the latents whose columns were sent, in float64. A b_dec that is sent is taken off first."""
    sent = {name: None if part is None else part.to(resid.device).double() for name, part in columns.items()}
    resid = resid.double() if sent["b_dec"] is None else resid.double() - sent["b_dec"]
    acts = (resid @ sent["W_enc"] + sent["b_enc"]).relu()
    return acts if sent["threshold"] is None else torch.where(acts > sent["threshold"], acts, 0.0)


def visited(
    resid: Tensor, layer: int, step: int, job: dict, answer: dict, edited: object, activations: object
) -> Tensor:
    """The stream that leaves a block at one step, edited if the row asks for it; what the row records is kept."""
    response = resid.shape[1] - job["n_prefill"] if step == 0 else 0
    if layer in job["edits"]:
        resid = edited(resid, response if job["spares_prompt"] else 0, job["edits"][layer], activations)
    if layer == job["reading_layer"]:
        answer["acts"].append(activations(resid[0, response:], job["recorded"]).float().cpu())
    if layer in job["kept"]:
        answer["resid"].setdefault(layer, []).append(resid[0, response:].cpu())
    return resid


def chosen(logits: Tensor, step: int, job: dict, answer: dict, cap: object, drawn: object) -> int:
    """The token drawn at one step, kept in ``answer``; -1 also for a row that only reads."""
    if not job["n_new"]:
        return -1
    last = logits[0, -1] if cap is None else cap * torch.tanh(logits[0, -1] / cap)
    token = drawn(last, job["ids"] + answer["tokens"], job["uniforms"][step], job["sampling"])
    answer["tokens"].append(token)
    return token


def gathered(answer: dict) -> None:
    """Make one tensor of what was kept step by step: many small ones are slow to send."""
    answer["acts"] = torch.cat(answer["acts"]) if answer["acts"] else None
    answer["resid"] = {layer: torch.cat(parts) for layer, parts in answer["resid"].items()}


def edited(resid: Tensor, first: int, edit: dict, read: object) -> Tensor:
    """The residual stream of a row with ``edit`` made from token ``first`` on; ``read`` is ``activations``."""
    changed = resid.float() + edit["delta"].to(resid.device)
    for source, share in ((resid, edit["before"]), (None, edit["after"])):
        if share is not None:
            acts = read(changed if source is None else source, edit["columns"]) * share.to(resid.device)
            changed = changed - acts @ edit["directions"].to(resid.device).double()
    return torch.cat([resid[:, :first], changed.to(resid.dtype)[:, first:]], dim=1)


def drawn(logits: Tensor, seen: list, uniform: float, sampling: dict) -> int:
    """The next token of a row, or -1 if its logits are no numbers any more."""
    temperature, penalty = sampling["temperature"], sampling["repetition_penalty"]
    scaled = logits.float() / (temperature or 1.0)
    if not scaled.isfinite().all():
        return -1
    seen = torch.tensor(seen, device=scaled.device).unique()
    values = scaled[seen]
    scaled[seen] = torch.where(values > 0, values / penalty, values * penalty)
    if temperature == 0:
        return int(scaled.argmax())
    probs = scaled.softmax(-1)
    if sampling["top_p"] < 1:
        ranked, order = probs.sort(descending=True)
        probs = torch.zeros_like(probs).scatter(0, order, ranked * (ranked.cumsum(0) - ranked < sampling["top_p"]))
    mass = probs.double().cumsum(0)
    token = int((mass <= uniform * mass[-1]).sum().clamp(max=len(probs) - 1))
    return token if probs[token] > 0 else int(probs.argmax())
