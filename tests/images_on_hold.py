"""A media gateway for tests of image jobs, and what they wait for."""

from __future__ import annotations

import asyncio
from typing import Any

from routing.budget import Budget
from routing.contracts import Image, ImageAnswer, ImageAnswerMeta, ImageRequest, OnProgress
from routing.fingerprints import Fingerprint
from sparklio.server.job_files import Job
from sparklio.server.jobs import ImageJobs
from tests.waiting import NEVER_S


class ImagesOnHold:
    """A media gateway whose images are made when ``go`` says so."""

    def __init__(self, *, at_hand: bool = False) -> None:
        self.go = asyncio.Event()
        if at_hand:
            self.go.set()
        self.begun: list[str] = []
        self.left: list[str] = []
        self.cancelled: list[str] = []
        self.heard: OnProgress | None = None
        self.fails: Exception | None = None
        self.deaf: Exception | None = None

    async def generate_image(
        self, request: ImageRequest, on_progress: OnProgress | None = None, *, budget: Budget | None = None
    ) -> ImageAnswer:
        key = str(request.options.idempotency_key)
        self.begun.append(key)
        self.heard = on_progress
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.left.append(key)
            raise
        if self.fails is not None:
            raise self.fails
        meta = ImageAnswerMeta(
            request_id=request.request_id, kind=request.kind, generator_mode="live", latency_ms=1, attempts=[]
        )
        return ImageAnswer(
            provider="p", images=[Image(id="0" * 32, url="file:///home/x.png", width=1, height=1, seed=1)], meta=meta
        )

    async def fingerprint(self, request: ImageRequest) -> Fingerprint:
        return {}

    async def check(self, request: ImageRequest) -> None: ...

    async def cancel(self, request: ImageRequest) -> None:
        if self.deaf is not None:
            raise self.deaf
        self.cancelled.append(str(request.options.idempotency_key))

    def goes_on(self, request: ImageRequest) -> bool:
        return True

    async def prepare(self) -> None: ...

    async def aclose(self) -> None: ...


def wish(key: str | None = None, prompt: str = "a bottle", **options: Any) -> ImageRequest:
    return ImageRequest.model_validate({"prompt": prompt, "options": {**options, "idempotency_key": key}})


async def ended(jobs: ImageJobs, job_id: str) -> Job:
    seen = None
    async with asyncio.timeout(NEVER_S):
        while not (job := await jobs.wait(job_id, seen, NEVER_S)).ended:
            seen = job.version
    return job
