"""Reading runs: the list, one of them, its events, history, result and page, and what differs between two."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from hashlib import sha256
from typing import Annotated, Any, get_args

from fastapi import APIRouter, Header, Path, Query, Request, Response
from pydantic import BaseModel
from sse_starlette import EventSourceResponse, ServerSentEvent

from graph.events import Event, EventType
from graph.history import Point
from graph.store import RunRecord, Status
from providers.errors import RunUnfinishedError
from routing.contracts import Mode
from sparklio.copies import read_page
from sparklio.publish import read_result
from sparklio.server.errors import without_folder
from sparklio.server.routes.images import image_url
from sparklio.server.run_list import TO_RUN, RunSummary, Wanted, summary_of
from sparklio.server.services import Services, ServicesOf
from sparklio.server.sse import event, event_content, event_response

__all__ = ["RunId", "loaded", "path_of", "router"]

router = APIRouter(tags=["runs"])

RunId = Annotated[str, Path(description="Id of a run.", examples=["20260114-101530-3fa9"])]

_PAGE_POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; sandbox"
)
_LAST_SEQ = 2**53
_FAILURES = ("node_failed", "run_failed")


class RunView(RunSummary):
    """``position`` in the queue: the next one's is 1, None for a run that does not wait. ``spent_usd``: None where a
    price is unknown. ``error``: why it failed."""

    nodes: list[str]
    spent_usd: float | None
    error: dict[str, Any] | None
    position: int | None


class RunPage(BaseModel):
    """``next_cursor`` leads to the next page; None: there is none."""

    runs: list[RunSummary]
    next_cursor: str | None


class PointView(BaseModel):
    """A checkpoint: the agents that run next (none: the end), and the state at it."""

    run_id: str
    checkpoint_id: str
    next: list[str]
    created_at: str | None
    keys: list[str]
    values: dict[str, Any] | None = None


class HistoryView(BaseModel):
    """The run's family, the first run first, and all checkpoints of it."""

    run_id: str
    family: list[RunSummary]
    points: list[PointView]


class DiffView(BaseModel):
    """``a`` and ``b`` are ``{run_id, status, mode, stage, models, cost_usd, wall_ms}``, a difference is
    ``{path, change: changed | added | removed, old, new}``."""

    a: dict[str, Any]
    b: dict[str, Any]
    differences: list[dict[str, Any]]


@router.get("/runs", operation_id="list_runs", summary="List the runs, the latest first")
async def list_runs(
    services: ServicesOf,
    status: Annotated[Status | None, Query(description="Only those of this status.")] = None,
    mode: Annotated[Mode | None, Query(description="Only those of this mode.")] = None,
    product: Annotated[str | None, Query(max_length=200, description="Only those whose product holds this.")] = None,
    family: Annotated[str | None, Query(max_length=60, description="Only this run, its reruns and parents.")] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Annotated[str | None, Query(max_length=100, description="next_cursor of the page before.")] = None,
) -> RunPage:
    """A page of those that fit all that is asked for; ``next_cursor`` leads to the next one, until it is null."""
    wanted = Wanted(status, mode, product or "", family)
    runs, next_cursor = await asyncio.to_thread(services.runner.list.page, wanted, limit, cursor)
    return RunPage(runs=runs, next_cursor=next_cursor)


@router.get("/runs/{run_id}", operation_id="read_run", summary="Read a run")
async def read_run(run_id: RunId, services: ServicesOf) -> RunView:
    """As it stands now; its events tell of each step."""
    record = await loaded(services, run_id)
    return RunView(
        **dict(summary_of(record)),
        nodes=record.nodes,
        spent_usd=record.spent_usd,
        error=without_folder(record.error, services.studio.settings.home),
        position=await services.runner.position(run_id) if record.status in TO_RUN else None,
    )


@router.get(
    "/runs/{run_id}/events",
    operation_id="follow_run",
    summary="Follow a run, event by event",
    description=(
        "Server-sent events: `id` is the event's seq, `event` its type, `data` the event as JSON. First come those "
        "that there are, then those that come; the stream ends with the run. Whoever leaves changes nothing for the "
        "run, and goes on with `Last-Event-ID`. A silent stream is kept alive by a comment every 15 s."
    ),
    response_class=EventSourceResponse,
    responses={
        200: {
            "description": "The events.",
            "content": event_content(*get_args(EventType)),
        }
    },
)
async def follow_run(
    run_id: RunId,
    request: Request,
    services: ServicesOf,
    after: Annotated[int, Query(ge=0, le=_LAST_SEQ, description="Only events with a greater seq.")] = 0,
    last_event_id: Annotated[
        int | None, Header(ge=0, le=_LAST_SEQ, description="The same, as browsers tell it; it wins.")
    ] = None,
) -> EventSourceResponse:
    await loaded(services, run_id)
    return event_response(_events(request, services, run_id, after if last_event_id is None else last_event_id))


@router.get("/runs/{run_id}/history", operation_id="run_history", summary="The checkpoints of a run and of its family")
async def run_history(
    run_id: RunId,
    request: Request,
    services: ServicesOf,
    values: Annotated[bool, Query(description="Whether the state at each checkpoint is told.")] = True,
) -> HistoryView:
    """The first run of the family first, and in each the first checkpoint first."""
    family = await asyncio.to_thread(services.studio.runs.store.family, run_id)
    points = await services.studio.history(run_id)
    return HistoryView(
        run_id=run_id,
        family=[summary_of(member) for member in family],
        points=[_point(request, point, values=values) for point in points],
    )


@router.get(
    "/runs/{run_id}/result",
    operation_id="run_result",
    summary="The result of a finished run",
)
async def run_result(run_id: RunId, request: Request, services: ServicesOf) -> dict[str, Any]:
    """The six artefacts and ``meta``, as in result.json; 409 until it is there."""
    record = await loaded(services, run_id)
    return _with_url(request, await asyncio.to_thread(_read_result, services, record))


@router.get(
    "/runs/{run_id}/page",
    operation_id="run_page",
    summary="The page of a finished run",
    response_class=Response,
    responses={
        200: {"description": "The page, whole in itself.", "content": {"text/html": {"schema": {"type": "string"}}}},
        304: {"description": "It is the one that the client has."},
    },
)
async def run_page(
    run_id: RunId,
    services: ServicesOf,
    if_none_match: Annotated[str | None, Header(description="ETags of pages that the client has.")] = None,
) -> Response:
    """HTML that loads nothing from elsewhere and runs no script; 409 until it is there."""
    record = await loaded(services, run_id)
    content, etag = await asyncio.to_thread(_read_page, services, record)
    headers = {"ETag": etag, "Cache-Control": "private, no-cache", "Content-Security-Policy": _PAGE_POLICY}
    if if_none_match and (if_none_match.strip() == "*" or etag in if_none_match):
        return Response(status_code=304, headers=headers)
    return Response(content, media_type="text/html; charset=utf-8", headers=headers)


@router.get("/runs/{run_id}/diff/{other}", operation_id="diff_runs", summary="What the other run made otherwise")
async def diff_runs(run_id: RunId, other: RunId, services: ServicesOf) -> DiffView:
    """Value by value, as ``sparklio diff``: a run that is not finished is compared as far as it has come."""
    for name in (run_id, other):
        await loaded(services, name)
    return DiffView.model_validate(await services.studio.diff(run_id, other))


async def loaded(services: Services, run_id: str) -> RunRecord:
    """In a thread: of an unknown run the known ones are listed, and there may be many."""
    return await asyncio.to_thread(services.studio.runs.store.load, run_id)


async def _events(
    request: Request, services: Services, run_id: str, after: int
) -> AsyncGenerator[ServerSentEvent, None]:
    async with aclosing(services.studio.follow(run_id, after=after)) as events:
        async for one in events:
            yield event(one["type"], _without_paths(request, services, one), id=str(one["seq"]))
            await asyncio.sleep(0)  # in which the loop hears that the client has left, and answers others


def _without_paths(request: Request, services: Services, one: Event) -> Event:
    """Where the result lies on the server is nobody's business: what opens it from elsewhere is told."""
    if one["type"] in _FAILURES:
        return Event(**{**one, "data": without_folder(one["data"], services.studio.settings.home)})
    if one["type"] != "run_finished":
        return one
    urls = {name: path_of(request, f"run_{name}", one["run_id"]) for name in ("result", "page")}
    return Event(**{**one, "data": one["data"] | urls})


def _point(request: Request, point: Point, *, values: bool) -> PointView:
    return PointView(
        run_id=point.run_id,
        checkpoint_id=point.checkpoint_id,
        next=list(point.next),
        created_at=point.created_at,
        keys=sorted(point.values),
        values=_with_url(request, point.values) if values else None,
    )


def _with_url(request: Request, artefacts: Mapping[str, Any]) -> dict[str, Any]:
    """Artefacts whose image opens from elsewhere."""
    image = artefacts.get("image")
    if not image:
        return dict(artefacts)
    return {**artefacts, "image": {**image, "url": image_url(request, image["image_id"])}}


def path_of(request: Request, route: str, run_id: str) -> str:
    """Root-relative: by which name a client reaches us, a server does not know."""
    return str(request.app.url_path_for(route, run_id=run_id))


def _read_result(services: Services, record: RunRecord) -> dict[str, Any]:
    try:
        return read_result(services.studio.runs.store, record.run_id)
    except FileNotFoundError as exc:
        raise _unfinished(record, "result") from exc


def _read_page(services: Services, record: RunRecord) -> tuple[bytes, str]:
    """The page as it was published, wherever that was: what somebody has put into ``--out`` since is not shown."""
    studio = services.studio
    try:
        content = read_page(studio.runs.store, studio.images, record.run_id)
    except FileNotFoundError as exc:
        raise _unfinished(record, "page") from exc
    return content, f'"{sha256(content).hexdigest()[:32]}"'


def _unfinished(record: RunRecord, what: str) -> RunUnfinishedError:
    waits = record.status in ("queued", "running")
    hint = "follow its events until it is finished" if waits else f"go on with it: POST /runs/{record.run_id}/resume"
    return RunUnfinishedError(f"run {record.run_id!r} is {record.status} and has no {what}", hint=hint)
