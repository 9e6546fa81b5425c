"""The plan of the house, held against the code."""

from __future__ import annotations

import ast
import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from graph.flow import AGENTS, build_graph
from graph.rerun import READS, WRITES
from graph.state import PageState
from providers.base import ImageProvider, LLMProvider
from routing.packaged_files import DEFAULT_CONFIG

ROOT = Path(__file__).resolve().parent.parent
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
    for path in SOURCES:
        text = path.read_text(encoding="utf-8")
        assert not [name for name in _routed_names() if name in text], path


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
        ("sparklio", {"Event", "Point", "Run", "Sparklio", "SparklioError", "__version__", "run"}),
        ("graph", {"build_graph"}),
    ],
)
def test_public_names_are_pinned(module: str, names: set[str]) -> None:
    imported = importlib.import_module(module)
    assert set(imported.__all__) == names
    assert all(getattr(imported, name) for name in names)
