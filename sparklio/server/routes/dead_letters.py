"""Runs that have failed and that nobody goes on with: which, why, and another try for one or for all of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field

from providers.errors import ConflictError, QueueFullError, RunBusyError, UnknownNameError, UsageError
from routing.contracts import Mode, Stage
from sparklio.server.bodies import JsonRoute
from sparklio.server.dead_letters import Letter
from sparklio.server.errors import without_folder
from sparklio.server.once import IdempotencyKey
from sparklio.server.routes.booked import RunBooked, told
from sparklio.server.routes.run_views import RunId, loaded
from sparklio.server.services import Services, ServicesOf

__all__ = ["router"]

router = APIRouter(tags=["runs"], route_class=JsonRoute)

_PAGE = 200


class DeadLetter(BaseModel):
    """``error``: why it failed; ``deliveries``: how often a worker has begun it, 0 where the server drove it itself;
    ``batch``: what it was booked with, None: alone. Times are UTC."""

    run_id: str
    product: str
    mode: Mode
    stage: Stage
    batch: str | None
    created_at: datetime
    finished_at: datetime | None
    deliveries: int
    error: dict[str, Any] | None


class DeadLetterPage(BaseModel):
    """``next_cursor`` leads to the next page; None: there is none."""

    dead_letters: list[DeadLetter]
    next_cursor: str | None


class Retried(BaseModel):
    """``retried``: how many wait again. ``left``: how many do not, because the queue is full, they are of another mode
    or somebody is at them."""

    retried: int = Field(examples=[12])
    left: int = Field(examples=[0])


@router.get(
    "/dead-letters", operation_id="list_dead_letters", summary="List the runs that have failed, the latest first"
)
async def list_dead_letters(
    services: ServicesOf,
    limit: Annotated[int, Query(ge=1, le=_PAGE)] = 50,
    cursor: Annotated[str | None, Query(max_length=100, description="next_cursor of the page before.")] = None,
) -> DeadLetterPage:
    """Those that a server has booked: nobody goes on with them until they are retried, resumed or deleted. What
    somebody has run by hand is not among them."""
    page = await asyncio.to_thread(services.letters.page, limit, cursor)
    letters = [_view(services, letter) for letter in page.letters]
    return DeadLetterPage(dead_letters=letters, next_cursor=page.next_cursor)


@router.post(
    "/dead-letters/retry",
    operation_id="retry_dead_letters",
    summary="Give all that have failed another try",
    description="The latest first, until all wait again or the queue is full. No finished agent is asked again.",
    response_model=Retried,
)
async def retry_dead_letters(request: Request, services: ServicesOf, _key: IdempotencyKey = None) -> Response:
    async def make(_token: str | None) -> Retried:
        return await _retry_all(services)

    return await services.once.answer(request, make)


@router.post(
    "/dead-letters/{run_id}/retry",
    operation_id="retry_dead_letter",
    summary="Give a run that has failed another try",
    description="It waits as if it had never been begun; no finished agent is asked again. 409: it has not failed.",
    status_code=202,
    response_model=RunBooked,
)
async def retry_dead_letter(
    run_id: RunId, request: Request, services: ServicesOf, _key: IdempotencyKey = None
) -> Response:
    async def make(_token: str | None) -> Response:
        record = await loaded(services, run_id)
        if record.status != "failed" or record.keeper is None:
            raise ConflictError(f"run {run_id!r} is {record.status}, and no dead letter", hint="resume it instead")
        return told(request, await services.runner.resume(run_id), 202)

    return await services.once.answer(request, make)


async def _retry_all(services: Services) -> Retried:
    """Read first and retried then: what fails again meanwhile waits for the next time."""
    dead = [run_id async for run_id in _all(services)]
    retried = 0
    for run_id in dead:
        try:
            await services.runner.resume(run_id)
        except QueueFullError:
            break
        except (UsageError, RunBusyError, UnknownNameError):  # of another mode, or somebody was faster
            continue
        retried += 1
    return Retried(retried=retried, left=len(dead) - retried)


async def _all(services: Services) -> AsyncIterator[str]:
    cursor: str | None = None
    while True:
        page = await asyncio.to_thread(services.letters.page, _PAGE, cursor)
        for letter in page.letters:
            yield letter.record.run_id
        if (cursor := page.next_cursor) is None:
            return


def _view(services: Services, letter: Letter) -> DeadLetter:
    record = letter.record
    return DeadLetter(
        run_id=record.run_id,
        product=record.product,
        mode=record.mode,
        stage=record.stage,
        batch=record.batch,
        created_at=record.created_at,
        finished_at=record.finished_at,
        deliveries=letter.deliveries,
        error=without_folder(record.error, services.studio.settings.home),
    )
