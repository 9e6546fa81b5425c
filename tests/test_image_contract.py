"""One contract for all image providers, each against a local server that speaks its vendor's wire format.

A new provider joins by a row in ``VENDORS``, a stand-in, and a :class:`Desk` where that stand-in keeps other books.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import traceback
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from providers.base import GeneratedImage, ImageChunk, ImageProvider, ImageProviderResponse, Photo
from providers.errors import (
    AttemptTimeoutError,
    AuthenticationError,
    ConfigError,
    EmptyAnswerError,
    JobError,
    ModelNotFoundError,
    OverloadedError,
    PromptTooLongError,
    ProviderError,
    RefusedError,
    RejectedError,
    ServerError,
    UnreachableError,
    WorkflowError,
)
from providers.media.comfyui import ComfyUIProvider
from providers.media.comfyui.errors import UnansweredError, UnusableImageError
from providers.media.comfyui.watch import Patience
from providers.registry import image_provider, known_providers
from routing.contracts import ImageOptions, ImageRequest
from routing.gateways import build_gateways
from routing.settings import load_settings
from tests.standins.comfyui import ComfyUIStandIn
from tests.standins.comfyui import Fault as HomeFault
from tests.standins.google import GoogleStandIn
from tests.standins.openai import OpenAIStandIn
from tests.standins.pictures import drawn, picture_format, picture_size
from tests.standins.rented import IMAGES
from tests.standins.server import free_port
from tests.waiting import until

PHOTO = Photo(drawn(80, 60, colour=(180, 60, 40), form="JPEG"), "image/jpeg")
WORDS = "초코 프로틴 한 병, 흰 배경"

FAULTS: Mapping[str, type[ProviderError]] = {
    "status_400": RejectedError,
    "status_401": AuthenticationError,
    "status_403": AuthenticationError,
    "status_404": ModelNotFoundError,
    "status_429": OverloadedError,
    "status_500": ServerError,
    "status_503": OverloadedError,
    "quota": RejectedError,
    "context_length": PromptTooLongError,
    "redirect": RejectedError,
    "malformed": ServerError,
    "half_json": ServerError,
    "cut": UnreachableError,
    "image_refused": RefusedError,
    "image_prohibited": RefusedError,
    "no_image": EmptyAnswerError,
    "broken_image": JobError,
}
"""Each fault of the stand-ins, and the error that it becomes whoever the vendor is."""


class Desk:
    """A stand-in as the contract speaks of it; this one is of rented services, which all keep the same books."""

    faults: ClassVar[frozenset[str]] = frozenset(FAULTS) | {"hang", "stall"}
    leaves: ClassVar[Mapping[str, type[ProviderError]]] = {}
    """Errors that differ from those in :data:`FAULTS`."""

    def __init__(self, server: Any) -> None:
        self.server = server

    @property
    def url(self) -> str:
        return str(self.server.url)

    @property
    def key(self) -> str:
        return str(self.server.key)

    @property
    def orders(self) -> list[Any]:
        """What may have to be paid for, as it came."""
        return list(self.server.images)

    @property
    def photos(self) -> list[bytes]:
        return list(self.server.photos)

    @property
    def at_work(self) -> int:
        """Calls that a client waits for."""
        return int(self.server.active)

    @property
    def key_came_always(self) -> bool:
        return bool(self.server.headers) and all(self.key in str(headers) for headers in self.server.headers)

    def fail(self, fault: str) -> None:
        self.server.retry_after = "7"
        self.server.fail(fault, task=IMAGES)

    def hold(self) -> None:
        """Let the next image never end."""
        self.fail("stall")

    def slow_down(self, seconds: float) -> None:
        self.server.delay_s = seconds

    async def see_off(self) -> None:
        """A client has gone in the middle of a held image: its connection is closed."""
        await until(lambda: self.server.open_connections == 0)


class ComfyUIDesk(Desk):
    """ComfyUI is at home: a user and password of its URL are the key, workflows and checkpoints are the model."""

    faults = frozenset(FAULTS) - {"status_404", "quota", "context_length", "half_json"} - {
        "image_refused", "image_prohibited",
    } | {"hang"}  # fmt: skip
    leaves: ClassVar[Mapping[str, type[ProviderError]]] = {
        "malformed": RejectedError,
        "cut": UnansweredError,
        "no_image": WorkflowError,
        "broken_image": UnusableImageError,
    }
    _queued: ClassVar[Mapping[str, tuple[HomeFault, ...]]] = {
        "hang": (HomeFault.HANGS,),
        "cut": (HomeFault.LOST_POST,) * 2,  # it looks whether the first arrived and sends it again
        "no_image": (HomeFault.NO_IMAGES,),
    }
    key = "home-password-0123456789"

    def __init__(self, server: Any) -> None:
        super().__init__(server)
        server.history_delay = 0.005
        server.previews = False
        self._authorized: list[bool] = []
        server.app.on_response_prepare.append(self._note)

    async def _note(self, request: Any, _response: Any) -> None:
        self._authorized.append("Authorization" in request.headers)

    @property
    def url(self) -> str:
        return str(self.server.url).replace("://", f"://sparklio:{self.key}@")

    @property
    def orders(self) -> list[Any]:
        """The jobs that it took on; the others make no image."""
        sent = {body["prompt_id"]: body for body in self.server.prompts}
        return [sent[prompt_id] for prompt_id in self.server.accepted]

    @property
    def photos(self) -> list[bytes]:
        nodes = [node for body in self.orders for node in body["prompt"].values()]
        names = [node["inputs"]["image"] for node in nodes if node["class_type"] == "LoadImage"]
        return [self.server.files["input", "", name] for name in names]

    @property
    def at_work(self) -> int:
        return len(self.server._sockets)

    @property
    def key_came_always(self) -> bool:
        return bool(self._authorized) and all(self._authorized)

    def fail(self, fault: str) -> None:
        if fault in self._queued:
            self.server.inject(*self._queued[fault])
        elif fault == "broken_image":
            self.server._draw = self._half
        else:
            status = {"redirect": 307, "malformed": 200}.get(fault) or int(fault.removeprefix("status_"))
            self.server.answer_next("/prompt", status, headers={"Retry-After": "7", "Location": "/elsewhere"})

    def _half(self, graph: Any, node: str) -> bytes:
        del self.server._draw
        whole: bytes = self.server._draw(graph, node)
        return whole[: len(whole) // 2]

    def hold(self) -> None:
        self.server.hold()

    def slow_down(self, seconds: float) -> None:
        self.server.seconds_per_image = seconds / 10

    async def see_off(self) -> None:
        """The job goes on by design: it was accepted, and asking again with the same key picks it up."""
        await until(lambda: self.at_work == 0)
        assert self.server.running
        assert not self.server.interrupts
        self.server.release()
        await until(lambda: self.server.executed == self.server.accepted)


@dataclass(frozen=True)
class Vendor:
    """How a provider is pointed at its stand-in, and what it is asked for."""

    name: str
    prefix: str
    stand_in: type[Any]
    desk: type[Desk]
    model: Mapping[str, str]
    photo_model: Mapping[str, str]
    unknown: Mapping[str, str]
    extra: str | None = None


_MODEL, _UNHEARD = {"model": "test-image"}, {"model": "unheard-of"}
VENDORS = (
    Vendor("comfyui", "COMFYUI", ComfyUIStandIn, ComfyUIDesk, {"workflow": "hero_v1"},
           {"workflow": "product_photo_v1"}, {"workflow": "hero_v1", "checkpoint": "unheard-of"}),
    Vendor("dalle", "DALLE", OpenAIStandIn, Desk, _MODEL, _MODEL, _UNHEARD, "dalle"),
    Vendor("nanobanana", "NANOBANANA", GoogleStandIn, Desk, _MODEL, _MODEL, _UNHEARD, "nanobanana"),
)  # fmt: skip
RENTED = [vendor for vendor in VENDORS if vendor.extra]


@dataclass
class Place:
    """A vendor's stand-in and the provider that is pointed at it."""

    vendor: Vendor
    desk: Desk
    provider: ImageProvider

    def stream(self, **options: Any) -> AsyncGenerator[ImageChunk, None]:
        return self.provider.stream(WORDS, "hero", {**self.vendor.model, **options})

    async def response(self, **options: Any) -> ImageProviderResponse:
        return await self.provider.generate(WORDS, "hero", {**self.vendor.model, **options})

    async def draw(self, **options: Any) -> GeneratedImage:
        """The one image of a new order, which is whole and as large as it is told to be."""
        before = len(self.desk.orders)
        [image] = (await self.response(**options)).images
        assert picture_size(image.content) == (image.width, image.height)
        assert f"image/{(picture_format(image.content) or 'none').lower()}" == image.media_type
        assert len(self.desk.orders) == before + 1, "one attempt is one order"
        return image

    async def failure(self, **options: Any) -> ProviderError:
        with pytest.raises(ProviderError) as caught:
            await self.response(**options)
        error = caught.value
        assert error.provider == self.vendor.name
        assert error.message
        assert error.hint
        return error


def build(vendor: Vendor, url: str, folder: Path, **environ: str) -> ImageProvider:
    """The provider as a process would build it: from a routing file and the environment."""
    (folder / "provider_config.yaml").write_text(f"providers: {{media: {{active: [{vendor.name}]}}}}")
    settings = load_settings(environ={f"{vendor.prefix}_BASE_URL": url, **environ}, folder=folder)
    return image_provider(vendor.name)(settings.provider_config("media", vendor.name))


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    quick = Patience(poll_s=0.03, idle_queue_s=10, still_queue_s=20, outage_s=10)
    monkeypatch.setattr(ComfyUIProvider, "patience", quick)


@pytest.fixture(params=VENDORS, ids=lambda vendor: vendor.name)
def server(request: pytest.FixtureRequest) -> Iterator[tuple[Vendor, Desk]]:
    stand_in = request.param.stand_in()
    desk = request.param.desk(stand_in)
    with stand_in:
        yield request.param, desk


@pytest.fixture
async def place(server: tuple[Vendor, Desk], tmp_path: Path) -> AsyncGenerator[Place, None]:
    vendor, desk = server
    place = Place(vendor, desk, build(vendor, desk.url, tmp_path, **{f"{vendor.prefix}_API_KEY": desk.key}))
    yield place
    await place.provider.aclose()
    await until(lambda: desk.server.open_connections == desk.at_work == 0)


def each_vendor_s(faults: Iterable[str]) -> pytest.MarkDecorator:
    """Each vendor with each of these faults that it knows."""
    pairs = [(vendor, fault) for vendor in VENDORS for fault in faults if fault in {*vendor.desk.faults, "none"}]
    ids = [f"{vendor.name}-{fault}" for vendor, fault in pairs]
    return pytest.mark.parametrize(("server", "fault"), pairs, indirect=["server"], ids=ids)


rented_only = pytest.mark.parametrize("server", RENTED, indirect=True, ids=lambda vendor: vendor.name)


def test_every_image_provider_of_ours_is_held_to_the_contract() -> None:
    assert {vendor.name for vendor in VENDORS} == known_providers("media")


class TestImages:
    async def test_an_image_comes_with_its_facts(self, place: Place) -> None:
        image = await place.draw(seed=42)
        assert image.seed == 42
        assert image.meta["prompt"] == WORDS
        assert WORDS in json.dumps(place.desk.orders[-1], ensure_ascii=False)

    async def test_a_seed_is_drawn_where_none_is_asked(self, place: Place) -> None:
        seeds = {(await place.draw()).seed for _ in range(3)}
        assert len(seeds) == 3
        assert min(seeds) >= 0

    @pytest.mark.parametrize(
        ("ratio", "form"),
        [("16:9", (True, False)), ("1:1", (False, False)), ("9:16", (False, True))],
        ids=["16:9", "1:1", "9:16"],
    )
    async def test_the_form_is_the_one_that_was_asked(self, place: Place, ratio: str, form: tuple[bool, bool]) -> None:
        image = await place.draw(aspect_ratio=ratio)
        assert (image.width > image.height, image.width < image.height) == form

    async def test_width_and_height_choose_the_form_too(self, place: Place) -> None:
        image = await place.draw(width=1536, height=1024)
        assert 1.3 < image.width / image.height < 1.7

    async def test_a_photo_goes_along(self, place: Place) -> None:
        await place.draw(**place.vendor.photo_model, photo=PHOTO)
        assert place.desk.photos == [PHOTO.content]

    async def test_what_is_to_be_avoided_is_told(self, place: Place) -> None:
        image = await place.draw(negative_prompt="people, 글자")
        assert "people, 글자" in json.dumps(place.desk.orders[-1], ensure_ascii=False)
        assert (image.meta["prompt"], image.meta["negative_prompt"]) == (WORDS, "people, 글자")

    async def test_the_stream_is_steps_and_then_the_response(self, place: Place) -> None:
        chunks = [chunk async for chunk in place.stream(seed=7)]
        *steps, last = chunks
        assert [chunk.step for chunk in steps] == sorted({chunk.step for chunk in steps})
        assert all(0 < chunk.step <= chunk.steps and chunk.response is None for chunk in steps)
        assert last.response is not None
        assert last.response.provider == place.vendor.name
        assert [image.seed for image in last.response.images] == [7]

    async def test_half_a_character_does_not_break_the_order(self, place: Place) -> None:
        response = await place.provider.generate("a cup \ud83d", "hero", place.vendor.model)
        assert len(response.images) == len(place.desk.orders) == 1

    async def test_unknown_options_are_let_alone(self, place: Place) -> None:
        await place.draw(base_url="http://evil.example", api_key="stolen", n=9, COMFYUI_WORKFLOW_DIR="/etc")
        assert not [word for word in ("evil", "stolen", "/etc") if word in json.dumps(place.desk.orders[-1])]


class TestFaults:
    @each_vendor_s(FAULTS)
    async def test_a_fault_is_one_typed_error_and_the_next_order_is_well(self, place: Place, fault: str) -> None:
        place.desk.fail(fault)
        error = await place.failure(idempotency_key="run-1.image")
        assert type(error) is place.desk.leaves.get(fault, FAULTS[fault]), error
        assert error.images == (fault == "broken_image" and bool(place.vendor.extra)), "what was made is paid"
        assert error.retry_after == 7 if fault == "status_429" else error.retry_after in (None, 7)
        assert len(place.desk.orders) <= 1, "retries are the gateway's"
        await place.draw(idempotency_key="run-1.image")  # as a resumed run asks again

    @each_vendor_s(["broken_image"])
    async def test_half_a_file_reaches_nobody(self, server: tuple[Vendor, Desk], tmp_path: Path, fault: str) -> None:
        vendor, desk = server
        (tmp_path / "provider_config.yaml").write_text(f"providers: {{media: {{active: [{vendor.name}]}}}}")
        named = {f"{vendor.prefix}_BASE_URL": desk.url, f"{vendor.prefix}_API_KEY": desk.key}
        settings = load_settings(environ={**named, "GENERATOR_MODE": "live"}, folder=tmp_path)
        media = build_gateways(settings).media
        request = ImageRequest(kind="hero", prompt=WORDS, options=ImageOptions.model_validate(dict(vendor.model)))
        desk.fail(fault)
        with pytest.raises(JobError) as caught:
            await media.generate_image(request)
        assert caught.value.details["reason"] == "not_an_image"
        assert not settings.images.exists()
        await media.generate_image(request.model_copy(update={"request_id": "another"}))
        assert len(list(settings.images.iterdir())) == 1
        await media.aclose()

    async def test_an_unknown_model_is_named(self, place: Place) -> None:
        error = await place.failure(**place.vendor.unknown)
        assert type(error) is ModelNotFoundError
        assert "unheard-of" in error.message
        await place.draw()

    async def test_nobody_listens(self, server: tuple[Vendor, Desk], tmp_path: Path) -> None:
        vendor, desk = server
        url = f"http://127.0.0.1:{free_port()}"
        place = Place(vendor, desk, build(vendor, url, tmp_path, **{f"{vendor.prefix}_API_KEY": desk.key}))
        error = await place.failure()
        assert type(error) is UnreachableError
        assert f"{vendor.prefix}_BASE_URL" in error.hint
        assert url in error.message + error.hint
        assert not await place.provider.health_check()
        findings = await place.provider.diagnose([vendor.model])
        assert findings[0].state == "failed"
        await place.provider.aclose()

    @each_vendor_s(["hang", "stall"])
    async def test_the_provider_s_own_timeout_holds_whatever_a_request_asks(
        self, server: tuple[Vendor, Desk], tmp_path: Path, fault: str
    ) -> None:
        vendor, desk = server
        names = {f"{vendor.prefix}_API_KEY": desk.key, f"{vendor.prefix}_TIMEOUT": "0.3"}
        place = Place(vendor, desk, build(vendor, desk.url, tmp_path, **names))
        desk.fail(fault)
        error = await place.failure(timeout_s=999)
        assert type(error) is AttemptTimeoutError
        assert f"{vendor.prefix}_TIMEOUT" in error.hint
        assert len(desk.orders) == 1
        await until(lambda: desk.at_work == 0)
        await place.provider.aclose()

    @rented_only
    async def test_a_request_may_ask_for_less_time(self, place: Place) -> None:
        place.desk.fail("hang")
        assert type(await place.failure(timeout_s=0.3)) is AttemptTimeoutError
        await place.draw()

    @pytest.mark.parametrize(
        "wrong",
        [
            {"aspect_ratio": "wide"},
            {"width": "wide"},
            {"height": 3},
            {"seed": -1},
            {"photo": "a.png"},
            {"negative_prompt": "x" * 9000},
            {"idempotency_key": ""},
        ],
        ids=lambda wrong: next(iter(wrong)),
    )
    async def test_options_that_cannot_be_used_are_never_sent(self, place: Place, wrong: dict[str, Any]) -> None:
        error = await place.failure(**wrong)
        assert type(error) is RejectedError
        assert next(iter(wrong)).replace("_", " ") in error.message.replace("_", " ")
        with pytest.raises(RejectedError) as caught:
            await place.provider.check("hero", {**place.vendor.model, **wrong})
        assert caught.value.to_dict() == error.to_dict()
        assert place.desk.server.requests == []

    @rented_only
    async def test_what_a_rented_service_needs_is_asked_for_before_any_call(self, place: Place) -> None:
        for wrong in ({"timeout_s": 0}, {"idempotency_key": "two\nlines"}):
            assert next(iter(wrong)) in (await place.failure(**wrong)).message
        with pytest.raises(RejectedError):
            await place.provider.generate(" \n", "hero", place.vendor.model)
        for asking in (place.provider.check("hero", {}), place.provider.generate(WORDS, "hero", {})):
            with pytest.raises(ConfigError) as caught:
                await asking
            assert f"{place.vendor.prefix}_DEFAULT_MODEL" in caught.value.hint
        assert place.desk.server.requests == []


class TestLeaving:
    async def test_a_cancelled_image_closes_its_connection(self, place: Place) -> None:
        place.desk.hold()
        asking = asyncio.create_task(place.response())
        await until(lambda: place.desk.orders and place.desk.at_work)
        await asyncio.sleep(0.05)  # into the middle of the answer, or of the job
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await place.desk.see_off()
        await place.draw()

    async def test_a_stream_that_is_left_closes_its_connection(self, place: Place) -> None:
        async with aclosing(place.stream()) as chunks:
            async for _ in chunks:
                break
        await until(lambda: place.desk.at_work == 0)
        assert len(place.desk.orders) == 1

    async def test_a_storm_of_cancellations_leaves_nothing_open(self, place: Place) -> None:
        await place.draw()  # the imports are no part of the storm
        place.desk.slow_down(0.2)
        asking = [asyncio.create_task(place.response()) for _ in range(30)]
        for number, task in enumerate(asking):
            await asyncio.sleep(0.002 * (number % 5))
            task.cancel()
        ended = await asyncio.gather(*asking, return_exceptions=True)
        assert [end for end in ended if not isinstance(end, asyncio.CancelledError)] == []
        await place.response()  # some of the storm may still be on their way, and come while this one is made
        await until(lambda: place.desk.at_work == 0)
        place.desk.slow_down(0.0)
        await place.draw()

    def test_a_provider_lives_in_several_loops(self, server: tuple[Vendor, Desk], tmp_path: Path) -> None:
        vendor, desk = server
        provider = build(vendor, desk.url, tmp_path, **{f"{vendor.prefix}_API_KEY": desk.key})

        async def once() -> int:
            await Place(vendor, desk, provider).draw()
            await provider.aclose()
            return len(desk.orders)

        assert [asyncio.run(once()), asyncio.run(once())] == [1, 2]


class TestKeys:
    @each_vendor_s(["none", "status_401", "status_500", "cut", "redirect", "malformed", "broken_image"])
    async def test_a_key_travels_to_the_vendor_and_is_told_to_nobody(
        self, place: Place, fault: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        if fault != "none":
            place.desk.fail(fault)
        shown = [repr(place.provider), repr(place.provider.config), repr(vars(place.provider))]
        try:
            shown.append(repr(await place.response()))
        except ProviderError as exc:
            shown += [repr(exc), str(exc.to_dict()), *traceback.format_exception(exc)]
        await place.provider.health_check()
        shown.append(repr(await place.provider.diagnose([place.vendor.model])))
        assert place.desk.key_came_always, "orders and probes carry it"
        shown += [record.getMessage() for record in caplog.records if record.name != "asyncio"]
        assert not [text for text in shown if place.desk.key in text]

    @each_vendor_s(["redirect"])
    async def test_a_key_does_not_follow_a_redirect(self, place: Place, fault: str) -> None:
        place.desk.fail(fault)
        await place.failure()
        assert [path for _, path in place.desk.server.requests if path == "/elsewhere"] == []

    async def test_probes_order_nothing(self, place: Place) -> None:
        await place.provider.prepare()
        assert await place.provider.health_check()
        findings = await place.provider.diagnose([place.vendor.model, place.vendor.unknown])
        assert findings[0].state != "failed"
        assert "unheard-of" in str([finding for finding in findings if finding.state != "ok"])
        assert place.desk.orders == []

    async def test_a_check_makes_no_request_and_needs_no_key(self, server: tuple[Vendor, Desk], tmp_path: Path) -> None:
        vendor, desk = server
        provider = build(vendor, desk.url, tmp_path)
        await provider.check("hero", {**vendor.model, "aspect_ratio": "16:9"})
        await provider.check("hero", {**vendor.photo_model, "photo": PHOTO})
        assert desk.server.requests == []

    @rented_only
    async def test_a_missing_key_names_its_variable(self, server: tuple[Vendor, Desk], tmp_path: Path) -> None:
        vendor, desk = server
        provider = build(vendor, desk.url, tmp_path)
        asked = (provider.prepare(), provider.generate(WORDS, "hero", vendor.model), provider.diagnose([vendor.model]))
        for asking in asked:
            with pytest.raises(ConfigError, match=f"{vendor.prefix}_API_KEY") as caught:
                await asking
            assert f"{vendor.prefix}_API_KEY" in caught.value.hint
        assert desk.server.requests == []

    @rented_only
    async def test_a_missing_package_names_the_command(self, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        for package in ("openai", "google.genai"):
            monkeypatch.setitem(sys.modules, package, None)
        await place.provider.check("hero", place.vendor.model)
        for asking in (place.provider.prepare(), place.response()):
            with pytest.raises(ConfigError, match="needs the package") as caught:
                await asking
            assert caught.value.hint == f"pip install 'sparklio[{place.vendor.extra}]'"
