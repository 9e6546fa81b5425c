"""Whose run it is where several machines share a data folder that the operating system's locks do not span.

On one machine the lock decides, and nothing here matters. The file ``owner.json`` (``{host, kernel, pid, since}``) is
for the others: it is touched while the run is held, removed when it is left, and believed while it is fresh. It is
only ever linked into place, which fails where one is, so that of two machines that want it at once one gets it.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from secrets import token_hex
from typing import Any

from providers.errors import RunBusyError

__all__ = ["OWNER_FILE", "Ownership", "held_elsewhere", "owned"]

log = logging.getLogger(__name__)

OWNER_FILE = "owner.json"
_BEAT_S = 15.0
_STALE_S = 60.0  # four beats: one may be late, and a machine may sleep for a moment
_LEAVING_S = 1.0
_KERNEL = Path("/proc/sys/kernel/random/boot_id")


class Ownership:
    """A run that is held, until another machine has taken it over, e.g. because this one slept."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lost = threading.Event()

    def check(self) -> None:
        """Raises RunBusyError once another machine has taken the run over."""
        if self._lost.is_set():
            raise _busy(self._folder)

    def lose(self) -> None:
        self._lost.set()


def held_elsewhere(folder: Path) -> str | None:
    """The name of another machine that runs the run of this folder now, or None: also where the file tells nothing."""
    return _holder(folder / OWNER_FILE)


@contextmanager
def owned(folder: Path) -> Iterator[Ownership]:
    """Tell the other machines that the run of this folder is held here, for as long as the block lasts.

    A file that cannot be written is logged and fails no run.

    Raises:
        RunBusyError: another machine holds it.
    """
    path, ownership, left = folder / OWNER_FILE, Ownership(folder), threading.Event()
    _begin(path)
    beating = threading.Thread(target=_beat, args=(path, left, ownership), name="heartbeat", daemon=True)
    beating.start()
    try:
        yield ownership
    finally:
        left.set()
        beating.join(_LEAVING_S)  # a file server that hangs must not keep who leaves
        _release(path)


def _begin(path: Path) -> None:
    if _holder(path) is not None:
        raise _busy(path.parent)
    try:
        _claim(path)
    except FileExistsError as exc:  # somebody was faster
        raise _busy(path.parent) from exc
    except OSError as exc:
        log.warning("cannot write %s: %s", path, exc)


def _busy(folder: Path) -> RunBusyError:
    host = held_elsewhere(folder) or "another machine"
    return RunBusyError(
        f"run {folder.name!r} is being run on {host}",
        hint=f"wait for it to end, or stop it there; if {host} has died, try again in a minute",
    )


def _claim(path: Path) -> None:
    """Put our file in place, whole; raises FileExistsError where another machine has been faster."""
    _clear(path)
    temporary = _beside(path)
    try:
        temporary.write_text(_words(), encoding="utf-8")
        os.link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _clear(path: Path) -> None:
    """Take away what is no longer fresh; raises FileExistsError for what turns out to be, and puts it back.

    Between our look and our hand another machine may have found the same leftover, and put its own file there.
    """
    aside = _beside(path)
    try:
        path.rename(aside)
    except FileNotFoundError:
        return
    try:
        if _holder(aside) is not None:
            os.link(aside, path)
            raise FileExistsError(path)
    finally:
        aside.unlink(missing_ok=True)


def _beat(path: Path, left: threading.Event, ownership: Ownership) -> None:
    """Renew the file until it is left, or another machine has taken the run over while this one slept."""
    while not left.wait(_BEAT_S):
        try:
            _renew(path)
        except FileExistsError:
            log.warning("%s is no longer ours", path)
            ownership.lose()
            return
        except OSError as exc:
            log.warning("cannot renew %s: %s", path, exc)


def _renew(path: Path) -> None:
    """Touched and not replaced: what another machine has put there meanwhile must stay.

    Raises:
        FileExistsError: another machine has the run.
    """
    if _ours(_read(path)):
        os.utime(path)
    elif _holder(path) is not None:
        raise FileExistsError(path)
    else:  # it could not be written before, or somebody has just moved it aside to look at it
        _claim(path)


def _release(path: Path) -> None:
    try:
        if _ours(_read(path)):
            path.unlink(missing_ok=True)
    except OSError as exc:
        log.warning("cannot remove %s: %s", path, exc)


def _holder(path: Path) -> str | None:
    """The other machine whose fresh file this is."""
    try:
        owner = _read(path)
        fresh = owner is not None and not _here(owner) and _age_s(path) <= _STALE_S
    except OSError as exc:
        log.warning("cannot read %s: %s", path, exc)
        return None
    return str(owner["host"]) if owner is not None and fresh else None


def _read(path: Path) -> dict[str, Any] | None:
    """What the file says; None where there is none, or none that tells a host."""
    try:
        owner = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return owner if isinstance(owner, dict) and owner.get("host") else None


def _words() -> str:
    return json.dumps({**_me(), "since": datetime.now(UTC).isoformat(timespec="seconds")})


def _me() -> dict[str, Any]:
    return {"host": socket.gethostname(), "kernel": _kernel(), "pid": os.getpid()}


@cache
def _kernel() -> str | None:
    """What tells this boot of this machine, None where nothing does.

    Containers have names of their own, and share the locks of the kernel beneath them.
    """
    try:
        return _KERNEL.read_text(encoding="ascii").strip()
    except OSError:
        return None


def _here(owner: dict[str, Any]) -> bool:
    """Whether this machine wrote it, so that the lock has decided already."""
    return owner["host"] == socket.gethostname() or (_kernel() is not None and owner.get("kernel") == _kernel())


def _ours(owner: dict[str, Any] | None) -> bool:
    return owner is not None and {**owner, **_me()} == owner


def _age_s(path: Path) -> float:
    """Seconds since the last beat, both times by the clock of the machine that has the files."""
    mark = _beside(path)
    try:
        mark.touch()
        now = mark.stat().st_mtime
    except OSError:  # a folder that is only read
        now = time.time()
    finally:
        mark.unlink(missing_ok=True)
    return now - path.stat().st_mtime


def _beside(path: Path) -> Path:
    """A name for a moment; `prune` knows it for one."""
    return path.with_name(f".{OWNER_FILE}.{token_hex(8)}")
