"""Runs in PostgreSQL: a row each, which any number of machines read and one at a time holds.

The row's columns beside the record (``status``, ``keeper``, ``batch``, ``request``, ``finished_at``) say the same as
the record; where somebody has changed them by SQL they are right. What only this machine needs stays in its own folder.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Any

import psycopg
from pydantic import ValidationError
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_fixed

from graph import run_statements as statements
from graph.leases import BEAT_S, LEASE_S, Lease, Leases, busy
from graph.postgres import SyncPool, connected, execute, masked, migrate, postgres_errors, rows_of, sync_pool
from graph.run_files import clear_folder
from graph.store import (
    EventLog,
    EventReader,
    RunRecord,
    RunStore,
    Status,
    already_there,
    check_run_id,
    no_such_run,
    ordinal_of,
    root_of,
)
from providers.errors import ConflictError, RunBusyError, StorageError

if TYPE_CHECKING:
    from graph.event_stream import EventStream

__all__ = ["PostgresRunStore", "open_run_table"]

log = logging.getLogger(__name__)

_WHAT = "the table of runs"
_LATEST = 20
_LEAVING_S = 2.0


class PostgresRunStore(RunStore):
    """
    Args:
        home: the data folder of this machine.
        pool: open connections to a database that has the tables, see :func:`open_run_table`.
        stream: live events; None: there is no broker, and who follows a run reads the database.
    """

    shared = True

    def __init__(
        self,
        home: Path,
        pool: SyncPool,
        stream: EventStream | None = None,
        *,
        lease_s: float = LEASE_S,
        beat_s: float = BEAT_S,
    ) -> None:
        super().__init__(home)
        self._pool = pool
        self._stream = stream
        self._leases = Leases(pool, lease_s=lease_s, beat_s=beat_s)

    @property
    def pool(self) -> SyncPool:
        return self._pool

    def close(self) -> None:
        """Hold nothing any more. The pool and the stream are closed by whoever opened them."""
        self._leases.close()

    # records

    def members(self, root: str) -> list[str]:
        return [run_id for (run_id,) in self._rows("SELECT run_id FROM runs WHERE root = %s", root)]

    def exists(self, run_id: str) -> bool:
        check_run_id(run_id)
        return bool(self._rows("SELECT 1 FROM runs WHERE run_id = %s", run_id))

    def create(self, record: RunRecord) -> None:
        """Raises, beside what every store does, ConflictError: another run was booked for the same request; see
        :meth:`booked`."""
        values = _columns(record) | {
            "root": root_of(record.run_id),
            "created_at": record.created_at,
            "booking": token_hex(16),
        }
        self._execute(statements.CREATE, values)
        found = dict(self._execute(statements.FIND_BOOKED, values))
        if values["booking"] not in found.values():
            raise already_there(record.run_id) if record.run_id in found else _same_request(*found)
        self._forget_earlier(record.run_id)

    def _forget_earlier(self, run_id: str) -> None:
        """What a run of this id that is no more has left on this machine and in Redis."""
        try:
            clear_folder(self.folder(run_id))
        except StorageError:
            self.discard(run_id)
            raise
        if self._stream:
            self._stream.forget(run_id)

    def booked(self, request: str) -> str | None:
        """The run that was booked for a request."""
        rows = self._rows("SELECT run_id FROM runs WHERE request = %s", request)
        return str(rows[0][0]) if rows else None

    def discard(self, run_id: str) -> None:
        try:
            self._write("DELETE FROM runs WHERE run_id = %s", run_id)
        except StorageError:
            log.exception("the record of a run that was not booked stays", extra={"run_id": run_id})

    def clear(self, run_id: str) -> None:
        clear_folder(self.folder(run_id))
        self._write("DELETE FROM events WHERE run_id = %s", run_id)
        self._write("UPDATE runs SET result = NULL WHERE run_id = %s", run_id)
        if self._stream:
            self._stream.forget(run_id)

    def save(self, record: RunRecord) -> None:
        """While the run is held only who holds it writes its record."""
        run_id, lease = record.run_id, self._leases.of(record.run_id)
        if lease is not None:
            self._leases.check(lease)
        values = _columns(record) | {"owner": lease and lease.owner}
        if not self._execute(statements.SAVE, values):
            raise self._refused(run_id)

    def load(self, run_id: str) -> RunRecord:
        record, told = self._found(run_id)
        record.status = told
        return record

    def read(self, run_id: str) -> RunRecord:
        return self._found(run_id)[0]

    def status_of(self, run_id: str) -> Status:
        check_run_id(run_id)
        rows = self._rows("SELECT runs.told FROM runs WHERE run_id = %s", run_id)
        if not rows:
            raise self._unknown(run_id)
        status: Status = rows[0][0]
        return status

    def goes_on(self, run_id: str) -> bool:
        return bool(self._rows("SELECT 1 FROM runs WHERE run_id = %s AND keeper = 'workers'", run_id))

    def statuses(self, run_ids: Collection[str]) -> dict[str, Status]:
        return dict(self._rows("SELECT run_id, runs.told FROM runs WHERE run_id = ANY(%s)", list(run_ids)))

    def stamp(self, run_id: str) -> Hashable | None:
        rows = self._rows("SELECT version FROM runs WHERE run_id = %s", run_id)
        return int(rows[0][0]) if rows else None

    def all(self) -> list[RunRecord]:
        rows = self._rows(statements.ALL + " ORDER BY created_at DESC, run_id DESC")
        return _readable(rows)

    def family(self, run_id: str) -> list[RunRecord]:
        self.load(run_id)
        rows = self._rows(statements.ALL + " WHERE root = %s", root_of(run_id))
        return sorted(_readable(rows), key=lambda record: ordinal_of(record.run_id))

    def _found(self, run_id: str) -> tuple[RunRecord, Status]:
        """The record, and the status as it is told."""
        check_run_id(run_id)
        rows = self._rows(statements.ALL + " WHERE run_id = %s", run_id)
        if not rows:
            raise self._unknown(run_id)
        return _record(rows[0])

    def _unknown(self, run_id: str) -> Exception:
        latest = self._rows("SELECT run_id FROM runs ORDER BY created_at DESC, run_id DESC LIMIT %s", _LATEST)
        return no_such_run(run_id, [known for (known,) in latest])

    # holding a run

    @contextmanager
    def lock(self, run_id: str) -> Iterator[None]:
        """A lease: a dead owner's is free when it has expired, wherever it was.

        Raises:
            RunBusyError: somebody holds it.
            UnknownNameError: there is no such run.
            StorageError: the database does not answer.
        """
        check_run_id(run_id)
        lease = self._leases.hold(run_id, self._take)
        try:
            yield
        finally:
            self._leases.drop(lease)
            self._release(lease)
            if self._stream:  # who follows it has heard of the last event, and not that it is over
                self._stream.ring(run_id)

    def check_held(self, run_id: str) -> None:
        if lease := self._leases.of(run_id):
            self._leases.check(lease)

    def wants_cancel(self, run_id: str) -> bool:
        """As the last beat told, so that it may be asked often."""
        lease = self._leases.of(run_id)
        return lease is not None and lease.cancel_wanted

    def request_cancel(self, run_id: str) -> bool:
        """Tell whoever holds the run, or is about to, that it is to be stopped; False: it is over already.

        Raises:
            StorageError: it cannot be written.
        """
        return bool(self._execute(statements.WANT_CANCEL, (run_id,)))

    def _take(self, lease: Lease) -> None:
        values = {"owner": lease.owner, "run_id": lease.run_id, "lease_s": self._leases.lease_s}
        rows = self._execute(statements.TAKE, values)
        if not rows:
            raise self._refused(lease.run_id)
        lease.cancel_wanted, lease.fence = rows[0]

    def _release(self, lease: Lease) -> None:
        """Try for a moment: what cannot be given back expires."""
        try:
            _briefly(self._pool, statements.RELEASE, (lease.run_id, lease.owner))
        except (psycopg.Error, OSError) as exc:
            log.warning("the lease of run %s was not given back, and expires: %s", lease.run_id, masked(str(exc)))

    def _refused(self, run_id: str) -> Exception:
        """Why the run is not ours."""
        rows = self._rows("SELECT owner FROM runs WHERE run_id = %s AND runs.live", run_id)
        if rows:
            return busy(run_id, rows[0][0])
        if not self.exists(run_id):
            return self._unknown(run_id)
        return RunBusyError(f"run {run_id!r} was held until a moment ago", hint="try again")

    # events and results

    def event_log(self, run_id: str, ring: Callable[[], None]) -> EventLog:
        from graph.event_table import TableEventLog

        lease = self._leases.of(run_id)
        owner, fence = (lease.owner, lease.fence) if lease else (None, 0)
        return TableEventLog(self._pool, self._stream, run_id, owner=owner, fence=fence, ring=ring)

    def event_reader(self, run_id: str, after: int = 0) -> EventReader:
        from graph.event_table import TableEventReader

        check_run_id(run_id)
        return TableEventReader(self._pool, self._stream, run_id, after)

    def save_result(self, run_id: str, content: bytes) -> None:
        lease = self._leases.of(run_id)
        values = {"content": content, "run_id": run_id, "owner": lease and lease.owner}
        if not self._execute(statements.SAVE_RESULT, values):
            raise self._refused(run_id)

    def read_result(self, run_id: str) -> bytes | None:
        check_run_id(run_id)
        rows = self._rows("SELECT result FROM runs WHERE run_id = %s", run_id)
        return bytes(rows[0][0]) if rows and rows[0][0] is not None else None

    # statements

    def _rows(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        return self._execute(statement, values)

    def _write(self, statement: str, *values: Any) -> None:
        self._execute(statement, values)

    def _execute(self, statement: str, values: Sequence[Any] | dict[str, Any]) -> list[tuple[Any, ...]]:
        return rows_of(self._pool, statement, values, what=_WHAT)


@contextmanager
def open_run_table(
    home: Path, url: str, broker_url: str | None = None, *, lease_s: float = LEASE_S, beat_s: float = BEAT_S
) -> Iterator[PostgresRunStore]:
    """The runs of the database at ``url``, with its tables made where they are missing.

    Args:
        home: the data folder of this machine.
        url: ``postgresql://...``.
        broker_url: ``redis://...``: events are told live there; None: nowhere.
        lease_s: how long a run stays held by whoever has died.
        beat_s: how often a lease is renewed.

    Raises:
        ConfigError: a URL is none.
        StorageError: the database cannot be reached, or is of a newer version.
    """
    with ExitStack() as stack:
        pool = sync_pool(url)
        with postgres_errors("the database"), connected(url) as connection:
            migrate(connection, "runs", statements.TABLES)
        stack.enter_context(pool)
        store = PostgresRunStore(home, pool, _stream(broker_url, stack), lease_s=lease_s, beat_s=beat_s)
        stack.callback(store.close)
        yield store


def _stream(broker_url: str | None, stack: ExitStack) -> EventStream | None:
    if broker_url is None:
        return None
    from graph.event_stream import EventStream

    stream = EventStream(broker_url)
    stack.callback(stream.close)
    return stream


_briefly = retry(
    retry=retry_if_exception_type(psycopg.OperationalError),
    stop=stop_after_delay(_LEAVING_S),
    wait=wait_fixed(0.1),
    reraise=True,
)(execute)


def _columns(record: RunRecord) -> dict[str, Any]:
    product = record.product.replace("\0", "")  # which is no text to PostgreSQL
    return {
        "run_id": record.run_id,
        "status": record.status,
        "mode": record.mode,
        "stage": record.stage,
        "product": product,
        "folded": product.casefold(),
        "parent": record.parent.model_dump_json() if record.parent else None,
        "keeper": record.keeper,
        "batch": record.batch,
        "request": record.request,
        "finished_at": record.finished_at,
        "record": record.model_dump_json(),
    }


def _record(row: tuple[Any, ...]) -> tuple[RunRecord, Status]:
    """A row of ``statements.ALL``: the record, and the status as it is told.

    Raises:
        StorageError: it cannot be understood.
    """
    run_id, text, told, *columns = row
    names = ("status", "keeper", "batch", "request", "finished_at")
    try:
        record = RunRecord.model_validate_json(text)
    except ValidationError as exc:
        raise StorageError(
            f"the record of run {run_id!r} is damaged", hint="delete its row from the table runs"
        ) from exc
    return record.model_copy(update=dict(zip(names, columns, strict=True))), told


def _readable(rows: list[tuple[Any, ...]]) -> list[RunRecord]:
    """As they are told. One damaged record must not hide the others."""
    records = []
    for row in rows:
        try:
            record, told = _record(row)
            record.status = told
            records.append(record)
        except StorageError as exc:
            log.warning("%s", exc)
    return records


def _same_request(run_id: str) -> ConflictError:
    return ConflictError(f"run {run_id!r} was booked for this request already", hint="follow that one")
