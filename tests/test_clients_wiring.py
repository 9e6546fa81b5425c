"""The clients where settings put them: gateways by a variable, doctor, servers in a row and in a circle."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from providers.errors import BudgetError, ConfigError
from routing import remote
from routing.budget import Budget
from routing.doctor import examine
from routing.gateways import build_gateways
from routing.settings import load_settings
from routing.via import names_to_send, passing
from sparklio.server.app import create_app
from sparklio.server.routes import health
from tests.gateway_clients import KEY, asked, be_quick, llm_client, media_client, wished
from tests.serving import client_of, free_port, serving, serving_app
from tests.waiting import until


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    be_quick(monkeypatch)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[str]:
    async with serving(tmp_path / "server") as client:
        yield str(client.base_url)


async def test_the_settings_alone_make_the_gateways_remote(server: str, tmp_path: Path) -> None:
    settings = load_settings({"SPARKLIO_HOME": str(tmp_path / "mine"), "SPARKLIO_GATEWAY_URL": server})
    gateways = build_gateways(settings)
    await gateways.prepare()
    assert (await gateways.llm.generate(asked())).output.parsed
    assert (await gateways.media.generate_image(wished())).images[0].url.startswith((tmp_path / "mine").as_uri())
    await gateways.aclose()


async def test_a_budget_that_is_spent_stops_at_the_server(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("routing.prices.Prices.check", _refusing)
    async with llm_client(server) as client:
        with pytest.raises(BudgetError):
            await client.generate(asked(), budget=Budget(1.0, 1.0))


def _refusing(prices: object, route: object, at_least: object, budget: Budget) -> None:
    if budget.left_usd == 0:
        raise BudgetError("nothing is left", hint="raise RUN_BUDGET_USD")


async def looked_at(**settings: str) -> dict[str, tuple[str, str]]:
    report = await examine(load_settings(settings))
    assert report.can_run == all(one.state != "failed" for one in report.findings)
    assert KEY not in str(report.to_dict())
    return {one.subject: (one.state, one.message + one.remedy) for one in report.findings}


async def test_doctor_looks_at_the_gateway_instead_of_our_providers(tmp_path: Path) -> None:
    async with serving(tmp_path / "server", SPARKLIO_API_KEYS=KEY) as served:
        url = str(served.base_url)
        good = await looked_at(SPARKLIO_GATEWAY_URL=url, SPARKLIO_GATEWAY_KEY=KEY)
        keyless = await looked_at(SPARKLIO_GATEWAY_URL=url)
        other = await looked_at(SPARKLIO_GATEWAY_URL=url, SPARKLIO_GATEWAY_KEY=KEY, GENERATOR_MODE="live")
    away = await looked_at(SPARKLIO_GATEWAY_URL=f"http://127.0.0.1:{free_port()}")
    names = ("data folder", "gateway", "gateway key")
    assert {name: state for name, (state, _) in good.items()} == dict.fromkeys(names, "ok")
    assert keyless["gateway key"][0] == "failed"
    assert "SPARKLIO_GATEWAY_KEY" in keyless["gateway key"][1]
    assert other["gateway"][0] == "failed"
    assert "GENERATOR_MODE=mock" in other["gateway"][1]
    assert away["gateway"][0] == "failed"
    assert "SPARKLIO_GATEWAY_URL" in away["gateway"][1]


@pytest.mark.usefixtures("live")
async def test_doctor_tells_what_the_gateway_lacks(
    tmp_path: Path, comfyui: Any, ollama: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLAMA_BASE_URL", f"http://127.0.0.1:{free_port()}")
    async with serving(tmp_path / "server") as served:
        found = await looked_at(SPARKLIO_GATEWAY_URL=str(served.base_url))
    assert found["gateway"][0] == found["comfyui at the gateway"][0] == "ok"
    assert found["ollama at the gateway"][0] == "failed"


async def test_a_server_whose_gateway_is_itself_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It cannot tell itself so before it listens, and does not wait for that."""
    monkeypatch.setattr(remote, "_PREPARED_WITHIN_S", 0.2)
    port = free_port()
    app = create_app(home=tmp_path / "server", settings={"SPARKLIO_GATEWAY_URL": f"http://127.0.0.1:{port}"})
    async with _at(app, port) as url:
        await until(lambda: "the gateway is not ready: gateway: this server's SPARKLIO_GATEWAY_URL" in caplog.text)
        async with client_of(url) as http:
            answer = await http.get("/ready")
        gateway = answer.json()["providers"]["gateway"]
        assert (answer.status_code, gateway["error"]["code"]) == (503, "bad_config")
        assert "leads back to itself" in gateway["error"]["message"]
        async with llm_client(url, deadline_s=20) as client:
            with pytest.raises(ConfigError, match="leads back to itself"):
                await client.generate(asked())
        async with media_client(url, tmp_path / "mine") as media:
            with pytest.raises(ConfigError, match="leads back to itself"):
                await media.generate_image(wished())


async def test_two_servers_that_are_each_other_s_gateway_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "_PREPARED_WITHIN_S", 0.2)
    monkeypatch.setattr(health, "_PATIENCE_S", 0.0)
    ports = [free_port(), free_port()]
    apps = [
        create_app(home=tmp_path / str(port), settings={"SPARKLIO_GATEWAY_URL": f"http://127.0.0.1:{other}"})
        for port, other in zip(ports, reversed(ports), strict=True)
    ]
    async with _at(apps[0], ports[0]) as url, _at(apps[1], ports[1]), client_of(url) as http:

        async def ready() -> str:
            return (await http.get("/ready")).text

        async with asyncio.timeout(20):
            while "leads back to itself" not in (told := await ready()):  # noqa: ASYNC110  # it rings no bell
                await asyncio.sleep(0.1)
    assert '"ready":false' in told


async def test_a_gateway_that_hangs_is_not_waited_for_at_the_start(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(remote, "_PREPARED_WITHIN_S", 0.2)

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    away = await asyncio.start_server(hang, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{away.sockets[0].getsockname()[1]}"
    async with away, llm_client(url) as client, asyncio.timeout(20):
        await client.prepare()
    assert "has not said within 0.2 s how it is" in caplog.text


def test_a_row_of_too_many_servers_is_no_circle() -> None:
    with passing("ours", ", ".join("abcdefgh")):
        assert names_to_send() == "a, b, c, d, e, f, g, h, ours"
    with pytest.raises(ConfigError, match="came through 9 servers, and 8 are the most"), passing("ours", "a," * 9):
        pass
    with pytest.raises(ConfigError, match="leads back to itself"), passing("ours", "a," * 9 + "ours"):
        pass


@asynccontextmanager
async def _at(app: Any, port: int) -> AsyncIterator[str]:
    from sparklio.server import serve

    with serve.bind("127.0.0.1", port, keyed=True) as listener:
        async with serve.serving(app, listener):
            yield serve.url_of(listener)


async def test_servers_may_stand_in_a_row(tmp_path: Path) -> None:
    async with serving(tmp_path / "a") as last:
        middle = create_app(home=tmp_path / "b", settings={"SPARKLIO_GATEWAY_URL": str(last.base_url)})
        async with serving_app(middle) as served, llm_client(str(served.base_url)) as client:
            assert (await client.generate(asked())).output.parsed
