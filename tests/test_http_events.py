"""Following a run over HTTP: from any point, by any number, and without anything changing for the run."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from sparklio import Sparklio
from tests.serving import serving
from tests.standins.comfyui import ComfyUIStandIn
from tests.test_http_runs import RUNS, code, ended, finished, start
from tests.waiting import until

Told = list[dict[str, str]]


async def follow(
    client: httpx.AsyncClient, run_id: str, *, at_most: int | None = None, after: str | None = None
) -> Told:
    """The events' fields, until the stream ends or ``at_most`` have come; comments are left out."""
    told: Told = []
    headers = {} if after is None else {"last-event-id": after}
    async with asyncio.timeout(60), client.stream("GET", f"{RUNS}/{run_id}/events", headers=headers) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["x-accel-buffering"] == "no"
        fields: dict[str, str] = {}
        async for line in answer.aiter_lines():
            name, _, value = line.partition(": ")
            if name:
                fields[name] = value
            elif fields:
                told.append(fields)
                fields = {}
            if at_most is not None and len(told) == at_most:
                break
    return told


def types(told: Told) -> list[str]:
    return [fields["event"] for fields in told]


PARTS = 4
"""Tasks of one stream: it sends events and pings, and listens for the client's leaving and the server's end."""


def streams() -> int:
    return sum("cancel_on_finish" in task.get_name() for task in asyncio.all_tasks())


@pytest.mark.each_place
async def test_a_run_is_followed_from_its_first_event_to_its_last(tmp_path: Path) -> None:
    async with serving(tmp_path) as client:
        run_id = await start(client)
        told = await follow(client, run_id)
        events = [json.loads(fields["data"]) for fields in told]
        assert [int(fields["id"]) for fields in told] == [event["seq"] for event in events]
        assert types(told) == [event["type"] for event in events]
        assert (types(told)[0], types(told)[-1]) == ("run_started", "run_finished")
        assert types(told).count("node_finished") == 6
        assert {event["run_id"] for event in events} == {run_id}
        last: dict[str, Any] = events[-1]["data"]
        assert (last["result"], last["page"]) == (f"{RUNS}/{run_id}/result", f"{RUNS}/{run_id}/page")
        assert str(tmp_path) not in str(told)
        assert await follow(client, run_id) == told, "of a finished run all is replayed"
    async with Sparklio(home=tmp_path) as studio:
        assert [event["seq"] async for event in studio.follow(run_id)] == [event["seq"] for event in events]


@pytest.mark.usefixtures("live")
@pytest.mark.each_place
async def test_who_comes_again_gets_the_rest_of_the_live_stream(tmp_path: Path, comfyui: ComfyUIStandIn) -> None:
    comfyui.hold()
    async with serving(tmp_path) as client:
        run_id = await start(client)
        whole = asyncio.create_task(follow(client, run_id))
        part = await follow(client, run_id, at_most=5)
        rest = asyncio.create_task(follow(client, run_id, after=part[-1]["id"]))
        await until(lambda: comfyui.running)
        comfyui.release()
        assert part + await rest == await whole
        middle = (await whole)[len(await whole) // 2]["id"]
        later = [fields for fields in await whole if int(fields["id"]) > int(middle)]
        assert await follow(client, run_id, after=middle) == later
        asked = await client.get(f"{RUNS}/{run_id}/events", params={"after": middle})
        assert asked.text.count("\nevent: ") == len(later)
        assert await follow(client, run_id, after="999999") == []


@pytest.mark.usefixtures("live")
async def test_who_leaves_changes_nothing_and_leaves_nothing(tmp_path: Path, comfyui: ComfyUIStandIn) -> None:
    comfyui.hold()
    async with serving(tmp_path) as client:
        run_id = await start(client)
        await follow(client, run_id, at_most=1)
        await until(lambda: comfyui.running)
        stays = asyncio.create_task(follow(client, run_id))
        await asyncio.gather(*(follow(client, run_id, at_most=2) for _ in range(20)))
        await until(lambda: streams() == PARTS)
        comfyui.release()
        assert (await ended(client, run_id))["status"] == "finished"
        assert await stays == await follow(client, run_id)
        assert types(await stays)[-1] == "run_finished"


@pytest.mark.usefixtures("live")
@pytest.mark.each_place
async def test_a_queued_run_is_waited_for_and_a_cancelled_one_s_stream_ends(
    tmp_path: Path, comfyui: ComfyUIStandIn
) -> None:
    comfyui.hold()
    async with serving(tmp_path, SPARKLIO_MAX_RUNS="1") as client:
        first, second, third = [await start(client) for _ in range(3)]
        streams = [asyncio.create_task(follow(client, run_id)) for run_id in (first, second, third)]
        await until(lambda: comfyui.running)
        await client.post(f"{RUNS}/{third}/cancel")
        assert await streams[2] == []
        await client.post(f"{RUNS}/{first}/cancel")
        assert types(await streams[0])[0] == "run_started"
        assert "run_finished" not in types(await streams[0])
        comfyui.release()
        assert types(await streams[1])[-1] == "run_finished"


@pytest.mark.usefixtures("live")
async def test_a_silent_stream_is_kept_alive(
    tmp_path: Path, comfyui: ComfyUIStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sparklio.server.sse.PING_S", 0.05)
    comfyui.hold()
    async with serving(tmp_path) as client:
        run_id = await start(client)
        async with asyncio.timeout(30), client.stream("GET", f"{RUNS}/{run_id}/events") as answer:
            pings = 0
            async for line in answer.aiter_lines():
                pings += line.startswith(":")
                if pings == 3:
                    break
        comfyui.release()
        await ended(client, run_id)


async def test_wrong_places_to_begin_at_are_refused(tmp_path: Path) -> None:
    async with serving(tmp_path) as client:
        run_id = await finished(client)
        for wrong in ("-1", "x", str(2**60)):
            assert code(await client.get(f"{RUNS}/{run_id}/events", params={"after": wrong})) == (422, "bad_input")
            headers = {"last-event-id": wrong}
            assert code(await client.get(f"{RUNS}/{run_id}/events", headers=headers)) == (422, "bad_input")
