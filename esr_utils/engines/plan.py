"""What is done to, and kept of, one batch of a transformers model: the hooks of one forward pass."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Bool
from torch import Tensor

from esr_utils.engines.base import InFlight
from esr_utils.models import Pair
from esr_utils.steering import Interventions


class Plan:
    """What is done to and kept of one batch: built from its rows, and built again when they change."""

    def __init__(self, group: Sequence[InFlight], pair: Pair, *, n_ghosts: int = 0):
        self.group, self.pair = list(group), pair
        padded = [*group, *[group[0]] * n_ghosts]
        self.edits = Interventions([row.row for row in padded], pair, [row.delta for row in padded])
        wanted = sorted({latent for row in group for latent in row.row.record})
        column = {latent: j for j, latent in enumerate(wanted)}
        self.columns = [[column[latent] for latent in row.row.record] for row in group]
        self.read = pair.sae.reader(torch.tensor(wanted, device=pair.sae.W_enc.device)) if wanted else None

        self.resid_layers = {layer for row in group for layer in row.row.record_resid}

    @contextmanager
    def hooks(self, is_response: Bool[Tensor, "batch pos"]) -> Iterator[None]:
        """Edit and record during one forward pass; raise if a hook that was asked for never fired."""
        in_scope = self.edits.in_scope(is_response)
        layers = set(self.edits.edits) | self.resid_layers | ({self.pair.reading_layer} if self.read else set())
        fired: set[int] = set()

        def hook_for(layer: int):
            def hook(module: torch.nn.Module, args: tuple, output: Tensor | tuple) -> Tensor | tuple:
                resid = output[0] if isinstance(output, tuple) else output
                if layer in self.edits.edits:
                    resid = self.edits.edits[layer].apply(resid, in_scope)
                if self.read and layer == self.pair.reading_layer:
                    self._keep(resid, is_response)
                if layer in self.resid_layers:
                    self._keep_resid(layer, resid, is_response)
                fired.add(layer)
                return (resid, *output[1:]) if isinstance(output, tuple) else resid

            return hook

        blocks = self.pair.blocks()
        handles = [blocks[layer].register_forward_hook(hook_for(layer)) for layer in sorted(layers)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
        if fired != layers:
            raise RuntimeError(f"no token passed the hook at layer {sorted(layers - fired)} of {self.pair.name}")

    def _keep(self, resid: Tensor, is_response: Tensor) -> None:
        """Each row keeps its own latents at its own response tokens."""
        acts, kept = self.read(resid).float().cpu().numpy(), is_response.cpu().numpy()
        for i, row in enumerate(self.group):
            if self.columns[i]:
                row.recorded.extend(acts[i][kept[i]][:, self.columns[i]])

    def _keep_resid(self, layer: int, resid: Tensor, is_response: Tensor) -> None:
        for i, row in enumerate(self.group):
            if layer in row.row.record_resid:
                row.resid.setdefault(layer, []).append(resid[i].cpu()[is_response[i].cpu()])
