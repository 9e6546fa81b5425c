"""Images as jobs of a server: ordered, followed to their end, and ordered again where the server has lost them."""

from __future__ import annotations

from typing import Any, Literal
from urllib.parse import quote

from pydantic import BaseModel

from providers.errors import JobError, UnknownNameError
from routing.contracts import ImageAnswer, ImageRequest, OnProgress, Progress
from routing.remote import Remote
from routing.remote_errors import GATEWAY, error_of

__all__ = ["RemoteJobs"]

_WAIT_S = 20  # of one long poll: under the half minute after which proxies lose patience
_MOST_ORDERS = 3
_JOBS = "/api/v1/media/jobs"


class _Step(BaseModel):
    step: int
    steps: int
    attempt: int = 1


class _Job(BaseModel):
    """What the server tells of one; ``version`` grows with each change, None where it was not told yet."""

    job_id: str
    status: Literal["queued", "running", "succeeded", "failed", "cancelled"]
    version: int | None = None
    progress: _Step | None = None
    answer: ImageAnswer | None = None
    error: dict[str, Any] | None = None

    @property
    def open(self) -> bool:
        return self.status in ("queued", "running")


class RemoteJobs:
    """Image jobs of one server."""

    def __init__(self, remote: Remote) -> None:
        self._remote = remote

    async def made(self, order: ImageRequest, on_progress: OnProgress | None) -> ImageAnswer:
        """The answer to ``order``, whose ``options.idempotency_key`` names the job, there already or not.

        Raises:
            SparklioError: what the job failed with.
            JobError: somebody cancelled it, or the server loses it again and again.
        """
        for _ in range(_MOST_ORDERS):
            job: _Job | None = await self._ordered(order)
            while job is not None and (job.open or job.version is None):
                before, job = job, await self._next(job)
                if on_progress and job and job.progress and job.progress != before.progress:
                    on_progress(Progress(kind="image", **job.progress.model_dump()))
            if job is not None:
                return _outcome(job)
        raise JobError(
            f"the gateway lost the image {_MOST_ORDERS} times", provider=GATEWAY, hint="look into the server's log"
        )

    async def _ordered(self, order: ImageRequest) -> _Job:
        """The job, begun now, found by its name, or begun again where it failed."""
        body = order.model_dump(mode="json") | {"job": True}
        response = await self._remote.patiently(lambda: self._remote.ask("POST", "/api/v1/media/image/generate", body))
        return self._remote.parsed(_Job, response)

    async def _next(self, job: _Job) -> _Job | None:
        """The job as soon as it is otherwise than ``job``, or after a while; None: the server knows it no more."""
        params = {} if job.version is None else {"wait_s": _WAIT_S, "seen": job.version}
        path = f"{_JOBS}/{quote(job.job_id, safe='')}"
        try:
            response = await self._remote.patiently(
                lambda: self._remote.ask("GET", path, params=params, read_s=_WAIT_S * 2)
            )
        except UnknownNameError:
            return None
        return self._remote.parsed(_Job, response)


def _outcome(job: _Job) -> ImageAnswer:
    if job.answer is not None:
        return job.answer
    if job.error is not None:
        raise error_of(job.error)
    raise JobError(
        f"the image was {job.status}", provider=GATEWAY, hint="somebody stopped it at the gateway; start it again"
    )
