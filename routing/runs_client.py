"""Runs of a server, from Python: start them, follow them, read what they made."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote
from uuid import uuid4

import httpx
from pydantic import BaseModel, ConfigDict, RootModel, StrictInt

from providers.errors import (
    AttemptTimeoutError,
    InputError,
    OverloadedError,
    ServerError,
    UnreachableError,
)
from routing.contracts import Language, Stage
from routing.image_transfer import uploaded
from routing.remote import Remote
from routing.remote_errors import told_error
from routing.sse import EVENT_STREAM, SILENCE_S, read_events

__all__ = ["RunsClient"]

_RUNS = "/api/v1/runs"
_RECONNECT_S = 0.5
_PAGE_SIZE = 200
_FRUITFUL_S = 5.0
_MOST_FRUITLESS = 20
_BROKEN = (UnreachableError, OverloadedError, ServerError, AttemptTimeoutError)
_UNDER_WAY = ("queued", "running")

Summaries = list[dict[str, Any]]
Event = dict[str, Any]
"""``{seq, run_id, type, node, at, elapsed_ms, data}``."""


class RunsClient:
    """``async with RunsClient(url, key) as runs``. A run belongs to the server: whoever leaves changes nothing for it.

    Answers are dictionaries as docs/http-api.md tells them. Every method raises the typed errors of
    :mod:`providers.errors`; on the way to the server an UnreachableError or AuthenticationError of ``gateway``.

    Args:
        url: of the server.
        key: one of its SPARKLIO_API_KEYS; None where it needs none.
        patience_s: how long :meth:`follow` waits for a server that is away, e.g. because it is started anew.
    """

    def __init__(self, url: str, key: str | None = None, *, patience_s: float = 60) -> None:
        self._remote = Remote(url, key, patience_s=patience_s)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the running event loop's connections."""
        await self._remote.aclose()

    async def start(
        self,
        *,
        brand: Mapping[str, Any],
        product: Mapping[str, Any],
        image: Mapping[str, Any] | None = None,
        language: Language | None = None,
        stage: Stage | None = None,
        run_id: str | None = None,
        key: str | None = None,
    ) -> str:
        """Start a run and return its id; the arguments are those of :meth:`sparklio.Sparklio.run`.

        Args:
            brand: as there.
            product: as there; ``photo`` is an id of :meth:`add_photo`.
            image: as there.
            language: as there.
            stage: as there.
            run_id: an id of your own for the run.
            key: a word of your own: the same key and input, sent again within a day, start no second run.

        Raises:
            InputError: the server cannot use the input.
            QueueFullError: it has as much to do as it takes; ``error.retry_after`` says when to come back.
            RunExistsError: the id is taken.
        """
        wishes = {"image": image, "language": language, "stage": stage, "run_id": run_id}
        body = {"brand": brand, "product": product, **{name: wish for name, wish in wishes.items() if wish is not None}}
        return str((await self._post("", body, key))["run_id"])

    async def read(self, run_id: str) -> dict[str, Any]:
        """The run's summary, with its place in the queue, what it has spent, and its error if it failed."""
        return await self._get(_path(run_id))

    async def follow(self, run_id: str, *, after: int = 0) -> AsyncGenerator[Event, None]:
        """The run's events later than ``after``, each once and in order, until the run is over.

        Connections that break and servers that are started anew are bridged.

        Raises:
            UnknownNameError: there is no such run.
            UnreachableError: the server stays away.
        """
        clock = asyncio.get_running_loop().time
        fruitless, over = 0, False
        while not over:
            opened, before, broken = clock(), after, None
            try:
                async with aclosing(self._connection(run_id, after)) as events:
                    async for event in events:
                        after = event["seq"]
                        yield event
            except _BROKEN as exc:
                broken = exc
            came = after > before or clock() - opened > _FRUITFUL_S
            fruitless = 0 if came else fruitless + 1
            if broken is not None and fruitless > _MOST_FRUITLESS:
                raise broken
            run = await self._remote.patiently(lambda: self.read(run_id))
            over = broken is None and run["status"] not in _UNDER_WAY and run.get("position") is None
            if not over:
                await asyncio.sleep(_RECONNECT_S)

    async def result(self, run_id: str) -> dict[str, Any]:
        """What the run made, as result.json holds it; the image's URL is below the server's own.

        Raises:
            RunUnfinishedError: it has no result (yet).
        """
        return await self._get(_path(run_id, "result"))

    async def page(self, run_id: str) -> str:
        """The finished page, HTML whole in itself. Raises as :meth:`result`."""
        return (await self._remote.ask("GET", _path(run_id, "page"))).text

    async def history(self, run_id: str, *, values: bool = True) -> dict[str, Any]:
        """The checkpoints of the run and its family: ``{run_id, family, points}``; without ``values`` no states."""
        return await self._get(_path(run_id, "history"), values=str(values).lower())

    async def diff(self, a: str, b: str) -> dict[str, Any]:
        """What run ``b`` made otherwise than run ``a``: ``{a, b, differences}``."""
        return await self._get(_path(a, f"diff/{quote(b, safe='')}"))

    async def rerun(
        self,
        run_id: str,
        *,
        start_at: str | None = None,
        changes: Mapping[str, Any] | None = None,
        dry_run: bool = False,
        key: str | None = None,
    ) -> dict[str, Any]:
        """Run a part again, as :meth:`sparklio.Sparklio.rerun` does; ``dry_run`` only tells what that would be.

        Returns ``{run_id, status, ...}`` of the new run; of the run itself where nothing is to be run again.
        """
        wishes = {"start_at": start_at, "changes": dict(changes) if changes else None, "dry_run": dry_run or None}
        body = {name: wish for name, wish in wishes.items() if wish is not None}
        return await self._post(f"/{quote(run_id, safe='')}/rerun", body, key)

    async def resume(self, run_id: str, *, key: str | None = None) -> dict[str, Any]:
        """Go on with a run that failed or was stopped: ``{run_id, status, ...}``."""
        return await self._post(f"/{quote(run_id, safe='')}/resume", None, key)

    async def cancel(self, run_id: str, *, key: str | None = None) -> dict[str, Any]:
        """Stop a run, and the image that is being made for it: ``{run_id, status, ...}``.

        Raises:
            SparklioError: it has ended already.
        """
        return await self._post(f"/{quote(run_id, safe='')}/cancel", None, key)

    async def add_photo(self, photo: str | Path | bytes) -> str:
        """Upload a photo of a product, a file or the bytes of one, and return its id for ``product={"photo": id}``.

        Raises:
            InputError: the file cannot be read, or is no PNG, JPEG or WebP within the server's bounds.
        """
        content = photo if isinstance(photo, bytes) else await asyncio.to_thread(_read, photo)
        return await uploaded(self._remote, ("photo", content))

    async def image(self, image_id: str) -> bytes:
        """The bytes of an image, by the id that a result tells."""
        return (await self._remote.ask("GET", f"/api/v1/images/{quote(image_id, safe='')}")).content

    async def list(
        self,
        *,
        status: str | None = None,
        mode: str | None = None,
        product: str | None = None,
        family: str | None = None,
        limit: int | None = None,
    ) -> Summaries:
        """Summaries of the runs, the latest first; ``limit`` None: of all.

        Args:
            status: only those of this status.
            mode: only those of this mode.
            product: only those whose product's name holds this.
            family: only this run, its parents and reruns.
            limit: how many at most.
        """
        wishes = {"status": status, "mode": mode, "product": product, "family": family}
        params = {name: wish for name, wish in wishes.items() if wish is not None}
        found: Summaries = []
        while limit is None or len(found) < limit:
            left = _PAGE_SIZE if limit is None else min(_PAGE_SIZE, limit - len(found))
            page = self._remote.parsed(_Page, await self._remote.ask("GET", _RUNS, params={**params, "limit": left}))
            found += page.runs
            if page.next_cursor is None:
                break
            params["cursor"] = page.next_cursor
        return found

    async def _connection(self, run_id: str, after: int) -> AsyncGenerator[Event, None]:
        """The events that one connection brings; where it breaks the rest is another's."""
        headers = {"Accept": EVENT_STREAM, "Last-Event-ID": str(after)}
        call = self._remote.exchange("GET", _path(run_id, "events"), headers=headers, read_s=SILENCE_S)
        async with call as response:
            if (error := await told_error(response)) is not None:
                raise error
            async with aclosing(read_events(response.aiter_bytes())) as events:
                async for one in events:
                    event = self._remote.read(_Event, one.data)
                    if event.seq > after:
                        yield event.model_dump()

    async def _get(self, path: str, **params: str) -> dict[str, Any]:
        return self._object(await self._remote.ask("GET", path, params=params))

    async def _post(self, path: str, body: Any, key: str | None) -> dict[str, Any]:
        return self._object(await self._remote.ask("POST", f"{_RUNS}{path}", body, key=key or uuid4().hex))

    def _object(self, response: httpx.Response) -> dict[str, Any]:
        return self._remote.parsed(_Object, response).root


class _Page(BaseModel):
    runs: Summaries
    next_cursor: str | None = None


class _Object(RootModel[dict[str, Any]]):
    pass


class _Event(BaseModel):
    model_config = ConfigDict(extra="allow")

    seq: StrictInt


def _path(run_id: str, what: str = "") -> str:
    return f"{_RUNS}/{quote(run_id, safe='')}" + (f"/{what}" if what else "")


def _read(path: str | Path) -> bytes:
    try:
        return Path(path).expanduser().read_bytes()
    except (OSError, ValueError) as exc:  # ValueError: a null byte in the name
        reason = getattr(exc, "strerror", None) or exc
        raise InputError(f"photo: cannot read {str(path)!r}: {reason}", hint="mend the name") from exc
