"""Chat models of OpenAI, and of every server that speaks its chat completions (vLLM, LM Studio, llama.cpp, ...).

Wire format: ``POST /chat/completions``, answered in server-sent events; JSON by ``response_format``. A server of one's
own, named by OPENAI_BASE_URL, needs no key.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import httpx

from providers.base import Options
from providers.llm._rented import DEFAULT_MAX_TOKENS, RentedChat
from providers.llm._schema import strict_schema
from providers.openai_api import HOME, OpenAIApi
from providers.rented import rented_settings, wanted

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel

__all__ = ["OpenAIProvider"]

_NO_KEY = "no-key"
# platform.openai.com/docs/guides/structured-outputs, "Supported schemas", 2026-11
_KEYWORDS = frozenset({"type", "description", "title", "enum", "const", "$ref", "pattern", "format", "multipleOf"}) | {
    "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minItems", "maxItems",
}  # fmt: skip


class OpenAIProvider(OpenAIApi, RentedChat):
    """See the module. Parameters of ``models.<provider>.<model>`` go into the request's body as they are."""

    vendor = "openai"
    title = "OpenAI"
    prefix = "OPENAI"
    extra = "openai"
    reason_key = "finish_reason"
    cut = frozenset({"length"})
    declined = frozenset({"content_filter"})
    limit_key = "max_completion_tokens"
    settings = rented_settings("OPENAI", "OpenAI", base_url=HOME, timeout_s=120)

    def _build(self, model: str, http: httpx.AsyncClient) -> BaseChatModel:
        chat = self.service.load("providers.llm.openai.chat")
        built: BaseChatModel = chat.build(model, base_url=self.service.base_url, key=self._api_key(), http=http)
        return built

    def _api_key(self) -> str:
        own_server = self.service.base_url != HOME
        keyless = own_server and not self.config.values.get(self.service.key_name)
        return _NO_KEY if keyless else self.service.key()

    def _arguments(self, mode: str, options: Options) -> dict[str, Any]:
        own = self.config.models.get(options["model"], {})
        limit = "max_tokens" if "max_tokens" in own else self.limit_key  # some servers know the older word alone
        body = wanted(
            {limit: DEFAULT_MAX_TOKENS, **own},
            {
                limit: options.get("max_tokens"),
                "temperature": options.get("temperature"),
                "seed": options.get("seed"),
                "tools": options.get("tools") if mode == "tools" else None,
                "response_format": _response_format(options.get("json_schema")) if mode == "json" else None,
            },
        )
        # In the body's own words: as named arguments LangChain would translate some, and would answer a
        # response_format with a second, parsed copy of the text.
        return {"extra_body": body}


def _response_format(schema: Mapping[str, Any] | None) -> dict[str, Any]:
    if schema is None:
        return {"type": "json_object"}
    strict = strict_schema(schema, _KEYWORDS)
    name = str(schema.get("title", "answer"))
    return {
        "type": "json_schema",
        "json_schema": {"name": name, "schema": strict or dict(schema), "strict": strict is not None},
    }
