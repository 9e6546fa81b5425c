"""``langgraph dev`` serves the graph from langgraph.json: LangGraph's own server, as a process, over its HTTP API."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import pytest

from graph.flow import AGENTS
from graph.state import OUTPUT_KEYS
from tests.conftest import BRAND, PRODUCT
from tests.standins.server import free_port

ROOT = Path(__file__).resolve().parent.parent
RUN: dict[str, Any] = {"assistant_id": "sparklio", "input": {"brand_input": BRAND, "product_input": PRODUCT}}
ALONE = {  # no trace, no count of commands, no question for a newer version
    "LANGSMITH_TRACING": "false",
    "LANGGRAPH_CLI_NO_ANALYTICS": "1",
    "LANGGRAPH_NO_VERSION_CHECK": "true",
}

pytestmark = pytest.mark.skipif(
    find_spec("langgraph_cli") is None or find_spec("langgraph_api") is None,
    reason='needs pip install "langgraph-cli[inmem]"',
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    place, port = tmp_path_factory.mktemp("dev"), free_port()
    words = ["dev", "--no-browser", "--no-reload", "--host", "127.0.0.1", "--port", str(port)]
    environment = os.environ | ALONE | {"PYTHONPATH": str(ROOT), "GENERATOR_MODE": "mock"}
    with (
        (place / "log").open("wb") as log,
        subprocess.Popen(
            [sys.executable, "-m", "langgraph_cli", *words, "--config", str(ROOT / "langgraph.json")],
            cwd=place,
            env=environment,
            stdout=log,
            stderr=log,
        ) as process,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client,
    ):
        try:
            assert _answers(client, process), (place / "log").read_text(encoding="utf-8")
            yield client
        finally:
            process.terminate()


def _answers(client: httpx.Client, process: subprocess.Popen[bytes]) -> bool:
    """Whether the server came up; it ends, or takes a minute, where it did not."""
    until = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < until:
        try:
            return client.get("/ok").is_success
        except httpx.TransportError:
            time.sleep(0.1)
    return False


def _thread(server: httpx.Client) -> str:
    thread_id: str = server.post("/threads", json={}).raise_for_status().json()["thread_id"]
    return thread_id


def test_a_run_that_is_waited_for(server: httpx.Client) -> None:
    state = server.post(f"/threads/{_thread(server)}/runs/wait", json=RUN).raise_for_status().json()
    assert set(OUTPUT_KEYS) <= set(state)
    assert len(OUTPUT_KEYS) == 6
    assert state["review"]["approved"]
    assert {call["node"] for call in state["calls"]} == set(AGENTS)


def test_a_run_that_is_streamed(server: httpx.Client) -> None:
    """The agents' own events, those of the copy desk too, and what each node wrote."""
    thread_id = _thread(server)
    asked = RUN | {"stream_mode": ["custom", "updates"], "stream_subgraphs": True}
    with server.stream("POST", f"/threads/{thread_id}/runs/stream", json=asked) as response:
        assert response.is_success
        lines = list(response.iter_lines())
    heard = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]
    assert {event["node"] for event in heard if event.get("type") == "node_started"} == set(AGENTS)
    assert {name for event in heard for name in event} >= {*AGENTS, "copy_desk"}
    assert set(OUTPUT_KEYS) <= set(server.get(f"/threads/{thread_id}/state").raise_for_status().json()["values"])


def test_its_drawing_and_its_schemas(server: httpx.Client) -> None:
    [assistant] = server.post("/assistants/search", json={}).raise_for_status().json()
    path = f"/assistants/{assistant['assistant_id']}"
    drawing = server.get(f"{path}/graph", params={"xray": "true"}).raise_for_status().json()
    assert {str(node["id"]).split(":")[-1] for node in drawing["nodes"]} >= set(AGENTS)
    schemas = server.get(f"{path}/schemas").raise_for_status().json()
    assert {"brand_input", "product_input"} <= set(schemas["input_schema"]["properties"])
    assert set(OUTPUT_KEYS) <= set(schemas["output_schema"]["properties"])
    assert {"stage", "seed", "max_revisions"} <= set(schemas["context_schema"]["properties"])
