"""Chat models on a machine of one's own: Ollama, through langchain-ollama's ``ChatOllama``.

Wire format: ``POST /api/chat``, answered in lines of JSON of which the last has ``done: true`` and the counts; an error
after the first line is a line ``{"error": ...}`` under status 200. Durations are nanoseconds on the wire, milliseconds
here. ``langchain_ollama`` takes most of a second to import, so the first answer imports it, and mock mode never does.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx

from providers.base import Finding, LLMProviderResponse, Options, ProviderConfig, Setting
from providers.errors import (
    AttemptTimeoutError,
    AuthenticationError,
    ConfigError,
    ModelNotFoundError,
    OverloadedError,
    PromptTooLongError,
    ProviderError,
    RejectedError,
    ServerError,
    TruncatedAnswerError,
    UnreachableError,
)
from providers.exchange import Exchange
from providers.http import error_type, retry_after, said, unknown_host, without_credentials
from providers.llm._chat import ChatAnswer, ChatProvider
from providers.llm.ollama.exchange import (
    OllamaConnection,
    OllamaRequest,
    error_text,
    estimate_request,
    foreign_errors,
    meta_of,
    usage_of,
)
from providers.llm.ollama.library import Library, Wire, tagged

__all__ = ["OllamaProvider"]

DEFAULT_NUM_CTX = 8192
DEFAULT_NUM_PREDICT = 2048
DEFAULT_KEEP_ALIVE = "10m"

_BOUNDS: Mapping[str, int] = {"num_ctx": DEFAULT_NUM_CTX, "num_predict": DEFAULT_NUM_PREDICT}

_BOUNDED: Mapping[str, str] = {
    "num_ctx": "the tokens of prompt and answer together",
    "num_predict": "the tokens of an answer, which without a bound can run on for ever",
}

_NEARLY_FULL = 0.75
_FRESH_LOAD_MS = 500  # a model that is in memory already "loads" in tens of milliseconds
_PROBE_TIMEOUT_S = 5.0
_TOO_SMALL = re.compile(r"context (length|size)")


class OllamaProvider(ChatProvider[OllamaRequest]):
    """Ollama's models. ``models.<provider>.<model>`` of provider_config.yaml holds the options of each.

    ``keep_alive`` and ``think`` go where Ollama wants them, the rest (``num_ctx``, ``num_predict``, ``top_p``, ...)
    into the request's ``options``. ``num_ctx`` is the same in every request to a model, because another value makes
    Ollama load the model again.

    Raises:
        ConfigError: ``num_ctx`` or ``num_predict`` of a model is no whole number above 0.
    """

    vendor = "ollama"
    settings = (
        Setting("OLLAMA_BASE_URL", "Address of the Ollama server.", default="http://localhost:11434", kind="url"),
        Setting("OLLAMA_DEFAULT_MODEL", "Model where no rule of provider_config.yaml names one.", kind="model"),
        Setting("OLLAMA_API_KEY", "Key of a hosted or guarded Ollama; none at home.", secret=True),
        Setting("OLLAMA_TIMEOUT", "Seconds that one attempt at an answer may take.", default="120", kind="seconds"),
    )

    def __init__(self, config: ProviderConfig) -> None:
        super().__init__(config)
        self._spilled: dict[str, bool] = {}
        for model, own in config.models.items():
            for key in _BOUNDS.keys() & own.keys():
                self._check_bound(model, key, own[key])
        self._library = library = Library(self._wire(), preferred=tuple(config.models))
        self.list_models, self.loaded_models = library.list_models, library.loaded_models
        self.model_info, self.select_best_model = library.model_info, library.select_best_model
        self.pull, self.prewarm = library.pull, library.prewarm

    async def prepare(self) -> None:
        async with self._connections.borrow() as connection:
            connection.chat("")
        await self.health_check()

    async def health_check(self) -> bool:
        try:
            await self._library.version()
        except ProviderError:
            return False
        return True

    async def diagnose(self, models: Sequence[str]) -> list[Finding]:
        """Whether each model is pulled, can chat, holds its ``num_ctx`` and fits the card where it is loaded."""
        return await self._library.diagnose(models)

    async def models(self) -> list[dict[str, Any]]:
        """``name`` with its tag and ``size`` in bytes of each installed model."""
        installed = await self._library.list_models()
        return [{"name": str(entry.get("name")), "size": int(entry.get("size") or 0)} for entry in installed]

    async def _on_cpu(self, model: str, meta: Mapping[str, Any]) -> bool:
        """Whether part of the model runs on the CPU, which Ollama does in silence where the card is too small.

        Asked of ``/api/ps`` after each load of the model; what Ollama does not tell is no.
        """
        if model not in self._spilled or meta.get("load_duration_ms", 0) > _FRESH_LOAD_MS:
            try:
                loaded = await self.loaded_models()
            except ProviderError:
                return False
            self._spilled[model] = any(
                entry.get("name") == tagged(model) and entry.get("size_vram", 0) < entry.get("size", 0)
                for entry in loaded
            )
        return self._spilled[model]

    # -- the request ---------------------------------------------------------------------------------------------------

    def _request(self, prompt: str, mode: str, options: Options) -> OllamaRequest:
        """Raises RejectedError for an empty prompt, PromptTooLongError for one that does not fit."""
        plain = self._plain_request(prompt, mode, options)
        estimate = estimate_request(plain.system, plain.prompt, plain.arguments.get("tools"))
        request = OllamaRequest(**vars(plain), estimate=estimate)
        if request.estimate + request.num_predict > request.num_ctx:
            raise self._too_long(
                f"the prompt takes about {request.estimate} tokens and the answer up to {request.num_predict}, "
                f"but the context of {request.model} holds {request.num_ctx}",
                request,
            )
        return request

    def _arguments(self, mode: str, options: Options) -> dict[str, Any]:
        own = {**_BOUNDS, **self.config.models.get(options["model"], {})}
        arguments = {"model": options["model"], "keep_alive": own.pop("keep_alive", DEFAULT_KEEP_ALIVE)}
        if (think := own.pop("think", None)) is not None:
            arguments["reasoning"] = think
        if mode == "json":
            arguments["format"] = options.get("json_schema") or "json"
        if mode == "tools" and options.get("tools"):
            arguments["tools"] = options["tools"]
        asked = {
            "num_predict": options.get("max_tokens"),
            "temperature": options.get("temperature"),
            "seed": options.get("seed"),
        }
        arguments["options"] = own | {key: value for key, value in asked.items() if value is not None}
        return arguments

    def _check_bound(self, model: str, key: str, value: object) -> None:
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ConfigError(
                f"models.{self.config.name}.{model}.{key} must be a whole number above 0, got {value!r}",
                hint=f"mend it in provider_config.yaml, e.g. {_BOUNDS[key]}: {_BOUNDED[key]}",
            )

    def _timeout(self) -> float:
        return self.config.seconds("OLLAMA_TIMEOUT")

    # -- the exchange --------------------------------------------------------------------------------------------------

    def _connect(self) -> OllamaConnection:
        return OllamaConnection(
            self._url, api_key=self.config.values.get("OLLAMA_API_KEY"), read_timeout_s=self._timeout()
        )

    def _foreign(self) -> tuple[type[Exception], ...]:
        return foreign_errors()

    def _wire(self) -> Wire:
        return Wire(
            name=self.config.name,
            url=self._url_shown,
            client=self._probe,
            step=self._within,
            arguments=lambda model: self._arguments("chat", {"model": model}),
            load_seconds=self._timeout(),
        )

    @asynccontextmanager
    async def _probe(self) -> AsyncGenerator[httpx.AsyncClient, None]:
        async with self._connections.borrow() as connection:
            yield connection.probe

    async def _within(self, model: str | None, seconds: float | None, call: Callable[[], Awaitable[Any]]) -> Any:
        return await self._step(Exchange(model, seconds or _PROBE_TIMEOUT_S), call)

    # -- the answer ----------------------------------------------------------------------------------------------------

    async def _response(self, request: OllamaRequest, answer: ChatAnswer) -> LLMProviderResponse:
        """Raises ServerError, PromptTooLongError, TruncatedAnswerError or EmptyAnswerError for what is no answer."""
        end = answer.metadata
        if not end.get("done"):
            raise self._error(ServerError, "Ollama's answer broke off before its last line", hint="try again")
        self._check_context(request, end.get("prompt_eval_count"))
        reason = end.get("done_reason")
        if reason == "length":
            raise self._error(
                TruncatedAnswerError,
                f"{request.model} stopped at its limit of {request.num_predict} tokens",
                hint=f"ask for more max_tokens, or raise {self._key(request.model, 'num_predict')}",
                usage=usage_of(end),
            )
        if reason in ("load", "unload") or not (answer.text.strip() or answer.calls):
            raise self._nothing(request.model, reason)
        meta = meta_of(end) | {"num_ctx": request.num_ctx, "prompt_tokens_estimate": request.estimate}
        return LLMProviderResponse(
            provider=self.config.name,
            model=request.model,
            usage=usage_of(end),
            output=answer.output(request.mode),
            meta=meta | {"degraded": await self._on_cpu(request.model, meta)},
        )

    def _check_context(self, request: OllamaRequest, evaluated: int | None) -> None:
        """Ollama drops the front of a prompt that does not fit and answers the rest, with a 200 (ollama#17427).

        The count is absent where the prompt was cached, so absence says nothing.
        """
        if evaluated is None or request.estimate + request.num_predict < _NEARLY_FULL * request.num_ctx:
            return
        if evaluated < request.estimate / 2:
            raise self._too_long(
                f"Ollama read {evaluated} tokens of a prompt of about {request.estimate}, so its front was lost; "
                f"the context of {request.model} holds {request.num_ctx}",
                request,
            )

    # -- errors --------------------------------------------------------------------------------------------------------

    def _translated(self, exc: Exception, exchange: Exchange) -> ProviderError:
        """Ours for a foreign error, by its type; ``exchange`` tells how far the call had come."""
        if isinstance(exc, httpx.HTTPStatusError):
            return self._refused(exc.response, exchange.model)
        if isinstance(exc, TimeoutError | httpx.TimeoutException) and not isinstance(exc, httpx.ConnectTimeout):
            return self._timed_out(exchange)
        if isinstance(exc, OSError | httpx.TransportError):
            return self._error(
                UnreachableError,
                f"no connection to Ollama: {said(exc)}"
                if exchange.response is None
                else f"the connection to Ollama broke in the middle of an answer: {said(exc)}",
                hint=self._unreached(exc),
            )
        if exchange.response is None:
            return self._error(
                RejectedError,
                f"the request cannot be put into Ollama's form: {said(exc)}",
                hint="check options.tools and the schema",
            )
        if type(exc) is ValueError:
            # astream()'s word for a stream without a piece: a line `done_reason: load`, which ChatOllama skips.
            return self._nothing(exchange.model, "load")
        return self._error(ServerError, f"Ollama failed in the middle of an answer: {said(exc)}", hint="try again")

    def _refused(self, response: httpx.Response, model: str | None) -> ProviderError:
        status, text = response.status_code, error_text(response)
        if status == 404 and model is not None:
            return self._error(
                ModelNotFoundError,
                f"Ollama has no model {model!r}: {text}",
                hint=f"ollama pull {model}   (on the machine of {self._url_shown})",
                status=status,
            )
        if status == 400 and model is not None and _TOO_SMALL.search(text):
            return self._error(
                PromptTooLongError,
                f"the prompt does not fit the context of {model}: {text}",
                hint=f"raise {self._key(model, 'num_ctx')}, or shorten the material",
                status=status,
            )
        leaf = error_type(status)
        return self._error(
            leaf,
            f"Ollama answered with status {status}: {text}",
            hint=self._hint(leaf),
            status=status,
            retry_after=retry_after(response.headers),
        )

    def _hint(self, leaf: type[ProviderError]) -> str:
        if leaf is AuthenticationError:
            return f"set OLLAMA_API_KEY to a key of {self._url_shown}"
        if leaf is OverloadedError:
            return "try again later, or raise OLLAMA_NUM_PARALLEL or OLLAMA_MAX_QUEUE of the server"
        if leaf is ServerError:
            return "the server's log tells more; try again"
        return f"is {self._url_shown} (OLLAMA_BASE_URL) the address of Ollama itself, and can the model do this?"

    def _unreached(self, exc: Exception) -> str:
        if unknown_host(exc):
            name = f"no host of the name {self._url.host!r} is known here: mend OLLAMA_BASE_URL ({self._url_shown})"
            return f"{name}, or give the host's IP address"
        return f"is Ollama running? start it with `ollama serve`; OLLAMA_BASE_URL is {self._url_shown}"

    def _timed_out(self, exchange: Exchange) -> ProviderError:
        if exchange.model is None:
            return self._error(
                AttemptTimeoutError,
                f"no answer from Ollama within {exchange.seconds:g} s",
                hint=f"does the server at {self._url_shown} hang?",
            )
        doing = "answering" if exchange.response is not None else "loading the model or waiting in its queue"
        return self._error(
            AttemptTimeoutError,
            f"Ollama was still {doing} after {exchange.seconds:g} s",
            hint=f"raise OLLAMA_TIMEOUT (now {self.config.text('OLLAMA_TIMEOUT')} s), or use a smaller model",
        )

    def _nothing(self, model: str | None, reason: str | None) -> ProviderError:
        return self._empty(model, reason, hint=f"try again; if it stays so, set `think: false` in {self._key(model)}")

    def _too_long(self, message: str, request: OllamaRequest) -> ProviderError:
        return self._error(
            PromptTooLongError,
            message,
            hint=f"raise {self._key(request.model, 'num_ctx')}, or shorten the material",
            details={
                "prompt_tokens_estimate": request.estimate,
                "num_predict": request.num_predict,
                "num_ctx": request.num_ctx,
            },
        )

    @property
    def _url(self) -> httpx.URL:
        return httpx.URL(self.config.text("OLLAMA_BASE_URL"))

    @property
    def _url_shown(self) -> str:
        return str(without_credentials(self._url))
