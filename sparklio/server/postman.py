"""The Postman collection (v2.1.0), made of the OpenAPI description: a request for each example of each endpoint.

``python -m sparklio.server.postman`` prints it; ``make api`` writes it to docs/.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlencode
from uuid import NAMESPACE_URL, uuid5

__all__ = ["collection"]

_SCHEMA = "https://schema.getpostman.com/json/collection/v2.1.0/collection.json"
_METHODS = ("get", "post", "put", "patch", "delete")
_SERVER = {"base_url": "http://127.0.0.1:8000", "api_key": ""}
_IDS = ("run_id", "job_id", "image_id")
_HEARD = {
    "start_run": "if (pm.response.code === 202) pm.collectionVariables.set('run_id', pm.response.json().run_id);",
    "generate_image": "if (pm.response.code === 202) pm.collectionVariables.set('job_id', pm.response.json().job_id);\n"
    "if (pm.response.code === 200) pm.collectionVariables.set('image_id', pm.response.json().images[0].id);",
}
"""What the answers fill the variables with, by operation: so that a run that was started can be followed at once."""


def collection(openapi: Mapping[str, Any]) -> dict[str, Any]:
    """The collection of an API; the same description makes the same collection.

    Variables: ``base_url``; ``api_key`` for a server that has SPARKLIO_API_KEYS; and the ids of the last run, job and
    image, which the answers fill in.
    """
    info = openapi["info"]
    folders: dict[str, list[dict[str, Any]]] = {}
    for path, methods in openapi["paths"].items():
        for method in _METHODS:
            if operation := methods.get(method):
                items = folders.setdefault(operation.get("tags", ["other"])[0], [])
                items += _requests(openapi, path, method, operation)
    variables = {**_SERVER, **_first_ids(openapi)}
    return {
        "info": {
            "_postman_id": str(uuid5(NAMESPACE_URL, info["title"])),
            "name": info["title"],
            "description": info.get("description") or info.get("summary", ""),
            "schema": _SCHEMA,
        },
        "auth": {"type": "bearer", "bearer": [{"key": "token", "value": "{{api_key}}", "type": "string"}]},
        "variable": [{"key": key, "value": value} for key, value in variables.items()],
        "item": [{"name": name, "item": items} for name, items in folders.items()],
    }


def _first_ids(openapi: Mapping[str, Any]) -> dict[str, str]:
    """Those of the description's examples, until an answer tells others."""
    operations = [operation for methods in openapi["paths"].values() for operation in methods.values()]
    known = {one["name"]: _example(one) for operation in operations for one in operation.get("parameters", [])}
    return {name: known[name] for name in _IDS if name in known}


def _requests(
    openapi: Mapping[str, Any], path: str, method: str, operation: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    """One without a body, one with each example of a body."""
    name = operation.get("summary") or f"{method.upper()} {path}"
    request = {
        "method": method.upper(),
        "header": _headers(operation),
        "url": _url(path, operation.get("parameters", [])),
        "description": operation.get("description", ""),
    }
    if operation.get("security") == []:
        request["auth"] = {"type": "noauth"}
    bodies = list(_bodies(openapi, operation)) or [("", {})]
    for label, body in bodies:
        full = {**request, "body": body} if body else request
        yield {"name": f"{name}: {label}" if label else name, "request": full, "response": [], **_script(operation)}


def _script(operation: Mapping[str, Any]) -> dict[str, Any]:
    script = _HEARD.get(operation.get("operationId", ""))
    if script is None:
        return {}
    return {"event": [{"listen": "test", "script": {"type": "text/javascript", "exec": script.split("\n")}}]}


def _headers(operation: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Those that the endpoint knows, switched off until somebody fills them in."""
    known = [one for one in operation.get("parameters", []) if one["in"] == "header"]
    headers = [{**_filled(one), "disabled": True} for one in known]
    if "application/json" in operation.get("requestBody", {}).get("content", {}):
        headers.insert(0, {"key": "Content-Type", "value": "application/json"})
    return headers


def _url(path: str, parameters: list[Mapping[str, Any]]) -> dict[str, Any]:
    segments = [f":{part[1:-1]}" if part.startswith("{") else part for part in path.strip("/").split("/")]
    query = [_filled(one) | {"disabled": not one.get("required", False)} for one in parameters if one["in"] == "query"]
    variables = [_filled(one) | _held(one["name"]) for one in parameters if one["in"] == "path"]
    sent = urlencode({one["key"]: one["value"] for one in query if not one["disabled"]})
    raw = "{{base_url}}/" + "/".join(segments) + (f"?{sent}" if sent else "")
    return {"raw": raw, "host": ["{{base_url}}"], "path": segments, "query": query, "variable": variables}


def _held(name: str) -> dict[str, str]:
    return {"value": f"{{{{{name}}}}}"} if name in _IDS else {}


def _filled(parameter: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "key": parameter["name"],
        "value": _example(parameter),
        "description": parameter.get("description", ""),
    }


def _example(parameter: Mapping[str, Any]) -> str:
    """The first example that the description gives, else the default; as JSON writes it, where it is no text."""
    schema = parameter.get("schema", {})
    named = [one["value"] for one in parameter.get("examples", {}).values()]
    told = [parameter.get("example"), *named, *schema.get("examples", []), schema.get("default")]
    first = next((value for value in told if value is not None), "")
    return first if isinstance(first, str) else json.dumps(first)


def _bodies(openapi: Mapping[str, Any], operation: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The bodies to send, each with the name of its example."""
    for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
        if media_type == "multipart/form-data":
            yield "", {"mode": "formdata", "formdata": _fields(openapi, content["schema"])}
        elif media_type == "application/json":
            for label, value in _examples(openapi, content):
                raw = json.dumps(value, ensure_ascii=False, indent=2)
                yield label, {"mode": "raw", "raw": raw, "options": {"raw": {"language": "json"}}}


def _fields(openapi: Mapping[str, Any], schema: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every field of ours is a file."""
    return [{"key": name, "type": "file", "src": []} for name in _resolved(openapi, schema)["properties"]]


def _examples(openapi: Mapping[str, Any], content: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    named = content.get("examples", {})
    yield from ((one.get("summary", name), one["value"]) for name, one in named.items())
    if not named:
        yield from (("", value) for value in _resolved(openapi, content["schema"]).get("examples", [{}])[:1])


def _resolved(openapi: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema, the one that it refers to, or the one that it may be beside null."""
    schema = next((one for one in schema.get("anyOf", ()) if "$ref" in one), schema)
    if "$ref" not in schema:
        return schema
    found: Mapping[str, Any] = openapi["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]]
    return found


def main() -> None:
    from sparklio.server.app import create_app

    print(json.dumps(collection(create_app(mode="mock").openapi()), ensure_ascii=False, indent=2))  # noqa: T201


if __name__ == "__main__":
    main()
