"""Chat models of Anthropic, and of servers that speak its messages.

Wire format: ``POST /v1/messages``, answered in server-sent events; JSON by ``output_config.format``, or by a tool that
must be called.
"""

from __future__ import annotations

import re
import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import httpx

from providers.base import LLMProviderResponse, Options, Usage
from providers.errors import (
    AuthenticationError,
    ModelNotFoundError,
    OverloadedError,
    PromptTooLongError,
    ProviderError,
    RefusedError,
    RejectedError,
    ServerError,
)
from providers.http import retry_after
from providers.llm._chat import ChatAnswer, ChatRequest
from providers.llm._rented import DEFAULT_MAX_TOKENS, RentedChat
from providers.llm._schema import strict_schema
from providers.rented import rented_settings, wanted

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel
    from langchain_core.messages import AIMessageChunk

__all__ = ["AnthropicProvider"]

_VERSION = "2023-06-01"  # the next one, 2026-10-21, knows no temperature (platform.claude.com/docs/en/api/versioning)
# platform.claude.com/docs/en/build-with-claude/structured-outputs, "JSON Schema limitations", 2026-11. Of `pattern`,
# `format` and `minItems` it takes some values only, so they are left out.
_KEYWORDS = frozenset({"type", "description", "title", "enum", "const", "$ref"})
_TOOL = "answer"
_MAX_CHARS = 300
_SHORTER = "shorten the material, or use a model with a larger context"
_IN_STREAM: Mapping[str | None, type[ProviderError]] = {
    "overloaded_error": OverloadedError,
    "rate_limit_error": OverloadedError,
    "invalid_request_error": RejectedError,
    "authentication_error": AuthenticationError,
    "permission_error": AuthenticationError,
    "not_found_error": ModelNotFoundError,
}


class AnthropicProvider(RentedChat):
    """See the module. Parameters of ``models.<provider>.<model>`` go into the request's body as they are, but for two:
    ``structured: tool`` for a model that knows no ``output_config``, and ``betas``, names for the ``anthropic-beta``
    header.
    """

    vendor = "anthropic"
    title = "Anthropic"
    prefix = "ANTHROPIC"
    extra = "anthropic"
    reason_key = "stop_reason"
    cut = frozenset({"max_tokens"})
    declined = frozenset({"refusal"})
    settings = rented_settings("ANTHROPIC", "Anthropic", base_url="https://api.anthropic.com", timeout_s=120)

    def _build(self, model: str, http: httpx.AsyncClient) -> BaseChatModel:
        chat = self.service.load("providers.llm.anthropic.chat")
        key = self.service.key()
        built: BaseChatModel = chat.build(
            model, base_url=self.service.base_url, key=key, version=_VERSION, max_tokens=DEFAULT_MAX_TOKENS, http=http
        )
        return built

    # -- what is asked -------------------------------------------------------------------------------------------------

    def _arguments(self, mode: str, options: Options) -> dict[str, Any]:
        own = dict(self.config.models.get(options["model"], {}))
        by_tool = own.pop("structured", None) == "tool"
        asked: dict[str, Any] = {"max_tokens": options.get("max_tokens"), "temperature": options.get("temperature")}
        if mode == "tools" and options.get("tools"):
            asked["tools"] = [_tool(tool["function"]) for tool in options["tools"]]
        elif mode == "json" and options.get("json_schema"):
            asked |= _form(options["json_schema"], own.get("output_config"), by_tool=by_tool)
        body = wanted({"max_tokens": DEFAULT_MAX_TOKENS, **own}, asked)
        # In the body's own words: as named arguments LangChain would check and translate some.
        return {"betas": body.pop("betas", None), "extra_body": body}

    async def _pieces(self, request: ChatRequest) -> AsyncGenerator[AIMessageChunk, None]:
        """An answer in JSON is text, even where it comes as a tool's arguments."""
        async with aclosing(super()._pieces(request)) as pieces:
            async for piece in pieces:
                yield _as_text(piece) if request.mode == "json" else piece

    # -- what is answered ----------------------------------------------------------------------------------------------

    async def _response(self, request: ChatRequest, answer: ChatAnswer) -> LLMProviderResponse:
        reason = answer.metadata.get(self.reason_key)
        answer.usage = _usage(answer.metadata)
        if reason == "refusal":  # what was written before it is no reason
            details = answer.metadata.get("stop_details") or {}
            answer.refusal = details.get("explanation") or details.get("category") or reason
        if reason == "model_context_window_exceeded":
            message = f"{request.model} filled its context before the answer's end"
            raise self._error(PromptTooLongError, message, hint=_SHORTER, usage=answer.usage)
        if reason == "pause_turn":
            message = f"{request.model} paused in the middle of its answer ({reason}), to be asked to go on"
            hint = f"take the tools that {self.title} runs itself out of {self._key(request.model, 'tools')}"
            raise self._error(ServerError, message, hint=hint, usage=answer.usage)
        return await super()._response(request, answer)

    # -- what goes wrong -----------------------------------------------------------------------------------------------

    def _sdk_errors(self) -> tuple[type[Exception], ...]:
        anthropic = sys.modules.get("anthropic")
        return (anthropic.AnthropicError,) if anthropic else ()

    def _refused(self, exc: Exception, model: str | None) -> ProviderError | None:
        anthropic = sys.modules.get("anthropic")
        if anthropic is None or not isinstance(exc, anthropic.APIStatusError):
            return None
        text = str(exc.api_message or exc)[:_MAX_CHARS]
        status: int = exc.status_code
        if told := self._told(status, exc.type, text, model):
            return told
        if status >= 300:
            return self.service.refused(status, text, model=model, retry_after=retry_after(exc.response.headers))
        leaf = _IN_STREAM.get(exc.type, ServerError)
        return self.service.error(leaf, f"{self.title} failed in the middle of an answer: {text}", "try again")

    def _told(self, status: int, kind: str | None, text: str, model: str | None) -> ProviderError | None:
        """The error for what Anthropic tells in words alone, by one status and type for all of it."""
        if status == 413 or "prompt is too long" in text or "exceed context limit" in text:
            return self.service.error(PromptTooLongError, text, _SHORTER, status=status)
        if status == 402 or kind == "billing_error" or "credit balance is too low" in text:
            return self.service.used_up(text, status=status)
        if "content filtering policy" in text:
            message = f"{self.title} declined: {text}"
            return self.service.error(RefusedError, message, "change what the text asks for", status=status)
        if status == 400 and "temperature" in text:
            hint = f"some models take no temperature: with `temperature: null` under {self._key(model)} none is sent"
            return self.service.error(RejectedError, f"{self.title} refused the request: {text}", hint, status=status)
        return None

    # -- the probe -----------------------------------------------------------------------------------------------------

    def _probe_path(self) -> str:
        return "/v1/models?limit=1000"

    def _headers(self) -> dict[str, str]:
        return {"x-api-key": self.service.key(), "anthropic-version": _VERSION}

    def _offered(self, body: Any) -> set[str]:
        dated = {entry["id"] for entry in body["data"]}
        return dated | {re.sub(r"-\d{8}$", "", name) for name in dated}  # what is listed with its date has an alias


def _form(schema: Mapping[str, Any], output_config: Any, *, by_tool: bool) -> dict[str, Any]:
    """What asks for an answer of ``schema``; one with an object of free form, too, takes the way over a tool."""
    strict = None if by_tool else strict_schema(schema, _KEYWORDS)
    if strict is not None:
        return {"output_config": {**(output_config or {}), "format": {"type": "json_schema", "schema": strict}}}
    tool = {"name": _TOOL, "description": "Gives the answer.", "input_schema": dict(schema)}
    return {"tools": [tool], "tool_choice": {"type": "tool", "name": _TOOL, "disable_parallel_tool_use": True}}


def _tool(function: Mapping[str, Any]) -> dict[str, Any]:
    """OpenAI's form of a tool in Anthropic's."""
    kept = {key: function[key] for key in ("name", "description", "strict") if function.get(key)}
    return {**kept, "input_schema": function.get("parameters") or {"type": "object", "properties": {}}}


def _as_text(piece: AIMessageChunk) -> AIMessageChunk:
    """The arguments of a tool's call as text; other pieces as they are."""
    from langchain_core.messages import AIMessageChunk  # slow to import

    if not piece.tool_call_chunks:
        return piece
    return AIMessageChunk(content="".join(call["args"] or "" for call in piece.tool_call_chunks))


def _usage(metadata: Mapping[str, Any]) -> Usage:
    """Tokens read from the cache or written to it are tokens of the prompt, which Anthropic counts apart."""
    prompt = sum(metadata.get(f"{kind}input_tokens", 0) for kind in ("", "cache_creation_", "cache_read_"))
    output = metadata.get("output_tokens", 0)
    return Usage(prompt_tokens=prompt, completion_tokens=output, total_tokens=prompt + output)
