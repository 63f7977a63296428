"""A judge behind OpenAI's chat completions interface, which OpenRouter, vLLM, Ollama and others speak as well."""

from dataclasses import dataclass
from typing import Any, ClassVar

from esr_utils.judges.errors import UnavailableError
from esr_utils.judges.remote import RemoteJudge
from esr_utils.judges.replies import Reply
from esr_utils.judges.rubric import Prompt

MODEL = "gpt-5.4-mini-2026-03-17"  # does not reason unless told to, and so takes a temperature
BASE_URL = "https://api.openai.com/v1"


@dataclass(kw_only=True, repr=False, eq=False)
class OpenAIJudge(RemoteJudge):
    """A chat model of OpenAI, or of any server that speaks its language. The key comes from OPENAI_API_KEY.

    Attributes:
        reasoning_effort: None leaves it to the server. Models that reason also need ``temperature=None``, and
            ``max_tokens`` has to make room for their thoughts.
    """

    PROVIDER: ClassVar[str] = "openai"
    USUAL_URL: ClassVar[str] = BASE_URL
    KEY_VARIABLE: ClassVar[str] = "OPENAI_API_KEY"

    model: str = MODEL
    base_url: str = BASE_URL
    reasoning_effort: str | None = None

    def _sampling(self) -> dict[str, object]:
        return {**super()._sampling(), "reasoning_effort": self.reasoning_effort}

    def _open(self, key: str) -> Any:
        import openai

        return openai.OpenAI(api_key=key, base_url=self.base_url, timeout=self.limits.timeout_s, max_retries=0)

    def _send(self, prompt: Prompt, *, schema: dict[str, object] | None) -> Reply:
        import openai

        with self._server.errors(openai, with_schema=schema is not None):
            completion = self._client.chat.completions.create(
                model=self.model,
                messages=[{"role": "system", "content": prompt.system}, {"role": "user", "content": prompt.user}],
                **self._options(schema),
            )
        if not isinstance(completion, openai.types.chat.ChatCompletion):
            raise self._server.no_such_server()
        if not getattr(completion, "choices", None):  # OpenRouter tells some of its troubles with status 200
            says = self._server.without_key(completion.to_json(indent=None))
            raise UnavailableError(f"an answer without a reply: {says}")
        choice, usage = completion.choices[0], getattr(completion, "usage", None)
        return Reply(
            text=choice.message.content or "",
            stop="refusal" if getattr(choice.message, "refusal", None) else choice.finish_reason or "",
            input_tokens=getattr(usage, "prompt_tokens", None),
            output_tokens=getattr(usage, "completion_tokens", None),
        )

    def _options(self, schema: dict[str, object] | None) -> dict[str, Any]:
        # OpenAI's newer models know only the one name of this limit, many other servers only the other.
        limit = "max_completion_tokens" if self.base_url == BASE_URL else "max_tokens"
        options: dict[str, Any] = {limit: self.max_tokens}
        if self.temperature is not None:
            options["temperature"] = self.temperature
        if self.reasoning_effort is not None:
            options["reasoning_effort"] = self.reasoning_effort
        if schema is not None:
            shape = {"name": "judgement", "strict": True, "schema": schema}
            options["response_format"] = {"type": "json_schema", "json_schema": shape}
        return options
