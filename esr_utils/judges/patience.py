"""How patient a judge is with its server: limits, retries, and an end to them where nothing gets through."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt, stop_any, stop_when_event_set
from tenacity.nap import sleep_using_event
from tenacity.wait import wait_exponential_jitter

from esr_utils.judges.errors import KEPT, DeclinedError, JudgeError, UnavailableError, UnreachableError

N_UNREACHED = 5  # requests in a row, each with all of its tries, that find no connection before a judge stops


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much a judge asks at once and how patient it is.

    Attributes:
        concurrency: requests under way at once.
        timeout_s: without a sign from the server, per try.
        n_tries: times one request is sent while the server fails (429, 5xx, no connection, no answer in time).
        n_asks: replies asked for until one can be read.
        first_wait_s: before the second try; doubles with each, plus a random part. What the server asks for is added.
        longest_wait_s: a server that asks for more is not waited for.
    """

    concurrency: int = 8
    timeout_s: float = 120.0
    n_tries: int = 5
    n_asks: int = 3
    first_wait_s: float = 1.0
    longest_wait_s: float = 60.0

    def __post_init__(self) -> None:
        if min(self.concurrency, self.n_tries, self.n_asks) < 1 or min(self.timeout_s, self.first_wait_s) <= 0:
            raise ValueError("concurrency, n_tries, n_asks, timeout_s and first_wait_s must be positive")

    def retrying(self, stop: threading.Event) -> Retrying:
        """Calls a function again while it raises ``UnavailableError``, unless ``stop`` is set meanwhile."""
        return Retrying(
            retry=retry_if_exception(self._may_pass),
            stop=stop_any(stop_after_attempt(self.n_tries), stop_when_event_set(stop)),
            wait=self._wait_s,
            sleep=sleep_using_event(stop),
            reraise=True,
        )

    def _may_pass(self, error: BaseException) -> bool:
        return isinstance(error, UnavailableError) and error.wait_s <= self.longest_wait_s

    def _wait_s(self, state: RetryCallState) -> float:
        first, longest = self.first_wait_s, self.longest_wait_s
        backoff = wait_exponential_jitter(multiplier=first, max=longest, jitter=first)(state)
        return backoff + state.outcome.exception().wait_s


class Line:
    """Counts the requests in a row that found no connection, over all calls of a judge. Threads share it."""

    def __init__(self) -> None:
        self._n_unreached = 0
        self._lock = threading.Lock()

    @contextmanager
    def watched(self, stop: threading.Event) -> Iterator[None]:
        """Around one request with its tries; one that ``stop`` cut short does not count.

        Raises:
            JudgeError: this is the last of ``N_UNREACHED`` requests in a row without a connection, or comes after it.
        """
        try:
            yield
        except UnreachableError as error:
            if not stop.is_set():
                self._lose(error)
            raise
        except (UnavailableError, DeclinedError):
            self._n_unreached = 0
            raise
        else:
            self._n_unreached = 0

    def _lose(self, error: UnreachableError) -> None:
        with self._lock:
            self._n_unreached += 1
            if self._n_unreached >= N_UNREACHED:
                raise JudgeError(
                    f"{error}, {self._n_unreached} requests in a row; see that the server runs and that base_url is "
                    f"right, and judge again: {KEPT}"
                ) from None
