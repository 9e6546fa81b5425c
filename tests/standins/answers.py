"""What the stand-ins of models answer: the plainest instance of a schema, fitting words for Sparklio's tasks."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

__all__ = ["answer_to", "estimated_tokens", "fabricate", "payload_of", "subschemas", "text_of"]

Schema = Mapping[str, Any]


def answer_to(schema: Schema | None, task: str, payload: Mapping[str, Any]) -> str | dict[str, Any]:
    """An answer that fits ``schema`` and, for Sparklio's own tasks, the payload too; small talk without a schema."""
    if not schema:
        return "안녕하세요. 저는 흉내만 내는 모델입니다."
    answer: dict[str, Any] = fabricate(schema)
    written = _TASKS.get(task)
    return answer | written(payload) if written else answer


def estimated_tokens(text: str) -> int:
    """About what a tokenizer of today counts: four Latin or one and a third Korean characters a token."""
    ascii_chars = len(text.encode("ascii", "ignore"))
    return 10 + ascii_chars // 4 + (len(text) - ascii_chars) * 3 // 4


def payload_of(body: Mapping[str, Any]) -> dict[str, Any]:
    """The request's payload: the first JSON object in the last user turn (its fences are the prompt's affair).

    Reads the bodies of every vendor: ``messages`` of text or of parts, Google's ``contents``, Ollama's ``prompt``.
    """
    turns = body.get("messages") or body.get("contents") or ()
    said = [text_of(turn) for turn in turns if turn.get("role", "user") == "user"]
    text = said[-1] if said else body.get("prompt", "")
    decoder = json.JSONDecoder()
    for brace in re.finditer(r"\{", text):
        with suppress(json.JSONDecodeError):
            value = decoder.raw_decode(text, brace.start())[0]
            if isinstance(value, dict):
                return value
    return {}


def text_of(turn: Mapping[str, Any]) -> str:
    """The words of one message, whether it is text, a list of parts or Google's ``parts``."""
    content = turn.get("content", turn.get("parts")) or ""
    if isinstance(content, str):
        return content
    return "".join(part.get("text") or "" for part in content)


def subschemas(schema: Schema, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Schema]]:
    """The schema and every schema inside it, each with the keys that lead there."""
    yield path, schema
    for key in ("properties", "$defs", "definitions"):
        for name, part in schema.get(key, {}).items():
            yield from subschemas(part, (*path, key, name))
    for key in ("anyOf", "oneOf", "allOf", "prefixItems"):
        for place, part in enumerate(schema.get(key, ())):
            yield from subschemas(part, (*path, key, str(place)))
    if isinstance(schema.get("items"), dict):
        yield from subschemas(schema["items"], (*path, "items"))


def fabricate(
    schema: Mapping[str, Any], name: str = "value", index: int = 0, root: Mapping[str, Any] | None = None
) -> Any:
    """The plainest instance of a JSON schema, all of its properties present; types in capitals are Google's.

    Args:
        schema: the schema, or a part of it.
        name: of the property that the part belongs to; texts are made of it.
        index: place in its list; makes the items of a list differ.
        root: the whole schema, in which ``$ref`` points; None where ``schema`` is the whole.
    """
    root = schema if root is None else root
    if "$ref" in schema:
        target: Any = root
        for step in schema["$ref"].removeprefix("#/").split("/"):
            target = target[step]
        return fabricate(target, name, index, root)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][index % len(schema["enum"])]
    for choice in ("anyOf", "oneOf", "allOf"):
        if choice in schema:
            return fabricate(schema[choice][0], name, index, root)
    kind = schema.get("type", "string")
    kind = kind if isinstance(kind, str) else kind[0]
    return _BY_TYPE[kind.lower()](schema, name, index, root)


def _object(schema: Mapping[str, Any], name: str, index: int, root: Mapping[str, Any]) -> dict[str, Any]:
    return {key: fabricate(part, key, index, root) for key, part in schema.get("properties", {}).items()}


def _array(schema: Mapping[str, Any], name: str, index: int, root: Mapping[str, Any]) -> list[Any]:
    parts = list(schema.get("prefixItems", ()))
    wanted = max(len(parts), schema.get("minItems", 1))
    parts += [schema.get("items") or {"type": "string"}] * (min(wanted, schema.get("maxItems", wanted)) - len(parts))
    return [fabricate(part, name, place, root) for place, part in enumerate(parts)]


def _string(schema: Mapping[str, Any], name: str, index: int, root: Mapping[str, Any]) -> str:
    texts = [f"{name} 예시 {index + 1}", f"{name}-{index + 1}", f"#2F6B4{index % 10}", str(index + 1)]
    if name == "colors":
        texts = texts[2:]
    pattern = schema.get("pattern", "")
    fitting = [text for text in texts if re.search(pattern, text)]
    assert fitting, f"teach the stand-in a text of pattern {pattern!r}"
    return fitting[0][: schema.get("maxLength")]


def _number(schema: Mapping[str, Any], name: str, index: int, root: Mapping[str, Any]) -> int:
    low = schema.get("minimum", schema.get("exclusiveMinimum", 0) + 1)
    value = max(low, index + 1)
    return int(min(value, schema.get("maximum", value)))


_BY_TYPE: Mapping[str, Callable[[Mapping[str, Any], str, int, Mapping[str, Any]], Any]] = {
    "object": _object,
    "array": _array,
    "string": _string,
    "integer": _number,
    "number": _number,
    "boolean": lambda *_: True,
    "null": lambda *_: None,
}


def _name_in(payload: Mapping[str, Any], *keys: str) -> str:
    """The first ``name`` in the payload's parts of these keys, or in the payload itself."""
    parts = [payload.get(key) for key in keys] + [payload]
    return next((part["name"] for part in parts if isinstance(part, dict) and part.get("name")), "샘플")


def _brand_summary(payload: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": _name_in(payload, "brand", "brand_input"),
        "tone": "차분하고 믿음직한 말투로, 과장 없이 사실을 먼저 말합니다.",
        "values": ["정직", "건강", "꾸준함"],
        "colors": ["#2F6B4F", "#F4EFE6"],
    }


def _marketing_brief(payload: Mapping[str, Any]) -> dict[str, Any]:
    product = _name_in(payload, "product", "product_input")
    return {
        "target": "운동을 시작한 20-30대 직장인",
        "positioning": f"매일 부담 없이 챙기는 {product}",
        "key_messages": ["간편하게 챙깁니다", "부담 없이 가볍습니다", "성분을 투명하게 밝힙니다"],
    }


def _content_plan(payload: Mapping[str, Any]) -> dict[str, Any]:
    planned = {"hero": "첫인상", "features": "핵심 특징", "usage": "즐기는 방법", "cta": "지금 만나 보세요"}
    return {"sections": [{"id": kind, "type": kind, "title": title} for kind, title in planned.items()]}


def _product_detail(payload: Mapping[str, Any]) -> dict[str, Any]:
    planned = payload.get("sections") or _content_plan(payload)["sections"]
    product = _name_in(payload, "product", "product_input")
    return {
        "headline": f"{product}, 오늘의 균형",
        "subheadline": "바쁜 하루에도 가볍게 챙기는 한 번의 습관",
        "sections": [
            {
                "section_id": section["id"],
                "heading": section.get("title") or "소개",
                "body": f"{product}의 이야기를 담백하게 전합니다.",
                "bullets": ["간편하게", "가볍게"],
            }
            for section in planned
        ],
        "cta": "지금 만나 보세요",
    }


def _image_prompt(payload: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "prompt": "studio product photograph on a sage green background, soft daylight, clean composition",
        "negative_prompt": "text, watermark, people",
    }


def _style_review(payload: Mapping[str, Any]) -> dict[str, Any]:
    return {"approved": True, "score": 90, "issues": [], "summary": "브랜드의 말투와 잘 맞습니다."}


_TASKS: Mapping[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "BrandSummary": _brand_summary,
    "MarketingBrief": _marketing_brief,
    "ContentPlan": _content_plan,
    "ProductDetail": _product_detail,
    "ImagePrompt": _image_prompt,
    "StyleReview": _style_review,
}
