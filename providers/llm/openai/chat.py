"""The part of the OpenAI provider that needs ``langchain_openai``; imported by the first answer."""

from __future__ import annotations

from typing import Any

import httpx
from langchain_core.outputs import ChatGenerationChunk
from langchain_openai import ChatOpenAI

__all__ = ["build"]


class _Chat(ChatOpenAI):
    """Keeps the streamed ``refusal``, which ChatOpenAI drops (langchain-openai 1.7)."""

    def _convert_chunk_to_generation_chunk(
        self, chunk: dict[str, Any], default_chunk_class: type, base_generation_info: dict[str, Any] | None
    ) -> ChatGenerationChunk | None:
        converted = super()._convert_chunk_to_generation_chunk(chunk, default_chunk_class, base_generation_info)
        choices = chunk.get("choices") or [{}]
        refusal = (choices[0].get("delta") or {}).get("refusal")
        if converted is not None and refusal:
            converted.message.additional_kwargs["refusal"] = refusal
        return converted


def build(model: str, *, base_url: str, key: str, http: httpx.AsyncClient) -> ChatOpenAI:
    """A chat model over ``http``. Retries and time limits are the gateway's; the synchronous client is never used.

    What is not given here, LangChain and the SDK would look for in the environment.
    """
    chat = _Chat(
        model=model,
        base_url=base_url,
        api_key=lambda: key,
        openai_proxy="",
        max_retries=0,
        timeout=None,
        stream_chunk_timeout=None,
        stream_usage=True,
        use_responses_api=False,
        http_async_client=http,
        http_client=httpx.Client(transport=httpx.BaseTransport()),
        http_socket_options=(),
    )
    # The SDK reads these from the environment, and lets a key among such headers win over ours.
    client = chat.root_async_client
    client.organization = client.project = client.admin_api_key = None
    client._custom_headers = {}  # noqa: SLF001  there is no public way
    return chat
