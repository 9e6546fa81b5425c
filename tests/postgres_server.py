"""A real PostgreSQL on a free loopback port, which a test may stop and start again, with databases for each test.

with postgres_server() as postgres:
    url = postgres.new_database()
    postgres.restart(after_s=5)
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex
from typing import Any

import psycopg

from tests.redis_server import free_port, missing, until_it_listens

__all__ = ["PostgresServer", "postgres_server"]

_STARTS_WITHIN_S = 60.0
_DEBIAN = Path("/usr/lib/postgresql")  # which puts only clients on PATH


class PostgresServer:
    """Without fsync: no test pulls the plug of the machine, and a kill of the server loses nothing that way.

    Attributes:
        port: of 127.0.0.1, the same after a restart.
    """

    def __init__(self, folder: Path, programs: Path) -> None:
        self.port = free_port()
        self._data = folder / "data"
        self._programs = programs
        self._process: subprocess.Popen[bytes] | None = None

    def make(self) -> None:
        words = ["-D", str(self._data), "-U", "sparklio", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]
        subprocess.run([str(self._programs / "initdb"), *words], check=True, capture_output=True, **_as_somebody())

    def start(self) -> None:
        options = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": "",
            "fsync": "off",
            "max_connections": 100,
        }
        words = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        self._process = subprocess.Popen(
            [str(self._programs / "postgres"), "-D", str(self._data), *words],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            **_as_somebody(),
        )
        until_it_listens(self.port, self._process)
        self._until_it_answers()

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """SIGINT: connections are cut, and it ends in good order; SIGQUIT: as if it had crashed."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait()
            self._process = None

    def restart(self, *, how: signal.Signals = signal.SIGINT, after_s: float = 0.0) -> None:
        self.stop(how)
        time.sleep(after_s)
        self.start()

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://sparklio@127.0.0.1:{self.port}/{database}"

    def new_database(self) -> str:
        """The URL of an empty database."""
        name = f"test_{token_hex(6)}"
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"'.encode())
        return self.url(name)

    def _until_it_answers(self) -> None:
        until = time.monotonic() + _STARTS_WITHIN_S
        while True:
            try:
                psycopg.connect(self.url()).close()
            except psycopg.OperationalError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.05)
            else:
                return


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    programs = _programs()
    if programs is None:
        missing("postgres", "postgresql")
        return
    with tempfile.TemporaryDirectory(prefix="sparklio-postgres-") as folder:
        if (user := _user()) is not None:
            os.chown(folder, user, -1)
        server = PostgresServer(Path(folder), programs)
        server.make()
        server.start()
        try:
            yield server
        finally:
            server.stop(signal.SIGQUIT)


def _programs() -> Path | None:
    """The folder of initdb and postgres."""
    if found := shutil.which("initdb"):
        return Path(found).parent
    return max(_DEBIAN.glob("*/bin"), default=None)


def _user() -> int | None:
    """Whom the server runs as: PostgreSQL refuses root."""
    return pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else None


def _as_somebody() -> dict[str, Any]:
    """Arguments of a new process."""
    user = _user()
    return {} if user is None else {"user": user, "extra_groups": []}
