"""What providers that speak through a LangChain chat model have in common.

A vendor's module says how it is connected, what one call is told and what its errors mean; the rest is here: one set of
connections an event loop, a time limit over every step, streaming, and the answer put together from its pieces.
LangChain takes most of a second to import, so the first answer imports it, and mock mode never does.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, cast

from providers.base import LLMChunk, LLMOutput, LLMProvider, LLMProviderResponse, Options, ProviderConfig, Usage
from providers.errors import EmptyAnswerError, ProviderError, RejectedError
from providers.exchange import Exchange
from providers.http import PerLoop

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel
    from langchain_core.messages import AIMessageChunk, BaseMessage

__all__ = [
    "ChatAnswer",
    "ChatProvider",
    "ChatRequest",
    "Connection",
    "encodable",
]

T = TypeVar("T")
R = TypeVar("R", bound="ChatRequest")


@dataclass(frozen=True)
class ChatRequest:
    """One call: what is said, what the chat model is told besides, and the seconds that it may take."""

    mode: str
    model: str
    system: str
    prompt: str
    arguments: dict[str, Any]
    seconds: float

    def messages(self) -> list[BaseMessage]:
        from langchain_core.messages import HumanMessage, SystemMessage  # slow to import

        human = HumanMessage(self.prompt)
        return [SystemMessage(self.system), human] if self.system.strip() else [human]


@dataclass
class ChatAnswer:
    """An answer as its pieces come in.

    ``metadata`` holds what LangChain calls ``response_metadata``, ``refusal`` the words with which a model declined.
    """

    texts: list[str] = field(default_factory=list)
    refusal: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)
    usage: Usage = field(default_factory=Usage)
    _calling: AIMessageChunk | None = None

    def add(self, piece: AIMessageChunk) -> str:
        """Take a piece in and return its text."""
        text = str(piece.text)
        if text:
            self.texts.append(text)
        if piece.tool_call_chunks:
            self._calling = piece if self._calling is None else self._calling + piece
        if piece.usage_metadata:
            told = piece.usage_metadata
            self.usage += Usage(
                prompt_tokens=told["input_tokens"],
                completion_tokens=told["output_tokens"],
                total_tokens=told["total_tokens"],
            )
        self.refusal += piece.additional_kwargs.get("refusal") or ""
        self.metadata |= piece.response_metadata
        return text

    @property
    def text(self) -> str:
        return "".join(self.texts)

    @property
    def calls(self) -> list[dict[str, Any]]:
        """``{name, arguments}`` of each tool call."""
        calls = self._calling.tool_calls if self._calling else []
        return [{"name": call["name"], "arguments": call["args"]} for call in calls]

    def output(self, mode: str) -> LLMOutput:
        """A model that was given tools and called none has answered in words: they are the content then."""
        if mode == "tools":
            content = json.dumps(self.calls, ensure_ascii=False) if self.calls else self.text
            return LLMOutput(type="tools", content=content, parsed=self.calls)
        return LLMOutput(type="json" if mode == "json" else "text", content=self.text)


class Connection(Protocol):
    """One event loop's connections to a vendor."""

    def chat(self, model: str) -> BaseChatModel:
        """The chat model over these connections; a provider's calls name ``model`` where it takes the name anew."""
        ...

    async def aclose(self) -> None: ...


class ChatProvider(LLMProvider, Generic[R]):
    """Base of the providers here; see the module. ``R`` is the request that a vendor works with."""

    supports_json = True
    supports_streaming = True

    def __init__(self, config: ProviderConfig) -> None:
        super().__init__(config)
        self._connections: PerLoop[Any] = PerLoop(self._connect, lambda connection: connection.aclose())

    @abstractmethod
    def _connect(self) -> Connection:
        """Connections for the running event loop.

        Raises:
            ConfigError: a key or a package is missing.
        """

    @abstractmethod
    def _arguments(self, mode: str, options: Options) -> dict[str, Any]:
        """Keyword arguments of one ``astream`` of the chat model."""

    @abstractmethod
    def _foreign(self) -> tuple[type[Exception], ...]:
        """What may come out of a call and is translated."""

    @abstractmethod
    def _translated(self, exc: Exception, exchange: Exchange) -> ProviderError:
        """Ours for a foreign error; ``exchange`` tells how far the call had come."""

    @abstractmethod
    def _request(self, prompt: str, mode: str, options: Options) -> R:
        """The vendor's request; most take :meth:`_plain_request`. Raises ProviderError for what cannot be sent."""

    @abstractmethod
    async def _response(self, request: R, answer: ChatAnswer) -> LLMProviderResponse:
        """The response; raises ProviderError for an answer that is none."""

    @abstractmethod
    def _timeout(self) -> float:
        """What one attempt may take at most, in seconds."""

    async def generate(self, prompt: str, role: str, task: str, mode: str, options: Options) -> LLMProviderResponse:
        async with aclosing(self.stream(prompt, role, task, mode, options)) as chunks:
            async for chunk in chunks:
                if chunk.response is not None:
                    return chunk.response
        raise AssertionError("stream() ends in a response or in an error")

    async def stream(
        self, prompt: str, role: str, task: str, mode: str, options: Options
    ) -> AsyncGenerator[LLMChunk, None]:
        """As the base class says. The connection is back in the pool before the last chunk comes."""
        request = self._request(prompt, mode, options)
        answer = ChatAnswer()
        async with aclosing(self._pieces(request)) as pieces:
            async for piece in pieces:
                text = answer.add(piece)
                if text:
                    yield LLMChunk(text=text)
        yield LLMChunk(response=await self._response(request, answer))

    async def aclose(self) -> None:
        await self._connections.aclose()

    def _plain_request(self, prompt: str, mode: str, options: Options) -> ChatRequest:
        """Raises RejectedError for an empty prompt."""
        if not prompt.strip():
            raise RejectedError(
                "the prompt is empty, and a model answers an empty turn with nothing",
                provider=self.config.name,
                hint="give the request a payload",
            )
        return ChatRequest(
            mode=mode,
            model=options["model"],
            system=encodable(options.get("system") or ""),
            prompt=encodable(prompt),
            arguments=self._arguments(mode, options),
            seconds=self._seconds(options),
        )

    def _seconds(self, options: Options) -> float:
        """What one attempt may take. ``timeout_s`` may come from a stranger: it can only shorten it."""
        own, asked = self._timeout(), options.get("timeout_s")
        return min(own, asked) if isinstance(asked, int | float) and asked > 0 else own

    async def _pieces(self, request: R) -> AsyncGenerator[AIMessageChunk, None]:
        async with self._connections.borrow() as connection:
            answer = connection.chat(request.model).astream(request.messages(), **request.arguments)
            pieces = cast("AsyncGenerator[AIMessageChunk, None]", answer)
            exchange = Exchange(request.model, request.seconds)
            # LangChain's generators do not close each other: without the second one here the response of an answer
            # that nobody reads to its end would stay open until the garbage collector comes by.
            async with aclosing(pieces), aclosing(exchange):
                while (piece := await self._step(exchange, lambda: anext(pieces, None))) is not None:
                    yield piece

    async def _step(self, exchange: Exchange, step: Callable[[], Awaitable[T]]) -> T:
        return await exchange.step(step, self._foreign(), self._translated)

    def _empty(self, model: str | None, reason: object, *, hint: str, usage: Usage | None = None) -> ProviderError:
        return EmptyAnswerError(
            f"{model} answered with nothing (its reason: {reason!r})",
            provider=self.config.name,
            hint=hint,
            usage=usage,
        )

    def _error(self, leaf: type[ProviderError], message: str, *, hint: str, **facts: Any) -> ProviderError:
        return leaf(message, provider=self.config.name, hint=hint, **facts)

    def _key(self, model: str | None, option: str = "") -> str:
        """How a model's option is called in messages."""
        key = ".".join(part for part in ("models", self.config.name, model, option) if part)
        return f"`{key}` in provider_config.yaml"


def encodable(text: str) -> str:
    """JSON may smuggle in half a surrogate pair, which no UTF-8 request can hold."""
    return text.encode("utf-8", "replace").decode("utf-8")
