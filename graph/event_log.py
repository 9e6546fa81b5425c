"""A run's events on disk, ``<home>/runs/<id>/events.jsonl``: one JSON object a line, numbered over all its sessions."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from graph.events import Event
from graph.sqlite import storage_errors

__all__ = ["EVENTS_FILE", "FileEventLog", "FileEventReader", "event_of", "line_of"]

log = logging.getLogger(__name__)

EVENTS_FILE = "events.jsonl"
_CHUNK_BYTES = 64 * 1024
_NUMBER = re.compile(rb'^\{"seq":(\d{1,15}),', re.MULTILINE)

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=str).encode
_encode_ascii = json.JSONEncoder(separators=(",", ":"), default=str).encode


class FileEventLog:
    """Takes the events of one session; its writer holds the run's lock, and so is the only one.

    Each is one write to the file, done when :meth:`append` returns. What the disk refuses is lost: it neither fails the
    run nor hides why it failed.

    Args:
        path: the file, made where there is none.
        run_id: whose events these are.
        ring: called after each event.

    Attributes:
        last: the number of the latest event, be it of an earlier session; 0: there was none.
    """

    def __init__(self, path: Path, run_id: str, ring: Callable[[], None]) -> None:
        self._path = path
        self._run_id = run_id
        self._ring = ring
        self._warned = self._synced = False
        self._file: int | None = None
        self.last, self._torn = 0, False
        try:
            self.last, self._torn = _end_of(path)
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        except OSError as exc:
            self._warn(exc)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.sync()
        if self._file is not None:
            with suppress(OSError):  # of lines that were refused, which has been said
                os.close(self._file)
            self._file = None

    def append(self, event: Event) -> None:
        """Write an event down; from now on its number is not given out again."""
        self.last = event["seq"]
        self._synced = False
        if self._file is not None:
            self._write(self._file, line_of(event))
        self._ring()

    def sync(self) -> None:
        """Have the disk itself take what was written."""
        if self._file is not None and not self._synced:
            try:
                os.fsync(self._file)
                self._synced = True
            except OSError as exc:
                self._warn(exc)

    def _write(self, file: int, line: bytes) -> None:
        if self._torn:
            line = b"\n" + line
        self._torn = True  # until all of it is there; an empty line more does no harm
        try:
            missing = len(line) - os.write(file, line)
        except OSError as exc:
            self._warn(exc)
            return
        self._torn = missing > 0
        if missing:
            self._warn(f"{missing} of {len(line)} bytes were not taken")

    def _warn(self, what: OSError | str) -> None:
        if not self._warned:
            self._warned = True
            log.warning("not all events can be written to %s: %s", self._path, what, extra={"run_id": self._run_id})


def line_of(event: Event) -> bytes:
    """The event without the run's id, its number first, as a line of JSON."""
    body = {key: value for key, value in event.items() if key != "run_id"}
    try:
        return f"{_encode(body)}\n".encode()
    except UnicodeEncodeError:  # half of a letter, as a model may write it
        return f"{_encode_ascii(body)}\n".encode()


def _end_of(path: Path) -> tuple[int, bool]:
    """The number of the last event, and whether its line was broken off; reads no more of the file than it must."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return 0, False
    with file:
        size, length = file.seek(0, os.SEEK_END), _CHUNK_BYTES
        while True:
            start = file.seek(max(0, size - length))
            tail = file.read(size - start)
            lines = tail.partition(b"\n")[2] if start else tail
            numbers = _NUMBER.findall(lines)
            if numbers or not start:
                return max(map(int, numbers), default=0), bool(tail) and not tail.endswith(b"\n")
            length *= 2


class FileEventReader:
    """Reads a log chunk by chunk. What stands behind the last newline is being written, or was broken off."""

    def __init__(self, path: Path, run_id: str, after: int) -> None:
        self._path = path
        self._run_id = run_id
        self._after = after
        self._offset = 0
        self._rest = b""

    def read(self) -> list[Event] | None:
        """The events of the next chunk, which may be none; None: there is no more in the file yet.

        Raises:
            StorageError: it cannot be read.
        """
        chunk = self._chunk()
        if not chunk:
            return None
        self._offset += len(chunk)
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        return list(self._events(lines))

    def _chunk(self) -> bytes:
        with storage_errors(f"the run's events {self._path}"):
            try:
                with self._path.open("rb", buffering=0) as file:
                    file.seek(self._offset)
                    return file.read(_CHUNK_BYTES) or b""
            except FileNotFoundError:
                return b""

    def _events(self, lines: Iterable[bytes]) -> Iterator[Event]:
        for line in lines:
            number = _NUMBER.match(line)
            if number is None or int(number[1]) <= self._after:
                continue
            event = event_of(line, self._run_id)
            if event is not None:
                self._after = event["seq"]
                yield event


def event_of(line: bytes, run_id: str) -> Event | None:
    """None for a line that was broken off: by a kill, or a full disk."""
    try:
        body: dict[str, Any] = json.loads(line)
        return Event(
            seq=int(body["seq"]),
            run_id=run_id,
            type=body["type"],
            node=body["node"],
            at=body["at"],
            elapsed_ms=body["elapsed_ms"],
            data=dict(body["data"]),
        )
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
