"""Chat models of rented services: what their providers share beside :mod:`providers.llm._chat`."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence, Set
from typing import TYPE_CHECKING, ClassVar

import httpx

from providers.base import Finding, LLMProviderResponse, Options
from providers.errors import (
    ProviderError,
    RefusedError,
    ServerError,
    TruncatedAnswerError,
)
from providers.llm._chat import ChatAnswer, ChatProvider, ChatRequest
from providers.rented import MISSHAPEN, Rented

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel

__all__ = ["DEFAULT_MAX_TOKENS", "RentedChat", "RentedConnection"]

DEFAULT_MAX_TOKENS = 4096  # an answer always has a bound; a section of a page takes a tenth of it


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


class RentedChat(Rented, ChatProvider[ChatRequest]):
    """Base of the rented chat providers. ``models.<provider>.<model>`` of provider_config.yaml holds more parameters of
    the vendor's request; one that is ``null`` there is never sent, for models that refuse it.

    A vendor says in class attributes, beside those of :class:`providers.rented.Rented`: ``reason_key``, the word of
    LangChain's metadata that tells why an answer ended, and which of its values mean that the answer was ``cut`` at the
    limit or ``declined``; ``limit_key``, how the limit is called in the request.
    """

    reason_key: ClassVar[str]
    cut: ClassVar[Set[str]]
    declined: ClassVar[Set[str]]
    limit_key: ClassVar[str] = "max_tokens"

    @abstractmethod
    def _build(self, model: str, http: httpx.AsyncClient) -> BaseChatModel:
        """The vendor's chat model, its own retries off, over ``http``."""

    async def diagnose(self, models: Sequence[str]) -> list[Finding]:
        """As the base says; raises ConfigError for a missing key or package."""
        return await self._findings(models)

    def _load(self, connection: RentedConnection) -> None:
        connection.chat("prepared")

    # -- what the base asks ----------------------------------------------------------------------------------------

    def _connect(self) -> RentedConnection:
        return RentedConnection(self._http(), self._build)

    def _timeout(self) -> float:
        return self.service.timeout_s

    def _request(self, prompt: str, mode: str, options: Options) -> ChatRequest:
        try:
            return self._plain_request(prompt, mode, options)
        except MISSHAPEN as exc:  # tools and schemas may come from a stranger
            raise self._unsendable(exc, options["model"]) from exc

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
                hint=f"ask for more max_tokens, or raise {self._key(request.model, self.limit_key)}",
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
