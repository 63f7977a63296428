"""How judging with a server can fail: for all requests, for one of them, or for one try."""

KEPT = "replies that are paid for are kept and cost nothing"  # ends a message that says to judge again


class JudgeError(RuntimeError):
    """No response can be judged as things are; the message says what to do."""


class BudgetError(JudgeError):
    """``max_usd`` is spent. What was paid for is in the cache."""


class UnavailableError(Exception):
    """One request failed in a way that may pass. ``wait_s``: how long the server asks to wait, 0 if it does not."""

    def __init__(self, reason: str, *, wait_s: float = 0.0):
        super().__init__(reason)
        self.wait_s = wait_s


class UnreachableError(UnavailableError):
    """No connection to the server, or one that it closed without a word."""


class DeclinedError(Exception):
    """One request is refused for good; others may not be."""


class NoSchemaError(Exception):
    """The server does not take a JSON schema."""
