"""Images: made while the client waits, or as jobs that it looks after when it likes."""

from __future__ import annotations

import asyncio
import logging
from typing import Annotated, Any
from uuid import uuid4

from fastapi import APIRouter, Body, Path, Query, Request, Response, status
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, StrictBool, model_validator
from sse_starlette import ServerSentEvent

from providers.errors import SparklioError
from routing.contracts import REQUEST_ID, ImageAnswer, ImageOptions, ImageRequest, OnProgress, Progress
from routing.fingerprints import digest
from sparklio.server.bodies import JsonRoute, check_json, request_id_of, wants_events
from sparklio.server.errors import ErrorBody
from sparklio.server.job_files import Job, JobStatus
from sparklio.server.once import REPLAYED, IdempotencyKey
from sparklio.server.routes.images import with_urls
from sparklio.server.routes.llm import FingerprintAnswer
from sparklio.server.services import Services, ServicesOf
from sparklio.server.sse import answered, event, event_content, while_there

__all__ = ["router"]

log = logging.getLogger(__name__)

_STOPPED_WITHIN_S = 3.0
"""In which a service must have heard that nobody waits for its image any more."""

router = APIRouter(tags=["media"], route_class=JsonRoute)


class PictureOptions(ImageOptions):
    model_config = ConfigDict(strict=True)  # else `true` is a dollar, and a seed

    stream: StrictBool = Field(default=False, description="answer with events; as `Accept: text/event-stream` does")


class PictureRequest(ImageRequest):
    """``brand`` is data for the picture, e.g. ``{name, product, colors}``. ``job``: do not wait for it."""

    options: PictureOptions = PictureOptions()
    job: StrictBool = False  # type: ignore[assignment]  # in process there are no jobs

    _checked = model_validator(mode="before")(check_json)

    def asked(self, request: Request) -> ImageRequest:
        """What goes to the gateway: ``stream`` and ``job`` are between the client and us."""
        return ImageRequest(
            request_id=request_id_of(self, request),
            provider=self.provider,
            kind=self.kind,
            prompt=self.prompt,
            brand=self.brand,
            options=ImageOptions.model_validate(self.options.model_dump(exclude={"stream"}, exclude_unset=True)),
        )


class JobOrdered(BaseModel):
    job_id: str
    status: JobStatus
    url: str = Field(description="root-relative; read it for what becomes of the job")


class JobList(BaseModel):
    jobs: list[Job]


_EXAMPLES: Any = {
    "image": {
        "summary": "상품 이미지",
        "value": {
            "kind": "product_shot",
            "prompt": "A matte black protein powder pouch and a glass of chocolate shake on a warm oak table, "
            "soft morning light, studio product photography",
            "brand": {"name": "프로틴플러스", "product": "프로틴플러스 초코맛", "colors": ["#3B2314", "#F4EDE4"]},
            "options": {"aspect_ratio": "16:9", "negative_prompt": "text, watermark", "seed": 7},
        },
    },
    "job": {
        "summary": "상품 이미지를 작업으로",
        "value": {
            "kind": "hero",
            "prompt": "A runner at dawn by the Han river holding a shaker bottle, cinematic, warm light",
            "brand": {"name": "프로틴플러스"},
            "options": {"aspect_ratio": "16:9"},
            "job": True,
        },
    },
}

_CONFLICT: dict[str, Any] = {"model": ErrorBody, "description": "the idempotency key belongs to another request"}
_ELSEWHERE: dict[str, Any] = {"model": ErrorBody, "description": "another server drives the job"}
_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The image. As events, where these were asked for: `progress` `{step, steps, attempt}` as it is "
        "made, then one `answer` or one `error`.",
        "content": event_content("progress", "answer", "error"),
    },
    202: {"model": JobOrdered, "description": "the job, with its address in `Location`"},
    402: {"model": ErrorBody, "description": "options.budget_usd does not pay for the next call"},
    409: _CONFLICT,
}

PictureBody = Annotated[PictureRequest, Body(openapi_examples=_EXAMPLES)]
JobId = Annotated[str, Path(pattern=REQUEST_ID)]
WaitS = Annotated[float, Query(ge=0, le=30, description="seconds to wait for a change")]
Seen = Annotated[int | None, Query(description="the `version` that you know; without it, the present one")]


@router.post(
    "/media/image/generate",
    operation_id="generate_image",
    summary="Make an image",
    response_model=ImageAnswer,
    responses=_ANSWERS,
)
async def generate_image(
    body: PictureBody, request: Request, services: ServicesOf, key: IdempotencyKey = None
) -> Response:
    """Leaving cancels an image that is waited for. What has a key of the client's own goes on at its service, and is
    there when the client comes again; so does a job.

    One image for each ``options.idempotency_key`` while the first can still be had. With ``job`` it is the job's id.
    """
    asked = body.asked(request)
    if body.job:
        return await _ordered(services, request, asked)

    async def call(token: str | None, on_progress: OnProgress | None) -> ImageAnswer:
        own_id = "request_id" in body.model_fields_set
        wish = asked if own_id else _keyed(asked, token)
        try:
            answer = await services.studio.gateways.media.generate_image(wish, on_progress)
        except asyncio.CancelledError:
            if not (own_id or token or asked.options.idempotency_key):  # nobody could ever ask for it again
                await asyncio.shield(asyncio.create_task(_stop(services, wish)))
            raise
        return with_urls(answer, request)

    return await answered(request, services.once, call, _step, events=body.options.stream or wants_events(request))


@router.post(
    "/media/image/fingerprint",
    operation_id="fingerprint_image",
    summary="What decides the image of a request",
    response_model=FingerprintAnswer,
)
async def fingerprint_image(body: PictureBody, request: Request, services: ServicesOf) -> FingerprintAnswer:
    """Asks no service."""
    found = await services.studio.gateways.media.fingerprint(body.asked(request))
    return FingerprintAnswer(fingerprint=dict(found))


@router.post(
    "/media/image/check",
    operation_id="check_image",
    summary="Whether a request could make an image",
    status_code=status.HTTP_204_NO_CONTENT,
)
async def check_image(body: PictureBody, request: Request, services: ServicesOf) -> None:
    """Answers at once with what the image would fail with whatever the models do, e.g. an unknown workflow."""
    await services.studio.gateways.media.check(body.asked(request))


@router.post(
    "/media/image/cancel",
    operation_id="cancel_image",
    summary="Stop an image",
    status_code=status.HTTP_204_NO_CONTENT,
    responses={409: _ELSEWHERE},
)
async def cancel_image(body: PictureBody, request: Request, services: ServicesOf) -> None:
    """The one that was ordered with the request's ``options.idempotency_key``, where it is still to come."""
    await services.jobs.cancel_image(body.asked(request))


@router.get("/media/jobs", operation_id="list_jobs", summary="The latest jobs", response_model=JobList)
async def list_jobs(request: Request, services: ServicesOf, limit: Annotated[int, Query(ge=1, le=200)] = 20) -> JobList:
    """The latest first; ended ones are kept for a day."""
    return JobList(jobs=[_shown(job, request) for job in await services.jobs.latest(limit)])


@router.get("/media/jobs/{job_id}", operation_id="get_job", summary="What becomes of a job", response_model=Job)
async def get_job(
    job_id: JobId, request: Request, services: ServicesOf, wait_s: WaitS = 0, seen: Seen = None
) -> Response:
    """With ``wait_s`` it answers as soon as ``version`` is not ``seen`` or the job has ended."""

    async def look() -> Response:
        return _told(await services.jobs.wait(job_id, seen, wait_s), request)

    return await while_there(request, look())


@router.post(
    "/media/jobs/{job_id}/cancel",
    operation_id="cancel_job",
    summary="Stop a job",
    response_model=Job,
    responses={409: _ELSEWHERE},
)
async def cancel_job(job_id: JobId, request: Request, services: ServicesOf) -> Response:
    """The job as it has ended; one that had ended before is left as it was."""
    return _told(await services.jobs.cancel(job_id), request)


@router.delete(
    "/media/jobs/{job_id}",
    operation_id="delete_job",
    summary="Stop a job",
    response_model=Job,
    responses={409: _ELSEWHERE},
)
async def delete_job(job_id: JobId, request: Request, services: ServicesOf) -> Response:
    """The same as ``cancel``."""
    return await cancel_job(job_id, request, services)


async def _ordered(services: Services, request: Request, asked: ImageRequest) -> Response:
    """A job is its own memory of what was asked: the same key finds it again, as it stands then."""
    job, new = await services.jobs.order(asked, _job_id(request, asked))
    url = str(request.app.url_path_for("get_job", job_id=job.job_id))
    headers = {"Location": url} | ({} if new else {REPLAYED: "true"})
    body = JobOrdered(job_id=job.job_id, status=job.status, url=url)
    return JSONResponse(body.model_dump(), status.HTTP_202_ACCEPTED, headers=headers)


def _job_id(request: Request, asked: ImageRequest) -> str | None:
    """The header may be anything, and each caller counts its own from 1; the body's key is an id already."""
    key = request.headers.get("idempotency-key")
    if asked.options.idempotency_key or key is None:
        return asked.options.idempotency_key
    return digest([getattr(request.state, "caller", None), key])


async def _stop(services: Services, wish: ImageRequest) -> None:
    """Stop an image at its service; who could hear that it failed is gone."""
    try:
        async with asyncio.timeout(_STOPPED_WITHIN_S):
            await services.studio.gateways.media.cancel(wish)
    except (SparklioError, TimeoutError) as exc:
        log.warning("an image whose client has left may be made all the same: %s", str(exc) or "no answer in time")


def _keyed(asked: ImageRequest, token: str | None) -> ImageRequest:
    """Else the gateway takes the request's id for the key; a header for tracing must not bring back an old image."""
    key = asked.options.idempotency_key or token or uuid4().hex
    return asked.model_copy(update={"options": asked.options.model_copy(update={"idempotency_key": key})})


def _step(progress: Progress) -> ServerSentEvent:
    return event("progress", {"step": progress.step, "steps": progress.steps, "attempt": progress.attempt})


def _shown(job: Job, request: Request) -> Job:
    """What clients may see of it, with this server's addresses."""
    fields = {name: getattr(job, name) for name in Job.model_fields}
    return Job(**fields | {"answer": job.answer and with_urls(job.answer, request)})


def _told(job: Job, request: Request) -> Response:
    return Response(_shown(job, request).model_dump_json(), media_type="application/json")
