"""Images over HTTP against a real server: jobs that go on, files that travel, photos that go before."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from providers.errors import JobError, MalformedAnswerError, QueueFullError, UnknownNameError
from routing.budget import Budget
from routing.clients import MediaGatewayClient
from routing.contracts import ImageAnswer, Progress
from routing.gateways import build_gateways
from routing.image_store import ImageStore, image_id
from routing.media_gateway import MediaGateway
from routing.settings import load_settings
from tests.gateway_clients import (
    READY,
    Script,
    be_quick,
    media_client,
    photo,
    raising,
    scripting,
    untimed,
    wished,
)
from tests.serving import serving
from tests.waiting import until


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Script:
    return scripting(monkeypatch)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    be_quick(monkeypatch)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[str]:
    async with serving(tmp_path / "server") as client:
        yield str(client.base_url)


async def test_an_image_is_the_one_that_the_gateway_in_process_makes(server: str, tmp_path: Path) -> None:
    own = build_gateways(load_settings({"SPARKLIO_HOME": str(tmp_path / "own")}))
    request, heard = wished(), list[Progress]()
    expected = await own.media.generate_image(request)
    async with media_client(server, tmp_path / "mine") as client:
        answer = await client.generate_image(request, heard.append)
        assert await client.fingerprint(request) == await own.media.fingerprint(request)
        await client.check(request)
        assert client.goes_on(request)
    assert untimed(answer) == untimed(expected)
    path = client.store.path(answer.images[0].id)
    assert answer.images[0].url == path.as_uri()
    assert image_id(path.read_bytes()) == expected.images[0].id
    assert heard
    assert {one.kind for one in heard} == {"image"}


@pytest.fixture
def makers(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Images wait until ``makers["go"]`` is set; ``makers["made"]`` counts the calls."""
    state: dict[str, Any] = {"made": 0, "go": asyncio.Event(), "stopped": 0}
    real = MediaGateway.generate_image

    async def generate(self: MediaGateway, *rest: Any, **more: Any) -> ImageAnswer:
        state["made"] += 1
        try:
            await state["go"].wait()
        except asyncio.CancelledError:
            state["stopped"] += 1
            raise
        return await real(self, *rest, **more)

    monkeypatch.setattr(MediaGateway, "generate_image", generate)
    return state


async def test_an_image_goes_on_without_its_client_and_is_found_again(
    server: str, tmp_path: Path, makers: dict[str, Any]
) -> None:
    async with media_client(server, tmp_path / "mine") as client:
        first = asyncio.create_task(client.generate_image(wished(idempotency_key="run:1"), budget=Budget(3)))
        await until(lambda: makers["made"])
        first.cancel()
        await asyncio.wait((first,))
        makers["go"].set()
        again = wished(idempotency_key="run:1")
        answer = await client.generate_image(again, budget=Budget(2))
    assert makers == makers | {"made": 1, "stopped": 0}
    assert answer.meta.request_id == again.request_id


async def test_an_image_that_is_cancelled_ends_for_whoever_waits_for_it(
    server: str, tmp_path: Path, makers: dict[str, Any]
) -> None:
    request = wished(idempotency_key="run:1")
    async with media_client(server, tmp_path / "mine") as client:
        waiting = asyncio.create_task(client.generate_image(request))
        await until(lambda: makers["made"])
        await client.cancel(request)
        with pytest.raises(JobError, match="cancelled"):
            await waiting
        makers["go"].set()
        assert (await client.generate_image(request)).images  # begun again
    assert makers["stopped"] == 1


async def test_a_failed_image_is_made_anew_when_it_is_asked_for_again(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(MediaGateway, "generate_image", raising(JobError("black", provider="someone", hint="again")))
        async with media_client(server, tmp_path / "mine") as client:
            with pytest.raises(JobError, match="black"):
                await client.generate_image(wished(idempotency_key="run:1"))
    async with media_client(server, tmp_path / "mine") as client:
        assert (await client.generate_image(wished(idempotency_key="run:1"))).images


def _job(status: str, **more: Any) -> httpx.Response:
    return httpx.Response(200 if more else 202, json={"job_id": "k", "status": status, **more})


LOST = httpx.Response(404, json=UnknownNameError("job", "k", (), hint="order it again").to_dict())


async def test_a_lost_job_is_ordered_again_under_the_same_key(scripted: Script, tmp_path: Path) -> None:
    own = build_gateways(load_settings({"SPARKLIO_HOME": str(tmp_path / "own")}))
    answer = await own.media.generate_image(wished())
    content, media_type = own.media.store.read(answer.images[0].id)  # type: ignore[attr-defined]
    damaged = httpx.Response(200, content=content[:-1], headers={"content-type": media_type})
    whole = httpx.Response(200, content=content, headers={"content-type": media_type})
    done = _job("succeeded", version=4, answer=answer.model_dump(mode="json"))
    step = {"step": 1, "steps": 4}
    running = _job("running", version=2, progress=step)
    got = scripted(
        READY, _job("queued"), running, running, LOST, _job("queued"), httpx.ReadError(""), done, damaged, whole
    )
    heard: list[Progress] = []
    client = MediaGatewayClient("http://gateway", store=ImageStore(tmp_path / "mine"))
    made = await client.generate_image(wished(idempotency_key="k"), heard.append)
    assert client.store.read(made.images[0].id) == (content, media_type)
    assert [request.method for request in got] == [
        "GET",
        "POST",
        "GET",
        "GET",
        "GET",
        "POST",
        "GET",
        "GET",
        "GET",
        "GET",
    ]
    assert [dict(request.url.params) for request in got[2:4]] == [{}, {"wait_s": "20", "seen": "2"}]
    assert heard == [Progress(kind="image", step=1, steps=4)]


async def test_a_job_that_is_lost_again_and_again_fails(scripted: Script, tmp_path: Path) -> None:
    scripted(READY, *(_job("queued"), LOST) * 3)
    with pytest.raises(JobError, match="lost the image 3 times"):
        await MediaGatewayClient("http://gateway", store=ImageStore(tmp_path)).generate_image(wished())


@pytest.mark.parametrize("name", ["../../etc/passwd", "x" * 32, ""])
async def test_an_image_of_no_id_is_not_fetched(name: str, scripted: Script, tmp_path: Path) -> None:
    own = build_gateways(load_settings({"SPARKLIO_HOME": str(tmp_path / "own")}))
    answer = await own.media.generate_image(wished())
    answer.images[0].id = name
    got = scripted(READY, _job("queued"), _job("succeeded", version=2, answer=answer.model_dump(mode="json")))
    with pytest.raises(MalformedAnswerError):
        await MediaGatewayClient("http://gateway", store=ImageStore(tmp_path / "m")).generate_image(wished())
    assert len(got) == 3


async def test_a_full_queue_is_waited_for(scripted: Script, tmp_path: Path) -> None:
    full = httpx.Response(429, json=QueueFullError("full", hint="wait", retry_after=0).to_dict())
    failed = JobError("black", provider="someone", hint="again").to_dict()["error"]
    got = scripted(READY, full, full, _job("queued"), _job("failed", version=2, error=failed))
    with pytest.raises(JobError, match="black"):
        await MediaGatewayClient("http://gateway", store=ImageStore(tmp_path)).generate_image(wished())
    assert len(got) == 5


def with_comment() -> bytes:
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("Comment", "what the server drops")
    return photo(pnginfo=info)


@pytest.mark.parametrize("content", [photo(), with_comment()], ids=["as it is", "encoded anew"])
async def test_a_photo_is_sent_before_the_image_that_starts_from_it(content: bytes, tmp_path: Path) -> None:
    async with serving(tmp_path / "server") as served, media_client(str(served.base_url), tmp_path / "mine") as client:
        there = ImageStore(tmp_path / "server" / "images")
        mine = client.store.save(content)
        request = wished(photo=mine)
        await client.check(request)
        (stored,) = there.folder.iterdir()
        assert (stored.stem == mine) == (content == photo())
        assert (await client.generate_image(request)).images
        stored.unlink()  # as prune does with what no run names
        assert (await client.generate_image(wished(photo=mine, idempotency_key="2"))).images
        assert stored.exists()


async def test_a_photo_that_nobody_has_is_refused(server: str, tmp_path: Path) -> None:
    async with media_client(server, tmp_path / "mine") as client:
        for ask in (client.check, client.generate_image):
            with pytest.raises(UnknownNameError, match="photo"):
                await ask(wished(photo="0" * 32))
