"""What the server counts: every call that an answer or an error tells of, under names that nobody can multiply."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text

from providers.errors import ModelNotFoundError, ServerError, SparklioError, UnknownNameError
from routing.contracts import ChatGateway, ImageGateway, ImageRequest, LLMOptions, LLMRequest
from routing.gateways import Gateways, build_gateways
from routing.settings import load_settings
from sparklio.server import metrics as module
from sparklio.server.metrics import OTHER, Metrics
from sparklio.server.routes.metrics import _format
from tests.serving import serving
from tests.standins.comfyui import ComfyUIStandIn
from tests.standins.ollama import OllamaStandIn
from tests.waiting import until

CONFIG = """
providers: {llm: {active: [ollama]}, media: {active: [comfyui]}}
llm_routing: {rules: [{provider: ollama, model: "qwen2.5:7b"}, {task: [rare], provider: ollama, model: absent}]}
media_routing: {image: [{provider: comfyui, workflow: product_shot_v1}]}
prices: {ollama: {"qwen2.5:7b": {input: 1000000, output: 0}}, comfyui: free}
"""
CHAT = LLMRequest(role="brand", task="greeting", payload="안녕")
IMAGE = ImageRequest(prompt="이어폰")


@asynccontextmanager
async def counting(metrics: Metrics, *, configured: bool = True) -> AsyncIterator[Gateways]:
    settings = load_settings()
    gateways = metrics.counted(build_gateways(settings), settings if configured else None)
    try:
        yield gateways
    finally:
        await gateways.aclose()


@pytest.fixture
def config(tmp_path: Path) -> None:
    (tmp_path / "provider_config.yaml").write_text(CONFIG)


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"sparklio_{name}", labels)


def models_of(metrics: Metrics, family: str = "llm") -> Counter[str]:
    """How many calls are counted under each name."""
    [calls] = [one for one in metrics.registry.collect() if one.name == f"sparklio_{family}_calls"]
    counted: Counter[str] = Counter()
    for sample in calls.samples:
        if sample.name.endswith("_total"):
            counted[sample.labels["model"]] += int(sample.value)
    return counted


@pytest.mark.usefixtures("live", "config")
async def test_an_answer_s_calls_are_counted_as_it_tells_them() -> None:
    metrics = Metrics()
    async with counting(metrics) as gateways:
        answer = await gateways.llm.generate(CHAT)
        drawn = await gateways.media.generate_image(IMAGE)
    model = {"provider": "ollama", "model": "qwen2.5:7b"}
    assert value(metrics, "llm_calls_total", **model, outcome="ok") == len(answer.meta.attempts) == 1
    assert value(metrics, "llm_requests_total", outcome="ok") == 1
    assert value(metrics, "llm_tokens_total", **model, direction="prompt") == answer.usage.prompt_tokens > 0
    assert value(metrics, "llm_tokens_total", **model, direction="completion") == answer.usage.completion_tokens > 0
    assert value(metrics, "llm_cost_usd_total", **model) == answer.meta.cost_usd
    assert value(metrics, "llm_call_seconds_count", **model) == 1
    assert value(metrics, "llm_call_seconds_sum", **model) == answer.meta.attempts[0].latency_ms / 1000
    workflow = {"provider": "comfyui", "model": drawn.meta.attempts[0].model}
    assert value(metrics, "image_calls_total", **workflow, outcome="ok") == 1
    assert value(metrics, "image_cost_usd_total", **workflow) is None, "it is free"
    assert value(metrics, "llm_in_flight") == value(metrics, "image_in_flight") == 0


@pytest.mark.usefixtures("live", "config")
async def test_an_error_s_calls_are_counted_by_their_codes(ollama: OllamaStandIn) -> None:
    metrics = Metrics()
    ollama.fail_always("status_500")
    async with counting(metrics) as gateways:
        with pytest.raises(ServerError) as caught:
            await gateways.llm.generate(CHAT)
    made = len(caught.value.details["attempts"])
    assert made > 1
    labels = {"provider": "ollama", "model": "qwen2.5:7b", "outcome": ServerError.code}
    assert value(metrics, "llm_calls_total", **labels) == made
    assert value(metrics, "llm_requests_total", outcome=ServerError.code) == 1


@pytest.mark.usefixtures("live", "config")
async def test_a_repaired_answer_counts_both_calls(ollama: OllamaStandIn) -> None:
    metrics = Metrics()
    ollama.fail("status_503", "none")
    async with counting(metrics) as gateways:
        await gateways.llm.generate(CHAT)
    model = {"provider": "ollama", "model": "qwen2.5:7b"}
    assert value(metrics, "llm_calls_total", **model, outcome="provider_overloaded") == 1
    assert value(metrics, "llm_calls_total", **model, outcome="ok") == 1
    assert value(metrics, "llm_requests_total", outcome="ok") == 1


@pytest.mark.usefixtures("live", "config")
async def test_what_is_under_way_is_told_and_what_is_cancelled_is_over(ollama: OllamaStandIn) -> None:
    metrics = Metrics()
    ollama.fail_always("hang")
    async with counting(metrics) as gateways:
        asked = [asyncio.create_task(gateways.llm.generate(CHAT)) for _ in range(3)]
        await until(lambda: len(ollama.chats) == 3)
        assert value(metrics, "llm_in_flight") == 3
        for task in asked:
            task.cancel()
        await asyncio.wait(asked)
    assert all(task.cancelled() for task in asked)
    assert value(metrics, "llm_in_flight") == 0
    assert value(metrics, "llm_requests_total", outcome="cancelled") == 3


async def test_a_request_that_no_route_serves_makes_no_call() -> None:
    metrics = Metrics()
    async with counting(metrics) as gateways:
        with pytest.raises(UnknownNameError):
            await gateways.llm.generate(CHAT.model_copy(update={"options": LLMOptions(provider="nobody")}))
    assert value(metrics, "llm_requests_total", outcome="unknown_name") == 1
    assert not models_of(metrics)


@pytest.mark.usefixtures("live", "config")
@pytest.mark.parametrize(("configured", "counted"), [(True, "absent"), (False, OTHER)])
async def test_a_configured_model_has_its_name_before_it_ever_answers(*, configured: bool, counted: str) -> None:
    metrics = Metrics()
    request = CHAT.model_copy(update={"task": "rare", "options": LLMOptions(model="absent")})
    async with counting(metrics, configured=configured) as gateways:
        with pytest.raises(ModelNotFoundError):
            await gateways.llm.generate(request)
    assert models_of(metrics) == {counted: 1}


@pytest.mark.usefixtures("live", "config")
async def test_names_that_a_stranger_asks_for_in_vain_are_one_label(ollama: OllamaStandIn) -> None:
    metrics = Metrics()
    async with counting(metrics) as gateways:
        for number in range(5):
            options = LLMOptions(model=f"made-up-{number}")
            with pytest.raises(ModelNotFoundError):
                await gateways.llm.generate(CHAT.model_copy(update={"options": options}))
        ollama.models.append("new:1b")
        await gateways.llm.generate(CHAT.model_copy(update={"options": LLMOptions(model="new:1b")}))
    assert models_of(metrics) == {OTHER: 5, "new:1b": 1}


async def test_names_that_answer_are_labels_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """In mock every name answers."""
    monkeypatch.setattr(module, "MOST_MODELS", 4)
    metrics = Metrics()
    async with counting(metrics, configured=False) as gateways:
        for number in range(10):
            options = LLMOptions(model=f"made-up-{number}")
            await gateways.llm.generate(CHAT.model_copy(update={"options": options}))
    assert models_of(metrics) == {**{f"made-up-{number}": 1 for number in range(4)}, OTHER: 6}


async def test_each_server_counts_for_itself() -> None:
    one, other = Metrics(), Metrics()
    async with counting(one) as gateways:
        await gateways.llm.generate(CHAT)
    assert (value(one, "llm_requests_total", outcome="ok"), sum(models_of(other).values())) == (1, 0)


async def test_attempts_that_another_server_tells_in_its_own_way_are_let_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    metrics = Metrics()

    class Foreign:
        fingerprint = prepare = aclose = None

        async def generate(self, *_: Any, **__: Any) -> Any:
            raise SparklioError("no", details={"attempts": [{"who": "knows"}]})

    async with counting(metrics) as gateways:
        foreign: Any = Foreign()
        with pytest.raises(SparklioError):
            await metrics.counted(Gateways(foreign, gateways.media)).llm.generate(CHAT)
    assert value(metrics, "llm_requests_total", outcome="error") == 1
    assert not models_of(metrics)
    assert "not counted" in caplog.text


@pytest.mark.usefixtures("live")
async def test_all_else_that_a_gateway_does_is_its_own(comfyui: ComfyUIStandIn) -> None:
    settings = load_settings()
    inner = build_gateways(settings)
    counted = Metrics().counted(inner, settings)
    assert isinstance(counted.llm, ChatGateway)
    assert isinstance(counted.media, ImageGateway)
    try:
        await counted.prepare()
        assert await counted.llm.fingerprint(CHAT) == await inner.llm.fingerprint(CHAT)
        assert await counted.media.fingerprint(IMAGE) == await inner.media.fingerprint(IMAGE)
        assert counted.media.goes_on(IMAGE) is inner.media.goes_on(IMAGE) is True
        await counted.media.check(IMAGE)
        await counted.media.cancel(IMAGE)
    finally:
        await counted.aclose()
    assert ("GET", "/queue") in comfyui.requests, "it looked for what it was to cancel"


async def test_progress_and_budget_reach_the_gateway() -> None:
    heard: list[Any] = []
    async with counting(Metrics()) as gateways:
        await gateways.llm.generate(CHAT, heard.append)
        await gateways.media.generate_image(IMAGE, heard.append)
    assert {one.kind for one in heard} == {"token", "image"}


class Driver:
    def __init__(self) -> None:
        self.now = {"queued": 0, "running": 0}
        self.ended: Counter[str] = Counter()

    def counts(self) -> dict[str, int]:
        return self.now


def test_runs_and_jobs_are_read_when_they_are_asked_for() -> None:
    metrics, runner, jobs = Metrics(), Driver(), Driver()
    assert value(metrics, "runs", state="queued") is None
    metrics.watch(Driver(), Driver())
    metrics.watch(runner, jobs)
    assert value(metrics, "runs", state="queued") == 0
    runner.now, jobs.now = {"queued": 7, "running": 2}, {"queued": 1, "running": 3}
    runner.ended.update(finished=4, failed=1)
    assert [value(metrics, "runs", state=state) for state in ("queued", "running")] == [7, 2]
    assert [value(metrics, "image_jobs", state=state) for state in ("queued", "running")] == [1, 3]
    assert [value(metrics, "runs_ended_total", status=status) for status in ("finished", "failed")] == [4, 1]


@pytest.mark.parametrize(
    ("accept", "read"),
    [
        ("", read_text),
        ("*/*", read_text),
        ("text/plain;version=x", read_text),
        ("application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5", read_openmetrics),
        ("application/openmetrics-text; version=\x00<nonsense>", read_openmetrics),
    ],
)
async def test_either_format_can_be_read(accept: str, read: Any) -> None:
    metrics = Metrics()
    metrics.watch(Driver(), Driver())
    async with counting(metrics) as gateways:
        await gateways.llm.generate(CHAT)
    write, media_type = _format(accept)
    families = {family.name: family for family in read(write(metrics.registry).decode())}
    assert families.keys() >= {
        "sparklio_llm_calls",
        "sparklio_llm_call_seconds",
        "sparklio_runs",
        "sparklio_image_jobs",
    }
    assert all(family.documentation for name, family in families.items() if not name.endswith("_created"))
    assert media_type.startswith("application/openmetrics-text" if read is read_openmetrics else "text/plain")
    assert "nonsense" not in media_type


async def test_a_server_tells_its_own_counters(tmp_path: Path) -> None:
    question = {"role": "brand", "task": "greeting", "input": "안녕"}
    async with serving(tmp_path / "home") as client:
        before = await client.get("/metrics")
        asked = await client.post("/api/v1/llm/generate", json=question)
        after = await client.get("/metrics", headers={"accept": "application/openmetrics-text"})
    assert (before.status_code, asked.status_code, after.status_code) == (200, 200, 200)
    assert before.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert after.headers["content-type"] == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    assert 'sparklio_runs{state="queued"} 0.0' in before.text
    assert 'sparklio_llm_requests_total{outcome="ok"}' not in before.text
    assert 'sparklio_llm_requests_total{outcome="ok"} 1.0' in after.text
