"""Foreign script in Korean copy."""

from __future__ import annotations

from typing import Any

import pytest

from routing.language_gate import foreign_script
from sparklio import Sparklio
from tests.conftest import BRAND, PRODUCT
from tests.standins.ollama import OllamaStandIn


def _copy(body: str) -> dict[str, Any]:
    section = {"section_id": "hero", "heading": "제목", "body": body, "bullets": ["하나"]}
    return {"headline": "머리말", "subheadline": "부제", "sections": [section], "cta": "보기"}


@pytest.mark.parametrize("text", ["편안한 使用감을 드립니다", "とても 좋습니다", "재질은 ｱﾙﾐ 입니다"])
def test_han_and_kana_are_found_where_they_stand(text: str) -> None:
    (issue,) = foreign_script(_copy(text), {}, "ko")
    assert (issue["section_id"], issue["severity"]) == ("hero", "high")


def test_a_slip_on_a_long_page_is_no_reason_to_reject_it() -> None:
    (issue,) = foreign_script(_copy("가나다라마바사 " * 200 + "用"), {}, "ko")
    assert issue["severity"] == "medium"


def test_names_and_other_languages_are_left_alone() -> None:
    assert foreign_script(_copy("茶山의 차"), {"name": "茶山"}, "ko") == []
    assert foreign_script(_copy("使用"), {}, "en") == []
    assert foreign_script(_copy("A4 용지 2장, -42dB, ②번 그리고 café"), {}, "ko") == []


@pytest.mark.usefixtures("live")
async def test_the_reviewer_sends_it_back_even_if_its_model_approves(ollama: OllamaStandIn) -> None:
    plan = [{"id": "hero", "type": "hero", "title": "t"}, {"id": "specs", "type": "specs", "title": "s"}]
    clean: list[dict[str, Any]] = [
        {"section_id": name, "heading": "제목", "body": "본문입니다", "bullets": []} for name in ("hero", "specs")
    ]
    dirty = [{**clean[0], "body": "편안한 使用감"}, clean[1]]
    page = {"headline": "머리말", "subheadline": "부제", "cta": "보기"}
    ollama.answers_for["ContentPlan"].append({"sections": plan})
    ollama.answers_for["ProductDetail"].extend([page | {"sections": dirty}, page | {"sections": clean}])
    async with Sparklio() as studio:
        run = await studio.run(brand=BRAND, product=PRODUCT)
    assert (run.result["review"]["revisions"], run.result["review"]["stopped_because"]) == (1, "approved")
    assert "使" not in str(run.result["copy"])
    (_, revision) = [body for body in ollama.chats if body["format"]["title"] == "ProductDetail"]
    assert "한국어가 아닌 글자" in revision["messages"][-1]["content"]


@pytest.mark.usefixtures("live")
async def test_a_model_that_spills_to_the_cpu_is_told_as_degraded(ollama: OllamaStandIn) -> None:
    ollama.vram_share = 0.6
    async with Sparklio() as studio:
        run = await studio.run(brand=BRAND, product=PRODUCT)
        assert all(node["degraded"] for node in run.result["meta"]["nodes"].values())
    ollama.vram_share = 1.0
    async with Sparklio() as studio:
        run = await studio.run(brand=BRAND, product=PRODUCT)
        assert not any(node["degraded"] for node in run.result["meta"]["nodes"].values())
