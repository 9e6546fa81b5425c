"""The provider with a photo to start from: checked first, uploaded just before the job, never for one that is found."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from providers.base import ImageProviderResponse, Photo, ProviderConfig
from providers.errors import (
    AuthenticationError,
    OverloadedError,
    RejectedError,
    ServerError,
    SparklioError,
    UnreachableError,
    WorkflowError,
)
from providers.media.comfyui import ComfyUIProvider
from providers.media.comfyui.watch import Patience
from providers.media.comfyui.workflow import packaged_workflows
from tests.standins.comfyui import ComfyUIStandIn, Fault

WORKFLOW = "product_photo_v1"
TEAL = (20, 150, 140)


def photo_of(color: tuple[int, int, int], kind: str = "PNG") -> Photo:
    file = io.BytesIO()
    Image.new("RGB", (120, 160), color).save(file, kind)
    return Photo(file.getvalue(), f"image/{kind.lower()}")


PHOTO = photo_of(TEAL)
WISH: dict[str, Any] = {"workflow": WORKFLOW, "photo": PHOTO, "steps": 2}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    quick = Patience(poll_s=0.03, idle_queue_s=0.15, still_queue_s=20, outage_s=10)
    monkeypatch.setattr(ComfyUIProvider, "patience", quick)


@pytest.fixture
def comfyui() -> Iterator[ComfyUIStandIn]:
    with ComfyUIStandIn(history_delay=0.005) as stand_in:
        yield stand_in


@pytest.fixture
async def provider(comfyui: ComfyUIStandIn) -> AsyncIterator[ComfyUIProvider]:
    provider = make(comfyui.url)
    yield provider
    await provider.aclose()


def make(url: str, folder: Path | None = None) -> ComfyUIProvider:
    values = {
        "COMFYUI_BASE_URL": url,
        "COMFYUI_TIMEOUT": "20",
        "COMFYUI_WORKFLOW_DIR": str(folder) if folder else None,
    }
    return ComfyUIProvider(ProviderConfig("comfyui", values))


def ground(response: ImageProviderResponse) -> tuple[int, ...]:
    """The colour in a corner of the image: the stand-in paints it in the mean colour of the photo that it loaded."""
    with Image.open(io.BytesIO(response.images[0].content)) as image:
        pixel = image.getpixel((image.width - 2, image.height - 2))
    assert isinstance(pixel, tuple)
    return pixel


async def failure(provider: ComfyUIProvider, **options: Any) -> SparklioError:
    with pytest.raises(SparklioError) as caught:
        await provider.generate("a jar", "product_shot", {**WISH, **options})
    assert caught.value.message
    assert caught.value.hint
    return caught.value


async def test_the_image_starts_from_the_photo(comfyui: ComfyUIStandIn, provider: ComfyUIProvider) -> None:
    response = await provider.generate("a jar", "product_shot", {**WISH, "aspect_ratio": "16:9", "seed": 4})
    name = f"sparklio_{hashlib.sha256(PHOTO.content).hexdigest()[:32]}.png"
    assert comfyui.uploads == [name]
    assert comfyui.files["input", "", name] == PHOTO.content
    [sent] = comfyui.prompts
    assert sent["prompt"]["10"]["inputs"]["image"] == name
    assert sent["prompt"]["11"]["inputs"]["target_width"] == 1344
    assert ground(response) == TEAL
    assert (response.images[0].width, response.images[0].height) == (1344, 768)
    assert response.images[0].seed == 4
    assert response.images[0].meta["workflow"] == WORKFLOW
    paths = [path for method, path in comfyui.requests if method == "POST"]
    assert paths == ["/upload/image", "/prompt"]


async def test_the_same_photo_is_the_same_file_and_another_another(
    comfyui: ComfyUIStandIn, provider: ComfyUIProvider
) -> None:
    for photo in (PHOTO, PHOTO, photo_of((200, 10, 10)), photo_of(TEAL, "JPEG"), photo_of(TEAL, "WEBP")):
        await provider.generate("a jar", "product_shot", {**WISH, "photo": photo})
    assert len(comfyui.uploads) == 5
    assert comfyui.uploads[0] == comfyui.uploads[1]
    assert len({name for kind, _, name in comfyui.files if kind == "input"}) == 4
    assert [name.rpartition(".")[2] for name in comfyui.uploads[2:]] == ["png", "jpg", "webp"]


async def test_the_server_may_choose_another_place(
    comfyui: ComfyUIStandIn, provider: ComfyUIProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it answers is what the workflow gets."""
    place = provider._client.upload_image

    async def elsewhere(content: bytes, filename: str, *, overwrite: bool) -> Any:
        return await place(content, f"renamed_{filename}", subfolder="clipspace", overwrite=overwrite)

    monkeypatch.setattr(provider._client, "upload_image", elsewhere)
    response = await provider.generate("a jar", "product_shot", WISH)
    name = comfyui.prompts[0]["prompt"]["10"]["inputs"]["image"]
    assert name.startswith("clipspace/renamed_sparklio_")
    assert ground(response) == TEAL


async def test_what_does_not_go_together_is_said_before_anything_is_sent(
    comfyui: ComfyUIStandIn, provider: ComfyUIProvider
) -> None:
    without = await failure(provider, photo=None)
    assert isinstance(without, WorkflowError)
    assert "none is given" in without.message
    assert "photo: true" in without.hint
    ignored = await failure(provider, workflow="hero_v1")
    assert isinstance(ignored, WorkflowError)
    assert "no @image slot" in ignored.message
    assert f"route photos to {WORKFLOW} with `photo: true`" in ignored.hint
    assert isinstance(await failure(provider, photo="/etc/passwd"), RejectedError)
    for options, error in (({"photo": None}, without), ({"workflow": "hero_v1"}, ignored)):
        with pytest.raises(WorkflowError) as caught:
            await provider.check("product_shot", {**WISH, **options})
        assert caught.value.to_dict() == error.to_dict()
    await provider.check("product_shot", WISH)
    assert comfyui.requests == []


async def test_the_hint_names_the_workflows_that_there_are(comfyui: ComfyUIStandIn, tmp_path: Path) -> None:
    graph = json.loads((packaged_workflows() / f"{WORKFLOW}.json").read_text(encoding="utf-8"))
    (tmp_path / "mine.json").write_text(json.dumps(graph), encoding="utf-8")
    (tmp_path / "broken.json").write_text("{", encoding="utf-8")
    provider = make(comfyui.url, tmp_path)
    assert f"route photos to mine or {WORKFLOW} " in (await failure(provider, workflow="hero_v1")).hint
    graph["10"]["_meta"]["title"] = "Product Photo"
    (tmp_path / f"{WORKFLOW}.json").write_text(json.dumps(graph), encoding="utf-8")
    (tmp_path / "mine.json").unlink()
    assert "put @image into the title" in (await failure(provider, workflow="hero_v1")).hint


async def test_an_error_never_shows_the_photo(comfyui: ComfyUIStandIn, provider: ComfyUIProvider) -> None:
    error = await failure(provider, steps=-1)
    assert isinstance(error, RejectedError)
    assert "PNG" not in json.dumps(error.to_dict())
    assert "PNG" not in repr(PHOTO)


# one upload for one submission


async def test_a_finished_job_of_the_same_key_uploads_nothing(
    comfyui: ComfyUIStandIn, provider: ComfyUIProvider
) -> None:
    key = {**WISH, "idempotency_key": "run-1"}
    first = await provider.generate("a jar", "product_shot", key)
    again = await provider.generate("a jar", "product_shot", key)
    assert again.images == first.images
    assert len(comfyui.uploads) == len(comfyui.accepted) == 1


async def test_a_job_under_way_uploads_nothing(comfyui: ComfyUIStandIn, provider: ComfyUIProvider) -> None:
    comfyui.hold()
    key = {**WISH, "idempotency_key": "run-2"}
    stream = provider.stream("a jar", "product_shot", key)
    await anext(stream)
    await stream.aclose()
    assert comfyui.running
    comfyui.release()
    response = await provider.generate("a jar", "product_shot", key)
    assert ground(response) == TEAL
    assert len(comfyui.uploads) == len(comfyui.accepted) == 1


async def test_a_lost_job_is_submitted_again_with_its_photo(comfyui: ComfyUIStandIn, provider: ComfyUIProvider) -> None:
    """The server may have come back without its files."""
    comfyui.inject(Fault.VANISH)
    stream = provider.stream("a jar", "product_shot", {**WISH, "idempotency_key": "run-3"})
    await anext(stream)
    comfyui.files.clear()
    chunks = [chunk async for chunk in stream]
    response = chunks[-1].response
    assert response is not None
    assert ground(response) == TEAL
    assert len(comfyui.uploads) == len(comfyui.accepted) == 2


async def test_a_prompt_that_is_sent_twice_has_one_upload(comfyui: ComfyUIStandIn, provider: ComfyUIProvider) -> None:
    comfyui.inject(Fault.LOST_POST)
    await provider.generate("a jar", "product_shot", WISH)
    assert (len(comfyui.prompts), len(comfyui.uploads)) == (2, 1)


# faults of the upload


@pytest.mark.parametrize(
    ("status", "kind"),
    [(500, ServerError), (503, OverloadedError), (413, RejectedError), (403, AuthenticationError)],
)
async def test_an_upload_that_is_refused(
    comfyui: ComfyUIStandIn, provider: ComfyUIProvider, status: int, kind: type[SparklioError]
) -> None:
    comfyui.answer_next("/upload/image", status)
    error = await failure(provider)
    assert type(error) is kind
    assert "/upload/image" in error.message
    assert comfyui.prompts == []
    assert ground(await provider.generate("a jar", "product_shot", WISH)) == TEAL


async def test_an_upload_that_is_cut(comfyui: ComfyUIStandIn, provider: ComfyUIProvider) -> None:
    comfyui.cut_uploads()
    error = await failure(provider)
    assert isinstance(error, UnreachableError)
    assert error.retryable
    assert comfyui.prompts == []
    assert ground(await provider.generate("a jar", "product_shot", WISH)) == TEAL


async def test_an_upload_that_something_else_answers(comfyui: ComfyUIStandIn, provider: ComfyUIProvider) -> None:
    comfyui.answer_next("/upload/image", 200)
    error = await failure(provider)
    assert isinstance(error, RejectedError)
    assert "is not ComfyUI" in error.message


async def test_a_photo_that_is_gone_when_the_workflow_is_checked(
    comfyui: ComfyUIStandIn, provider: ComfyUIProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = provider._client.upload_image

    async def lose(*words: Any, **options: Any) -> Any:
        file = await upload(*words, **options)
        comfyui.files.clear()
        return file

    monkeypatch.setattr(provider._client, "upload_image", lose)
    error = await failure(provider)
    assert isinstance(error, RejectedError)
    assert "LoadImage" in error.message
    assert "Invalid image file" in error.message
