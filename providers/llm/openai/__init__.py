"""Chat models of OpenAI, and of every server that speaks its chat completions (vLLM, LM Studio, llama.cpp, ...).

Wire format: ``POST /chat/completions``, answered in server-sent events; JSON by ``response_format``. A server of one's
own, named by OPENAI_BASE_URL, needs no key.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import httpx

from providers.base import Options
from providers.errors import ProviderError
from providers.llm._rented import DEFAULT_MAX_TOKENS, RentedChat, wanted
from providers.llm._schema import strict_schema
from providers.openai_errors import refusal_of
from providers.rented import rented_settings

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel

__all__ = ["OpenAIProvider"]

_HOME = "https://api.openai.com/v1"
_NO_KEY = "no-key"
# platform.openai.com/docs/guides/structured-outputs, "Supported schemas", 2026-11
_KEYWORDS = frozenset({"type", "description", "title", "enum", "const", "$ref", "pattern", "format", "multipleOf"}) | {
    "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minItems", "maxItems",
}  # fmt: skip


class OpenAIProvider(RentedChat):
    """See the module. Parameters of ``models.<provider>.<model>`` go into the request's body as they are."""

    vendor = "openai"
    title = "OpenAI"
    prefix = "OPENAI"
    extra = "openai"
    reason_key = "finish_reason"
    cut = frozenset({"length"})
    declined = frozenset({"content_filter"})
    limit_key = "max_completion_tokens"
    settings = rented_settings("OPENAI", "OpenAI", base_url=_HOME, timeout_s=120)

    def _build(self, model: str, http: httpx.AsyncClient) -> BaseChatModel:
        chat = self.service.load("providers.llm.openai.chat")
        built: BaseChatModel = chat.build(model, base_url=self.service.base_url, key=self._key_or_none(), http=http)
        return built

    def _key_or_none(self) -> str:
        own_server = self.service.base_url != _HOME
        keyless = own_server and not self.config.values.get(self.service.key_name)
        return _NO_KEY if keyless else self.service.key()

    def _arguments(self, mode: str, options: Options) -> dict[str, Any]:
        body = wanted(
            {"max_completion_tokens": DEFAULT_MAX_TOKENS, **self.config.models.get(options["model"], {})},
            {
                "max_completion_tokens": options.get("max_tokens"),
                "temperature": options.get("temperature"),
                "seed": options.get("seed"),
                "tools": options.get("tools") if mode == "tools" else None,
                "response_format": _response_format(options.get("json_schema")) if mode == "json" else None,
            },
        )
        # In the body's own words: as named arguments LangChain would translate some, and would answer a
        # response_format with a second, parsed copy of the text.
        return {"extra_body": body}

    def _sdk_errors(self) -> tuple[type[Exception], ...]:
        openai = sys.modules.get("openai")
        return (openai.OpenAIError,) if openai else ()

    def _refused(self, exc: Exception, model: str | None) -> ProviderError | None:
        return refusal_of(exc, self.service, model)

    def _headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self._key_or_none()}"}

    def _offered(self, body: Any) -> set[str]:
        return {entry["id"] for entry in body["data"]}


def _response_format(schema: Mapping[str, Any] | None) -> dict[str, Any]:
    if schema is None:
        return {"type": "json_object"}
    strict = strict_schema(schema, _KEYWORDS)
    name = str(schema.get("title", "answer"))
    return {
        "type": "json_schema",
        "json_schema": {"name": name, "schema": strict or dict(schema), "strict": strict is not None},
    }
