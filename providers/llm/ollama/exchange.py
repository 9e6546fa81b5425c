"""One exchange with Ollama: its request, its answer, its time limit, and the connections that it runs over."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import sys
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import httpx

from providers.base import (
    LLMOutput,
    Usage,
)
from providers.http import client_options
from providers.llm.ollama.lines import join_lines

if TYPE_CHECKING:
    from langchain_core.messages import AIMessageChunk, BaseMessage
    from langchain_ollama import ChatOllama

__all__ = [
    "ChatAnswer",
    "ChatRequest",
    "Connection",
    "Exchange",
    "current_exchange",
    "encodable",
    "error_text",
    "estimate_request",
    "estimate_tokens",
    "foreign_errors",
    "meta_of",
    "retry_after",
    "said",
    "usage_of",
    "without_credentials",
]

_TOKENS_PER_ASCII_CHAR = 0.3
_TOKENS_PER_OTHER_CHAR = 0.9
_TURN_TOKENS = 16  # a chat template's marks around one turn, rounded up
_MAX_ERROR_CHARS = 300
_DURATIONS = ("load_duration", "prompt_eval_duration", "eval_duration", "total_duration")


def estimate_tokens(text: str) -> int:
    """Tokens that a prompt takes, on the safe side: 0.3 for an ASCII character, 0.9 for any other.

    korchasa/tldr (``llm/tokens-size``, 2025-10) counted the same text with eleven tokenizers. English: 0.22 to 0.29
    tokens a character. Korean, blanks included: Qwen 0.65, Llama 3 0.63, Mistral 0.56, and 0.48 to 0.99 over all. A
    Korean text is about a quarter ASCII, so these weights give it 0.75: a sixth above Qwen, under twice the thriftiest.
    """
    ascii_chars = len(text.encode("ascii", "ignore"))
    return math.ceil(_TOKENS_PER_ASCII_CHAR * ascii_chars + _TOKENS_PER_OTHER_CHAR * (len(text) - ascii_chars))


@dataclass(frozen=True)
class ChatRequest:
    """One call: what is said, what ChatOllama is told, and what the checks need (tokens, seconds)."""

    mode: str
    model: str
    system: str
    prompt: str
    arguments: dict[str, Any]
    seconds: float
    estimate: int

    @property
    def num_ctx(self) -> int:
        return cast("int", self.arguments["options"]["num_ctx"])

    @property
    def num_predict(self) -> int:
        return cast("int", self.arguments["options"]["num_predict"])

    def messages(self) -> list[BaseMessage]:
        from langchain_core.messages import HumanMessage, SystemMessage  # slow to import

        human = HumanMessage(self.prompt)
        return [SystemMessage(self.system), human] if self.system.strip() else [human]


@dataclass
class ChatAnswer:
    """An answer as its pieces come in. ``end`` holds the counts and durations of the last line."""

    texts: list[str] = field(default_factory=list)
    calls: list[dict[str, Any]] = field(default_factory=list)
    end: dict[str, Any] | None = None

    def add(self, piece: AIMessageChunk) -> str:
        """Take a piece in and return its text."""
        text = cast("str", piece.content)
        if text:
            self.texts.append(text)
        for call in piece.tool_calls:
            self.calls.append({"name": call["name"], "arguments": call["args"]})
        if piece.response_metadata.get("done"):
            self.end = piece.response_metadata
        return text

    @property
    def text(self) -> str:
        return "".join(self.texts)

    def output(self, mode: str) -> LLMOutput:
        """A model that was given tools and called none has answered in words: they are the content then."""
        if mode == "tools":
            content = json.dumps(self.calls, ensure_ascii=False) if self.calls else self.text
            return LLMOutput(type="tools", content=content, parsed=self.calls)
        return LLMOutput(type="json" if mode == "json" else "text", content=self.text)


class Exchange:
    """One HTTP call on its way. ``model`` is None for a probe, ``response`` until the headers are there."""

    def __init__(self, model: str | None, seconds: float) -> None:
        self.model = model
        self.seconds = seconds
        self.deadline = asyncio.get_running_loop().time() + seconds
        self.response: httpx.Response | None = None

    async def aclose(self) -> None:
        if self.response is not None:
            await self.response.aclose()


current_exchange: ContextVar[Exchange] = ContextVar("ollama_exchange")

# The last three are what ollama raises over lines that are JSON but not Ollama's.
_FOREIGN = (httpx.HTTPError, OSError, ValueError, TypeError, AttributeError, LookupError)


def foreign_errors() -> tuple[type[Exception], ...]:
    """What may come out of a call. ollama is not imported for this: unless it is, it has raised nothing."""
    ollama = sys.modules.get("ollama")
    return (*_FOREIGN, ollama.ResponseError) if ollama else _FOREIGN


class Connection:
    """One event loop's connections: a pool, the client for probes, and ChatOllama on the same pool.

    ChatOllama has no way to close its clients, so the pool beneath them is ours. Its synchronous client is never used
    and gets a transport that holds nothing.
    """

    def __init__(self, url: httpx.URL, *, api_key: str | None, read_timeout_s: float) -> None:
        self._url = str(without_credentials(url))
        self._options = client_options(self._url, read_timeout_s=read_timeout_s)
        if url.userinfo:
            self._options["auth"] = httpx.BasicAuth(url.username, url.password)
        if api_key:
            self._options["headers"] = {"authorization": f"Bearer {api_key}"}
        shared = {key: self._options[key] for key in ("verify", "limits", "trust_env")}
        self._asynchronous: dict[str, Any] = {
            "transport": httpx.AsyncHTTPTransport(**shared),
            "event_hooks": {"response": [_look_at_status, join_lines]},
        }
        self.probe = httpx.AsyncClient(base_url=self._url, **self._options, **self._asynchronous)

    @cached_property
    def chat(self) -> ChatOllama:
        from langchain_ollama import ChatOllama  # slow to import

        # Its warnings are about answers that come back as errors of ours; without a handler they would go to stderr.
        log = logging.getLogger("langchain_ollama")
        if not log.handlers:
            log.addHandler(logging.NullHandler())
        return ChatOllama(
            model="",  # each call names its own
            base_url=self._url,
            client_kwargs=self._options,
            async_client_kwargs=self._asynchronous,
            sync_client_kwargs={"transport": httpx.BaseTransport()},
        )

    async def aclose(self) -> None:
        await self.probe.aclose()


async def _look_at_status(response: httpx.Response) -> None:
    """Hook: raises httpx.HTTPStatusError here, where the headers still are; ollama's own error drops them."""
    exchange = current_exchange.get(None)
    if exchange is not None:
        exchange.response = response
    if not response.is_success:
        await response.aread()
        response.raise_for_status()


def without_credentials(url: httpx.URL) -> httpx.URL:
    return url.copy_with(userinfo=b"")


def encodable(text: str) -> str:
    """JSON may smuggle in half a surrogate pair, which no UTF-8 request can hold."""
    return text.encode("utf-8", "replace").decode("utf-8")


def estimate_request(system: str, prompt: str, tools: object) -> int:
    texts = [system, prompt, json.dumps(tools, ensure_ascii=False) if tools else ""]
    return sum(estimate_tokens(text) + _TURN_TOKENS for text in texts if text)


def usage_of(end: Mapping[str, Any]) -> Usage:
    prompt, completion = end.get("prompt_eval_count") or 0, end.get("eval_count") or 0
    return Usage(prompt_tokens=prompt, completion_tokens=completion, total_tokens=prompt + completion)


def meta_of(end: Mapping[str, Any]) -> dict[str, Any]:
    durations = {f"{key}_ms": round(end[key] / 1e6) for key in _DURATIONS if end.get(key) is not None}
    return {"done_reason": end.get("done_reason"), **durations}


def said(exc: Exception) -> str:
    return (str(exc) or type(exc).__name__)[:_MAX_ERROR_CHARS]


def error_text(response: httpx.Response) -> str:
    """Ollama's ``{"error": text}``, or the start of what something else answered."""
    try:
        text = str(response.json()["error"])
    except (ValueError, TypeError, LookupError):
        text = response.text.strip()
    return text[:_MAX_ERROR_CHARS] or response.reason_phrase


def retry_after(headers: httpx.Headers) -> float | None:
    """Seconds that ``Retry-After`` asks to wait, given there as seconds or as a date."""
    value = headers.get("retry-after", "")
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        when = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, (when - datetime.now(UTC)).total_seconds()) if when.tzinfo else None
