"""What stands before every route: names, keys, other web sites, sizes, headers, and failures in one form."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from starlette.responses import HTMLResponse, StreamingResponse

from providers.errors import ConfigError, QueueFullError
from routing.settings import load_settings
from sparklio.server import guards
from sparklio.server.errors import ERROR_ANSWERS, add_error_handlers
from sparklio.server.guards import add_guards
from tests.serving import serving_app

KEY, OTHER = "a-key-of-some-length", "another-key-of-ours"
EVIL = "https://evil.example"
JSON = {"content-type": "application/json"}
OWN_POLICY = "default-src 'none'; img-src data:"


def make_app(**settings: str) -> FastAPI:
    app = FastAPI(responses=ERROR_ANSWERS)
    app.state.settings = load_settings(settings)

    @app.get("/health")
    @app.get("/thing")
    async def thing(request: Request) -> dict[str, Any]:
        return {"request_id": request.state.request_id, "caller": getattr(request.state, "caller", None)}

    @app.post("/thing")
    async def take(body: dict[str, Any]) -> dict[str, int]:
        return {"keys": len(body)}

    @app.get("/own")
    async def own() -> HTMLResponse:
        return HTMLResponse("<p>", headers={"content-security-policy": OWN_POLICY, "cache-control": "private"})

    @app.get("/defect")
    async def defect() -> None:
        raise RuntimeError(f"the key is {KEY}")

    @app.get("/full")
    async def full() -> None:
        raise QueueFullError("no room", hint="wait", retry_after=7)

    @app.get("/ticks")
    async def ticks() -> StreamingResponse:
        return StreamingResponse(endless())

    @app.get("/half")
    async def half() -> StreamingResponse:
        return StreamingResponse(broken())

    add_error_handlers(app)
    add_guards(app, app.state.settings)
    return app


async def endless() -> AsyncIterator[bytes]:
    while True:
        yield b"tick\n"
        await asyncio.sleep(0.01)


async def broken() -> AsyncIterator[bytes]:
    yield b"half"
    raise RuntimeError("the other half is missing")


def from_afar(app: FastAPI, peer: str = "203.0.113.7") -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app, client=(peer, 4711)), base_url="http://127.0.0.1")


def error_of(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The error object of an answer that must have one."""
    assert answer.status_code == status, answer.text
    error: dict[str, Any] = answer.json()["error"]
    assert error["code"] == code
    assert error["message"]
    assert error["request_id"] == answer.headers["x-request-id"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert status in ERROR_ANSWERS
    return error


# request ids and headers


async def test_a_request_id_is_kept_if_it_is_plain() -> None:
    async with serving_app(make_app()) as client:
        for given in ("mine", "a.b:c-d_9", "x" * 100):
            answer = await client.get("/thing", headers={"x-request-id": given})
            assert answer.headers["x-request-id"] == answer.json()["request_id"] == given
        made = set()
        for given in ("", "x" * 101, "a b", "a/b", "né", "<p>"):
            answer = await client.get("/thing", headers={b"x-request-id": given.encode()})
            assert answer.headers["x-request-id"] == answer.json()["request_id"] != given
            made.add(answer.headers["x-request-id"])
        assert len(made) == 6


async def test_every_answer_has_the_security_headers() -> None:
    async with serving_app(make_app()) as client:
        for path in ("/thing", "/nowhere", "/defect", "/full"):
            check_headers((await client.get(path)).headers)
        check_headers((await client.get("/thing", headers={"host": "evil.example"})).headers)


def check_headers(headers: httpx.Headers) -> None:
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
    assert headers["cache-control"] == "no-store"
    assert "server" not in headers


async def test_a_route_s_own_policy_stands() -> None:
    async with serving_app(make_app()) as client:
        headers = (await client.get("/own")).headers
    assert headers.get_list("content-security-policy") == [OWN_POLICY]
    assert headers.get_list("cache-control") == ["private"]
    assert headers["x-frame-options"] == "DENY"


async def test_head_is_get_without_a_body() -> None:
    async with serving_app(make_app()) as client:
        got, head = await client.get("/thing", headers={"x-request-id": "a"}), None
        head = await client.head("/thing", headers={"x-request-id": "a"})
        gone = await client.head("/nowhere")
        again = await client.get("/thing")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == got.headers["content-length"]
    assert (gone.status_code, gone.content) == (404, b"")
    assert again.status_code == 200


async def test_head_of_a_stream_ends() -> None:
    app = make_app()
    async with serving_app(app) as client:
        head = await client.head("/ticks")
        if app.state.requests.tasks:
            await asyncio.wait(app.state.requests.tasks)
    assert (head.status_code, head.content) == (200, b"")


async def test_any_accept_is_fine() -> None:
    async with serving_app(make_app()) as client:
        assert (await client.get("/thing", headers={"accept": "application/x-nothing"})).status_code == 200


# failures


async def test_a_defect_tells_nothing_of_the_inside(caplog: pytest.LogCaptureFixture) -> None:
    async with serving_app(make_app()) as client:
        answer = await client.get("/defect")
    error_of(answer, 500, "internal")
    assert KEY not in answer.text
    assert [record.exc_info is not None for record in caplog.records if record.levelno >= logging.ERROR] == [True]


async def test_a_guard_s_own_defect_is_answered_as_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> bool:
        raise RuntimeError("a defect")

    monkeypatch.setattr(guards._Host, "_is_ours", fail)
    async with serving_app(make_app()) as client:
        error_of(await client.get("/thing"), 500, "internal")


async def test_an_answer_that_breaks_off_is_seen_to_be_broken() -> None:
    async with serving_app(make_app()) as client:
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get("/half")
        assert (await client.get("/thing")).status_code == 200


async def test_errors_of_routes_and_of_routing_have_one_form() -> None:
    async with serving_app(make_app()) as client:
        full = await client.get("/full")
        error_of(full, 429, "queue_full")
        error_of(await client.get("/nowhere"), 404, "not_found")
        error_of(await client.delete("/thing"), 405, "method_not_allowed")
        error_of(await client.post("/thing", content=b"{", headers=JSON), 400, "bad_request")
        error_of(await client.post("/thing", json=[1]), 422, "bad_input")
    assert full.headers["retry-after"] == "7"


# the Host header


async def test_loopback_names_are_ours() -> None:
    async with serving_app(make_app()) as client:
        for host in ("localhost", "LOCALHOST:8000", "localhost.", "127.0.0.1:1", "127.1.2.3", "[::1]", "[::1]:8000"):
            assert (await client.get("/thing", headers={"host": host})).status_code == 200, host


STRANGERS = """
evil.example evil.example:8000 localhost.evil.example 127.0.0.1.evil.example 0.0.0.0 10.0.0.1 localhost@evil.example
localhost:8000:1 [::2] [evil] : ü.example 2130706433 0x7f000001 127.1
"""


async def test_other_names_are_refused_against_rebinding() -> None:
    async with serving_app(make_app()) as client:
        for host in STRANGERS.split():
            for path in ("/thing", "/health"):
                answer = await client.get(path, headers={b"host": host.encode()})
                assert "SPARKLIO_ALLOWED_HOSTS" in error_of(answer, 400, "bad_request")["hint"], host


async def test_a_name_can_be_allowed_and_the_keys_hold_all_the_same() -> None:
    app = make_app(SPARKLIO_ALLOWED_HOSTS="Pages.example, other.example", SPARKLIO_API_KEYS=KEY)
    async with serving_app(app) as client:
        for host in ("pages.example", "OTHER.example:443"):
            error_of(await client.get("/thing", headers={"host": host}), 401, "unauthorized")
        error_of(await client.get("/thing", headers={"host": "x.pages.example"}), 400, "bad_request")


async def test_the_address_that_was_called_is_ours() -> None:
    transport = httpx.ASGITransport(make_app(SPARKLIO_API_KEYS=KEY), client=("203.0.113.7", 4711))
    async with httpx.AsyncClient(transport=transport, base_url="http://192.0.2.1:8000") as client:
        # httpx takes the server's address from the URL, as a server takes it from its socket
        assert (await client.get("/health")).status_code == 200
        error_of(await client.get("/health", headers={"host": "192.0.2.2"}), 400, "bad_request")


@pytest.mark.parametrize(
    ("server", "host"),
    [("[::ffff:192.0.2.1]", "192.0.2.1"), ("[2001:db8::1]", "[2001:DB8:0:0::1]"), ("[fe80::1%25eth0]", "[fe80::1]")],
)
async def test_an_address_can_be_written_in_many_ways(server: str, host: str) -> None:
    transport = httpx.ASGITransport(make_app(SPARKLIO_API_KEYS=KEY), client=("203.0.113.7", 4711))
    async with httpx.AsyncClient(transport=transport, base_url=f"http://{server}:8000") as client:
        assert (await client.get("/health", headers={"host": f"{host}:8000"})).status_code == 200
        for other in ("192.0.2.2", "[2001:db8::2]", "[::ffff:192.0.2.2]"):
            error_of(await client.get("/health", headers={"host": other}), 400, "bad_request")


# keys


async def test_one_of_the_keys_opens_and_nothing_else() -> None:
    async with serving_app(make_app(SPARKLIO_API_KEYS=f"{KEY},{OTHER}")) as client:
        for value in (f"Bearer {KEY}", f"bearer  {OTHER}", f"BEARER {KEY}"):
            assert (await client.get("/thing", headers={"authorization": value})).status_code == 200, value
        others = ["", KEY, "Bearer", f"Basic {KEY}", f"Bearer {KEY}x", f"Bearer {KEY[:-1]}", "Bearer ü"]
        for value in [*others, f"Bearer {KEY},{OTHER}", f"Bearer {KEY} {OTHER}"]:
            for method in ("GET", "POST", "DELETE"):
                answer = await client.request(method, "/thing", headers={b"authorization": value.encode("latin-1")})
                error_of(answer, 401, "unauthorized")
                assert answer.headers["www-authenticate"] == "Bearer"
                assert KEY not in answer.text


async def test_only_health_is_open_to_all() -> None:
    app = make_app(SPARKLIO_API_KEYS=KEY)
    async with from_afar(app) as client:
        assert (await client.get("/health")).status_code == 200
        for path in ("/health/", "/thing", "/openapi.json", "/nowhere", "//health", "/HEALTH", "/thing?/health"):
            error_of(await client.get(path), 401, "unauthorized")
        assert (await client.get("/thing", headers={"authorization": f"Bearer {KEY}"})).status_code == 200


async def test_callers_are_told_apart_and_no_key_is_passed_on() -> None:
    async with serving_app(make_app(SPARKLIO_API_KEYS=f"{KEY},{OTHER}")) as client:
        answers = [await client.get("/thing", headers={"authorization": f"Bearer {key}"}) for key in (KEY, OTHER, KEY)]
    callers = [answer.json()["caller"] for answer in answers]
    assert callers[0] == callers[2] != callers[1]
    assert not {KEY, OTHER} & set(callers)


@pytest.mark.parametrize("peer", ["203.0.113.7", "192.168.0.2", "::2", "::ffff:10.0.0.1", "testclient"])
async def test_without_keys_others_are_not_heard(peer: str) -> None:
    async with from_afar(make_app(), peer) as client:
        error = error_of(await client.get("/thing"), 401, "unauthorized")
    assert "SPARKLIO_API_KEYS" in error["hint"]


@pytest.mark.parametrize("peer", ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"])
async def test_without_keys_this_machine_is_heard(peer: str) -> None:
    async with from_afar(make_app(), peer) as client:
        assert (await client.get("/thing")).status_code == 200


# other web sites


ELSEWHERE = [
    {"origin": EVIL},
    {"origin": "null"},
    {"origin": ""},
    {"origin": "http://localhost:3000"},
    {"origin": "http://127.0.0.1.evil.example"},
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "cross-site", "sec-fetch-dest": "image"},
    {"origin": EVIL, "sec-fetch-site": "same-origin"},
]


async def test_pages_of_other_sites_are_refused_without_keys() -> None:
    async with serving_app(make_app()) as client:
        for headers in ELSEWHERE:
            for method in ("GET", "POST"):
                answer = await client.request(method, "/thing", headers=headers, content=b"{}")
                assert "SPARKLIO_CORS_ORIGINS" in error_of(answer, 401, "unauthorized")["hint"]
                assert "access-control-allow-origin" not in answer.headers


async def test_our_own_pages_and_followed_links_are_heard() -> None:
    async with serving_app(make_app()) as client:
        own = str(client.base_url).rstrip("/")
        for headers in ({"origin": own}, {"sec-fetch-site": "same-origin"}, {"sec-fetch-site": "none"}):
            assert (await client.post("/thing", headers=headers, json={})).status_code == 200
        link = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
        assert (await client.get("/thing", headers=link)).status_code == 200
        error_of(await client.post("/thing", headers=link, json={}), 401, "unauthorized")


async def test_with_keys_the_key_alone_decides() -> None:
    async with serving_app(make_app(SPARKLIO_API_KEYS=KEY)) as client:
        headers = {"origin": EVIL, "sec-fetch-site": "cross-site", "authorization": f"Bearer {KEY}"}
        answer = await client.get("/thing", headers=headers)
    assert answer.status_code == 200
    assert "access-control-allow-origin" not in answer.headers


def preflight(origin: str, method: str = "POST", asked: str = "authorization, idempotency-key") -> dict[str, str]:
    return {
        "origin": origin,
        "access-control-request-method": method,
        "access-control-request-headers": asked,
    }


async def test_cors_is_off_unless_configured() -> None:
    async with serving_app(make_app(SPARKLIO_API_KEYS=KEY)) as client:
        answer = await client.options("/thing", headers=preflight(EVIL))
    error_of(answer, 401, "unauthorized")
    assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize("keys", [{}, {"SPARKLIO_API_KEYS": KEY}])
async def test_configured_origins_may_call(keys: dict[str, str]) -> None:
    app = make_app(SPARKLIO_CORS_ORIGINS="https://shop.example, https://cms.example", **keys)
    own = {"authorization": f"Bearer {KEY}"} if keys else {}
    async with serving_app(app) as client:
        for origin in ("https://shop.example", "https://cms.example"):
            asked = await client.options("/thing", headers=preflight(origin))
            assert asked.status_code == 200
            assert asked.headers["access-control-allow-origin"] == origin
            done = await client.post(
                "/thing", headers={"origin": origin, "sec-fetch-site": "cross-site", **own}, json={}
            )
            assert done.status_code == 200
            assert done.headers["access-control-allow-origin"] == origin
            assert {"x-request-id", "retry-after", "location"} <= {
                name.strip().lower() for name in done.headers["access-control-expose-headers"].split(",")
            }
            assert "access-control-allow-credentials" not in done.headers
        refused = await client.options("/thing", headers=preflight(EVIL))
        assert refused.status_code == 400
        assert "access-control-allow-origin" not in refused.headers
        if not keys:
            error_of(await client.post("/thing", headers={"origin": EVIL}, json={}), 401, "unauthorized")


async def test_a_page_can_read_why_it_was_refused() -> None:
    app = make_app(SPARKLIO_CORS_ORIGINS="https://shop.example", SPARKLIO_API_KEYS=KEY)
    async with serving_app(app) as client:
        answer = await client.get("/thing", headers={"origin": "https://shop.example"})
    error_of(answer, 401, "unauthorized")
    assert answer.headers["access-control-allow-origin"] == "https://shop.example"


async def test_every_origin_needs_keys() -> None:
    for origins in ("*", "null", "https://shop.example, null"):  # any page can make itself one of origin null
        with pytest.raises(ConfigError) as refused:
            make_app(SPARKLIO_CORS_ORIGINS=origins)
        assert "SPARKLIO_API_KEYS" in refused.value.hint
    make_app(SPARKLIO_CORS_ORIGINS="null", SPARKLIO_API_KEYS=KEY)
    async with serving_app(make_app(SPARKLIO_CORS_ORIGINS="*", SPARKLIO_API_KEYS=KEY)) as client:
        answer = await client.get("/thing", headers={"origin": EVIL, "authorization": f"Bearer {KEY}"})
    assert answer.headers["access-control-allow-origin"] == "*"
    assert "access-control-allow-credentials" not in answer.headers


# sizes

LIMIT = 1000
FITS = json.dumps({"a": "x" * (LIMIT - len('{"a": ""}'))}).encode()


async def in_parts(content: bytes, size: int = 65_536) -> AsyncIterator[bytes]:
    for start in range(0, len(content), size):
        yield content[start : start + size]


def limited() -> FastAPI:
    return make_app(SPARKLIO_MAX_BODY_MB=str(LIMIT / 1_000_000))


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_of_the_limit_fits_and_one_byte_more_does_not(chunked: bool) -> None:
    async with serving_app(limited()) as client:
        for content, status in ((FITS, 200), (FITS + b" ", 413), (FITS * 3000, 413), (FITS, 200)):
            answer = await client.post("/thing", headers=JSON, content=in_parts(content) if chunked else content)
            assert answer.status_code == status
            if status == 413:
                assert "SPARKLIO_MAX_BODY_MB" in error_of(answer, 413, "too_large")["hint"]


@pytest.mark.parametrize("chunked", [False, True])
async def test_the_connection_can_be_used_after_a_refusal(chunked: bool) -> None:
    async with serving_app(limited()) as client:
        reader, writer = await asyncio.open_connection(client.base_url.host, client.base_url.port)
        content = FITS * 3
        length = b"transfer-encoding: chunked" if chunked else b"content-length: %d" % len(content)
        body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(content), content) if chunked else content
        writer.write(b"POST /thing HTTP/1.1\r\nhost: localhost\r\n%s\r\n\r\n%s" % (length, body))
        assert await status_of(reader) == 413
        writer.write(b"GET /thing HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert await status_of(reader) == 200
        writer.close()


async def test_a_declared_length_is_refused_before_its_body_comes() -> None:
    async with serving_app(limited()) as client:
        reader, writer = await asyncio.open_connection(client.base_url.host, client.base_url.port)
        writer.write(b"POST /thing HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\ncontent-length: 1001\r\n\r\n")
        assert await status_of(reader) == 413
        writer.close()


async def test_who_does_not_finish_a_body_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guards, "_CHUNK_S", 0.05)
    async with serving_app(limited()) as client:
        reader, writer = await asyncio.open_connection(client.base_url.host, client.base_url.port)
        writer.write(b"POST /thing HTTP/1.1\r\nhost: localhost\r\ncontent-length: 10\r\n\r\n{")
        assert await status_of(reader) == 408
        writer.close()


UNSENT = b" /thing HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"


async def test_a_body_in_drips_is_ended_and_its_connection_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guards, "_BODY_S", 0.2)
    async with serving_app(limited()) as client:
        reader, writer = await asyncio.open_connection(client.base_url.host, client.base_url.port)
        writer.write(b"POST" + UNSENT % 100)
        dripping = asyncio.create_task(drip(writer, b" " * 100))
        answer = await reader.readuntil(b"}}")
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"connection: close" in answer.lower()
        assert b'"too_slow"' in answer
        with suppress(ConnectionError):  # as drips may have met the end
            assert await reader.read() == b""
        dripping.cancel()
        writer.close()


async def test_a_body_that_comes_steadily_gets_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guards, "_BODY_S", 0.2)
    monkeypatch.setattr(guards, "_BODY_PER_S", 10)  # one byte in 10 ms is ten times as fast
    async with serving_app(limited()) as client:
        reader, writer = await asyncio.open_connection(client.base_url.host, client.base_url.port)
        body = b"{}".rjust(40)
        writer.write(b"POST" + UNSENT % len(body))
        await drip(writer, body)
        assert await status_of(reader) == 200
        writer.close()


async def drip(writer: asyncio.StreamWriter, body: bytes) -> None:
    for byte in body:
        writer.write(bytes([byte]))
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("sent", [b"", b"x" * (LIMIT + 1)])
async def test_a_stream_whose_request_is_late_or_too_large_ends_in_peace(
    sent: bytes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(guards, "_CHUNK_S", 0.1)
    app = limited()
    async with serving_app(app) as client:
        reader, writer = await asyncio.open_connection(client.base_url.host, client.base_url.port)
        writer.write(b"GET /ticks HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n")
        await reader.readuntil(b"tick\n")
        if sent:
            writer.write(b"%x\r\n%s\r\n" % (len(sent), sent))
        await reader.readuntil(b"\r\n0\r\n\r\n")
        assert not app.state.requests.tasks
        writer.close()
    assert not caplog.records


async def status_of(reader: asyncio.StreamReader) -> int:
    """The status of the next answer, which is read to its end."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    length = next(line for line in head.splitlines() if line.startswith("content-length:"))
    await reader.readexactly(int(length.partition(":")[2]))
    return int(head.split()[1])
