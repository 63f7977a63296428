"""What is done to the residual stream of a row, and the arithmetic that does it.

Every engine builds ``Interventions`` from its rows and applies them where its own hooks sit, so adding and
ablating mean the same everywhere.
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from esr_utils.sae import SAE

Message = dict[str, str]


@runtime_checkable
class SteeredModel(Protocol):
    """What this module needs to know of a pair."""

    name: str
    sae: SAE
    n_layers: int
    d_model: int
    steering_layer: int
    reading_layer: int
    ablation_layer: int | None
    ablates_first: bool


@dataclass(frozen=True, eq=False, kw_only=True)
class Steer:
    """Add ``strength * direction`` to the residual stream after block ``layer``.

    Give a ``latent`` (its decoder direction as stored is used) or a ``direction`` of your own. ``strength`` is in
    raw units of that direction. ``layer`` None means the pair's steering layer.
    """

    strength: float
    latent: int | None = None
    direction: Float[Tensor, " d_model"] | None = None
    layer: int | None = None

    def __post_init__(self) -> None:
        if not math.isfinite(self.strength):
            raise ValueError(f"strength {self.strength} is not a finite number; 0 leaves the model unsteered")
        if (self.latent is None) == (self.direction is None):
            raise ValueError("a Steer takes either a latent or a direction, and not both")


@dataclass(frozen=True, kw_only=True)
class Ablate:
    """Take away ``share`` of what ``latents`` contribute to the residual stream (1.0 is zero-ablation).

    ``after_steering`` reads the activations from the steered stream, so what the steering itself excites goes
    too; ``before_steering`` reads them first, as the authors' engine does. ``layer`` None means the pair's ablation
    layer, which is its reading layer unless the pair says otherwise.
    """

    latents: tuple[int, ...]
    share: float = 1.0
    order: Literal["after_steering", "before_steering"] = "after_steering"
    layer: int | None = None

    def __post_init__(self) -> None:
        if not self.latents:
            raise ValueError("an Ablate needs at least one latent")
        if len(set(self.latents)) != len(self.latents):
            raise ValueError(f"latents {sorted(self.latents)} name one latent twice")
        if not 0.0 <= self.share <= 1.0:
            raise ValueError(f"share {self.share} is outside 0 (nothing) to 1 (zero-ablation)")
        if self.order not in ("after_steering", "before_steering"):
            raise ValueError(f"order {self.order!r} is neither 'after_steering' nor 'before_steering'")


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How tokens are drawn. ``temperature`` 0 is greedy. The penalty covers prompt and response, as in vLLM.

    Defaults: paper, appendix A.1 (temperature 0.6, penalty 1.1).
    """

    max_new_tokens: int = 256
    temperature: float = 0.6
    top_p: float = 1.0
    repetition_penalty: float = 1.1

    def __post_init__(self) -> None:
        if self.max_new_tokens < 0:
            raise ValueError(f"max_new_tokens {self.max_new_tokens} is negative")
        if not 0.0 <= self.temperature < math.inf:
            raise ValueError(f"temperature {self.temperature} is not a number from 0 up")
        if not 0.0 < self.top_p <= 1.0:
            raise ValueError(f"top_p {self.top_p} is outside 0 (exclusive) to 1")
        if not 0.0 < self.repetition_penalty < math.inf:
            raise ValueError(f"repetition_penalty {self.repetition_penalty} is not a positive number")


READING = Sampling(max_new_tokens=0)  # draws nothing: what is given as the start of the response is read


@dataclass(frozen=True, eq=False, kw_only=True)
class Row:
    """One response to be made. A row's result depends on the row alone.

    Attributes:
        messages: chat turns, formatted with the pair's template; or a plain string, taken as one user turn.
        token_ids: the exact prompt instead of ``messages``.
        prefill: start of the assistant's turn, as text or token ids. It counts as response: it is recorded,
            and steered in either scope.
        scope: which tokens are edited: ``all`` (prompt and response, as the authors do) or ``generated``.
        seed: of this row's own random stream.
        record: latents whose activation, after every edit, is kept for each response token.
        record_resid: layers whose residual stream, after every edit, is kept for each response token.
    """

    messages: str | Sequence[Message] | None = None
    token_ids: tuple[int, ...] | None = None
    prefill: str | tuple[int, ...] = ""
    steer: tuple[Steer, ...] = ()
    ablate: tuple[Ablate, ...] = ()
    scope: Literal["all", "generated"] = "all"
    seed: int = 0
    sampling: Sampling = field(default_factory=Sampling)
    record: tuple[int, ...] = ()
    record_resid: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if (self.messages is None) == (self.token_ids is None):
            raise ValueError("a Row takes either messages or token_ids, and not both")
        if self.seed < 0:
            raise ValueError(f"seed {self.seed} is negative; any whole number from 0 up will do")
        if self.scope not in ("all", "generated"):
            raise ValueError(f"scope {self.scope!r} is neither 'all' nor 'generated'")


def check_layer(pair: SteeredModel, layer: int) -> int:
    """``layer`` itself, or a ValueError that names the allowed range."""
    if not 0 <= layer < pair.n_layers:
        raise ValueError(
            f"layer {layer} is not in {pair.name}: it has {pair.n_layers} layers (0 to {pair.n_layers - 1})"
        )
    return layer


def steering_delta(row: Row, pair: SteeredModel) -> dict[int, Float[Tensor, " d_model"]]:
    """Per layer, the vector that ``row`` adds to the residual stream at every token in scope."""
    deltas: dict[int, Tensor] = {}
    for steer in row.steer:
        direction = pair.sae.direction(steer.latent) if steer.direction is None else steer.direction.float()
        if direction.shape != (pair.d_model,):
            raise ValueError(
                f"direction has shape {tuple(direction.shape)}, but {pair.name} has d_model {pair.d_model}"
            )
        layer = check_layer(pair, pair.steering_layer if steer.layer is None else steer.layer)
        deltas[layer] = deltas.get(layer, 0.0) + steer.strength * direction.to(pair.sae.W_dec.device)
    return deltas


class LayerEdit:
    """The edits of one layer for a whole batch: row i of each tensor belongs to row i of the batch."""

    def __init__(self, rows: Sequence[Row], deltas: Sequence[dict[int, Tensor]], layer: int, pair: SteeredModel):
        sae = pair.sae
        zero = torch.zeros(pair.d_model, device=sae.W_dec.device)
        self.delta = torch.stack([delta.get(layer, zero) for delta in deltas])
        ablations = [(i, a) for i, row in enumerate(rows) for a in row.ablate if _layer_of(a, pair) == layer]
        chosen = sorted({sae.check_latent(latent) for _, a in ablations for latent in a.latents})
        _check_once(ablations, layer)
        column = {latent: j for j, latent in enumerate(chosen)}
        self.latents = torch.tensor(chosen, dtype=torch.long, device=zero.device)
        shares = {order: torch.zeros(len(rows), len(chosen)) for order in ("before_steering", "after_steering")}
        for i, ablation in ablations:
            order = "before_steering" if pair.ablates_first else ablation.order
            shares[order][i, [column[latent] for latent in ablation.latents]] = ablation.share
        self.before = shares["before_steering"].to(zero.device, torch.float64)
        self.after = shares["after_steering"].to(zero.device, torch.float64)
        self.has_before, self.has_after = bool(self.before.any()), bool(self.after.any())
        self.sae, self.read = sae, sae.reader(self.latents)
        self.directions = sae.W_dec[self.latents].double()

    def apply(
        self, resid: Float[Tensor, "batch pos d_model"], in_scope: Bool[Tensor, "batch pos"]
    ) -> Float[Tensor, "batch pos d_model"]:
        """The edited residual stream, in the dtype it came in; tokens out of scope are returned as they were."""
        self._move(resid.device)
        in_scope = in_scope.to(resid.device)
        edited = resid.float() + self.delta[:, None, :]
        if self.has_before:
            edited = edited - self._contribution(resid, self.before)
        if self.has_after:
            edited = edited - self._contribution(edited, self.after)
        return torch.where(in_scope[:, :, None], edited.to(resid.dtype), resid)

    def _move(self, device: torch.device) -> None:
        """Go to where the block is: over several GPUs each block has its own."""
        if device == self.delta.device:
            return
        for name in ("delta", "before", "after", "directions"):
            setattr(self, name, getattr(self, name).to(device))
        self.read = self.sae.reader(self.latents, device)

    def of_row(self, i: int) -> "LayerEdit":
        """The edit of one row alone."""
        alone = copy.copy(self)
        alone.delta, alone.before, alone.after = (x[i : i + 1] for x in (self.delta, self.before, self.after))
        return alone

    def _contribution(self, resid: Tensor, share: Tensor) -> Tensor:
        """With the error term kept, ablating a latent takes away exactly its activation times its direction."""
        return (self.read(resid) * share[:, None, :]) @ self.directions


def _check_once(ablations: list[tuple[int, Ablate]], layer: int) -> None:
    seen: set[tuple[int, int]] = set()
    for row, ablation in ablations:
        for latent in ablation.latents:
            if (row, latent) in seen:
                raise ValueError(f"latent {latent} is ablated twice at layer {layer} of one row; give it one share")
            seen.add((row, latent))


def _layer_of(ablation: Ablate, pair: SteeredModel) -> int:
    default = pair.reading_layer if pair.ablation_layer is None else pair.ablation_layer
    return check_layer(pair, default if ablation.layer is None else ablation.layer)


class Interventions:
    """All edits of a batch by layer, built afresh whenever the rows of the batch change."""

    def __init__(self, rows: Sequence[Row], pair: SteeredModel, deltas: Sequence[dict] | None = None):
        deltas = [steering_delta(row, pair) for row in rows] if deltas is None else deltas
        layers = {layer for delta in deltas for layer in delta}
        layers |= {_layer_of(ablation, pair) for row in rows for ablation in row.ablate}
        self.edits = {layer: LayerEdit(rows, deltas, layer, pair) for layer in sorted(layers)}
        self.edits_prompt = torch.tensor([row.scope == "all" for row in rows], device=pair.sae.W_dec.device)

    def in_scope(self, is_response: Bool[Tensor, "batch pos"]) -> Bool[Tensor, "batch pos"]:
        """Which tokens are edited: all of them, or only the response, row by row."""
        return is_response | self.edits_prompt.to(is_response.device)[:, None]
