"""The part of the Gemini provider that needs ``langchain_google_genai``; imported by the first answer."""

from __future__ import annotations

from typing import Any, Self

from langchain_google_genai import ChatGoogleGenerativeAI
from pydantic import SecretStr, model_validator

__all__ = ["build"]


class _Chat(ChatGoogleGenerativeAI):
    """Takes the client that it is given; the base would build one of its own (langchain-google-genai 4.4)."""

    @model_validator(mode="after")
    def validate_environment(self) -> Self:
        """Replaces the base's, which reads the environment and loads certificates."""
        return self

    @property
    def async_client(self) -> Any:
        client: Any = self.client
        return client.aio


def build(model: str, *, client: Any, base_url: str, key: str) -> ChatGoogleGenerativeAI:
    """A chat model over ``client``, a ``google.genai.Client``; the provider tells each call its parameters.

    The key and the address are the client's too: told again, or LangChain would look for them in the environment.
    """
    return _Chat(
        model=model,
        client=client,
        client_options=base_url,
        api_key=SecretStr(key),
        vertexai=False,
        retries=1,  # that is one attempt; 0 would be the SDK's default
        request_timeout=None,
        temperature=None,
    )
