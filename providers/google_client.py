"""Google's own client over an httpx client of ours, and how its API is asked: for chat models and images alike."""

from __future__ import annotations

import logging
import ssl
import warnings
from collections.abc import Mapping
from typing import Any

import httpx

from providers.rented import Service

__all__ = ["HOME", "PROBE_PATH", "build_client", "call_options", "int32", "key_header", "offered"]

HOME = "https://generativelanguage.googleapis.com"
PROBE_PATH = "/v1beta/models?pageSize=1000"

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


def key_header(service: Service) -> dict[str, str]:
    return {"x-goog-api-key": service.key()}


def offered(body: Any) -> set[str]:
    """Names of the models in the answer to a GET of ``PROBE_PATH``."""
    return {entry["name"].removeprefix("models/") for entry in body["models"]}


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
