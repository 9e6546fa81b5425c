"""What runs cost, and that they stop where their budget does; without models, at made-up prices."""

from __future__ import annotations

from pathlib import Path

import pytest

from providers.errors import BudgetError, ConfigError
from sparklio import Sparklio
from tests.conftest import BRAND, PRODUCT
from tests.faults import routed
from tests.standins.ollama import OllamaStandIn

pytestmark = pytest.mark.usefixtures("live")

PRICED = {"ollama": {model: {"input": 1.0, "output": 1.0} for model in ("qwen2.5:7b", "qwen2.5:14b")}}


async def test_a_run_tells_what_it_cost(tmp_path: Path, ollama: OllamaStandIn) -> None:
    path = routed(tmp_path, prices=lambda prices: {**prices, **PRICED})
    async with Sparklio(config=path) as studio:
        run = await studio.run(brand=BRAND, product=PRODUCT)
    meta = run.result["meta"]
    assert meta["cost_usd"] == pytest.approx(meta["usage"]["total_tokens"] / 1e6)
    assert meta["cost_usd"] == pytest.approx(sum(node["cost_usd"] for node in meta["nodes"].values()))
    assert meta["nodes"]["vision"]["cost_usd"] > 0


@pytest.mark.each_place
async def test_a_run_stops_at_its_budget_and_goes_on_with_a_larger_one(tmp_path: Path, ollama: OllamaStandIn) -> None:
    path = routed(tmp_path, prices=lambda prices: {**prices, **PRICED})
    async with Sparklio(config=path, settings={"RUN_BUDGET_USD": "0.004"}) as studio:
        with pytest.raises(BudgetError) as caught:
            await studio.run(brand=BRAND, product=PRODUCT, run_id="page")
        spent = studio.runs.store.load("page").spent_usd
        assert spent is not None
        assert 0 < spent < 0.008
        assert "RUN_BUDGET_USD" in caught.value.hint
        calls = len(ollama.chats)
        with pytest.raises(BudgetError):
            await studio.resume("page")
        assert len(ollama.chats) == calls, "what is spent stays spent"
    async with Sparklio(config=path, settings={"RUN_BUDGET_USD": "1"}) as studio:
        run = await studio.resume("page")
    assert run.result["meta"]["cost_usd"] > spent


async def test_a_budget_without_prices_is_refused(tmp_path: Path, ollama: OllamaStandIn) -> None:
    path = routed(tmp_path, prices=lambda prices: {"comfyui": "free"})
    async with Sparklio(config=path, settings={"RUN_BUDGET_USD": "1"}) as studio:
        with pytest.raises(ConfigError, match="no price"):
            await studio.run(brand=BRAND, product=PRODUCT)
    assert not ollama.chats
