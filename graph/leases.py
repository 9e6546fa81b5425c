"""Runs that this process holds in the table of runs: a lease each, which one thread renews for all of them.

All times are the database's. Whoever is stopped for longer than a lease may find that somebody else holds the run: it
is told so by the next beat, or by :meth:`Leases.check`, which asks at once where the last beat is long ago.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from secrets import token_hex

import psycopg

from graph.postgres import SyncPool, execute, masked
from providers.errors import RunBusyError

__all__ = ["BEAT_S", "LEASE_S", "Lease", "Leases", "busy"]

log = logging.getLogger(__name__)

LEASE_S = 10.0
BEAT_S = 2.0
_AFTER_FAILURE_S = 0.5
_RENEW = """
UPDATE runs SET lease_until = clock_timestamp() + make_interval(secs => %s)
FROM unnest(%s::text[], %s::text[]) AS ours(id, holder)
WHERE runs.run_id = ours.id AND runs.owner = ours.holder
RETURNING runs.run_id, runs.owner, runs.cancel_wanted
"""


def _owner() -> str:
    """A name that no other hold has, of this process or another."""
    return f"{socket.gethostname()}:{os.getpid()}:{token_hex(8)}"


@dataclass(eq=False)
class Lease:
    """A run that is held.

    Attributes:
        owner: ``host:pid:random``, another one for each time that a run is held.
        fence: greater than that of any earlier hold of the run.
        taken: the table says that it is ours.
        lost: somebody else has taken the run.
        cancel_wanted: somebody wants the run stopped.
        renewed_at: when the database last said that it is ours, by :func:`_now`.
    """

    run_id: str
    owner: str = field(default_factory=_owner)
    fence: int = 0
    taken: bool = False
    lost: bool = False
    cancel_wanted: bool = False
    renewed_at: float = 0.0


class Leases:
    """All leases of a process. The thread that renews them begins with the first one and ends with :meth:`close`.

    Args:
        pool: connections to the database.
        lease_s: how long a lease lasts that nobody renews.
        beat_s: how often they are renewed.
    """

    def __init__(self, pool: SyncPool, *, lease_s: float = LEASE_S, beat_s: float = BEAT_S) -> None:
        self.lease_s = lease_s
        self._beat_s = beat_s
        self._pool = pool
        self._held: dict[str, Lease] = {}
        self._guard = threading.Lock()
        self._renewing = threading.Lock()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        self._failing = False
        self._failed_at = float("-inf")

    def close(self) -> None:
        """End the thread. What is still held expires."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join()

    def hold(self, run_id: str, take: Callable[[Lease], None]) -> Lease:
        """Have ``take`` write the lease into the table, and renew it from then on.

        Raises:
            RunBusyError: this process holds the run already; and what ``take`` raises.
        """
        lease, began = Lease(run_id), _now()
        with self._guard:
            if run_id in self._held:
                raise busy(run_id, lease.owner)
            self._held[run_id] = lease  # before it is ours, so that no other thread of this process takes it, too
        try:
            take(lease)
        except BaseException:
            self.drop(lease)
            raise
        lease.taken, lease.renewed_at = True, began
        self._begin()
        return lease

    def drop(self, lease: Lease) -> None:
        """Renew it no more."""
        with self._guard:
            del self._held[lease.run_id]

    def of(self, run_id: str) -> Lease | None:
        return self._held.get(run_id)

    def check(self, lease: Lease) -> None:
        """Ask the database where the lease may have expired; where that cannot be asked, it is believed to be ours.

        Raises:
            RunBusyError: somebody else has taken the run.
        """
        if not lease.lost and _now() - lease.renewed_at > self.lease_s and self._may_ask():
            self._beat()
        if lease.lost:
            raise RunBusyError(
                f"run {lease.run_id!r} was taken over while this process could not renew its lease",
                hint="follow it where it runs now; `sparklio runs` tells how it stands",
            )

    def _may_ask(self) -> bool:
        return _now() - self._failed_at > self._beat_s

    def _begin(self) -> None:
        with self._guard:
            if self._thread is None:
                self._thread = threading.Thread(target=self._beat_on, name="leases", daemon=True)
                self._thread.start()

    def _beat_on(self) -> None:
        while not self._closed.wait(_AFTER_FAILURE_S if self._failing else self._beat_s):
            self._beat()

    def _beat(self) -> None:
        """A database that is away is asked again by the next beat: until it is back nobody else can take a run."""
        with self._renewing:
            leases = [lease for lease in list(self._held.values()) if lease.taken and not lease.lost]
            if not leases:
                return
            began = _now()
            try:
                ours = self._renew(leases)
            except (psycopg.Error, OSError) as exc:
                self._failed_at = _now()
                if not self._failing:
                    log.warning("cannot renew the leases of %d runs: %s", len(leases), masked(str(exc)))
                self._failing = True
                return
            self._failing = False
            for lease in leases:
                self._note(lease, ours.get((lease.run_id, lease.owner)), began)

    def _renew(self, leases: list[Lease]) -> dict[tuple[str, str], bool]:
        """Whether somebody wants them stopped, of those that are still ours."""
        ids, owners = [lease.run_id for lease in leases], [lease.owner for lease in leases]
        rows = execute(self._pool, _RENEW, (self.lease_s, ids, owners))
        return {(run_id, owner): wanted for run_id, owner, wanted in rows}

    def _note(self, lease: Lease, cancel_wanted: bool | None, began: float) -> None:
        if cancel_wanted is not None:
            lease.renewed_at, lease.cancel_wanted = began, cancel_wanted
        elif self._held.get(lease.run_id) is lease:  # else it was left meanwhile
            lease.lost = True
            log.warning("run %s was taken over by somebody else", lease.run_id)


def busy(run_id: str, owner: str) -> RunBusyError:
    """``owner`` is of whoever holds the run, here or elsewhere."""
    host = owner.rpartition(":")[0].rpartition(":")[0]
    if host == socket.gethostname():
        return RunBusyError(
            f"run {run_id!r} is being run already",
            hint="wait for it to end, or stop it, then resume; "
            f"if its process was killed, try again in {LEASE_S:.0f} s",
        )
    return RunBusyError(
        f"run {run_id!r} is being run on {host}",
        hint=f"wait for it to end, or stop it there; if {host} has died, try again in {LEASE_S:.0f} s",
    )


def _now() -> float:
    """Seconds; where the system tells, the time counts that the machine slept."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()
