"""What runs inside a vLLM server for one row: its edits, what it records, and the proof that both happened.

The server has this package on its path, so a hook travels as numbers and a name, whatever Python either side runs,
and the arithmetic is that of every other engine.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from esr_utils import __version__
from esr_utils.sae import SAE
from esr_utils.steering import Interventions, LayerEdit, Row

if TYPE_CHECKING:
    from esr_utils.engines.base import InFlight
    from esr_utils.models import Pair

MOST = torch.finfo(torch.float32).max
MAX_KEPT = 1024  # reports of streamed rows that nobody has fetched yet
_kept: OrderedDict[str, dict[str, Any]] = OrderedDict()


@dataclass(frozen=True, eq=False, kw_only=True)
class Excerpt:
    """What ``steering`` needs to know of a pair, its SAE cut down to the latents of one row."""

    name: str
    sae: SAE
    n_layers: int
    d_model: int
    steering_layer: int
    reading_layer: int
    ablation_layer: int | None
    ablates_first: bool


def excerpt(row: Row, pair: "Pair") -> tuple[Row, Excerpt]:
    """The edits of a row, its latents numbered from 0, and the part of the pair they need."""
    latents = sorted({latent for ablation in row.ablate for latent in ablation.latents} | set(row.record))
    number = {latent: i for i, latent in enumerate(latents)}
    whole = pair.sae if latents else replace(pair.sae, architecture="standard", k=None)
    picked = whole.columns(torch.tensor(latents, dtype=torch.long))
    sae = SAE(**{name: value.float() if isinstance(value, Tensor) else value for name, value in vars(picked).items()})
    facts = {name: getattr(pair, name) for name in Excerpt.__dataclass_fields__ if name != "sae"}
    ablate = tuple(replace(a, latents=tuple(number[latent] for latent in a.latents)) for a in row.ablate)
    record = tuple(number[latent] for latent in row.record)
    bare = Row(token_ids=(), steer=(), ablate=ablate, scope=row.scope, record=record, record_resid=row.record_resid)
    return bare, Excerpt(sae=sae.to("cpu"), **facts)


class RowHook:
    """Called at each of its layers with the tokens of one request that are being read.

    What it saves comes back with the response: per layer how many tokens it has seen from the first on
    (``read.{layer}``) and how far the first edit moved them (``moved.{layer}``), the values it was to record, and the
    first position at which the stream stopped being numbers. ``layers`` is where it sits: at every edit and record,
    and at the last layer, where an overflow shows.

    Args:
        key: under which a report is kept for ``Collect``; for streamed responses, which bring none along.
    """

    def __init__(self, flight: "InFlight", pair: "Pair", *, key: str | None = None):
        self.row, self.model = excerpt(flight.row, pair)
        self.delta = {layer: vector.cpu() for layer, vector in flight.delta.items()}
        self.key = key
        self.n_prompt = len(flight.prompt.ids)
        self.n_text = self.n_prompt + len(flight.prompt.prefill)
        self.n_response = len(flight.prompt.prefill) + flight.row.sampling.max_new_tokens
        reading = {pair.reading_layer} if flight.row.record else set()
        wanted = set(Interventions([self.row], self.model, [self.delta]).edits) | set(flight.row.record_resid) | reading
        self.layers = sorted(wanted | {pair.n_layers - 1}) if wanted else []
        self.n_whole = dict.fromkeys(self.layers, self.n_text)
        self.edits: dict[int, LayerEdit] | None = None  # made where they act: they are larger than what they come from
        self.read: Callable[[Tensor], Tensor] | None = None

    def __call__(self, ctx: Any, resid: Tensor) -> Tensor | None:
        layer, saved = ctx.layer_idx, ctx.saved
        if self.edits is None:
            self._prepare(saved, resid.device)
        first = self._first_position(saved, layer, len(resid))
        edited = self._edited(resid, layer, first, saved)
        response = edited[max(0, self.n_prompt - first) :]
        at = max(0, first - self.n_prompt)
        if self.read and layer == self.model.reading_layer:
            _write(saved, "activations", self.n_response, at, self.read(response).float())
        if layer in self.row.record_resid:
            _write(saved, f"resid.{layer}", self.n_response, at, response)
        if layer == self.model.n_layers - 1 and "overflow_at" not in saved and not bool(edited.isfinite().all()):
            saved["overflow_at"] = first + int((~edited.isfinite().all(dim=1)).nonzero()[0])
        saved[f"read.{layer}"] = first + len(resid)
        return edited if layer in self.edits else None

    def _first_position(self, saved: dict[str, Any], layer: int, n_new: int) -> int:
        """Position of the first of these tokens. vLLM reads a request again from the start if memory ran short."""
        n_read = saved.get(f"read.{layer}", 0)
        if n_new > 1 and n_read >= self.n_whole[layer]:
            self.n_whole[layer] = n_read
            return 0
        return n_read

    def _edited(self, resid: Tensor, layer: int, first: int, saved: dict[str, Any]) -> Tensor:
        if layer not in self.edits:
            return resid
        is_response = torch.arange(first, first + len(resid), device=resid.device) >= self.n_prompt
        in_scope = is_response | (self.row.scope == "all")
        edited = self.edits[layer].apply(resid[None], in_scope[None])[0]
        if f"moved.{layer}" not in saved and (self.row.scope == "all" or first + len(resid) > self.n_prompt):
            moved = (edited.float() - resid.float()).norm()
            saved[f"moved.{layer}"] = float(moved.nan_to_num(nan=MOST, posinf=MOST))  # JSON has no word for others
        return edited

    def _prepare(self, saved: dict[str, Any], device: torch.device) -> None:
        self.edits = Interventions([self.row], self.model, [self.delta]).edits
        if self.row.record:
            self.read = self.model.sae.reader(torch.tensor(self.row.record), device)
        if self.key:
            _kept[self.key] = saved
            while len(_kept) > MAX_KEPT:
                _kept.popitem(last=False)


def _write(saved: dict[str, Any], name: str, n: int, at: int, values: Tensor) -> None:
    """Write values of response tokens from ``at`` on; what vLLM reads beyond the end is left out."""
    if name not in saved:
        saved[name] = torch.full((n, values.shape[1]), torch.nan, dtype=values.dtype)
    values = values[: max(0, n - at)]
    saved[name][at : at + len(values)] = values.cpu()


class Collect:
    """Brings back what the hook of a streamed row saved."""

    def __init__(self, key: str):
        self.key = key

    def __call__(self, ctx: Any, resid: Tensor) -> None:
        ctx.saved.update(_kept.pop(self.key, {}))


class Probe:
    """Says what the server runs."""

    def __call__(self, ctx: Any, resid: Tensor) -> None:
        import vllm

        ctx.saved["d_model"] = resid.shape[1]
        ctx.saved["n_layers"] = ctx.model.config.get_text_config().num_hidden_layers
        ctx.saved["dtype"] = str(resid.dtype).removeprefix("torch.")
        ctx.saved["vllm"] = vllm.__version__
        ctx.saved["vllm-lens"] = version("vllm-lens")
        ctx.saved["kit"] = __version__
