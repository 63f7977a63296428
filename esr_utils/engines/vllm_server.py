"""One vLLM server with vllm-lens, as seen from here: its requests, its replies, and whether it serves this pair."""

import base64
import ipaddress
import json
import os
import pickle
import warnings
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import torch
import zstandard
from torch import Tensor

from esr_utils import __version__
from esr_utils.engines.vllm_hook import Probe
from esr_utils.models import Pair

VERSIONS = {"vllm": "0.30.", "vllm-lens": "1.3.", "kit": __version__}  # what the hooks were written for
REPLY_S, CONNECT_S = 900.0, 10.0
KEY_VARIABLE = "VLLM_API_KEY"
DTYPES = {f"torch.{name}": getattr(torch, name) for name in ("float32", "float16", "bfloat16")}


class ServerError(RuntimeError):
    """A server cannot be used; the message says what to do."""


class LostError(ServerError):
    """The connection broke, or the server failed on its own side: the same request may succeed later or elsewhere."""


class Server:
    """One address. Replies are read as JSON and numbers; nothing that came over the wire is unpickled."""

    def __init__(self, url: str):
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is not an address such as http://127.0.0.1:8000")
        self.url, self.model = url.rstrip("/"), ""
        self.max_tokens = 0
        self.is_local = _is_loopback(parts.hostname)
        if not self.is_local:
            warnings.warn(
                f"{self.url} is not on this machine: hooks run code there for anyone who can reach it, so use it only "
                "on a network that you trust",
                stacklevel=3,
            )

    def client(self) -> httpx.AsyncClient:
        """Connections for one round of work; proxies are for other hosts."""
        key = os.environ.get(KEY_VARIABLE)
        return httpx.AsyncClient(
            base_url=self.url,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(REPLY_S, connect=CONNECT_S, pool=None),
            limits=httpx.Limits(max_connections=None),
            trust_env=not self.is_local,
        )

    async def check(self, pair: Pair) -> None:
        """Raise a ServerError unless it can be reached, serves this pair and has the versions the kit is made for."""
        async with self.client() as client:
            listed = await self._listed(client)
            names = [entry.get("id") for entry in listed]
            if pair.name not in names:
                raise ServerError(
                    f"{self.url} serves {', '.join(map(str, names))} and not {pair.name}; start it with "
                    f"--served-model-name {pair.name}"
                )
            self.model = pair.name
            self.max_tokens = int(listed[names.index(pair.name)].get("max_model_len") or pair.context_tokens)
            body = {"prompt": [0], "max_tokens": 1, "vllm_xargs": xargs(Probe(), [0])}
            self._check_told(saved(await self.complete(client, body)), pair)

    async def _listed(self, client: httpx.AsyncClient) -> list[dict]:
        try:
            reply = self._json(await client.get("/v1/models"))
        except httpx.TransportError as error:
            raise ServerError(
                f"no server answers at {self.url} ({type(error).__name__}); start one as the README says"
            ) from None
        if not isinstance(reply.get("data"), list):
            raise ServerError(f"{self.url} does not list its models, so it is not a vLLM server")
        return reply["data"]

    def _check_told(self, told: dict[str, Any], pair: Pair) -> None:
        if not told:
            raise ServerError(f"{self.url} ran no hook: it is not vLLM with vllm-lens, or it is not in eager mode")
        for name, wanted in VERSIONS.items():
            if not str(told.get(name)).startswith(wanted):
                what = "esr_utils" if name == "kit" else name
                raise ServerError(
                    f"{self.url} runs {what} {told.get(name)}, and this kit is written for {wanted}*; "
                    "make its environment from environment-vllm.yml"
                )
        shape = (told.get("d_model"), told.get("n_layers"))
        if shape != (pair.d_model, pair.n_layers):
            raise ServerError(
                f"{self.url} calls its model {pair.name}, but that has d_model {pair.d_model} and {pair.n_layers} "
                f"layers, and this one {shape[0]} and {shape[1]}; start the server with the pair's own model"
            )

    async def complete(self, client: httpx.AsyncClient, body: dict) -> dict:
        """The whole reply to one request.

        Raises:
            LostError: the connection broke or the server failed.
            ServerError: it refused the request, or its reply is not one.
        """
        try:
            return self._json(await client.post("/v1/completions", json={"model": self.model} | body))
        except httpx.TransportError as error:
            raise LostError(f"{self.url} was lost ({type(error).__name__})") from None

    async def stream(self, client: httpx.AsyncClient, body: dict) -> AsyncIterator[dict]:
        """The pieces of a reply as they come; see ``complete``. Leaving early ends the request."""
        body = {"model": self.model, "stream": True} | body
        try:
            async with client.stream("POST", "/v1/completions", json=body) as response:
                if response.status_code != httpx.codes.OK:
                    await response.aread()
                    self._json(response)
                async with aclosing(self._pieces(response)) as pieces:
                    async for piece in pieces:
                        yield piece
        except httpx.TransportError as error:
            raise LostError(f"{self.url} was lost ({type(error).__name__})") from None

    async def _pieces(self, response: httpx.Response) -> AsyncIterator[dict]:
        async for line in response.aiter_lines():
            if line == "data: [DONE]":
                return
            if line.startswith("data: "):
                yield self._parsed(line.removeprefix("data: "))
        raise LostError(f"{self.url} ended a reply in its middle")

    def _json(self, response: httpx.Response) -> dict:
        if response.status_code >= httpx.codes.INTERNAL_SERVER_ERROR:
            raise LostError(self._explained(response))
        if response.status_code != httpx.codes.OK:
            raise ServerError(self._explained(response))
        return self._parsed(response.text)

    def _parsed(self, text: str) -> dict:
        try:
            reply = json.loads(text)
        except json.JSONDecodeError:
            reply = None
        if not isinstance(reply, dict):
            raise ServerError(f"{self.url} sent something that is not a reply ({text[:60]!r}); is it a vLLM server?")
        if "error" in reply:
            raise LostError(f"{self.url} failed ({_message(reply)})")
        return reply

    def _explained(self, response: httpx.Response) -> str:
        """What a refusal says, and what to do about those that users meet."""
        if response.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            return f"{self.url} asks for a key; put it into the environment variable {KEY_VARIABLE}"
        try:
            message = _message(response.json())
        except json.JSONDecodeError:
            message = response.text[:200]
        if "esr_utils" in message:
            return f"{self.url} cannot find esr_utils; start it with PYTHONPATH set to this repository ({message})"
        return f"{self.url} answered with status {response.status_code} ({message})"


def _message(reply: Any) -> str:
    error = reply.get("error", reply) if isinstance(reply, dict) else reply
    return str(error.get("message", error) if isinstance(error, dict) else error)[:300]


def xargs(hook: object, layers: list[int]) -> dict[str, str]:
    """The extra arguments of a request that carry one hook."""
    packed = base64.b64encode(pickle.dumps(hook)).decode()
    return {"apply_hooks": json.dumps([{"fn": {"cloudpickle": packed}, "layer_indices": layers}])}


def saved(reply: dict) -> dict[str, Any]:
    """What the hook of a request saved: numbers, words and tensors by name."""
    told = (reply.get("hook_results") or {}).get("0", {})
    return {name: _tensor(value) if isinstance(value, dict) else value for name, value in told.items()}


def _tensor(packed: dict) -> Tensor:
    """A tensor as vllm-lens sends it: zstd-compressed bytes in base64, bfloat16 as int16."""
    if packed.get("__type__") != "tensor":
        raise ServerError(f"a hook sent a {packed.get('__type__')} back where the kit saves numbers only")
    raw = zstandard.ZstdDecompressor().decompress(base64.b64decode(packed["data"]))
    stored = torch.from_numpy(np.frombuffer(raw, dtype=packed["dtype"]).reshape(packed["shape"]).copy())
    dtype = DTYPES[packed["original_dtype"]]
    return stored.view(dtype) if stored.dtype == torch.int16 else stored.to(dtype)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
