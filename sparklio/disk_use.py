"""What files take on the disk, in bytes of their content."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["DATABASE", "REQUEST_LOCKS", "Holding", "files_in", "holdings", "readable", "size_of"]

DATABASE = "checkpoints.sqlite"
REQUEST_LOCKS = "requests-*.lock"
"""Each is held by a server for as long as it lives."""


@dataclass(frozen=True)
class Holding:
    """How many things of a kind there are, and their files' bytes together."""

    count: int
    bytes: int


def holdings(home: Path, images: Path, pages: Path) -> dict[str, Holding]:
    """What a data folder holds: ``runs``, ``images``, ``pages``, ``database``, what its WAL still has included.

    ``server`` is what is kept for clients over HTTP: image jobs, of which it tells the number, and answers to requests
    that came with a key.
    """
    runs = home / "runs"
    database = [path for path in (home / DATABASE, home / f"{DATABASE}-wal") if path.exists()]
    return {
        "runs": Holding(sum(1 for _ in runs.glob("[!.]*/run.json")), size_of(files_in(runs))),
        "images": _visible(images),
        "pages": _visible(pages),
        "database": Holding(len(database[:1]), size_of(database)),
        "server": Holding(
            sum(1 for _ in (home / "jobs").glob("[!.]*.json")),
            size_of([*home.glob("requests.sqlite*"), *home.glob(REQUEST_LOCKS), *files_in(home / "jobs")]),
        ),
    }


def _visible(folder: Path) -> Holding:
    return Holding(sum(1 for _ in folder.glob("[!.]*")), size_of(files_in(folder)))


def files_in(folder: Path) -> Iterator[Path]:
    """All files below a folder; links lead elsewhere and are none."""
    for place, _, names in os.walk(folder):  # passes over what somebody removes meanwhile
        for path in (Path(place, name) for name in names):
            if path.is_file() and not path.is_symlink():
                yield path


def size_of(paths: Iterable[Path]) -> int:
    return sum(map(_size, paths))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # somebody at work has just removed it
        return 0


def readable(size: float) -> str:
    """Bytes in words, e.g. ``3.4 MB``."""
    if size < 1000:
        return f"{size:.0f} bytes"
    for unit in ("kB", "MB"):
        size /= 1000
        if size < 1000:
            return f"{size:.1f} {unit}"
    return f"{size / 1000:.1f} GB"
