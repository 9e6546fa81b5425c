"""``sparklio cancel``, and ``Sparklio.cancel``: a run is stopped for good, wherever it is."""

from __future__ import annotations

from contextlib import aclosing

import pytest

from graph.inputs import RunInput
from providers.errors import ConflictError, RunBusyError, UnknownNameError
from sparklio import Sparklio
from tests.conftest import BRAND, PRODUCT
from tests.test_cli import Shell

pytestmark = pytest.mark.each_place


@pytest.fixture
def sparklio(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(monkeypatch, capsys)


async def test_what_waits_and_what_was_left_is_stopped_and_what_has_ended_is_not(place: str) -> None:
    inputs = RunInput.parse({"brand": BRAND, "product": PRODUCT})
    async with Sparklio() as studio:
        await studio.runs.start(inputs, run_id="waits", status="queued", keeper="server")
        assert (await studio.cancel("waits")).status == "cancelled"
        async with aclosing(studio.stream(brand=BRAND, product=PRODUCT, run_id="left")) as events:
            await anext(events)
        assert (await studio.cancel("left")).status == "cancelled"
        with pytest.raises(ConflictError, match="cancelled already"):
            await studio.cancel("left")
        with pytest.raises(UnknownNameError):
            await studio.cancel("nobody")
        async with aclosing(studio.stream(brand=BRAND, product=PRODUCT, run_id="runs")) as events:
            await anext(events)
            if place == "files":
                with pytest.raises(RunBusyError, match="another process"):
                    await studio.cancel("runs")


def test_by_the_command_line(sparklio: Shell) -> None:
    sparklio.ok("run", "--run-id", "page")
    assert "already" in sparklio.refused(2, "cancel", "page")
    assert "nobody" in sparklio.refused(2, "cancel", "nobody")
