"""Google's API, for chat models and images alike: its own client over an httpx client of ours, and how it is asked."""

from __future__ import annotations

import logging
import ssl
import sys
import warnings
from collections.abc import Mapping
from typing import Any

import httpx

from providers.errors import ProviderError
from providers.google_errors import refusal_of, refused_probe
from providers.rented import Rented, Service

__all__ = ["HOME", "GoogleApi", "build_client", "call_options", "int32"]

HOME = "https://generativelanguage.googleapis.com"

# What stands in the request's body itself; every other parameter is one of `generationConfig`.
_TOP = frozenset({"tools", "toolConfig", "safetySettings", "cachedContent", "serviceTier", "store"})


def call_options(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The SDK's ``config`` of one call; ``parameters`` are in the words of the request's JSON.

    In those words because the SDK and LangChain would translate some and drop parts of schemas. One call is one
    request: the SDK neither runs functions nor sends for the rest of an answer by itself.
    """
    body: dict[str, Any] = {name: value for name, value in parameters.items() if name in _TOP}
    body["generationConfig"] = {name: value for name, value in parameters.items() if name not in _TOP}
    return {
        "http_options": {"extra_body": body},
        "automatic_function_calling": {"disable": True},
        "automatic_continuation": False,
    }


def int32(seed: int | None) -> int | None:
    """``seed`` as the API takes it."""
    return None if seed is None else seed % 2**31


class GoogleApi(Rented):
    """What is the same for chat and images: how the API is probed, and what its errors mean."""

    def _headers(self) -> dict[str, str]:
        return {"x-goog-api-key": self.service.key()}

    def _probe_path(self) -> str:
        return "/v1beta/models?pageSize=1000"

    def _offered(self, body: Any) -> set[str]:
        return {entry["name"].removeprefix("models/") for entry in body["models"]}

    def _sdk_errors(self) -> tuple[type[Exception], ...]:
        errors = sys.modules.get("google.genai.errors")
        return (errors.APIError,) if errors else ()

    def _refused(self, exc: Exception, model: str | None) -> ProviderError | None:
        return refusal_of(exc, self.service, model)

    def _refused_probe(self, response: httpx.Response) -> ProviderError:
        return refused_probe(response, self.service)


def build_client(service: Service, http: httpx.AsyncClient) -> Any:
    """A ``google.genai.Client`` over ``http`` that takes nothing from the environment. Who made ``http`` closes it.

    Raises:
        ConfigError: the key or the package is missing.
    """
    key = service.key()
    genai = service.load("google.genai")
    _be_quiet()
    _keep_timeouts(http)
    return genai.Client(
        vertexai=False,
        api_key=key,
        debug_config=genai.client.DebugConfig(client_mode=None, replays_directory=None, replay_id=None),
        http_options=genai.types.HttpOptions(
            base_url=service.base_url,
            api_version="v1beta",
            httpx_async_client=http,
            httpx_client=httpx.Client(transport=httpx.BaseTransport(), trust_env=False),
            # Both for connections that are never made: without them the SDK loads certificates twice.
            client_args={"verify": ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)},
            async_client_args={"ssl": ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)},
            retry_options=genai.types.HttpRetryOptions(attempts=1),
        ),
    )


def _keep_timeouts(http: httpx.AsyncClient) -> None:
    """The SDK sends every request without a timeout, or with one number for all its parts; ``http`` knows better."""

    async def restore(request: httpx.Request) -> None:
        request.extensions["timeout"] = http.timeout.as_dict()

    http.event_hooks = {**http.event_hooks, "request": [restore]}


def _be_quiet() -> None:
    """What matters of this, the providers tell as errors: a value that is newer than the SDK, a prompt without answer.

    At each building, for a filter may have been reset since.
    """
    warnings.filterwarnings("ignore", r".* is not a valid \w+$", UserWarning, r"google\.genai\._common")
    for name in ("google_genai", "langchain_google_genai"):
        logger = logging.getLogger(name)
        if logger.level == logging.NOTSET:
            logger.setLevel(logging.ERROR)
