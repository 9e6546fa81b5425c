"""JSON schemas in the form that vendors' strict modes take.

Strict modes want every object closed and every property required, and refuse the keywords that their grammars do not
know. What is left out is checked all the same: the gateway validates each answer with the task's own model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from typing import Any

__all__ = ["inside", "pruned", "strict_schema"]

Schema = Mapping[str, Any]

_NESTING = {"properties", "$defs", "items", "anyOf"}


def strict_schema(schema: Schema, keywords: Set[str]) -> dict[str, Any] | None:
    """``schema`` closed and with ``keywords`` alone, or None where it has an object of free form, which cannot be."""
    try:
        return _closed(pruned(schema, keywords))
    except _FreeFormError:
        return None


def pruned(schema: Schema, keywords: Set[str]) -> dict[str, Any]:
    """``schema`` with ``keywords`` alone, and those in which it nests."""
    kept = {key: value for key, value in schema.items() if key in keywords or key in _NESTING}
    return inside(kept, lambda part: pruned(part, keywords))


def inside(schema: Schema, change: Callable[[Schema], Schema]) -> dict[str, Any]:
    """``schema`` with each schema that is nested in it directly changed."""
    changed = dict(schema)
    for group in ("properties", "$defs"):
        if group in schema:
            changed[group] = {name: change(part) for name, part in schema[group].items()}
    if "items" in schema:
        changed["items"] = change(schema["items"])
    if "anyOf" in schema:
        changed["anyOf"] = [change(part) for part in schema["anyOf"]]
    return changed


class _FreeFormError(Exception):
    pass


def _closed(schema: Schema) -> dict[str, Any]:
    closed = inside(schema, _closed)
    if schema.get("type") == "object":
        if not schema.get("properties"):
            raise _FreeFormError
        closed |= {"required": list(schema["properties"]), "additionalProperties": False}
    elif not schema.keys() & {"type", "$ref", "anyOf", "enum", "const"}:
        raise _FreeFormError
    return closed
