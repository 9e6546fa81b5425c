"""Long texts of a run, e.g. uploaded materials: kept once, where LangGraph would write them into each checkpoint.

In what is stored a reference stands in their place. A short text that looks like one is kept as if it were long, so no
text is ever taken for a reference.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple

from graph.sqlite import Statement
from graph.vault import Vault
from providers.errors import StorageError

__all__ = ["TABLE", "Engine", "LongTexts", "Thrifty", "join", "part"]

T = TypeVar("T")

TABLE = """
CREATE TABLE IF NOT EXISTS texts (
    thread_id TEXT NOT NULL,
    digest TEXT NOT NULL,
    form TEXT NOT NULL,
    body BLOB NOT NULL,
    PRIMARY KEY (thread_id, digest)
) WITHOUT ROWID
"""
_LONG = 1000  # characters
_MARK = "\x00text:"
_DIGITS = 32

Texts = dict[str, str]
"""Texts by their references."""


def part(value: Any) -> tuple[Any, Texts]:
    """``value`` with a reference in place of each long text, and these texts."""
    texts: Texts = {}

    def reference(text: str) -> str:
        if len(text) < _LONG and not text.startswith(_MARK):
            return text
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGITS]
        texts[_MARK + digest] = text
        return _MARK + digest

    return _with_strings(value, reference), texts


def join(value: Any, texts: Mapping[str, str]) -> Any:
    """The value again.

    Raises:
        KeyError: a text is missing.
    """
    return _with_strings(value, lambda text: texts[text] if text.startswith(_MARK) else text)


def _with_strings(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {key: _with_strings(inner, change) for key, inner in value.items()}
    if isinstance(value, list):
        return [_with_strings(inner, change) for inner in value]
    return value


def _has_reference(value: Any) -> bool:
    return any(text.startswith(_MARK) for text in _strings(value))


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _strings(inner)


class Engine(Protocol):
    """What executes the statements of a database, see :class:`graph.database.Database`."""

    async def read(self, sql: str, values: Iterable[Any] = ()) -> list[tuple[Any, ...]]: ...

    async def write(self, *statements: Statement) -> None: ...


class LongTexts:
    """The table ``texts`` of the database."""

    def __init__(self, engine: Engine, vault: Vault) -> None:
        self._engine = engine
        self._vault = vault
        self._kept: set[tuple[str, str]] = set()

    async def fold(self, run_id: str, value: Any) -> Any:
        """``value`` as it is to be stored, its long texts being stored by then."""
        lean, texts = part(value)
        new = [reference for reference in texts if (run_id, reference) not in self._kept]
        if new:
            sql = "INSERT INTO texts VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING"
            rows = [(run_id, key.removeprefix(_MARK), *self._vault.encrypt(_encoded(texts[key]))) for key in new]
            await self._engine.write(*((sql, row) for row in rows))
            self._kept.update((run_id, reference) for reference in new)
        return lean

    async def unfold(self, run_id: str, value: Any) -> Any:
        """What :meth:`fold` was given.

        Raises:
            StorageError: a text is missing or damaged.
        """
        if not _has_reference(value):
            return value
        found = await self._engine.read("SELECT digest, form, body FROM texts WHERE thread_id = ?", (run_id,))
        try:
            texts = {_MARK + digest: _decoded(self._vault.decrypt(form, body)) for digest, form, body in found}
            return join(value, texts)
        except (KeyError, ValueError) as exc:
            raise StorageError(
                f"a long text of run {run_id!r} is missing or damaged: {exc}",
                hint="put a copy of the database in its place, or start a new run",
            ) from exc

    def release(self, run_id: str) -> None:
        """Remember no more what is stored: nobody holds the run, so others may delete it."""
        self._kept = {kept for kept in self._kept if kept[0] != run_id}


class Thrifty(BaseCheckpointSaver[str]):
    """What makes a saver of LangGraph's keep long texts once a run; stands before it among the bases of a class.

    Attributes:
        engine: the database that it saves in.
        texts: the long texts there.
    """

    engine: Engine
    texts: LongTexts

    def __init__(self, *args: Any, **wishes: Any) -> None:
        super().__init__(*args, **wishes)
        self._saving: defaultdict[str, set[asyncio.Future[None]]] = defaultdict(set)

    async def written(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Do a write of LangGraph's in the way of the database."""
        raise NotImplementedError

    async def looked_up(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """The same for what it reads."""
        raise NotImplementedError

    async def aput(self, config: Any, checkpoint: Any, metadata: Any, new_versions: Any) -> Any:
        lean = await self.texts.fold(_run_of(config), checkpoint)
        put = super().aput
        return await self.written(lambda: put(config, lean, metadata, new_versions))

    async def aput_writes(self, config: Any, writes: Any, task_id: str, task_path: str = "") -> None:
        run_id = _run_of(config)
        put = super().aput_writes
        with self._being_saved(run_id):
            lean = await self.texts.fold(run_id, [list(write) for write in writes])
            named = [(channel, value) for channel, value in lean]
            await self.written(lambda: put(config, named, task_id, task_path))

    async def settled(self, run_id: str) -> None:
        """Wait until nothing of a run is being saved. LangGraph waits for what it saves, but not for what a task that
        ends while the graph is being cancelled has come to."""
        while saving := self._saving.get(run_id):
            await asyncio.wait(saving)
        self._saving.pop(run_id, None)

    @contextmanager
    def _being_saved(self, run_id: str) -> Iterator[None]:
        saved = asyncio.get_running_loop().create_future()
        self._saving[run_id].add(saved)
        try:
            yield
        finally:
            self._saving[run_id].discard(saved)
            saved.set_result(None)

    async def aget_tuple(self, config: Any) -> CheckpointTuple | None:
        get = super().aget_tuple
        found = await self.looked_up(lambda: get(config))
        return await self._whole(found) if found else None

    async def alist(self, config: Any, **wishes: Any) -> AsyncIterator[CheckpointTuple]:
        for found in await self.lean_list(config, **wishes):
            yield await self._whole(found)

    async def lean_list(self, config: Any, **wishes: Any) -> list[CheckpointTuple]:
        """As :meth:`alist`, with references where long texts were."""
        listed = super().alist

        async def whole() -> list[CheckpointTuple]:  # it holds the lock until its end
            return [found async for found in listed(config, **wishes)]

        return await self.looked_up(whole)

    async def adelete_thread(self, thread_id: str) -> None:
        self.texts.release(thread_id)
        delete = super().adelete_thread
        await self.written(lambda: delete(thread_id))
        await self.engine.write(("DELETE FROM texts WHERE thread_id = ?", (thread_id,)))

    async def _whole(self, found: CheckpointTuple) -> CheckpointTuple:
        stored = {"checkpoint": found.checkpoint, "writes": [list(write) for write in found.pending_writes or []]}
        whole = await self.texts.unfold(_run_of(found.config), stored)
        writes = [(task, channel, value) for task, channel, value in whole["writes"]]
        return found._replace(checkpoint=whole["checkpoint"], pending_writes=writes)


def _run_of(config: Any) -> str:
    return str(config["configurable"]["thread_id"])


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _decoded(content: bytes) -> str:
    return content.decode("utf-8", "surrogatepass")
