"""What a terminal shows of a batch, and the small pictures of its index."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from sparklio.batch.book import Book, Outcome
from sparklio.batch.pace import Pace
from sparklio.batch.session import name_of_batch
from sparklio.batch.table import Row
from sparklio.batch.thumbnails import Thumbnails
from sparklio.batch.view import _Bar, _Facts, _Lines
from tests.standins.pictures import drawn

WAITING = Outcome(2, "many.csv row 2", "a", "에어", "many-a-1")
DONE = replace(WAITING, status="finished", score=91, approved=True, cost_usd=0.5, seconds=12.3)
FAILED = replace(WAITING, status="failed", code="provider_rejected", message="no\x1b[31m\nsuch model")


@pytest.fixture
def book(tmp_path: Path) -> Iterator[Book]:
    with Book(tmp_path) as book:
        yield book


class Scene:
    """Ten rows, of which two were kept and eight are to be made, two at once; each takes ten seconds."""

    def __init__(self, book: Book, *, width: int = 100, terminal: bool = True) -> None:
        self.now = 0.0
        self.book = book
        self.pace = Pace(2, clock=lambda: self.now)
        self.console = Console(file=StringIO(), width=width, force_terminal=terminal, color_system=None)
        for number in range(10):
            self.book.add(Row(number + 2, ""), replace(DONE, kept=True) if number >= 8 else WAITING)
        self.facts = _Facts(self.book, self.pace, 8)
        self.view = _Bar(self.console, "many", self.facts) if terminal else _Lines(self.console, self.facts)

    def end(self, number: int, outcome: Outcome) -> None:
        self.pace.begin(number)
        self.now += 10
        self.pace.end(number)
        self.book.write(number, outcome)
        self.view.update(outcome)

    def screen(self) -> list[str]:
        assert isinstance(self.view, _Bar)
        with self.console.capture() as captured:
            self.console.print(self.view.render())
        return captured.get().splitlines()


def test_the_bar_tells_what_is_done_and_a_time_that_was_measured(book: Book) -> None:
    scene = Scene(book)
    first, second = scene.screen()
    assert first == f"many  {'─' * 30}  0/8"
    assert second == "0 done  0 failed  8 left  2 kept  time left unknown"
    scene.end(0, DONE)
    scene.end(1, FAILED)
    first, second = scene.screen()
    assert first == f"many  {'━' * 7}{'─' * 23}  2/8"
    assert second == "1 done  1 failed  6 left  2 kept  6.0 a minute  time left 30s"
    assert scene.book.cost_usd == 0.5, "what was kept was paid for before"


def test_a_narrow_window_wraps_no_line(book: Book) -> None:
    scene = Scene(book, width=30)
    scene.end(0, FAILED)
    assert len(scene.screen()) == 2


def test_failures_stay_above_the_bar(book: Book) -> None:
    scene = Scene(book)
    with scene.view:
        scene.end(0, FAILED)
        scene.end(1, DONE)
    assert isinstance(scene.console.file, StringIO)
    shown = scene.console.file.getvalue()
    assert shown.count("many-a-1  failed  provider_rejected: no[31m such model") == 1
    assert "\x1b[31m" not in shown


def test_a_line_a_row_elsewhere(book: Book) -> None:
    scene = Scene(book, terminal=False)
    with scene.view:
        scene.end(0, DONE)
        scene.end(1, FAILED)
    assert isinstance(scene.console.file, StringIO)
    assert scene.console.file.getvalue().splitlines() == [
        "[1/8] many-a-1  91/100  12.3s  time left 35s",
        "[2/8] many-a-1  failed  provider_rejected: no[31m such model  time left 30s",
    ]


def test_a_picture_that_is_gone_or_damaged_has_no_thumbnail(tmp_path: Path) -> None:
    images, thumbnails = tmp_path / "images", Thumbnails(tmp_path / "small")
    images.mkdir()
    assert thumbnails.data_url("a", images) is None
    (images / "a.png").write_bytes(drawn(900, 600)[:200])
    assert thumbnails.data_url("a", images) is None
    (images / "a.png").write_bytes(drawn(900, 600))
    made = thumbnails.data_url("a", images)
    assert made is not None
    (images / "a.png").unlink()
    assert thumbnails.data_url("a", images) == made, "it is kept"
    assert [path.name for path in (tmp_path / "small").iterdir()] == ["a.jpg"]


@pytest.mark.parametrize(
    ("file", "name"), [("2026 봄.csv", "2026 봄"), ("a.b.csv", "a.b"), ("..csv", "batch"), ("\u1109\u1161.csv", "사")]
)
def test_names_of_batches(file: str, name: str) -> None:
    assert name_of_batch(Path(file)) == name


def test_a_folder_names_its_batch_wherever_one_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shop.v2").mkdir()
    monkeypatch.chdir(tmp_path / "shop.v2")
    assert name_of_batch(Path()) == "shop.v2"
