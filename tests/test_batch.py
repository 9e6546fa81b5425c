"""``sparklio batch``: many products in one go, as a person types it, and as it goes wrong."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import yaml

from graph.run_files import FileRunStore
from providers.errors import InputError, StorageError
from sparklio.batch import index, session
from sparklio.batch.book import Job, Outcome
from sparklio.batch.makers import LocalMaker, Rows
from tests.conftest import BRAND, PRODUCT
from tests.faults import SCHEMAS
from tests.standins.comfyui import ComfyUIStandIn
from tests.standins.ollama import OllamaStandIn
from tests.standins.pictures import drawn
from tests.test_cli import ROOT, Shell

HEADER = ["id", "brand.name", "name", "key_features"]
FOLDER = Path(".sparklio/batches/many")
RUNS = Path(".sparklio/runs")


@pytest.fixture
def sparklio(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(monkeypatch, capsys)


Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts ``sparklio`` as a process of its own; what is left at the end is killed."""
    with ExitStack() as stack:

        def start(*words: str) -> subprocess.Popen[str]:
            environ = {**os.environ, "PYTHONUTF8": "1", "PYTHONPATH": str(ROOT)}
            command = [sys.executable, "-m", "sparklio", *words]
            pipe = subprocess.PIPE
            process = stack.enter_context(subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environ))
            stack.callback(process.kill)
            return process

        yield start


def table(*rows: list[str], header: list[str] = HEADER, name: str = "many.csv", encoding: str = "utf-8") -> str:
    with Path(name).open("w", encoding=encoding, newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return name


def product(name: str, feature: str = "가볍다") -> list[str]:
    return [name, "소리결", f"에어 {name}", feature]


def many(*names: str) -> str:
    return table(*map(product, names))


def results(folder: Path = FOLDER) -> dict[str, dict[str, Any]]:
    """Each row of summary.json by its name."""
    body = json.loads((folder / "summary.json").read_bytes())
    return {row["name"]: row for row in body["results"]}


def statuses(folder: Path = FOLDER) -> list[str]:
    return [row["status"] for row in results(folder).values()]


def cells(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.reader(file, strict=True))


def run_ids() -> set[str]:
    return {path.name for path in RUNS.iterdir()}


class Reader(HTMLParser):
    """The links, sources, tags and words of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.sources: list[str] = []
        self.tags: set[str] = set()
        self.words = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [str(value) for name, value in attrs if name == "href"]
        self.sources += [str(value) for name, value in attrs if name == "src"]

    def handle_data(self, data: str) -> None:
        self.words += data


# what it makes


def test_a_page_for_each_row_an_index_and_a_summary(sparklio: Shell) -> None:
    out = sparklio.ok("batch", many("a", "b", "c"))
    assert "3 rows, 3 to make, 2 at once" in out
    assert "3 rows: 3 finished, 0 failed, mode mock" in out
    assert out.count("[3/3]") == 1
    rows = results()
    assert [row["row"] for row in rows.values()] == [2, 3, 4]
    assert {row["run_id"] for row in rows.values()} == run_ids()
    page = Reader(FOLDER / "index.html")
    assert [(FOLDER / unquote(link)).resolve() for link in page.links] == [
        (RUNS / row["run_id"] / "page.html").resolve() for row in rows.values()
    ]
    assert all((FOLDER / unquote(link)).is_file() for link in page.links)
    assert len(page.sources) == 3
    assert all(source.startswith("data:image/jpeg;base64,") for source in page.sources)
    assert not page.tags & {"script", "link", "iframe"}
    head, *written = cells(FOLDER / "summary.csv")
    for line, row in zip(written, rows.values(), strict=True):
        told = dict(zip(head, line, strict=True))
        assert (told["run_id"], told["status"], int(told["score"])) == (row["run_id"], "finished", row["score"])
        assert float(told["seconds"]) > 0
    assert not (FOLDER / "failures.csv").exists()
    assert {path.name for path in FOLDER.iterdir()} == {
        "index.html",
        "lock",
        "summary.csv",
        "summary.json",
        "thumbnails",
    }


def test_again_makes_only_what_is_missing(sparklio: Shell) -> None:
    first = sparklio.json("batch", many("a", "b"))
    assert (first["finished"], first["kept"], first["left"]) == (2, 0, 0)
    before, stamps = results(), {path: path.stat().st_mtime_ns for path in RUNS.glob("*/result.json")}
    again = sparklio.json("batch", "many.csv")
    assert (again["finished"], again["kept"]) == (2, 2)
    table(product("new"), product("b"), product("a", "무겁다"))
    third = sparklio.json("batch", "many.csv")
    assert (third["rows"], third["finished"], third["kept"]) == (3, 3, 1)
    rows = results()
    assert rows["b"]["run_id"] == before["b"]["run_id"], "wherever it stands"
    assert rows["a"]["run_id"] != before["a"]["run_id"], "it says something else"
    assert len(run_ids()) == 4
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps


def test_mock_pages_do_not_count_as_final_ones(sparklio: Shell) -> None:
    sparklio.ok("batch", many("a"))
    body = sparklio.json("batch", "many.csv", "--stage", "final")
    assert (body["kept"], len(run_ids())) == (0, 2)


def test_a_few_first(sparklio: Shell) -> None:
    body = sparklio.json("batch", many("a", "b", "c"), "--limit", "1")
    assert (body["finished"], body["left"]) == (1, 2)
    assert statuses() == ["finished", "waiting", "waiting"]
    assert sparklio.json("batch", "many.csv", "--limit", "1")["finished"] == 2
    assert sparklio.json("batch", "many.csv")["left"] == 0


def test_a_row_that_stands_twice_is_made_once(sparklio: Shell) -> None:
    body = sparklio.json("batch", many("a", "b", "a"))
    assert (body["rows"], body["finished"], body["duplicates"], body["failed"]) == (3, 2, 1, 0)
    assert len(run_ids()) == 2
    *_, last = json.loads((FOLDER / "summary.json").read_bytes())["results"]
    assert (last["status"], last["message"]) == ("duplicate", "says the same as many.csv row 2, and shares its page")
    assert len(Reader(FOLDER / "index.html").links) == 3


def test_a_table_in_cp949_with_a_photo_and_a_brand(sparklio: Shell) -> None:
    Path("photos").mkdir()
    Path("photos/jar.png").write_bytes(drawn(80, 80))
    Path("brand.yaml").write_text(yaml.safe_dump({"brand": BRAND}, allow_unicode=True), encoding="utf-8")
    row = ["에어 2", "이어폰", "소음 차단|9시간", "photos/jar.png"]
    table(row, header=["name", "category", "key_features", "photo"], name="신상품.csv", encoding="cp949")
    body = sparklio.json("batch", "신상품.csv", "--defaults", "brand.yaml", "--out", "site")
    assert (body["batch"], body["finished"], body["folder"]) == ("신상품", 1, str(Path("site").absolute()))
    [run_id] = run_ids()
    assert re.fullmatch(r"batch-2-[0-9a-f]{12}", run_id)
    record = FileRunStore(Path(".sparklio")).load(run_id)
    assert record.inputs["brand_input"]["name"] == BRAND["name"]
    assert record.inputs["image_input"]["photo"]
    [link] = Reader(Path("site/index.html")).links
    assert Path("site", unquote(link)).is_file()


def test_a_folder_of_input_files(sparklio: Shell) -> None:
    Path("shop").mkdir()
    for name in ("one", "two"):
        wish = {"brand": BRAND, "product": {**PRODUCT, "name": name}}
        Path(f"shop/{name}.yaml").write_text(yaml.safe_dump(wish, allow_unicode=True), encoding="utf-8")
    assert sparklio.json("batch", "shop")["finished"] == 2
    [one, two] = sorted(run_ids())
    assert (one[:9], two[:9]) == ("shop-one-", "shop-two-")
    preview = sparklio.json("rerun", one, "--dry-run")
    assert preview["nodes"] == [], "its input file is known, and has not changed"


def test_an_index_of_many_pages(sparklio: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "ROWS_A_PAGE", 2)
    sparklio.ok("batch", many(*"abcde"), "--limit", "1")
    names = sorted(path.name for path in FOLDER.glob("index*"))
    assert names == ["index-2.html", "index-3.html", "index.html"]
    assert Reader(FOLDER / "index-3.html").links[:2] == ["index.html", "index-2.html"]
    many("a", "b")
    sparklio.ok("batch", "many.csv")
    assert [path.name for path in FOLDER.glob("index*")] == ["index.html"]


# what goes wrong


def test_wrong_rows_are_all_told_before_anything_starts(sparklio: Shell) -> None:
    many("a")
    table(product("a"), ["b", "소리결", "", "x"], ["c", "소리결", "이름", ""])
    told = sparklio.refused(2, "batch", "many.csv")
    assert "2 of 3 rows are wrong" in told
    assert "many.csv row 3: product.name is missing" in told
    assert "many.csv row 4: product.key_features is missing" in told
    assert not RUNS.exists()
    table(*[["", "", "", ""], *[["x", "", "", f"{number}"] for number in range(30)]])
    told = sparklio.refused(2, "batch", "many.csv")
    assert "30 of 30 rows are wrong" in told
    assert "and 10 more" in told
    assert told.count("is missing") == 20


def test_keep_going_sets_wrong_rows_apart(sparklio: Shell) -> None:
    table(product("a"), ["b", "소리결", "", "x"])
    done = sparklio("batch", "many.csv", "--keep-going")
    assert done.returncode == 1
    assert "bad_input" in done.stdout
    assert statuses() == ["finished", "failed"]
    [head, line] = cells(FOLDER / "failures.csv")
    assert head == [*HEADER, "failure.code", "failure.message"]
    assert line == ["b", "소리결", "", "x", "bad_input", "many.csv row 3: product.name is missing"]


def test_failures_can_be_mended_and_given_again(sparklio: Shell) -> None:
    """A photo is looked into only when its row's turn has come."""
    Path("good.png").write_bytes(drawn(80, 80))
    Path("bad.png").write_text("no picture")
    header = [*HEADER, "photo"]
    table([*product("a"), "good.png"], [*product("=b", "-42dB"), "bad.png"], header=header)
    done = sparklio("batch", "many.csv", "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["reasons"] == {"bad_input": 1}
    assert done.stderr == ""
    [_, line] = cells(FOLDER / "failures.csv")
    assert line[:5] == ["'=b", "소리결", "에어 =b", "'-42dB", "bad.png"]
    Path("bad.png").write_bytes(drawn(90, 90))
    (FOLDER / "failures.csv").rename("mended.csv")
    assert sparklio.json("batch", "mended.csv")["finished"] == 1
    [mended] = results(Path(".sparklio/batches/mended")).values()
    record = FileRunStore(Path(".sparklio")).load(mended["run_id"])
    assert record.inputs["product_input"]["key_features"] == ["-42dB"]
    assert sparklio.json("batch", "many.csv")["finished"] == 2
    assert not (FOLDER / "failures.csv").exists()


@pytest.mark.usefixtures("live")
def test_a_failed_row_holds_up_no_other_and_is_gone_on_with(sparklio: Shell, ollama: OllamaStandIn) -> None:
    ollama.fail("status_400", task=SCHEMAS["copywriter"])
    done = sparklio("batch", many("a", "b"), "--at-once", "1")
    assert done.returncode == 1
    assert statuses() == ["failed", "finished"]
    failed = results()["a"]
    assert (failed["code"], bool(failed["message"])) == ("provider_rejected", True)
    assert "provider_rejected" in done.stdout
    asked = ollama.by_task.copy()
    kept = sparklio("batch", "many.csv", "--no-retry-failed", "--json")
    assert (kept.returncode, ollama.by_task) == (1, asked)
    assert json.loads(kept.stdout)["reasons"] == {"provider_rejected": 1}
    assert results()["a"]["message"] == failed["message"]
    assert sparklio.json("batch", "many.csv")["finished"] == 2
    assert ollama.by_task[SCHEMAS["brand"]] == asked[SCHEMAS["brand"]], "no finished call again"
    assert len(run_ids()) == 2


def test_a_defect_in_one_row_is_told_as_one(sparklio: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    record = Rows.record

    async def broken(self: Rows, job: Job) -> Any:
        if job.row.name == "a":
            raise RuntimeError("boom")
        return await record(self, job)

    monkeypatch.setattr(Rows, "record", broken)
    assert sparklio("batch", many("a", "b")).returncode == 1
    assert (results()["a"]["code"], results()["b"]["status"]) == ("internal", "finished")


def test_a_photo_that_changes_under_way_fails_its_row(sparklio: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("jar.png").write_bytes(drawn(80, 80))
    make = LocalMaker.make

    async def late(self: LocalMaker, job: Job, before: Outcome) -> Outcome:
        Path("jar.png").write_bytes(drawn(90, 90))
        return await make(self, job, before)

    monkeypatch.setattr(LocalMaker, "make", late)
    table([*product("a"), "jar.png"], header=[*HEADER, "photo"])
    assert sparklio("batch", "many.csv").returncode == 1
    assert "have changed since the batch began" in results()["a"]["message"]


def test_a_finished_run_without_its_result_is_a_failure(sparklio: Shell) -> None:
    sparklio.ok("batch", many("a"))
    (run_id,) = run_ids()
    (RUNS / run_id / "result.json").unlink()
    assert sparklio("batch", "many.csv").returncode == 1
    assert (results()["a"]["code"], f"sparklio rerun {run_id}" in results()["a"]["hint"]) == ("storage", True)


def test_a_cancelled_run_is_left_to_a_person(sparklio: Shell) -> None:
    sparklio.ok("batch", many("a"))
    store = FileRunStore(Path(".sparklio"))
    (run_id,) = run_ids()
    record = store.load(run_id)
    record.status = "cancelled"
    store.save(record)
    assert sparklio("batch", "many.csv").returncode == 1
    assert (results()["a"]["status"], results()["a"]["hint"]) == ("cancelled", f"`sparklio resume {run_id}`")
    assert store.load(run_id).status == "cancelled"


def test_hostile_cells_are_text_everywhere(sparklio: Shell) -> None:
    evil = "<script>alert(1)</script><img src=x onerror=alert(1)>"
    names = ["=cmd()", "+1", "@SUM(1)", evil, "\u202eabc", "../../x"]
    table(*[[name, "소리결", name, name] for name in names])
    out = sparklio.ok("batch", "many.csv")
    assert "\u202e" not in out
    assert all(re.fullmatch(r"many-[\w-]+", run_id) for run_id in run_ids())
    page = Reader(FOLDER / "index.html")
    assert "script" not in page.tags
    assert evil in page.words
    assert all(source.startswith("data:") for source in page.sources)
    for line in cells(FOLDER / "summary.csv"):
        assert not [cell for cell in line if cell[:1] in ("=", "+", "-", "@")], line


@pytest.mark.parametrize("content", ["id,name\n", "id,name\n\n,,\n"])
def test_no_rows_are_wrong_input(sparklio: Shell, content: str) -> None:
    Path("many.csv").write_text(content)
    assert "holds no rows" in sparklio.refused(2, "batch", "many.csv")
    Path("empty").mkdir()
    assert "holds no rows" in sparklio.refused(2, "batch", "empty")


def test_a_folder_with_something_else_in_it_is_not_overwritten(sparklio: Shell) -> None:
    Path("site").mkdir()
    Path("site/index.html").write_text("mine")
    assert "somebody else's" in sparklio.refused(2, "batch", many("a"), "--out", "site")
    assert Path("site/index.html").read_text() == "mine"
    sparklio.ok("batch", "many.csv", "--out", "pages")
    table(product("b"), name="other.csv")
    assert "those of batch 'many'" in sparklio.refused(2, "batch", "other.csv", "--out", "pages")
    Path("pages/summary.json").write_text("[]")
    assert "somebody else's" in sparklio.refused(2, "batch", "many.csv", "--out", "pages")


def test_the_error_object(sparklio: Shell) -> None:
    table(["a", "", "", ""])
    done = sparklio("batch", "many.csv", "--json")
    assert (done.returncode, done.stdout) == (2, "")
    error = json.loads(done.stderr)["error"]
    assert (error["code"], error["details"]["wrong"]) == ("bad_input", 1)


def test_a_report_that_fails_for_a_while_is_written_in_the_end(
    sparklio: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its pages, too, that changed meanwhile."""
    monkeypatch.setattr(session, "_REPORT_S", 0.0)
    write = index.Index.write
    refused: list[Any] = []

    def disk(self: index.Index, *told: Any) -> None:
        if not refused:
            refused.append(told)
            raise StorageError("the disk is full", hint="free some space")
        write(self, *told)

    monkeypatch.setattr(index.Index, "write", disk)
    sparklio.ok("batch", many("a", "b", "c"), "--at-once", "1")
    assert refused
    assert len(Reader(FOLDER / "index.html").links) == 3


# stops and kills


def hanging(ollama: OllamaStandIn, after: int) -> None:
    """From the review that comes ``after`` so many on, no answer comes."""
    reviewer = SCHEMAS["reviewer"]
    answers = ollama.default_answer

    def answer(body: Any) -> Any:
        if ollama.task_of(body) == reviewer and ollama.by_task[reviewer] >= after:
            ollama.fail_always("hang", task=reviewer)
        return answers(body)

    ollama.answerer = answer


def until(moment: Callable[[], object], process: subprocess.Popen[str]) -> None:
    patience = time.monotonic() + 60
    while not moment():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < patience, "it never came so far"
        time.sleep(0.01)


def records() -> list[str]:
    store = FileRunStore(Path(".sparklio"))
    return sorted(store.read(path.parent.name).status for path in RUNS.glob("*/run.json"))


@pytest.mark.usefixtures("live")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_stopped_in_the_middle_and_given_again(
    start: Start, sparklio: Shell, ollama: OllamaStandIn, comfyui: ComfyUIStandIn, number: signal.Signals
) -> None:
    hanging(ollama, after=2)
    words = ("batch", many(*"abcdef"), "--at-once", "2", "--plain")
    process = start(*words)
    until(lambda: ollama.active == 2 and len(comfyui.executed) == 4 and records().count("finished") == 2, process)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert "Traceback" not in err
    if number is not signal.SIGKILL:
        assert process.returncode == 130
        assert err.splitlines()[-1] == f"interrupted; go on with: sparklio {' '.join(words)}"
        assert sorted(statuses()) == ["finished"] * 2 + ["interrupted"] * 2 + ["waiting"] * 2
        assert records() == ["finished"] * 2 + ["interrupted"] * 2, "no new row was begun"
    ollama.answerer = ollama.default_answer
    ollama.fail_always(None)
    asked = ollama.by_task.copy()
    body = sparklio.json("batch", "many.csv")
    assert (body["finished"], body["failed"], body["left"]) == (6, 0, 0)
    assert body["kept"] == 2
    assert len(run_ids()) == 6
    again = ollama.by_task - asked
    assert again[SCHEMAS["brand"]] == 2, "of the rows that nobody had begun"
    assert len(comfyui.executed) == 6, "no picture was made twice"


@pytest.mark.usefixtures("live")
def test_interrupted_with_json_there_is_the_error_object_alone(start: Start, ollama: OllamaStandIn) -> None:
    ollama.fail_always("hang")
    process = start("batch", many("a"), "--json")
    until(lambda: ollama.active, process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert json.loads(err)["error"]["code"] == "interrupted"


@pytest.mark.usefixtures("live")
def test_two_of_one_name_at_once(start: Start, sparklio: Shell, ollama: OllamaStandIn) -> None:
    ollama.fail_always("hang")
    process = start("batch", many("a"), "--plain")
    until(lambda: ollama.active, process)
    before = (FOLDER / "summary.json").exists()
    for out in ((), ("--out", "elsewhere")):
        assert "batch 'many' is being made already" in sparklio.refused(1, "batch", "many.csv", *out)
    assert (FOLDER / "summary.json").exists() == before
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130


def test_what_a_killed_process_left_half_written_goes(sparklio: Shell) -> None:
    torn = [FOLDER / f".{name}.{'0a' * 8}" for name in ("index.html", "index-12.html", "summary.csv", "failures.csv")]
    FOLDER.mkdir(parents=True)
    for path in (*torn, FOLDER / ".mine"):
        path.write_text("half")
    sparklio.ok("batch", many("a"))
    assert not [path for path in torn if path.exists()]
    assert (FOLDER / ".mine").exists()


# many rows


def resident_bytes() -> int:
    """The memory of this process that is not shared; Linux tells it in pages."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="Linux tells memory there")
def test_memory_does_not_grow_with_the_rows(sparklio: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a run itself takes is measured elsewhere; these rows are done at once."""
    held: dict[int, int] = {}

    async def quick(self: LocalMaker, job: Job, before: Outcome) -> Outcome:
        if job.number in (100, 1_999):
            held[job.number] = resident_bytes()
        if job.number % 50 == 0:
            return replace(before, status="failed", code=InputError.code, message="x" * 200)
        return replace(before, status="finished", score=90, approved=True, cost_usd=0.0, seconds=1.0)

    def unlisted(self: FileRunStore) -> Any:
        raise AssertionError("all runs were listed")

    monkeypatch.setattr(LocalMaker, "make", quick)
    monkeypatch.setattr(FileRunStore, "all", unlisted)
    monkeypatch.setattr(FileRunStore, "_ids", unlisted)
    table(*(product(f"p{number}") for number in range(2_000)))
    body = json.loads(sparklio("batch", "many.csv", "--json").stdout)
    assert (body["finished"], body["failed"], body["left"]) == (1_960, 40, 0)
    assert len(cells(FOLDER / "failures.csv")) == 41
    assert held[1_999] / held[100] < 1.2
    assert max(path.stat().st_size for path in FOLDER.glob("index*.html")) < 1_000_000
