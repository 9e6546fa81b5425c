"""The wire protocol: the stand-in against recordings of a real ComfyUI 0.10.0, then the client against the stand-in."""

from __future__ import annotations

import asyncio
import gc
import json
import struct
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect

from providers.errors import (
    AttemptTimeoutError,
    AuthenticationError,
    ConfigError,
    JobError,
    ModelNotFoundError,
    OverloadedError,
    ProviderError,
    RejectedError,
    ServerError,
    UnreachableError,
)
from providers.media.comfyui import watch
from providers.media.comfyui.client import ComfyUIClient
from providers.media.comfyui.errors import LostJobError, MissingImageError, UnansweredError, rejection, tidy
from providers.media.comfyui.events import EventStream, parse_event
from providers.media.comfyui.shapes import HistoryEntry, OutputFile, QueueState
from providers.media.comfyui.watch import Patience, Step
from tests.standins.comfyui import ComfyUIStandIn, Fault
from tests.standins.server import free_port
from tests.waiting import until

DATA = Path(__file__).parent / "data" / "comfyui"
QUICK = Patience(run_s=20, poll_s=0.03, idle_queue_s=0.15, still_queue_s=20, outage_s=10)
CHECKPOINT = "sd15_random.safetensors"


def recorded(name: str) -> Any:
    return json.loads((DATA / f"{name}.json").read_text(encoding="utf-8"))


def recorded_graph(name: str) -> dict[str, Any]:
    """The graph that a recording ran, from its history."""
    history = next(line for line in recorded(name) if line.get("http", "").startswith("GET /history"))["body"]
    graph: dict[str, Any] = next(iter(history.values()))["prompt"][2]
    return graph


def sampler_graph(*, steps: int = 3, seed: int = 1) -> dict[str, Any]:
    graph = recorded_graph("txt2img_success")
    graph["3"]["inputs"].update(steps=steps, seed=seed)
    return graph


def new_id() -> str:
    return str(uuid.uuid4())


@pytest.fixture
def comfyui() -> Iterator[ComfyUIStandIn]:
    with ComfyUIStandIn(checkpoints=[CHECKPOINT], history_delay=0.005) as stand_in:
        yield stand_in


@pytest.fixture
async def client(comfyui: ComfyUIStandIn) -> AsyncIterator[ComfyUIClient]:
    client = ComfyUIClient(comfyui.url)
    yield client
    await client.aclose()


# the stand-in against the recordings


async def record(comfyui: ComfyUIStandIn, graph: dict[str, Any], *, interrupt: bool = False) -> list[dict[str, Any]]:
    """One prompt, written down as the recordings are: the POST, every event, then the queue and the history."""
    client_id, prompt_id = new_id(), new_id()
    lines: list[dict[str, Any]] = []
    address = f"{comfyui.url.replace('http', 'ws')}/ws?clientId={client_id}"
    async with connect(address, max_size=None) as socket, httpx.AsyncClient(base_url=comfyui.url) as http:
        await socket.send(json.dumps({"type": "feature_flags", "data": {}}))
        while len(lines) < 2:
            lines.append({"ws": json.loads(await socket.recv())})
        body = {"prompt": graph, "prompt_id": prompt_id, "client_id": client_id}
        answer = await http.post("/prompt", json=body)
        lines.insert(0, {"http": "POST /prompt", "status": answer.status_code, "body": answer.json()})
        while not is_end(lines[-1]):
            message = await socket.recv()
            if isinstance(message, str):
                lines.append({"ws": json.loads(message)})
            if interrupt and lines[-1]["ws"]["type"] == "executing" and lines[-1]["ws"]["data"]["node"] == "3":
                await http.post("/interrupt", json={"prompt_id": prompt_id})
        for path in ("/queue", f"/history/{prompt_id}"):
            answer = await http.get(path)
            lines.append({"http": f"GET {path}", "status": answer.status_code, "body": answer.json()})
    return lines


def is_end(line: dict[str, Any]) -> bool:
    return bool(line.get("ws", {}).get("type") == "executing" and line["ws"]["data"]["node"] is None)


def plain(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A recording without what no two runs share: ids, times, counters and file names."""
    answer = lines[0]["body"]
    ids = {answer["prompt_id"]: "PROMPT", lines[1]["ws"]["data"]["sid"]: "CLIENT"}
    kept = [{key: line[key] for key in line if key != "t"} for line in lines if "/api/jobs" not in line.get("http", "")]
    return [_plain(line, ids) for line in kept]


def _plain(value: Any, ids: dict[str, str]) -> Any:
    if isinstance(value, str):
        for found, name in ids.items():
            value = value.replace(found, name)
        return value
    if isinstance(value, list):
        return [_plain(item, ids) for item in value]
    if not isinstance(value, dict):
        return value
    result = {ids.get(key, key): _plain(item, ids) for key, item in value.items()}
    for key in ("timestamp", "create_time", "number", "filename", "traceback"):
        if key in result:
            result[key] = type(result[key])()
    for key in ("executed", "current_outputs"):  # sets, in the order of their hashes
        if key in result:
            result[key] = sorted(result[key])
    if isinstance(result.get("prompt"), list) and isinstance(result["prompt"][0], int):
        result["prompt"][0] = 0
    return result


async def test_txt2img_is_as_recorded(comfyui: ComfyUIStandIn) -> None:
    name = "txt2img_success"
    assert plain(await record(comfyui, recorded_graph(name))) == plain(recorded(name))


async def test_a_repeated_prompt_is_all_cached_as_recorded(comfyui: ComfyUIStandIn) -> None:
    first = await record(comfyui, recorded_graph("txt2img_success"))
    again = await record(comfyui, recorded_graph("txt2img_all_cached"))
    assert plain(again) == plain(recorded("txt2img_all_cached"))
    files = [next(iter(lines[-1]["body"].values()))["outputs"]["9"]["images"] for lines in (first, again)]
    assert files[0] == files[1]


async def test_a_graph_without_weights_is_as_recorded(comfyui: ComfyUIStandIn) -> None:
    name = "no_weights_success"
    assert plain(await record(comfyui, recorded_graph(name))) == plain(recorded(name))


@pytest.mark.parametrize("name", ["execution_error", "ok_200_with_node_errors"])
async def test_failures_are_as_recorded(comfyui: ComfyUIStandIn, name: str) -> None:
    await record(comfyui, recorded_graph("no_weights_success"))  # was in the cache then
    assert plain(await record(comfyui, recorded_graph(name))) == plain(recorded(name))


async def test_an_interrupted_prompt_is_as_recorded(comfyui: ComfyUIStandIn) -> None:
    comfyui.hold(after_step=0)
    lines = await record(comfyui, recorded_graph("interrupted"), interrupt=True)
    assert plain(lines) == plain(recorded("interrupted"))


async def test_a_refused_prompt_is_as_recorded(comfyui: ComfyUIStandIn) -> None:
    missing = sampler_graph()
    missing["4"]["inputs"]["ckpt_name"] = "missing.safetensors"
    no_width, wide = recorded_graph("no_weights_success"), recorded_graph("no_weights_success")
    del no_width["1"]["inputs"]["width"]
    wide["1"]["inputs"]["width"] = 99999999
    cases = {
        "missing_checkpoint": missing,
        "missing_input": no_width,
        "out_of_range": wide,
        "unknown_class": {"1": {"class_type": "NoSuchNode", "inputs": {}}},
    }
    async with httpx.AsyncClient(base_url=comfyui.url) as http:
        for name, graph in cases.items():
            answer = await http.post("/api/prompt", json={"prompt": graph})
            [line] = recorded(f"error_400_{name}")
            assert (answer.status_code, answer.json()) == (line["status"], line["body"])
        for content in ("{", '{"prompt": "text"}'):
            answer = await http.post("/prompt", content=content, headers={"content-type": "application/json"})
            found = {"status": answer.status_code, "content_type": answer.headers["content-type"], "text": answer.text}
            assert found == recorded("error_500_not_json")
        assert (await http.post("/prompt", json={})).json()["error"]["type"] == "no_prompt"
        no_output = {"1": recorded_graph("no_weights_success")["1"]}
        assert (await http.post("/prompt", json={"prompt": no_output})).json()["error"]["type"] == "prompt_no_outputs"


async def test_plain_questions_are_answered_as_recorded(comfyui: ComfyUIStandIn) -> None:
    async with httpx.AsyncClient(base_url=comfyui.url) as http:
        for prefix in ("", "/api"):
            assert (await http.get(f"{prefix}/system_stats")).json() == recorded("system_stats")
            assert (await http.get(f"{prefix}/models/checkpoints")).json() == recorded("models_checkpoints")
            assert (await http.get(f"{prefix}/history/{new_id()}")).json() == recorded("history_unknown")["body"]
            for line in recorded("view_errors"):
                answer = await http.get(f"{prefix}/view?{line['query']}")
                assert (answer.status_code, answer.text) == (line["status"], line["body"]), line
            for name, info in recorded("object_info").items():
                found = (await http.get(f"{prefix}/object_info/{name}")).json()
                if name == "LoadImage":
                    found[name]["input"]["required"]["image"][0] = info[name]["input"]["required"]["image"][0]
                assert found == info
        assert (await http.post("/queue", json={"delete": [new_id()]})).content == b""


async def test_previews_go_to_their_client_and_progress_to_everybody(comfyui: ComfyUIStandIn) -> None:
    mine, other = new_id(), new_id()
    address = comfyui.url.replace("http", "ws") + "/ws?clientId="
    async with connect(address + mine) as socket, connect(address + other, close_timeout=0.1) as bystander:
        async with httpx.AsyncClient(base_url=comfyui.url) as http:
            await http.post("/prompt", json={"prompt": sampler_graph(), "client_id": mine})
        frames: list[str | bytes] = []
        heard: list[dict[str, Any]] = []
        while not frames or isinstance(frames[-1], bytes) or not is_end({"ws": json.loads(frames[-1])}):
            frames.append(await socket.recv())
        while len(heard) < 3:
            event = json.loads(await bystander.recv())
            assert event["type"] in ("status", "progress", "progress_state")
            heard += [event] if event["type"] == "progress" else []
    previews = [frame for frame in frames if isinstance(frame, bytes)]
    assert len(previews) == 3
    assert struct.unpack(">II", previews[0][:8]) == (1, 1)
    assert previews[0][8:10] == b"\xff\xd8"


# the client: plain questions


async def test_stats_models_and_node_classes(client: ComfyUIClient) -> None:
    assert await client.health()
    assert (await client.get_system_stats())["system"]["comfyui_version"] == "0.10.0"
    assert await client.models("checkpoints") == [CHECKPOINT]
    with pytest.raises(RejectedError):
        await client.models("../queue")
    info = await client.object_info("KSampler")
    assert info is not None
    assert "seed" in info["input"]["required"]
    assert await client.object_info("NoSuchNode") is None


async def test_a_server_that_is_not_there() -> None:
    port = free_port()
    client = ComfyUIClient(f"http://me:secret@127.0.0.1:{port}/comfy/?token=t")
    assert not await client.health()
    with pytest.raises(UnreachableError) as caught:
        await client.get_queue()
    assert caught.value.message == f"no connection to ComfyUI at http://127.0.0.1:{port}/comfy/"
    assert caught.value.hint == "start ComfyUI, or check COMFYUI_BASE_URL"
    assert "secret" not in str(caught.value.to_dict())
    async with client.events("me") as events:
        assert await events.next(0.01) is None
    await client.aclose()


@pytest.mark.parametrize("url", ["localhost:8188", "ftp://x", "http://", "http://[::1"])
def test_a_base_url_that_is_none(url: str) -> None:
    with pytest.raises(ConfigError, match="COMFYUI_BASE_URL"):
        ComfyUIClient(url)


@pytest.mark.parametrize(
    ("status", "error"),
    [(429, OverloadedError), (503, OverloadedError), (500, ServerError), (502, ServerError), (413, RejectedError),
     (401, AuthenticationError), (403, AuthenticationError), (302, RejectedError)],
)  # fmt: skip
async def test_http_statuses(
    comfyui: ComfyUIStandIn, client: ComfyUIClient, status: int, error: type[ProviderError]
) -> None:
    comfyui.answer_next("/queue", status, headers={"Retry-After": "7"})
    with pytest.raises(error) as caught:
        await client.get_queue()
    assert caught.value.status == status
    assert caught.value.retry_after == 7
    assert await client.get_queue() == QueueState()


async def test_something_else_at_that_address(comfyui: ComfyUIStandIn, client: ComfyUIClient) -> None:
    comfyui.answer_next("/", 200, times=3)
    assert not await client.health()
    for question in (client.get_queue(), client.models("vae")):
        with pytest.raises(RejectedError, match="is not ComfyUI"):
            await question


async def test_a_base_url_with_a_path_and_credentials(comfyui: ComfyUIStandIn) -> None:
    client = ComfyUIClient(comfyui.url.replace("http://", "http://me:secret@") + "/api/")
    assert await client.health()
    async with client.events("me") as events:
        event = await events.next(5)
    assert event is not None
    assert event.data["sid"] == "me"
    assert comfyui.requests == [("GET", "/api/system_stats"), ("GET", "/api/ws")]
    await client.aclose()


# the client: jobs and files


async def test_a_job_from_submission_to_its_image(comfyui: ComfyUIStandIn, client: ComfyUIClient) -> None:
    prompt_id = new_id()
    assert not await client.knows(prompt_id)
    comfyui.hold()
    await client.queue_prompt(sampler_graph(), prompt_id=prompt_id, client_id="me")
    await until(lambda: comfyui.running)
    assert await client.get_queue() == QueueState(running=(prompt_id,))
    assert await client.knows(prompt_id)
    assert await client.history(prompt_id) is None
    comfyui.release()
    entry = await client.wait_for_completion(prompt_id, patience=QUICK)
    assert entry.succeeded
    assert entry.graph == sampler_graph()
    [download] = await client.get_images(entry)
    assert download.content.startswith(b"\x89PNG")
    assert download.file.filename == "ComfyUI_00001_.png"


async def test_steps_come_before_the_history_entry(comfyui: ComfyUIStandIn, client: ComfyUIClient) -> None:
    prompt_id = new_id()
    async with client.events("me") as events:
        await client.queue_prompt(sampler_graph(steps=4), prompt_id=prompt_id, client_id="me")
        items = [item async for item in client.watch(prompt_id, events, Patience(poll_s=30))]
    assert items[:-1] == [Step(1, 4), Step(2, 4), Step(3, 4), Step(4, 4)]
    assert isinstance(items[-1], HistoryEntry)
    assert [path for _, path in comfyui.requests].count("/queue") <= 3  # told by events, not found by polling


async def test_pending_jobs_in_the_order_in_which_they_will_run(comfyui: ComfyUIStandIn, client: ComfyUIClient) -> None:
    comfyui.hold()
    ids = [comfyui.submit(sampler_graph(seed=seed)) for seed in range(3)]
    await until(lambda: comfyui.running)
    assert await client.get_queue() == QueueState(running=(ids[0],), pending=(ids[1], ids[2]))
    await client.delete_from_queue(ids[1])
    assert comfyui.pending == [ids[2]]
    comfyui.release()


async def test_a_refused_graph(client: ComfyUIClient) -> None:
    graph = recorded_graph("no_weights_success")
    graph["1"]["inputs"]["width"] = 99999999
    with pytest.raises(RejectedError) as caught:
        await client.queue_prompt(graph, prompt_id=new_id(), client_id="me")
    assert caught.value.message == (
        "ComfyUI refused the workflow: node 1 (EmptyImage): Value 99999999 bigger than max of 16384: width"
    )
    assert caught.value.status == 400


async def test_an_unknown_node_class(client: ComfyUIClient) -> None:
    with pytest.raises(RejectedError) as caught:
        await client.queue_prompt({"1": {"class_type": "Fancy", "inputs": {}}}, prompt_id=new_id(), client_id="me")
    assert "node Fancy does not exist" in caught.value.message
    assert "custom node" in caught.value.hint


async def test_a_missing_checkpoint(comfyui: ComfyUIStandIn, client: ComfyUIClient) -> None:
    comfyui.checkpoints = [f"model_{n}.safetensors" for n in range(7)]
    with pytest.raises(ModelNotFoundError) as caught:
        await client.queue_prompt(sampler_graph(), prompt_id=new_id(), client_id="me")
    error = caught.value
    assert error.message == f"ComfyUI has no file {CHECKPOINT!r} for node 4 (CheckpointLoaderSimple)"
    assert "models/checkpoints" in error.hint
    assert "options: {checkpoint: ...}" in error.hint
    assert error.hint.endswith("model_4.safetensors and 2 more")
    assert error.details["available"] == comfyui.checkpoints[:5]


@pytest.mark.parametrize(
    ("config", "listed"),
    [(["COMBO", {"options": ["a.safetensors"]}], ["a.safetensors"]), ([[], {}], []), (["COMBO"], []), (None, [])],
)
def test_choices_of_either_notation(config: Any, listed: list[str]) -> None:
    problem = {"type": "value_not_in_list", "extra_info": {"input_name": "vae_name", "input_config": config}}
    body = {"node_errors": {"2": {"errors": [problem], "class_type": "VAELoader"}}}
    error = rejection(body, provider="comfyui", status=400)
    assert isinstance(error, ModelNotFoundError)
    assert error.details["available"] == listed
    assert "models/vae, or choose another in the workflow; available there: " + (listed or ["none"])[0] in error.hint


@pytest.mark.parametrize(
    "body",
    [{}, {"error": "no"}, {"error": {}}, {"node_errors": []}, {"node_errors": {"1": "bad"}}, {"node_errors": {"1": {}}},
     {"node_errors": {"1": {"errors": ["x", {"message": None}]}}}],
)  # fmt: skip
def test_a_refusal_in_any_shape_is_an_error(body: dict[str, Any]) -> None:
    assert rejection(body, provider="comfyui", status=400).message.startswith("ComfyUI refused the workflow")


async def test_node_errors_in_a_200_are_an_error_and_the_job_is_withdrawn(
    comfyui: ComfyUIStandIn, client: ComfyUIClient
) -> None:
    comfyui.hold()
    prompt_id, graph = new_id(), sampler_graph()
    graph["10"] = {"class_type": "SaveImage", "inputs": {"filename_prefix": "x", "images": ["99", 0]}}
    with pytest.raises(RejectedError, match="Exception when validating node"):
        await client.queue_prompt(graph, prompt_id=prompt_id, client_id="me")
    await until(lambda: comfyui.running is None)
    assert comfyui.executed == []
    assert comfyui.deleted == [prompt_id]


async def test_a_connection_cut_after_sending(comfyui: ComfyUIStandIn, client: ComfyUIClient) -> None:
    comfyui.inject(Fault.AMBIGUOUS_POST)
    prompt_id = new_id()
    with pytest.raises(UnansweredError, match="broke"):
        await client.queue_prompt(sampler_graph(), prompt_id=prompt_id, client_id="me")
    assert await client.knows(prompt_id)


async def test_withdrawing_never_touches_somebody_elses_job(comfyui: ComfyUIStandIn, client: ComfyUIClient) -> None:
    comfyui.hold()
    theirs = comfyui.submit(sampler_graph(seed=1))
    mine = comfyui.submit(sampler_graph(seed=2))
    await until(lambda: comfyui.running == theirs)
    await client.withdraw(mine)
    assert comfyui.pending == []
    assert comfyui.interrupts == []
    await client.withdraw(theirs)
    await until(lambda: comfyui.running is None)
    assert comfyui.interrupts == [{"prompt_id": theirs}]
    await client.interrupt(new_id())
    comfyui.answer_next("/queue", 500)
    await client.withdraw(mine)


async def test_uploads_and_downloads(comfyui: ComfyUIStandIn, client: ComfyUIClient) -> None:
    first = await client.upload_image(b"one", "사진 & a.png", subfolder="in")
    assert first == OutputFile("사진 & a.png", "in", "input")
    second = await client.upload_image(b"two", "사진 & a.png", subfolder="in")
    assert second.filename == "사진 & a (1).png"
    await client.upload_image(b"three", "사진 & a.png", subfolder="in", overwrite=True)
    assert (await client.download_image(first)).content == b"three"
    assert (await client.download_image(second)).content == b"two"
    with pytest.raises(MissingImageError):
        await client.download_image(OutputFile("none.png"))
    with pytest.raises(RejectedError):
        await client.download_image(OutputFile("../x.png"))


async def test_free(comfyui: ComfyUIStandIn, client: ComfyUIClient) -> None:
    assert await client.free() > 0
    assert comfyui.freed == [{"unload_models": True, "free_memory": True}]


async def test_free_waits_for_the_memory_with_a_bound(comfyui: ComfyUIStandIn, client: ComfyUIClient) -> None:
    """ComfyUI may not free at all."""
    free = await client.free(wanted_bytes=2**60, within_s=0.05)
    assert 0 < free < 2**60
    assert len([path for _, path in comfyui.requests if path == "/system_stats"]) > 1


# the client: waiting


async def wait(
    comfyui: ComfyUIStandIn, client: ComfyUIClient, *faults: Fault, patience: Patience = QUICK
) -> HistoryEntry:
    comfyui.inject(*faults)
    prompt_id = new_id()
    await client.queue_prompt(sampler_graph(), prompt_id=prompt_id, client_id="me")
    return await client.wait_for_completion(prompt_id, patience=patience)


@pytest.mark.parametrize("fault", [Fault.WS_REFUSED, Fault.WS_SILENT, Fault.WS_CLOSED])
async def test_polling_alone_is_enough(comfyui: ComfyUIStandIn, client: ComfyUIClient, fault: Fault) -> None:
    comfyui.always(fault)
    assert (await wait(comfyui, client)).succeeded


@pytest.mark.parametrize("fault", [Fault.VANISH, Fault.RESTART])
async def test_a_job_that_is_nowhere_is_lost(comfyui: ComfyUIStandIn, client: ComfyUIClient, fault: Fault) -> None:
    with pytest.raises(LostJobError) as caught:
        await wait(comfyui, client, fault)
    assert caught.value.details["reason"] == "lost"


async def test_a_server_that_is_away_for_a_moment(comfyui: ComfyUIStandIn, client: ComfyUIClient) -> None:
    comfyui.hold()
    prompt_id = comfyui.submit(sampler_graph())
    comfyui.answer_next("/queue", 503, times=2)
    comfyui.answer_next("/history", 500)
    comfyui.release()
    assert (await client.wait_for_completion(prompt_id, patience=QUICK)).succeeded


async def test_a_server_that_stays_away(comfyui: ComfyUIStandIn, client: ComfyUIClient) -> None:
    comfyui.hold()
    prompt_id = comfyui.submit(sampler_graph())
    comfyui.restart_seconds = 60
    comfyui.restart()
    with pytest.raises(UnreachableError):
        await client.wait_for_completion(prompt_id, patience=Patience(poll_s=0.02, outage_s=0.1))


async def test_a_job_that_runs_too_long_is_stopped(comfyui: ComfyUIStandIn, client: ComfyUIClient) -> None:
    with pytest.raises(AttemptTimeoutError) as caught:
        await wait(comfyui, client, Fault.HANGS, patience=Patience(run_s=0.1, poll_s=0.02))
    assert "COMFYUI_TIMEOUT" in caught.value.hint
    assert comfyui.interrupted == comfyui.accepted


class SlowMotion:
    """A server where 100 s pass between polls: the job is pending at four of them, running at two, then done."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.polls = 0
        self.withdrawn: list[str] = []
        monkeypatch.setattr(watch, "time", self)

    def monotonic(self) -> float:
        return time.monotonic() + 100 * self.polls

    async def get_queue(self) -> QueueState:
        self.polls += 1
        if self.polls <= 4:
            return QueueState(running=(f"other {self.polls}",), pending=("mine",))
        return QueueState(running=("mine",) if self.polls <= 6 else ())

    async def history(self, prompt_id: str) -> HistoryEntry:
        return HistoryEntry.read(prompt_id, {"status": {"status_str": "success"}})

    async def withdraw(self, prompt_id: str) -> None:
        self.withdrawn.append(prompt_id)


async def test_waiting_in_the_queue_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    server, patience = SlowMotion(monkeypatch), Patience(run_s=150, poll_s=0.001)
    [entry] = [item async for item in watch.watch(server, "mine", EventStream(None), patience, provider="comfyui")]
    assert isinstance(entry, HistoryEntry)
    assert server.withdrawn == []


async def test_running_does(monkeypatch: pytest.MonkeyPatch) -> None:
    server, patience = SlowMotion(monkeypatch), Patience(run_s=50, poll_s=0.001)
    with pytest.raises(AttemptTimeoutError, match="longer than 50 s"):
        await anext(watch.watch(server, "mine", EventStream(None), patience, provider="comfyui"))
    assert server.withdrawn == ["mine"]


async def test_a_dead_worker(comfyui: ComfyUIStandIn, client: ComfyUIClient) -> None:
    with pytest.raises(JobError) as caught:
        await wait(comfyui, client, Fault.STALLED)
    assert caught.value.details["reason"] == "stalled"
    assert "nothing runs" in caught.value.message
    assert comfyui.pending == []


async def test_a_queue_that_does_not_move(comfyui: ComfyUIStandIn, client: ComfyUIClient) -> None:
    comfyui.hold()
    comfyui.submit(sampler_graph(seed=8))
    await until(lambda: comfyui.running)
    with pytest.raises(JobError, match="has not moved"):
        await wait(comfyui, client, patience=Patience(poll_s=0.02, still_queue_s=0.1))
    assert comfyui.interrupts == []
    comfyui.release()


async def test_a_failed_job_has_an_entry_but_no_images(comfyui: ComfyUIStandIn, client: ComfyUIClient) -> None:
    entry = await wait(comfyui, client, Fault.EXECUTION_ERROR)
    assert not entry.succeeded
    with pytest.raises(JobError) as caught:
        await client.get_images(entry)
    error = caught.value
    assert error.message == (
        "ComfyUI failed in KSampler (node 3): RuntimeError: "
        "Error while deserializing header in sd_xl_base_1.0.safetensors: tensor(…)"
    )
    assert "/srv" not in json.dumps(error.to_dict())


# the client: cancelled


async def test_cancelling_a_request_at_any_moment_leaves_nothing_open(
    comfyui: ComfyUIStandIn, client: ComfyUIClient
) -> None:
    cancelled = 0
    for ticks in range(60):
        task = asyncio.create_task(client.get_queue())
        for _ in range(ticks):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
        cancelled += task.cancelled()
    assert cancelled
    await client.aclose()
    await until(lambda: comfyui.open_connections == 0)
    gc.collect()  # a transport that nobody closed fails the test


@pytest.mark.parametrize("times", [1, 2])
async def test_a_websocket_that_cannot_be_closed_in_time(
    comfyui: ComfyUIStandIn, client: ComfyUIClient, times: int
) -> None:
    """Unread frames keep the closing handshake from its end; the second cancellation comes while it is waited for."""

    transports: list[asyncio.Transport] = []

    async def listen() -> None:
        async with client.events("me") as events:
            assert events._connection is not None
            transports.append(events._connection.transport)
            await asyncio.Event().wait()

    task = asyncio.create_task(listen())
    await until(lambda: transports)
    comfyui.submit(sampler_graph(steps=20))
    await until(lambda: comfyui.finished)
    await asyncio.sleep(0.05)
    for _ in range(times):
        task.cancel()
        await asyncio.sleep(0.02)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert transports[0].is_closing()
    await until(lambda: comfyui.open_connections == 0)


# the client: reading


def test_history_entries_of_any_shape() -> None:
    images = [{"filename": "a.png", "subfolder": "s", "type": "temp"}, {"filename": "b.png"}, "c.png", {"x": 1}]
    entry = HistoryEntry.read("id", {"outputs": {"1": {"images": images, "animated": [True]}, "2": ["text"], "3": {}}})
    assert entry.files == (OutputFile("a.png", "s", "temp"), OutputFile("b.png", "", "output"))
    assert not entry.succeeded
    assert HistoryEntry.read("id", {"status": {"messages": [["x", None]]}, "prompt": []}).last_message == (
        "unknown",
        {},
    )


def test_the_queue_is_read_by_number() -> None:
    state = QueueState.read(
        {"queue_running": None, "queue_pending": [[3, "c"], [1, "a"], "x", [2, "b"], [], ["4", "d"]]}
    )
    assert state.pending == ("a", "b", "c")
    assert "b" in state
    assert "z" not in state


@pytest.mark.parametrize(
    ("text", "tidied"),
    [
        ("cannot open /srv/comfy/models/x.safetensors: gone\nmore", "cannot open x.safetensors: gone"),
        ("in 'C:\\Users\\Kim Lee\\ComfyUI\\main.py' line 3", "in 'main.py' line 3"),
        ("see https://example.com/a/b and 1/2", "see https://example.com/a/b and 1/2"),
        ("got tensor([[1., 2.],\n [3., 4.]])", "got tensor(…)"),
        ("x" * 400, "x" * 299 + "…"),
        ("  \n", ""),
        (None, "None"),
    ],
)
def test_tidying(text: object, tidied: str) -> None:
    assert tidy(text) == tidied


@pytest.mark.parametrize("message", [b"\x00\x00\x00\x01", "{", "[]", '{"type": "x"}', '{"data": []}'])
def test_frames_that_are_no_events(message: str | bytes) -> None:
    assert parse_event(message) is None
