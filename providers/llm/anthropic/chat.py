"""The part of the Anthropic provider that needs ``langchain_anthropic``; imported by the first answer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import cached_property
from typing import Any

import anthropic
import httpx
import httpx2
from langchain_anthropic import ChatAnthropic
from langchain_core.messages import AIMessageChunk
from pydantic import Field, SecretStr

__all__ = ["build"]

_COUNTS = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens")


class _Body(httpx2.AsyncByteStream):
    """A response of httpx, still in its content encoding, read by httpx2."""

    def __init__(self, response: httpx.Response) -> None:
        self._response = response

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._response.aiter_raw():
            yield part

    async def aclose(self) -> None:
        await self._response.aclose()


class _Bridge(httpx2.AsyncBaseTransport):
    """Sends what the SDK asks for through our httpx client: anthropic 2 takes none but httpx2's.

    The time limits are our client's, and so are the errors.
    """

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        sent = self._http.build_request(
            request.method, str(request.url), headers=request.headers.raw, content=await request.aread()
        )
        response = await self._http.send(sent, stream=True)
        return httpx2.Response(response.status_code, headers=response.headers.raw, stream=_Body(response))


class _Client(anthropic.AsyncAnthropic):
    """Sends the key by the header that servers that speak alike know too (anthropic 2 sends a bearer), a version of our
    choice, and nothing of ANTHROPIC_CUSTOM_HEADERS.
    """

    def __init__(self, version: str, **options: Any) -> None:
        super().__init__(**options)
        self._custom_headers = {"anthropic-version": version}

    @property
    def auth_headers(self) -> dict[str, str]:
        return {"X-Api-Key": self.api_key or ""}


class _Chat(ChatAnthropic):
    """ChatAnthropic over a client of ours, with the counts of tokens as they are told.

    Anthropic's counts are running totals, spread over the first event and the last ones. LangChain would add up the
    last ones and leave out the first (langchain-anthropic 1.7). As metadata a later count replaces an earlier one.
    """

    client: Any = Field(exclude=True, repr=False)

    @cached_property
    def _async_client(self) -> anthropic.AsyncClient:
        client: anthropic.AsyncClient = self.client
        return client

    def _make_message_chunk_from_anthropic_event(
        self, event: Any, **options: Any
    ) -> tuple[AIMessageChunk | None, anthropic.types.RawMessageStreamEvent | None]:
        chunk, block = super()._make_message_chunk_from_anthropic_event(event, **options)
        usage = getattr(getattr(event, "message", event), "usage", None)
        if chunk is not None and usage is not None:
            counts = {name: getattr(usage, name, None) for name in _COUNTS}
            chunk.response_metadata |= {name: count for name, count in counts.items() if count is not None}
        return chunk, block


def build(
    model: str, *, base_url: str, key: str, version: str, max_tokens: int, http: httpx.AsyncClient
) -> ChatAnthropic:
    """A chat model over ``http``. Retries and time limits are the gateway's.

    What is not given here, LangChain and the SDK would look for in the environment.
    """
    client = _Client(
        version,
        api_key=key,
        base_url=base_url,
        webhook_key="",
        max_retries=0,
        timeout=None,
        open_telemetry=False,
        http_client=httpx2.AsyncClient(transport=_Bridge(http), trust_env=False),
    )
    return _Chat(
        model_name=model,
        base_url=base_url,
        api_key=SecretStr("held by the client"),
        anthropic_proxy=None,
        max_tokens_to_sample=max_tokens,
        max_retries=0,
        timeout=None,
        stop=None,
        stream_usage=True,
        client=client,
    )
