"""A list on disk: what is known of ten thousand rows takes eight bytes of memory each."""

from __future__ import annotations

import json
import tempfile
import threading
from array import array
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from graph.sqlite import storage_errors

__all__ = ["Spool"]


class Spool:
    """JSON values by number, in a file that is gone with its process; any thread may ask.

    Args:
        folder: a folder with room; the file has no name there.

    Raises:
        StorageError: the disk refuses; so do all methods.
    """

    def __init__(self, folder: Path) -> None:
        with storage_errors(str(folder)):
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed by __exit__
        self._offsets = array("q")
        self._guard = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self._offsets)

    def __iter__(self) -> Iterator[Any]:
        return (self[number] for number in range(len(self)))

    def __getitem__(self, number: int) -> Any:
        return json.loads(self.text(number))

    def text(self, number: int) -> bytes:
        """The value as one line of JSON."""
        with self._guard, storage_errors("the batch's folder"):
            self._file.seek(self._offsets[number])
            return self._file.readline().rstrip(b"\n")

    def __setitem__(self, number: int, value: Any) -> None:
        offset = self._write(value)
        self._offsets[number] = offset

    def append(self, value: Any) -> int:
        """The number of the new value."""
        self._offsets.append(self._write(value))
        return len(self._offsets) - 1

    def _write(self, value: Any) -> int:
        """Half a surrogate pair is escaped, which is JSON as well."""
        line = json.dumps(value, ensure_ascii=False).encode(errors="backslashreplace") + b"\n"
        with self._guard, storage_errors("the batch's folder"):
            offset = self._file.seek(0, 2)
            self._file.write(line)
            return offset
