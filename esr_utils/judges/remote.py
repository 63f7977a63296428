"""What remote judges share: a cache, parallel requests with bounded retries, the cost, a budget. Knows no SDK.

    judge = AnthropicJudge(price=PRICE, max_usd=2.0, cache=Cache(run.folder / "judge.sqlite"))
    print(judge.estimate(cases))  # calls, tokens and dollars before anything is asked
    judge_trials(judge, run, plans)

``PRICE`` and ``AnthropicJudge`` are in ``judges.anthropic_judge``, ``Cache`` in ``judges.cache``, ``judge_trials`` in
``trials``. What is in the cache is neither asked nor paid again.
"""

import threading
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from functools import partial
from time import perf_counter
from typing import Any, ClassVar

from tqdm.auto import tqdm

from esr_utils.judges.cache import Cache, cache_key
from esr_utils.judges.costs import Account, Estimate, Price, Spent, expected_tokens
from esr_utils.judges.errors import DeclinedError, NoSchemaError, UnavailableError
from esr_utils.judges.names import MAX_TOKENS, host_and_port, judge_name
from esr_utils.judges.patience import Limits, Line
from esr_utils.judges.replies import SCHEMA, Reply, UnreadableError, read_reply
from esr_utils.judges.rubric import STRUCTURED, Prompt, Rubric
from esr_utils.judges.servers import Server
from esr_utils.judging import Case, Verdict


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
        name: for files. Tells the server apart, too, where it is not the usual one, by host and port.
    """

    PROVIDER: ClassVar[str]
    USUAL_URL: ClassVar[str]
    KEY_VARIABLE: ClassVar[str]
    READS_ALONE: ClassVar[bool] = True  # a verdict does not depend on what else is asked

    model: str
    base_url: str
    rubric: Rubric = STRUCTURED
    temperature: float | None = 0.0
    max_tokens: int = MAX_TOKENS
    repeat: int = 0
    cache: Cache = field(default_factory=Cache)
    price: Price | None = None
    max_usd: float | None = None
    limits: Limits = field(default_factory=Limits)
    name: str = field(init=False)

    def __post_init__(self) -> None:
        if self.max_usd is not None and self.price is None:
            raise ValueError(
                "max_usd cannot be kept to without a price: give price=Price(input_usd=..., output_usd=...)"
            )
        self.base_url = self.base_url.rstrip("/")
        place = self.PROVIDER if self.base_url == self.USUAL_URL else host_and_port(self.base_url)
        self.name = judge_name(place, self.rubric, self._sampling(), repeat=self.repeat)
        self._account = Account(self.name, self.price)
        self._line = Line()
        self._client: Any = None
        self._has_schema = self.rubric.form == "structured"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, base_url={self.base_url!r})"

    @property
    def spent(self) -> Spent:
        return self._account.spent

    @abstractmethod
    def _open(self, key: str) -> Any:
        """A client of the SDK that does not retry by itself."""

    @abstractmethod
    def _send(self, prompt: Prompt, *, schema: dict[str, object] | None) -> Reply:
        """One request; errors as ``Server.errors`` tells them."""

    def judge(self, cases: Sequence[Case]) -> list[Verdict]:
        """One verdict a case, in the same order. Equal cases are asked once; replies in the cache are not asked again.

        A case that could not be judged is ``failed`` (no reply) or ``unparsed`` (none that can be read), with a note.

        Raises:
            JudgeError: no key, a key or model that the server refuses, no credit, no connection (``N_UNREACHED``
                requests in a row). Replies that came before are in the cache.
            BudgetError: ``max_usd`` is reached.
            ValueError: the faithful form is used and a case has no label.
        """
        seen = [self._seen(case) for case in cases]
        verdicts = {case: self._known(case) for case in dict.fromkeys(seen)}
        todo = [case for case, verdict in verdicts.items() if verdict is None]
        if todo:
            self._client = self._client or self._open(self._server.key())
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
        self._account.promise(expected, max_usd=self.max_usd)
        try:
            with self._line.watched(stop):
                reply = self.limits.retrying(stop)(self._sent, prompt)
        finally:
            self._account.settle(expected, reply)
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

    def _expected_tokens(self, prompt: Prompt, response: str) -> tuple[int, int]:
        return expected_tokens(prompt, response, form=self.rubric.form)

    @property
    def _server(self) -> Server:
        return Server(
            provider=self.PROVIDER,
            base_url=self.base_url,
            model=self.model,
            key_variable=self.KEY_VARIABLE,
            temperature=self.temperature,
            timeout_s=self.limits.timeout_s,
        )
