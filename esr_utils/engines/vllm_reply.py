"""One row as a request to a vLLM server, and what comes back as a response, with the proof that its edits acted."""

import uuid
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float

from esr_utils.engines.base import InFlight, Response, StopReason, make_response
from esr_utils.engines.vllm_hook import Collect, RowHook
from esr_utils.engines.vllm_server import LostError, Server, ServerError, xargs
from esr_utils.models import Pair

MIN_TEMPERATURE = 0.01  # vLLM raises anything between 0 and this


@dataclass
class Reply:
    """New tokens of a row so far, why they ended, and what its hook saved."""

    tokens: list[int] = field(default_factory=list)
    reason: StopReason | None = None
    saved: dict[str, Any] = field(default_factory=dict)

    def add(self, choice: dict, server: Server, stop_ids: frozenset[int]) -> None:
        """Take in a reply, or a piece of one.

        Raises:
            LostError: the server gave the request up.
            ServerError: it sent no tokens.
        """
        tokens, finish = choice.get("token_ids"), choice.get("finish_reason")
        if tokens is None or finish not in (None, "stop", "length", "abort"):
            raise ServerError(f"{server.url} sent a reply without tokens ({str(choice)[:80]}); is it vLLM?")
        if finish == "abort":
            raise LostError(f"{server.url} gave a request up")
        self.reason = finish
        self.tokens += tokens[:-1] if finish == "stop" and tokens and tokens[-1] in stop_ids else tokens


def check(row: InFlight, pair: Pair, servers: list[Server]) -> None:
    """Raise a ValueError on what cannot be sent, or what these servers would refuse or do otherwise than asked."""
    if pair.sae.architecture == "topk" and (row.row.ablate or row.row.record):
        raise ValueError(
            f"{pair.sae.name} is a topk SAE, whose latents the vllm engine neither ablates nor records; use hf"
        )
    temperature, n_new = row.row.sampling.temperature, max(1, row.row.sampling.max_new_tokens)
    if 0 < temperature < MIN_TEMPERATURE:
        raise ValueError(
            f"vLLM does not sample at temperature {temperature}; take 0 (greedy) or {MIN_TEMPERATURE} and more"
        )
    for server in servers:
        if row.n_read + n_new > server.max_tokens:
            raise ValueError(
                f"row {row.index} needs {row.n_read + n_new} tokens and {server.url} reads {server.max_tokens}; "
                "start it with a larger --max-model-len or shorten the row"
            )


@dataclass
class Errand:
    """One row on its way through servers."""

    row: InFlight
    pair: Pair
    key: str | None = None
    reply: Reply = field(default_factory=Reply)

    def __post_init__(self) -> None:
        self.hook = RowHook(self.row, self.pair, key=self.key)

    def body(self) -> dict[str, Any]:
        """The row's request: every setting spelled out, so that none is the server's own.

        The salt is this request's alone: steered keys and values in the server's prefix cache are never found again.
        """
        sampling = self.row.row.sampling
        body = {
            "prompt": [*self.row.prompt.ids, *self.row.prompt.prefill],
            "max_tokens": max(1, sampling.max_new_tokens),
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": 0,
            "min_p": 0.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "repetition_penalty": sampling.repetition_penalty,
            "seed": self.row.row.seed % 2**63 if sampling.temperature else None,
            "stop_token_ids": sorted(self.pair.stop_ids),
            "ignore_eos": True,
            "return_token_ids": True,
            "cache_salt": uuid.uuid4().hex,
        }
        return body | self._carrying(self.hook)

    def scoring_body(self) -> dict[str, Any]:
        """The row's request, answered with the log-probability of each token that it was given."""
        return self.body() | {"max_tokens": 1, "prompt_logprobs": 0}

    def log_likelihoods(self, choice: dict, server: Server) -> Float[np.ndarray, " pos"]:
        """Of the row's prefill, from the reply to ``scoring_body``.

        Raises:
            ValueError: the row overflows.
            ServerError: its hook did not act, or the reply has no numbers.
        """
        told, n_prompt = choice.get("prompt_logprobs") or [], len(self.row.prompt.ids)
        if self.response(server).stop_reason == "overflow":
            raise ValueError(f"row {self.row.index} overflows the model's number format; lower its strength")
        try:
            read = [told[n_prompt + i][str(token)]["logprob"] for i, token in enumerate(self.row.prompt.prefill)]
        except (LookupError, TypeError):
            raise ServerError(f"{server.url} did not say how likely the text of row {self.row.index} is") from None
        return np.array(read, dtype=np.float32)

    def collect_body(self) -> dict[str, Any]:
        """A request of one token that brings back what the hook of the streamed one saved."""
        return {"prompt": [self.row.prompt.ids[0]], "max_tokens": 1} | self._carrying(Collect(self.key))

    def _carrying(self, hook: object) -> dict[str, Any]:
        return {"vllm_xargs": xargs(hook, self.hook.layers)} if self.hook.layers else {}

    def response(self, server: Server) -> Response:
        """The finished record of the row.

        Raises:
            ServerError: its hook did not act on every token that it had to.
        """
        row, saved, n_prompt = self.row, self.reply.saved, len(self.row.prompt.ids)
        row.tokens = [*row.prompt.prefill, *self.reply.tokens[: row.row.sampling.max_new_tokens]]
        reason = self.reply.reason if row.row.sampling.max_new_tokens else "length"
        n_read = n_prompt + len(row.tokens) - (reason in ("length", "cancelled") and row.n_new > 0)
        if self.reply.tokens or reason != "cancelled":
            self._prove(n_read, server, is_whole=reason != "cancelled")
        overflow = saved.get("overflow_at", n_read)
        if overflow < n_read:
            reason, n_read = "overflow", overflow + 1
            row.tokens = row.tokens[: max(len(row.prompt.prefill), n_read - n_prompt)]
        n_read -= n_prompt
        if "activations" in saved:
            row.recorded = list(saved["activations"][:n_read].numpy())
        row.resid = {
            layer: [saved[f"resid.{layer}"][:n_read]] for layer in row.row.record_resid if f"resid.{layer}" in saved
        }
        return make_response(row, reason, self.pair)

    def _prove(self, n_read: int, server: Server, *, is_whole: bool) -> None:
        """vLLM-lens skips a hook that fails and goes on, so each one has to show what it did."""
        row, saved = self.row, self.reply.saved
        for layer in self.hook.layers:
            n_seen = saved.get(f"read.{layer}", 0)
            if n_seen < n_read or (is_whole and n_seen > n_read + 1):  # vLLM may read one token beyond the end
                raise ServerError(
                    f"the hook at layer {layer} of row {row.index} saw {n_seen} of {n_read} tokens on {server.url}, "
                    "so responses of this call cannot be trusted; the server's log says what failed"
                )
            is_due = row.row.scope == "all" or n_read > len(row.prompt.ids)
            if is_due and layer in row.delta and bool(row.delta[layer].any()) and not saved[f"moved.{layer}"]:
                raise ServerError(
                    f"the steering of row {row.index} changed nothing at layer {layer} on {server.url}; a strength "
                    "this small is lost in the model's number format"
                )
