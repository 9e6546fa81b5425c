"""Starting runs and acting on them: rerun, resume, cancel. A run belongs to the server, whoever asked for it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import APIRouter, Body, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, StrictBool, model_validator

from graph.inputs import RunInput
from graph.store import RunRecord
from providers.errors import ConflictError
from routing.contracts import Stage
from sparklio.server.bodies import JsonRoute, check_json
from sparklio.server.once import IdempotencyKey
from sparklio.server.routes import run_views
from sparklio.server.routes.booked import RunBooked
from sparklio.server.routes.booked import told as _told
from sparklio.server.routes.run_views import RunId, loaded
from sparklio.server.services import Services, ServicesOf

__all__ = ["router"]

router = APIRouter(tags=["runs"], route_class=JsonRoute)
router.include_router(run_views.router)


class NewRun(RunInput):
    """The input file's content; materials come as ``{name, text}``, a photo as the id of an upload.

    ``run_id``: an id of your own, of letters, digits, - and _, at most 48.
    """

    _checked = model_validator(mode="before")(check_json)

    stage: Stage = "draft"
    run_id: Annotated[str, Field(max_length=48, strict=True)] | None = None


class Rerun(BaseModel):
    """With neither ``start_at`` nor ``changes`` what is stale runs again, which may be nothing.

    Attributes:
        start_at: an agent; it and all downstream of it run again.
        changes: values by dotted path or nested; the agents that read what changed run again, and downstream.
        dry_run: say only which agents would run, why, and what that cost the last time.
    """

    model_config = ConfigDict(extra="forbid")
    _checked = model_validator(mode="before")(check_json)

    start_at: Annotated[str, Field(max_length=64)] | None = None
    changes: dict[str, Any] = {}
    dry_run: StrictBool = False


class PreviewNode(BaseModel):
    """An agent that would run, why, and what that cost the last time; ``cost_usd`` None: a price is unknown."""

    node: str
    why: str
    calls: int
    images: int
    seconds: float
    cost_usd: float | None


class RerunPreview(BaseModel):
    """What a rerun would run; no nodes: nothing has changed."""

    run_id: str
    nodes: list[PreviewNode]
    calls: int
    images: int
    seconds: float
    cost_usd: float | None


_NEW_RUN = {
    "a page": {
        "summary": "A product page in Korean",
        "value": {
            "brand": {"name": "소리결", "industry": "음향기기"},
            "product": {
                "name": "소리결 에어 2 무선 이어폰",
                "category": "블루투스 이어폰",
                "target": "지하철로 출퇴근하는 30-40대",
                "key_features": ["소음 차단 -42dB", "한 번 충전에 9시간"],
                "facts": {"모델명": "SG-A2", "가격": 89000},
            },
            "image": {"kind": "product_shot", "aspect_ratio": "16:9"},
        },
    }
}
_RERUN = {
    "from an agent": {"summary": "The copy anew", "value": {"start_at": "copywriter"}},
    "a change": {"summary": "Another target group", "value": {"changes": {"brief.target": "캠핑을 즐기는 30대"}}},
    "what is stale": {"summary": "What would be asked otherwise now", "value": {"dry_run": True}},
}


@router.post(
    "/runs",
    operation_id="start_run",
    summary="Start a run",
    description="It is booked and driven when its turn comes; follow its events, or read it, until it has ended.",
    status_code=202,
    response_model=RunBooked,
)
async def start_run(
    body: Annotated[NewRun, Body(openapi_examples=_NEW_RUN)],
    request: Request,
    services: ServicesOf,
    _key: IdempotencyKey = None,
) -> Response:
    async def book(token: str | None) -> RunRecord:
        return await services.studio.runs.start(
            body,
            run_id=body.run_id,
            stage=body.stage,
            status="queued",
            keeper=services.runner.keeper,
            request=token,
        )

    return await services.once.answer(request, lambda token: _booked(request, services, token, book))


@router.post(
    "/runs/{run_id}/rerun",
    operation_id="rerun_run",
    summary="Run a part of a run again, as a run of its own",
    description="200: a dry run's preview, or nothing is stale, and the run itself is told. 202: a rerun was booked.",
    status_code=202,
    response_model=RunBooked,
    responses={200: {"model": RerunPreview | RunBooked, "description": "Nothing was booked."}},
)
async def rerun_run(
    run_id: RunId,
    request: Request,
    services: ServicesOf,
    body: Annotated[Rerun | None, Body(openapi_examples=_RERUN)] = None,
    _key: IdempotencyKey = None,
) -> Response:
    wish = body or Rerun()

    async def book(token: str | None) -> RunRecord:
        return await services.studio.runs.start_rerun(
            run_id,
            start_at=wish.start_at,
            changes=wish.changes,
            status="queued",
            keeper=services.runner.keeper,
            request=token,
        )

    async def make(token: str | None) -> Response:
        record = await loaded(services, run_id)
        if token and await services.runner.booked(token):
            return await _booked(request, services, token, book)
        preview = await services.studio.preview_rerun(run_id, start_at=wish.start_at, changes=wish.changes)
        if wish.dry_run:
            return JSONResponse(preview.to_dict())
        if not preview.nodes and not wish.changes:
            return _told(request, record, 200)
        return await _booked(request, services, token, book)

    return await services.once.answer(request, make)


@router.post(
    "/runs/{run_id}/resume",
    operation_id="resume_run",
    summary="Go on with a run that failed, was stopped or cancelled",
    description="No finished agent is asked again. A run that waits, or is finished, stays as it is.",
    status_code=202,
    response_model=RunBooked,
)
async def resume_run(run_id: RunId, request: Request, services: ServicesOf, _key: IdempotencyKey = None) -> Response:
    async def make(_token: str | None) -> Response:
        return _told(request, await services.runner.resume(run_id), 202)

    return await services.once.answer(request, make)


@router.post(
    "/runs/{run_id}/cancel",
    operation_id="cancel_run",
    summary="Stop a run, and the image that is made for it",
    description=(
        "When this is answered the run has stopped, and is not gone on with, unless somebody resumes it. Only where a "
        "worker has not stopped it within 10 s its status is still `running`: it stops as soon as the worker can."
    ),
    status_code=202,
    response_model=RunBooked,
)
async def cancel_run(run_id: RunId, request: Request, services: ServicesOf, _key: IdempotencyKey = None) -> Response:
    async def make(_token: str | None) -> Response:
        return _told(request, await services.runner.cancel(run_id), 202)

    return await services.once.answer(request, make)


async def _booked(
    request: Request,
    services: Services,
    token: str | None,
    book: Callable[[str | None], Awaitable[RunRecord]],
) -> Response:
    """Book and queue a run; one that was booked for this request before, and could not be told, is told now."""
    if token and (before := await services.runner.booked(token)):
        return _told(request, await loaded(services, before), 202)
    try:
        async with services.runner.place() as submit:
            record = await book(token)
            submit(record)
    except ConflictError:  # another server was faster
        if token is None or (before := await services.runner.booked(token)) is None:
            raise
        record = await loaded(services, before)
    return _told(request, record, 202)
