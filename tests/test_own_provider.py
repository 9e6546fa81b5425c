"""The provider of docs/providers.md, taken from there word for word, installed as a package, and routed to."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.conftest import BRAND, COVERAGE, PRODUCT
from tests.standins.answers import answer_to, payload_of
from tests.standins.comfyui import ComfyUIStandIn
from tests.standins.server import StandIn, free_port

pytestmark = pytest.mark.no_cover

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "providers.md").read_text(encoding="utf-8")


def example(language: str, opening: str) -> str:
    """The one block of the page in ``language`` that begins with ``opening``."""
    [block] = re.findall(rf"```{language}\n({re.escape(opening)}.*?)```", PAGE, re.DOTALL)
    return str(block)


MODULE, METADATA = example("python", "import httpx"), example("toml", "[project]")


class House(StandIn):
    """The model server of the example."""

    def __init__(self) -> None:
        super().__init__()
        self.bodies: list[dict[str, Any]] = []
        self.status = 200
        self.text: str | None = None
        self.app.add_routes([web.post("/generate", self._generate), web.get("/health", self._health)])

    async def _generate(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.bodies.append(body)
        if self.status != 200:
            return web.Response(status=self.status, text="the stove is cold")
        if self.text is not None:
            return web.Response(text=self.text, content_type="application/json")
        schema = body["json_schema"]
        payload = payload_of({"messages": [{"role": "user", "content": body["prompt"]}]})
        return web.json_response({"text": json.dumps(answer_to(schema, schema["title"], payload), ensure_ascii=False)})

    async def _health(self, _request: web.Request) -> web.Response:
        return web.json_response({})


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder into which pip put the example's package."""
    source, site = tmp_path_factory.mktemp("house"), tmp_path_factory.mktemp("site")
    (source / "house.py").write_text(MODULE, encoding="utf-8")
    (source / "pyproject.toml").write_text(METADATA, encoding="utf-8")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    done = subprocess.run(
        [*pip, "--disable-pip-version-check", "--target", str(site), str(source)],
        env={name: value for name, value in os.environ.items() if name != COVERAGE},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return site


@pytest.fixture
def house() -> Iterator[House]:
    with House() as server:
        yield server


def sparklio(installed: Path, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, which finds the package as any installed one."""
    folders = os.pathsep.join([str(installed), str(ROOT)])
    environ = {**os.environ, "PYTHONPATH": folders, "PYTHONUTF8": "1", "GENERATOR_MODE": "live", **environ}
    command = [sys.executable, "-m", "sparklio", *words]
    return subprocess.run(command, capture_output=True, text=True, env=environ, check=False, timeout=60)


@pytest.fixture
def routed_to_it(tmp_path: Path) -> Path:
    (tmp_path / "provider_config.yaml").write_text(
        "providers: {llm: {active: [house]}, media: {active: [comfyui]}}\n"
        "llm_routing: {rules: [{role: [copywriter], provider: house, model: best}]}\n"
        "media_routing: {image: [{provider: comfyui, workflow: product_shot_v1}]}\n"
        "settings: {HOUSE_DEFAULT_MODEL: plain}\n",
        encoding="utf-8",
    )
    (tmp_path / "input.yaml").write_text(json.dumps({"brand": BRAND, "product": PRODUCT}), encoding="utf-8")
    return tmp_path / "input.yaml"


def test_the_example_is_short() -> None:
    assert len(MODULE.splitlines()) < 40


def test_it_serves_all_agents(installed: Path, routed_to_it: Path, house: House, comfyui: ComfyUIStandIn) -> None:
    urls = {"HOUSE_BASE_URL": house.url, "COMFYUI_BASE_URL": comfyui.url}
    done = sparklio(installed, "run", str(routed_to_it), "--json", **urls)
    assert done.returncode == 0, done.stderr
    nodes = json.loads(done.stdout)["meta"]["nodes"]
    assert {node["provider"] for node in nodes.values()} == {"house"}
    assert (nodes["copywriter"]["model"], nodes["brand"]["model"]) == ("best", "plain")
    assert len(house.bodies) == 6
    checked = sparklio(installed, "doctor", "--json", **urls)
    assert {"subject": "house", "state": "ok", "message": "answers", "remedy": ""} in json.loads(checked.stdout)[
        "findings"
    ]


@pytest.mark.parametrize(("status", "code"), [(500, "provider_server_error"), (400, "provider_rejected")])
def test_its_errors_are_typed(
    installed: Path, routed_to_it: Path, house: House, comfyui: ComfyUIStandIn, status: int, code: str
) -> None:
    house.status = status
    urls = {"HOUSE_BASE_URL": house.url, "COMFYUI_BASE_URL": comfyui.url}
    done = sparklio(installed, "run", str(routed_to_it), "--json", **urls)
    assert done.returncode == 1
    error = json.loads(done.stderr)["error"]
    assert error["code"] == code
    assert error["message"] == f"house answered {status}: the stove is cold"
    assert "HOUSE_BASE_URL" in error["hint"]


@pytest.mark.parametrize("text", ["[]", '{"text": null}', "{}", "no JSON", "3"])
def test_an_answer_of_another_form_is_the_server_s_fault(
    installed: Path, routed_to_it: Path, house: House, comfyui: ComfyUIStandIn, text: str
) -> None:
    house.text = text
    urls = {"HOUSE_BASE_URL": house.url, "COMFYUI_BASE_URL": comfyui.url}
    done = sparklio(installed, "run", str(routed_to_it), "--json", **urls)
    assert done.returncode == 1
    error = json.loads(done.stderr)["error"]
    assert (error["code"], error["message"]) == (
        "provider_server_error",
        f"house answered in another form: {text}",
    )


def test_a_closed_door_is_told(installed: Path, routed_to_it: Path, comfyui: ComfyUIStandIn) -> None:
    urls = {"HOUSE_BASE_URL": f"http://127.0.0.1:{free_port()}", "COMFYUI_BASE_URL": comfyui.url}
    done = sparklio(installed, "run", str(routed_to_it), "--json", **urls)
    assert json.loads(done.stderr)["error"]["code"] == "provider_unreachable"
    urls["HOUSE_BASE_URL"] = urls["HOUSE_BASE_URL"].replace("//", "//me:hidden-word@")
    checked = sparklio(installed, "doctor", "--json", **urls)
    assert checked.returncode == 1
    [found] = [one for one in json.loads(checked.stdout)["findings"] if one["subject"] == "house"]
    assert f"HOUSE_BASE_URL is {urls['HOUSE_BASE_URL'].replace('me:hidden-word@', '')}" in found["message"]
    assert "hidden-word" not in checked.stdout


def test_the_page_s_routing_serves_all_agents_too(
    installed: Path, routed_to_it: Path, house: House, comfyui: ComfyUIStandIn
) -> None:
    routing = example("yaml", "providers:\n  llm: {active: [house]}")
    routed_to_it.with_name("provider_config.yaml").write_text(routing, encoding="utf-8")
    urls = {"HOUSE_BASE_URL": house.url, "COMFYUI_BASE_URL": comfyui.url}
    found = json.loads(sparklio(installed, "doctor", "--json", **urls).stdout)["findings"]
    assert "routing" not in {one["subject"] for one in found}
    routed_to_it.with_name("provider_config.yaml").write_text(routing.partition("settings:")[0], encoding="utf-8")
    found = json.loads(sparklio(installed, "doctor", "--json", **urls).stdout)["findings"]
    [unroutable] = [one for one in found if one["subject"] == "routing"]
    assert "set HOUSE_DEFAULT_MODEL" in unroutable["remedy"]
