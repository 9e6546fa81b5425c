"""Another maker of images is a matter of configuration: a word of the routing file, the environment, and whole runs."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import pytest

from providers.errors import BudgetError, RefusedError, SparklioError
from routing import attempts
from routing.packaged_files import DEFAULT_CONFIG
from sparklio import Run, Sparklio
from tests.conftest import BRAND, PRODUCT
from tests.faults import NODES, going_on, routed
from tests.standins.comfyui import ComfyUIStandIn
from tests.standins.ollama import OllamaStandIn
from tests.standins.pictures import drawn, picture_size
from tests.standins.rented import IMAGES
from tests.standins.server import free_port
from tests.test_image_contract import RENTED, Desk, Vendor

pytestmark = pytest.mark.usefixtures("live")

FIELDS = {
    "image_id", "url", "prompt_used", "negative_prompt", "seed", "workflow", "width", "height", "kind", "provider",
}  # fmt: skip
PRICE = 0.04


@pytest.fixture(params=RENTED, ids=lambda vendor: vendor.name)
def rented(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Vendor, Desk]]:
    """A vendor's stand-in, named by the environment alone."""
    vendor: Vendor = request.param
    monkeypatch.setattr(attempts, "_BACKOFF", lambda state: 0)
    with vendor.stand_in() as server:
        desk = vendor.desk(server)
        monkeypatch.setenv(f"{vendor.prefix}_BASE_URL", desk.url)
        monkeypatch.setenv(f"{vendor.prefix}_API_KEY", desk.key)
        monkeypatch.setenv(f"{vendor.prefix}_DEFAULT_MODEL", vendor.model["model"])
        yield vendor, desk


def activated(folder: Path, name: str) -> Path:
    """The packaged routing file with one word changed."""
    text = DEFAULT_CONFIG.read_text(encoding="utf-8")
    changed, count = re.subn(r"media: {active: \[comfyui\]", f"media: {{active: [{name}]", text)
    assert count == 1
    path = folder / "provider_config.yaml"
    path.write_text(changed, encoding="utf-8")
    return path


def priced(folder: Path, vendor: Vendor) -> Path:
    """Active, at :data:`PRICE` US dollars an image."""
    table = {vendor.name: {vendor.model["model"]: {"image": PRICE}}}
    return routed(
        folder,
        providers=lambda providers: {**providers, "media": {"active": [vendor.name]}},
        prices=lambda prices: {**prices, **table},
    )


def picture(run: Run) -> bytes:
    """The stored picture, which is the one that the result tells and the page shows."""
    image: Mapping[str, Any] = run.result["image"]
    content = Path(unquote(urlparse(image["url"]).path)).read_bytes()
    assert picture_size(content) == (image["width"], image["height"])
    assert base64.b64encode(content).decode() in Path(run.page_path).read_text(encoding="utf-8")
    return content


async def test_one_word_of_the_routing_file_moves_the_picture(
    rented: tuple[Vendor, Desk], comfyui: ComfyUIStandIn, tmp_path: Path
) -> None:
    vendor, desk = rented
    async with Sparklio(config=activated(tmp_path, vendor.name)) as studio:
        run = await studio.run(brand=BRAND, product=PRODUCT, image={"seed": 7})
        stored = studio.images.read(run.result["image"]["image_id"])[0]
    image = run.result["image"]
    assert picture(run) == stored
    assert set(run.result["meta"]["nodes"]) == NODES
    assert set(image) == FIELDS
    assert (image["provider"], image["kind"], image["seed"]) == (vendor.name, "product_shot", 7)
    assert image["workflow"] is None
    assert image["width"] > image["height"], "16:9 is what a page wants"
    [order] = desk.orders
    assert json.dumps(image["prompt_used"], ensure_ascii=False)[1:-1] in json.dumps(order, ensure_ascii=False)
    assert run.result["meta"]["cost_usd"] is None, "nobody told a price"
    assert comfyui.requests == []


async def test_the_picture_starts_from_the_photo(rented: tuple[Vendor, Desk], tmp_path: Path) -> None:
    vendor, desk = rented
    async with Sparklio(config=activated(tmp_path, vendor.name)) as studio:
        photo = await studio.add_photo(drawn(400, 300, colour=(180, 60, 40), form="JPEG"))
        run = await studio.run(brand=BRAND, product={**PRODUCT, "photo": photo})
        assert desk.photos == [studio.images.read(photo)[0]]
    assert run.result["image"]["image_id"] != photo
    assert picture(run)


@pytest.mark.parametrize("fault", [None, "status_401", "cut", "image_refused", "broken_image"])
async def test_the_key_is_in_nothing_that_a_run_leaves(
    rented: tuple[Vendor, Desk], tmp_path: Path, fault: str | None
) -> None:
    vendor, desk = rented
    desk.server.fail_always(fault, task=IMAGES)
    shown: list[Any] = []
    async with Sparklio(config=activated(tmp_path, vendor.name), home=tmp_path / "home") as studio:
        try:
            shown += [event async for event in studio.stream(brand=BRAND, product=PRODUCT, run_id="page")]
        except SparklioError as exc:
            shown.append(exc.to_dict())
    assert (shown[-1].get("type") == "run_finished") == (fault is None)
    assert desk.key_came_always
    files = [path for path in (tmp_path / "home").rglob("*") if path.is_file()]
    assert {"run.json", "run.log", "checkpoints.sqlite"} <= {path.name for path in files}
    assert bool([path for path in files if path.parent.name == "images"]) == (fault is None)
    assert not [path for path in files if desk.key.encode() in path.read_bytes()]
    assert desk.key not in json.dumps(shown, ensure_ascii=False)


async def test_a_refused_picture_loses_no_words(
    rented: tuple[Vendor, Desk], ollama: OllamaStandIn, tmp_path: Path
) -> None:
    vendor, desk = rented
    desk.fail("image_refused")
    async with Sparklio(config=activated(tmp_path, vendor.name)) as studio:
        with pytest.raises(RefusedError) as caught:
            await studio.run(brand=BRAND, product=PRODUCT, run_id="page")
        assert len(desk.orders) == 1, "the same words would be refused again"
        run = await going_on(studio, ollama, set())
    assert caught.value.provider == vendor.name
    assert picture(run)


async def test_a_comfyui_that_is_down_leaves_the_picture_to_the_rented_one(
    rented: tuple[Vendor, Desk], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vendor, desk = rented
    monkeypatch.setenv("COMFYUI_BASE_URL", f"http://127.0.0.1:{free_port()}")
    second = {"kind": ["product_shot"], "provider": vendor.name, "priority": 2}
    path = routed(
        tmp_path,
        providers=lambda providers: {**providers, "media": {"active": ["comfyui", vendor.name]}},
        media_routing=lambda routing: {"image": [*routing["image"], second]},
    )
    async with Sparklio(config=path) as studio:
        run = await studio.run(brand=BRAND, product=PRODUCT)
    assert run.result["image"]["provider"] == vendor.name
    assert picture(run)
    assert len(desk.orders) == 1


async def test_a_picture_costs_what_its_price_says(rented: tuple[Vendor, Desk], tmp_path: Path) -> None:
    vendor, _ = rented
    async with Sparklio(config=priced(tmp_path, vendor), settings={"RUN_BUDGET_USD": "1"}) as studio:
        run = await studio.run(brand=BRAND, product=PRODUCT)
    meta = run.result["meta"]
    assert meta["cost_usd"] == pytest.approx(PRICE)
    assert {name: node["cost_usd"] for name, node in meta["nodes"].items() if node["cost_usd"]} == {
        "vision": pytest.approx(PRICE)
    }


async def test_a_picture_beyond_the_budget_is_never_asked_for(rented: tuple[Vendor, Desk], tmp_path: Path) -> None:
    vendor, desk = rented
    path = priced(tmp_path, vendor)
    async with Sparklio(config=path, settings={"RUN_BUDGET_USD": str(PRICE / 2)}) as studio:
        with pytest.raises(BudgetError) as caught:
            await studio.run(brand=BRAND, product=PRODUCT, run_id="page")
    assert "RUN_BUDGET_USD" in caught.value.hint
    assert desk.server.requests == []
    async with Sparklio(config=path, settings={"RUN_BUDGET_USD": str(PRICE * 2)}) as studio:
        run = await studio.resume("page")
    assert run.result["meta"]["cost_usd"] == pytest.approx(PRICE)
    assert len(desk.orders) == 1
