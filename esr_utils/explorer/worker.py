"""One job at a time, off the main thread: a click during a job queues or cancels, and nothing is interleaved."""

import ctypes
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field


@dataclass(eq=False, kw_only=True)
class Job:
    """What a running job may look at.

    Attributes:
        is_long: whether it makes answers, so that it can be stopped and gives way to the next of the kind.
        stop: set when it is to end early.
        is_replaced: whether a later one took its place, so that its result is wanted no more.
    """

    kind: str
    is_long: bool = False
    stop: threading.Event = field(default_factory=threading.Event)
    is_replaced: bool = False


Work = Callable[[Job], None]


class Inline(Executor):
    """Does a job at once, in the thread that asks: for front ends that take no messages from another one (Colab)."""

    def submit(self, work: Work, job: Job) -> Future:
        future: Future = Future()
        try:
            future.set_result(work(job))
        except Exception as error:  # as every executor does: it belongs to whoever asks the future
            future.set_exception(error)
        return future


def best_executor() -> Executor:
    """A thread of its own, or none where the front end would not hear it."""
    if "google.colab" in sys.modules:
        return Inline()
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix="explorer")


class Worker:
    """Jobs in the order they are given.

    Args:
        on_change: told after every job: how many are left, and what went wrong in a sentence (empty: nothing).
    """

    def __init__(self, on_change: Callable[[int, str], None], *, executor: Executor | None = None):
        self.on_change = on_change
        self._executor = executor or best_executor()
        self._lock = threading.Lock()
        self._jobs: dict[Job, Future | None] = {}

    def submit(self, kind: str, work: Work, *, is_long: bool = False) -> Future:
        """Queue a job. A long one stops and replaces every other long one; any replaces those of its kind that wait."""
        job = Job(kind=kind, is_long=is_long)
        with self._lock:
            before = list(self._jobs.items())
            self._jobs[job] = None
        for other, future in before:
            is_waiting = future is not None and not future.running()
            if (is_long and other.is_long) or (other.kind == kind and is_waiting):
                other.is_replaced = True
                _stop(other, future)
        future = self._executor.submit(work, job)
        with self._lock:
            self._jobs[job] = future
        future.add_done_callback(lambda done: self._end(job, done))
        return future

    def stop(self) -> None:
        """Have the long job that runs end with what it has, and drop those that wait."""
        with self._lock:
            jobs = list(self._jobs.items())
        for job, future in jobs:
            if job.is_long:
                _stop(job, future)

    def _end(self, job: Job, future: Future) -> None:
        with self._lock:
            self._jobs.pop(job)
            n_left = len(self._jobs)
        error = None if future.cancelled() else future.exception()
        self.on_change(n_left, sentence(error) if error and not job.is_replaced else "")
        give_memory_back()


def give_memory_back() -> None:
    """Return to the system what jobs have freed: glibc keeps it in pieces, which add up in a long session."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # macOS has none
    if trim:
        trim(0)


def _stop(job: Job, future: Future | None) -> None:
    job.stop.set()
    if future:
        future.cancel()


def sentence(error: BaseException) -> str:
    """What a reader is told of an error: the kit's own errors are sentences, others are named."""
    told = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    return told if isinstance(error, ValueError) else f"this failed ({type(error).__name__}: {told or 'no message'})"
