"""The HTTP API held against its own description, by requests that nobody would think of.

schemathesis sends a real server what the description allows and what it forbids; ``SCHEMATHESIS_EXAMPLES=200`` makes
the search longer. Then come bodies, paths and methods that no description speaks of.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.serving import ServerProcess, server_process, serving
from tests.test_openapi import Operation, operations, problem, undocumented

pytestmark = pytest.mark.no_cover

EXAMPLES = os.environ.get("SCHEMATHESIS_EXAMPLES", "3")
"""Of fuzzing, for each operation; the other phases have as many as the description gives rise to."""
KEY = "0123456789abcdef"
PHASES = ("Examples", "Coverage", "Fuzzing", "Stateful")
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "unsupported_method",
    "allow_header_conformance",
    "ignored_auth",
)
"""Not ``positive_data_acceptance``: whether a run, a provider or a cursor exists, a schema cannot say."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    with server_process(tmp_path / "home", GENERATOR_MODE="mock", SPARKLIO_API_KEYS=KEY) as server:
        yield server


def body_of(operation: Operation) -> dict[str, Any]:
    """The first example of an operation's body; of one whose schema alone has examples, nothing."""
    told = operation["requestBody"]["content"]["application/json"].get("examples", {"": {"value": {}}})
    body: dict[str, Any] = next(iter(told.values()))["value"]
    return body


def named(openapi: dict[str, Any], name: str) -> tuple[str, Operation]:
    """An operation, and its path with the examples' ids."""
    [(path, found)] = [(path, one) for path, _, one in operations(openapi) if one["operationId"] == name]
    return filled(path, found), found


def filled(path: str, operation: Operation) -> str:
    for one in operation.get("parameters", ()):
        path = path.replace(f"{{{one['name']}}}", str(one["example"]))
    return path


async def make_the_examples_true(client: httpx.AsyncClient) -> dict[str, Any]:
    """Have the run, its rerun and the job of which the examples speak; the description itself."""
    openapi: dict[str, Any] = (await client.get("/openapi.json")).json()
    runs, start = named(openapi, "start_run")
    events, follow = named(openapi, "follow_run")
    images, draw = named(openapi, "generate_image")
    [run_id] = [one["example"] for one in follow["parameters"] if one["name"] == "run_id"]
    [job_id] = [one["example"] for one in named(openapi, "get_job")[1]["parameters"] if one["name"] == "job_id"]
    answers = [
        await client.post(runs, json=body_of(start) | {"run_id": run_id}),
        await client.get(events),
        await client.post(named(openapi, "rerun_run")[0], json={"start_at": "copywriter"}),
        await client.get(events.replace(run_id, f"{run_id}.2")),
        await client.post(images, json=body_of(draw) | {"job": True, "options": {"idempotency_key": job_id}}),
    ]
    assert [answer.status_code for answer in answers] == [202, 200, 202, 200, 202]
    return openapi


async def test_the_description_is_true(server: ServerProcess, tmp_path: Path) -> None:
    """No server error, no answer that is not described, no request let in that the description forbids."""
    async with server.client() as client:
        openapi = await make_the_examples_true(client)
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/openapi.json", "--no-color"]
    command += ["--header", f"Authorization: Bearer {KEY}", "--checks", ",".join(CHECKS), "--warnings", "off"]
    command += ["--generation-deterministic", "--max-examples", EXAMPLES]
    command += ["--request-timeout", "60", "--continue-on-failure"]
    run = partial(subprocess.run, cwd=tmp_path, capture_output=True, text=True, check=False)
    done = await asyncio.to_thread(run, command)
    told = done.stdout[-20_000:] + done.stderr[-5_000:]
    assert done.returncode == 0, told
    assert f"Tested: {len(list(operations(openapi)))}" in done.stdout, told
    assert [phase for phase in PHASES if not re.search(rf"✅ +{phase}\b", done.stdout)] == [], told
    assert "Traceback" not in server.stderr
    assert "socket.send" not in server.stderr, "something was sent to a client that had left"


# What no description speaks of

VALUES = {
    "half a character": r'"\ud800"',
    "half a character as a key": r'{"\udfff": 1}',
    "NUL": r'"\u0000"',
    "NUL in a key": r'{"\u0000": 1}',
    "a raw NUL": '"\0"',
    "NaN": "NaN",
    "infinity": "-Infinity",
    "a number beyond floats": "1e999",
    "65 bits": "36893488147419103232",
    "400 digits": "9" * 400,
    "5,000 digits": "9" * 5_000,
    "65 levels": "[" * 65 + "]" * 65,
    "900 levels": '{"a":' * 900 + "1" + "}" * 900,
    "100,000 levels": "[" * 100_000 + "]" * 100_000,
    "a key twice": '{"a": 1, "a": [1]}',
    "a long text": '"' + "x" * 100_000 + '"',
    "terminal control": r'"\u001b[2J\u202e"',
    "its own class": '{"__class__": "x", "constructor": {}, "$ref": "#"}',
}
"""As JSON, or as what somebody takes for it."""
REFUSED = {name for name in VALUES if name.startswith("half") or "levels" in name} | {
    "a raw NUL",
    "NaN",
    "infinity",
    "a number beyond floats",
    "5,000 digits",
}
"""What is no JSON, or could not be written as JSON again: of no use to anybody."""
PLACES: dict[str, tuple[str, ...]] = {
    "generate_text": ("payload",),
    "fingerprint_text": ("payload",),
    "generate_image": ("brand", "name"),
    "fingerprint_image": ("brand", "name"),
    "check_image": ("brand", "name"),
    "cancel_image": ("brand", "name"),
    "debug_generate": ("prompt",),
    "start_run": ("product", "facts", "x"),
    "rerun_run": ("changes", "brief.target"),
}
"""Where an operation's body takes the freest values."""
BODIES = {
    "nothing": b"",
    "a blank": b" ",
    "no JSON": b"{",
    "null": b"null",
    "a number": b"7",
    "a text": b'"x"',
    "a list": b"[]",
    "no UTF-8": b'{"role": "\xff\xfe"}',
    "a long word": json.dumps({"role": "x" * 100_000, "task": "x", "prompt": "x"}).encode(),
}
CODINGS = ("utf-8-sig", "utf-16", "utf-32", "cp949")
KINDS = (
    "",
    "text/plain",
    "application/x-www-form-urlencoded",
    "multipart/form-data",
    "multipart/form-data; boundary=x",
    "application/json; charset=utf-16",
    "application/vnd.api+json",
    "application/octet-stream",
    "nonsense",
)


def requests_of(operation: Operation) -> Iterator[tuple[str, bytes, str]]:
    """What to send to an operation: a name, a body and its content type."""
    json_type = "application/json"
    yield from ((name, body, json_type) for name, body in BODIES.items())
    if json_type in operation["requestBody"]["content"]:
        good = with_value(body_of(operation), PLACES[operation["operationId"]], '"가"')
        yield from ((coding, good.encode(coding), json_type) for coding in CODINGS)
        yield from ((kind, good.encode(), kind) for kind in KINDS)
        for name, value in VALUES.items():
            yield name, with_value(body_of(operation), PLACES[operation["operationId"]], value).encode(), json_type
    else:
        yield from ((kind, b"--x\r\n", kind) for kind in KINDS)


def with_value(body: dict[str, Any], place: tuple[str, ...], value: str) -> str:
    """The body as JSON, with ``value`` as it is at ``place``."""
    changed = json.loads(json.dumps(body))
    inner = changed
    for key in place[:-1]:
        inner = inner.setdefault(key, {})
    inner[place[-1]] = "here"
    return json.dumps(changed, ensure_ascii=False).replace('"here"', value)


def wrong_with(openapi: dict[str, Any], operation: Operation, answer: httpx.Response) -> str | None:
    """Beside what is not described: a failure of the server, which has no reason to fail here."""
    return "a server error" if answer.status_code >= 500 else undocumented(openapi, operation, answer)


async def test_bodies_that_are_none_are_answered_as_described(tmp_path: Path) -> None:
    """Runs and jobs that some of them start may fail by themselves."""
    wrong: dict[str, str] = {}
    async with serving(tmp_path, GENERATOR_MODE="mock") as client:
        openapi = await make_the_examples_true(client)
        for path, method, operation in operations(openapi):
            for name, body, kind in requests_of(operation) if "requestBody" in operation else ():
                headers = {"content-type": kind} if kind else {}
                answer = await client.request(method, filled(path, operation), content=body, headers=headers)
                found = wrong_with(openapi, operation, answer)
                if found or (name in REFUSED and answer.status_code < 400):
                    wrong[f"{method} {path}: {name}"] = f"{found or 'taken'}: {answer.text[:300]}"
    assert not wrong


IDS = {
    "a slash": "%2F",
    "a slash and more": "a%2Fevents",
    "two dots": "%2E%2E",
    "the way up": "..%2F..%2Fetc%2Fpasswd",
    "a backslash": "..%5C..",
    "NUL": "a%00b",
    "a line end": "a%0Ab",
    "a blank": "%20",
    "no UTF-8": "%FF%FE",
    "half an escape": "%",
    "other digits": "%EF%BC%91",
    "Korean": "%ED%95%9C%EA%B8%80",
    "300 characters": "a" * 300,
    "5,000 characters": "a" * 5_000,
    "a drive": "C:",
    "a parameter": "a;b=c",
    "the name of a column": "__class__",
}


async def test_ids_that_are_none_are_answered_as_described(tmp_path: Path) -> None:
    """Where the server takes a slash in an id for one in the path, there is nothing at that path."""
    wrong: dict[str, str] = {}
    async with serving(tmp_path, GENERATOR_MODE="mock") as client:
        openapi = await make_the_examples_true(client)
        for path, method, operation in operations(openapi):
            for hole in re.findall(r"{\w+}", path):
                for name, value in IDS.items():
                    raw = filled(path.replace(hole, value), operation).encode()
                    answer = await client.request(method, client.base_url.copy_with(raw_path=raw))
                    if found := wrong_with(openapi, operation, answer):
                        wrong[f"{method} {path}: {name}"] = f"{found}: {answer.text[:300]}"
    assert not wrong


async def test_other_methods_and_slashes_are_refused_in_the_one_form(tmp_path: Path) -> None:
    async with serving(tmp_path, GENERATOR_MODE="mock") as client:
        openapi = await make_the_examples_true(client)
        error = openapi["components"]["schemas"]["ErrorBody"]
        for path, methods in openapi["paths"].items():
            known = {method.upper() for method in methods} | ({"HEAD"} if "get" in methods else set())
            url = filled(path, next(iter(methods.values())))
            for method in ("OPTIONS", "PUT", "PATCH", "DELETE", "TRACE", "BREW", "HEAD"):
                if method in known:
                    continue
                answer = await client.request(method, url)
                assert answer.status_code == 405, f"{method} {path}"
                assert set(answer.headers["allow"].split(", ")) == known
                assert method == "HEAD" or problem(openapi, error, answer.json()) is None
            answer = await client.get(f"{url}/")
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found"), path


async def test_head_is_get_without_the_body(tmp_path: Path) -> None:
    async with serving(tmp_path, GENERATOR_MODE="mock") as client:
        openapi = await make_the_examples_true(client)
        for path, method, operation in operations(openapi):
            if method == "get":
                url = filled(path, operation)
                got, head = await client.get(url), await client.head(url)
                assert (head.status_code, head.content) == (got.status_code, b""), path
                assert head.headers.get("content-type") == got.headers.get("content-type"), path
