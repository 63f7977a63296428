"""Rows spread over servers: each takes the next row as a place gets free, and one that is lost gives its rows back."""

import asyncio
import threading
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any

import httpx

from esr_utils.engines.vllm_server import LostError, Server, ServerError

MAX_TRIES = 5  # of one row, wherever
REST_S, MAX_REST_S = 0.25, 8.0
TICK_S = 0.2  # how soon a stop or the end of a rest is noticed

Work = Callable[[Server, httpx.AsyncClient, int], Awaitable[None]]


@dataclass
class Place:
    """One server during one round of work."""

    server: Server
    client: httpx.AsyncClient
    flying: dict[asyncio.Task, int] = field(default_factory=dict)
    started: dict[asyncio.Task, float] = field(default_factory=dict)
    lost_since: float | None = None
    last_loss: float = 0.0
    n_losses: int = 0
    rests_until: float = 0.0
    reason: str = ""

    def lose(self, task: asyncio.Task, error: LostError) -> None:
        """Rest, longer each time. What was under way when the connection broke is one loss, not many."""
        now = time.monotonic()
        if self.started[task] >= self.last_loss:
            self.lost_since = self.lost_since or now
            self.rests_until = now + min(REST_S * 2**self.n_losses, MAX_REST_S)
            self.n_losses, self.last_loss = self.n_losses + 1, now
        self.reason = str(error)

    def recover(self) -> None:
        self.lost_since, self.n_losses, self.rests_until = None, 0, 0.0

    def is_given_up(self, patience_s: float) -> bool:
        return self.lost_since is not None and time.monotonic() - self.lost_since > patience_s


class Pool:
    """Servers that share work, ``n_at_once`` pieces each.

    Args:
        patience_s: how long a server that was lost is tried again before it is given up for this round.
    """

    def __init__(self, servers: Sequence[Server], *, n_at_once: int, patience_s: float):
        self.servers, self.n_at_once, self.patience_s = list(servers), n_at_once, patience_s

    async def run(self, indices: Sequence[int], work: Work, stop: threading.Event | None) -> None:
        """Do ``work`` for every index; once ``stop`` is set, nothing more is begun.

        Raises:
            ServerError: no server is left, or one piece of work failed wherever it was tried.
        """
        waiting, tries = deque(indices), Counter()
        async with AsyncExitStack() as stack:
            places = [Place(server, await stack.enter_async_context(server.client())) for server in self.servers]
            try:
                while waiting or any(place.flying for place in places):
                    if stop and stop.is_set():
                        waiting.clear()
                    self._begin(places, waiting, work)
                    await self._settle(places, waiting, tries)
            finally:
                left = [task for place in places for task in place.flying]
                for task in left:
                    task.cancel()
                await asyncio.gather(*left, return_exceptions=True)

    def _begin(self, places: list[Place], waiting: deque[int], work: Work) -> None:
        """Give waiting pieces to the places, the emptiest first."""
        while waiting:
            now = time.monotonic()
            free = [p for p in places if len(p.flying) < self.n_at_once and p.rests_until <= now]
            free = [p for p in free if not p.is_given_up(self.patience_s)]
            if not free:
                break
            place, index = min(free, key=lambda p: len(p.flying)), waiting.popleft()
            task = asyncio.ensure_future(work(place.server, place.client, index))
            place.flying[task], place.started[task] = index, now
        if waiting and not any(p.flying for p in places) and all(p.is_given_up(self.patience_s) for p in places):
            raise ServerError(
                f"no server is left ({'; '.join(sorted({p.reason for p in places}))}); what was finished is kept: "
                "start a server and run this again"
            )

    async def _settle(self, places: list[Place], waiting: deque[int], tries: Counter) -> None:
        """Wait for a piece to end, and put those of a lost server back in front."""
        flying = [task for place in places for task in place.flying]
        if not flying:
            await asyncio.sleep(TICK_S if waiting else 0)
            return
        done, _ = await asyncio.wait(flying, timeout=TICK_S, return_when=asyncio.FIRST_COMPLETED)
        for place in places:
            for task in done & place.flying.keys():
                index, error = place.flying.pop(task), task.exception()
                if error is None:
                    place.recover()
                elif isinstance(error, LostError) and tries[index] + 1 < MAX_TRIES:
                    place.lose(task, error)
                    tries[index] += 1
                    waiting.appendleft(index)
                else:
                    raise error
                del place.started[task]


@contextmanager
def in_thread(work: Callable[[Callable[[Any], None]], Awaitable[None]]) -> Iterator[Iterator[Any]]:
    """What ``work`` emits in an event loop of its own (a notebook's runs already), for this thread to handle.

    Leaving the block early cancels the work, which closes its connections, so the servers drop what is under way.
    """
    events: SimpleQueue = SimpleQueue()
    loop = asyncio.new_event_loop()
    task = loop.create_task(work(lambda event: events.put((event,))))
    task.add_done_callback(lambda _: events.put(None))
    thread = threading.Thread(target=_run, args=(loop, task), daemon=True)
    thread.start()

    def each() -> Iterator[Any]:
        while (event := events.get()) is not None:
            yield event[0]
        if not task.cancelled() and task.exception():
            raise task.exception()

    try:
        yield each()
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join()
        loop.close()


def _run(loop: asyncio.AbstractEventLoop, task: asyncio.Task) -> None:
    loop.run_until_complete(asyncio.wait([task]))
    loop.run_until_complete(loop.shutdown_asyncgens())
