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
    ) -> tuple[Float[Tensor, "batch pos vocab"], Float[Tensor, "batch pos d_model"]]:
        """Logits, and the residual stream at the reading layer after every edit, of right-padded texts."""

    def capabilities(self) -> Capabilities:
        return Capabilities(streams=True, batches=True, scores_text=False)

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

    def _read_rows(self, rows: list[InFlight]) -> tuple[Tensor, Tensor]:
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
        return self.read(ids.to(device), is_token.to(device), edits, edits.in_scope(is_response.to(device)))

    def _next_tokens(self, rows: list[InFlight]) -> list[int]:
        logits, _ = self._read_rows(rows)
        last = torch.tensor([row.n_read - 1 for row in rows], device=logits.device)
        texts = [[*row.prompt.ids, *row.tokens] for row in rows]
        longest = max(map(len, texts))
        seen = torch.tensor([text + text[:1] * (longest - len(text)) for text in texts], device=logits.device)
        uniform = torch.tensor([row.uniforms[row.n_new] for row in rows], device=logits.device)
        sampler = Sampler([row.row for row in rows], logits.device)
        return sampler.draw(logits[torch.arange(len(rows)), last], seen, uniform).tolist()

    def _record(self, rows: list[InFlight]) -> None:
        """One more reading of each finished text for the activations that rows asked for."""
        for row in rows:
            if row.row.record and row.tokens:
                _, resid = self._read_rows([row])
                n_read = row.n_read - len(row.prompt.ids)
                n_read -= row.n_new == row.row.sampling.max_new_tokens > 0  # as if never read: see Response
                latents = torch.tensor(row.row.record, device=resid.device)
                response = resid[0, len(row.prompt.ids) : len(row.prompt.ids) + n_read]
                row.recorded = list(self.pair.sae.encode(response, latents).float().cpu().numpy().astype(np.float32))
