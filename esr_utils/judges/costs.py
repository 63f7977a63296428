"""What judging costs: prices, estimates before a call, and an account that keeps to a budget."""

import threading
from dataclasses import dataclass

from esr_utils.judges.errors import KEPT, BudgetError
from esr_utils.judges.replies import Reply
from esr_utils.judges.rubric import Form, Prompt

CHARS_PER_TOKEN = 3.5  # a little under what English text has, so that estimates err on the high side
TOKENS_BESIDE_ATTEMPTS = {"structured": 100, "faithful": 300}  # in a reply: comments, field names, scores


@dataclass(frozen=True, kw_only=True)
class Price:
    """US dollars per million tokens."""

    input_usd: float
    output_usd: float

    def usd(self, input_tokens: int, output_tokens: int) -> float:
        return (self.input_usd * input_tokens + self.output_usd * output_tokens) / 1e6


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


def expected_tokens(prompt: Prompt, response: str, *, form: Form) -> tuple[int, int]:
    """Input and output tokens of one call, roughly: a reply repeats the response and adds a little."""
    n_output = len(response) / CHARS_PER_TOKEN + TOKENS_BESIDE_ATTEMPTS[form]
    return round(len(prompt.system + prompt.user) / CHARS_PER_TOKEN), round(n_output)


class Account:
    """What the judge ``name`` has spent, and what its requests under way may cost. Threads share it.

    ``price`` is None where it is not known; dollars are then None, too, and no budget is kept to.
    """

    def __init__(self, name: str, price: Price | None):
        self.name = name
        self.price = price
        self.spent = Spent(usd=None if price is None else 0.0)
        self._promised_usd = 0.0  # by requests under way
        self._lock = threading.Lock()

    def promise(self, expected: tuple[int, int], *, max_usd: float | None) -> None:
        """Set the cost of a request aside before it is sent.

        Raises:
            BudgetError: it would go beyond ``max_usd``.
        """
        if self.price is None:
            return
        usd = self.price.usd(*expected)
        with self._lock:
            if max_usd is not None and self.spent.usd + self._promised_usd + usd > max_usd:
                raise BudgetError(
                    f"{self.name} stops at max_usd={max_usd:g}: {self.spent.n_replies} replies cost "
                    f"{self.spent.usd:.4f} USD and the next would go beyond; raise max_usd and judge again: {KEPT}"
                )
            self._promised_usd += usd

    def settle(self, expected: tuple[int, int], reply: Reply | None) -> None:
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
