"""A tool call: the first tool that was offered, with arguments that fit its JSON schema."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from routing.mock.pen import Pen

__all__ = ["call_first_tool"]

# Schemas come from strangers: they may refer to themselves and ask for a billion items.
_DEPTH = 5
_MOST_VALUES = 500
_LONGEST = 2000
_HUGE = 1e15
_FIGURE = re.compile(r"\d[\d,]{0,17}(?:\.\d{1,9})?")

# Which fact a parameter asks for, by the words of its name; the first that matches serves.
_NAMES = (
    ("brand", ("brand", "브랜드", "company", "maker")),
    ("category", ("category", "분류", "카테고리", "type")),
    ("industry", ("industry", "업종", "sector")),
    ("target", ("target", "audience", "customer", "대상", "타깃")),
    ("price", ("price", "cost", "amount", "가격")),
    ("features", ("feature", "keyword", "tag", "point", "특징", "benefit", "bullet")),
    ("colors", ("color", "colour", "색")),
    ("text", ("text", "content", "body", "message", "description", "summary", "question", "내용", "설명", "본문")),
    ("language", ("lang", "locale")),
)


def call_first_tool(pen: Pen, tools: Sequence[Mapping[str, Any]] | None) -> list[dict[str, Any]]:
    """``[{"name", "arguments"}]`` for the first tool with a name; an empty list where there is none.

    A tool is ``{name, parameters}``, ``{name, input_schema}`` or either of them under ``function``.
    """
    for tool in tools or ():
        inner = tool.get("function")
        described = inner if isinstance(inner, Mapping) else tool
        name = described.get("name")
        if isinstance(name, str) and name:
            schema = described.get("parameters") or described.get("input_schema") or {}
            return [{"name": name, "arguments": _Arguments(pen, schema).fill()}]
    return []


class _Arguments:
    """Fills one schema. What JSON schema can say beyond types, enums and bounds is not looked at."""

    def __init__(self, pen: Pen, schema: Any) -> None:
        self.pen = pen
        self.schema = schema if isinstance(schema, Mapping) else {}
        self._left = _MOST_VALUES

    def fill(self) -> dict[str, Any]:
        return self._object(self.schema, 0)

    def _object(self, schema: Mapping[str, Any], depth: int) -> dict[str, Any]:
        properties = schema.get("properties")
        required = schema.get("required")
        if not isinstance(properties, Mapping):
            return {}
        required = required if isinstance(required, list) else ()
        return {
            name: self._value(name, part, depth + 1)
            for name, part in properties.items()
            if name in required or depth < _DEPTH
        }

    def _value(self, name: str, schema: Any, depth: int) -> Any:
        schema = self._resolved(schema)
        for key in ("const", "default"):
            if key in schema:
                return schema[key]
        options = schema.get("enum")
        if isinstance(options, list) and options:
            return self._choice(options)
        self._left -= 1
        if depth > 2 * _DEPTH or self._left < 0:
            return None
        match self._type(schema):
            case "object":
                return self._object(schema, depth)
            case "array":
                return self._array(name, schema, depth)
            case "integer":
                return int(self._number(name, schema))
            case "number":
                return self._number(name, schema)
            case "boolean":
                return True
            case "null":
                return None
            case _:
                return self._string(name, schema)

    def _resolved(self, schema: Any) -> Mapping[str, Any]:
        """Follow ``$ref`` within the schema, and of several alternatives take the first that is not null."""
        for _ in range(_DEPTH):
            if not isinstance(schema, Mapping):
                return {}
            if isinstance(schema.get("$ref"), str):
                schema = self._referred(schema["$ref"])
                continue
            options = schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf")
            if not isinstance(options, list) or not options:
                return schema
            schema = next((one for one in options if isinstance(one, Mapping) and one.get("type") != "null"), {})
        return schema if isinstance(schema, Mapping) else {}

    def _referred(self, pointer: str) -> Any:
        found: Any = self.schema
        for step in pointer.removeprefix("#").strip("/").split("/"):
            found = found.get(step, {}) if isinstance(found, Mapping) else {}
        return found

    def _type(self, schema: Mapping[str, Any]) -> str:
        named = schema.get("type")
        if isinstance(named, list):
            named = next((one for one in named if one != "null"), "null")
        return str(named) if named else "object" if "properties" in schema else "string"

    def _choice(self, options: list[Any]) -> Any:
        """The option that the payload speaks of, else the first."""
        told = " ".join((*self.pen.words.values(), *self.pen.facts.points)).lower()
        return next((one for one in options if isinstance(one, str) and one.lower() in told), options[0])

    def _array(self, name: str, schema: Mapping[str, Any], depth: int) -> list[Any]:
        least, most = _count(schema, "minItems", 0), _count(schema, "maxItems", 8)
        part = self._resolved(schema.get("items"))
        texts = self._texts(name) if self._type(part) == "string" and not part.get("enum") else []
        items = texts or [self._value(name, part, depth + 1)]
        items += [f"{items[0]} {number}" if texts else items[0] for number in range(2, least - len(items) + 2)]
        return items[: max(least, most)]

    def _texts(self, name: str) -> list[str]:
        facts = self.pen.facts
        lists = {"features": facts.features, "colors": facts.colors, "text": facts.points}
        return [str(item) for item in lists.get(self._topic(name), ())] or [self._string(name, {})]

    def _topic(self, name: str) -> str:
        return next((topic for topic, words in _NAMES if any(word in name.lower() for word in words)), "product")

    def _string(self, name: str, schema: Mapping[str, Any]) -> str:
        pen, topic = self.pen, self._topic(name)
        texts = {
            "price": pen.detail(*pen.book.phrases["price.names"]),
            "colors": ", ".join(pen.facts.colors),
            "text": pen.facts.text or pen.say("summary"),
            "language": pen.book.language,
        }
        text = texts.get(topic, pen.words.get(topic, "")) or pen.words["product"]
        least, most = _count(schema, "minLength", 0), _count(schema, "maxLength", _LONGEST)
        return text[:most].ljust(least, ".")

    def _number(self, name: str, schema: Mapping[str, Any]) -> float:
        """The payload's own figure of that name within the schema's bounds."""
        prices = self.pen.book.phrases["price.names"] if self._topic(name) == "price" else ()
        figure = _FIGURE.search(self.pen.detail(name.lower(), *prices))
        number = float(figure.group().replace(",", "")) if figure else 1.0
        low, above, high = (_bound(schema, key) for key in ("minimum", "exclusiveMinimum", "maximum"))
        if low is None and above is not None:
            low = above + 1
        number = number if low is None else max(number, low)
        number = number if high is None else min(number, high)
        return int(number) if number.is_integer() else number


def _bound(schema: Mapping[str, Any], key: str) -> float | None:
    value = schema.get(key)
    return float(value) if isinstance(value, int | float) and abs(value) < _HUGE else None


def _count(schema: Mapping[str, Any], key: str, default: int) -> int:
    value = schema.get(key)
    return min(value, _LONGEST) if isinstance(value, int) and value >= 0 else default
