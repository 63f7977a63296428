"""Generation inside a model that NDIF serves: a batch of rows is one request, whatever the length of its responses.

What travels there: token ids, each row's vector, the SAE columns of the latents that are ablated or recorded, the
random numbers, and the source of ``shipped``. What travels back: the drawn tokens and what rows asked to record; never
logits. Weights are not needed here: ``load_pair(name, weights=False)`` will do.

Never run against NDIF itself: tested with its client against a server of the same routes on this machine. nnsight
unpickles what the server answers, so use only a server you trust.
"""

import inspect
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import torch
from pydantic import ValidationError
from torch import Tensor

from esr_utils.engines import shipped
from esr_utils.engines.base import (
    Capabilities,
    InFlight,
    OnResponse,
    OnToken,
    Response,
    StopReason,
    in_flight,
    make_response,
)
from esr_utils.engines.ndif_checks import NDIFError, Service
from esr_utils.engines.nnsight import load_before_nnsight
from esr_utils.models import Pair
from esr_utils.sae import SAE
from esr_utils.steering import Interventions, LayerEdit, Row

NO_NUMBER = -1  # what ``shipped.drawn`` says of a row that overflowed


@dataclass(frozen=True)
class Estimate:
    """What a run will take, if every request takes as long as the first did, queue included."""

    seconds: float
    n_measured: int
    n_rows: int

    def __str__(self) -> str:
        a_row = self.seconds / self.n_measured
        return (
            f"the first {self.n_measured} rows took {self.seconds:.1f} s ({a_row:.1f} s a row); "
            f"at that rate {self.n_rows} rows take {a_row * self.n_rows / 60:.0f} minutes"
        )


class NDIFEngine:
    """Rows in requests of ``batch_size``; a request that fails loses its own rows only.

    Tokens are reported when their request is back, and a stop event is seen between requests.

    Args:
        service: where to send requests; None runs them on the pair's own model, for tests.
    """

    name = "ndif"

    def __init__(self, pair: Pair, service: Service | None, *, batch_size: int = 8):
        load_before_nnsight()
        from nnsight import TransformersModel

        if batch_size < 1:
            raise ValueError(f"batch_size {batch_size} is not a positive number")
        self.pair, self.service, self.batch_size = pair, service, batch_size
        self.model = TransformersModel(
            pair.model, tokenizer=pair.tokenizer, task="text-generation", device=pair.model.device
        )

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
        """Responses in the order of ``rows``; see ``Engine``. The first request of several times the rest.

        Raises:
            NDIFError: a request failed; the responses before it have been reported.
        """
        for row in rows:
            _check_sendable(row, self.pair.sae)
        ready, responses = in_flight(rows, self.pair), []
        for start in range(0, len(ready), self.batch_size):
            group = ready[start : start + self.batch_size]
            began, is_stopped = time.perf_counter(), bool(stop and stop.is_set())
            reasons: list[StopReason] = ["cancelled"] * len(group) if is_stopped else self._run(group)
            for row, reason in zip(group, reasons, strict=True):
                responses.append(_report(row, make_response(row, reason, self.pair), on_token, on_response))
            if start == 0 and len(ready) > len(group) and not is_stopped:
                measured = Estimate(time.perf_counter() - began, len(group), len(ready))
                warnings.warn(f"{self.pair.name} on {self.name}: {measured}", stacklevel=2)
        return responses

    def _run(self, group: list[InFlight]) -> list[StopReason]:
        """Send a batch and put what comes back into its rows."""
        answers = self._send(_jobs(group, self.pair), max(1, *(row.row.sampling.max_new_tokens for row in group)))
        for row, answer in zip(group, answers, strict=True):
            row.tokens.extend(token for token in answer["tokens"] if token not in (NO_NUMBER, *self.pair.stop_ids))
            row.recorded = list(answer["acts"].numpy()) if row.row.record else []
            row.resid = {layer: [resid] for layer, resid in answer["resid"].items()}
        return [self._reason(row, answer["tokens"]) for row, answer in zip(group, answers, strict=True)]

    def _reason(self, row: InFlight, tokens: list[int]) -> StopReason:
        if tokens and tokens[-1] == NO_NUMBER:
            return "overflow"
        return "stop" if tokens and tokens[-1] in self.pair.stop_ids else "length"

    def _send(self, jobs: list[dict], n_steps: int) -> list[dict]:
        """One traced generation: at each step edit, record, draw, and make the server's greedy choice the drawn token.

        The block is sent as source; it may name plain values, ``torch``, ``nnsight`` and ``shipped`` only.
        """
        import nnsight

        names = ("visited", "chosen", "gathered", "edited", "activations", "drawn")
        visited, chosen, gathered, edited, activations, drawn = (inspect.unwrap(getattr(shipped, n)) for n in names)
        nnsight.register(shipped)
        decoder = self.model.model
        blocks = decoder.language_model.layers if hasattr(self.pair.model.model, "language_model") else decoder.layers
        head, ends = self.model.lm_head, [self.pair.end_of_turn, *sorted(self.pair.stop_ids)]
        options = {"do_sample": False, "repetition_penalty": 1.0, "eos_token_id": ends, "max_new_tokens": n_steps}
        cap = getattr(self.pair.text_config, "final_logit_softcapping", None)
        with self._explained(), self.model.generate(**options, **self._destination()) as tracer:
            answers = nnsight.save([{"tokens": [], "acts": [], "resid": {}} for _ in jobs])
            for i, job in enumerate(jobs):
                with tracer.invoke(job["ids"]):
                    answer, layers = answers[i], job["layers"]
                    for step in tracer.iter[: max(1, job["n_new"])]:
                        for layer in layers:
                            resid = blocks[layer].output
                            resid = visited(resid, layer, step, job, answer, edited, activations)
                            if layer in job["edits"]:
                                blocks[layer].output = resid
                        logits = head.output
                        token = chosen(logits, step, job, answer, cap, drawn)
                        is_last = step + 1 >= job["n_new"] or token == -1 or token in ends
                        forced = torch.full_like(logits, -1e4)
                        forced[:, -1, ends[0] if is_last else token] = 1e4
                        head.output = forced
                        if is_last:
                            gathered(answer)
                            break
        return answers

    def _destination(self) -> dict:
        """Where nnsight runs the trace: on the service, or here."""
        if self.service is None:
            return {}
        from nnsight.intervention.backends.remote import RemoteBackend

        attention = {"attn_implementation": self.model.attn_implementation}
        service = self.service
        return {"backend": RemoteBackend(service.model_key, service.host, service.api_key or None, attention)}

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Failures of the way there and back as one sentence; nnsight reads a closed connection as an empty status."""
        import httpx
        from nnsight.intervention.backends.remote import RemoteError
        from websocket import WebSocketException

        host = self.service.host if self.service else "this process"
        try:
            yield
        except RemoteError as error:
            last = (str(error).strip().splitlines() or ["no reason given"])[-1]
            raise NDIFError(f"{host} did not do the job: {last}; what was finished before is kept") from error
        except (WebSocketException, httpx.HTTPError, OSError, ValidationError) as error:
            told = "it closed" if isinstance(error, ValidationError) else str(error) or type(error).__name__
            raise NDIFError(f"the connection to {host} was lost ({told}); run the cell again to go on") from error


def _report(row: InFlight, response: Response, on_token: OnToken | None, on_response: OnResponse | None) -> Response:
    if on_token:
        for token in response.token_ids[response.n_prefill :]:
            on_token(row.index, token)
    if on_response:
        on_response(row.index, response)
    return response


def _check_sendable(row: Row, sae: SAE) -> None:
    if sae.architecture == "topk" and (row.ablate or row.record):
        raise ValueError(
            f"{sae.name} is a topk SAE: reading one latent takes all of them, and a whole SAE is not sent; "
            "steer only, or run the pair on this machine"
        )


def _columns(sae: SAE, latents: Tensor) -> dict[str, Tensor | None]:
    """The part of the SAE that reads ``latents``."""
    return {
        "W_enc": sae.W_enc[:, latents],
        "b_enc": sae.b_enc[latents],
        "threshold": None if sae.threshold is None else sae.threshold[latents],
        "b_dec": sae.b_dec if sae.apply_b_dec_to_input else None,
    }


def _jobs(group: list[InFlight], pair: Pair) -> list[dict]:
    """What is sent for each row, in plain values; columns that rows share travel once."""
    interventions = Interventions([row.row for row in group], pair, [row.delta for row in group])
    shared = {
        layer: {"columns": _columns(pair.sae, edit.latents), "directions": pair.sae.W_dec[edit.latents]}
        for layer, edit in interventions.edits.items()
    }
    recorded = {
        latents: _columns(pair.sae, torch.tensor(latents, dtype=torch.long))
        for latents in {row.row.record for row in group}
    }
    return [
        {
            "ids": [*row.prompt.ids, *row.tokens],
            "n_prefill": len(row.tokens),
            "n_new": row.row.sampling.max_new_tokens,
            "spares_prompt": row.row.scope == "generated",
            "edits": {layer: _edit_of(edit, i, shared[layer]) for layer, edit in interventions.edits.items()},
            "recorded": recorded[row.row.record],
            "reading_layer": pair.reading_layer if row.row.record else None,
            "kept": list(row.row.record_resid),
            "layers": sorted(
                {*interventions.edits, *row.row.record_resid, *([pair.reading_layer] if row.row.record else [])}
            ),
            "uniforms": row.uniforms.tolist(),
            "sampling": asdict(row.row.sampling),
        }
        for i, row in enumerate(group)
    ]


def _edit_of(edit: LayerEdit, i: int, shared: dict) -> dict:
    """One row's part of a layer's edit."""
    before, after = (share[i] if share[i].any() else None for share in (edit.before, edit.after))
    return {"delta": edit.delta[i], "before": before, "after": after, **shared}
