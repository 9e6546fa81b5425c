"""A request that comes again with its Idempotency-Key: done once, answered twice, whatever happens in between."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import BackgroundTasks, FastAPI, Request, UploadFile
from pydantic import BaseModel
from starlette.responses import JSONResponse, Response, StreamingResponse

from graph.vault import Vault
from providers.errors import QueueFullError, StorageError
from routing.settings import load_settings
from sparklio.server import once as module
from sparklio.server.errors import ERROR_ANSWERS, add_error_handlers
from sparklio.server.guards import add_guards
from sparklio.server.once import IdempotencyKey, Once
from sparklio.server.request_book import RequestBook
from tests.homes import KEY, OTHER
from tests.serving import ROOT, client_of, serving_app

KEYS = ("a-key-of-some-length", "another-key-of-ours")


class Made(BaseModel):
    number: int
    token: str | None


class Works:
    """An application whose routes count what they do.

    Attributes:
        tokens: of what was done, in its order.
        gate: what ``/slow`` waits for.
        fails: how often ``/work`` still has to fail.
    """

    def __init__(self, home: Path, key: bytes | None = None, **settings: str) -> None:
        self.tokens: list[str | None] = []
        self.gate = asyncio.Event()
        self.begun = asyncio.Event()
        self.fails = 0
        self.after: list[str] = []
        self.good = True
        self.once = Once(home, key)
        self.app = FastAPI(responses=ERROR_ANSWERS, lifespan=self._lifespan)
        self.app.state.settings = load_settings(settings)
        for path in ("/work", "/other"):
            self.app.post(path)(self._work)
        self.app.post("/slow")(self._slow)
        self.app.post("/stream")(self._stream)
        self.app.post("/upload")(self._upload)
        self.app.post("/refused")(self._refused)
        add_error_handlers(self.app)
        add_guards(self.app, self.app.state.settings)

    @asynccontextmanager
    async def _lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        async with self.once:
            yield

    async def make(self, token: str | None) -> Made:
        self.tokens.append(token)
        if self.fails:
            self.fails -= 1
            raise QueueFullError("no room", hint="wait")
        return Made(number=len(self.tokens), token=token)

    async def _work(
        self, body: dict[str, Any], request: Request, background: BackgroundTasks, key: IdempotencyKey = None
    ) -> Response:
        background.add_task(self.after.append, "after")
        return await self.once.answer(request, self.make, status=202)

    async def _slow(self, request: Request) -> Response:
        async def make(token: str | None) -> Made:
            made = await self.make(token)
            self.begun.set()
            await self.gate.wait()
            return made

        return await self.once.answer(request, make)

    async def _stream(self, request: Request) -> Response:
        async def events(number: int) -> AsyncIterator[bytes]:
            yield b"event: token\n\n"
            self.begun.set()
            await self.gate.wait()
            yield b"event: answer %d\n\n" % number

        async def make(token: str | None) -> Response:
            made = await self.make(token)
            return StreamingResponse(events(made.number), media_type="text/event-stream")

        return await self.once.answer(request, make, good=lambda: self.good)

    async def _upload(self, file: UploadFile, request: Request) -> Response:
        return await self.once.answer(request, self.make, status=201, body=await file.read())

    async def _refused(self, request: Request) -> Response:
        async def make(token: str | None) -> Response:
            self.tokens.append(token)
            return JSONResponse({}, 409)

        return await self.once.answer(request, make)


def named(key: str = "k") -> dict[str, str]:
    return {"idempotency-key": key}


def code_of(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def rows_of(home: Path) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(home / "requests.sqlite")) as file:
        return file.execute("SELECT token, owner, status, form, body FROM requests").fetchall()


async def test_a_repeated_request_is_done_once_and_answered_twice(tmp_path: Path) -> None:
    works = Works(tmp_path)
    async with serving_app(works.app) as client:
        first = await client.post("/work", json={"a": 1}, headers=named())
        again = await client.post("/work", json={"a": 1}, headers=named())
    assert len(works.tokens) == 1
    assert works.tokens[0]
    assert first.status_code == again.status_code == 202
    assert first.json() == again.json() == {"number": 1, "token": works.tokens[0]}
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert again.headers["content-type"] == first.headers["content-type"]
    assert again.headers["x-request-id"] != first.headers["x-request-id"]
    assert works.after == ["after"] * 2, "a route's background tasks are run"


async def test_without_the_header_everything_is_done_as_often_as_it_is_asked_for(tmp_path: Path) -> None:
    works = Works(tmp_path)
    async with serving_app(works.app) as client:
        for _ in range(2):
            assert (await client.post("/work", json={})).status_code == 202
    assert works.tokens == [None, None]
    assert rows_of(tmp_path) == []


async def test_a_key_stands_for_one_request_of_one_endpoint(tmp_path: Path) -> None:
    works = Works(tmp_path)
    async with serving_app(works.app) as client:
        assert (await client.post("/work", json={"a": 1}, headers=named())).status_code == 202
        another_body = await client.post("/work", json={"a": 2}, headers=named())
        another_query = await client.post("/work?a=2", json={"a": 1}, headers=named())
        assert (await client.post("/other", json={"a": 2}, headers=named())).status_code == 202
        assert (await client.post("/work", json={"a": 2}, headers=named("l"))).status_code == 202
    assert code_of(another_body) == code_of(another_query) == (409, "conflict")
    assert len(set(works.tokens)) == 3


async def test_who_asks_for_events_is_not_answered_with_the_whole(tmp_path: Path) -> None:
    works = Works(tmp_path)
    async with serving_app(works.app) as client:
        works.gate.set()
        events = {"accept": "text/event-stream"}
        assert (await client.post("/stream", headers={**named(), **events})).status_code == 200
        assert code_of(await client.post("/stream", headers=named())) == (409, "conflict")
        again = await client.post("/stream", headers={**named(), "accept": "Text/Event-Stream, application/json"})
    assert again.headers["idempotency-replayed"] == "true"


async def test_callers_do_not_meet_each_other_s_keys(tmp_path: Path) -> None:
    works = Works(tmp_path, SPARKLIO_API_KEYS=",".join(KEYS))
    async with serving_app(works.app) as client:
        for key in KEYS * 2:
            headers = {**named(), "authorization": f"Bearer {key}"}
            assert (await client.post("/work", json={}, headers=headers)).status_code == 202
    assert len(works.tokens) == 2


@pytest.mark.parametrize("path", ["/slow", "/stream"])
async def test_of_two_at_once_one_is_done(tmp_path: Path, path: str) -> None:
    works = Works(tmp_path)
    async with serving_app(works.app) as client:
        first = asyncio.create_task(client.post(path, headers=named()))
        await works.begun.wait()
        busy = await client.post(path, headers=named())
        works.gate.set()
        assert (await first).status_code == 200
        again = await client.post(path, headers=named())
    assert code_of(busy) == (409, "conflict")
    assert busy.json()["error"]["hint"]
    assert again.content == (await first).content
    assert len(works.tokens) == 1


@pytest.mark.no_cover
async def test_a_hundred_at_once_are_done_once(tmp_path: Path) -> None:
    works = Works(tmp_path)
    async with serving_app(works.app) as client:
        answers = await asyncio.gather(*(client.post("/work", json={}, headers=named()) for _ in range(100)))
    assert len(works.tokens) == 1
    assert {answer.status_code for answer in answers} <= {202, 409}
    assert {answer.json()["number"] for answer in answers if answer.status_code == 202} == {1}


async def test_a_failure_is_not_kept_and_the_next_try_has_its_token(tmp_path: Path) -> None:
    works = Works(tmp_path)
    works.fails = 1
    async with serving_app(works.app) as client:
        failed = await client.post("/work", json={"a": 1}, headers=named())
        done = await client.post("/work", json={"a": 1}, headers=named())
        refused = [await client.post("/refused", headers=named()) for _ in range(2)]
    assert (failed.status_code, done.status_code) == (429, 202)
    assert works.tokens[0] == works.tokens[1] == done.json()["token"]
    assert [answer.status_code for answer in refused] == [409, 409]
    assert "idempotency-replayed" not in refused[1].headers


async def test_a_failed_request_may_be_mended_under_its_key(tmp_path: Path) -> None:
    works = Works(tmp_path)
    works.fails = 1
    async with serving_app(works.app) as client:
        await client.post("/work", json={"a": 1}, headers=named())
        assert (await client.post("/work", json={"a": 2}, headers=named())).status_code == 202
        assert code_of(await client.post("/work", json={"a": 1}, headers=named())) == (409, "conflict")
    assert works.tokens[0] != works.tokens[1]


async def test_a_stream_is_kept_whole_or_not_at_all(tmp_path: Path) -> None:
    works = Works(tmp_path)
    async with serving_app(works.app) as client:
        async with client.stream("POST", "/stream", headers=named()) as left:
            assert left.status_code == 200
            await works.begun.wait()
        await asyncio.wait(works.app.state.requests.tasks)  # who leaves cancels it
        works.gate.set()
        works.good = False
        await client.post("/stream", headers=named())
        works.good = True
        second, third = [await client.post("/stream", headers=named()) for _ in range(2)]
    assert len(works.tokens) == 3, "left, bad, done"
    assert len(set(works.tokens)) == 1
    assert second.text == third.text == "event: token\n\nevent: answer 3\n\n"
    assert third.headers["idempotency-replayed"] == "true"
    assert third.headers["content-type"] == second.headers["content-type"]


async def test_what_is_too_big_to_be_kept_is_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BIGGEST", 10)
    works = Works(tmp_path)
    async with serving_app(works.app) as client:
        for _ in range(2):
            assert (await client.post("/work", json={}, headers=named())).json()["number"]
    assert len(works.tokens) == 2


async def test_an_upload_is_known_by_its_content(tmp_path: Path) -> None:
    works = Works(tmp_path)
    async with serving_app(works.app) as client:  # each multipart body has a border of its own
        first, again = [await client.post("/upload", files={"file": b"1"}, headers=named()) for _ in range(2)]
        other = await client.post("/upload", files={"file": b"2"}, headers=named())
    assert first.json() == again.json()
    assert again.headers["idempotency-replayed"] == "true"
    assert code_of(other) == (409, "conflict")


async def test_keys_are_short_and_plain(tmp_path: Path) -> None:
    works = Works(tmp_path)
    async with serving_app(works.app) as client:
        for path in ("/work", "/slow"):  # one with the header in its signature, one without
            for key in ("", "x" * 256, "ü", "a\tb"):
                answer = await client.post(path, json={}, headers={b"idempotency-key": key.encode()})
                assert code_of(answer) == (422, "bad_input"), (path, key)
        assert (await client.post("/work", json={}, headers=named("~ " + "x" * 253))).status_code == 202
    assert len(works.tokens) == 1


# restarts


async def test_answers_outlive_the_server(tmp_path: Path) -> None:
    for _ in range(2):
        works = Works(tmp_path)
        async with serving_app(works.app) as client:
            answer = await client.post("/work", json={}, headers=named())
    assert works.tokens == []
    assert answer.headers["idempotency-replayed"] == "true"
    assert not list(tmp_path.glob("requests-*.lock"))


async def test_what_a_stopped_server_has_begun_is_done_again_with_its_token(tmp_path: Path) -> None:
    works, later = Works(tmp_path), Works(tmp_path)
    async with AsyncExitStack() as outlives:
        async with serving_app(works.app) as client:
            other = await outlives.enter_async_context(client_of(str(client.base_url)))
            asking = asyncio.create_task(other.post("/slow", headers=named()))
            await works.begun.wait()
        stopped = await asking
    assert stopped.status_code == 503
    assert stopped.headers["retry-after"]
    later.gate.set()
    async with serving_app(later.app) as client:
        assert (await client.post("/slow", headers=named())).status_code == 200
    assert later.tokens == works.tokens


_KILLED = """
import asyncio, sys
from pathlib import Path
from tests.serving import serving_app
from tests.test_once import Works

async def main():
    works = Works(Path(sys.argv[1]))
    async with serving_app(works.app) as client:
        asyncio.ensure_future(client.post("/slow", headers={"idempotency-key": "k"}))
        await works.begun.wait()
        print(works.tokens[0], flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


def begun_elsewhere(home: Path) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", _KILLED, str(home)]
    return subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True)


@pytest.mark.usefixtures("unmeasured")
async def test_what_a_killed_process_has_begun_is_done_again_with_its_token(tmp_path: Path) -> None:
    with begun_elsewhere(tmp_path) as process:
        assert process.stdout is not None
        token = (await asyncio.to_thread(process.stdout.readline)).strip()
        assert token
        works = Works(tmp_path)
        works.gate.set()
        async with serving_app(works.app) as client:
            alive = await client.post("/slow", headers=named())
            process.send_signal(signal.SIGKILL)
            await asyncio.to_thread(process.wait)
            conflict = await client.post("/slow", headers=named(), content=b"another")
            done = await client.post("/slow", headers=named())
    assert code_of(alive) == (409, "conflict"), "the other server is at it"
    assert code_of(conflict) == (409, "conflict"), "what became of it nobody knows"
    assert done.status_code == 200
    assert works.tokens == [token]
    async with Once(tmp_path):
        assert len(list(tmp_path.glob("requests-*.lock"))) == 1, "dead servers leave nothing behind"


async def test_two_servers_share_a_folder(tmp_path: Path) -> None:
    a, b = Works(tmp_path), Works(tmp_path)
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(serving_app(works.app)) for works in (a, b)]
        asked = [client.post("/work", json={}, headers=named(f"{n}")) for n in range(20) for client in clients]
        await asyncio.gather(*asked)
        for n in range(20):
            answers = [await client.post("/work", json={}, headers=named(f"{n}")) for client in clients]
            assert answers[0].json() == answers[1].json()
    assert len(a.tokens + b.tokens) == len(set(a.tokens + b.tokens)) == 20


# what is kept, and for how long


async def test_keys_are_forgotten_after_a_day_and_the_file_does_not_grow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [time.time()]
    monkeypatch.setattr("sparklio.server.request_book.time.time", lambda: now[0])
    works = Works(tmp_path)
    async with serving_app(works.app) as client:
        sizes = []
        for _ in range(3):
            for n in range(50):
                body = {"a": "x" * 500}
                assert (await client.post("/work", json=body, headers=named(str(n)))).status_code == 202
            with closing(sqlite3.connect(tmp_path / "requests.sqlite")) as file:
                sizes.append(file.execute("PRAGMA page_count").fetchone()[0])
            now[0] += 24 * 3600 + 1
        assert (await client.post("/work", json={"b": 1}, headers=named("0"))).status_code == 202
    assert len(set(works.tokens)) == 151, "each day all of them anew"
    assert len(rows_of(tmp_path)) == 1
    assert max(sizes) <= sizes[0] + 2, "pages; where a row falls in the tree differs a little"
    with closing(sqlite3.connect(tmp_path / "requests.sqlite")) as file:
        assert file.execute("PRAGMA page_count").fetchone()[0] < sizes[0] / 2
        assert file.execute("PRAGMA freelist_count").fetchone() == (0,)


async def test_a_key_that_is_an_hour_short_of_a_day_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [time.time()]
    monkeypatch.setattr("sparklio.server.request_book.time.time", lambda: now[0])
    works = Works(tmp_path)
    async with serving_app(works.app) as client:
        await client.post("/work", json={}, headers=named())
        now[0] += 23 * 3600
        assert (await client.post("/work", json={}, headers=named())).headers["idempotency-replayed"]


async def test_answers_are_encrypted_where_there_is_a_key(tmp_path: Path) -> None:
    async with serving_app(Works(tmp_path).app) as client:
        await client.post("/work", json={}, headers=named("old"))
    for _ in range(2):
        works = Works(tmp_path, KEY)
        async with serving_app(works.app) as client:
            old = await client.post("/work", json={}, headers=named("old"))
            new = await client.post("/work", json={}, headers=named("new"))
    assert old.headers["idempotency-replayed"] == new.headers["idempotency-replayed"] == "true"
    assert old.json()["number"] == 1
    rows = rows_of(tmp_path)
    assert len(rows) == 2
    for *_, form, body in rows:
        assert b"number" in Vault(KEY).decrypt(form, body)
        with pytest.raises(StorageError):
            Vault(OTHER).decrypt(form, body)


@pytest.mark.parametrize("key", [None, OTHER])
async def test_with_another_key_it_is_done_again_with_its_token(tmp_path: Path, key: bytes | None) -> None:
    works = [Works(tmp_path, KEY), Works(tmp_path, key)]
    for work in works:
        async with serving_app(work.app) as client:
            assert (await client.post("/work", json={}, headers=named())).status_code == 202
    assert works[0].tokens == works[1].tokens


async def test_an_answer_that_cannot_be_kept_is_given_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise StorageError("the disk is full", hint="free some space")

    works = Works(tmp_path)
    async with serving_app(works.app) as client:
        monkeypatch.setattr(RequestBook, "keep", full)
        assert (await client.post("/work", json={}, headers=named())).status_code == 202
    assert "the disk is full" in caplog.text


async def test_a_file_that_is_none_is_told(tmp_path: Path) -> None:
    (tmp_path / "requests.sqlite").write_bytes(b"no database" * 100)
    with pytest.raises(StorageError, match=r"requests\.sqlite"):
        async with Once(tmp_path):
            pass
    assert not list(tmp_path.glob("requests-*.lock")), "and nothing is held"
