"""The Python face: settings, gateways, checkpointer and runs in one ``async with``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AsyncExitStack, aclosing
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from graph.database import Database, open_database
from graph.history import Point
from graph.inputs import RunInput, load_input
from graph.planning import Preview
from graph.runs import Event, Runs
from graph.store import RunRecord
from nodes.context import Context
from routing.contracts import Language, Mode, Stage
from routing.gateways import Gateways, build_gateways
from routing.image_store import ImageStore, image_id, image_store
from routing.settings import Settings, load_settings
from sparklio.made import Run, compare_runs, read_run
from sparklio.publish import Publisher, out_folder
from sparklio.stores import open_run_store

if TYPE_CHECKING:
    from sparklio.pruning import Pruned

__all__ = ["Run", "Sparklio"]


class Sparklio:
    """``async with Sparklio() as studio``: run, stream, resume, rerun and look back.

    Args:
        mode: ``mock`` or ``live``; beats GENERATOR_MODE.
        home: the data folder; beats SPARKLIO_HOME.
        config: the routing file; beats SPARKLIO_CONFIG.
        settings: any other variable by its name.
        build: makes the gateways, for who has their own or wants to watch ours.

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
        build: Callable[[Settings], Gateways] = build_gateways,
    ) -> None:
        self._build = build
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
        self._gateways: Gateways | None = None
        self._images: ImageStore | None = None

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            gateways = self._build(self.settings)
            stack.push_async_callback(gateways.aclose)
            place = self.settings.database_url or self.settings.home / "checkpoints.sqlite"
            database = await stack.enter_async_context(open_database(place, self.settings.encryption_key))
            store = stack.enter_context(open_run_store(self.settings))
            self._database, self._gateways = database, gateways
            self._runs = Runs(
                store,
                database,
                Context(llm=gateways.llm, media=gateways.media),
                mode=self.settings.mode,
                read_input=lambda path, keep: load_input(path, self.images.save if keep else image_id),
                publish=Publisher(self.images, store),
                prepare=gateways.prepare,
                budget_usd=self.settings.run_budget_usd,
                secrets=self.settings.secrets,
            )
            if self.settings.broker_url:
                from graph.rings import listening

                await stack.enter_async_context(listening(self.settings.broker_url, self._runs.bells))
            self._resources = stack.pop_all()
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._runs = self._database = self._gateways = None
        await self._resources.aclose()

    @property
    def runs(self) -> Runs:
        """The book of runs beneath; most callers need only the methods below."""
        if self._runs is None:
            raise _not_entered()
        return self._runs

    @property
    def gateways(self) -> Gateways:
        """The two gateways that the runs use, for a single request."""
        if self._gateways is None:
            raise _not_entered()
        return self._gateways

    def _opened(self) -> Database:
        if self._database is None:
            raise _not_entered()
        return self._database

    @property
    def images(self) -> ImageStore:
        """Where the gateway keeps images, and photos to start from."""
        if self._images is None:
            self._images = image_store(self.settings)
        return self._images

    async def add_photo(self, photo: str | Path | bytes) -> str:
        """Store a photo of the product and return its id, for ``product={"photo": id}``.

        Args:
            photo: a file, or the bytes of one: PNG, JPEG or WebP of at most 20 MB and 50 megapixels (WebP:
                16). Orientation is applied, transparency becomes white, and what else a camera wrote (place, device) is
                dropped.

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

    def follow(self, run_id: str, *, after: int = 0) -> AsyncGenerator[Event, None]:
        """The events of a run that anybody runs, in any process: those of before, then those that come.

        Ends when the run is finished, failed, interrupted or cancelled; a queued one is waited for. Any number may
        follow a run, each at its own pace; leaving the loop changes nothing for it.

        Args:
            run_id: the run.
            after: only events with a greater ``seq``, to go on where another loop ended.

        Raises:
            UnknownNameError: there is no such run; said at once, before the first event is asked for.
            InputError: ``after`` is negative.
            StorageError: the events cannot be read.
        """
        return self.runs.follow(run_id, after)

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

    async def cancel(self, run_id: str) -> RunRecord:
        """Stop a run for good, and the image that is made for it; its record then.

        Among machines one that is still running then is being stopped by whoever drives it.

        Raises:
            UnknownNameError: there is no such run.
            ConflictError: it has ended.
            RunBusyError: it is kept in files, and another process drives it.
        """
        from sparklio.cancelling import stop

        return await stop(self.runs, run_id)

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
        return await compare_runs(self.runs, a, b)

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

        Failed, interrupted and cancelled ones stay unless ``unfinished``; one that is queued or being run always stays.
        Then images and pages that no run names and that are older than a day.

        Raises:
            UsageError: neither ``older_than`` nor ``keep`` is given.
            StorageError: the data folder cannot be read or written.
        """
        from sparklio.pruning import Pruner

        pruner = Pruner(self.settings.home, self.images, self._opened(), self.runs.store)
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
            RunUnfinishedError: it has no result (yet).
            StorageError: its files cannot be read.
        """
        return await read_run(self.runs, run_id, self.images)


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
