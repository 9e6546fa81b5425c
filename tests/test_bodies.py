"""Bodies of JSON are bounded before they are parsed, for all others wait meanwhile."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from sparklio.server import bodies
from sparklio.server.bodies import DEEPEST, LARGEST, MOST, check_json
from tests.serving import serving

GENERATE = "/api/v1/llm/generate"
JSON = {"content-type": "application/json"}


@pytest.fixture
async def client(tmp_path: Path) -> AsyncGenerator[httpx.AsyncClient, None]:
    async with serving(tmp_path) as client:
        yield client


def asking(payload: str) -> bytes:
    return f'{{"role": "a", "task": "b", "payload": {payload}}}'.encode()


@pytest.mark.parametrize(
    "payload", ["[" + "{}," * MOST + "0]", "[" * 1000 + ",".join("0" for _ in range(MOST)) + "]" * 1000]
)
async def test_many_values_are_refused_before_they_are_parsed(
    client: httpx.AsyncClient, payload: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> Any:
        raise AssertionError("it was parsed")

    with monkeypatch.context() as parsing:
        parsing.setattr(json, "loads", never)
        response = await client.post(GENERATE, content=asking(payload), headers=JSON)
    assert (response.status_code, response.json()["error"]["code"]) == (422, "bad_input")
    assert "100,000 values" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    "text", ["," * MOST * 2, '{"a": [1, 2]},' * MOST, '\\",[' * MOST * 2], ids=["commas", "json", "quotes"]
)
async def test_a_text_may_hold_any_signs(client: httpx.AsyncClient, text: str) -> None:
    response = await client.post("/api/v1/llm/fingerprint", content=asking(json.dumps(text)), headers=JSON)
    assert response.status_code == 200


@pytest.mark.parametrize("sign", ['"', '"\\', '\\"', "\\"])
async def test_what_is_no_json_at_all_is_told_soon(client: httpx.AsyncClient, sign: str) -> None:
    """Strings that never end would make a careless look at them quadratic: hours, for these."""
    body = asking("[" + "," * (MOST - 10) + '"' + sign * 1_000_000)
    response = await client.post(GENERATE, content=body, headers=JSON)
    assert response.status_code in {400, 422}


@pytest.mark.parametrize("path", [GENERATE, "/api/v1/media/image/generate"])
@pytest.mark.parametrize("chunked", [False, True])
async def test_json_is_smaller_than_uploads_may_be(client: httpx.AsyncClient, path: str, chunked: bool) -> None:
    body = asking(json.dumps("x" * LARGEST))

    async def parts() -> AsyncIterator[bytes]:
        yield body

    response = await client.post(path, content=parts() if chunked else body, headers=JSON)
    assert (response.status_code, response.json()["error"]["code"]) == (413, "too_large")
    assert "4 MB" in response.json()["error"]["message"]


def test_as_much_as_may_be_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "MOST", 10)
    fits: list[Any] = [[0] * 9, {"a": 1, "b": 2, "c": [1, 2]}, [[]] * 9]
    for value in fits:
        assert check_json(value) == value
    exceeds: list[Any] = [[0] * 10, {"a": 1, "b": 2, "c": [1, 2, 3, 4]}, [[]] * 10]
    for value in exceeds:
        with pytest.raises(ValueError, match="10 values"):
            check_json(value)


def test_levels_are_counted() -> None:
    deep: Any = 0
    for _ in range(DEEPEST):
        deep = [deep]
    assert check_json(deep) == deep
    with pytest.raises(ValueError, match="64 levels"):
        check_json({"a": deep})
