"""Who goes on with the runs that a server has booked: the server itself, or the workers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from graph.store import RunRecord
from sparklio.server.run_list import RunLister

__all__ = ["RunKeeper", "Submit"]

Submit = Callable[[RunRecord], None]


class RunKeeper(Protocol):
    """What the routes need of it.

    Attributes:
        keeper: what the records of its runs name.
        ended: how many runs this server saw end, by status.
    """

    keeper: str

    @property
    def list(self) -> RunLister:
        """All runs there are, those of others too."""

    @property
    def ended(self) -> Mapping[str, int]: ...

    def place(self) -> AbstractAsyncContextManager[Submit]:
        """A place for a run that is about to be booked; the block gets what takes it over once it is.

        Raises:
            QueueFullError: there is none, and ``retry_after`` says when the next one is likely to be free.
        """

    async def resume(self, run_id: str) -> RunRecord:
        """Queue a run that has failed, was stopped or cancelled. One that waits or is finished stays as it is.

        Raises:
            UnknownNameError: there is no such run.
            UsageError: it was started in another mode.
            RunBusyError: it is being run.
            QueueFullError: there is no place for it.
        """

    async def cancel(self, run_id: str) -> RunRecord:
        """Stop a run for good, and the image that is made for it. One that is told as running is still stopping.

        Raises:
            UnknownNameError: there is no such run.
            ConflictError: it has ended.
            RunBusyError: a process runs it that cannot be told.
        """

    async def position(self, run_id: str) -> int | None:
        """The place of a run in the queue, the next one's is 1; None for a run that does not wait."""

    async def booked(self, request: str) -> str | None:
        """The run that was booked for a request already: by a server that was killed before it could tell, or for a
        client that was gone before it was told."""

    def counts(self) -> Mapping[str, int]:
        """How many runs are ``running`` and ``queued`` in this server now; empty where that is done elsewhere."""
