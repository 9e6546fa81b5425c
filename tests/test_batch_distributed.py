"""``sparklio batch --distributed``: rows that workers make, and a batch that is stopped meanwhile."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path
from urllib.parse import unquote

import pytest

from graph.run_files import FileRunStore
from routing.settings import load_settings
from sparklio.batch import makers
from sparklio.worker.broker import connect
from sparklio.worker.idle import idle_queues
from sparklio.worker.registry import Worker, announce
from tests.redis_server import RedisServer
from tests.test_batch import FOLDER, Reader, Start, many, results, sparklio, start, statuses
from tests.test_cli import Shell
from tests.workers import worker_process

__all__ = ["sparklio", "start"]

pytestmark = pytest.mark.no_cover
WORDS = ("batch", "many.csv", "--distributed")


@pytest.fixture
def shared(tmp_path: Path, database_url: str, redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(makers, "_LOOKS_EVERY_S", 0.1)
    monkeypatch.setenv("SPARKLIO_DATABASE_URL", database_url)
    monkeypatch.setenv("SPARKLIO_BROKER_URL", redis.url)
    monkeypatch.setenv("SPARKLIO_ARTIFACTS_URL", f"file://{tmp_path}/artifacts")


@pytest.mark.usefixtures("shared")
def test_a_batch_is_left_to_workers_stopped_and_collected(sparklio: Shell, start: Start, tmp_path: Path) -> None:
    many("a", "b", "c")
    stopped = start(*WORDS, "--json")
    while not Path(FOLDER / "summary.json").exists() or "running" not in statuses():
        assert stopped.poll() is None, stopped.stderr.read() if stopped.stderr else ""
    stopped.send_signal(signal.SIGINT)
    _, told = stopped.communicate(timeout=30)
    assert stopped.returncode == 130
    assert "interrupted" in told
    assert set(statuses()) == {"waiting"}, "nobody has made them yet"
    with worker_process(tmp_path / "elsewhere", "--queues", "text,image"):
        totals = sparklio.json(*WORDS)
        assert (totals["finished"], totals["failed"]) == (3, 0)
        pages = [unquote(link) for link in Reader(FOLDER / "index.html").links if link.endswith("page.html")]
        assert len(pages) == 3
        assert all((FOLDER / page).read_text(encoding="utf-8").rstrip().endswith("</html>") for page in pages)
        assert sparklio.json(*WORDS)["kept"] == 3
    assert {row["image_id"] for row in results().values()} == {
        path.stem for path in tmp_path.glob("artifacts/images/*")
    }
    other = sparklio.json(*WORDS, "--out", "elsewhere")
    assert other["kept"] == 3, "the pages are there for every machine"


@pytest.mark.usefixtures("shared")
def test_without_workers_settings_it_says_what_is_missing(sparklio: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPARKLIO_BROKER_URL")
    many("a")
    assert "SPARKLIO_BROKER_URL" in sparklio.refused(2, *WORDS)


@pytest.mark.usefixtures("shared")
def test_who_waits_for_nobody_is_told_why(redis: RedisServer) -> None:
    settings = load_settings()
    told = idle_queues(settings)
    assert told is not None
    assert "GENERATOR_MODE=mock sparklio worker --queues text,image" in told
    live = Worker(host="a", pid=1, queues=["text", "image"], concurrency=1, mode="live", version="1")
    with connect(redis.url) as client:
        announce(client, live)
        assert idle_queues(settings) == told, "of another mode"
        announce(client, live.model_copy(update={"mode": "mock", "queues": ["text"]}))
        assert "--queues image" in (idle_queues(settings) or "")
        announce(client, live.model_copy(update={"mode": "mock", "pid": 2}))
        assert idle_queues(settings) is None
    redis.kill()
    assert "redis-server" in (idle_queues(settings) or "")


async def test_silence_is_told_and_then_less_often(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(makers, "_LOOKS_EVERY_S", 0.001)
    monkeypatch.setattr(makers, "_SILENCE_S", 0.05)
    told = list[float]()
    watch = makers._Watch(FileRunStore(tmp_path), lambda: told.append(time.monotonic()))
    watching = asyncio.create_task(watch.watch())
    while len(told) < 2:  # noqa: ASYNC110  # it is told in a thread
        await asyncio.sleep(0.01)
    watching.cancel()
    assert told[1] - told[0] > 0.25
