"""What is kept of runs beside their checkpoints: records, locks, events, results. A store says where that is.

A run's family is the run and its reruns ``<id>.2``, ``<id>.3``, ...
"""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Hashable, Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_hex
from typing import Any, ClassVar, Literal, Protocol, Self

from pydantic import BaseModel, Field

from graph.events import Event
from providers.errors import InputError, RunExistsError, StorageError, UnknownNameError
from routing.contracts import Mode, Stage

__all__ = [
    "EventLog",
    "EventReader",
    "InputFile",
    "Parent",
    "RunRecord",
    "RunStore",
    "Status",
    "already_there",
    "check_run_id",
    "is_run_id",
    "no_such_run",
    "ordinal_of",
    "root_of",
]

Status = Literal["queued", "running", "finished", "failed", "interrupted", "cancelled"]
"""Queued: booked by somebody who runs it later. Cancelled: stopped on purpose, and only a person goes on with it."""

_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,47}(\.[1-9][0-9]{0,5})?")
_NEW_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,47}")
_LISTED = 20


class Parent(BaseModel):
    run_id: str
    start_at: str | None = None


class InputFile(BaseModel):
    """The input file of a run, with the digest of each key of the state that was read from it."""

    path: Path
    digests: dict[str, str]


class RunRecord(BaseModel):
    """What is known of a run beside its checkpoints.

    Attributes:
        inputs: the state that it starts from.
        input_file: where these were read, by the command line.
        nodes: the agents that it runs; all six but for a rerun.
        changes: what a rerun changes in its parent's state, by dotted path.
        out: folder of result.json, page.html and images/.
        spent_usd: what its calls cost so far, the failed ones too; None where a price is unknown.
        failed_usd: what of that went into calls without an answer, which the ledger does not know.
        keeper: who goes on with it after a restart, "server" or "workers"; None: nobody but a person.
        batch: what it shares the workers with; each batch has the same share of them.
        request: the request that it was booked for, which no other run was.
    """

    run_id: str
    status: Status = "running"
    mode: Mode
    stage: Stage = "draft"
    seed: int
    created_at: datetime = Field(default_factory=lambda: datetime.now(UTC))
    finished_at: datetime | None = None
    parent: Parent | None = None
    nodes: list[str]
    changes: dict[str, Any] = Field(default_factory=dict)
    inputs: dict[str, Any]
    input_file: InputFile | None = None
    out: Path
    spent_usd: float | None = 0.0
    failed_usd: float | None = 0.0
    error: dict[str, Any] | None = None
    keeper: str | None = None
    batch: str | None = None
    request: str | None = None

    @property
    def product(self) -> str:
        return str(self.inputs["product_input"]["name"])

    def summary(self) -> dict[str, Any]:
        """What lists of runs show."""
        return {
            "run_id": self.run_id,
            "status": self.status,
            "mode": self.mode,
            "product": self.product,
            "created_at": self.created_at.isoformat(timespec="seconds"),
            "parent": self.parent.model_dump() if self.parent else None,
            "out": str(self.out),
        }


class EventLog(Protocol):
    """Takes the events of one session; its writer holds the run, and so is the only one.

    What cannot be written is lost: it neither fails the run nor hides why it failed.
    """

    last: int
    """The number of the latest event, be it of an earlier session; 0: there was none."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...

    def append(self, event: Event) -> None:
        """Keep an event, so that who follows the run finds it; from now on its number is not given out again."""

    def sync(self) -> None:
        """Have kept for good what was appended."""


class EventReader(Protocol):
    def read(self) -> list[Event] | None:
        """The next events, which may be none; None: there are no more yet.

        Raises:
            StorageError: they cannot be read.
        """


class RunStore(ABC):
    """
    Args:
        home: the data folder of this machine.

    Attributes:
        shared: whether other machines have the same runs, so that asking for one takes a while.
    """

    shared: ClassVar[bool] = False

    def __init__(self, home: Path) -> None:
        self._runs = home / "runs"

    def folder(self, run_id: str) -> Path:
        """The run's folder on this machine, whether it exists or not: its log, and copies of its result.

        Raises:
            InputError: ``run_id`` is not an id, e.g. ``../../x``.
        """
        check_run_id(run_id)
        return self._runs / run_id

    def has_folder(self, record: RunRecord) -> bool:
        """Whether the run's log and copies of its result are kept here; a worker's disk would fill with them."""
        return not self.shared or record.keeper is None

    def new_id(self, wanted: str | None = None) -> str:
        """A checked id for a new run: the wanted one, or one from the time and four random digits."""
        if wanted is None:
            return f"{_now():%Y%m%d-%H%M%S}-{token_hex(2)}"
        if not _NEW_ID.fullmatch(wanted):
            raise InputError(
                f"{wanted!r} cannot be a run id",
                hint="letters, digits, - and _, beginning with a letter or digit, at most 48",
            )
        return wanted

    def next_member(self, run_id: str) -> str:
        """The id of the next rerun in the family of ``run_id``."""
        root = root_of(run_id)
        return f"{root}.{max(map(ordinal_of, self.members(root)), default=1) + 1}"

    def check_folder(self, folder: Path) -> None:
        """Make ``folder`` and see that it can be written, before anybody works for it.

        Raises:
            StorageError: it cannot.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise StorageError(f"cannot write {folder}: {exc.strerror or exc}", hint="choose another --out") from exc
        if not os.access(folder, os.W_OK | os.X_OK):
            raise StorageError(f"cannot write {folder}: permission denied", hint="choose another --out")

    @abstractmethod
    def members(self, root: str) -> list[str]:
        """The ids in the family whose first run is ``root``, in no order; those of broken bookings too."""

    @abstractmethod
    def create(self, record: RunRecord) -> None:
        """Write the first record of a run.

        Raises:
            RunExistsError: the id is taken.
            StorageError: it cannot be written.
        """

    @abstractmethod
    def discard(self, run_id: str) -> None:
        """Take back a record that was just written, so that there is no such run."""

    @abstractmethod
    def clear(self, run_id: str) -> None:
        """Delete the result and events that an earlier run of this id has left, else the new one would show them.

        Raises:
            StorageError: they cannot be deleted.
        """

    @abstractmethod
    def exists(self, run_id: str) -> bool:
        """Whether there is a record of the run."""

    @abstractmethod
    def save(self, record: RunRecord) -> None:
        """Write the record.

        Raises:
            RunBusyError: we held the run, and somebody else has taken it over: its record is not ours to write.
            StorageError: it cannot be written.
        """

    @abstractmethod
    def load(self, run_id: str) -> RunRecord:
        """The record of a run; one that says "running" but whose owner is gone is told as interrupted.

        A queued one has no owner, and is told as it is.

        Raises:
            UnknownNameError: there is no such run; the latest ones are listed.
            InputError: not an id at all.
            StorageError: it cannot be read.
        """

    @abstractmethod
    def read(self, run_id: str) -> RunRecord:
        """The record as it was last written, whoever is running it; raises as :meth:`load` does."""

    def statuses(self, run_ids: Collection[str]) -> dict[str, Status]:
        """How runs stand, as :meth:`load` tells it; one that there is not is not among them.

        Raises:
            StorageError: a record cannot be read.
        """
        return {run_id: self.load(run_id).status for run_id in run_ids if self.exists(run_id)}

    def status_of(self, run_id: str) -> Status:
        """The status of the record as :meth:`load` tells it; raises as that does."""
        return self.load(run_id).status

    def goes_on(self, run_id: str) -> bool:
        """Whether others go on by themselves with a run that was interrupted."""
        return False

    @abstractmethod
    def stamp(self, run_id: str) -> Hashable | None:
        """Another one once the record is written anew; None where reading it tells what is wrong."""

    @abstractmethod
    def all(self) -> list[RunRecord]:
        """All runs whose record can be read, the latest first."""

    @abstractmethod
    def family(self, run_id: str) -> list[RunRecord]:
        """The run, its reruns and its parents, the first one first; raises as :meth:`load` does."""

    @abstractmethod
    def lock(self, run_id: str) -> AbstractContextManager[None]:
        """Hold the run while the block lasts.

        Raises:
            RunBusyError: another process holds it, here or on another machine.
        """

    @abstractmethod
    def check_held(self, run_id: str) -> None:
        """Whoever holds the run asks before each step.

        Raises:
            RunBusyError: somebody else has taken it over, because this machine slept or was cut off.
        """

    @abstractmethod
    def wants_cancel(self, run_id: str) -> bool:
        """Whether somebody on another machine wants the run stopped that we hold."""

    @abstractmethod
    def event_log(self, run_id: str, ring: Callable[[], None]) -> EventLog:
        """Where the run's events go; ``ring`` is called after each."""

    @abstractmethod
    def event_reader(self, run_id: str, after: int = 0) -> EventReader:
        """Reads the run's events whose number is greater than ``after``; none where there is no such run."""

    def events(self, run_id: str, after: int = 0) -> Iterator[Event]:
        """The events so far whose number is greater than ``after``.

        Raises:
            StorageError: they cannot be read.
        """
        reader = self.event_reader(run_id, after)
        while (events := reader.read()) is not None:
            yield from events

    @abstractmethod
    def save_result(self, run_id: str, content: bytes) -> None:
        """Keep a finished run's result.json.

        Raises:
            StorageError: it cannot be written.
        """

    @abstractmethod
    def read_result(self, run_id: str) -> bytes | None:
        """What :meth:`save_result` kept; None where there is none.

        Raises:
            StorageError: it cannot be read.
        """


def no_such_run(run_id: str, known: list[str]) -> UnknownNameError:
    """``known`` are the ids that there are, the latest first."""
    return UnknownNameError("run", run_id, known[:_LISTED], hint="`sparklio runs` lists them")


def already_there(run_id: str) -> RunExistsError:
    return RunExistsError(
        f"run {run_id!r} exists already", hint=f"choose another --run-id, or `sparklio resume {run_id}`"
    )


def check_run_id(run_id: str) -> None:
    """Raises InputError for what is not an id, e.g. ``../../x``."""
    if not is_run_id(run_id):
        raise InputError(
            f"{run_id!r} is not a run id", hint="letters, digits, - and _, at most 48; a rerun ends in .2, .3, ..."
        )


def is_run_id(text: str) -> bool:
    return _RUN_ID.fullmatch(text) is not None


def root_of(run_id: str) -> str:
    """The first run of the family."""
    return run_id.partition(".")[0]


def ordinal_of(run_id: str) -> int:
    """The place in the family, 1 for its first run."""
    return int(run_id.partition(".")[2] or 1)


def _now() -> datetime:
    """The local time: an id is read by people."""
    return datetime.now().astimezone()
