"""Runs over HTTP: started, listed, read, rerun, resumed and cancelled, by whoever asks, and owned by the server."""

from __future__ import annotations

import asyncio
import json
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest

from graph.run_files import FileRunStore
from graph.store import RunStore
from providers.errors import StorageError
from routing.settings import load_settings
from sparklio import Sparklio
from sparklio.server.errors import without_folder
from sparklio.stores import open_run_store
from tests.conftest import BRAND, PRODUCT
from tests.serving import serving
from tests.standins.comfyui import ComfyUIStandIn
from tests.standins.ollama import OllamaStandIn
from tests.waiting import until

RUNS = "/api/v1/runs"
INPUT: dict[str, Any] = {"brand": BRAND, "product": PRODUCT}
ENDED = {"finished", "failed", "cancelled", "interrupted"}


async def start(client: httpx.AsyncClient, **more: Any) -> str:
    answer = await client.post(RUNS, json={**INPUT, **more})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["run_id"])


async def read(client: httpx.AsyncClient, run_id: str) -> dict[str, Any]:
    answer = await client.get(f"{RUNS}/{run_id}")
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def ended(client: httpx.AsyncClient, run_id: str) -> dict[str, Any]:
    async with asyncio.timeout(60):
        while (run := await read(client, run_id))["status"] not in ENDED:  # noqa: ASYNC110  # as a client would
            await asyncio.sleep(0.02)
    return run


async def finished(client: httpx.AsyncClient, **more: Any) -> str:
    run_id = await start(client, **more)
    assert (await ended(client, run_id))["status"] == "finished"
    return run_id


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def store_in(home: Path) -> AbstractContextManager[RunStore]:
    return open_run_store(load_settings({"SPARKLIO_HOME": str(home)}))


def check_no_paths(answer: httpx.Response, home: Path) -> None:
    assert str(home) not in answer.text
    assert "file:" not in answer.text


@pytest.mark.each_place
async def test_a_run_from_its_start_to_its_page(tmp_path: Path) -> None:
    async with serving(tmp_path) as client:
        answer = await client.post(RUNS, json={**INPUT, "run_id": "page", "stage": "final"})
        assert answer.status_code == 202
        assert answer.headers["location"] == f"{RUNS}/page"
        booked = answer.json()
        links = {name: f"{RUNS}/page/{name}" for name in ("events", "result", "page")}
        assert booked == {"run_id": "page", "status": "queued", "links": {"self": f"{RUNS}/page", **links}}
        run = await ended(client, "page")
        assert (run["status"], run["stage"], run["product"]) == ("finished", "final", PRODUCT["name"])
        assert (run["position"], run["error"], run["parent"], len(run["nodes"])) == (None, None, None, 6)
        assert "out" not in run

        result = await client.get(links["result"])
        image = result.json()["image"]
        assert image["url"] == f"/api/v1/images/{image['image_id']}"
        assert (await client.get(image["url"])).headers["content-type"].startswith("image/")
        for path in (f"{RUNS}/page", *links.values(), f"{RUNS}/page/history", RUNS):
            answer = await client.get(path)
            assert answer.status_code == 200
            check_no_paths(answer, tmp_path)
    with store_in(tmp_path) as store:
        kept = json.loads(store.read_result("page") or b"")
        assert store.load("page").keeper == "server"
    assert result.json() == {**kept, "image": {**kept["image"], "url": image["url"]}}


async def test_the_page_is_sent_once_and_can_do_nothing(tmp_path: Path) -> None:
    async with serving(tmp_path) as client:
        run_id = await finished(client)
        page = await client.get(f"{RUNS}/{run_id}/page")
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        policy = page.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "script-src" not in policy
        assert page.content == (tmp_path / f"runs/{run_id}/page.html").read_bytes()
        for known in (page.headers["etag"], f'W/{page.headers["etag"]}, "x"', "*"):
            again = await client.get(f"{RUNS}/{run_id}/page", headers={"if-none-match": known})
            assert (again.status_code, again.content) == (304, b"")
        other = await client.get(f"{RUNS}/{run_id}/page", headers={"if-none-match": '"x"'})
        assert other.status_code == 200


@pytest.mark.usefixtures("live")
async def test_before_its_end_a_run_has_neither_result_nor_page(tmp_path: Path, comfyui: ComfyUIStandIn) -> None:
    comfyui.hold()
    async with serving(tmp_path, SPARKLIO_MAX_RUNS="1") as client:
        run_id = await start(client)
        waiting = await start(client)
        await until(lambda: comfyui.running)
        assert (await read(client, waiting))["position"] == 1
        for name in ("result", "page"):
            assert code(await client.get(f"{RUNS}/{run_id}/{name}")) == (409, "run_unfinished")
        comfyui.release()
        assert (await ended(client, waiting))["status"] == "finished"


@pytest.mark.each_place
async def test_what_is_wrong_is_told(tmp_path: Path) -> None:
    async with serving(tmp_path) as client:
        run_id = await finished(client)
        assert code(await client.post(RUNS, json={"brand": BRAND})) == (422, "bad_input")
        assert code(await client.post(RUNS, json={**INPUT, "colour": 1})) == (422, "bad_input")
        paths = {**BRAND, "uploaded_materials": ["/etc/passwd"]}
        assert code(await client.post(RUNS, json={**INPUT, "brand": paths})) == (422, "bad_input")
        assert code(await client.post(RUNS, json={**INPUT, "run_id": "../x"})) == (422, "bad_input")
        assert code(await client.post(RUNS, json={**INPUT, "run_id": run_id})) == (409, "run_exists")
        assert code(await client.get(f"{RUNS}/nobody")) == (404, "unknown_name")
        assert code(await client.get(f"{RUNS}/..%2fx")) in {(404, "not_found"), (422, "bad_input")}
        for name in ("events", "history", "result", "page", f"diff/{run_id}"):
            assert code(await client.get(f"{RUNS}/nobody/{name}")) == (404, "unknown_name")
            assert code(await client.get(f"{RUNS}/no:body/{name}")) == (422, "bad_input")
        for name in ("rerun", "resume", "cancel"):
            assert code(await client.post(f"{RUNS}/nobody/{name}")) == (404, "unknown_name")
        assert code(await client.post(f"{RUNS}/{run_id}/rerun", json={"start_at": "nobody"})) == (400, "unknown_name")
        assert code(await client.post(f"{RUNS}/{run_id}/cancel")) == (409, "conflict")
        with store_in(tmp_path) as store:
            assert len(store.all()) == 1


@pytest.mark.parametrize("number", ["1180591620717411303424", "NaN", "-Infinity", "1e999"])
async def test_a_number_that_cannot_be_kept_is_refused_and_starts_nothing(tmp_path: Path, number: str) -> None:
    async def post(path: str, body: Any) -> httpx.Response:
        content = json.dumps(body).replace('"number"', number)
        return await client.post(path, content=content, headers={"content-type": "application/json"})

    product = {**PRODUCT, "facts": {"가격": "number"}}
    async with serving(tmp_path) as client:
        run_id = await finished(client)
        assert code(await post(RUNS, {**INPUT, "product": product})) == (422, "bad_input")
        for changes in ({"product_input.facts.가격": "number"}, {"product_input": {"facts": {"가격": "number"}}}):
            for dry_run in (True, False):
                wish = {"changes": changes, "dry_run": dry_run}
                assert code(await post(f"{RUNS}/{run_id}/rerun", wish)) == (422, "bad_input")
        with store_in(tmp_path) as store:
            assert len(store.all()) == 1


async def test_no_failure_tells_where_the_data_folder_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(path: Path, *_: Any, **__: Any) -> None:
        raise StorageError(
            f"cannot write {path}: no space left", hint=f"make room at {path}", details={"at": [str(path)]}
        )

    home = tmp_path / "a folder"
    async with serving(home) as client:
        with monkeypatch.context() as patch:
            patch.setattr("sparklio.publish.write_whole", full)
            run_id = await start(client)
            run = await ended(client, run_id)
        assert run["status"] == "failed"
        assert run["error"]["message"].startswith(f"cannot write <data folder>/runs/{run_id}/")
        assert run["error"]["details"]["at"][0].startswith("<data folder>/runs/")
        events = await client.get(f"{RUNS}/{run_id}/events")
        assert "event: run_failed" in events.text
        with monkeypatch.context() as patch:
            patch.setattr("graph.run_files.write_whole", full)
            refused = await client.post(RUNS, json=INPUT)
        assert code(refused) == (500, "storage")
        for answer in (await client.get(f"{RUNS}/{run_id}"), events, refused):
            check_no_paths(answer, home)
            assert "<data folder>/runs/" in answer.text
        record = FileRunStore(home).load(run_id)
        assert record.error is not None
        assert str(home) in record.error["message"], "who may read the folder may know where it is"
    assert str(home) in caplog.text


@pytest.mark.parametrize(
    ("home", "told", "left"),
    [
        ("/data", "cannot read /data/runs/x", "cannot read <data folder>/runs/x"),
        ("/data", "'/data' and file:///data/images", "'<data folder>' and <data folder>/images"),
        ("/data", "/data2/x, /mnt/data/x and /data-old", "/data2/x, /mnt/data/x and /data-old"),
        ("/데이터 1", "file:///%EB%8D%B0%EC%9D%B4%ED%84%B0%201/x", "<data folder>/x"),
        ("/", "a/b /c", "a/b /c"),
    ],
)
def test_only_the_folder_itself_is_left_out(home: str, told: str, left: str) -> None:
    assert without_folder({"a": [told, 1, None]}, Path(home)) == {"a": [left, 1, None]}


# the list


@pytest.mark.each_place
async def test_the_list_is_filtered_and_comes_page_by_page(tmp_path: Path) -> None:
    async with serving(tmp_path) as client:
        names = [await finished(client, run_id=f"run-{number}") for number in range(5)]
        await finished(client, run_id="tea", product={**PRODUCT, "name": "Green Tea"})
        await client.post(f"{RUNS}/run-1/rerun", json={"start_at": "reviewer"})
        await ended(client, "run-1.2")

        async def listed(**query: Any) -> list[str]:
            found: list[str] = []
            while True:
                page = (await client.get(RUNS, params=query)).json()
                found += [run["run_id"] for run in page["runs"]]
                if page["next_cursor"] is None:
                    return found
                assert len(page["runs"]) == query["limit"]
                query["cursor"] = page["next_cursor"]

        everything = ["run-1.2", "tea", *reversed(names)]
        for limit in (1, 2, 3, 7, 200):
            assert await listed(limit=limit) == everything
        assert await listed(family="run-1.2") == ["run-1.2", "run-1"]
        assert await listed(product="green") == ["tea"]
        assert await listed(status="finished", mode="mock") == everything
        assert await listed(status="failed") == await listed(mode="live") == []
        for wrong in ({"limit": 0}, {"limit": 201}, {"cursor": "x"}, {"status": "bad"}, {"mode": "bad"}):
            assert code(await client.get(RUNS, params=wrong)) == (422, "bad_input")


async def test_the_list_follows_what_changes_on_the_disk(tmp_path: Path) -> None:
    async def listed() -> dict[str, str]:
        return {run["run_id"]: run["status"] for run in (await client.get(RUNS)).json()["runs"]}

    async with serving(tmp_path) as client:
        assert await listed() == {}
        await finished(client, run_id="page")
        assert await listed() == {"page": "finished"}
        (tmp_path / "runs/damaged").mkdir()
        (tmp_path / "runs/damaged/run.json").write_text("{")
        (tmp_path / "runs/no run").mkdir()
        store = FileRunStore(tmp_path)
        store.save(store.read("page").model_copy(update={"status": "running"}))
        assert await listed() == {"page": "interrupted"}
        with store.lock("page"):
            assert await listed() == {"page": "running"}
        assert await listed() == {"page": "interrupted"}
        (tmp_path / "runs/page/run.json").unlink()
        assert await listed() == {}


# rerun, resume, cancel


@pytest.mark.each_place
async def test_rerun(tmp_path: Path) -> None:
    async with serving(tmp_path) as client:
        await finished(client, run_id="page")
        nothing = await client.post(f"{RUNS}/page/rerun")
        assert (nothing.status_code, nothing.json()["run_id"], nothing.json()["status"]) == (200, "page", "finished")
        wish = {"changes": {"copy.headline": "새 제목"}}
        preview = await client.post(f"{RUNS}/page/rerun", json={**wish, "dry_run": True})
        assert preview.status_code == 200
        assert [node["node"] for node in preview.json()["nodes"]] == ["reviewer"]
        answer = await client.post(f"{RUNS}/page/rerun", json=wish)
        assert (answer.status_code, answer.json()["run_id"]) == (202, "page.2")
        assert answer.headers["location"] == f"{RUNS}/page.2"
        run = await ended(client, "page.2")
        assert (run["status"], run["nodes"]) == ("finished", ["reviewer"])
        assert run["parent"] == {"run_id": "page", "start_at": "reviewer"}
        assert (await client.get(f"{RUNS}/page.2/result")).json()["copy"]["headline"] == "새 제목"

        found = (await client.get(f"{RUNS}/page/diff/page.2")).json()
        assert next((one["path"], one["new"]) for one in found["differences"]) == ("copy.headline", "새 제목")
        history = (await client.get(f"{RUNS}/page.2/history")).json()
        assert [member["run_id"] for member in history["family"]] == ["page", "page.2"]
        assert history["points"][-1]["next"] == []
        url = history["points"][-1]["values"]["image"]["url"]
        assert url.startswith("/api/v1/images/")
        slim = (await client.get(f"{RUNS}/page.2/history", params={"values": False})).json()
        assert all(point["values"] is None for point in slim["points"])
        assert [point["keys"] for point in slim["points"]] == [point["keys"] for point in history["points"]]


@pytest.mark.usefixtures("live")
@pytest.mark.each_place
async def test_a_failed_run_is_resumed_and_a_running_one_is_not(
    tmp_path: Path, ollama: OllamaStandIn, comfyui: ComfyUIStandIn
) -> None:
    ollama.fail("status_400", task="StyleReview")
    async with serving(tmp_path) as client:
        run_id = await start(client)
        run = await ended(client, run_id)
        assert run["status"] == "failed"
        assert run["error"]["hint"]
        comfyui.hold()
        answer = await client.post(f"{RUNS}/{run_id}/resume")
        assert (answer.status_code, answer.json()["status"]) == (202, "queued")
        comfyui.release()
        assert (await ended(client, run_id))["status"] == "finished"
        again = await client.post(f"{RUNS}/{run_id}/resume")
        assert (again.status_code, again.json()["status"]) == (202, "finished")


@pytest.mark.usefixtures("live")
@pytest.mark.each_place
async def test_a_cancelled_run_has_stopped_when_that_is_answered(tmp_path: Path, comfyui: ComfyUIStandIn) -> None:
    comfyui.hold()
    async with serving(tmp_path) as client:
        run_id = await start(client)
        await until(lambda: comfyui.running)
        assert code(await client.post(f"{RUNS}/{run_id}/resume")) == (409, "run_busy")
        answer = await client.post(f"{RUNS}/{run_id}/cancel")
        assert (answer.status_code, answer.json()["status"]) == (202, "cancelled")
        assert comfyui.interrupted == comfyui.accepted
        assert (await read(client, run_id))["status"] == "cancelled"
        assert code(await client.post(f"{RUNS}/{run_id}/cancel")) == (409, "conflict")
        comfyui.release()
        await client.post(f"{RUNS}/{run_id}/resume")
        assert (await ended(client, run_id))["status"] == "finished"


# more than fits, and the same again


@pytest.mark.usefixtures("live")
@pytest.mark.each_place
async def test_beyond_its_bounds_the_server_says_429(tmp_path: Path, comfyui: ComfyUIStandIn) -> None:
    comfyui.hold()
    async with serving(tmp_path, SPARKLIO_MAX_RUNS="1", SPARKLIO_MAX_QUEUED="2") as client:
        answers = await asyncio.gather(*(client.post(RUNS, json=INPUT) for _ in range(8)))
        refused = [answer for answer in answers if answer.status_code != 202]
        assert len(refused) == 5
        assert {code(answer) for answer in refused} == {(429, "queue_full")}
        assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
        with store_in(tmp_path) as store:
            assert len(store.all()) == 3
        comfyui.release()
        for answer in answers:
            if answer.status_code == 202:
                assert (await ended(client, answer.json()["run_id"]))["status"] == "finished"


@pytest.mark.each_place
async def test_a_repeated_request_starts_no_second_run(tmp_path: Path) -> None:
    key = {"idempotency-key": "once"}
    async with serving(tmp_path) as client:
        first = await client.post(RUNS, json=INPUT, headers=key)
        again = await client.post(RUNS, json=INPUT, headers=key)
        assert (again.status_code, again.json()) == (202, first.json())
        assert again.headers["idempotency-replayed"] == "true"
        assert code(await client.post(RUNS, json={**INPUT, "language": "en"}, headers=key)) == (409, "conflict")
        run_id = first.json()["run_id"]
        await ended(client, run_id)
        for _ in range(2):
            rerun = await client.post(f"{RUNS}/{run_id}/rerun", json={"start_at": "reviewer"}, headers=key)
            assert rerun.json()["run_id"] == f"{run_id}.2"
        await ended(client, f"{run_id}.2")
        assert len((await client.get(RUNS)).json()["runs"]) == 2


@pytest.mark.each_place
async def test_a_run_that_was_booked_and_not_told_is_told_to_who_asks_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*_: Any) -> None:
        raise ConnectionError

    key = {"idempotency-key": "once"}
    async with serving(tmp_path) as client:
        with monkeypatch.context() as patch:
            patch.setattr("sparklio.server.routes.runs._told", lost)
            assert (await client.post(RUNS, json=INPUT, headers=key)).status_code == 500
        answer = await client.post(RUNS, json=INPUT, headers=key)
        assert answer.status_code == 202
        [run] = (await client.get(RUNS)).json()["runs"]
        assert run["run_id"] == answer.json()["run_id"]
        await ended(client, run["run_id"])


async def test_runs_of_the_command_line_are_seen_too(tmp_path: Path) -> None:
    async with Sparklio(home=tmp_path) as studio:
        run = await studio.run(brand=BRAND, product=PRODUCT, run_id="mine", out=tmp_path / "elsewhere")
    async with serving(tmp_path) as client:
        assert (await read(client, "mine"))["status"] == "finished"
        assert (await client.get(f"{RUNS}/mine/page")).content == run.page_path.read_bytes()


@pytest.mark.parametrize(
    ("form", "media_type", "begins"),
    [
        ("mermaid", "text/plain; charset=utf-8", "graph"),
        ("ascii", "text/plain; charset=utf-8", ""),
        ("svg", "image/svg+xml", "<svg"),
    ],
)
async def test_the_graph_is_drawn(tmp_path: Path, form: str, media_type: str, begins: str) -> None:
    async with serving(tmp_path) as client:
        answer = await client.get("/api/v1/graph", params={"format": form})
        assert (answer.status_code, answer.headers["content-type"]) == (200, media_type)
        assert answer.text == Sparklio(home=tmp_path).draw(form)  # type: ignore[arg-type]
        assert begins in answer.text
        assert "brand" in answer.text
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert code(await client.get("/api/v1/graph", params={"format": "png"})) == (422, "bad_input")
