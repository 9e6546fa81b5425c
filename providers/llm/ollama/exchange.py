"""One exchange with Ollama: its request, and the connections that it runs over."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import httpx

from providers.base import Usage
from providers.exchange import note_response
from providers.http import client_options, without_credentials
from providers.llm._chat import ChatRequest
from providers.llm.ollama.lines import join_lines
from providers.tokens import estimate_tokens

if TYPE_CHECKING:
    from langchain_ollama import ChatOllama

__all__ = [
    "OllamaConnection",
    "OllamaRequest",
    "error_text",
    "estimate_request",
    "foreign_errors",
    "meta_of",
    "usage_of",
]

_TURN_TOKENS = 16  # a chat template's marks around one turn, rounded up
_MAX_ERROR_CHARS = 300
_DURATIONS = ("load_duration", "prompt_eval_duration", "eval_duration", "total_duration")


@dataclass(frozen=True)
class OllamaRequest(ChatRequest):
    """``estimate``: tokens that the prompt takes."""

    estimate: int

    @property
    def num_ctx(self) -> int:
        return cast("int", self.arguments["options"]["num_ctx"])

    @property
    def num_predict(self) -> int:
        return cast("int", self.arguments["options"]["num_predict"])


# The last three are what ollama raises over lines that are JSON but not Ollama's.
_FOREIGN = (httpx.HTTPError, OSError, ValueError, TypeError, AttributeError, LookupError)


def foreign_errors() -> tuple[type[Exception], ...]:
    """What may come out of a call. ollama is not imported for this: unless it is, it has raised nothing."""
    ollama = sys.modules.get("ollama")
    return (*_FOREIGN, ollama.ResponseError) if ollama else _FOREIGN


class OllamaConnection:
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

    def chat(self, model: str) -> ChatOllama:
        """The one chat model; each call names its own."""
        return self._chat

    @cached_property
    def _chat(self) -> ChatOllama:
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
    await note_response(response)
    if not response.is_success:
        await response.aread()
        response.raise_for_status()


def estimate_request(system: str, prompt: str, tools: object) -> int:
    texts = [system, prompt, json.dumps(tools, ensure_ascii=False) if tools else ""]
    return sum(estimate_tokens(text) + _TURN_TOKENS for text in texts if text)


def usage_of(end: Mapping[str, Any]) -> Usage:
    prompt, completion = end.get("prompt_eval_count") or 0, end.get("eval_count") or 0
    return Usage(prompt_tokens=prompt, completion_tokens=completion, total_tokens=prompt + completion)


def meta_of(end: Mapping[str, Any]) -> dict[str, Any]:
    durations = {f"{key}_ms": round(end[key] / 1e6) for key in _DURATIONS if end.get(key) is not None}
    return {"done_reason": end.get("done_reason"), **durations}


def error_text(response: httpx.Response) -> str:
    """Ollama's ``{"error": text}`` (its runner's own may be in it), or the start of what something else answered."""
    text = response.text.strip()
    with suppress(ValueError, TypeError, LookupError):
        text = str(json.loads(text)["error"])
        text = str(json.loads(text)["error"]["message"])
    return text[:_MAX_ERROR_CHARS] or response.reason_phrase
