"""Cross-check with TransformerLens: the same rows through ``TransformerBridge`` and its named hook points."""

import copy

import torch
from torch import Tensor

from esr_utils.engines.reread import RereadEngine
from esr_utils.models import Pair
from esr_utils.steering import Interventions


class TransformerLensEngine(RereadEngine):
    """Runs rows on a ``TransformerBridge`` of a copy of the pair's model (the bridge rewires what it is given)."""

    name = "transformer_lens"

    def __init__(self, pair: Pair):
        from transformer_lens.model_bridge import TransformerBridge

        self.pair = pair
        self.bridge = TransformerBridge.boot_transformers(
            pair.model.config.name_or_path or pair.name,
            hf_model=copy.deepcopy(pair.model),
            tokenizer=copy.deepcopy(pair.tokenizer),  # the bridge gives it a beginning-of-text token
            dtype=pair.model.dtype,
            device=str(pair.model.device),
        )

    def read(
        self, ids: Tensor, is_token: Tensor, edits: Interventions, in_scope: Tensor, layers: set[int]
    ) -> tuple[Tensor, dict[int, Tensor]]:
        kept: dict[int, Tensor] = {}
        layers = set(edits.edits) | layers

        def hook_for(layer: int):
            def hook(resid: Tensor, hook: object) -> Tensor:
                if layer in edits.edits:
                    resid = edits.edits[layer].apply(resid, in_scope)
                kept[layer] = resid
                return resid

            return hook

        hooks = [(f"blocks.{layer}.hook_resid_post", hook_for(layer)) for layer in sorted(layers)]
        with torch.inference_mode(), self.bridge.hooks(fwd_hooks=hooks):
            logits = self.bridge(ids, attention_mask=is_token.long(), prepend_bos=False)
        if set(kept) != layers:
            raise RuntimeError(f"no token passed the hook at layer {sorted(layers - set(kept))} of {self.pair.name}")
        return logits, kept
