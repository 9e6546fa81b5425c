"""What Google's stand-in finds wrong with a request: its JSON is read field by field, and an unknown one is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.standins.answers import subschemas
from tests.standins.chat import Body
from tests.standins.rented import Refusal

__all__ = ["bad_request", "error"]

_REQUEST = (
    "model contents systemInstruction generationConfig tools toolConfig safetySettings cachedContent serviceTier store"
)
_CONFIG = """
    stopSequences responseMimeType responseSchema responseJsonSchema responseModalities candidateCount maxOutputTokens
    temperature topP topK seed presencePenalty frequencyPenalty responseLogprobs logprobs speechConfig thinkingConfig
    imageConfig mediaResolution
"""
_SCHEMA = """
    type format title description nullable enum maxItems minItems properties required minProperties maxProperties
    minLength maxLength pattern example anyOf propertyOrdering default items minimum maximum
"""


def error(status: int, message: str, name: str, *details: Body) -> Refusal:
    """An error as all of Google's APIs write it."""
    more: Body = {"details": list(details)} if details else {}
    return status, {"error": {"code": status, "message": message, "status": name, **more}}


def bad_request(body: Body) -> Refusal | None:
    return (
        _unknown(body, _REQUEST, "")
        or _unknown(body.get("generationConfig") or {}, _CONFIG, " at 'generation_config'")
        or _bad_contents(body)
        or _bad_schema(body.get("generationConfig") or {})
    )


def _unknown(part: Mapping[str, Any], known: str, place: str) -> Refusal | None:
    unknown = sorted(set(part) - set(known.split()))
    if not unknown:
        return None
    words = f'Invalid JSON payload received. Unknown name "{unknown[0]}"{place}: Cannot find field.'
    return error(400, words, "INVALID_ARGUMENT")


def _bad_contents(body: Body) -> Refusal | None:
    if not body.get("contents"):
        return error(400, "* GenerateContentRequest.contents: contents is not specified", "INVALID_ARGUMENT")
    for turn in body["contents"]:
        if turn.get("role", "user") not in ("user", "model", "function"):
            return error(400, "Please use a valid role: user, model.", "INVALID_ARGUMENT")
        if not turn.get("parts"):
            return error(400, "* contents.parts must not be empty.", "INVALID_ARGUMENT")
    return None


def _bad_schema(config: Mapping[str, Any]) -> Refusal | None:
    given = [name for name in ("responseSchema", "responseJsonSchema") if config.get(name)]
    if not given:
        return None
    if len(given) > 1:
        return error(400, "Only one of response_schema and response_json_schema may be set.", "INVALID_ARGUMENT")
    if config.get("responseMimeType") != "application/json":
        words = f"Response schema with a response mimetype: '{config.get('responseMimeType', '')}' is unsupported"
        return error(400, words, "INVALID_ARGUMENT")
    if given == ["responseJsonSchema"]:
        return _bad_references(config["responseJsonSchema"])
    parts = (_unknown(part, _SCHEMA, _place(path)) for path, part in subschemas(config["responseSchema"]))
    return next(filter(None, parts), None)


def _place(path: tuple[str, ...]) -> str:
    return f" at '{'.'.join(('generation_config.response_schema', *path))}'"


def _bad_references(schema: Mapping[str, Any]) -> Refusal | None:
    """Unknown keywords of a JSON schema are passed over, but beside a ``$ref`` only others with a $ may stand."""
    for path, part in subschemas(schema):
        if "$ref" in part and any(not name.startswith("$") for name in part):
            words = f"Schema at {'.'.join(path)}: no other property may be set beside $ref."
            return error(400, words, "INVALID_ARGUMENT")
    return None
