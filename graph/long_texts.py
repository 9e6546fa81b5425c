"""Long texts of a run, e.g. uploaded materials: kept once, where LangGraph would write them into each checkpoint.

In what is stored a reference stands in their place. A short text that looks like one is kept as if it were long, so no
text is ever taken for a reference.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any

import aiosqlite
from langgraph.checkpoint.base import CheckpointTuple
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

from graph.sqlite import Sqlite
from graph.vault import Vault
from providers.errors import StorageError

__all__ = ["TABLE", "LongTexts", "ThriftySaver", "join", "part"]

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


class LongTexts:
    """The table ``texts`` of the database."""

    def __init__(self, sqlite: Sqlite, vault: Vault) -> None:
        self._sqlite = sqlite
        self._vault = vault
        self._kept: set[tuple[str, str]] = set()

    async def fold(self, run_id: str, value: Any) -> Any:
        """``value`` as it is to be stored, its long texts being stored by then."""
        lean, texts = part(value)
        new = [reference for reference in texts if (run_id, reference) not in self._kept]
        if new:
            sql = "INSERT OR IGNORE INTO texts VALUES (?, ?, ?, ?)"
            rows = [(run_id, key.removeprefix(_MARK), *self._vault.encrypt(_encoded(texts[key]))) for key in new]
            await self._sqlite.write(*((sql, row) for row in rows))
            self._kept.update((run_id, reference) for reference in new)
        return lean

    async def unfold(self, run_id: str, value: Any) -> Any:
        """What :meth:`fold` was given.

        Raises:
            StorageError: a text is missing or damaged.
        """
        if not _has_reference(value):
            return value
        found = await self._sqlite.read("SELECT digest, form, body FROM texts WHERE thread_id = ?", (run_id,))
        try:
            texts = {_MARK + digest: _decoded(self._vault.decrypt(form, body)) for digest, form, body in found}
            return join(value, texts)
        except (KeyError, ValueError) as exc:
            raise StorageError(
                f"a long text of run {run_id!r} is missing or damaged: {exc}",
                hint="put a copy of checkpoints.sqlite in its place, or start a new run",
            ) from exc

    def release(self, run_id: str) -> None:
        """Remember no more what is stored: nobody holds the run, so others may delete it."""
        self._kept = {kept for kept in self._kept if kept[0] != run_id}


class ThriftySaver(AsyncSqliteSaver):
    """LangGraph's saver, with long texts kept once a run."""

    def __init__(self, connection: aiosqlite.Connection, *, serde: SerializerProtocol, vault: Vault) -> None:
        super().__init__(connection, serde=serde)
        self.sqlite = Sqlite(connection, self.lock)
        self.texts = LongTexts(self.sqlite, vault)

    async def aput(self, config: Any, checkpoint: Any, metadata: Any, new_versions: Any) -> Any:
        lean = await self.texts.fold(_run_of(config), checkpoint)
        return await self.sqlite.foreign_write(super().aput(config, lean, metadata, new_versions))

    async def aput_writes(self, config: Any, writes: Any, task_id: str, task_path: str = "") -> None:
        lean = await self.texts.fold(_run_of(config), [list(write) for write in writes])
        named = [(channel, value) for channel, value in lean]
        await self.sqlite.foreign_write(super().aput_writes(config, named, task_id, task_path))

    async def aget_tuple(self, config: Any) -> CheckpointTuple | None:
        found = await super().aget_tuple(config)
        return await self._whole(found) if found else None

    async def alist(self, config: Any, **wishes: Any) -> AsyncIterator[CheckpointTuple]:
        stored = [found async for found in super().alist(config, **wishes)]  # it holds the lock until its end
        for found in stored:
            yield await self._whole(found)

    async def adelete_thread(self, thread_id: str) -> None:
        self.texts.release(thread_id)
        await self.sqlite.foreign_write(super().adelete_thread(thread_id))
        await self.sqlite.write(("DELETE FROM texts WHERE thread_id = ?", (thread_id,)))

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
