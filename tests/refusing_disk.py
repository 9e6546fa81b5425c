"""A disk that is full or read-only from a certain write on: Python's files and SQLite's statements pass through it."""

from __future__ import annotations

import errno
import io
import os
import re
import sqlite3
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

__all__ = ["Disk", "Point", "points"]

Point = tuple[str, int]
"""The n-th (from 1) write of a kind, such as ("rename result.json", 1)."""

_OPEN, _FDOPEN, _FSYNC, _IO_OPEN, _WRITE = os.open, os.fdopen, os.fsync, io.open, os.write
_MKDIR, _REPLACE, _UNLINK, _CONNECT = os.mkdir, os.replace, os.unlink, sqlite3.connect

_REMOVE = "remove"
_TEMPORARY = re.compile(r"^\.(.+)\.[0-9a-f]{16}$")
_READING = re.compile(r"\s*(SELECT|PRAGMA|BEGIN|COMMIT|ROLLBACK)", re.IGNORECASE)


def points(seen: Counter[str]) -> Iterator[Point]:
    for kind, times in seen.items():
        yield from ((kind, number) for number in range(1, times + 1))


class Disk:
    """What is written below ``home``.

    Attributes:
        seen: how often each kind of write was tried.
        point: the write that is refused, and with ``lasting`` all that follow; None: the disk is well.
        code: ENOSPC, or EROFS.
        refused: whether anything was refused.
        most_pages: SQLite's own limit of a database's size, which makes it find the disk full.
    """

    def __init__(self, home: Path, patch: pytest.MonkeyPatch) -> None:
        self.home = home.resolve()
        self.seen: Counter[str] = Counter()
        self.point: Point | None = None
        self.lasting = True
        self.code = errno.ENOSPC
        self.refused = False
        self.most_pages: int | None = None
        self._paths: dict[int, Path] = {}
        self._connection = _connection_of(self)
        for name, function in {
            "os.open": self._open,
            "os.mkdir": self._mkdir,
            "os.replace": self._replace,
            "os.fsync": self._fsync,
            "os.write": self._write,
            "os.unlink": self._unlink,
            "os.fdopen": self._fdopen,
            "io.open": self._io_open,
            "builtins.open": self._io_open,
            "sqlite3.connect": self._connect,
        }.items():
            patch.setattr(name, function)

    def heal(self) -> None:
        self.point, self.most_pages = None, None

    def ask(self, what: str, path: Path) -> None:
        """Count a write; raises OSError where it is refused. Even a full disk lets files be removed."""
        if self._is_refused(f"{what} {_shown(path)}", harmless=what == _REMOVE and self.code == errno.ENOSPC):
            raise OSError(self.code, os.strerror(self.code), str(path))

    def state(self, connection: sqlite3.Connection, sql: str) -> None:
        """Before a statement: where it is refused, SQLite is told to find its file read-only."""
        if not _READING.match(sql) and self._is_refused("SQL " + " ".join(sql.split()[:3])):
            sqlite3.Cursor(connection).execute("PRAGMA query_only = ON")

    def _is_refused(self, kind: str, *, harmless: bool = False) -> bool:
        self.seen[kind] += 1
        if self.point is None or harmless:
            return False
        if self.point != (kind, self.seen[kind]) and not (self.refused and self.lasting):
            return False
        self.refused = True
        return True

    def _is_ours(self, path: Any) -> bool:
        return not isinstance(path, int) and Path(os.fsdecode(path)).resolve().is_relative_to(self.home)

    def _needs_room(self, path: Any) -> bool:
        """A full disk lets be opened what is there already, a read-only one lets nothing be opened to write."""
        return self._is_ours(path) and (self.code == errno.EROFS or not Path(path).exists())

    # what stands in place of Python's own

    def _open(self, path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR) and self._needs_room(path):
            self.ask("open", Path(path))
        number = _OPEN(path, flags, *args, **kwargs)
        self._paths[number] = Path(os.fsdecode(path))
        return number

    def _fdopen(self, number: int, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        path = self._paths.get(number)
        if path is None or mode != "wb" or not self._is_ours(path):
            return _FDOPEN(number, mode, *args, **kwargs)
        return io.BufferedWriter(_File(number, "wb", self, path))

    def _io_open(self, file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if set(mode) <= set("rbt") or not self._is_ours(file):
            return _IO_OPEN(file, mode, *args, **kwargs)
        if self._needs_room(file):
            self.ask("open", Path(file))
        bytes_only = io.BufferedWriter(_File(file, mode.strip("bt"), self, Path(file)))
        return bytes_only if "b" in mode else io.TextIOWrapper(bytes_only, encoding=kwargs.get("encoding"))

    def _fsync(self, number: int) -> None:
        path = self._paths.get(number)
        if path is not None and self._is_ours(path):
            self.ask("fsync", path)
        _FSYNC(number)

    def _write(self, number: int, data: Any) -> int:
        path = self._paths.get(number)
        if path is not None and self._is_ours(path):
            try:
                self.ask("write", path)
            except OSError:
                _WRITE(number, bytes(data)[: len(data) // 2])
                raise
        return _WRITE(number, data)

    def _mkdir(self, path: Any, *args: Any, **kwargs: Any) -> None:
        if self._is_ours(path) and not Path(path).exists():
            self.ask("mkdir", Path(path))
        _MKDIR(path, *args, **kwargs)

    def _replace(self, source: Any, target: Any, **kwargs: Any) -> None:
        if self._is_ours(target):
            self.ask("rename", Path(target))
        _REPLACE(source, target, **kwargs)

    def _unlink(self, path: Any, **kwargs: Any) -> None:
        if self._is_ours(path) and os.path.lexists(path):
            self.ask(_REMOVE, Path(path))
        _UNLINK(path, **kwargs)

    def _connect(self, *args: Any, **kwargs: Any) -> sqlite3.Connection:
        connection = _CONNECT(*args, factory=self._connection, **kwargs)
        if self.most_pages is not None:
            connection.execute(f"PRAGMA max_page_count = {self.most_pages}")
        return connection


class _File(io.FileIO):
    """A file whose refused writes leave half of their bytes, as on a disk that becomes full."""

    def __init__(self, file: Any, mode: str, disk: Disk, path: Path) -> None:
        super().__init__(file, mode)
        self._disk, self._path = disk, path

    def write(self, data: Any) -> int:
        try:
            self._disk.ask("write", self._path)
        except OSError:
            super().write(bytes(data)[: len(data) // 2])
            raise
        return super().write(data)


def _connection_of(disk: Disk) -> type[sqlite3.Connection]:
    class Cursor(sqlite3.Cursor):
        def execute(self, sql: str, *args: Any) -> Any:
            disk.state(self.connection, sql)
            return super().execute(sql, *args)

        def executemany(self, sql: str, *args: Any) -> Any:
            disk.state(self.connection, sql)
            return super().executemany(sql, *args)

        def executescript(self, sql: str) -> Any:
            disk.state(self.connection, sql[sql.find("CREATE") :])  # behind a pragma
            return super().executescript(sql)

    class Connection(sqlite3.Connection):
        """SQLite's own makes its cursors past :meth:`cursor`."""

        def cursor(self, factory: Any = Cursor) -> Any:
            return super().cursor(factory)

        def execute(self, *args: Any) -> Any:
            return self.cursor().execute(*args)

        def executemany(self, *args: Any) -> Any:
            return self.cursor().executemany(*args)

        def executescript(self, sql: str) -> Any:
            return self.cursor().executescript(sql)

    return Connection


def _shown(path: Path) -> str:
    """A name without what differs from run to run: the temporary file's, the image's own."""
    name = _TEMPORARY.sub(r"\1", path.name)
    return "an image" if name.endswith(".png") else name
