"""An answer's fields as prose: what a model writes when nobody asks it for JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from routing.mock.pen import Pen

__all__ = ["prose"]

# Fields that a reader wants named; all others speak for themselves. Ids are for programs.
_LABELS: Mapping[str, Mapping[str, str]] = {
    "ko": {
        "tone": "말투",
        "values": "핵심 가치",
        "colors": "색",
        "slogan": "슬로건",
        "keywords": "키워드",
        "typography": "서체",
        "do": "이렇게 씁니다",
        "avoid": "쓰지 않습니다",
        "target": "대상",
        "positioning": "포지셔닝",
        "key_messages": "핵심 메시지",
        "cta": "버튼",
        "prompt": "이미지 프롬프트",
        "negative_prompt": "제외할 것",
        "score": "점수",
        "approved": "승인",
        "issues": "지적",
        "hashtags": "해시태그",
        "changes": "바꾼 점",
        "severity": "심각도",
        "tags": "태그",
        "conclusion": "결론",
        "steps": "과정",
        "headlines": "헤드라인",
    },
    "en": {
        "tone": "Voice",
        "values": "Values",
        "colors": "Colours",
        "slogan": "Slogan",
        "keywords": "Keywords",
        "typography": "Type",
        "do": "Do",
        "avoid": "Avoid",
        "target": "Target",
        "positioning": "Positioning",
        "key_messages": "Key messages",
        "cta": "Button",
        "prompt": "Image prompt",
        "negative_prompt": "Leave out",
        "score": "Score",
        "approved": "Approved",
        "issues": "Issues",
        "hashtags": "Hashtags",
        "changes": "Changes",
        "severity": "Severity",
        "tags": "Tags",
        "conclusion": "Conclusion",
        "steps": "Steps",
        "headlines": "Headlines",
    },
}
_HIDDEN = frozenset({"id", "section_id", "type"})
_HEADINGS = ("heading", "title", "channel", "headline")
_YES = {"ko": {True: "예", False: "아니요"}, "en": {True: "yes", False: "no"}}


def prose(pen: Pen, fields: Mapping[str, Any], title: str) -> str:
    """Markdown with a first line that says what this is."""
    return "\n\n".join([title, *_blocks(fields, pen.book.language)])


def _blocks(fields: Mapping[str, Any], language: str) -> Iterator[str]:
    for name, value in fields.items():
        if name in _HIDDEN or value in ("", [], None):
            continue
        label = _LABELS[language].get(name)
        if isinstance(value, list):
            yield _list(value, label, language)
        elif name in _HEADINGS:
            yield f"## {value}"
        else:
            shown = _YES[language][value] if isinstance(value, bool) else str(value)
            yield f"**{label}**: {shown}" if label else shown


def _list(items: list[Any], label: str | None, language: str) -> str:
    head = f"**{label}**\n" if label else ""
    if any(isinstance(item, Mapping) for item in items):
        parts = ["\n".join(_blocks(item, language)) for item in items if isinstance(item, Mapping)]
        return head + "\n\n".join(parts)
    return head + "\n".join(f"- {item}" for item in items)
