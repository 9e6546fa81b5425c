"""Whole runs against a ComfyUI that misbehaves: each fault is healed, or one typed error from which resume goes on."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import pytest
from PIL import Image

from providers.errors import (
    AttemptTimeoutError,
    JobError,
    ModelNotFoundError,
    OverloadedError,
    RejectedError,
    ServerError,
    SparklioError,
    UnreachableError,
    WorkflowError,
)
from providers.media.comfyui import ComfyUIProvider
from providers.media.comfyui.errors import LostJobError, MissingImageError, UnansweredError
from providers.media.comfyui.watch import Patience
from providers.media.comfyui.workflow import packaged_workflows
from routing import attempts
from sparklio import Run, Sparklio
from tests.faults import failure, going_on, one_image_route, routed, whole_run
from tests.standins.comfyui import ComfyUIStandIn, Fault
from tests.standins.ollama import OllamaStandIn
from tests.standins.server import free_port
from tests.waiting import until

pytestmark = pytest.mark.usefixtures("live")

HEALED = {  # fault -> (sendings of the prompt, jobs)
    Fault.OVERLOADED_503: (2, 1),
    Fault.ERROR_500: (2, 1),
    Fault.AMBIGUOUS_POST: (1, 1),
    Fault.LOST_POST: (2, 1),
    Fault.SLOW: (1, 1),
    Fault.VANISH: (2, 2),
    Fault.RESTART: (2, 2),
    Fault.WS_CLOSED: (1, 1),
    Fault.WS_REFUSED: (1, 1),
    Fault.WS_SILENT: (1, 1),
}
FATAL: dict[Fault, tuple[type[SparklioError], int, str, str]] = {  # fault -> error, sendings, reason, word of its hint
    Fault.OVERLOADED_503: (OverloadedError, 3, "", "again"),
    Fault.ERROR_500: (ServerError, 3, "", "log"),
    Fault.LOST_POST: (UnansweredError, 6, "", "ComfyUI still runs"),
    Fault.OK_200_WITH_NODE_ERRORS: (RejectedError, 1, "", "mend it"),
    Fault.STALLED: (JobError, 1, "stalled", "restart ComfyUI"),
    Fault.EXECUTION_ERROR: (JobError, 1, "failed", "log"),
    Fault.OUT_OF_MEMORY: (JobError, 1, "out_of_memory", "GPU is out of memory"),
    Fault.INTERRUPTED: (JobError, 1, "interrupted", "start it again"),
    Fault.VANISH: (LostJobError, 2, "lost", "restarted"),
    Fault.RESTART: (LostJobError, 2, "lost", "restarted"),
    Fault.IMAGE_404: (MissingImageError, 1, "missing_image", "@filename_prefix"),
}
ELSEWHERE = {Fault.HANGS, Fault.NO_IMAGES}
"""With tests of their own."""

OF_THE_SERVER = ("/srv/comfyui", "tensor([", "0.1250", "outer_sample", "executor.execute", "current_inputs")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, comfyui: ComfyUIStandIn, tmp_path: Path) -> None:
    monkeypatch.setenv("SPARKLIO_CONFIG", str(routed(tmp_path, media_routing=one_image_route)))
    monkeypatch.setattr(attempts, "_BACKOFF", lambda state: 0)
    quick = Patience(poll_s=0.03, idle_queue_s=0.15, still_queue_s=20, outage_s=10)
    monkeypatch.setattr(ComfyUIProvider, "patience", quick)
    comfyui.history_delay = 0.005
    comfyui.slow_seconds = 0.2
    comfyui.previews = False


def own_workflow(**changes: dict[str, Any]) -> None:
    """``./workflows/mine.json``: the packaged product shot, some of its nodes changed."""
    graph = json.loads((packaged_workflows() / "product_shot_v1.json").read_text(encoding="utf-8"))
    for node, change in changes.items():
        graph[node.lstrip("n")] |= change
    folder = Path("workflows")
    folder.mkdir(exist_ok=True)
    (folder / "mine.json").write_text(json.dumps(graph), encoding="utf-8")


def picture(run: Run) -> bytes:
    path = Path(unquote(urlparse(run.result["image"]["url"]).path))
    with Image.open(path) as image:
        assert image.size == (run.result["image"]["width"], run.result["image"]["height"])
    return path.read_bytes()


def test_every_fault_of_the_standin_is_in_a_table() -> None:
    assert set(HEALED) | set(FATAL) | ELSEWHERE == set(Fault)


@pytest.mark.parametrize("fault", HEALED)
async def test_once_is_healed(comfyui: ComfyUIStandIn, ollama: OllamaStandIn, fault: Fault) -> None:
    sendings, jobs = HEALED[fault]
    comfyui.restart_seconds = 0.1
    comfyui.inject(fault)
    async with Sparklio() as studio:
        run = await whole_run(studio)
    assert picture(run)
    assert (len(comfyui.prompts), len(comfyui.accepted)) == (sendings, jobs)
    assert len(set(comfyui.accepted)) == jobs, "no id is submitted twice"
    assert comfyui.executed == comfyui.accepted[-1:]
    assert set(ollama.by_task.values()) == {1}


@pytest.mark.parametrize("fault", [Fault.WS_REFUSED, Fault.WS_SILENT, Fault.WS_CLOSED, Fault.AMBIGUOUS_POST])
async def test_for_ever_is_healed_too(comfyui: ComfyUIStandIn, fault: Fault) -> None:
    comfyui.always(fault)
    async with Sparklio() as studio:
        await whole_run(studio)
    assert len(comfyui.accepted) == 1


@pytest.mark.parametrize("fault", FATAL)
async def test_for_ever_is_one_typed_error(comfyui: ComfyUIStandIn, ollama: OllamaStandIn, fault: Fault) -> None:
    kind, sendings, reason, hint = FATAL[fault]
    comfyui.step_delay = 0.01 if fault is Fault.OK_200_WITH_NODE_ERRORS else 0.0  # time enough to withdraw it
    comfyui.always(fault)
    async with Sparklio() as studio:
        failed = await failure(studio, kind)
        assert failed.error.details.get("reason", "") == reason
        assert hint in failed.error.hint
        assert len(comfyui.prompts) == sendings
        assert comfyui.pending == []
        assert not [word for word in OF_THE_SERVER if word in failed.shown]
        assert len(json.dumps(failed.error.to_dict())) < 2000
        comfyui.heal()
        run = await going_on(studio, ollama, failed.finished)
    assert picture(run)
    assert len(comfyui.prompts) == sendings + 1
    assert len(comfyui.executed) == (2 if fault is Fault.IMAGE_404 else 1)


@pytest.mark.parametrize("silence", [Fault.WS_REFUSED, Fault.WS_SILENT, Fault.WS_CLOSED])
@pytest.mark.parametrize(("fault", "reason"), [(Fault.EXECUTION_ERROR, "failed"), (Fault.INTERRUPTED, "interrupted")])
async def test_an_end_that_no_websocket_tells_is_found_all_the_same(
    comfyui: ComfyUIStandIn, ollama: OllamaStandIn, fault: Fault, reason: str, silence: Fault
) -> None:
    comfyui.always(fault, silence)
    async with Sparklio() as studio:
        failed = await failure(studio, JobError)
        assert failed.error.details["reason"] == reason
        comfyui.heal()
        await going_on(studio, ollama, failed.finished)
    assert len(comfyui.prompts) == 2


# the workflow


async def test_a_missing_checkpoint(comfyui: ComfyUIStandIn, ollama: OllamaStandIn) -> None:
    comfyui.checkpoints[:] = ["v1-5.safetensors"]
    async with Sparklio() as studio:
        failed = await failure(studio, ModelNotFoundError)
        assert "models/checkpoints" in failed.error.hint
        assert "v1-5.safetensors" in failed.error.hint
        assert "sd_xl_base_1.0.safetensors" in failed.error.message
        comfyui.checkpoints.append("sd_xl_base_1.0.safetensors")
        await going_on(studio, ollama, failed.finished)
    assert len(comfyui.accepted) == 1


@pytest.mark.parametrize(
    ("broken", "hint"),
    [
        ({"n8": {"class_type": "MagicUpscale"}}, "custom node"),
        (
            {"n9": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["4", 2]}, "_meta": {}}},
            "SaveImage",
        ),
        ({"n8": {"inputs": {"samples": ["3", 0]}}}, "mend it"),
        ({"n8": {"inputs": {"samples": ["3", 0], "vae": ["4", 0]}}}, "mend it"),
        ({"n5": {"inputs": {"width": 1024, "height": 1024, "batch_size": 0}}}, "mend it"),
    ],
    ids=["unknown class", "no output", "missing input", "wrong link", "value out of range"],
)
async def test_a_workflow_that_does_not_validate(
    comfyui: ComfyUIStandIn, ollama: OllamaStandIn, broken: dict[str, Any], hint: str
) -> None:
    own_workflow(**broken)
    async with Sparklio() as studio:
        failed = await failure(studio, RejectedError, image={"workflow": "mine"})
        assert hint in failed.error.hint
        assert len(comfyui.prompts) == 1
        own_workflow()
        run = await going_on(studio, ollama, failed.finished)
    assert run.result["image"]["workflow"] == "mine"
    assert len(comfyui.accepted) == 1


async def test_a_fully_cached_prompt_has_its_image_all_the_same(comfyui: ComfyUIStandIn) -> None:
    async with Sparklio() as studio:
        first = await whole_run(studio, run_id="one", image={"seed": 7})
        comfyui.files.clear()
        second = await whole_run(studio, run_id="two", image={"seed": 7})
    assert picture(first) == picture(second)
    assert first.result["image"]["seed"] == second.result["image"]["seed"] == 7
    assert len(comfyui.executed) == 2


async def test_runs_have_seeds_of_their_own(comfyui: ComfyUIStandIn) -> None:
    async with Sparklio() as studio:
        runs = [await whole_run(studio, run_id=name) for name in ("one", "two")]
    assert runs[0].result["image"]["seed"] != runs[1].result["image"]["seed"]


async def test_success_without_images(comfyui: ComfyUIStandIn) -> None:
    comfyui.always(Fault.NO_IMAGES)
    async with Sparklio() as studio:
        failed = await failure(studio, WorkflowError)
    assert "SaveImage" in failed.error.hint


# time limits


async def test_an_image_that_takes_too_long_is_stopped(
    comfyui: ComfyUIStandIn, ollama: OllamaStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMFYUI_TIMEOUT", "2")
    comfyui.always(Fault.HANGS)
    async with Sparklio() as studio:
        failed = await failure(studio, AttemptTimeoutError)
    assert "COMFYUI_TIMEOUT" in failed.error.hint
    assert comfyui.interrupts == [{"prompt_id": comfyui.accepted[0]}], "our own job, and nobody else's"
    monkeypatch.delenv("COMFYUI_TIMEOUT")
    comfyui.heal()
    async with Sparklio() as studio:
        await going_on(studio, ollama, failed.finished)
    assert len(comfyui.accepted) == 2


async def test_somebody_else_s_image_does_not_count(comfyui: ComfyUIStandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMFYUI_TIMEOUT", "30")
    monkeypatch.setenv("GATEWAY_TIMEOUT_LIVE", "30")
    graph = json.loads((packaged_workflows() / "product_shot_v1.json").read_text(encoding="utf-8"))
    comfyui.hold()
    other = comfyui.submit(graph)
    async with Sparklio() as studio:
        run = asyncio.create_task(whole_run(studio))
        await until(lambda: comfyui.pending)
        await asyncio.sleep(0.5)  # longer than an idle queue would be borne
        assert not run.done()
        comfyui.release()
        await run
    assert comfyui.executed[0] == other
    assert comfyui.interrupts == []


async def test_comfyui_stays_away(
    comfyui: ComfyUIStandIn, ollama: OllamaStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = Patience(poll_s=0.03, outage_s=0.2)
    monkeypatch.setattr(ComfyUIProvider, "patience", short)
    comfyui.restart_seconds = 60
    comfyui.inject(Fault.RESTART)
    async with Sparklio() as studio:
        failed = await failure(studio, UnansweredError)
        comfyui._down_until = 0.0
        await going_on(studio, ollama, failed.finished)
    assert len(comfyui.executed) == 1


async def test_comfyui_is_not_running(
    comfyui: ComfyUIStandIn, ollama: OllamaStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMFYUI_BASE_URL", f"http://127.0.0.1:{free_port()}")
    async with Sparklio() as studio:
        failed = await failure(studio, UnreachableError)
        assert "COMFYUI_BASE_URL" in failed.error.hint
    monkeypatch.setenv("COMFYUI_BASE_URL", comfyui.url)
    async with Sparklio() as studio:
        await going_on(studio, ollama, failed.finished)


async def test_a_server_that_accepts_and_never_speaks(
    comfyui: ComfyUIStandIn, ollama: OllamaStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    hole = await asyncio.start_server(mute, "127.0.0.1", 0)
    monkeypatch.setenv("COMFYUI_BASE_URL", f"http://127.0.0.1:{hole.sockets[0].getsockname()[1]}")
    monkeypatch.setattr("providers.media.comfyui.client.READ_TIMEOUT_S", 0.2)
    async with Sparklio() as studio:
        failed = await failure(studio, UnansweredError)
    hole.close()
    await hole.wait_closed()
    monkeypatch.setenv("COMFYUI_BASE_URL", comfyui.url)
    async with Sparklio() as studio:
        await going_on(studio, ollama, failed.finished)


# plain HTTP


@pytest.mark.parametrize("path", ["/queue", "/history", "/view", "/prompt"])
@pytest.mark.parametrize("status", [500, 503])
async def test_one_bad_answer_of_any_route_is_healed(comfyui: ComfyUIStandIn, path: str, status: int) -> None:
    comfyui.answer_next(path, status)
    async with Sparklio() as studio:
        await whole_run(studio)
    assert len(comfyui.accepted) == 1


async def test_only_the_run_s_own_history_is_asked(comfyui: ComfyUIStandIn) -> None:
    async with Sparklio() as studio:
        await whole_run(studio)
    asked = {path for _, path in comfyui.requests if path.startswith("/history")}
    assert f"/history/{comfyui.accepted[0]}" in asked
    assert all(len(path) == len("/history/") + 36 for path in asked)


async def test_a_failed_image_is_not_tried_again_on_the_same_route(comfyui: ComfyUIStandIn) -> None:
    """The packaged rule for every other kind is the one for product shots too."""
    comfyui.always(Fault.EXECUTION_ERROR)
    async with Sparklio() as studio:
        failed = await failure(studio, JobError)
    assert len(comfyui.prompts) == len(failed.error.details["attempts"]) == 1


async def test_a_success_without_images_can_be_resumed(
    comfyui: ComfyUIStandIn, ollama: OllamaStandIn, tmp_path: Path
) -> None:
    comfyui.inject(Fault.NO_IMAGES)
    async with Sparklio(config=routed(tmp_path, media_routing=one_image_route)) as studio:
        failed = await failure(studio, WorkflowError)
        await going_on(studio, ollama, failed.finished)
