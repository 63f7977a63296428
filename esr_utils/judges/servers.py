"""The server behind a judge: its key, and its failures told in words that hold no key. Knows no SDK."""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from ipaddress import ip_address
from json import JSONDecodeError
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

from esr_utils.judges.errors import DeclinedError, JudgeError, NoSchemaError, UnavailableError, UnreachableError

RETRIED = (408, 409, 425, 429)  # and all from 500 on
_SCHEMA_WORDS = re.compile(r"response_format|json_schema|output_config|structured|schema|grammar|guided", re.I)
_NO_CREDIT = re.compile(r"insufficient_quota|insufficient credit|credit balance", re.I)


@dataclass(frozen=True, kw_only=True)
class Server:
    """Where a judge's requests go, and what its errors have to name."""

    provider: str
    base_url: str
    model: str
    key_variable: str
    temperature: float | None
    timeout_s: float

    def key(self) -> str:
        """The secret, from the environment alone; it goes to the SDK and is kept nowhere else.

        Raises:
            JudgeError: there is none, and the server is neither on this machine nor on a private network.
        """
        key = self._secret()
        if not key and not _is_near(self.base_url):
            raise JudgeError(f"{self.base_url} needs a key: set the environment variable {self.key_variable}")
        return key or "none"

    def without_key(self, text: str) -> str:
        """``text`` on one line and not too long, for a message."""
        key = self._secret()
        line = " ".join((text.replace(key, "[key]") if key else text).split())
        return line if len(line) <= 200 else f"{line[:200]}..."

    def no_such_server(self) -> JudgeError:
        return JudgeError(f"{self.base_url} does not answer like a server of the {self.provider} kind; check base_url")

    @contextmanager
    def errors(self, sdk: ModuleType, *, with_schema: bool) -> Iterator[None]:
        """Tell the errors of an SDK in this kit's words; ``from None`` keeps requests out of tracebacks."""
        try:
            yield
        except sdk.APIStatusError as error:
            says = self.without_key(_said(error))
            raise self._failure(error.status_code, says, error.response.headers, with_schema=with_schema) from None
        except sdk.APIConnectionError as error:  # which a timeout is, too
            if isinstance(error, sdk.APITimeoutError) and not _is_unconnected(error):
                raise UnavailableError(f"no answer within {self.timeout_s:g} s") from None
            cause = self.without_key(str(error.__cause__ or error))
            raise UnreachableError(f"no connection to {self.base_url} ({cause})") from None
        except (sdk.APIError, JSONDecodeError) as error:
            raise UnavailableError(f"the server's answer is damaged ({self.without_key(str(error))})") from None

    def _failure(self, status: int, says: str, headers: Mapping[str, str], *, with_schema: bool) -> Exception:
        """The error to raise for a status from 400 on: for all requests, for this one, or for this try."""
        where = f"{self.model} at {self.base_url}"
        if status == 401:
            return JudgeError(f"{self.base_url} refuses the key in {self.key_variable} (401); set a valid one")
        if status == 403:
            return JudgeError(f"the key in {self.key_variable} may not use {where} (403): {says}")
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

    def _secret(self) -> str:
        return os.environ.get(self.key_variable, "").strip()


def _is_unconnected(error: Exception) -> bool:
    """Whether the time ran out before there was a connection. By name: the SDKs' HTTP library is theirs to choose."""
    return type(error.__cause__).__name__ == "ConnectTimeout"


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
