"""The Python face: settings, gateways, checkpointer and runs in one ``async with``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from graph.database import Database, open_database
from graph.history import Point
from graph.inputs import RunInput, load_input
from graph.planning import Preview
from graph.runs import Event, Runs
from graph.store import RunRecord, RunStore
from nodes.context import Context
from providers.errors import StorageError
from routing.contracts import Language, Mode, Stage
from routing.gateways import build_gateways
from routing.image_store import ImageStore, image_id
from routing.settings import Settings, load_settings
from sparklio.publish import PAGE_FILE, Publisher, out_folder, read_result

if TYPE_CHECKING:
    from sparklio.pruning import Pruned

__all__ = ["Run", "Sparklio"]


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        id: the run's id.
        state: the graph's last state.
        result: what result.json holds.
        page_path: the finished page.
    """

    id: str
    state: dict[str, Any]
    result: dict[str, Any]
    page_path: Path


class Sparklio:
    """``async with Sparklio() as studio``: run, stream, resume, rerun and look back.

    Args:
        mode: ``mock`` or ``live``; beats GENERATOR_MODE.
        home: the data folder; beats SPARKLIO_HOME.
        config: the routing file; beats SPARKLIO_CONFIG.
        settings: any other variable by its name.

    Raises:
        ConfigError: on construction, where a setting or the routing file is wrong.
        StorageError: on entering, where the data folder cannot be used.
    """

    def __init__(
        self,
        *,
        mode: Mode | None = None,
        home: str | Path | None = None,
        config: str | Path | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        named = {
            "GENERATOR_MODE": mode,
            "SPARKLIO_HOME": str(home) if home else None,
            "SPARKLIO_CONFIG": str(config) if config else None,
        }
        told = {name: value for name, value in named.items() if value is not None}
        self.settings: Settings = load_settings({**(settings or {}), **told})
        self._resources = AsyncExitStack()
        self._runs: Runs | None = None
        self._database: Database | None = None

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            gateways = build_gateways(self.settings)
            stack.push_async_callback(gateways.aclose)
            path = self.settings.home / "checkpoints.sqlite"
            database = await stack.enter_async_context(open_database(path, self.settings.encryption_key))
            store = RunStore(self.settings.home)
            self._database = database
            self._runs = Runs(
                store,
                database,
                Context(llm=gateways.llm, media=gateways.media),
                mode=self.settings.mode,
                read_input=lambda path, keep: load_input(path, self.images.save if keep else image_id),
                publish=Publisher(gateways.media.store, store),
                prepare=gateways.prepare,
                budget_usd=self.settings.run_budget_usd,
                secrets=self.settings.secrets,
            )
            self._resources = stack.pop_all()
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._runs = self._database = None
        await self._resources.aclose()

    @property
    def runs(self) -> Runs:
        """The book of runs beneath; most callers need only the methods below."""
        if self._runs is None:
            raise _not_entered()
        return self._runs

    def _opened(self) -> Database:
        if self._database is None:
            raise _not_entered()
        return self._database

    @property
    def images(self) -> ImageStore:
        """Where the gateway keeps images, and photos to start from."""
        return ImageStore(self.settings.images)

    async def add_photo(self, photo: str | Path | bytes) -> str:
        """Store a photo of the product and return its id, for ``product={"photo": id}``.

        Args:
            photo: a file, or the bytes of one: PNG, JPEG or WebP of at most 20 MB and 50 megapixels. Orientation is
                applied, transparency becomes white, and what else a camera wrote (place, device) is dropped.

        Raises:
            InputError: it is no such image.
            StorageError: the data folder cannot be written.
        """
        from graph.photos import check_photo, read_photo  # with Pillow, which most callers need not wait for

        def add() -> str:
            checked = (
                check_photo(photo) if isinstance(photo, bytes) else read_photo(Path(photo).expanduser(), str(photo))
            )
            return self.images.save(checked.content, checked.media_type)

        return await asyncio.to_thread(add)

    async def run(
        self,
        *,
        brand: Mapping[str, Any],
        product: Mapping[str, Any],
        image: Mapping[str, Any] | None = None,
        language: Language = "ko",
        stage: Stage = "draft",
        run_id: str | None = None,
        out: str | Path | None = None,
    ) -> Run:
        """Make a page: run all six agents, write result and page, return them.

        Args:
            brand: ``{name, industry, uploaded_materials: [{name, text}]}``.
            product: ``{name, category, target, key_features, facts, photo}``; ``photo`` is an id of :meth:`add_photo`.
            image: ``{kind, aspect_ratio, workflow, seed}``.
            language: of what is written, ``ko`` or ``en``.
            stage: ``draft`` or ``final``: which routing rules apply.
            run_id: an id of your own for the run.
            out: folder of result.json, page.html and images/ (default: the run's own folder).

        Raises:
            SparklioError: a typed error; ``error.run_id`` names the run where it had begun, so that it can be resumed.
        """
        record = await self._book(brand, product, image, language, stage, run_id, out)
        return await self._finish(record)

    async def stream(
        self,
        *,
        brand: Mapping[str, Any],
        product: Mapping[str, Any],
        image: Mapping[str, Any] | None = None,
        language: Language = "ko",
        stage: Stage = "draft",
        run_id: str | None = None,
        out: str | Path | None = None,
    ) -> AsyncGenerator[Event, None]:
        """The same as :meth:`run`, event by event. Leaving the loop stops the run; it can be resumed."""
        record = await self._book(brand, product, image, language, stage, run_id, out)
        async with aclosing(self.runs.drive(record)) as events:
            async for event in events:
                yield event

    async def resume(self, run_id: str) -> Run:
        """Go on with a run that failed or was stopped, repeating no finished node; a finished one is returned as it is.

        Raises:
            SparklioError: as :meth:`run`; also where there is no such run or another process runs it.
        """
        return await self._finish(self.runs.resumable(run_id))

    async def rerun(
        self,
        run_id: str,
        *,
        start_at: str | None = None,
        changes: Mapping[str, Any] | None = None,
        out: str | Path | None = None,
    ) -> Run:
        """Run a part of ``run_id`` again as a run of its own, ``<id>.2``, ``<id>.3``, ...

        Args:
            run_id: a finished run, or one that has all that is to be kept.
            start_at: an agent; it and all downstream of it run again, and nothing beside. With neither this nor
                ``changes`` every agent that would be asked otherwise now (another prompt, model, option, workflow or
                input file), and downstream; where that is nobody, the run itself is returned.
            changes: values by dotted path (``{"brief.target": "캠핑족"}``) or nested (``{"brief": {"target": ...}}``; a
                mapping is merged). Without ``start_at`` every agent that reads what changed runs again, and downstream.
            out: as in :meth:`run`.

        Raises:
            SparklioError: as :meth:`run`; a UsageError where the rerun would overwrite a change.
        """
        changes, folder = changes or {}, out_folder(out, run_id)
        if not (await self.runs.preview_rerun(run_id, start_at=start_at, changes=changes)).nodes and not changes:
            return await self.load(run_id)
        return await self._finish(await self.runs.start_rerun(run_id, start_at=start_at, changes=changes, out=folder))

    async def preview_rerun(
        self, run_id: str, *, start_at: str | None = None, changes: Mapping[str, Any] | None = None
    ) -> Preview:
        """What :meth:`rerun` would run, why, and what that cost the last time. Runs nothing."""
        return await self.runs.preview_rerun(run_id, start_at=start_at, changes=changes)

    async def history(self, run_id: str) -> list[Point]:
        """The checkpoints of the run and its family: id, next nodes and values of each."""
        return await self.runs.history(run_id)

    async def diff(self, a: str, b: str) -> dict[str, Any]:
        """What run ``b`` made otherwise than run ``a``.

        Returns ``{a, b, differences: [{path, change: changed | added | removed, old, new}]}``; ``a`` and ``b`` are
        ``{run_id, status, mode, stage, models, cost_usd, wall_ms}``. A run without result is compared by its state.

        Raises:
            UnknownNameError: there is no such run.
            StorageError: a result or state cannot be read.
        """
        from sparklio.differences import compared, differences, outline

        runs = [await self._made(run_id) for run_id in (a, b)]
        found = differences(compared(*runs[0]), compared(*runs[1]))
        return {
            "a": outline(*runs[0]),
            "b": outline(*runs[1]),
            "differences": [difference.to_dict() for difference in found],
        }

    async def _made(self, run_id: str) -> tuple[RunRecord, dict[str, Any] | None, dict[str, Any]]:
        """The record of a run and its result, or where there is none its state."""
        record = self.runs.store.load(run_id)
        try:
            return record, await asyncio.to_thread(read_result, self.runs.store, run_id), {}
        except FileNotFoundError:
            return record, None, await self.runs.values(run_id)

    async def pack(self, run_id: str, out: str | Path | None = None) -> Path:
        """Write a run with its images and checkpoints into one file, for :meth:`unpack` on another machine.

        Args:
            run_id: a run that nobody is running.
            out: the file, or a folder for it; default: ``<run_id>.sparklio`` in the current folder.

        Raises:
            UnknownNameError: there is no such run.
            RunBusyError: it is being run.
            StorageError: something of it cannot be read, or the file not be written.
        """
        from sparklio.packing import pack_run, package_path

        path = package_path(run_id, _folder(out))
        return await pack_run(self.runs.store, self.images, self._opened(), run_id, path)

    async def unpack(self, file: str | Path) -> RunRecord:
        """Make a packed run one of this machine's; nothing is written before all of the file has been checked.

        Raises:
            InputError: it is no packed run, or damaged.
            ConfigError: it is encrypted, and not with this machine's key.
            RunExistsError: there is a run of its id here.
            StorageError: the data folder cannot be written.
        """
        from sparklio.package import open_package
        from sparklio.unpacking import unpack_run

        with open_package(Path(file)) as package:
            return await unpack_run(self.runs.store, self.images, self._opened(), package)

    async def prune(
        self,
        *,
        older_than: timedelta | None = None,
        keep: int | None = None,
        unfinished: bool = False,
        dry_run: bool = False,
    ) -> Pruned:
        """Delete the runs that ended longer than ``older_than`` ago and are not among the ``keep`` latest.

        Failed and interrupted ones stay unless ``unfinished``; one that is being run always stays. Then images that no
        run names and that are older than a day.

        Raises:
            UsageError: neither ``older_than`` nor ``keep`` is given.
            StorageError: the data folder cannot be read or written.
        """
        from sparklio.pruning import Pruner

        pruner = Pruner(self.settings.home, self.settings.images, self._opened())
        return await pruner.prune(older_than=older_than, keep=keep, unfinished=unfinished, dry_run=dry_run)

    def draw(self, format: Literal["mermaid", "ascii", "svg"] = "mermaid") -> str:
        """The flow as a drawing, made here: nothing is sent anywhere."""
        from sparklio.drawing import draw_flow

        return draw_flow(format)

    async def _book(
        self,
        brand: Mapping[str, Any],
        product: Mapping[str, Any],
        image: Mapping[str, Any] | None,
        language: Language,
        stage: Stage,
        run_id: str | None,
        out: str | Path | None,
    ) -> RunRecord:
        inputs = RunInput.parse({"brand": brand, "product": product, "image": image or {}, "language": language})
        return await self.runs.start(inputs, run_id=run_id, stage=stage, out=out_folder(out))

    async def _finish(self, record: RunRecord) -> Run:
        async for _ in self.runs.drive(record):
            pass
        return await self.load(record.run_id)

    async def load(self, run_id: str) -> Run:
        """A finished run, read back.

        Raises:
            UnknownNameError: there is no such run.
            StorageError: it has no result (yet), or its files are gone.
        """
        record = self.runs.store.load(run_id)
        try:
            result = await asyncio.to_thread(read_result, self.runs.store, run_id)
        except FileNotFoundError as exc:
            raise StorageError(
                f"run {run_id!r} is {record.status} and has no result", hint=f"`sparklio resume {run_id}`"
            ) from exc
        return Run(run_id, await self.runs.values(run_id), result, record.out / PAGE_FILE)


def run(**arguments: Any) -> Run:
    """A whole run without an event loop of your own: ``sparklio.run(brand={...}, product={...}, mode="mock")``.

    Takes what :class:`Sparklio` and :meth:`Sparklio.run` take.
    """
    construction = {key: arguments.pop(key) for key in ("mode", "home", "config", "settings") if key in arguments}

    async def whole() -> Run:
        async with Sparklio(**construction) as studio:
            return await studio.run(**arguments)

    return asyncio.run(whole())


def _not_entered() -> RuntimeError:
    return RuntimeError("use `async with Sparklio() as studio:`")


def _folder(out: str | Path | None) -> Path | None:
    return Path(out).expanduser().absolute() if out else None
