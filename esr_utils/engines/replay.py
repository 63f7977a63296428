"""Answers from responses that were made before: for tests, and for figures without a model."""

import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from hashlib import sha256

from esr_utils.engines.base import Capabilities, OnResponse, OnToken, Response, tokenize
from esr_utils.models import Pair
from esr_utils.steering import Row


def row_key(row: Row, pair: Pair) -> str:
    """What a response depends on, as one hash: two rows with the same key are the same row."""
    prompt = tokenize(row, pair)
    steer = [
        [
            float(s.strength),
            None if s.latent is None else int(s.latent),
            pair.steering_layer if s.layer is None else s.layer,
            None if s.direction is None else s.direction.double().tolist(),
        ]
        for s in row.steer
    ]
    ablate = [
        [[int(x) for x in a.latents], float(a.share), a.order, pair.reading_layer if a.layer is None else a.layer]
        for a in row.ablate
    ]
    sampling = {name: float(value) for name, value in asdict(row.sampling).items()}
    content = [pair.name, str(pair.model.dtype), prompt.ids, prompt.prefill, steer, ablate, row.scope, int(row.seed)]
    return sha256(json.dumps([*content, sampling]).encode()).hexdigest()[:32]


class ReplayEngine:
    """Serves ``recorded`` responses by ``row_key``; a row that was never recorded is an error, not a guess."""

    name = "replay"

    def __init__(self, pair: Pair, recorded: Mapping[str, Response]):
        self.pair, self.recorded = pair, dict(recorded)

    @classmethod
    def of(cls, pair: Pair, rows: Sequence[Row], responses: Sequence[Response]) -> "ReplayEngine":
        keys = [row_key(row, pair) for row in rows]
        return cls(pair, dict(zip(keys, responses, strict=True)))

    def capabilities(self) -> Capabilities:
        return Capabilities(scores_text=False, has_weights=False)

    def generate(
        self,
        rows: Sequence[Row],
        *,
        on_token: OnToken | None = None,
        on_response: OnResponse | None = None,
        stop: threading.Event | None = None,
    ) -> list[Response]:
        """The recorded responses, in the order of ``rows``.

        Raises:
            KeyError: a row has no recorded response, or one without what the row asks to record.
        """
        responses = []
        for i, row in enumerate(rows):
            key = row_key(row, self.pair)
            if key not in self.recorded:
                raise KeyError(f"row {i} was never recorded (seed {row.seed}); generate it with another engine first")
            response = self.recorded[key]
            _check_recorded(i, row, response)
            responses.append(response)
            for token in response.token_ids[response.n_prefill :] if on_token else ():
                on_token(i, token)
            if on_response:
                on_response(i, response)
        return responses


def _check_recorded(i: int, row: Row, response: Response) -> None:
    latents = [latent for latent in row.record if latent not in response.activations]
    layers = [layer for layer in row.record_resid if layer not in response.resid]
    if latents or layers:
        raise KeyError(
            f"the response to row {i} was recorded without latents {latents} and layers {layers} that it asks for; "
            "generate it again with another engine"
        )
