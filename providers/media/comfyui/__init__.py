"""Images from ComfyUI: a workflow chosen by name, filled with the prompt, submitted once and awaited.

What keeps a job from being made twice: its prompt id follows from the idempotency key, and the id is looked up before
anything is sent, and again when a sending went unanswered. Who stops waiting leaves the job alone; asking again with
the same key picks it up where it is. Only ``cancel`` ends it.
"""

from __future__ import annotations

import asyncio
import logging
import random
import uuid
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field, StringConstraints

from providers.base import (
    Finding,
    GeneratedImage,
    ImageChunk,
    ImageProvider,
    ImageProviderResponse,
    Options,
    Photo,
    ProviderConfig,
    Setting,
)
from providers.errors import EmptyAnswerError, WorkflowError
from providers.media._wish import ImageWish
from providers.media.comfyui.client import ComfyUIClient
from providers.media.comfyui.diagnosis import Diagnosis
from providers.media.comfyui.errors import (
    LostJobError,
    MissingImageError,
    UnansweredError,
    UnusableImageError,
    job_failure,
)
from providers.media.comfyui.photos import check_photo, upload_photo
from providers.media.comfyui.shapes import Download, HistoryEntry
from providers.media.comfyui.watch import Patience, Step
from providers.media.comfyui.workflow import Graph, Workflow, WorkflowFolder, packaged_workflows
from providers.media.sizes import choose_size
from providers.pictures import Look, picture_of

__all__ = ["ComfyUIProvider"]

logger = logging.getLogger(__name__)

_Picture = tuple[Download, Look]
_CHECKPOINTS = ("CheckpointLoaderSimple", "ckpt_name")  # the node that every server has, and its input
_NAMESPACE = uuid.UUID("2f6f1b0e-7d0b-5a53-9a35-3c1d7a1f5f0c")


class _Wish(ImageWish):
    """The options that this provider knows."""

    workflow: str | None = None
    steps: int | None = Field(default=None, ge=1, le=200)
    checkpoint: Annotated[str, StringConstraints(min_length=1, max_length=255)] | None = None


@dataclass(frozen=True)
class _Plan:
    """What will be made: ``values`` by slot word, all but the prompt and what is known at the submission only."""

    workflow: Workflow
    values: Mapping[str, Any]
    photo: Photo | None
    key: str | None


@dataclass(frozen=True)
class _Found:
    """Where a key's job stands: ``number`` is the try (each has its own prompt id) that is under way or to come."""

    number: int = 1
    under_way: bool = False
    entry: HistoryEntry | None = None
    images: Sequence[_Picture] = ()


class ComfyUIProvider(ImageProvider):
    """Images from a ComfyUI server. ``patience`` says how long it waits for what, apart from COMFYUI_TIMEOUT."""

    vendor = "comfyui"
    goes_on = True
    settings = (
        Setting("COMFYUI_BASE_URL", "address of ComfyUI", "http://localhost:8188", kind="url"),
        Setting(
            "COMFYUI_WORKFLOW_DIR",
            "folder of workflows in API format; the packaged ones come after it",
            "./workflows",
            kind="path",
        ),
        Setting("COMFYUI_TIMEOUT", "seconds that an image may run, not counting the queue", "300", kind="seconds"),
    )
    patience: ClassVar[Patience] = Patience()

    def __init__(self, config: ProviderConfig) -> None:
        super().__init__(config)
        self._client = ComfyUIClient(config.text("COMFYUI_BASE_URL"), provider=config.name)
        self._workflows = WorkflowFolder(_folders(config), provider=config.name)
        self._patience = replace(self.patience, run_s=config.seconds("COMFYUI_TIMEOUT"))

    async def generate(self, prompt: str, kind: str, options: Options) -> ImageProviderResponse:
        """As the base says; ``kind`` is for the caller's routing, the workflow is what makes the difference here.

        Raises:
            UnknownNameError: there is no workflow of that name.
            WorkflowError: no workflow was named, it is malformed, it makes no image, or it does not go with the photo.
            ModelNotFoundError: ComfyUI does not have the checkpoint.
            JobError: the job failed, was interrupted, got lost twice or stalled (``details["reason"]``).
            AttemptTimeoutError: it ran longer than COMFYUI_TIMEOUT.
        """
        response: ImageProviderResponse | None = None
        async with aclosing(self.stream(prompt, kind, options)) as chunks:
            async for chunk in chunks:
                response = chunk.response
        if response is None:
            raise EmptyAnswerError("ComfyUI made no image", provider=self.config.name)
        return response

    async def stream(
        self,
        prompt: str,
        kind: str,  # the interface's; the workflow stands for it here
        options: Options,
    ) -> AsyncGenerator[ImageChunk, None]:
        """The sampler's steps as they happen, then one chunk with the response; raises as :meth:`generate`."""
        plan = self._plan(options)
        plan = replace(plan, values={"prompt": prompt, **plan.values})
        found = await self._look_up(plan.key) if plan.key else _Found()
        entry, images = found.entry, found.images
        if entry is None:
            async with aclosing(self._run(plan, found)) as items:
                async for item in items:
                    if isinstance(item, Step):
                        yield ImageChunk(step=item.step, steps=item.steps)
                    else:
                        entry = item
        if entry is not None:
            images = images or await self._pictures(entry)
            yield ImageChunk(response=self._response(plan.workflow, entry, images, plan.values["seed"]))

    async def check(self, kind: str, options: Options) -> None:
        """As the base says. Whether ComfyUI has the checkpoint, only ComfyUI knows."""
        self._plan(options)

    def fingerprint(self, options: Options) -> dict[str, Any]:
        """As the base says: the workflow's graph."""
        return {"graph": self._workflow(_Wish.read(options, provider=self.config.name)).graph}

    async def cancel(self, idempotency_key: str) -> None:
        """Take the key's job out of ComfyUI's queue, or interrupt it if it runs; one that ended is left as it is.

        Who still waits for a job that is taken out of the queue takes it for lost and orders it anew.
        """
        async with aclosing(self._tries(idempotency_key)) as tries:
            async for number, under_way, _ in tries:
                if under_way:
                    await self._client.stop(_prompt_id(idempotency_key, number))

    async def health_check(self) -> bool:
        return await self._client.health()

    async def diagnose(self, wishes: Sequence[Options]) -> list[Finding]:
        """On the server first, then on the workflow of each wish: its file, its nodes, its model files."""
        return await Diagnosis(self._client, self.config.name, self._filled).findings(wishes)

    async def models(self) -> list[dict[str, Any]]:
        """``name`` of each checkpoint."""
        names = await Diagnosis(self._client, self.config.name, self._filled).offered(*_CHECKPOINTS)
        return [{"name": name} for name in names]

    async def aclose(self) -> None:
        await self._client.aclose()

    def _filled(self, options: Options) -> Graph:
        plan = self._plan(options)
        return plan.workflow.fill(plan.values)

    def _plan(self, options: Options) -> _Plan:
        """What the options come to; raises what is wrong with them, without a call."""
        wish = _Wish.read(options, provider=self.config.name)
        workflow = self._workflow(wish)
        check_photo(wish.photo, workflow, self._workflows)
        return _Plan(workflow, self._slot_values(wish, workflow), wish.photo, wish.idempotency_key)

    def _workflow(self, wish: _Wish) -> Workflow:
        if wish.workflow is None:
            raise WorkflowError(
                "no workflow is named for the image",
                provider=self.config.name,
                hint="name one as `workflow:` in media_routing of provider_config.yaml, or as options.workflow; "
                "there are: " + ", ".join(self._workflows.names()),
            )
        return self._workflows.load(wish.workflow)

    def _slot_values(self, wish: _Wish, workflow: Workflow) -> dict[str, Any]:
        """Values by slot word; a slot without a value keeps what the workflow says."""
        width, height = _size(wish, workflow)
        values = {
            "negative": wish.negative_prompt or None,
            # 53 bits: ComfyUI's own page is JavaScript and would round a longer one.
            "seed": random.getrandbits(53) if wish.seed is None else wish.seed,
            "width": width,
            "height": height,
            "steps": wish.steps,
            "checkpoint": wish.checkpoint,
        }
        return {slot: value for slot, value in values.items() if value is not None}

    async def _look_up(self, key: str) -> _Found:
        """Find the key's job: under way, or finished with whole images still there; else the number of the next try."""
        number = 0
        async with aclosing(self._tries(key)) as tries:
            async for number, under_way, entry in tries:
                if under_way:
                    return _Found(number, under_way=True)
                if entry is not None and entry.succeeded and entry.files:
                    with suppress(MissingImageError, UnusableImageError):
                        return _Found(number, entry=entry, images=await self._pictures(entry))
        return _Found(number - 1)

    async def _tries(self, key: str) -> AsyncGenerator[tuple[int, bool, HistoryEntry | None], None]:
        """The key's tries: number, whether it is under way, what the history says. The last two are unknown there.

        A try that got lost leaves a gap in the numbers, so it takes two unknown ones in a row to be sure of the end.
        """
        queue = await self._client.get_queue()
        number, unknown = 1, 0
        while unknown < 2:
            prompt_id = _prompt_id(key, number)
            under_way = prompt_id in queue
            entry = None if under_way else await self._client.history(prompt_id)
            yield number, under_way, entry
            unknown = 0 if under_way or entry is not None else unknown + 1
            number += 1

    async def _run(self, plan: _Plan, found: _Found) -> AsyncGenerator[Step | HistoryEntry, None]:
        """Submit the job, unless it is under way, and await it; a lost one is submitted once more under a new id.

        So is one that was found under way and turns out to be interrupted: ComfyUI may take its time over that, and it
        was the order before this one that somebody did not want any more.
        """
        key = plan.key or uuid.uuid4().hex
        for number in (found.number, found.number + 1):
            prompt_id, client_id = _prompt_id(key, number), str(uuid.uuid4())
            under_way = found.under_way and number == found.number
            try:
                graph = None if under_way else await self._graph(plan, prompt_id)
                async with self._client.events(client_id) as events:
                    if graph is not None:
                        await self._submit(graph, prompt_id, client_id)
                    async with aclosing(self._client.watch(prompt_id, events, self._patience)) as items:
                        async for item in items:
                            if under_way and isinstance(item, HistoryEntry) and item.interrupted:
                                raise _stopped_before(item, provider=self.config.name)
                            yield item
            except LostJobError:
                if number > found.number:
                    raise
                logger.warning("ComfyUI lost image job %s; submitting it once more", prompt_id)
            else:
                return

    async def _graph(self, plan: _Plan, prompt_id: str) -> Graph:
        """The graph to send; the photo is uploaded now, so that a job that is found again uploads nothing."""
        # A name of its own for every job: an identical prompt would otherwise be answered from ComfyUI's cache with
        # the name of an old file, which may be gone.
        values = {**plan.values, "filename_prefix": f"sparklio/{plan.workflow.name}_{prompt_id[:8]}"}
        if plan.photo is not None:
            values["image"] = await upload_photo(self._client, plan.photo)
        return plan.workflow.fill(values)

    async def _submit(self, graph: Graph, prompt_id: str, client_id: str) -> None:
        """Send the job, and once more if the first sending went unanswered and did not arrive."""
        try:
            await self._client.queue_prompt(graph, prompt_id=prompt_id, client_id=client_id)
        except UnansweredError:
            if not await self._arrived(prompt_id):
                await self._client.queue_prompt(graph, prompt_id=prompt_id, client_id=client_id)

    async def _arrived(self, prompt_id: str) -> bool:
        if await self._client.knows(prompt_id):
            return True
        await asyncio.sleep(self._patience.poll_s)  # the server may still be checking the graph
        return await self._client.knows(prompt_id)

    async def _pictures(self, entry: HistoryEntry) -> list[_Picture]:
        return [(download, await self._look(download)) for download in await self._client.get_images(entry)]

    async def _look(self, download: Download) -> Look:
        try:
            return await asyncio.to_thread(picture_of, download.content)
        except ValueError as exc:
            raise UnusableImageError(
                f"ComfyUI's file {download.file.filename!r} is not a PNG, JPEG or WebP image, or not a whole one",
                provider=self.config.name,
                hint="end the workflow in a SaveImage node, and look whether ComfyUI's disk is full",
                details={"reason": "not_an_image"},
            ) from exc

    def _response(
        self, workflow: Workflow, entry: HistoryEntry, pictures: Sequence[_Picture], seed: int
    ) -> ImageProviderResponse:
        if not pictures:
            raise WorkflowError(
                f"workflow {workflow.name!r} made no image",
                provider=self.config.name,
                hint="end it in a SaveImage node",
            )
        # What ran, not what was asked for: a job that was picked up again has the seed and the words of its first
        # submission. Words are told only where they are marked: another text of the graph may be anything.
        ran = workflow.read(entry.graph, "seed")
        words = {
            "prompt": workflow.read_marked(entry.graph, "prompt"),
            "negative_prompt": workflow.read_marked(entry.graph, "negative"),
        }
        meta = {
            "workflow": workflow.name,
            "prompt_id": entry.prompt_id,
            "checkpoint": workflow.read(entry.graph, "checkpoint"),
            **{name: text for name, text in words.items() if text is not None},
        }
        seed = ran if isinstance(ran, int) else seed
        images = tuple(_image(picture, seed, meta) for picture in pictures)
        return ImageProviderResponse(provider=self.config.name, images=images, meta=meta)


def _stopped_before(entry: HistoryEntry, *, provider: str) -> LostJobError:
    failure = job_failure(entry.prompt_id, entry.last_message, provider=provider)
    return LostJobError(failure.message, provider=provider, hint=failure.hint, details=failure.details)


def _image(picture: _Picture, seed: int, meta: Mapping[str, Any]) -> GeneratedImage:
    download, look = picture
    return GeneratedImage(
        content=download.content,
        width=look.width,
        height=look.height,
        seed=seed,
        media_type=look.media_type,
        meta={**meta, "filename": download.file.filename},
    )


def _folders(config: ProviderConfig) -> list[Path]:
    """The user's folder, where there is one, before the packaged workflows."""
    own = config.values.get("COMFYUI_WORKFLOW_DIR")
    return [*([Path(own).expanduser()] if own else []), packaged_workflows()]


def _prompt_id(key: str, number: int) -> str:
    """The prompt id of a key's first, second, ... try; ids are not reused, because ComfyUI would run one twice."""
    return str(uuid.uuid5(_NAMESPACE, key if number == 1 else f"{key}#{number}"))


def _size(wish: _Wish, workflow: Workflow) -> tuple[int, int] | tuple[None, None]:
    """Width and height in pixels; two times None is the workflow's own."""
    if (wish.width, wish.height, wish.aspect_ratio) == (None, None, None):
        return None, None
    own = workflow.read(workflow.graph, "width"), workflow.read(workflow.graph, "height")
    default = own if all(isinstance(side, int) for side in own) else None
    return choose_size(wish.width, wish.height, wish.aspect_ratio, default) or (None, None)
