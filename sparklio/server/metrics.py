"""What a server counts for Prometheus: calls to models, runs and image jobs.

Each :class:`Metrics` has a registry of its own, so that several servers fit into one process. Labels hold what the
configuration names and what has answered; whatever else a request asks for is counted as ``other``.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Protocol, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from pydantic import TypeAdapter, ValidationError

from providers.errors import SparklioError
from routing.budget import Budget
from routing.contracts import Attempt, ImageAnswer, ImageRequest, LLMAnswer, LLMRequest, OnProgress
from routing.gateways import ChatService, Gateways, ImageService
from routing.settings import Settings
from routing.targets import jobs_of

__all__ = ["MOST_MODELS", "OTHER", "Metrics"]

MOST_MODELS = 200
"""Distinct models that have a label of their own; each makes a histogram, and Prometheus keeps them all."""
OTHER = "other"

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 180, 300)
_MODEL = ("provider", "model")
_ATTEMPTS = TypeAdapter(list[Attempt])

log = logging.getLogger(__name__)
A = TypeVar("A", LLMAnswer, ImageAnswer)


class RunCounts(Protocol):
    """What drives the runs, as far as it is counted."""

    def counts(self) -> Mapping[str, int]:
        """How many runs are in each state now in this server; empty where workers drive them."""

    @property
    def ended(self) -> Mapping[str, int]:
        """How many runs have ended since the start, by their last status."""


class JobCounts(Protocol):
    """What makes the images of jobs, as far as it is counted."""

    def counts(self) -> Mapping[str, int]:
        """How many jobs are in each state now, ``queued`` and ``running`` at least."""


class QueueFigures(Protocol):
    """What tells of a queue that servers and workers share."""

    async def metrics(self) -> Sequence[Metric]:
        """What can be had within a second."""


class Metrics:
    """The counters of one server; ``registry`` is what ``/metrics`` tells."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        models = _Models()
        self._models = models
        self._llm = _Calls("llm", "a chat model", models, self.registry)
        self._images = _Calls("image", "an image model or workflow", models, self.registry)
        self._watched = _Watched()
        self._queue: QueueFigures | None = None
        self.registry.register(self._watched)

    def counted(self, gateways: Gateways, settings: Settings | None = None) -> Gateways:
        """The same gateways with each of their calls counted; the models of ``settings`` have labels at once."""
        if settings is not None:
            jobs, _ = jobs_of(settings)
            self._models.learn((route.provider, route.model) for job in jobs for route in job.routes)
        return replace(
            gateways,
            llm=_CountedChat(gateways.llm, self._llm),
            media=_CountedImages(gateways.media, self._images),
        )

    def watch(self, runner: RunCounts, jobs: JobCounts, queue: QueueFigures | None = None) -> None:
        """Tell at each scrape where runs and jobs stand then; those of an earlier call are forgotten."""
        self._watched.sources = (runner, jobs)
        self._queue = queue

    async def look(self) -> None:
        """Ask where the workers' queue stands, before a scrape."""
        if self._queue is not None:
            self._watched.queue = await self._queue.metrics()


class _Models:
    """Which models have labels of their own."""

    def __init__(self) -> None:
        self._known: set[tuple[str, str]] = set()

    def learn(self, pairs: Iterable[tuple[str, str]]) -> None:
        for pair in pairs:
            if len(self._known) < MOST_MODELS:
                self._known.add(pair)

    def labels(self, attempt: Attempt) -> tuple[str, str]:
        """Provider and model; a name that nobody configured counts once it has answered."""
        pair = (attempt.provider, attempt.model)
        if attempt.outcome == "ok":
            self.learn([pair])
        return pair if pair in self._known else (attempt.provider, OTHER)


class _Calls:
    """Counters of one gateway: its requests, and the calls to models that they took."""

    def __init__(self, family: str, title: str, models: _Models, registry: CollectorRegistry) -> None:
        name = f"sparklio_{family}"
        self._models = models
        self._in_flight = Gauge(f"{name}_in_flight", f"Requests to the {family} gateway under way.", registry=registry)
        self._requests = Counter(
            f"{name}_requests",
            f"Requests to the {family} gateway, by ok or error code.",
            ["outcome"],
            registry=registry,
        )
        self._calls = Counter(
            f"{name}_calls", f"Calls to {title}, by ok or error code.", [*_MODEL, "outcome"], registry=registry
        )
        self._seconds = Histogram(
            f"{name}_call_seconds", f"Duration of a call to {title}.", _MODEL, buckets=_SECONDS, registry=registry
        )
        self._tokens = Counter(
            f"{name}_tokens", "Tokens of prompts and of completions.", [*_MODEL, "direction"], registry=registry
        )
        self._cost = Counter(
            f"{name}_cost_usd", "US dollars paid; calls of unknown price are not in it.", _MODEL, registry=registry
        )

    async def counted(self, asked: Awaitable[A]) -> A:
        """Await a gateway's answer; of a request that is cancelled nobody tells the calls."""
        outcome, attempts = "cancelled", list[Attempt]()
        self._in_flight.inc()
        try:
            answer = await asked
            outcome, attempts = "ok", answer.meta.attempts
        except SparklioError as exc:
            outcome, attempts = exc.code, _attempts_of(exc)
            raise
        except Exception:
            outcome = "internal"
            raise
        else:
            return answer
        finally:
            self._in_flight.dec()
            self._requests.labels(outcome).inc()
            for attempt in attempts:
                self._count(attempt)

    def _count(self, attempt: Attempt) -> None:
        labels = self._models.labels(attempt)
        self._calls.labels(*labels, attempt.outcome).inc()
        self._seconds.labels(*labels).observe(attempt.latency_ms / 1000)
        tokens = {"prompt": attempt.usage.prompt_tokens, "completion": attempt.usage.completion_tokens}
        for direction, number in tokens.items():
            if number:
                self._tokens.labels(*labels, direction).inc(number)
        if attempt.cost_usd:
            self._cost.labels(*labels).inc(attempt.cost_usd)


def _attempts_of(error: SparklioError) -> list[Attempt]:
    """The calls that were made in vain; another Sparklio's server may tell them in its own way."""
    try:
        return _ATTEMPTS.validate_python(error.details.get("attempts", []))
    except ValidationError as exc:
        log.warning("the attempts of a failed request are not counted: %s", exc.errors(include_input=False)[0]["msg"])
        return []


class _CountedChat:
    """An LLM gateway whose requests are counted."""

    def __init__(self, inner: ChatService, calls: _Calls) -> None:
        self._inner, self._calls = inner, calls
        self.fingerprint, self.prepare, self.aclose = inner.fingerprint, inner.prepare, inner.aclose

    async def generate(
        self, request: LLMRequest, on_progress: OnProgress | None = None, *, budget: Budget | None = None
    ) -> LLMAnswer:
        return await self._calls.counted(self._inner.generate(request, on_progress, budget=budget))


class _CountedImages:
    """A media gateway whose requests are counted."""

    def __init__(self, inner: ImageService, calls: _Calls) -> None:
        self._inner, self._calls = inner, calls
        self.fingerprint, self.prepare, self.aclose = inner.fingerprint, inner.prepare, inner.aclose
        self.check, self.cancel, self.goes_on = inner.check, inner.cancel, inner.goes_on

    async def generate_image(
        self, request: ImageRequest, on_progress: OnProgress | None = None, *, budget: Budget | None = None
    ) -> ImageAnswer:
        return await self._calls.counted(self._inner.generate_image(request, on_progress, budget=budget))


class _Watched(Collector):
    """Reads at each scrape where runs and jobs stand."""

    sources: tuple[RunCounts, JobCounts] | None = None
    queue: Sequence[Metric] = ()

    def collect(self) -> Iterator[Metric]:
        if self.sources is None:
            return
        runner, jobs = self.sources
        yield _gauge("sparklio_runs", "Runs of this server that have not ended, by state.", runner.counts())
        yield _gauge("sparklio_image_jobs", "Image jobs of this server, by state.", jobs.counts())
        ended = CounterMetricFamily("sparklio_runs_ended", "Runs that this server saw end.", labels=["status"])
        for status, number in runner.ended.items():
            ended.add_metric([status], number)
        yield ended
        yield from self.queue


def _gauge(name: str, title: str, counts: Mapping[str, int]) -> Metric:
    family = GaugeMetricFamily(name, title, labels=["state"])
    for state, number in counts.items():
        family.add_metric([state], number)
    return family
