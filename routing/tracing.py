"""Traces for LangSmith and OpenTelemetry: off, and imported by nobody, until their own variables switch them on.

LangSmith hears the graph and its nodes from LangChain; here each gateway call becomes one run below its node.
OpenTelemetry hears all of it from here: a run, its nodes, their gateway calls, the attempts of each. Names follow the
GenAI semantic conventions; what they have no word for begins with ``sparklio.``.
"""

from __future__ import annotations

import atexit
import logging
import os
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import lru_cache
from importlib import import_module
from typing import Any

from providers.errors import SparklioError
from routing.contracts import Attempt, ImageAnswer, ImageRequest, LLMAnswer, LLMRequest, Route
from routing.logs import mask_secrets
from routing.prompt_builder import build_prompt
from routing.tasks import find_task

__all__ = ["Tell", "attempt_span", "call_span", "node_span", "prepare_tracing", "run_span"]

MOMENT_S = 2.0
"""What a process waits at its end, at most, for traces that are still to be sent."""

log = logging.getLogger(__name__)

Tell = Callable[[Any], None]
"""Tells a span what came of it: the answer of a call, the booked attempt. Not called where nothing did."""

_Span = AbstractContextManager[Tell]
_Asked = LLMRequest | ImageRequest
_Answer = LLMAnswer | ImageAnswer


def run_span(run_id: str, mode: str) -> _Span:
    """One session of a run: from its start, or where it goes on, to its end."""
    return _all(lambda tracer: tracer.run(run_id, mode))


def node_span(name: str, role: str, task: str, run_id: str | None) -> _Span:
    """One execution of an agent."""
    return _all(lambda tracer: tracer.node(name, role, task, run_id))


def call_span(request: _Asked, mode: str, secrets: tuple[str, ...]) -> _Span:
    """One gateway request with all its attempts; told its answer. No trace of its error holds one of ``secrets``."""
    return _all(lambda tracer: tracer.call(request, mode, secrets))


def attempt_span(operation: str, route: Route) -> _Span:
    """One call of a provider; told its :class:`Attempt`. ``operation``: ``chat`` or ``generate_content``."""
    return _all(lambda tracer: tracer.attempt(operation, route))


def prepare_tracing() -> None:
    """The imports that the first span would otherwise wait for; none where tracing is off."""
    _tracers()


class _Tracer:
    """Passes over what it has no word for."""

    def run(self, run_id: str, mode: str) -> _Span:
        return _OFF

    def node(self, name: str, role: str, task: str, run_id: str | None) -> _Span:
        return _OFF

    def call(self, request: _Asked, mode: str, secrets: tuple[str, ...]) -> _Span:
        return _OFF

    def attempt(self, operation: str, route: Route) -> _Span:
        return _OFF


_OFF: _Span = nullcontext(lambda _: None)


def _all(span_of: Callable[[_Tracer], _Span]) -> _Span:
    tracers = _tracers()
    return _together(tracers, span_of) if tracers else _OFF


@contextmanager
def _together(tracers: tuple[_Tracer, ...], span_of: Callable[[_Tracer], _Span]) -> Iterator[Tell]:
    with ExitStack() as spans:
        tells = [spans.enter_context(span_of(tracer)) for tracer in tracers]

        def tell(result: Any) -> None:
            for one in tells:
                one(result)

        yield tell


@lru_cache(maxsize=1)
def _tracers() -> tuple[_Tracer, ...]:
    """Chosen once, by the environment of the process."""
    wanted = ((_langsmith_is_wanted, _LangSmith), (_opentelemetry_is_wanted, _OpenTelemetry))
    return tuple(tracer for is_wanted, build in wanted if is_wanted() and (tracer := _built(build)))


def _built(build: Callable[[], _Tracer]) -> _Tracer | None:
    try:
        return build()
    except ImportError as exc:
        log.info("no traces: %s; pip install 'sparklio[otel]'", exc)
    except Exception as exc:  # noqa: BLE001 - a wrong variable of a tracer's is told, and fails no run
        log.warning("no traces: %s: %s", type(exc).__name__, exc)
    return None


# LangSmith


def _langsmith_is_wanted() -> bool:
    names = ("LANGSMITH_TRACING_V2", "LANGCHAIN_TRACING_V2", "LANGSMITH_TRACING", "LANGCHAIN_TRACING")
    return next((value for name in names if (value := os.environ.get(name, "").strip())), "") == "true"


_LETS_GO = ("LANGSMITH_USE_DAEMON", "LANGSMITH_DISABLE_RUN_COMPRESSION")
"""Without them the client's threads, and those that compress, hold the process for minutes where nobody answers."""


class _LangSmith(_Tracer):
    def __init__(self) -> None:
        self._helpers = import_module("langsmith.run_helpers")
        for name in _LETS_GO:
            os.environ.setdefault(name, "true")
        client = import_module("langsmith.run_trees").get_cached_client()
        atexit.register(_send_the_rest, client)

    @contextmanager
    def call(self, request: _Asked, mode: str, secrets: tuple[str, ...]) -> Iterator[Tell]:
        chat = isinstance(request, LLMRequest)
        name = f"{request.role}/{request.task}" if isinstance(request, LLMRequest) else f"image/{request.kind}"
        facts = {"request_id": request.request_id, "generator_mode": mode}
        block = self._helpers.trace(name, "llm" if chat else "tool", inputs=_inputs(request), metadata=facts)
        run = block.__enter__()
        try:
            with self._helpers.tracing_context(enabled=False):  # a LangChain model below would be a second llm run
                yield lambda answer: run.end(outputs=_outputs(answer), metadata=_models(answer))
        except BaseException as exc:
            _cover(exc, secrets)
            run.end(error=_reason(exc))
            raise
        finally:
            block.__exit__(None, None, None)  # it would send the whole stack of the error


def _send_the_rest(client: Any) -> None:
    client.flush(timeout=MOMENT_S)
    if client.tracing_queue is not None and client.tracing_queue.unfinished_tasks:
        log.warning("LangSmith took not all traces within %g s; the rest is lost", MOMENT_S)


def _inputs(request: _Asked) -> dict[str, Any]:
    if isinstance(request, ImageRequest):
        return request.model_dump(mode="json", include={"kind", "prompt", "brand", "options"}, exclude_none=True)
    prompt = build_prompt(request, find_task(request.role, request.task))
    return {"messages": [{"role": "system", "content": prompt.system}, {"role": "user", "content": prompt.user}]}


def _outputs(answer: _Answer) -> dict[str, Any]:
    if isinstance(answer, ImageAnswer):
        return {"images": [image.model_dump(mode="json") for image in answer.images]}
    usage: dict[str, float] = {
        "input_tokens": answer.usage.prompt_tokens,
        "output_tokens": answer.usage.completion_tokens,
        "total_tokens": answer.usage.total_tokens,
    }
    if answer.meta.cost_usd is not None:
        usage["total_cost"] = answer.meta.cost_usd
    return {"messages": [{"role": "assistant", "content": answer.output.content}], "usage_metadata": usage}


def _models(answer: _Answer) -> dict[str, Any]:
    """LangSmith's words for who answered, and what came before."""
    return {
        "ls_provider": answer.provider,
        "ls_model_name": answer.meta.attempts[-1].model if isinstance(answer, ImageAnswer) else answer.model,
        "cost_usd": answer.meta.cost_usd,
        "attempts": [attempt.model_dump(mode="json") for attempt in answer.meta.attempts],
    }


def _cover(error: BaseException, secrets: tuple[str, ...]) -> None:
    """Take the secrets out of an error and what it came from: LangChain sends the whole stack of a failed node."""
    stack = "".join(traceback.format_exception(error))
    if mask_secrets(stack, secrets) != stack:
        error.__cause__ = error.__context__ = None
        error.args = tuple(mask_secrets(part, secrets) if isinstance(part, str) else part for part in error.args)


def _reason(error: BaseException) -> str:
    """Code and message of an error of ours, which hold no secret; of others the name alone."""
    return f"{error.code}: {error.message}" if isinstance(error, SparklioError) else type(error).__name__


# OpenTelemetry


def _opentelemetry_is_wanted() -> bool:
    told = os.environ.get
    return bool(
        (told("OTEL_EXPORTER_OTLP_ENDPOINT") or told("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"))
        and told("OTEL_SDK_DISABLED", "").strip().lower() != "true"
        and told("OTEL_TRACES_EXPORTER", "otlp") in ("", "otlp")
    )


class _OpenTelemetry(_Tracer):
    """Spans of the host's own provider where it has one, else of one that sends to the endpoint of the environment.

    No span holds a prompt or an answer.
    """

    def __init__(self) -> None:
        self._api: Any = import_module("opentelemetry.trace")
        provider = self._api.get_tracer_provider()
        if isinstance(provider, self._api.ProxyTracerProvider):
            provider = _new_provider()
        self._tracer = provider.get_tracer("sparklio")

    def run(self, run_id: str, mode: str) -> _Span:
        facts = {"gen_ai.workflow.name": "sparklio", "gen_ai.conversation.id": run_id, "sparklio.generator_mode": mode}
        return self._span("sparklio", "INTERNAL", "invoke_workflow", facts)

    def node(self, name: str, role: str, task: str, run_id: str | None) -> _Span:
        facts = {"gen_ai.agent.name": name, "sparklio.role": role, "sparklio.task": task}
        if run_id is not None:
            facts["gen_ai.conversation.id"] = run_id
        return self._span(name, "INTERNAL", "invoke_agent", facts)

    def call(self, request: _Asked, mode: str, secrets: tuple[str, ...]) -> _Span:
        facts = {"sparklio.request_id": request.request_id, "sparklio.generator_mode": mode}
        if isinstance(request, ImageRequest):
            return self._span(request.kind, "INTERNAL", "gateway.image", facts | {"sparklio.kind": request.kind})
        facts |= {"sparklio.role": request.role, "sparklio.task": request.task}
        return self._span(f"{request.role}/{request.task}", "INTERNAL", "gateway.chat", facts)

    def attempt(self, operation: str, route: Route) -> _Span:
        facts = {"gen_ai.provider.name": route.provider, "gen_ai.request.model": route.model}
        return self._span(route.model, "CLIENT", operation, facts)

    @contextmanager
    def _span(self, name: str, kind: str, operation: str, facts: Mapping[str, str]) -> Iterator[Tell]:
        """A gateway call is no operation of the conventions: its attempts are, and tokens are counted only there."""
        if not operation.startswith("gateway."):
            facts = {"gen_ai.operation.name": operation, **facts}
        with self._tracer.start_as_current_span(
            f"{operation} {name}",
            kind=self._api.SpanKind[kind],
            attributes=facts,
            record_exception=False,  # it would hold the whole stack
            set_status_on_exception=False,
        ) as span:
            try:
                yield lambda result: span.set_attributes(_facts(result))
            except BaseException as exc:
                span.set_attribute("error.type", exc.code if isinstance(exc, SparklioError) else type(exc).__name__)
                span.set_status(self._api.StatusCode.ERROR)
                raise


def _new_provider() -> Any:
    """It sends in the background; no other program's ``opentelemetry.trace.get_tracer_provider()`` finds it."""
    sdk, resources = import_module("opentelemetry.sdk.trace"), import_module("opentelemetry.sdk.resources")
    export = import_module("opentelemetry.sdk.trace.export")
    otlp = import_module("opentelemetry.exporter.otlp.proto.http.trace_exporter")
    resource = resources.Resource.create()
    if str(resource.attributes["service.name"]).startswith("unknown_service"):
        resource = resource.merge(resources.Resource({"service.name": "sparklio"}))
    told = any(os.environ.get(f"OTEL_EXPORTER_OTLP_{name}") for name in ("TIMEOUT", "TRACES_TIMEOUT"))
    processor = export.BatchSpanProcessor(otlp.OTLPSpanExporter(timeout=None if told else MOMENT_S))
    provider = sdk.TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(processor)
    atexit.register(provider.shutdown)
    return provider


def _facts(result: _Answer | Attempt) -> dict[str, Any]:
    """What came of a call or an attempt; a figure that nobody knows is left out."""
    if not isinstance(result, Attempt):
        facts: dict[str, Any] = {
            "sparklio.attempts": len(result.meta.attempts),
            "sparklio.cost_usd": result.meta.cost_usd,
        }
    else:
        facts = {
            "sparklio.outcome": result.outcome,
            "sparklio.cost_usd": result.cost_usd,
            "gen_ai.usage.input_tokens": result.usage.prompt_tokens,
            "gen_ai.usage.output_tokens": result.usage.completion_tokens,
        }
    return {name: value for name, value in facts.items() if value is not None}
