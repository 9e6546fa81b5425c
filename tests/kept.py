"""What processes that may be killed leave in a data folder or in a database, looked at while none of them is alive."""

from __future__ import annotations

import json
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from secrets import token_hex
from typing import Any

import psycopg

from graph.database import Database, open_database
from graph.run_table import open_run_table
from tests.postgres_server import PostgresServer

__all__ = ["InFiles", "InPostgres", "Kept"]

_QUIET_WITHIN_S = 40.0
_OTHERS = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s"


class Kept(ABC):
    """The runs of the data folder ``home``, wherever their records and checkpoints are.

    Attributes:
        settings: of a process that is to find them.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self.settings: dict[str, str] = {}

    @abstractmethod
    def copied(self, home: Path) -> Kept:
        """The same runs for another data folder, or none where there is none yet."""

    @abstractmethod
    def status(self, run_id: str) -> str | None:
        """As the run's record says; None where there is none. May be asked often."""

    @abstractmethod
    def quiet(self) -> None:
        """Wait until what the dead had begun to write is written or given up, and what they held is free."""

    @abstractmethod
    def database(self) -> AbstractAsyncContextManager[Database | None]:
        """To be read only; None where the dead did not come so far as to make it."""

    @abstractmethod
    def check_end(self, run_id: str) -> None:
        """Nobody holds the finished run, and its result is kept."""


class InFiles(Kept):
    def copied(self, home: Path) -> InFiles:
        if self.home.exists():
            shutil.copytree(self.home, home)
        return InFiles(home)

    def status(self, run_id: str) -> str | None:
        record = self.home / "runs" / run_id / "run.json"
        return str(json.loads(record.read_bytes())["status"]) if record.exists() else None

    def quiet(self) -> None:
        """The system gives a dead process' locks back at once."""

    @asynccontextmanager
    async def database(self) -> AsyncGenerator[Database | None, None]:
        """A copy: opening the database itself would mend what the next process is to mend."""
        if not (self.home / "checkpoints.sqlite").exists():
            yield None
            return
        spare = self.home.with_name(f"{self.home.name}-copy")
        shutil.rmtree(spare, ignore_errors=True)
        spare.mkdir()
        for path in self.home.glob("checkpoints.sqlite*"):
            if not path.name.endswith(("-shm", ".lock")):
                shutil.copy(path, spare)
        async with open_database(spare / "checkpoints.sqlite") as database:
            yield database

    def check_end(self, run_id: str) -> None:
        assert not (self.home / "runs" / run_id / "owner.json").exists()


class InPostgres(Kept):
    """
    Args:
        home: what is kept on this machine beside it.
        server: which nobody else uses the database of.
        template: the name of a database to begin with, which nobody is connected to; None: an empty one.
    """

    def __init__(self, home: Path, server: PostgresServer, template: str | None = None) -> None:
        super().__init__(home)
        self._server = server
        self._url = _copy(server, template) if template else server.new_database()
        self._name = self._url.rpartition("/")[2]
        self.settings = {"SPARKLIO_DATABASE_URL": self._url}

    def copied(self, home: Path) -> InPostgres:
        self.quiet()
        if self.home.exists():
            shutil.copytree(self.home, home)
        return InPostgres(home, self._server, self._name)

    def status(self, run_id: str) -> str | None:
        with psycopg.connect(self._url) as connection:
            if not self._exists(connection, "runs"):
                return None
            found = connection.execute("SELECT status FROM runs WHERE run_id = %s", (run_id,)).fetchone()
        return None if found is None else str(found[0])

    def quiet(self) -> None:
        """As if the time of a lease had passed since."""
        self._until_nobody_is_connected()
        with psycopg.connect(self._url, autocommit=True) as connection:
            if self._exists(connection, "runs"):
                connection.execute("UPDATE runs SET lease_until = clock_timestamp() WHERE owner IS NOT NULL")
        self._until_nobody_is_connected()

    def _until_nobody_is_connected(self) -> None:
        """The server finishes the statement of a client that has died."""
        until = time.monotonic() + _QUIET_WITHIN_S
        with psycopg.connect(self._server.url(), autocommit=True) as connection:
            while connection.execute(_OTHERS, (self._name,)).fetchall() != [(0,)]:
                assert time.monotonic() < until, "the dead are still connected"
                time.sleep(0.002)

    @asynccontextmanager
    async def database(self) -> AsyncGenerator[Database | None, None]:
        with psycopg.connect(self._url) as connection:
            made = self._exists(connection, "effects")
        if not made:
            yield None
            return
        async with open_database(self._url) as database:
            yield database

    def _exists(self, connection: psycopg.Connection[Any], table: str) -> bool:
        return connection.execute("SELECT to_regclass(%s)", (table,)).fetchall() != [(None,)]

    def check_end(self, run_id: str) -> None:
        with open_run_table(self.home, self._url) as store:
            with store.pool.connection() as connection:
                held = connection.execute("SELECT run_id FROM runs WHERE owner IS NOT NULL").fetchall()
            assert held == []
            numbers = [event["seq"] for event in store.events(run_id)]
            assert numbers == list(range(1, len(numbers) + 1)), "an event is lost or told twice"
            assert store.read_result(run_id) == (store.folder(run_id) / "result.json").read_bytes()


def _copy(server: PostgresServer, template: str) -> str:
    name = f"copy_{token_hex(6)}"
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"'.encode())
    return server.url(name)
