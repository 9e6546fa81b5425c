"""Runs whose gateways are a server's, and runs that a server drives: they come to what they come to in process."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, aclosing, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

import sparklio
from providers.errors import (
    ConfigError,
    InputError,
    RunExistsError,
    RunUnfinishedError,
    SparklioError,
    UnknownNameError,
    UnreachableError,
)
from routing.llm_gateway import LLMGateway
from sparklio import RunsClient, Sparklio
from tests.conftest import BRAND, PRODUCT
from tests.faults import NODES
from tests.gateway_clients import KEY, Wire, be_quick, photo
from tests.homes import check_finished, resumed, stopped
from tests.kept import InFiles
from tests.killing import SEED, Servers, Trial, answer, comparable
from tests.serving import ServerProcess, free_port, server_process, serving
from tests.standins.comfyui import ComfyUIStandIn
from tests.standins.ollama import OllamaStandIn
from tests.waiting import until, wait_until


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    be_quick(monkeypatch)
    monkeypatch.setattr("graph.runs.randbits", lambda bits: SEED)


def through(url: str, home: Path, **settings: str) -> Sparklio:
    return Sparklio(home=home, settings={"SPARKLIO_GATEWAY_URL": url, **settings})


# -- our runs, their gateways ------------------------------------------------------------------------------------------


async def test_runs_through_a_gateway_are_those_of_this_process(tmp_path: Path) -> None:
    own, ours = tmp_path / "own", tmp_path / "ours"
    async with serving(tmp_path / "server", SPARKLIO_API_KEYS=KEY) as served:
        url = str(served.base_url)
        for studio in (Sparklio(home=own), through(url, ours, SPARKLIO_GATEWAY_KEY=KEY)):
            async with studio:
                await studio.run(brand=BRAND, product=PRODUCT, run_id="page")
                await studio.rerun("page", start_at="copywriter", changes={"brief.target": "캠핑을 즐기는 30대"})
                assert not (await studio.preview_rerun("page.2")).nodes  # fingerprints are the same to both
    for run_id in ("page", "page.2"):
        assert comparable(ours, run_id) == comparable(own, run_id)
    assert not (tmp_path / "server" / "runs" / "page").exists()


async def test_a_run_begun_in_this_process_goes_on_through_a_gateway(tmp_path: Path) -> None:
    home = tmp_path / "ours"
    async with Sparklio(home=home) as studio:
        await stopped(studio, "strategist")
    async with serving(tmp_path / "server") as served, through(str(served.base_url), home) as studio:
        done, started = await resumed(studio)
        assert {"brand", "brief", "strategist"} <= done
        assert not done & started.keys()
        await check_finished(studio, "page")


@pytest.mark.usefixtures("live")
async def test_a_live_run_with_a_photo_through_a_gateway(
    tmp_path: Path, ollama: OllamaStandIn, comfyui: ComfyUIStandIn
) -> None:
    ollama.answerer = answer
    own, ours = tmp_path / "own", tmp_path / "ours"
    async with serving(tmp_path / "server") as served:
        for home, studio in ((ours, through(str(served.base_url), ours)), (own, Sparklio(home=own))):
            async with studio:
                product = {**PRODUCT, "photo": await studio.add_photo(photo())}
                events = [event async for event in studio.stream(brand=BRAND, product=product, run_id="page")]
                finished = Counter(event["node"] for event in events if event["type"] == "node_finished")
                assert finished == Counter([*NODES, "copywriter", "reviewer"])
                types = {event["type"] for event in events}
                assert "token" in types
                assert home == own or "image_progress" in types  # the second time ComfyUI has it already
    assert comparable(ours) == comparable(own)
    assert len(comfyui.accepted) == 1  # the same call of the same run has the same key, however it comes


async def test_a_gateway_of_the_other_mode_is_refused_before_a_run_is_booked(tmp_path: Path) -> None:
    async with (
        serving(tmp_path / "server") as served,
        through(str(served.base_url), tmp_path / "ours", GENERATOR_MODE="live") as studio,
    ):
        with pytest.raises(ConfigError, match="is in mock"):
            await studio.run(brand=BRAND, product=PRODUCT)
        assert not studio.runs.store.all()


async def test_a_gateway_that_is_away_fails_a_run_before_it_is_booked(tmp_path: Path) -> None:
    async with through(f"http://127.0.0.1:{free_port()}", tmp_path / "ours") as studio:
        with pytest.raises(UnreachableError):
            await studio.run(brand=BRAND, product=PRODUCT)
        assert not studio.runs.store.all()


# -- killed at either end ----------------------------------------------------------------------------------------------


class Gateway(Servers):
    """A server in a process of its own before the stand-ins; the runs' processes know nothing but it."""

    def __init__(self, home: Path) -> None:
        super().__init__()
        self._home = home
        self._port = free_port()
        self._stack = ExitStack()

    def __enter__(self) -> Gateway:
        super().__enter__()
        self._behind = {**self.settings, "GENERATOR_MODE": "live"}
        self.settings = {"SPARKLIO_GATEWAY_URL": f"http://127.0.0.1:{self._port}"}
        self.begin()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()
        super().__exit__(*exc)

    def begin(self) -> None:
        self.process: ServerProcess = self._stack.enter_context(
            server_process(self._home, port=self._port, **self._behind)
        )

    def quiet(self) -> None:
        """The server keeps its connections; what it was asked by the dead it lets go."""
        wait_until(lambda: not self.ollama.active)


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    with Gateway(tmp_path / "server") as servers:
        yield servers


@pytest.mark.usefixtures("unmeasured")
def test_a_killed_run_goes_on_with_what_it_has(gateway: Gateway, tmp_path: Path) -> None:
    twin_home = tmp_path / "twin"
    with Servers() as direct:
        trial = Trial(direct, InFiles(twin_home))
        assert trial.finish() == 0
        twin = trial.twin()
    trial = Trial(gateway, InFiles(tmp_path / "ours"))
    moments = [lambda: len(gateway.calls()) >= 3, lambda: gateway.comfyui.accepted]
    gateway.comfyui.hold()
    assert [trial.killed(moment, 0.05) for moment in moments] == [True, True]
    gateway.comfyui.release()
    assert trial.finish() == 0
    trial.check_end(twin)
    # the second way where the reviewer's answer has come in the same moment
    assert trial.windows[1] in ("the image under way", "recorded, not yet done")


@pytest.mark.usefixtures("unmeasured")
async def test_a_server_that_is_killed_while_an_image_is_made(gateway: Gateway, tmp_path: Path) -> None:
    gateway.comfyui.hold()
    async with through(gateway.settings["SPARKLIO_GATEWAY_URL"], tmp_path / "ours", GENERATOR_MODE="live") as studio:
        running = asyncio.create_task(studio.run(brand=BRAND, product=PRODUCT, run_id="page"))
        await until(lambda: gateway.comfyui.running or running.done())
        gateway.process.kill()
        await asyncio.to_thread(gateway.begin)
        gateway.comfyui.release()
        await running
        await check_finished(studio, "page")
    assert len(gateway.comfyui.accepted) == 1


@pytest.mark.usefixtures("unmeasured")
async def test_a_server_that_is_started_anew_while_it_answers(gateway: Gateway, tmp_path: Path) -> None:
    """The call that was under way is made again; no other is."""
    gateway.ollama.delay_s = 0.5
    async with through(gateway.settings["SPARKLIO_GATEWAY_URL"], tmp_path / "ours", GENERATOR_MODE="live") as studio:
        running = asyncio.create_task(studio.run(brand=BRAND, product=PRODUCT, run_id="page"))
        await until(lambda: len(gateway.calls()) == 2 or running.done())
        assert await asyncio.to_thread(gateway.process.stop) == 0
        await asyncio.to_thread(gateway.begin)
        gateway.ollama.delay_s = 0.01
        await running
        await check_finished(studio, "page")
    counted = Counter(gateway.calls())
    assert sum(counted.values()) - len(counted) <= 1


# -- their runs --------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def runs_of(home: Path, **settings: str) -> AsyncIterator[RunsClient]:
    async with serving(home, **settings) as served, RunsClient(str(served.base_url), KEY) as runs:
        yield runs


async def events_of(runs: RunsClient, run_id: str, after: int = 0) -> list[dict[str, Any]]:
    return [event async for event in runs.follow(run_id, after=after)]


async def test_a_run_of_the_server_from_its_start_to_all_that_it_made(tmp_path: Path) -> None:
    async with Sparklio(home=tmp_path / "own") as studio:
        own = await studio.run(brand=BRAND, product=PRODUCT, run_id="page")
    async with runs_of(tmp_path / "server", SPARKLIO_API_KEYS=KEY) as runs:
        assert await runs.start(brand=BRAND, product=PRODUCT, run_id="page") == "page"
        events = await events_of(runs, "page")
        result, page = await runs.result("page"), await runs.page("page")
        assert (await runs.read("page"))["status"] == "finished"
        assert await events_of(runs, "page") == events
        assert await events_of(runs, "page", after=events[3]["seq"]) == events[4:]
        history = await runs.history("page", values=False)
        image = await runs.image(result["image"]["image_id"])
    assert [event["seq"] for event in events] == sorted({event["seq"] for event in events})
    assert (events[0]["type"], events[-1]["type"]) == ("run_started", "run_finished")
    assert Counter(event["node"] for event in events if event["type"] == "node_finished") == Counter(NODES)
    for artefact in ("brand_summary", "brief", "sections", "copy", "review"):
        assert result[artefact] == own.result[artefact]
    assert page == own.page_path.read_text(encoding="utf-8")
    assert image == next((tmp_path / "own" / "images").iterdir()).read_bytes()
    assert history["points"]


async def test_reruns_lists_and_differences(tmp_path: Path) -> None:
    async with runs_of(tmp_path / "server") as runs:
        first = await runs.start(brand=BRAND, product=PRODUCT, run_id="page", language="en", stage="final")
        await events_of(runs, first)
        assert (await runs.rerun("page"))["run_id"] == "page"  # nothing is stale
        preview = await runs.rerun("page", start_at="reviewer", dry_run=True)
        assert [node["node"] for node in preview["nodes"]] == ["reviewer"]
        again = await runs.rerun("page", changes={"brief.target": "campers"})
        await events_of(runs, again["run_id"])
        found = await runs.diff("page", again["run_id"])
        assert {difference["path"] for difference in found["differences"]} >= {"brief.target"}
        others = [await runs.start(brand=BRAND, product={**PRODUCT, "name": f"병 {number}"}) for number in range(3)]
        assert [run["run_id"] for run in await runs.list()] == [*reversed(others), again["run_id"], "page"]
        assert [run["run_id"] for run in await runs.list(limit=1)] == others[-1:]
        assert [run["run_id"] for run in await runs.list(family="page")] == [again["run_id"], "page"]
        assert [run["run_id"] for run in await runs.list(product="병 1", mode="mock")] == [others[1]]
        for other in others:
            await events_of(runs, other)
        assert len(await runs.list(status="finished")) == 5


async def test_the_list_is_read_page_by_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("routing.runs_client._PAGE_SIZE", 2)
    async with runs_of(tmp_path / "server") as runs:
        started = [await runs.start(brand=BRAND, product=PRODUCT) for _ in range(5)]
        assert [run["run_id"] for run in await runs.list()] == started[::-1]
        assert [run["run_id"] for run in await runs.list(limit=3)] == started[:1:-1]
        for run_id in started:
            await events_of(runs, run_id)


async def test_what_a_run_is_asked_for_too_early_or_wrongly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with hanging_gateway(monkeypatch):
        async with runs_of(tmp_path / "server") as runs:
            run_id = await runs.start(brand=BRAND, product=PRODUCT)
            for read in (runs.result, runs.page):
                with pytest.raises(RunUnfinishedError):
                    await read(run_id)
            with pytest.raises(RunExistsError):
                await runs.start(brand=BRAND, product=PRODUCT, run_id=run_id)
            with pytest.raises(InputError):
                await runs.start(brand=BRAND, product={"name": ""})
            with pytest.raises(UnknownNameError):
                await runs.start(brand=BRAND, product={**PRODUCT, "photo": "0" * 32})
            for ask in (runs.read, runs.result, runs.history, runs.rerun, runs.resume, runs.cancel):
                with pytest.raises(UnknownNameError):
                    await ask("nobody")
            with pytest.raises(UnknownNameError):
                await events_of(runs, "nobody")
            with pytest.raises(InputError):
                await runs.add_photo(b"no photo")
            with pytest.raises(InputError, match="cannot read"):
                await runs.add_photo(tmp_path / "none.png")


@contextmanager
def hanging_gateway(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    async def generate(*_: object, **__: object) -> None:
        await asyncio.Event().wait()

    with monkeypatch.context() as patch:
        patch.setattr(LLMGateway, "generate", generate)
        yield


async def test_a_run_is_cancelled_and_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with runs_of(tmp_path / "server") as runs:
        with hanging_gateway(monkeypatch):
            run_id = await runs.start(brand=BRAND, product=PRODUCT)
            hanging = asyncio.Event()

            async def follow() -> None:
                async for event in runs.follow(run_id):
                    if event["type"] == "node_started":
                        hanging.set()

            following = asyncio.create_task(follow())
            async with asyncio.timeout(20):
                await hanging.wait()
            assert (await runs.cancel(run_id))["status"] == "cancelled"
            async with asyncio.timeout(20):
                await following
        with pytest.raises(SparklioError):
            await runs.result(run_id)
        await runs.resume(run_id)
        assert (await events_of(runs, run_id))[-1]["type"] == "run_finished"


async def test_a_photo_is_uploaded_for_a_run(tmp_path: Path) -> None:
    (tmp_path / "jar.png").write_bytes(photo())
    async with runs_of(tmp_path / "server") as runs:
        name = await runs.add_photo(tmp_path / "jar.png")
        assert name == await runs.add_photo(photo())
        run_id = await runs.start(brand=BRAND, product={**PRODUCT, "photo": name})
        await events_of(runs, run_id)
        assert await runs.image(name) == photo()


async def test_a_start_whose_answer_gets_lost_starts_one_run(tmp_path: Path) -> None:
    async with serving(tmp_path / "server") as served:
        wire = Wire(str(served.base_url))
        wire.where, wire.losing = "POST /api/v1/runs", 2
        async with wire as url, RunsClient(url) as runs:
            run_id = await runs.start(brand=BRAND, product=PRODUCT)
            assert [run["run_id"] for run in await runs.list()] == [run_id]
            wire.where, wire.losing = "/events", 3  # and so do all events, three times
            assert (await events_of(runs, run_id))[-1]["type"] == "run_finished"
        assert wire.lost == 5


@pytest.mark.usefixtures("unmeasured")
async def test_whoever_follows_hears_all_though_the_server_is_killed(tmp_path: Path) -> None:
    port = free_port()
    with Servers() as servers:
        servers.ollama.delay_s = 0.3
        settings = {**servers.settings, "GENERATOR_MODE": "live"}
        with server_process(tmp_path / "server", port=port, **settings) as server:
            async with RunsClient(server.url) as runs:
                run_id = await runs.start(brand=BRAND, product=PRODUCT, run_id="page")
                heard: list[dict[str, Any]] = []

                async def follow() -> None:
                    async with aclosing(runs.follow(run_id)) as events:
                        async for event in events:
                            heard.append(event)

                following = asyncio.create_task(follow())
                await until(lambda: any(event["type"] == "node_finished" for event in heard))
                server.kill()
                servers.ollama.delay_s = 0.01
                with server_process(tmp_path / "server", port=port, **settings):
                    async with asyncio.timeout(40):
                        await following
                    assert await events_of(runs, run_id) == heard
    assert [event["seq"] for event in heard] == sorted({event["seq"] for event in heard})
    assert [event["type"] for event in heard if event["type"].startswith("run_")][-1] == "run_finished"
    finished = Counter(event["node"] for event in heard if event["type"] == "node_finished")
    assert finished == Counter([*NODES, "copywriter", "reviewer"])


async def test_a_server_that_stays_away_is_given_up(tmp_path: Path) -> None:
    async with serving(tmp_path / "server") as served:
        url = str(served.base_url)
        async with RunsClient(url) as runs:
            run_id = await runs.start(brand=BRAND, product=PRODUCT)
            await events_of(runs, run_id)
    async with RunsClient(url, patience_s=0.2) as runs:
        with pytest.raises(UnreachableError):
            await events_of(runs, run_id)


def test_it_is_one_of_the_public_names() -> None:
    assert sparklio.RunsClient is RunsClient
