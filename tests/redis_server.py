"""A real redis-server on a free loopback port, which a test may kill and start again.

with redis_server() as redis:
    redis.url
    redis.restart(forget=True)
"""

from __future__ import annotations

import os
import random
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

__all__ = ["RedisServer", "missing", "redis_server"]

_STARTS_WITHIN_S = 30.0


def missing(program: str, package: str) -> None:
    """Skip the test where a program is not installed; in CI that is a failure."""
    reason = f"{program} is not installed (apt install {package})"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


class RedisServer:
    """Keeps what it holds on its disk (AOF), as ours are told to; ``restart(forget=True)`` is one that does not.

    Attributes:
        port: of 127.0.0.1, the same after a restart.
    """

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        options = {"port": self.port, "bind": "127.0.0.1", "dir": self._folder, "appendonly": "yes", "save": ""}
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        self._process = subprocess.Popen(["redis-server", *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until_it_listens(self.port, self._process)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def restart(self, *, forget: bool = False, after_s: float = 0.0) -> None:
        """Kill it, and start it again ``after_s`` later, with what it had on its disk or with nothing."""
        self.kill()
        if forget:
            shutil.rmtree(self._folder / "appendonlydir", ignore_errors=True)
        time.sleep(after_s)
        self.start()


@contextmanager
def redis_server() -> Iterator[RedisServer]:
    if shutil.which("redis-server") is None:
        missing("redis-server", "redis-server")
    with tempfile.TemporaryDirectory(prefix="sparklio-redis-") as folder:
        server = RedisServer(Path(folder))
        server.start()
        try:
            yield server
        finally:
            server.kill()


def free_port() -> int:
    """Below those that the system gives out by itself: nobody else is given it while a stopped server is away."""
    while True:
        port = random.randint(15_000, 32_000)
        with socket.socket() as found, suppress(OSError):
            found.bind(("127.0.0.1", port))
            return port


def until_it_listens(port: int, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + _STARTS_WITHIN_S
    while True:
        if process.poll() is not None:
            raise RuntimeError(f"{process.args!r} ended with {process.returncode}")
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1):
                return
        except OSError:
            if time.monotonic() > until:
                raise
        time.sleep(0.02)
