"""The description of the HTTP API, and the Postman collection that is made of it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import httpx
import jsonschema_rs
import pytest
from pydantic import BaseModel, ConfigDict, Field

from providers import errors
from providers.errors import ProviderError, SparklioError, UnknownNameError
from sparklio.server import errors as server_errors
from sparklio.server.app import create_app
from sparklio.server.guards import _OPEN as OPEN
from sparklio.server.postman import collection
from tests.serving import serving

ROOT = Path(__file__).resolve().parent.parent
COLLECTION = ROOT / "docs" / "sparklio.postman_collection.json"
GUIDE = ROOT / "docs" / "http-api.md"
BINARY = {"image/png", "image/jpeg", "image/webp"}

Operation = dict[str, Any]


@pytest.fixture(scope="module")
def openapi(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return create_app(mode="mock", home=tmp_path_factory.mktemp("home")).openapi()


def operations(openapi: Mapping[str, Any]) -> Iterator[tuple[str, str, Operation]]:
    """Path, method, and what is told of it."""
    for path, methods in openapi["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def problem(openapi: Mapping[str, Any], schema: Mapping[str, Any], value: Any) -> str | None:
    """What is wrong with ``value``; None: nothing."""
    whole = {**schema, "components": openapi["components"]}
    return next((error.message for error in jsonschema_rs.Draft202012Validator(whole).iter_errors(value)), None)


def undocumented(openapi: Mapping[str, Any], operation: Operation, response: httpx.Response) -> str | None:
    """Why the description does not allow the answer; None: it does."""
    told = operation["responses"].get(str(response.status_code))
    if told is None:
        return f"status {response.status_code}"
    media_type = response.headers.get("content-type", "").partition(";")[0]
    content = told.get("content", {})
    if not content:
        return f"{len(response.content)} bytes" if response.content else None
    if media_type not in content:
        return f"content type {media_type!r}"
    return problem(openapi, content[media_type]["schema"], response.json()) if "json" in media_type else None


def missing(operation: Operation) -> Iterator[str]:
    """What the description of an operation lacks."""
    for key in ("operationId", "summary", "description", "tags"):
        if not operation.get(key):
            yield key
    for parameter in operation.get("parameters", ()):
        if "example" not in parameter or not parameter.get("schema"):
            yield f"example of {parameter['name']}"
    for status, response in operation["responses"].items():
        if not response.get("description"):
            yield f"description of {status}"
        for media_type, content in response.get("content", {}).items():
            if not content.get("schema") or ("example" not in content and media_type not in BINARY):
                yield f"example of {status} {media_type}"


def test_each_operation_is_told_whole(openapi: dict[str, Any]) -> None:
    assert openapi["openapi"].startswith("3.1")
    lacking = {f"{method} {path}": list(missing(one)) for path, method, one in operations(openapi)}
    assert not {name: found for name, found in lacking.items() if found}


def test_operations_have_names_of_their_own(openapi: dict[str, Any]) -> None:
    names = [one["operationId"] for _, _, one in operations(openapi)]
    assert len(names) == len(set(names))
    assert all(name.isidentifier() and name.islower() for name in names)


def test_each_body_has_an_example_that_fits_it(openapi: dict[str, Any]) -> None:
    for path, method, one in operations(openapi):
        content = one.get("requestBody", {}).get("content", {})
        assert set(content) <= {"application/json", "multipart/form-data"}
        for told in filter(None, [content.get("application/json")]):
            examples = [each["value"] for each in told.get("examples", {}).values()]
            examples += resolved(openapi, told["schema"]).get("examples", [])
            assert examples, f"{method} {path}"
            assert [problem(openapi, told["schema"], each) for each in examples] == [None] * len(examples)


def resolved(openapi: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    reference = next((each for each in (schema, *schema.get("anyOf", ())) if "$ref" in each), None)
    if reference is None:
        return schema
    found: Mapping[str, Any] = openapi["components"]["schemas"][reference["$ref"].rpartition("/")[2]]
    return found


def test_each_example_of_a_parameter_and_of_an_answer_fits_its_schema(openapi: dict[str, Any]) -> None:
    wrong: dict[str, str] = {}
    for path, method, one in operations(openapi):
        for told in one.get("parameters", ()):
            if found := problem(openapi, told["schema"], told["example"]):
                wrong[f"{method} {path} {told['name']}"] = found
        for status, response in one["responses"].items():
            for media_type, content in response.get("content", {}).items():
                if "json" in media_type and (found := problem(openapi, content["schema"], content["example"])):
                    wrong[f"{method} {path} {status}"] = found
    assert not wrong


def test_no_example_is_of_what_there_is_not(openapi: dict[str, Any]) -> None:
    told = json.loads((ROOT / "sparklio" / "server" / "examples.json").read_text(encoding="utf-8"))
    known = {one["operationId"]: one["responses"] for _, _, one in operations(openapi)}
    stray = [
        (name, status, media_type)
        for name, answers in told["answers"].items()
        for status, contents in answers.items()
        for media_type in contents
        if media_type not in known.get(name, {}).get(status, {}).get("content", {})
    ]
    assert not stray
    parameters = {each["name"].lower() for _, _, one in operations(openapi) for each in one.get("parameters", ())}
    assert set(told["parameters"]) == parameters


@pytest.mark.parametrize(
    ("name", "status", "media_types"),
    [
        ("generate_text", "200", {"application/json", "text/event-stream"}),
        ("generate_image", "200", {"application/json", "text/event-stream"}),
        ("generate_image", "202", {"application/json"}),
        ("check_image", "204", set()),
        ("get_image", "200", BINARY),
        ("get_image", "304", set()),
        ("get_image_head", "200", set()),
        ("upload_photo", "201", {"application/json"}),
        ("start_run", "202", {"application/json"}),
        ("rerun_run", "200", {"application/json"}),
        ("follow_run", "200", {"text/event-stream"}),
        ("run_page", "200", {"text/html"}),
        ("run_page", "304", set()),
        ("draw_graph", "200", {"text/plain", "image/svg+xml"}),
        ("metrics", "200", {"text/plain", "application/openmetrics-text"}),
        ("ready", "503", {"application/json"}),
    ],
)
def test_answers_that_are_not_plain_json_are_told(
    openapi: dict[str, Any], name: str, status: str, media_types: set[str]
) -> None:
    [responses] = [one["responses"] for _, _, one in operations(openapi) if one["operationId"] == name]
    assert set(responses[status].get("content", {})) == media_types


def test_each_operation_wants_a_key_but_the_two_that_the_guard_lets_pass(openapi: dict[str, Any]) -> None:
    assert openapi["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"
    assert openapi["security"] == [{"bearer": []}]
    assert {path for path, _, one in operations(openapi) if one.get("security") == []} == OPEN
    assert all(("401" in one["responses"]) == (path not in OPEN) for path, _, one in operations(openapi))


async def test_what_is_told_of_the_headers_is_true(tmp_path: Path) -> None:
    async with serving(tmp_path, GENERATOR_MODE="mock") as client:
        answer = await client.put("/api/v1/runs")
        assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD, POST")
        told = (await client.get("/openapi.json")).json()
        order = {"prompt": "a jar", "job": True}
        ordered = await client.post("/api/v1/media/image/generate", json=order, headers={"idempotency-key": "1"})
        again = await client.post("/api/v1/media/image/generate", json=order, headers={"idempotency-key": "1"})
    documented = told["paths"]["/api/v1/media/image/generate"]["post"]["responses"]["202"]["headers"]
    assert ordered.headers["location"] == ordered.json()["url"]
    assert {name for name in documented if name.lower() not in again.headers} == set()


# The guide


def test_the_guide_names_each_endpoint_and_no_other(openapi: dict[str, Any]) -> None:
    rows = [line.split("|") for line in GUIDE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    endpoints = [(row[1], row[2].strip(" `")) for row in rows if row[2].strip().startswith("`/")]
    told = {(method, path) for methods, path in endpoints for method in methods.replace("`", "").split()}
    assert told == {(method.upper(), path) for path, method, _ in operations(openapi)}


def test_the_guide_names_each_code_beside_its_status() -> None:
    told = {
        (status, code)
        for line in GUIDE.read_text(encoding="utf-8").splitlines()
        if re.match(r"\| \d{3} \|", line)
        for status in re.findall(r"\d{3}", line)[:1]
        for code in re.findall(r"`(\w+)`", line.split("|")[2])
    }
    leaves = [one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, SparklioError)]
    codes = {one.code for one in leaves} - {"error", "cannot_listen"}
    assert codes <= {code for _, code in told}, "docs/http-api.md: Errors"
    assert {code for _, code in told} <= codes | {*server_errors._CODES.values(), "bad_request", "internal"}
    for leaf in leaves:
        if leaf.code in codes and not leaf.__subclasses__():
            made = leaf("run", "x", ()) if leaf is UnknownNameError else leaf("x", **needed(leaf))
            assert (str(server_errors.status_of(made)), leaf.code) in told


def needed(leaf: type[SparklioError]) -> dict[str, Any]:
    return {"provider": "x"} if issubclass(leaf, ProviderError) else {}


# The collection


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Pair(Strict):
    key: str = Field(min_length=1)
    value: str
    description: str = ""
    disabled: bool = False


class FormField(Strict):
    key: str
    type: Literal["file"]
    src: list[str]


class Body(Strict):
    mode: Literal["raw", "formdata"]
    raw: str | None = None
    formdata: list[FormField] | None = None
    options: dict[str, dict[str, str]] | None = None


class Url(Strict):
    raw: str
    host: list[str]
    path: list[str]
    query: list[Pair]
    variable: list[Pair]


class Credential(Strict):
    key: str
    value: str
    type: Literal["string"]


class Auth(Strict):
    type: Literal["bearer", "noauth"]
    bearer: list[Credential] | None = None


class Request(Strict):
    method: Literal["GET", "POST", "DELETE"]
    header: list[Pair]
    url: Url
    description: str
    auth: Auth | None = None
    body: Body | None = None


class Script(Strict):
    type: Literal["text/javascript"]
    exec: list[str]


class Listener(Strict):
    listen: Literal["test", "prerequest"]
    script: Script


class Item(Strict):
    name: str = Field(min_length=1)
    request: Request
    response: list[Any]
    event: list[Listener] = []


class Folder(Strict):
    name: str = Field(min_length=1)
    item: list[Item]


class Info(Strict):
    postman_id: Annotated[str, Field(alias="_postman_id", pattern=r"^[0-9a-f-]{36}$")]
    name: str
    description: str
    schema_: Annotated[
        Literal["https://schema.getpostman.com/json/collection/v2.1.0/collection.json"], Field(alias="schema")
    ]


class Collection(Strict):
    """What Postman's format v2.1.0 asks of a collection like ours, and nothing that it does not know."""

    info: Info
    auth: Auth
    variable: list[Pair]
    item: list[Folder]

    @property
    def requests(self) -> list[Item]:
        return [item for folder in self.item for item in folder.item]


@pytest.fixture(scope="module")
def kept() -> Collection:
    return Collection.model_validate_json(COLLECTION.read_text(encoding="utf-8"))


def test_the_collection_is_what_the_description_makes_of_it(openapi: dict[str, Any]) -> None:
    kept = json.loads(COLLECTION.read_text(encoding="utf-8"))
    assert kept == collection(openapi), "the endpoints have changed: run `make api`"


def test_the_collection_has_each_endpoint_and_each_example(openapi: dict[str, Any], kept: Collection) -> None:
    known = {(method.upper(), path) for path, method, _ in operations(openapi) if method != "head"}
    assert {(one.request.method, template(one)) for one in kept.requests} == known
    bodies = [each for _, _, one in operations(openapi) for each in json_examples(one)]
    assert [body for body in bodies if body not in [sent(one) for one in kept.requests]] == []


def template(item: Item) -> str:
    return "/" + "/".join(f"{{{part[1:]}}}" if part.startswith(":") else part for part in item.request.url.path)


def json_examples(operation: Operation) -> list[Any]:
    told = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    return [each["value"] for each in told.get("examples", {}).values()]


def sent(item: Item) -> Any:
    body = item.request.body
    return json.loads(body.raw) if body and body.raw else None


def test_each_variable_of_the_collection_has_a_value(kept: Collection) -> None:
    text = COLLECTION.read_text(encoding="utf-8")
    known = {each.key for each in kept.variable}
    used = {part.partition("}}")[0] for part in text.split("{{")[1:]}
    assert used == known
    for item in kept.requests:
        holes = {part[1:] for part in item.request.url.path if part.startswith(":")}
        assert {each.key for each in item.request.url.variable if each.value} == holes
        assert item.request.url.raw.startswith("{{base_url}}/" + "/".join(item.request.url.path))


async def send(client: httpx.AsyncClient, item: Item, variables: Mapping[str, str]) -> httpx.Response:
    """As Postman would."""

    def filled(text: str) -> str:
        for name, value in variables.items():
            text = text.replace(f"{{{{{name}}}}}", value)
        return text

    holes = {each.key: filled(each.value) for each in item.request.url.variable}
    path = "/".join(holes[part[1:]] if part.startswith(":") else part for part in item.request.url.path)
    query = {each.key: each.value for each in item.request.url.query if not each.disabled}
    headers = {each.key: each.value for each in item.request.header if not each.disabled}
    body = item.request.body.raw if item.request.body else None
    return await client.request(item.request.method, f"/{path}", params=query, headers=headers, content=body)


async def test_what_the_collection_sends_is_answered(openapi: dict[str, Any], kept: Collection, tmp_path: Path) -> None:
    """The four roles and the image with 200; all others as the description says."""
    variables = {each.key: each.value for each in kept.variable}
    statuses: dict[str, list[int]] = {}
    async with serving(tmp_path, GENERATOR_MODE="mock") as client:
        for item in kept.requests:
            answer = await send(client, item, variables)
            path, method = template(item), item.request.method.lower()
            operation = openapi["paths"][path][method]
            assert undocumented(openapi, operation, answer) is None, item.name
            statuses.setdefault(operation["operationId"], []).append(answer.status_code)
    assert statuses["generate_text"] == [200, 200, 200, 200]
    assert statuses["generate_image"] == [200, 202]
    assert statuses["start_run"] == [202]
    assert {status for found in statuses.values() for status in found} <= {200, 202, 204, 404, 422}
    assert statuses["upload_photo"] == [422], "Postman asks for the file; there is none here"
