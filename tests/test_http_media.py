"""Images over HTTP while the client waits: whole and as events, once for a key, and stopped when the client leaves."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx
import pytest

from providers.media.comfyui import ComfyUIProvider
from providers.media.comfyui.watch import Patience
from routing import attempts
from routing.contracts import ImageRequest
from routing.image_store import image_id
from sparklio import Sparklio
from sparklio.server.routes.media import _EXAMPLES
from tests.faults import one_image_route, routed
from tests.serving import serving
from tests.standins.comfyui import ComfyUIStandIn
from tests.test_http_images import photo
from tests.test_http_llm import EVENTS, _ours, events_of
from tests.waiting import NEVER_S, until

GENERATE = "/api/v1/media/image/generate"
ASKED: dict[str, Any] = {
    "prompt": "a bottle on a table",
    "brand": {"name": "소리결"},
    "options": {"width": 128, "height": 128, "seed": 5},
}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "_BACKOFF", lambda state: 0)
    monkeypatch.setattr(ComfyUIProvider, "patience", Patience(poll_s=0.03, idle_queue_s=5))


@pytest.fixture
async def client(tmp_path: Path) -> AsyncGenerator[httpx.AsyncClient, None]:
    async with serving(tmp_path) as client:
        yield client


def with_options(**options: Any) -> dict[str, Any]:
    return {**ASKED, "options": {**ASKED["options"], **options}}


async def streamed(client: httpx.AsyncClient, asked: Any) -> list[tuple[str, Any]]:
    async with client.stream("POST", GENERATE, json=asked, headers=EVENTS) as response:
        assert response.status_code == 200
        return await events_of(response)


async def test_the_example_is_made_and_lies_at_its_address(client: httpx.AsyncClient, tmp_path: Path) -> None:
    response = await client.post(GENERATE, json=_EXAMPLES["image"]["value"])
    assert response.status_code == 200
    answer = response.json()
    assert set(answer) == {"provider", "images", "meta"}
    (image,) = answer["images"]
    assert image["url"] == f"/api/v1/images/{image['id']}"
    assert str(tmp_path) not in response.text
    assert image_id((await client.get(image["url"])).content) == image["id"]


async def test_a_stream_tells_the_steps_and_then_the_answer(client: httpx.AsyncClient) -> None:
    events = await streamed(client, ASKED)
    assert [kind for kind, _ in events] == ["progress"] * (len(events) - 1) + ["answer"]
    steps = [data for kind, data in events if kind == "progress"]
    assert steps == [{"step": step, "steps": len(steps), "attempt": 1} for step in range(1, len(steps) + 1)]
    plain = (await client.post(GENERATE, json=ASKED)).json()
    assert events[-1][1]["images"] == plain["images"]
    asked = with_options(stream=True)
    async with client.stream("POST", GENERATE, json=asked) as response:
        assert (await events_of(response))[-1][1]["images"] == plain["images"]


async def test_a_photo_that_was_uploaded_is_where_the_image_starts(client: httpx.AsyncClient) -> None:
    sent = (await client.post("/api/v1/uploads", files={"file": photo()})).json()
    plain = (await client.post(GENERATE, json=ASKED)).json()
    begun = await client.post(GENERATE, json=with_options(photo=sent["photo"]))
    assert begun.status_code == 200
    assert begun.json()["images"][0]["id"] != plain["images"][0]["id"]


@pytest.mark.parametrize(
    ("asked", "status", "code"),
    [
        (with_options(workflow="no_such_thing"), 404, "unknown_name"),
        (with_options(photo="0" * 32), 404, "unknown_name"),
        ({**ASKED, "provider": "nobody"}, 400, "unknown_name"),
        (with_options(workflow="../../etc/passwd"), 422, "bad_input"),
        ({**ASKED, "prompt": "\ud800"}, 422, "bad_input"),
        ({**ASKED, "brand": {"name": float("nan")}}, 422, "bad_input"),
        ({"job": True}, 422, "bad_input"),
        (with_options(idempotency_key=".."), 422, "bad_input"),
        ({**ASKED, "request_id": "-x"}, 422, "bad_input"),
    ],
)
async def test_what_cannot_be_made_is_said_at_once(
    client: httpx.AsyncClient, asked: dict[str, Any], status: int, code: str
) -> None:
    headers = {"content-type": "application/json"}
    for path in ("generate", "check"):
        response = await client.post(f"/api/v1/media/image/{path}", content=json.dumps(asked), headers=headers)
        assert (response.status_code, response.json()["error"]["code"]) == (status, code)


async def test_check_makes_nothing(client: httpx.AsyncClient, tmp_path: Path) -> None:
    response = await client.post("/api/v1/media/image/check", json=ASKED)
    assert (response.status_code, response.content) == (204, b"")
    assert not list(tmp_path.glob("images/*"))


async def test_fingerprints_are_those_of_the_python_api(client: httpx.AsyncClient, tmp_path: Path) -> None:
    response = await client.post("/api/v1/media/image/fingerprint", json={**with_options(stream=True), "job": True})
    async with Sparklio(home=tmp_path / "other") as studio:
        expected = await studio.gateways.media.fingerprint(ImageRequest.model_validate(ASKED))
    assert response.json() == {"fingerprint": dict(expected)}


async def test_a_failure_has_its_status_and_inside_a_stream_an_event(
    live: None, comfyui: ComfyUIStandIn, tmp_path: Path
) -> None:
    comfyui.checkpoints = ["other.safetensors"]
    config = {"SPARKLIO_CONFIG": str(routed(tmp_path, media_routing=one_image_route))}
    async with serving(tmp_path, **config) as client:
        response = await client.post(GENERATE, json={**ASKED, "request_id": "mine"})
        events = await streamed(client, {**ASKED, "request_id": "mine"})
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["request_id"]) == (502, "model_not_found", "mine")
    assert [(kind, data["error"]["code"], data["error"]["request_id"]) for kind, data in events] == [
        ("error", "model_not_found", "mine")
    ]


async def test_a_key_of_the_header_makes_one_image_over_a_failed_try(
    live: None, comfyui: ComfyUIStandIn, tmp_path: Path
) -> None:
    """The image of the first try is there when its client comes again: the key stands for one image."""
    comfyui.hold()
    key = {"Idempotency-Key": "picture"}
    async with serving(tmp_path) as client:
        asking = asyncio.create_task(client.post(GENERATE, json=ASKED, headers=key))
        await until(lambda: comfyui.running)
        asking.cancel()
        await asyncio.wait([asking])
        await until(lambda: not comfyui._sockets)
        comfyui.release()
        async with asyncio.timeout(NEVER_S):
            while (answer := await client.post(GENERATE, json=ASKED, headers=key)).status_code == 409:  # noqa: ASYNC110  # nothing tells
                await asyncio.sleep(0.01)
        again = await client.post(GENERATE, json=ASKED, headers=key)
    assert answer.status_code == 200
    assert again.content == answer.content
    assert len(comfyui.prompts) == 1


async def test_a_header_for_tracing_brings_back_no_old_image(
    live: None, comfyui: ComfyUIStandIn, tmp_path: Path
) -> None:
    async with serving(tmp_path) as client:
        for prompt in ("one", "another"):
            asked = {**ASKED, "prompt": prompt}
            response = await client.post(GENERATE, json=asked, headers={"X-Request-ID": "always-the-same"})
            assert response.json()["images"][0]["meta"]["prompt"] == prompt
    assert len(comfyui.prompts) == 2


async def test_a_key_of_the_options_makes_one_image(live: None, comfyui: ComfyUIStandIn, tmp_path: Path) -> None:
    async with serving(tmp_path) as client:
        answers = [await client.post(GENERATE, json=with_options(idempotency_key="k:1")) for _ in range(2)]
    assert answers[0].json()["images"] == answers[1].json()["images"]
    assert len(comfyui.prompts) == 1


_KEYS: list[tuple[dict[str, Any], dict[str, str]]] = [
    (with_options(idempotency_key="k"), {}),
    ({**ASKED, "request_id": "k"}, {}),
    (ASKED, {"Idempotency-Key": "k"}),
]


@pytest.mark.parametrize("events", [{}, EVENTS], ids=["whole", "events"])
@pytest.mark.parametrize(("asked", "key"), [(ASKED, {}), *_KEYS], ids=["none", "options", "request", "header"])
async def test_a_client_that_leaves_cancels_its_call(
    live: None,
    comfyui: ComfyUIStandIn,
    tmp_path: Path,
    asked: dict[str, Any],
    key: dict[str, str],
    events: dict[str, str],
) -> None:
    """And the image, unless it has a key by which somebody may come for it."""
    comfyui.hold()
    async with serving(tmp_path) as client:
        await client.post("/api/v1/media/image/fingerprint", json=ASKED)
        before = _ours()
        asking = asyncio.create_task(client.post(GENERATE, json=asked, headers=key | events))
        await until(lambda: comfyui.running)
        asking.cancel()
        await asyncio.wait([asking])
        await until(lambda: not comfyui._sockets and _ours() <= before)
        assert bool(comfyui.interrupts) == ((asked, key) == (ASKED, {}))
        comfyui.release()


async def test_a_service_that_cannot_be_told_holds_nobody_up(
    live: None,
    comfyui: ComfyUIStandIn,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def deaf(self: ComfyUIProvider, idempotency_key: str) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(ComfyUIProvider, "cancel", deaf)
    monkeypatch.setattr("sparklio.server.routes.media._STOPPED_WITHIN_S", 0.05)
    comfyui.hold()
    async with serving(tmp_path) as client:
        await client.post("/api/v1/media/image/fingerprint", json=ASKED)
        before = _ours()
        asking = asyncio.create_task(client.post(GENERATE, json=ASKED))
        await until(lambda: comfyui.running)
        asking.cancel()
        await asyncio.wait([asking])
        await until(lambda: "may be made all the same" in caplog.text)
        await until(lambda: _ours() <= before)
        comfyui.release()


async def test_cancel_stops_the_image_of_a_key(live: None, comfyui: ComfyUIStandIn, tmp_path: Path) -> None:
    comfyui.hold()
    asked = with_options(idempotency_key="k")
    async with serving(tmp_path) as client:
        asking = asyncio.create_task(client.post(GENERATE, json=asked))
        await until(lambda: comfyui.running)
        asking.cancel()
        await asyncio.wait([asking])
        response = await client.post("/api/v1/media/image/cancel", json=asked)
        assert response.status_code == 204
        await until(lambda: not comfyui.running)
    assert len(comfyui.prompts) == 1


@pytest.mark.parametrize("given", ["..", "-x", ".hidden"])
async def test_a_header_for_tracing_that_is_no_id_is_not_taken_for_one(client: httpx.AsyncClient, given: str) -> None:
    response = await client.post(GENERATE, json=ASKED, headers={"X-Request-ID": given})
    assert response.status_code == 200
    assert response.json()["meta"]["request_id"] != given
    for path in (f"jobs/%2E%2E{given}", f"jobs/{given}x"):
        assert (await client.get(f"/api/v1/media/{path}")).status_code in {404, 422}
