"""JSON schemas in the form that vendors' strict modes take.

Strict modes want every object closed and every property required, and refuse the keywords that their grammars do not
know. What is left out is checked all the same: the gateway validates each answer with the task's own model.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any

__all__ = ["strict_schema"]


def strict_schema(schema: Mapping[str, Any], keywords: Set[str]) -> dict[str, Any] | None:
    """``schema`` closed and with ``keywords`` alone, or None where it has an object of free form, which cannot be."""
    try:
        return _strict(schema, keywords)
    except _FreeFormError:
        return None


class _FreeFormError(Exception):
    pass


def _strict(schema: Mapping[str, Any], keywords: Set[str]) -> dict[str, Any]:
    kept = {key: value for key, value in schema.items() if key in keywords}
    for group in ("properties", "$defs"):
        if group in schema:
            kept[group] = {name: _strict(part, keywords) for name, part in schema[group].items()}
    if "items" in schema:
        kept["items"] = _strict(schema["items"], keywords)
    if "anyOf" in schema:
        kept["anyOf"] = [_strict(part, keywords) for part in schema["anyOf"]]
    if schema.get("type") == "object":
        if not schema.get("properties"):
            raise _FreeFormError
        kept |= {"required": list(schema["properties"]), "additionalProperties": False}
    elif not schema.keys() & {"type", "$ref", "anyOf", "enum", "const"}:
        raise _FreeFormError
    return kept
