"""What remote judges share: a cache, parallel requests with bounded retries, the cost, a budget. Knows no SDK."""

import os
import re
import threading
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from hashlib import sha256
from ipaddress import ip_address
from json import JSONDecodeError
from time import perf_counter
from types import ModuleType
from typing import Any, ClassVar
from urllib.parse import urlsplit

from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt, stop_any, stop_when_event_set
from tenacity.nap import sleep_using_event
from tenacity.wait import wait_exponential_jitter
from tqdm.auto import tqdm

from esr_utils.judges.cache import Cache, cache_key
from esr_utils.judges.replies import SCHEMA, Reply, UnreadableError, read_reply
from esr_utils.judges.rubric import FAITHFUL, STRUCTURED, Prompt, Rubric
from esr_utils.judging import Case, Verdict

CHARS_PER_TOKEN = 3.5  # a little under what English text has, so that estimates err on the high side
TOKENS_BESIDE_ATTEMPTS = {"structured": 100, "faithful": 300}  # in a reply: comments, field names, scores
DATE = "-20251001"  # of the default Claude; left out of names. Other dates stay: snapshots must not share a file
RETRIED = (408, 409, 425, 429)  # and all from 500 on
_SCHEMA_WORDS = re.compile(r"response_format|json_schema|output_config|structured|schema|grammar|guided", re.I)
_NO_CREDIT = re.compile(r"insufficient_quota|insufficient credit|credit balance", re.I)


class JudgeError(RuntimeError):
    """No response can be judged as things are; the message says what to do."""


class BudgetError(JudgeError):
    """``max_usd`` is spent. What was paid for is in the cache."""


class UnavailableError(Exception):
    """One request failed in a way that may pass. ``wait_s``: how long the server asks to wait, 0 if it does not."""

    def __init__(self, reason: str, *, wait_s: float = 0.0):
        super().__init__(reason)
        self.wait_s = wait_s


class DeclinedError(Exception):
    """One request is refused for good; others may not be."""


class NoSchemaError(Exception):
    """The server does not take a JSON schema."""


@dataclass(frozen=True, kw_only=True)
class Price:
    """US dollars per million tokens."""

    input_usd: float
    output_usd: float

    def usd(self, input_tokens: int, output_tokens: int) -> float:
        return (self.input_usd * input_tokens + self.output_usd * output_tokens) / 1e6


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


@dataclass(frozen=True, kw_only=True)
class Spent:
    """Replies received so far, their tokens, and dollars (None if the price is not known)."""

    n_replies: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    usd: float | None = None


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What judging would take, if every first reply can be read. Cached and empty responses cost nothing."""

    n_calls: int
    n_cached: int
    n_empty: int
    input_tokens: int
    output_tokens: int
    usd: float | None

    def __str__(self) -> str:
        cost = "at an unknown price (give the judge a Price)" if self.usd is None else f"about {self.usd:.2f} USD"
        return (
            f"{self.n_calls:,} calls ({self.n_cached:,} more are cached, {self.n_empty:,} responses are empty), about "
            f"{self.input_tokens:,} input and {self.output_tokens:,} output tokens, {cost}"
        )


@dataclass(kw_only=True, repr=False, eq=False)
class RemoteJudge(ABC):
    """A language model behind an HTTP interface. Each kind of interface says how to open a client and send a prompt.

    Attributes:
        model: as the server names it.
        base_url: of the server. On this machine or a private network it needs no key.
        rubric: what the judge is told, and the form of its reply.
        temperature: None leaves it out, for models that refuse it; their verdicts vary from run to run.
        max_tokens: of a reply, which holds the response once more.
        repeat: a number that tells repeats of the same judgement apart, for test-retest agreement.
        cache: by default in memory, so that a second call with this object is free, too.
        price: without it, costs are not known and ``max_usd`` cannot be kept to.
        max_usd: for all calls of this object; requests that would go beyond are not sent. Can be raised later.
        spent: running total of this object. Tries that failed are not in it, though a server may bill them.
        name: for files, with the server's host where it is not the usual one.
    """

    PROVIDER: ClassVar[str]
    USUAL_URL: ClassVar[str]
    KEY_VARIABLE: ClassVar[str]

    model: str
    base_url: str
    rubric: Rubric = STRUCTURED
    temperature: float | None = 0.0
    max_tokens: int = 4096
    repeat: int = 0
    cache: Cache = field(default_factory=Cache)
    price: Price | None = None
    max_usd: float | None = None
    limits: Limits = field(default_factory=Limits)
    spent: Spent = field(init=False, default_factory=Spent)
    name: str = field(init=False)

    def __post_init__(self) -> None:
        if self.max_usd is not None and self.price is None:
            raise ValueError(
                "max_usd cannot be kept to without a price: give price=Price(input_usd=..., output_usd=...)"
            )
        self.base_url = self.base_url.rstrip("/")
        self.name = self._name()
        self.spent = Spent(usd=None if self.price is None else 0.0)
        self._client: Any = None
        self._has_schema = self.rubric.form == "structured"
        self._promised_usd = 0.0  # by requests under way
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, base_url={self.base_url!r})"

    @abstractmethod
    def _open(self, key: str) -> Any:
        """A client of the SDK that does not retry by itself."""

    @abstractmethod
    def _send(self, prompt: Prompt, *, schema: dict[str, object] | None) -> Reply:
        """One request; errors as ``_errors`` tells them."""

    def judge(self, cases: Sequence[Case]) -> list[Verdict]:
        """One verdict a case, in the same order. Equal cases are asked once; replies in the cache are not asked again.

        A case that could not be judged is ``failed`` (no reply) or ``unparsed`` (none that can be read), with a note.

        Raises:
            JudgeError: no key, a key or model that the server refuses, no credit.
            BudgetError: ``max_usd`` is reached.
            ValueError: the faithful form is used and a case has no label.
        """
        seen = [self._seen(case) for case in cases]
        verdicts = {case: self._known(case) for case in dict.fromkeys(seen)}
        todo = [case for case, verdict in verdicts.items() if verdict is None]
        if todo:
            self._client = self._client or self._open(self._key())
            verdicts |= self._ask_all(todo)
        return [verdicts[case] for case in seen]

    def estimate(self, cases: Sequence[Case]) -> Estimate:
        """Calls, tokens and dollars that ``judge`` would take now. Needs no key and sends nothing."""
        seen = list(dict.fromkeys(self._seen(case) for case in cases))
        known = {case: self._known(case) for case in seen}
        todo = [case for case in seen if known[case] is None]
        n_empty = sum(verdict is not None and verdict.status == "empty" for verdict in known.values())
        tokens = [self._expected_tokens(self.rubric.prompt(case), case.response) for case in todo]
        n_input, n_output = sum(n for n, _ in tokens), sum(n for _, n in tokens)
        return Estimate(
            n_calls=len(todo),
            n_cached=len(seen) - len(todo) - n_empty,
            n_empty=n_empty,
            input_tokens=n_input,
            output_tokens=n_output,
            usd=None if self.price is None else self.price.usd(n_input, n_output),
        )

    # What is already known

    def _seen(self, case: Case) -> Case:
        """``case`` as the judge sees it."""
        return replace(case, label=None) if self.rubric.form == "structured" else case

    def _known(self, case: Case) -> Verdict | None:
        """The verdict, where no call is needed for it."""
        if not case.response.strip():
            return Verdict(status="empty")
        try:
            return self._read(case, self._stored)
        except LookupError:
            return None

    def _stored(self, prompt: Prompt, response: str, n_before: int) -> Reply:
        reply = self.cache.get(self._cache_key(prompt, n_before))
        if reply is None:
            raise LookupError("not in the cache")
        return reply

    def _read(self, case: Case, fetch: Callable[[Prompt, str, int], Reply]) -> Verdict:
        """Fetch replies until one can be read, ``n_asks`` at most, each request saying what was wrong before."""
        prompt, reason = self.rubric.prompt(case), ""
        for n_before in range(self.limits.n_asks):
            asked = prompt.again(reason) if reason else prompt
            try:
                verdict = read_reply(fetch(asked, case.response, n_before), case.response, form=self.rubric.form)
            except UnreadableError as error:
                reason = str(error)
            else:
                return replace(verdict, note=f"reply {n_before + 1}; before it: {reason}") if reason else verdict
        return Verdict(status="unparsed", note=f"{self.limits.n_asks} replies, none of use; the last: {reason}")

    def _cache_key(self, prompt: Prompt, n_before: int) -> str:
        """Whether the server held the reply to the schema does not count: the judge is asked the same."""
        return cache_key(
            {
                "provider": self.PROVIDER,
                "base_url": self.base_url,
                "form": self.rubric.form,
                "schema": SCHEMA if self.rubric.form == "structured" else None,
                "system": prompt.system,
                "user": prompt.user,
                "repeat": self.repeat,
                "n_before": n_before,
                **self._sampling(),
            }
        )

    def _sampling(self) -> dict[str, object]:
        return {"model": self.model, "temperature": self.temperature, "max_tokens": self.max_tokens}

    # Asking

    def _ask_all(self, cases: Sequence[Case]) -> dict[Case, Verdict]:
        """Ask in threads, which works in a notebook, where an event loop already runs. An error stops all of them."""
        stop, verdicts, n_lost = threading.Event(), {}, 0
        pool = ThreadPoolExecutor(self.limits.concurrency)
        try:
            futures = {pool.submit(self._verdict, case, stop): case for case in cases}
            with tqdm(total=len(cases), desc=self.name) as bar:
                for future in as_completed(futures):
                    verdict = verdicts[futures[future]] = future.result()
                    n_lost += verdict.status in ("failed", "unparsed")
                    cost = {} if self.spent.usd is None else {"usd": f"{self.spent.usd:.3f}"}
                    bar.update()
                    bar.set_postfix({"lost": n_lost, **cost})
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)
        return verdicts

    def _verdict(self, case: Case, stop: threading.Event) -> Verdict:
        try:
            return self._read(case, partial(self._fetch, stop))
        except UnavailableError as error:
            return Verdict(status="failed", note=f"no reply in {self.limits.n_tries} tries at most; the last: {error}")
        except DeclinedError as error:
            return Verdict(status="failed", note=f"the server declined: {error}")

    def _fetch(self, stop: threading.Event, prompt: Prompt, response: str, n_before: int) -> Reply:
        """The reply to ``prompt``: from the cache, else paid for and stored."""
        key = self._cache_key(prompt, n_before)
        reply = self.cache.get(key)
        if reply is not None:
            return reply
        expected = self._expected_tokens(prompt, response)
        self._promise(expected)
        try:
            reply = self._patiently(stop)(self._sent, prompt)
        finally:
            self._settle(expected, reply)
        self.cache.put(key, reply, model=self.model, form=self.rubric.form)
        return reply

    def _sent(self, prompt: Prompt) -> Reply:
        started, schema = perf_counter(), SCHEMA if self._has_schema else None
        try:
            reply = self._send(prompt, schema=schema)
        except NoSchemaError as error:
            warnings.warn(f"{self.base_url} takes no JSON schema; the judge is asked in words: {error}", stacklevel=1)
            self._has_schema = False
            reply = self._send(prompt, schema=None)
        return replace(reply, seconds=perf_counter() - started)

    def _patiently(self, stop: threading.Event) -> Retrying:
        return Retrying(
            retry=retry_if_exception(self._may_pass),
            stop=stop_any(stop_after_attempt(self.limits.n_tries), stop_when_event_set(stop)),
            wait=self._wait_s,
            sleep=sleep_using_event(stop),
            reraise=True,
        )

    def _may_pass(self, error: BaseException) -> bool:
        return isinstance(error, UnavailableError) and error.wait_s <= self.limits.longest_wait_s

    def _wait_s(self, state: RetryCallState) -> float:
        first, longest = self.limits.first_wait_s, self.limits.longest_wait_s
        backoff = wait_exponential_jitter(multiplier=first, max=longest, jitter=first)(state)
        return backoff + state.outcome.exception().wait_s

    # Cost

    def _expected_tokens(self, prompt: Prompt, response: str) -> tuple[int, int]:
        """Input and output tokens of one call, roughly: a reply repeats the response and adds a little."""
        n_output = len(response) / CHARS_PER_TOKEN + TOKENS_BESIDE_ATTEMPTS[self.rubric.form]
        return round(len(prompt.system + prompt.user) / CHARS_PER_TOKEN), round(n_output)

    def _promise(self, expected: tuple[int, int]) -> None:
        """Set the cost of a request aside before it is sent.

        Raises:
            BudgetError: it would go beyond ``max_usd``.
        """
        if self.price is None:
            return
        usd = self.price.usd(*expected)
        with self._lock:
            if self.max_usd is not None and self.spent.usd + self._promised_usd + usd > self.max_usd:
                raise BudgetError(
                    f"{self.name} stops at max_usd={self.max_usd:g}: {self.spent.n_replies} replies cost "
                    f"{self.spent.usd:.4f} USD and the next would go beyond; raise max_usd and judge again: replies "
                    "that are paid for are kept and cost nothing"
                )
            self._promised_usd += usd

    def _settle(self, expected: tuple[int, int], reply: Reply | None) -> None:
        """Put the real cost in place of the promised; tokens that the server did not count are taken as expected."""
        with self._lock:
            if self.price is not None:
                self._promised_usd -= self.price.usd(*expected)
            if reply is None:
                return
            n_input = expected[0] if reply.input_tokens is None else reply.input_tokens
            n_output = expected[1] if reply.output_tokens is None else reply.output_tokens
            self.spent = Spent(
                n_replies=self.spent.n_replies + 1,
                input_tokens=self.spent.input_tokens + n_input,
                output_tokens=self.spent.output_tokens + n_output,
                usd=None if self.price is None else self.spent.usd + self.price.usd(n_input, n_output),
            )

    # Names, keys, errors

    def _name(self) -> str:
        host = urlsplit(self.base_url).hostname or ""
        parts = [self.PROVIDER if self.base_url == self.USUAL_URL else host, self.model.removesuffix(DATE)]
        parts.append(self.rubric.form)
        if self.rubric not in (STRUCTURED, FAITHFUL):
            parts.append(sha256(f"{self.rubric.system}{self.rubric.template}".encode()).hexdigest()[:6])
        if self.temperature != 0.0:
            parts.append(f"t{self.temperature}")
        if self.repeat:
            parts.append(f"repeat{self.repeat}")
        return re.sub(r"(?:[^a-z0-9.]|\.{2,})+", "-", "-".join(parts).lower()).strip("-.")

    def _key(self) -> str:
        """The secret, from the environment alone; it goes to the SDK and is kept nowhere else."""
        key = os.environ.get(self.KEY_VARIABLE, "").strip()
        if not key and not _is_near(self.base_url):
            raise JudgeError(f"{self.base_url} needs a key: set the environment variable {self.KEY_VARIABLE}")
        return key or "none"

    @contextmanager
    def _errors(self, sdk: ModuleType, *, with_schema: bool) -> Iterator[None]:
        """Tell the errors of an SDK in the words of this module; ``from None`` keeps requests out of tracebacks."""
        try:
            yield
        except sdk.APIStatusError as error:
            says = self._without_key(_said(error))
            raise self._failure(error.status_code, says, error.response.headers, with_schema=with_schema) from None
        except sdk.APITimeoutError:
            raise UnavailableError(f"no answer within {self.limits.timeout_s:g} s") from None
        except sdk.APIConnectionError as error:
            cause = self._without_key(str(error.__cause__ or error))
            raise UnavailableError(f"no connection to {self.base_url} ({cause})") from None
        except (sdk.APIError, JSONDecodeError) as error:
            raise UnavailableError(f"the server's answer is damaged ({self._without_key(str(error))})") from None

    def _failure(self, status: int, says: str, headers: Mapping[str, str], *, with_schema: bool) -> Exception:
        """The error to raise for a status from 400 on: for all requests, for this one, or for this try."""
        where = f"{self.model} at {self.base_url}"
        if status == 401:
            return JudgeError(f"{self.base_url} refuses the key in {self.KEY_VARIABLE} (401); set a valid one")
        if status == 403:
            return JudgeError(f"the key in {self.KEY_VARIABLE} may not use {where} (403): {says}")
        if status == 402 or _NO_CREDIT.search(says):
            return JudgeError(f"no credit left for {where} ({status}): {says}")
        if with_schema and _SCHEMA_WORDS.search(says):
            return NoSchemaError(says)
        if status == 404:
            return JudgeError(f"there is no {where} (404): {says}; check model and base_url")
        if status == 400 and "temperature" in says:
            return JudgeError(f"{where} takes no temperature {self.temperature}; give temperature=None: {says}")
        if status in RETRIED or status >= 500:
            return UnavailableError(f"{status} {says}", wait_s=_retry_after_s(headers))
        return DeclinedError(f"{status} {says}")

    def _no_such_server(self) -> JudgeError:
        return JudgeError(f"{self.base_url} does not answer like a server of the {self.PROVIDER} kind; check base_url")

    def _without_key(self, text: str) -> str:
        key = os.environ.get(self.KEY_VARIABLE, "").strip()
        line = " ".join((text.replace(key, "[key]") if key else text).split())
        return line if len(line) <= 200 else f"{line[:200]}..."


def _said(error: Any) -> str:
    """What the server wrote about an error, with its code; the two SDKs keep it at different depths."""
    body = error.body.get("error", error.body) if isinstance(error.body, dict) else error.body
    if not isinstance(body, dict) or "message" not in body:
        return error.message
    code = body.get("code") or body.get("type")
    return f"{body['message']} ({code})" if code else str(body["message"])


def _retry_after_s(headers: Mapping[str, str]) -> float:
    """Seconds that the server asks to wait: a number or a date; 0 if it asks for nothing that can be read."""
    value = headers.get("retry-after", "")
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return 0.0


def _is_near(base_url: str) -> bool:
    """Whether a server is on this machine or a private network."""
    host = urlsplit(base_url).hostname or ""
    try:
        return ip_address(host).is_private
    except ValueError:
        return host == "localhost" or host.endswith((".localhost", ".local"))
