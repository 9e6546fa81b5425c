"""``sparklio batch --distributed``: rows that workers make, and a batch that is stopped meanwhile."""

from __future__ import annotations

import signal
from pathlib import Path
from urllib.parse import unquote

import pytest

from sparklio.batch import makers
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
    assert stopped.wait(30) == 130
    assert set(statuses()) == {"interrupted"}, "nobody has made them yet"
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
