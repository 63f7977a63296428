"""Cross-check with nnsight in this process: one ``invoke`` a row. ``ndif`` runs rows on another machine."""

import copy
import importlib
import sys

import torch
from torch import Tensor

from esr_utils.engines.reread import RereadEngine
from esr_utils.models import Pair
from esr_utils.steering import Interventions


def load_before_nnsight() -> None:
    """Load the classes of anyio, on which clients of servers stand, that cannot be made once nnsight is loaded.

    It gives every object a ``save``, and these classes refuse attributes that they do not know. Once it is loaded,
    nothing can be done any more.
    """
    if "nnsight" in sys.modules:
        return
    for module, name in (
        ("anyio.abc", "SocketAttribute"),
        ("anyio.streams.file", "FileStreamAttribute"),
        ("anyio.streams.tls", "TLSAttribute"),
    ):
        getattr(importlib.import_module(module), name)


class NNsightEngine(RereadEngine):
    """Runs rows through nnsight traces on a copy of the pair's model: nnsight replaces the forward of every module."""

    name = "nnsight"

    def __init__(self, pair: Pair):
        load_before_nnsight()
        from nnsight import TransformersModel

        self.pair = pair
        model, tokenizer = copy.deepcopy(pair.model), copy.deepcopy(pair.tokenizer)
        self.model = TransformersModel(model, tokenizer=tokenizer, task="text-generation")

    def read(
        self, ids: Tensor, is_token: Tensor, edits: Interventions, in_scope: Tensor, layers: set[int]
    ) -> tuple[Tensor, dict[int, Tensor]]:
        texts = [row[keep].tolist() for row, keep in zip(ids, is_token, strict=True)]
        width, wanted = ids.shape[1], sorted(layers)
        visited = sorted(set(edits.edits) | layers)
        one_row = [{layer: edit.of_row(i) for layer, edit in edits.edits.items()} for i in range(len(texts))]
        blocks, head = self.model.model.layers, self.model.lm_head
        import nnsight

        with self.model.trace() as tracer:
            resid, logits = nnsight.save([[] for _ in wanted]), nnsight.save([])
            for i, text in enumerate(texts):
                scope = torch.nn.functional.pad(in_scope[i : i + 1, : len(text)], (width - len(text), 0))
                with tracer.invoke(text):
                    for layer in visited:
                        if layer in one_row[i]:
                            blocks[layer].output = one_row[i][layer].apply(blocks[layer].output, scope)
                        if layer in wanted:
                            resid[wanted.index(layer)].append(blocks[layer].output[0, width - len(text) :])
                    logits.append(head.output[0, width - len(text) :])
        streams = {layer: _right_padded(parts, width) for layer, parts in zip(wanted, resid, strict=True)}
        return self.pair.soft_capped(_right_padded(logits, width)), streams


def _right_padded(parts: list[Tensor], width: int) -> Tensor:
    """nnsight pads texts on the left; the engines share right padding."""
    return torch.stack([torch.nn.functional.pad(part, (0, 0, 0, width - len(part))) for part in parts])
