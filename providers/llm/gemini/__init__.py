"""Chat models of Google's Gemini API.

Wire format: ``POST /v1beta/models/<model>:streamGenerateContent``, answered in server-sent events; JSON by
``responseJsonSchema``.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import httpx

from providers.base import LLMProviderResponse, Options
from providers.errors import ServerError
from providers.google_api import HOME, GoogleApi, build_client, call_options, int32
from providers.google_errors import DECLINED
from providers.llm._chat import ChatAnswer, ChatRequest
from providers.llm._rented import DEFAULT_MAX_TOKENS, RentedChat
from providers.llm._schema import inside, pruned, strict_schema
from providers.rented import rented_settings, wanted

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel

__all__ = ["GeminiProvider"]

# ai.google.dev/api/generate-content, `responseJsonSchema`, 2026-11
_KEYWORDS = frozenset({"$ref", "type", "format", "title", "description", "enum", "minItems", "maxItems"}) | {
    "minimum", "maximum",
}  # fmt: skip


class GeminiProvider(GoogleApi, RentedChat):
    """See the module. Parameters of ``models.<provider>.<model>`` go into the request as they are: into its
    ``generationConfig``, e.g. ``thinkingConfig: {thinkingBudget: 0}``, ``safetySettings`` and their like beside it.
    """

    vendor = "google"
    title = "Google Gemini"
    prefix = "GOOGLE"
    extra = "gemini"
    reason_key = "finish_reason"
    limit_key = "maxOutputTokens"
    cut = frozenset({"MAX_TOKENS"})
    declined = DECLINED
    settings = rented_settings("GOOGLE", "Google Gemini", base_url=HOME, timeout_s=120)

    def _build(self, model: str, http: httpx.AsyncClient) -> BaseChatModel:
        chat = self.service.load("providers.llm.gemini.chat")
        client = build_client(self.service, http)
        built: BaseChatModel = chat.build(model, client=client, base_url=self.service.base_url, key=self.service.key())
        return built

    def _arguments(self, mode: str, options: Options) -> dict[str, Any]:
        parameters = wanted(
            {"maxOutputTokens": DEFAULT_MAX_TOKENS, **self.config.models.get(options["model"], {})},
            {
                "maxOutputTokens": options.get("max_tokens"),
                "temperature": options.get("temperature"),
                "seed": int32(options.get("seed")),
                "tools": _tools(options.get("tools")) if mode == "tools" else None,
                **(_json_format(options.get("json_schema")) if mode == "json" else {}),
            },
        )
        return call_options(parameters)

    async def _response(self, request: ChatRequest, answer: ChatAnswer) -> LLMProviderResponse:
        blocked = (answer.metadata.get("prompt_feedback") or {}).get("block_reason")
        reason = answer.metadata.get(self.reason_key)
        if blocked or reason in self.declined:
            # Not the text, which is no more than what came before.
            answer.refusal = f"the prompt was blocked, {blocked.value}" if blocked else str(reason)
        elif reason and reason not in {"STOP", *self.cut}:
            message = f"{request.model} ended its answer with {reason}"
            raise self._error(ServerError, message, hint="try again", usage=answer.usage)
        return await super()._response(request, answer)

    def _sdk_errors(self) -> tuple[type[Exception], ...]:
        chat = sys.modules.get("langchain_google_genai.chat_models")
        return super()._sdk_errors() + ((chat.ChatGoogleGenerativeAIError,) if chat else ())


def _tools(tools: Sequence[Mapping[str, Any]] | None) -> list[dict[str, Any]] | None:
    return [{"functionDeclarations": [_declaration(tool["function"]) for tool in tools]}] if tools else None


def _declaration(function: Mapping[str, Any]) -> dict[str, Any]:
    """OpenAI's form of a function in Google's."""
    declared = {
        "name": function["name"],
        "description": function.get("description"),
        "parametersJsonSchema": function.get("parameters"),
    }
    return {key: value for key, value in declared.items() if value is not None}


def _json_format(schema: Mapping[str, Any] | None) -> dict[str, Any]:
    if schema is None:
        return {"responseMimeType": "application/json"}
    form = strict_schema(schema, _KEYWORDS) or pruned(schema, _KEYWORDS | {"required", "additionalProperties"})
    return {"responseMimeType": "application/json", "responseJsonSchema": _bare_references(form)}


def _bare_references(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Beside a ``$ref`` Gemini takes nothing else."""
    kept = {key: value for key, value in schema.items() if key in ("$ref", "$defs")} if "$ref" in schema else schema
    return inside(kept, _bare_references)
