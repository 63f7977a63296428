"""The plainest way to generate: read the whole text again for every token. For cross-checks, not for speed.

No key-value cache, no batch that changes under way: what is left to go wrong is what the engines are compared on.
"""

import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from esr_utils.engines.base import (
    Capabilities,
    InFlight,
    OnResponse,
    OnToken,
    Response,
    Sampler,
    StopReason,
    in_flight,
    make_response,
)
from esr_utils.models import Pair
from esr_utils.steering import Interventions, Row


class RereadEngine(ABC):
    """Subclasses say how one forward pass is made under given edits."""

    name: str
    pair: Pair

    @abstractmethod
    def read(
        self,
        ids: Int[Tensor, "batch pos"],
        is_token: Bool[Tensor, "batch pos"],
        edits: Interventions,
        in_scope: Bool[Tensor, "batch pos"],
        layers: set[int],
    ) -> tuple[Float[Tensor, "batch pos vocab"], dict[int, Float[Tensor, "batch pos d_model"]]]:
        """Logits of right-padded texts, and their residual stream at ``layers`` after every edit."""

    def capabilities(self) -> Capabilities:
        return Capabilities(scores_text=False, has_weights=True)

    @torch.inference_mode()
    def generate(
        self,
        rows: Sequence[Row],
        *,
        on_token: OnToken | None = None,
        on_response: OnResponse | None = None,
        stop: threading.Event | None = None,
    ) -> list[Response]:
        """Responses in the order of ``rows``; see ``Engine``."""
        ready = in_flight(rows, self.pair)
        ended: dict[int, StopReason] = {}
        while not (stop and stop.is_set()):
            for row in ready:
                if row.index not in ended and row.n_new == row.row.sampling.max_new_tokens:
                    ended[row.index] = "length"
            active = [row for row in ready if row.index not in ended]
            if not active:
                break
            for row, token in zip(active, self._next_tokens(active), strict=True):
                if token in self.pair.stop_ids:
                    ended[row.index] = "stop"
                    continue
                row.tokens.append(token)
                if on_token:
                    on_token(row.index, token)
        self._record(ready)
        responses = [make_response(row, ended.get(row.index, "cancelled"), self.pair) for row in ready]
        for row, response in zip(ready, responses, strict=True):
            if on_response:
                on_response(row.index, response)
        return responses

    def _read_rows(self, rows: list[InFlight], layers: set[int]) -> tuple[Tensor, dict[int, Tensor]]:
        longest = max(row.n_read for row in rows)
        ids = torch.zeros(len(rows), longest, dtype=torch.long)
        is_token = torch.zeros(len(rows), longest, dtype=torch.bool)
        is_response = torch.zeros(len(rows), longest, dtype=torch.bool)
        for i, row in enumerate(rows):
            ids[i, : row.n_read] = torch.tensor([*row.prompt.ids, *row.tokens])
            is_token[i, : row.n_read] = True
            is_response[i, len(row.prompt.ids) : row.n_read] = True
        edits = Interventions([row.row for row in rows], self.pair, [row.delta for row in rows])
        device = self.pair.model.device
        in_scope = edits.in_scope(is_response.to(device))
        return self.read(ids.to(device), is_token.to(device), edits, in_scope, layers)

    def _next_tokens(self, rows: list[InFlight]) -> list[int]:
        logits, _ = self._read_rows(rows, set())
        last = torch.tensor([row.n_read - 1 for row in rows], device=logits.device)
        texts = [[*row.prompt.ids, *row.tokens] for row in rows]
        longest = max(map(len, texts))
        seen = torch.tensor([text + text[:1] * (longest - len(text)) for text in texts], device=logits.device)
        uniform = torch.tensor([row.uniforms[row.n_new] for row in rows], device=logits.device)
        sampler = Sampler([row.row for row in rows], logits.device)
        return sampler.draw(logits[torch.arange(len(rows)), last], seen, uniform).tolist()

    def _record(self, rows: list[InFlight]) -> None:
        """One more reading of each finished text for what rows asked to keep."""
        for row in rows:
            wanted = set(row.row.record_resid) | ({self.pair.reading_layer} if row.row.record else set())
            if wanted and row.tokens:
                _, streams = self._read_rows([row], wanted)
                first = len(row.prompt.ids)
                last = row.n_read - (row.n_new == row.row.sampling.max_new_tokens > 0)  # as if never read: see Response
                row.resid = {layer: [streams[layer][0, first:last]] for layer in row.row.record_resid}
                if row.row.record:
                    latents = torch.tensor(row.row.record, device=self.pair.sae.W_enc.device)
                    acts = self.pair.sae.encode(streams[self.pair.reading_layer][0, first:last], latents)
                    row.recorded = list(acts.float().cpu().numpy().astype(np.float32))
