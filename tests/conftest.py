"""Every test runs in an empty folder, with none of the machine's settings, and reaches nothing but loopback."""

from __future__ import annotations

import gc
import os
import pickle
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from routing.packaged_files import DEFAULT_CONFIG
from routing.yaml_text import parse_yaml
from tests.postgres_server import PostgresServer, postgres_server
from tests.redis_server import RedisServer, redis_server
from tests.standins.anthropic import AnthropicStandIn
from tests.standins.comfyui import ComfyUIStandIn
from tests.standins.google import GoogleStandIn
from tests.standins.ollama import OllamaStandIn
from tests.standins.openai import OpenAIStandIn

OURS = ("GENERATOR_", "GATEWAY_", "SPARKLIO_", "OLLAMA_", "COMFYUI_", "OPENAI_", "ANTHROPIC_", "GOOGLE_", "GEMINI_")
THEIRS = ("DALLE_", "NANOBANANA_", "LANGCHAIN_", "LANGSMITH_", "OTEL_", "RUN_")
COVERAGE = "COVERAGE_PROCESS_CONFIG"
"""Has each Python process that a test starts measured, which takes it about twice the time."""

BRAND = {"name": "소리결", "industry": "음향기기"}
PRODUCT = {
    "name": "소리결 에어 2 무선 이어폰",
    "category": "블루투스 이어폰",
    "target": "지하철로 출퇴근하는 30-40대",
    "key_features": ["소음 차단 -42dB", "한 번 충전에 9시간"],
    "facts": {"모델명": "SG-A2", "가격": 89000},
}

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell that starts the tests in the background has their interrupts ignored, and those of their processes too.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Have no later collection look through what is there by now and stays: every module, every test."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _packaged_routing_is_parsed_once() -> Iterator[None]:
    """Nearly every test reads it, and PyYAML is slow, the more so where it is traced; each gets a value of its own."""
    packaged = DEFAULT_CONFIG.read_text(encoding="utf-8")
    parsed = pickle.dumps(parse_yaml(packaged))

    def parse(text: str, *, as_written: bool = False) -> Any:
        if text == packaged and not as_written:
            return pickle.loads(parsed)
        return parse_yaml(text, as_written=as_written)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("routing.yaml_text.parse_yaml", parse)
        yield


@pytest.fixture(autouse=True)
def _clean_place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(OURS + THEIRS):
            monkeypatch.delenv(name)
    if request.node.get_closest_marker("no_cover"):  # pytest-cov itself spares this process, not those it starts
        monkeypatch.delenv(COVERAGE, raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    """The processes that the test starts are not measured, as others run the same lines; this one is."""
    monkeypatch.delenv(COVERAGE, raising=False)


@pytest.fixture
def ollama() -> Iterator[OllamaStandIn]:
    with OllamaStandIn() as server:
        yield server


@pytest.fixture
def comfyui() -> Iterator[ComfyUIStandIn]:
    with ComfyUIStandIn() as server:
        yield server


@pytest.fixture
def openai() -> Iterator[OpenAIStandIn]:
    with OpenAIStandIn() as server:
        yield server


@pytest.fixture
def anthropic() -> Iterator[AnthropicStandIn]:
    with AnthropicStandIn() as server:
        yield server


@pytest.fixture
def google() -> Iterator[GoogleStandIn]:
    with GoogleStandIn() as server:
        yield server


@pytest.fixture
def live(ollama: OllamaStandIn, comfyui: ComfyUIStandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """Live mode against the two stand-ins; a test takes them by their own names too."""
    monkeypatch.setenv("GENERATOR_MODE", "live")
    monkeypatch.setenv("OLLAMA_BASE_URL", ollama.url)
    monkeypatch.setenv("COMFYUI_BASE_URL", comfyui.url)


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """One for all tests of this process; one that stops it, or stops it for a while, takes a server of its own."""
    with postgres_server() as server:
        yield server


@pytest.fixture
def database_url(postgres: PostgresServer) -> str:
    """An empty database."""
    return postgres.new_database()


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "each_place: runs twice, with the runs in files and in PostgreSQL")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if metafunc.definition.get_closest_marker("each_place"):
        metafunc.parametrize("place", ("files", "postgres"), indirect=True)


@pytest.fixture(autouse=True)
def place(request: pytest.FixtureRequest, _clean_place: None, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where the runs of a test are kept that is marked ``each_place``; those of all others are in files."""
    where = str(getattr(request, "param", "files"))
    if where == "postgres":
        monkeypatch.setenv("SPARKLIO_DATABASE_URL", request.getfixturevalue("database_url"))
    return where
