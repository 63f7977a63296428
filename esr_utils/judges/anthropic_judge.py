"""A judge behind Anthropic's Messages interface."""

from dataclasses import dataclass
from typing import Any, ClassVar

from esr_utils.judges.costs import Price
from esr_utils.judges.remote import RemoteJudge
from esr_utils.judges.replies import Reply
from esr_utils.judges.rubric import Prompt

MODEL = "claude-haiku-4-5-20251001"  # the paper's judge
PRICE = Price(input_usd=1.0, output_usd=5.0)  # list price of MODEL in November 2026
BASE_URL = "https://api.anthropic.com"
# The last version of the interface in which a request may set a temperature; the SDK's own refuses every value.
VERSION_WITH_TEMPERATURE = "2023-06-01"


@dataclass(kw_only=True, repr=False, eq=False)
class AnthropicJudge(RemoteJudge):
    """Claude, or any server that speaks its language. The key comes from ANTHROPIC_API_KEY."""

    PROVIDER: ClassVar[str] = "anthropic"
    USUAL_URL: ClassVar[str] = BASE_URL
    KEY_VARIABLE: ClassVar[str] = "ANTHROPIC_API_KEY"

    model: str = MODEL
    base_url: str = BASE_URL

    def _open(self, key: str) -> Any:
        import anthropic

        return anthropic.Anthropic(api_key=key, base_url=self.base_url, timeout=self.limits.timeout_s, max_retries=0)

    def _send(self, prompt: Prompt, *, schema: dict[str, object] | None) -> Reply:
        """``create`` and not ``parse``: a reply that does not fit the schema is to be kept, too."""
        import anthropic

        options: dict[str, Any] = {}
        if schema is not None:
            options["output_config"] = {"format": {"type": "json_schema", "schema": schema}}
        if self.temperature is not None:
            options["extra_body"] = {"temperature": self.temperature}
            options["extra_headers"] = {"anthropic-version": VERSION_WITH_TEMPERATURE}
        with self._server.errors(anthropic, with_schema=schema is not None):
            message = self._client.messages.create(
                model=self.model,
                max_tokens=self.max_tokens,
                system=prompt.system,
                messages=[{"role": "user", "content": prompt.user}],
                **options,
            )
        if not isinstance(getattr(message, "content", None), list):
            raise self._server.no_such_server()
        usage = getattr(message, "usage", None)
        return Reply(
            text="".join(block.text for block in message.content if block.type == "text"),
            stop=message.stop_reason or "",
            input_tokens=getattr(usage, "input_tokens", None),
            output_tokens=getattr(usage, "output_tokens", None),
        )
