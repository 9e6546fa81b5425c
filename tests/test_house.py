"""The plan of the house, held against the code."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from langgraph.cache.memory import InMemoryCache
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.runtime import Runtime
from packaging.requirements import Requirement
from packaging.version import Version

from graph.flow import AGENTS, build_graph
from graph.observe import observed
from graph.rerun import READS, WRITES
from graph.revision import settle
from graph.state import CopyDeskState, PageState
from nodes.context import Context
from providers.base import ImageProvider, LLMProvider
from routing.packaged_files import DEFAULT_CONFIG
from tests.conftest import BRAND, PRODUCT
from tests.standins.ollama import OllamaStandIn

ROOT = Path(__file__).resolve().parent.parent
INPUT: Any = {"brand_input": BRAND, "product_input": PRODUCT}
FLOORS = ("providers", "routing", "nodes", "graph", "sparklio")
SOURCES = [path for floor in (*FLOORS, "workflows") for path in sorted((ROOT / floor).rglob("*.py"))]


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


@pytest.mark.parametrize("floor", FLOORS)
def test_a_floor_imports_only_from_the_floors_below(floor: str) -> None:
    above = FLOORS[FLOORS.index(floor) + 1 :]
    for path in (ROOT / floor).rglob("*.py"):
        stray = [name for name in _imports(path) if name.split(".")[0] in above]
        assert not stray, f"{path.relative_to(ROOT)} imports {stray}"


@pytest.mark.parametrize("path", sorted((ROOT / "nodes").glob("*.py")), ids=lambda path: path.name)
def test_agents_know_the_gateway_and_no_provider(path: Path) -> None:
    allowed = {"langgraph", "nodes", "pydantic", "routing", "typing_extensions"} | sys.stdlib_module_names
    assert {name.split(".")[0] for name in _imports(path)} <= allowed
    text = path.read_text(encoding="utf-8").lower()
    for word in ("ollama", "comfyui", "openai", "anthropic", "gemini", "mock", "live"):
        assert not re.search(rf"\b{word}\b", text), f"{path.name} speaks of {word}"


def _routed_names() -> set[str]:
    """Model, workflow and checkpoint names of the packaged routing file."""
    config = yaml.safe_load(DEFAULT_CONFIG.read_text(encoding="utf-8"))
    names = {rule["model"] for rule in config["llm_routing"]["rules"]}
    for rule in config["media_routing"]["image"]:
        names |= {rule["workflow"], rule["options"]["checkpoint"]}
    return names


def test_no_model_or_workflow_name_stands_in_python() -> None:
    names = _routed_names()
    for path in SOURCES:
        text = path.read_text(encoding="utf-8")
        assert not [name for name in names if name in text], path


def test_mock_and_live_part_ways_in_one_place() -> None:
    tells_apart = re.compile(r"""mode\s*(==|!=|in)\s*\(?\s*["'](mock|live)["']""")
    found = {str(path.relative_to(ROOT)) for path in SOURCES if tells_apart.search(path.read_text(encoding="utf-8"))}
    assert found <= {"routing/gateways.py", "sparklio/view.py", "sparklio/tables.py"}, "faces may colour the word only"


@pytest.mark.parametrize("base", [LLMProvider, ImageProvider])
def test_the_provider_interfaces_are_as_the_founding_documents_fix_them(base: type) -> None:
    methods = {name for name in vars(base) if not name.startswith("_")}
    assert {"generate", "stream", "health_check", "aclose", "settings"} <= methods
    if base is LLMProvider:
        assert {"get_default_options", "supports_json", "supports_streaming"} <= methods


@pytest.mark.parametrize("name", AGENTS)
def test_each_node_s_keys_are_in_the_state(name: str) -> None:
    """LangGraph drops unknown keys in silence."""
    private = {"revision"}
    assert WRITES[name] <= set(PageState.__annotations__)
    assert READS[name] - private <= set(PageState.__annotations__)


def test_the_graph_compiles_with_the_six_agents() -> None:
    nodes = set(build_graph().compile().get_graph(xray=True).nodes)
    assert {name.split(":")[-1] for name in nodes} >= set(AGENTS)


@pytest.mark.parametrize(
    ("module", "names"),
    [
        ("sparklio", {"Event", "Point", "Run", "RunsClient", "Sparklio", "SparklioError", "__version__", "run"}),
        ("graph", {"build_graph"}),
    ],
)
def test_public_names_are_pinned(module: str, names: set[str]) -> None:
    imported = importlib.import_module(module)
    assert set(imported.__all__) == names
    assert all(getattr(imported, name) for name in names)


# LangGraph


def test_no_node_has_a_policy_of_its_own() -> None:
    """Retries are the gateway's, and what is kept is named by what it holds."""
    graph = build_graph().compile()
    graphs: list[Any] = [graph, *(desk for _, desk in graph.get_subgraphs())]
    assert {name for one in graphs for name in one.nodes} >= {*AGENTS, "copy_desk", "settle"}
    for one in graphs:
        assert not any(node.retry_policy or node.cache_policy for node in one.nodes.values())
        assert not any([one.retry_policy, one.cache_policy, one.cache])


@pytest.mark.usefixtures("live")
async def test_a_cache_of_the_host_s_is_never_asked(ollama: OllamaStandIn) -> None:
    """Its key would leave out the context: mode, seed and routes."""
    cache: Any = InMemoryCache()
    graph: Any = build_graph().compile(cache=cache)
    images = [(await graph.ainvoke(INPUT, context={"seed": seed}))["image"] for seed in (1, 2)]
    assert images[0]["seed"] != images[1]["seed"]
    assert set(ollama.by_task.values()) == {2}
    assert not cache._cache


class Watched(InMemorySaver):
    """Keeps what LangGraph took of each node's result."""

    def __init__(self) -> None:
        super().__init__()
        self.taken: list[tuple[str, Any]] = []

    async def aput_writes(self, config: Any, writes: Any, task_id: str, task_path: str = "") -> None:
        self.taken.extend(writes)
        await super().aput_writes(config, writes, task_id, task_path)


async def returned_and_dropped(monkeypatch: pytest.MonkeyPatch, extra: dict[str, Any]) -> tuple[Counter[str], set[str]]:
    """How often each node of the graph and of the desk ran, and the keys that they returned for nothing."""
    returned: list[tuple[str, dict[str, Any]]] = []

    def watched(name: str, agent: Any) -> Any:
        run = observed(name, agent)

        async def node(state: Any, runtime: Runtime[Context]) -> dict[str, Any]:
            returned.append((name, await run(state, runtime) | extra))
            return returned[-1][1]

        return node

    def settled(state: CopyDeskState, runtime: Runtime[Context]) -> dict[str, Any]:
        returned.append(("settle", settle(state, runtime) | extra))
        return returned[-1][1]

    monkeypatch.setattr("graph.flow.observed", watched)
    monkeypatch.setattr("graph.flow.settle", settled)
    saver = Watched()
    graph: Any = build_graph().compile(checkpointer=saver)
    await graph.ainvoke(INPUT, {"configurable": {"thread_id": "1"}})
    dropped = {key for _, update in returned for key, value in update.items() if (key, value) not in saver.taken}
    return Counter(name for name, _ in returned), dropped


@pytest.mark.usefixtures("live")
@pytest.mark.parametrize("extra", [{}, {"mood": "bright"}], ids=["as they are", "a key that is not in the state"])
async def test_each_key_that_a_node_returns_is_taken(
    ollama: OllamaStandIn, monkeypatch: pytest.MonkeyPatch, extra: dict[str, Any]
) -> None:
    rejected = {"approved": False, "score": 40, "issues": [], "summary": "다시 씁니다"}
    ollama.answers_for["StyleReview"].append(rejected)
    ran, dropped = await returned_and_dropped(monkeypatch, extra)
    assert ran == Counter([*AGENTS]) + Counter(["copywriter", "reviewer", "settle", "settle"])
    assert dropped == set(extra)


FIXED_IN = {
    "CVE-2025-64439": ("langgraph-checkpoint", "3.0.0"),
    "CVE-2025-67644": ("langgraph-checkpoint-sqlite", "3.0.1"),
    "CVE-2026-27794": ("langgraph-checkpoint", "4.0.0"),
    "CVE-2026-28277": ("langgraph", "1.0.10"),
}


@pytest.mark.parametrize("advisory", FIXED_IN)
def test_no_version_with_a_known_hole_can_be_installed(advisory: str) -> None:
    package, fixed = FIXED_IN[advisory]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = {asked.name: asked for asked in map(Requirement, project["dependencies"])}
    [floor] = [one.version for one in wanted[package].specifier if one.operator == ">="]
    assert Version(floor) >= Version(fixed)
    for lock in ("requirements.lock", "requirements-dev.lock"):
        [pinned] = re.findall(rf"^{package}==(\S+)", (ROOT / lock).read_text(encoding="utf-8"), re.MULTILINE)
        assert pinned in wanted[package].specifier


def _calls(path: Path) -> Iterator[tuple[str, set[str | None]]]:
    """Name of whatever is called in a file, and the keywords that it is given."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute | ast.Name):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id
            yield name, {keyword.arg for keyword in node.keywords}


def test_no_drawing_is_sent_to_a_service() -> None:
    """LangGraph's ``draw_mermaid_png`` asks mermaid.ink."""
    for path in SOURCES:
        assert not {name for name, _ in _calls(path)} & {"draw_mermaid_png", "draw_png"}, path
        assert "mermaid.ink" not in path.read_text(encoding="utf-8"), path


def test_checkpoints_are_never_searched_by_keys_of_their_metadata() -> None:
    """The keys of such a filter become SQL."""
    asked = [(path, keys) for path in SOURCES for name, keys in _calls(path) if name in ("alist", "aget_state_history")]
    assert asked
    assert not [path for path, keys in asked if "filter" in keys]


def test_importing_sparklio_changes_nothing_of_its_host() -> None:
    """LANGGRAPH_STRICT_MSGPACK would be the whole program's; the serializer says itself what it allows."""
    code = (
        "import os; before = dict(os.environ); import graph, sparklio; sparklio.Sparklio, graph.build_graph; "
        "assert dict(os.environ) == before"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
