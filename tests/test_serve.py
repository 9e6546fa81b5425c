"""``sparklio serve`` from its first line to its exit code, told by real processes; and how connections end."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sse_starlette import EventSourceResponse
from starlette.responses import FileResponse, StreamingResponse

from providers.errors import ConfigError, ListenError
from routing.settings import load_settings
from sparklio import cli, server_command
from sparklio.server import serve
from sparklio.server.errors import add_error_handlers
from sparklio.server.guards import add_guards
from sparklio.stopping import STOPPED_WITHIN_S
from tests.conftest import BRAND, PRODUCT
from tests.serving import ROOT, ServerProcess, client_of, free_port, server_process, serving, serving_app
from tests.standins.ollama import OllamaStandIn

KEY = "a-key-of-some-length"


async def test_it_says_where_it_listens_and_answers_there(tmp_path: Path) -> None:
    with server_process(tmp_path / "data") as server:
        first, *more = server.stdout.splitlines()
        assert first == f"listening on {server.url}"
        async with server.client() as client:
            assert (await client.get("/health")).status_code == 200
            assert (await client.get("/api/v1/runs")).status_code == 200
        assert server.stop() == 0
        told = "\n".join([*more, *server.stdout.splitlines()])
        assert "mock" in told
        assert str(tmp_path / "data") in told
        assert "none needed" in told
        assert server.stderr == "", "requests are nothing to talk about"


async def test_a_slash_too_many_is_sent_nowhere(tmp_path: Path) -> None:
    async with serving(tmp_path) as client:
        for path in ("/health/", "/api/v1/runs/", "/api/v1/runs//"):
            answer = await client.get(path)
            assert (answer.status_code, "location" in answer.headers) == (404, False), path
            assert answer.json()["error"]["code"] == "not_found"


async def test_a_call_of_a_model_needs_no_worker_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(tmp_path) as client:
        used: list[object] = []
        monkeypatch.setattr("anyio.to_thread.run_sync", lambda function, *_, **__: used.append(function))
        await client.get("/api/v1/llm/health")
        await client.post("/api/v1/llm/generate", json={"role": "brief", "task": "marketing_brief", "input": {}})
    assert used == []


async def test_the_same_application_in_the_test_s_own_loop(tmp_path: Path) -> None:
    async with serving(tmp_path, SPARKLIO_API_KEYS=KEY) as client:
        assert (await client.get("/api/v1/runs")).status_code == 200
        del client.headers["authorization"]
        assert (await client.get("/api/v1/runs")).status_code == 401


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_a_signal_stops_it_with_exit_code_0(tmp_path: Path, number: signal.Signals) -> None:
    began = time.monotonic()
    with server_process(tmp_path) as server:
        noise_s = time.monotonic() - began
        async with server.client() as client:
            await client.get("/health")  # a connection that is kept alive
            signalled = time.monotonic()
            server.signal(number)
            assert await asyncio.to_thread(server.wait) == 0
            assert time.monotonic() - signalled < STOPPED_WITHIN_S + noise_s
        assert server.stderr == ""


@pytest.mark.usefixtures("unmeasured")
async def test_a_stop_interrupts_a_run_and_the_next_start_goes_on_with_it(
    tmp_path: Path, live: None, ollama: OllamaStandIn
) -> None:
    ollama.delay_s = 60
    began = time.monotonic()
    with server_process(tmp_path) as server:
        noise_s = time.monotonic() - began
        async with server.client() as client:
            run_id = (await client.post("/api/v1/runs", json={"brand": BRAND, "product": PRODUCT})).json()["run_id"]
            async with client.stream("GET", f"/api/v1/runs/{run_id}/events") as events:
                lines = events.aiter_lines()
                while "node_started" not in await anext(lines):
                    pass
                signalled = time.monotonic()
                server.signal(signal.SIGTERM)
                with suppress(httpx.RemoteProtocolError):
                    rest = [line async for line in lines]
            assert not [line for line in rest if "run_finished" in line]
        assert server.wait() == 0
        assert time.monotonic() - signalled < STOPPED_WITHIN_S + noise_s
        assert "Traceback" not in server.stderr
    assert json.loads((tmp_path / "runs" / run_id / "run.json").read_text())["status"] == "interrupted"
    ollama.delay_s = 0
    with server_process(tmp_path) as server:
        async with server.client() as client:
            async with client.stream("GET", f"/api/v1/runs/{run_id}/events") as events:
                assert "run_finished" in (await events.aread()).decode()
            assert (await client.get(f"/api/v1/runs/{run_id}")).json()["status"] == "finished"
        assert server.stop() == 0


_HANGS = """
import asyncio, sys
from contextlib import asynccontextmanager
from fastapi import FastAPI
from sparklio import cli, server
from sparklio.server import app as module
from sparklio.server.guards import add_guards
from routing.settings import load_settings

@asynccontextmanager
async def hanging(_):
    yield
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            pass

def create_app(**_):
    app = FastAPI(lifespan=hanging)
    app.state.settings = load_settings()
    add_guards(app, app.state.settings)
    return app

module.create_app = create_app
sys.argv[1:] = ["serve", "--port", "0"]
cli.main()
"""


async def test_a_stop_that_hangs_is_cut_short(tmp_path: Path) -> None:
    with started(_HANGS) as process:
        began = time.monotonic()
        assert process.stdout is not None
        assert "listening" in await asyncio.to_thread(process.stdout.readline)
        noise_s = time.monotonic() - began
        signalled = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait, 30) == 130
        assert time.monotonic() - signalled < STOPPED_WITHIN_S + noise_s


@contextmanager
def started(code: str, *, err: int | None = None) -> Iterator[subprocess.Popen[str]]:
    """A process that does ``code``, killed at the block's end unless it has ended by then."""
    environ, out = {**os.environ, "PYTHONPATH": str(ROOT)}, subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], env=environ, stdout=out, stderr=err, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


# what it refuses


def ended(home: Path, *words: str, port: int = 0) -> tuple[int, str, str]:
    """Exit code and stdout and stderr of a server that is expected not to start."""
    server = ServerProcess(home, "--port", str(port), *words)
    try:
        return server.wait(), server.stdout, server.stderr
    finally:
        server.clean_up()


def test_a_port_in_use_is_told(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        code, out, err = ended(tmp_path, port=port)
    assert (code, out) == (1, "")
    assert f"error: cannot listen on 127.0.0.1, port {port}" in err
    assert "hint: " in err
    assert "--port" in err
    assert "Traceback" not in err


@pytest.mark.usefixtures("unmeasured")
async def test_its_port_is_free_at_once_for_the_next(tmp_path: Path) -> None:
    port = free_port()
    for end in (ServerProcess.stop, ServerProcess.kill, ServerProcess.stop):
        with server_process(tmp_path, port=port) as server:
            async with server.client() as client:
                assert (await client.get("/health")).status_code == 200
                end(server)


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_others_are_not_let_in_without_keys(tmp_path: Path, host: str) -> None:
    code, out, err = ended(tmp_path, "--host", host)
    assert (code, out) == (2, "")
    assert "SPARKLIO_API_KEYS" in err
    assert "Traceback" not in err


@pytest.mark.usefixtures("unmeasured")
async def test_with_keys_it_listens_anywhere(tmp_path: Path) -> None:
    with server_process(tmp_path, "--host", "0.0.0.0", SPARKLIO_API_KEYS=KEY) as server:
        assert "needed, see SPARKLIO_API_KEYS" in server.stdout
        url = server.url.replace("0.0.0.0", "127.0.0.1")
        async with client_of(url, key=KEY) as client, client_of(url) as stranger:
            assert (await client.get("/api/v1/runs")).status_code == 200
            assert (await stranger.get("/api/v1/runs")).status_code == 401
            assert (await stranger.get("/health")).status_code == 200
        assert server.stop() == 0
        assert KEY not in server.stdout + server.stderr


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--host", "no such host"), 1, "there is no address"),
        (("--mode", "half"), 2, "half"),
        (("--port", "65536"), 2, "--port"),
    ],
)
def test_wrong_words_are_told(tmp_path: Path, words: tuple[str, ...], code: int, said: str) -> None:
    ended_with, out, err = ended(tmp_path, *words)
    assert (ended_with, out) == (code, "")
    assert said in err
    assert "Traceback" not in err


def test_a_data_folder_that_is_none_is_told(tmp_path: Path) -> None:
    home = tmp_path / "file"
    home.write_text("no folder")
    code, out, err = ended(home)
    assert (code, out) == (1, "")
    assert err.startswith("error: ")
    assert "hint: " in err
    assert "Traceback" not in err


def test_the_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(server_command, "_EXTRA", ("fastapi", "no_such_package"))
    assert cli._run(["serve"]) == 2
    err = capsys.readouterr().err
    assert "no_such_package" in err
    assert "fastapi" not in err
    assert "pip install 'sparklio[server]'" in err


def test_loopback_by_its_names_needs_no_key() -> None:
    for host in ("127.0.0.1", "localhost", "127.8.8.8"):
        with serve.bind(host, 0, keyed=False) as listener:
            assert serve.url_of(listener).startswith("http://127.")
    with pytest.raises(ConfigError):
        serve.bind("0.0.0.0", 0, keyed=False)


def test_an_address_of_version_6_is_written_as_urls_write_it() -> None:
    try:
        listener = serve.bind("::1", 0, keyed=False)
    except ListenError:
        pytest.skip("this machine has no IPv6")
    with listener:
        assert serve.url_of(listener).startswith("http://[::1]:")


# the log


async def test_with_v_requests_are_logged_and_secrets_are_masked(tmp_path: Path) -> None:
    with server_process(tmp_path, "-v", SPARKLIO_API_KEYS=KEY) as server:
        async with server.client() as client:
            await client.get(f"/nowhere?key={KEY}")
        assert server.stop() == 0
        assert "GET /nowhere?key=*** HTTP/1.1" in server.stderr
        assert KEY not in server.stderr


async def test_of_many_broken_requests_few_are_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving_app(make_app()) as client:
        for _ in range(20):
            assert b" 400 " in await told(client, b"\0\r\n\r\n")
        assert len(caplog.records) == 1
        monkeypatch.setattr(serve, "_SELDOM_S", 0.0)
        await told(client, b"\0\r\n\r\n")
    assert len(caplog.records) == 2
    assert "19 times" in caplog.records[1].getMessage()


async def told(client: httpx.AsyncClient, sent: bytes) -> bytes:
    """All that a connection gets to hear to its end; nothing where it is cut off."""
    reader, writer = await asyncio.open_connection(client.base_url.host, client.base_url.port)
    writer.write(sent)
    heard = b""
    with suppress(ConnectionError):
        heard = await reader.read()
    writer.close()
    return heard


# connections


_FEW_FILES = """
import resource, sys
from sparklio import cli
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 128))
sys.argv[1:] = ["serve", "--port", "0"]
cli.main()
"""


async def test_who_opens_more_connections_than_there_is_room_for_takes_nothing_down() -> None:
    with started(_FEW_FILES, err=subprocess.PIPE) as process, ExitStack() as opened:
        assert process.stdout is not None
        url = (await asyncio.to_thread(process.stdout.readline)).split()[-1]
        async with client_of(url) as client:
            kept = await client.get("/health")
            for _ in range(150):
                opened.enter_context(socket.create_connection((client.base_url.host, client.base_url.port)))
            await asyncio.sleep(1.2)  # asyncio tries again after a second
            assert kept.status_code == (await client.get("/health")).status_code == 200
            opened.close()
            async with client_of(url) as later:
                assert (await later.get("/health")).status_code == 200
        process.send_signal(signal.SIGTERM)
        _, err = await asyncio.to_thread(process.communicate)
    assert "64 connections are open" in err, "half of the 128 that it has allowed itself"
    assert len(err.splitlines()) == 1
    assert process.returncode == 0


async def test_above_the_most_connections_a_new_one_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "_most_connections", lambda: 2)
    async with serving_app(make_app()) as client, client_of(str(client.base_url)) as other:
        for one in (client, other):
            assert (await one.get("/patient?seconds=0")).status_code == 200
        assert await told(client, GET_AND_CLOSE) == b""
        for one in (client, other):
            assert (await one.get("/patient?seconds=0")).status_code == 200
        await other.aclose()
        await asyncio.sleep(0.05)
        assert b" 200 OK" in await told(client, GET_AND_CLOSE)


@pytest.mark.parametrize(
    ("limits", "allowed", "connections"),
    [
        ((64, 256), 256, 128),
        ((1_024, 4_096), 4_096, 3_840),
        ((1_024, 1_000_000), 65_536, 65_280),
        ((100_000, 1_000_000), 100_000, 99_744),
        ((1_024, resource.RLIM_INFINITY), 65_536, 65_280),
        ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), resource.RLIM_INFINITY, 65_280),
    ],
)
def test_it_allows_itself_many_files(
    limits: tuple[int, int], allowed: int, connections: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [limits]
    monkeypatch.setattr(resource, "getrlimit", lambda which: now[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda which, both: now.append(both))
    serve.allow_many_files()
    assert now[-1] == (allowed, limits[1])
    assert serve._most_connections() == connections


def make_app() -> FastAPI:
    app = FastAPI()
    app.state.settings = load_settings()
    app.state.begun, app.state.cleaned = asyncio.Event(), []

    async def events() -> AsyncIterator[dict[str, Any]]:
        try:
            while True:
                yield {"data": "tick"}
                app.state.begun.set()
                await asyncio.sleep(0.01)
        finally:
            app.state.cleaned.append("events")

    async def parts() -> AsyncIterator[bytes]:
        async for event in events():
            yield event["data"].encode()

    @app.get("/slow")
    async def slow() -> None:
        app.state.begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            app.state.cleaned.append("slow")

    @app.get("/patient")
    async def patient(seconds: float) -> dict[str, bool]:
        app.state.begun.set()
        await asyncio.sleep(seconds)
        return {"done": True}

    @app.get("/events")
    async def sse() -> EventSourceResponse:
        return EventSourceResponse(events())

    @app.get("/stream")
    async def stream() -> StreamingResponse:
        return StreamingResponse(parts())

    @app.get("/length")
    async def length() -> StreamingResponse:
        return StreamingResponse(parts(), headers={"content-length": "1000000000"})

    add_error_handlers(app)
    add_guards(app, app.state.settings)
    return app


async def stopped_meanwhile(app: FastAPI, path: str) -> httpx.Response:
    """The answer to a request during which the server stops; all of what it began is put away by then."""
    async with AsyncExitStack() as outlives:
        async with serving_app(app) as client:
            other = await outlives.enter_async_context(client_of(str(client.base_url)))
            asking = asyncio.create_task(other.get(path))
            await app.state.begun.wait()
        assert not app.state.requests.tasks
        return await asking


async def test_at_a_stop_who_waits_is_told_to_come_again() -> None:
    app = make_app()
    answer = await stopped_meanwhile(app, "/slow")
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "stopping"
    assert answer.json()["error"]["request_id"] == answer.headers["x-request-id"]
    assert answer.headers["retry-after"]
    assert app.state.cleaned == ["slow"]


@pytest.mark.parametrize("path", ["/events", "/stream"])
async def test_at_a_stop_streams_end(path: str, caplog: pytest.LogCaptureFixture) -> None:
    app = make_app()
    answer = await stopped_meanwhile(app, path)
    assert (answer.status_code, "tick" in answer.text) == (200, True)
    assert app.state.cleaned == ["events"]
    assert not caplog.records


async def test_at_a_stop_an_answer_of_fixed_length_is_seen_to_be_broken() -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        await stopped_meanwhile(make_app(), "/length")


async def test_at_a_stop_what_is_nearly_done_is_done() -> None:
    answer = await stopped_meanwhile(make_app(), "/patient?seconds=0.05")
    assert answer.json() == {"done": True}


async def test_an_application_can_be_served_again_after_its_stop() -> None:
    app = make_app()
    for _ in range(2):
        app.state.begun.clear()
        assert (await stopped_meanwhile(app, "/slow")).status_code == 503


async def test_without_guards_a_server_stops_too() -> None:
    app = FastAPI()

    @app.get("/slow")
    async def slow() -> None:
        await asyncio.Event().wait()

    async with serving_app(app) as client:
        _, writer = await asyncio.open_connection(client.base_url.host, client.base_url.port)
        writer.write(b"GET /slow HTTP/1.1\r\nhost: localhost\r\n\r\n")
        await asyncio.sleep(0.05)
    writer.close()


async def test_who_sends_nothing_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "_REQUEST_S", 0.1)
    app = make_app()
    async with serving_app(app) as client:
        for begun in (b"", b"GET /slow HTTP/1.1\r\nhost: loc", GET_PATIENT + b"GET /"):
            reader, writer = await asyncio.open_connection(client.base_url.host, client.base_url.port)
            writer.write(begun)
            async with asyncio.timeout(serve._KEEP_ALIVE_S / 2):  # else it is the idle connection's end
                left = await reader.read()
            assert (b'{"done":true}' in left) == begun.startswith(GET_PATIENT)
            writer.close()


async def test_what_is_left_of_a_request_that_was_answered_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "_REQUEST_S", 0.1)
    async with serving_app(make_app()) as client:
        async with asyncio.timeout(serve._KEEP_ALIVE_S / 2):
            left = await told(client, GET_PATIENT.replace(b"\r\n\r\n", b"\r\ncontent-length: 5\r\n\r\n"))
    assert b'{"done":true}' in left


GET_PATIENT = b"GET /patient?seconds=0.3 HTTP/1.1\r\nhost: localhost\r\n\r\n"
GET_AND_CLOSE = GET_PATIENT.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n")


async def test_an_answer_may_take_longer_than_its_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "_REQUEST_S", 0.05)
    async with serving_app(make_app()) as client:
        for _ in range(2):
            assert (await client.get("/patient?seconds=0.2")).json() == {"done": True}


async def test_a_file_is_sent_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 3_000_000)
    app = make_app()
    app.get("/file")(lambda: FileResponse(path))
    async with serving_app(app) as client:
        assert len((await client.get("/file")).content) == 3_000_000
        assert (await client.head("/file")).headers["content-length"] == "3000000"
