"""``sparklio worker`` in processes of its own, which a test may stop and kill; and runs for them.

with worker_process(home, "--queues", "text", **settings) as worker:
    worker.children()       # the processes that do the tasks
    worker.kill()           # all of them, at once
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

from graph.inputs import RunInput
from graph.run_table import PostgresRunStore
from sparklio import Sparklio
from sparklio.worker.queue import KEEPER, Queue
from tests.conftest import BRAND, PRODUCT

__all__ = ["Office", "WorkerProcess", "office", "until", "worker_process"]

ROOT = Path(__file__).resolve().parent.parent
_STARTS_WITHIN_S = 60.0
_ENDS_WITHIN_S = 30.0
_WAITS_S = 90.0


class WorkerProcess:
    """
    Args:
        home: its data folder.
        words: of the command.
        settings: variables by their names.
        before: words before the command, e.g. to run it in a network of its own.

    Attributes:
        popen: the parent of all.
    """

    def __init__(self, home: Path, *words: str, settings: Mapping[str, str], before: Sequence[str] = ()) -> None:
        environ = {**os.environ, "PYTHONUTF8": "1", "PYTHONPATH": str(ROOT), "SPARKLIO_HOME": str(home), **settings}
        command = [*before, sys.executable, "-m", "sparklio", "-v", "worker", *words]
        with tempfile.NamedTemporaryFile(delete=False) as out:
            self._out = Path(out.name)
            self.popen = subprocess.Popen(command, env=environ, stdout=out, stderr=out, start_new_session=True)

    @property
    def log(self) -> str:
        """What all its processes have said."""
        return self._out.read_text(encoding="utf-8")

    def wait_until_ready(self) -> None:
        """Until it has said what it works on."""
        ends = time.monotonic() + _STARTS_WITHIN_S
        while "mode:" not in self.log:
            assert self.popen.poll() is None, f"it ended with {self.popen.returncode}: {self.log}"
            assert time.monotonic() < ends, f"it never began: {self.log}"
            time.sleep(0.02)

    def mains(self) -> list[int]:
        """The Celery workers."""
        return _children_of(self.popen.pid)

    def children(self) -> list[int]:
        """The processes that do the tasks."""
        return [pid for main in self.mains() for pid in _children_of(main)]

    def stop(self) -> int:
        """Stop it as a service manager does; its exit code."""
        self.popen.send_signal(signal.SIGTERM)
        return self.popen.wait(_ENDS_WITHIN_S)

    def kill(self) -> None:
        """SIGKILL to all of them: the machine is gone."""
        mains, children = self.mains(), self.children()
        self.popen.kill()
        self.popen.wait()
        for pid in (*mains, *children):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def clean_up(self) -> None:
        if self.popen.poll() is None:
            self.kill()
        self._out.unlink()


@contextmanager
def worker_process(home: Path, *words: str, **settings: str) -> Iterator[WorkerProcess]:
    """``sparklio worker`` in processes of its own, killed at the block's end unless it has ended by then."""
    worker = WorkerProcess(home, *words, settings=settings)
    try:
        worker.wait_until_ready()
        yield worker
    finally:
        worker.clean_up()


def _children_of(pid: int) -> list[int]:
    told = subprocess.run(["ps", "-A", "-o", "pid=,ppid=,stat="], capture_output=True, text=True, check=True).stdout
    rows = [line.split() for line in told.splitlines()]
    return [int(child) for child, parent, state in rows if int(parent) == pid and not state.startswith("Z")]


class Office:
    """Whoever books runs for the workers, and sees what becomes of them."""

    def __init__(self, studio: Sparklio) -> None:
        self.studio = studio
        store = studio.runs.store
        assert isinstance(store, PostgresRunStore)
        self.store = store
        self.queue = Queue(store, studio.settings.mode)

    async def book(self, run_id: str | None = None, *, batch: str | None = None) -> str:
        inputs = RunInput.parse({"brand": BRAND, "product": PRODUCT})
        record = await self.studio.runs.start(inputs, run_id=run_id, status="queued", keeper=KEEPER, batch=batch)
        return record.run_id

    async def ended(self, *run_ids: str, status: str = "finished", within_s: float = _WAITS_S) -> None:
        """Wait until all of them have come to this end."""
        await until(lambda: set(self.statuses(*run_ids)) == {status}, lambda: self.reasons(*run_ids), within_s)

    def statuses(self, *run_ids: str) -> list[str]:
        return [self.store.load(run_id).status for run_id in run_ids]

    def reasons(self, *run_ids: str) -> Any:
        records = [self.store.load(run_id) for run_id in run_ids]
        return [(record.run_id, record.status, record.error) for record in records]


@asynccontextmanager
async def office(home: Path, **settings: str) -> AsyncIterator[Office]:
    async with Sparklio(home=home, settings=settings) as studio:
        yield Office(studio)


async def until(
    condition: Callable[[], object], told: Callable[[], object] = lambda: "", within_s: float = _WAITS_S
) -> None:
    ends = time.monotonic() + within_s
    while not await asyncio.to_thread(condition):
        assert time.monotonic() < ends, f"it never came to that: {told()}"
        await asyncio.sleep(0.05)
