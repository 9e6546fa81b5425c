"""The media gateway over a scripted backend."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from typing import Any

import pytest

from providers.base import GeneratedImage, ImageChunk, ImageProviderResponse
from providers.errors import JobError, ProviderError, UnreachableError
from routing import attempts
from routing.contracts import ImageRequest, Progress
from routing.image_store import ImageStore
from routing.media_gateway import MediaGateway
from routing.provider_config import ProviderConfigFile
from routing.router import ImageRoute, Router


class ScriptedImages:
    """Fails with the errors of its script, one a call, then makes an image."""

    def __init__(self, *script: ProviderError) -> None:
        self.script = list(script)
        self.calls: list[tuple[ImageRoute, Mapping[str, Any]]] = []

    async def check(self, route: ImageRoute, request: ImageRequest, options: Mapping[str, Any]) -> None: ...

    def goes_on(self, provider: str) -> bool:
        return False

    async def cancel(self, provider: str, idempotency_key: str) -> None: ...

    def fingerprint(self, route: ImageRoute, options: Mapping[str, Any]) -> dict[str, Any]:
        return {}

    async def stream(
        self, route: ImageRoute, request: ImageRequest, options: Mapping[str, Any]
    ) -> AsyncGenerator[ImageChunk, None]:
        self.calls.append((route, options))
        yield ImageChunk(step=1, steps=2)
        if self.script:
            raise self.script.pop(0)
        image = GeneratedImage(b"bytes", 64, 32, 7, meta={"workflow": route.workflow})
        yield ImageChunk(response=ImageProviderResponse(route.provider, (image,)))

    async def prepare(self) -> None: ...

    async def aclose(self) -> None: ...


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "_BACKOFF", lambda state: 0)


def _gateway(backend: ScriptedImages, tmp_path: Path) -> MediaGateway:
    rules = [
        {"kind": "hero", "provider": "a", "workflow": "one", "options": {"negative_prompt": "logo", "steps": 9}},
        {"provider": "b", "workflow": "two", "priority": 200},
    ]
    config = ProviderConfigFile.model_validate(
        {"providers": {"media": {"active": ["a", "b"]}}, "media_routing": {"image": rules}}
    )
    router = Router(config, lambda family, name: None)
    return MediaGateway(router, backend, ImageStore(tmp_path / "images"), mode="live")


async def test_answer_has_the_contract_s_fields_and_its_url_opens(tmp_path: Path) -> None:
    gateway = _gateway(ScriptedImages(), tmp_path)
    heard: list[Progress] = []
    request = ImageRequest.model_validate({"provider": "auto", "kind": "hero", "prompt": "p", "job": False})
    answer = await gateway.generate_image(request, heard.append)
    body = answer.model_dump()
    assert set(body) == {"provider", "images", "meta"}
    assert set(body["images"][0]) == {"id", "url", "width", "height", "seed", "meta"}
    assert gateway.store.path(answer.images[0].id).read_bytes() == b"bytes"
    assert answer.images[0].url == gateway.store.path(answer.images[0].id).as_uri()
    assert [(progress.kind, progress.step, progress.steps) for progress in heard] == [("image", 1, 2)]


async def test_the_request_s_options_win_over_the_route_s_and_defaults_do_not(tmp_path: Path) -> None:
    backend = ScriptedImages()
    gateway = _gateway(backend, tmp_path)
    await gateway.generate_image(ImageRequest(kind="hero", prompt="p"))
    request = {"kind": "hero", "prompt": "p", "options": {"negative_prompt": "text", "workflow": "mine"}}
    await gateway.generate_image(ImageRequest.model_validate(request))
    (_, first), (_, second) = backend.calls
    assert (first["negative_prompt"], first["steps"], first["workflow"]) == ("logo", 9, "one")
    assert (second["negative_prompt"], second["steps"], second["workflow"]) == ("text", 9, "mine")


async def test_every_attempt_of_a_request_has_the_same_idempotency_key(tmp_path: Path) -> None:
    backend = ScriptedImages(UnreachableError("gone", provider="a"))
    answer = await _gateway(backend, tmp_path).generate_image(ImageRequest(kind="hero", prompt="p"))
    assert len({options["idempotency_key"] for _, options in backend.calls}) == 1
    assert [attempt.outcome for attempt in answer.meta.attempts] == ["provider_unreachable", "ok"]


async def test_a_failed_job_goes_to_the_next_route_and_then_out(tmp_path: Path) -> None:
    backend = ScriptedImages(JobError("oom", provider="a"))
    answer = await _gateway(backend, tmp_path).generate_image(ImageRequest(kind="hero", prompt="p"))
    assert answer.provider == "b"
    with pytest.raises(JobError) as caught:
        await _gateway(ScriptedImages(JobError("x", provider="b")), tmp_path).generate_image(ImageRequest(prompt="p"))
    assert caught.value.request_id
    assert caught.value.details["attempts"][0]["outcome"] == "image_job_failed"
