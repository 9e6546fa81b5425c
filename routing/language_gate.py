"""Foreign script in Korean copy: Qwen slips Chinese or kana into it, and no schema finds that."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from routing.contracts import Language

__all__ = ["foreign_script"]

_HAN_OR_KANA = re.compile(r"[\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f]")
_TOLERATED = 0.002  # of all letters; a page has about a thousand, so three such characters are too many


def foreign_script(copy: dict[str, Any], given: Any, language: Language) -> list[dict[str, str]]:
    """One review issue for each section of a Korean copy that holds Han or kana characters.

    What stands in the material itself (``given``: brand and product, their names above all) may stand in the copy.
    All issues are of high severity where the copy as a whole holds more than a slip.
    """
    if language != "ko":
        return []
    allowed = set(_HAN_OR_KANA.findall(json.dumps(given, ensure_ascii=False)))
    found = {
        place: strange
        for place, text in _passages(copy)
        if (strange := [char for char in _HAN_OR_KANA.findall(text) if char not in allowed])
    }
    letters = sum(char.isalpha() for _, text in _passages(copy) for char in text)
    severity = "high" if sum(map(len, found.values())) > _TOLERATED * letters else "medium"
    return [
        {
            "section_id": place,
            "severity": severity,
            "message": f"한국어가 아닌 글자가 섞여 있습니다: {''.join(strange[:12])}",
            "suggestion": "이 부분을 자연스러운 한국어로 다시 쓰세요.",
        }
        for place, strange in found.items()
    ]


def _passages(copy: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The copy's texts by section id; the page's own head and call to action under ``""``."""
    yield "", f"{copy['headline']} {copy['subheadline']} {copy['cta']}"
    for section in copy["sections"]:
        yield section["section_id"], " ".join((section["heading"], section["body"], *section["bullets"]))
