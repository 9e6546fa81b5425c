"""Traces: nothing at all while they are off; whole trees, without keys, where a tracer's own variables say so."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter, defaultdict
from email import message_from_bytes
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web

from graph.flow import AGENTS
from routing import tracing
from tests.conftest import BRAND, PRODUCT
from tests.standins.comfyui import ComfyUIStandIn
from tests.standins.ollama import OllamaStandIn
from tests.standins.server import StandIn, free_port

ROOT = Path(__file__).resolve().parent.parent
KEY = "lsv2_pt_0123456789abcdef"
CALLS = Counter({**dict.fromkeys(AGENTS, 1), "vision": 2})
needs_otel = pytest.mark.skipif(
    find_spec("opentelemetry") is None or find_spec("opentelemetry.exporter") is None,
    reason="needs pip install 'sparklio[otel]'",
)


class LangSmith(StandIn):
    """Takes runs as LangSmith does, whole or in parts, and keeps each by its id. ``hangs``: where it never answers."""

    def __init__(self, *, hangs: str = "") -> None:
        super().__init__()
        self.runs: dict[str, dict[str, Any]] = defaultdict(dict)
        self.heard = b""
        self._hangs = hangs
        self.app.router.add_get("/info", self._info)
        self.app.router.add_post("/runs/multipart", self._take)

    async def _info(self, _: web.Request) -> web.Response:
        if self._hangs == "info":
            await self.loop.create_future()
        return web.json_response({"version": "0.12.0", "instance_flags": {"zstd_compression_enabled": True}})

    async def _take(self, request: web.Request) -> web.Response:
        if self._hangs == "runs":
            await self.loop.create_future()
        content = await request.read()
        self.heard += content
        kind = f"Content-Type: {request.headers['Content-Type']}\r\n\r\n"
        for part in message_from_bytes(kind.encode() + content).walk():
            if part.is_multipart():
                continue
            body = json.loads(bytes(part.get_payload(decode=True)))
            _, run_id, *field = str(part.get_param("name", header="content-disposition")).split(".")
            self.runs[run_id] |= {field[0]: body} if field else body
        return web.json_response({}, status=202)

    def below(self, name: str) -> list[dict[str, Any]]:
        """The runs right below the one node of this name."""
        [node] = [run for run in self.runs.values() if run["name"] == name and run["run_type"] == "chain"]
        return [run for run in self.runs.values() if run.get("parent_run_id") == node["id"]]


class Collector(StandIn):
    """Takes spans as an OpenTelemetry collector does."""

    def __init__(self) -> None:
        super().__init__()
        self.heard = b""
        self.bodies: list[bytes] = []
        self.app.router.add_post("/v1/traces", self._take)

    async def _take(self, request: web.Request) -> web.Response:
        self.bodies.append(await request.read())
        self.heard += self.bodies[-1]
        return web.Response(content_type="application/x-protobuf")

    @property
    def spans(self) -> list[Any]:
        proto = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")
        sent = [proto.ExportTraceServiceRequest.FromString(body) for body in self.bodies]
        resources = [resource for request in sent for resource in request.resource_spans]
        return [span for resource in resources for scope in resource.scope_spans for span in scope.spans]


def python(code: str, **environment: str) -> str:
    """What a process prints that runs ``code``, from the current folder; it has to end well."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=own | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


COMMAND = """
import sys
from sparklio.cli import main
sys.argv = ["sparklio", "run", "input.yaml", "--plain", "--out", "out"]
"""


def run(before: str = "", **environment: str) -> None:
    """One run by the command line, finished."""
    Path("input.yaml").write_text(yaml.safe_dump({"brand": BRAND, "product": PRODUCT}), encoding="utf-8")
    python(f"{before}\n{COMMAND}\nmain()", **environment)
    assert Path("out/result.json").exists()


def langsmith_at(url: str) -> dict[str, str]:
    return {"LANGSMITH_TRACING": "true", "LANGSMITH_ENDPOINT": url, "LANGSMITH_API_KEY": KEY}


# Off


WATCHED = """
import json, socket, threading
asked = []
def watched(name):
    real = getattr(socket.socket, name)
    def connect(self, address):
        asked.append(address)
        return real(self, address)
    setattr(socket.socket, name, connect)
watched("connect"), watched("connect_ex")
"""
TOLD = """
try:
    main()
except SystemExit as exc:
    assert exc.code == 0
from langsmith import run_trees
clients = run_trees._CLIENT is not None
imported = sorted(name for name in sys.modules if name.startswith("opentelemetry.exporter"))
print("TOLD", json.dumps({"asked": asked, "clients": clients, "imported": imported}))
"""


@pytest.mark.usefixtures("unmeasured")
@pytest.mark.parametrize("environment", [{}, {"LANGSMITH_TRACING": "false", "LANGSMITH_API_KEY": KEY}])
def test_off_nothing_is_imported_made_or_asked(environment: dict[str, str]) -> None:
    Path("input.yaml").write_text(yaml.safe_dump({"brand": BRAND, "product": PRODUCT}), encoding="utf-8")
    told = python(WATCHED + COMMAND + TOLD, **environment).partition("TOLD ")[2]
    assert json.loads(told) == {"asked": [], "clients": False, "imported": []}


def test_off_nothing_of_ours_imports_a_tracer() -> None:
    """Beside LangChain, that is: langsmith imports an OpenTelemetry that it finds."""
    code = """
import sys
from routing.tracing import node_span, prepare_tracing, run_span
prepare_tracing()
with run_span("a", "mock"), node_span("brand", "brand", "brand_summary", "a"):
    print([name for name in sys.modules if name.split(".")[0] in ("langsmith", "opentelemetry")])
"""
    assert python(code) == "[]\n"


def test_off_all_spans_are_the_same_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)
    tracing._tracers.cache_clear()
    one, other = tracing.run_span("a", "mock"), tracing.node_span("brand", "brand", "brand_summary", None)
    assert one is other
    with one as tell:
        tell(None)


# LangSmith


def _check_calls(server: LangSmith) -> None:
    assert Counter({name: len(server.below(name)) for name in AGENTS}) == CALLS
    kinds = Counter(run["run_type"] for run in server.runs.values())
    assert (kinds["llm"], kinds["tool"]) == (6, 1)
    for call in (call for name in AGENTS for call in server.below(name)):
        assert call["end_time"]
        assert "error" not in call or call["error"] is None
        told = call["extra"]["metadata"]
        assert told["ls_provider"]
        assert told["ls_model_name"]
        assert [attempt["outcome"] for attempt in told["attempts"]] == ["ok"]
        if call["run_type"] == "llm":
            assert call["outputs"]["usage_metadata"]["input_tokens"] > 0
            assert [message["role"] for message in call["inputs"]["messages"]] == ["system", "user"]
    assert KEY.encode() not in server.heard


def test_each_call_is_one_run_below_its_node() -> None:
    with LangSmith() as server:
        run(**langsmith_at(server.url))
    _check_calls(server)


@pytest.mark.usefixtures("unmeasured")
def test_live_they_are_the_same(ollama: OllamaStandIn, comfyui: ComfyUIStandIn) -> None:
    """LangChain's models would tell of themselves, and each answer would count twice."""
    places = {"OLLAMA_BASE_URL": ollama.url, "COMFYUI_BASE_URL": comfyui.url, "GENERATOR_MODE": "live"}
    with LangSmith() as server:
        run(**langsmith_at(server.url), **places)
    assert len(ollama.chats) == 6
    _check_calls(server)


@pytest.mark.usefixtures("unmeasured")
def test_prompts_and_answers_can_be_left_out() -> None:
    hidden = {"LANGSMITH_HIDE_INPUTS": "true", "LANGSMITH_HIDE_OUTPUTS": "true"}
    with LangSmith() as server:
        run(**langsmith_at(server.url), **hidden)
    assert Counter({name: len(server.below(name)) for name in AGENTS}) == CALLS
    assert not any(run.get("inputs") or run.get("outputs") for run in server.runs.values())


REFUSED = """
import asyncio
from langchain_core.runnables import RunnableLambda
from providers.errors import ServerError
from routing.contracts import LLMRequest
from routing.tracing import call_span, prepare_tracing

async def node(_):
    with call_span(LLMRequest(role="brand", task="brand_summary"), "live", ("sk-0123456789",)):
        try:
            raise ValueError("no such key: sk-0123456789")
        except ValueError as exc:
            raise ServerError("it broke", provider="somewhere", hint="try again") from exc

prepare_tracing()
try:
    asyncio.run(RunnableLambda(node).ainvoke({}))
except ServerError:
    print("failed")
"""


def test_a_failed_call_tells_why_and_no_key() -> None:
    with LangSmith() as server:
        assert python(REFUSED, **langsmith_at(server.url)) == "failed\n"
    [call] = server.below("node")
    assert call["error"] == "provider_server_error: it broke"
    assert b"it broke" in server.heard
    assert b"sk-0123456789" not in server.heard


# Endpoints that are not there


@pytest.mark.usefixtures("unmeasured")
def test_a_dead_langsmith_fails_nothing() -> None:
    run(**langsmith_at(f"http://127.0.0.1:{free_port()}"))


@pytest.mark.usefixtures("unmeasured")
@pytest.mark.parametrize("where", ["info", "runs"])
def test_a_langsmith_that_hangs_holds_nobody(where: str) -> None:
    """By itself its client waits for minutes: its threads would hold the process."""
    with LangSmith(hangs=where) as server:
        run(**langsmith_at(server.url))


@pytest.mark.usefixtures("unmeasured")
def test_a_wrong_variable_fails_nothing() -> None:
    run(**langsmith_at("http://127.0.0.1:9"), LANGSMITH_RUNS_ENDPOINTS='{"http://127.0.0.1:9": "x"}')


@pytest.mark.usefixtures("unmeasured")
@needs_otel
def test_a_dead_collector_fails_nothing() -> None:
    run(OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{free_port()}")


@pytest.mark.usefixtures("unmeasured")
def test_without_the_packages_an_endpoint_means_nothing() -> None:
    run('import sys; sys.modules["opentelemetry.sdk"] = None', OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9")


# OpenTelemetry


def _facts(span: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, str(one.value.WhichOneof("value"))) for one in span.attributes}


@needs_otel
def test_nodes_calls_and_attempts_are_spans() -> None:
    with Collector() as collector:
        run(OTEL_EXPORTER_OTLP_ENDPOINT=collector.url)
    spans = {span.span_id: span for span in collector.spans}
    above = {span.span_id: spans.get(span.parent_span_id) for span in spans.values()}
    nodes = [span for span in spans.values() if span.name.startswith("invoke_agent ")]
    assert {_facts(node)["gen_ai.agent.name"] for node in nodes} == set(AGENTS)
    attempts = [span for span in spans.values() if "gen_ai.request.model" in _facts(span)]
    assert len(attempts) == 7
    asked: Counter[str] = Counter()
    for attempt in attempts:
        facts, call = _facts(attempt), above[attempt.span_id]
        assert facts["gen_ai.operation.name"] in {"chat", "generate_content"}
        assert attempt.name == f"{facts['gen_ai.operation.name']} {facts['gen_ai.request.model']}"
        assert facts["gen_ai.provider.name"]
        assert facts["sparklio.outcome"] == "ok"
        assert call is not None
        assert "gen_ai.operation.name" not in _facts(call)
        node = above[call.span_id]
        assert node is not None
        asked[_facts(node)["gen_ai.agent.name"]] += 1
    assert asked == CALLS
    assert PRODUCT["name"].encode() not in collector.heard  # type: ignore[attr-defined]


BARE = """
import asyncio, json
from graph import build_graph
from routing.tracing import run_span

async def all_of_it():
    with run_span("a-run", "mock"):
        await build_graph().compile().ainvoke(json.loads(INPUT))

asyncio.run(all_of_it())
"""


@needs_otel
def test_a_run_is_the_span_above_its_nodes() -> None:
    text = json.dumps({"brand_input": BRAND, "product_input": PRODUCT})
    with Collector() as collector:
        python(f"INPUT = {text!r}\n{BARE}", OTEL_EXPORTER_OTLP_ENDPOINT=collector.url)
    [whole] = [span for span in collector.spans if span.name == "invoke_workflow sparklio"]
    assert _facts(whole)["gen_ai.conversation.id"] == "a-run"
    nodes = [span for span in collector.spans if span.name.startswith("invoke_agent ")]
    assert [node.parent_span_id for node in nodes] == [whole.span_id] * 6
    assert {span.trace_id for span in collector.spans} == {whole.trace_id}


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:9"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_SDK_DISABLED": "true"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_TRACES_EXPORTER": "none"}, False),
    ],
)
def test_opentelemetry_is_switched_by_its_own_variables(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], wanted: bool
) -> None:
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert tracing._opentelemetry_is_wanted() is wanted
