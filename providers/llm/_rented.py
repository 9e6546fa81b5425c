"""Chat models of rented services: what their providers share beside :mod:`providers.llm._chat`."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence, Set
from typing import TYPE_CHECKING, Any, ClassVar

import httpx

from providers.base import Finding, LLMProviderResponse, Options, ProviderConfig
from providers.errors import (
    ProviderError,
    RefusedError,
    RejectedError,
    ServerError,
    TruncatedAnswerError,
)
from providers.http import client_options, said
from providers.llm._chat import ChatAnswer, ChatProvider, ChatRequest, Exchange, note_response
from providers.rented import Service, transport_failure

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel

__all__ = ["DEFAULT_MAX_TOKENS", "RentedChat", "RentedConnection", "wanted"]

DEFAULT_MAX_TOKENS = 4096  # an answer always has a bound; a section of a page takes a tenth of it
_PROBE_TIMEOUT_S = 5.0


class RentedConnection:
    """An httpx client of ours, and the vendor's chat models over it, one a model name."""

    def __init__(self, http: httpx.AsyncClient, build: Callable[[str, httpx.AsyncClient], BaseChatModel]) -> None:
        self.http = http
        self._build = build
        self._chats: dict[str, BaseChatModel] = {}

    def chat(self, model: str) -> BaseChatModel:
        if model not in self._chats:
            self._chats[model] = self._build(model, self.http)
        return self._chats[model]

    async def aclose(self) -> None:
        await self.http.aclose()


class RentedChat(ChatProvider[ChatRequest]):
    """Base of the rented chat providers. ``models.<provider>.<model>`` of provider_config.yaml holds more parameters of
    the vendor's request; one that is ``null`` there is never sent, for models that refuse it.

    A vendor says in class attributes: ``title``, ``prefix`` and ``extra`` as in :class:`providers.rented.Service`;
    ``reason_key``, the word of LangChain's metadata that tells why an answer ended, and which of its values mean that
    the answer was ``cut`` at the limit or ``declined``.
    """

    title: ClassVar[str]
    prefix: ClassVar[str]
    extra: ClassVar[str]
    reason_key: ClassVar[str]
    cut: ClassVar[Set[str]]
    declined: ClassVar[Set[str]]

    def __init__(self, config: ProviderConfig) -> None:
        super().__init__(config)
        self.service = Service(config, self.title, self.prefix, self.extra)

    @abstractmethod
    def _build(self, model: str, http: httpx.AsyncClient) -> BaseChatModel:
        """The vendor's chat model, its own retries off, over ``http``."""

    @abstractmethod
    def _sdk_errors(self) -> tuple[type[Exception], ...]:
        """Bases of what the vendor's package raises; empty while it is not imported."""

    @abstractmethod
    def _refused(self, exc: Exception, model: str | None) -> ProviderError | None:
        """Ours for an error that the service itself told, or None where ``exc`` is none."""

    @abstractmethod
    def _headers(self) -> dict[str, str]:
        """What carries the key in a probe."""

    @abstractmethod
    def _offered(self, body: Any) -> set[str]:
        """Names of the models in the answer to a GET of ``/models``."""

    def _probe_path(self) -> str:
        return "/models"

    async def prepare(self) -> None:
        """Imports the vendor's package and builds its client. Connects to nothing: a service may be hired in vain."""
        async with self._connections.borrow() as connection:
            connection.chat("prepared")

    async def health_check(self) -> bool:
        try:
            await self._models()
        except ProviderError:
            return False
        return True

    async def diagnose(self, models: Sequence[str]) -> list[Finding]:
        """Asks for the list of models once; raises ConfigError for a missing key or package."""
        try:
            offered = await self._models()
        except ProviderError as exc:
            return [Finding(self.config.name, "failed", exc.message, exc.hint)]
        found = [Finding(self.config.name, "ok", f"{self.title} answers at {self.service.base_url_shown}")]
        for model in models:
            subject = f"{self.config.name} {model}"
            if model in offered:
                found.append(Finding(subject, "ok", "offered"))
            else:
                remedy = "check its name in provider_config.yaml"
                found.append(Finding(subject, "warning", f"not among the {len(offered)} models on offer", remedy))
        return found

    async def _models(self) -> set[str]:
        async with self._connections.borrow() as connection:
            exchange = Exchange(None, _PROBE_TIMEOUT_S)
            connection.chat("prepared")  # a missing package is told here as well

            async def probe() -> set[str]:
                url = self.service.base_url + self._probe_path()
                response: httpx.Response = await connection.http.get(url, headers=self._headers())
                if not response.is_success:
                    raise self.service.refused(response.status_code, response.text[:300].strip())
                return self._offered(response.json())

            return await self._step(exchange, probe)

    # -- what the base asks ----------------------------------------------------------------------------------------

    def _connect(self) -> RentedConnection:
        options = client_options(self.service.base_url, read_timeout_s=self.service.timeout_s, local=False)
        http = httpx.AsyncClient(**options, event_hooks={"response": [note_response]})
        return RentedConnection(http, self._build)

    def _timeout(self) -> float:
        return self.service.timeout_s

    def _request(self, prompt: str, mode: str, options: Options) -> ChatRequest:
        return self._plain_request(prompt, mode, options)

    def _foreign(self) -> tuple[type[Exception], ...]:
        # Beside the transport's: what SDKs raise over bodies that are not their vendor's.
        return (httpx.HTTPError, OSError, ValueError, TypeError, AttributeError, LookupError, *self._sdk_errors())

    def _translated(self, exc: Exception, exchange: Exchange) -> ProviderError:
        if told := self._refused(exc, exchange.model):
            return told
        answering = exchange.response is not None and exchange.response.is_success
        broken = transport_failure(exc)
        if isinstance(broken, httpx.ConnectTimeout):
            return self.service.unreachable(broken, answering=False)
        if isinstance(broken, TimeoutError | httpx.TimeoutException):
            return self.service.timed_out(exchange.seconds)
        if broken is not None:
            return self.service.unreachable(broken, answering=answering)
        if exchange.response is None:
            message = f"the request cannot be put into {self.title}'s form: {said(exc)}"
            return self.service.error(RejectedError, message, "check options.tools, the schema and the model's options")
        message = f"{self.title} answered in a form that is not its own: {said(exc)}"
        return self.service.error(
            ServerError, message, f"is {self.service.base_url_shown} the right address? try again"
        )

    async def _response(self, request: ChatRequest, answer: ChatAnswer) -> LLMProviderResponse:
        reason = answer.metadata.get(self.reason_key)
        if answer.refusal or reason in self.declined:
            raise self._declined(request, answer, reason)
        if not reason:
            raise self.service.error(ServerError, f"{self.title}'s answer broke off before its end", "try again")
        if reason in self.cut:
            raise TruncatedAnswerError(
                f"{request.model} stopped at its limit of tokens",
                provider=self.config.name,
                hint=f"ask for more max_tokens, or raise {self._key(request.model, 'max_tokens')}",
                usage=answer.usage,
            )
        if not (answer.text.strip() or answer.calls):
            raise self._empty(request.model, reason, hint="try again, or use another model", usage=answer.usage)
        return LLMProviderResponse(
            provider=self.config.name,
            model=request.model,
            usage=answer.usage,
            output=answer.output(request.mode),
            meta={"done_reason": reason},
        )

    def _declined(self, request: ChatRequest, answer: ChatAnswer, reason: object) -> ProviderError:
        words = answer.refusal or answer.text or str(reason)
        return RefusedError(
            f"{request.model} declined to answer: {words[:300]}",
            provider=self.config.name,
            hint="change what the product's text asks for, or route the task to another model",
            usage=answer.usage,
        )


def wanted(own: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
    """``asked`` over the model's ``own`` options of the YAML; what is None in either is not sent."""
    forbidden = {key for key, value in own.items() if value is None}
    merged = {**own, **{key: value for key, value in asked.items() if value is not None}}
    return {key: value for key, value in merged.items() if key not in forbidden}
