"""The LLM gateway: mode, route, prompt, provider, answer. Agents depend on this and on nothing behind it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any, Protocol

from providers.base import LLMChunk, LLMOutput, LLMProviderResponse
from providers.errors import AttemptTimeoutError, DeadlineError, EmptyAnswerError, MalformedAnswerError, ServerError
from providers.tokens import estimate_tokens
from providers.usage import Usage
from routing.attempts import AttemptLog, with_retries
from routing.budget import Budget
from routing.contracts import AnswerMeta, LLMAnswer, LLMRequest, Mode, OnProgress, Progress
from routing.fallbacks import Fallbacks
from routing.fingerprints import Fingerprint, digest
from routing.output import MalformedJSONError, parse_json, strip_thinking
from routing.prices import Prices, Used
from routing.prompt_builder import Prompt, build_prompt, repair_prompt
from routing.router import LLMRoute, Router
from routing.tasks import Task, default_options, find_task
from routing.tracing import call_span, prepare_tracing

__all__ = ["LLMBackend", "LLMGateway"]

_ROUTING_OPTIONS = {"provider", "model", "stage", "language", "budget_usd", "timeout_s"}  # the last is ours to say
_SHARE = 2 / 3
"""A route with others behind it gets this part of the time that is left: one that hangs must leave time for them."""
_SLACK = 0.02  # of the deadline: an attempt that was given all that was left ends in the same moment


class LLMBackend(Protocol):
    """What answers behind the gateway: the providers in live, the mock in mock."""

    def stream(
        self, route: LLMRoute, request: LLMRequest, prompt: Prompt, options: Mapping[str, Any]
    ) -> AsyncGenerator[LLMChunk, None]: ...

    async def prepare(self) -> None: ...

    async def aclose(self) -> None: ...


class LLMGateway:
    """One per process and configuration; safe to share between tasks.

    Args:
        router: chooses the routes.
        backend: answers.
        mode: told in ``meta.generator_mode``.
        deadline_s: bound on one request with all its attempts, in seconds.
        prices: of the providers' models.
        secrets: values that no error may hold.
    """

    def __init__(
        self,
        router: Router,
        backend: LLMBackend,
        *,
        mode: Mode,
        deadline_s: float,
        prices: Prices | None = None,
        secrets: tuple[str, ...] = (),
    ) -> None:
        self._router = router
        self._backend = backend
        self._mode = mode
        self._deadline_s = deadline_s
        self._prices = prices or Prices(None)
        self._secrets = secrets
        self._fallbacks = Fallbacks()

    async def generate(
        self, request: LLMRequest, on_progress: OnProgress | None = None, *, budget: Budget | None = None
    ) -> LLMAnswer:
        """Answer ``request``; ``on_progress`` hears each piece of text as it arrives.

        ``budget`` is what its calls are paid from, where it is shared with other requests; else
        ``options.budget_usd`` bounds them.

        Raises:
            ProviderError: every route failed; the error is the last route's.
            DeadlineError: the time of this mode ran out.
            BudgetError: the budget does not pay for the next call.
            UsageError: the request names a provider that is not active, or no route has a model.
        """
        with call_span(request, self._mode, self._secrets) as tell:
            answer = await self._generate(request, on_progress, budget)
            tell(answer)
        return answer

    async def _generate(self, request: LLMRequest, on_progress: OnProgress | None, budget: Budget | None) -> LLMAnswer:
        started = time.perf_counter()
        budget = budget or Budget(request.options.budget_usd)
        book = AttemptLog(request.request_id, self._prices, budget, self._secrets)
        with book.told():
            response, parsed = await self._within_deadline(request, book, on_progress)
        return LLMAnswer(
            provider=response.provider,
            model=response.model,
            usage=book.usage,
            output=LLMOutput(type=response.output.type, content=response.output.content, parsed=parsed),
            meta=AnswerMeta(
                request_id=request.request_id,
                role=request.role,
                task=request.task,
                mode=request.mode,
                generator_mode=self._mode,
                latency_ms=round((time.perf_counter() - started) * 1000),
                cost_usd=book.cost_usd,
                attempts=book.attempts,
                provider=response.meta,
            ),
            timestamp=response.timestamp,
        )

    async def fingerprint(self, request: LLMRequest) -> Fingerprint:
        """What decides the answer to ``request``: mode, input, prompt, options, routing.

        Raises:
            UsageError: no route serves it.
        """
        prompt = build_prompt(request, find_task(request.role, request.task))
        routes = self._router.llm_routes(request)
        return {
            "mode": self._mode,
            "input": digest([request.role, request.task, request.mode, request.payload]),
            "prompt": digest([prompt.system, prompt.schema]),
            "options": digest(_asked_options(request)),
            "routing": digest([[route.provider, route.model, self._router.own_options(route)] for route in routes]),
        }

    async def prepare(self) -> None:
        """Imports and connections that the first request would otherwise wait for."""
        await asyncio.to_thread(prepare_tracing)
        await self._backend.prepare()

    async def aclose(self) -> None:
        await self._backend.aclose()

    async def _within_deadline(
        self, request: LLMRequest, book: AttemptLog, on_progress: OnProgress | None
    ) -> tuple[LLMProviderResponse, Any]:
        routes = self._router.llm_routes(request)
        book.check_prices(routes)
        until = asyncio.get_running_loop().time() + self._deadline_s
        call = _Call(self._backend, request, book, on_progress, until, len(routes))
        try:
            async with asyncio.timeout_at(until):
                return await self._fallbacks.first(routes, call.ask)
        except (TimeoutError, AttemptTimeoutError) as exc:
            if asyncio.get_running_loop().time() < until - _SLACK * self._deadline_s:
                raise
            book.cut_short(DeadlineError.code)
            if isinstance(exc, TimeoutError):  # else the chain has counted it
                self._blame(book)
            raise DeadlineError(
                f"no answer for {request.role}/{request.task} within {self._deadline_s:g} s",
                hint=f"raise GATEWAY_TIMEOUT_{self._mode.upper()}, or route this task to a smaller model",
            ) from exc

    def _blame(self, book: AttemptLog) -> None:
        """The deadline cut an attempt short: its model is too slow if it was what took the time."""
        last = book.attempts[-1] if book.attempts else None
        if last and last.latency_ms >= self._deadline_s * 1000 / 2:
            self._fallbacks.note_slow(last.provider, last.model)


class _Call:
    """One request on its way through the routes, of which ``behind`` are still to come, with time ``until`` then."""

    def __init__(
        self,
        backend: LLMBackend,
        request: LLMRequest,
        book: AttemptLog,
        on_progress: OnProgress | None,
        until: float,
        behind: int,
    ) -> None:
        self._backend = backend
        self._request = request
        self._task: Task | None = find_task(request.role, request.task)
        self._prompt = build_prompt(request, self._task)
        self._book = book
        self._on_progress = on_progress
        self._until = until
        self._behind = behind
        self._at_least = Used(Usage(prompt_tokens=estimate_tokens(self._prompt.system + self._prompt.user)))

    async def ask(self, route: LLMRoute) -> tuple[LLMProviderResponse, Any]:
        """The route's answer and its parsed value, within the route's share of the time."""
        self._behind -= 1
        clock = asyncio.get_running_loop().time
        left_s = self._until - clock()
        share_s = left_s * _SHARE if self._behind else left_s
        ends = clock() + share_s
        try:
            async with asyncio.timeout_at(ends if self._behind else None):
                return await self._answer(route, ends)
        except TimeoutError as exc:
            self._book.cut_short(AttemptTimeoutError.code)
            raise AttemptTimeoutError(
                f"{route.provider} {route.model} took all of its {share_s:.3g} s",
                provider=route.provider,
                hint="route this task to a smaller model, or look whether the service hangs",
            ) from exc

    async def _answer(self, route: LLMRoute, ends: float) -> tuple[LLMProviderResponse, Any]:
        """One repair call where json is malformed."""
        response = await self._attempts(route, self._prompt, ends)
        if response.output.type != "json":
            return response, response.output.parsed
        try:
            return response, self._parse(response)
        except MalformedJSONError as exc:
            again = repair_prompt(self._prompt, response.output.content, str(exc))
        response = await self._attempts(route, again, ends)
        try:
            return response, self._parse(response)
        except MalformedJSONError as exc:
            raise MalformedAnswerError(
                f"{route.model} gave no valid JSON for {self._request.task}, even after a repair: {exc}",
                provider=route.provider,
                hint="route this task to a larger model in provider_config.yaml",
            ) from exc

    def _parse(self, response: LLMProviderResponse) -> Any:
        return parse_json(response.output.content, self._task, self._request.payload)

    async def _attempts(self, route: LLMRoute, prompt: Prompt, ends: float) -> LLMProviderResponse:
        async def attempt() -> LLMProviderResponse:
            return await self._book.record(
                route,
                lambda ordinal: self._attempt(route, prompt, ends, ordinal),
                lambda response: Used(response.usage),
                at_least=self._at_least,
            )

        return await with_retries(attempt, ends)

    async def _attempt(self, route: LLMRoute, prompt: Prompt, ends: float, ordinal: int) -> LLMProviderResponse:
        options = self._options(route, prompt, ends, ordinal)
        async with aclosing(self._backend.stream(route, self._request, prompt, options)) as chunks:
            async for chunk in chunks:
                if chunk.text and self._on_progress:
                    self._on_progress(Progress(kind="token", text=chunk.text, attempt=ordinal))
                if chunk.response is not None:
                    return self._accept(chunk.response)
        raise ServerError("the answer ended before it was complete", provider=route.provider, hint="try again")

    def _accept(self, response: LLMProviderResponse) -> LLMProviderResponse:
        content = response.output.content
        if response.output.type != "tools":
            content = strip_thinking(content)
        if not content:
            raise EmptyAnswerError(
                f"{response.model} answered with nothing",
                provider=response.provider,
                hint="try again; if it stays so, set `think: false` for the model in provider_config.yaml",
                usage=response.usage,
            )
        return response.model_copy(update={"output": response.output.model_copy(update={"content": content})})

    def _options(self, route: LLMRoute, prompt: Prompt, ends: float, ordinal: int) -> dict[str, Any]:
        """Defaults by role and task beneath the request's own; each attempt has its own seed and what time is left."""
        options = _asked_options(self._request)
        left_s = max(ends - asyncio.get_running_loop().time(), 0.001)
        options |= {"model": route.model, "system": prompt.system, "timeout_s": left_s}
        if prompt.schema is not None:
            options["json_schema"] = prompt.schema
        if "seed" in options:
            options["seed"] += ordinal - 1
        return options


def _asked_options(request: LLMRequest) -> dict[str, Any]:
    """The request's own options over the defaults of its role and task."""
    asked = request.options.model_dump(exclude_none=True, exclude=_ROUTING_OPTIONS)
    return default_options(request.role, request.task) | asked
