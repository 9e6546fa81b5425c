"""A disk that is full or read-only at each single write of a run: one typed error, nothing torn, and then on with it.

Python's files are refused by this process, the database by SQLite itself; the last test has a real full disk. With few
``KILL_TRIALS`` each test takes one write of twelve, the three of them a quarter; `make chaos` takes all in each.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from providers.errors import StorageError
from tests.full_disk import FINISHED, Pupil
from tests.killing import ROOT, THOROUGH, check_whole, comparable
from tests.refusing_disk import Disk, Point, points
from tests.waiting import NEVER_S

pytestmark = pytest.mark.no_cover

FEWEST_WRITES = 60
SHARES = 1 if THOROUGH else 12

COMFORTS = {"write run.log", "open owner.json", "write owner.json", "remove owner.json"} | {
    f"{what} events.jsonl" for what in ("open", "write", "fsync")
}
"""Writes without which a run goes on: lines of its logs, and the file that tells other machines of it."""
LAST_WORDS = {(f"{what} run.json", 3) for what in ("open", "write", "fsync", "rename")} | {("fsync page", 6)}
"""Writes of the record that says "finished": the result is there and told by then, and who resumes the run gets it."""

Twin = tuple[tuple[Any, bytes], list[Point]]
"""What an undisturbed run comes to, and all its writes."""


@contextmanager
def place(folder: Path) -> Iterator[tuple[Disk, Pupil]]:
    """A data folder whose disk may be told to refuse; gone after the block."""
    home = folder / "home"
    with pytest.MonkeyPatch.context() as patch:
        pupil = Pupil(home, patch)
        yield Disk(home, patch), pupil
    shutil.rmtree(home)


async def undisturbed(folder: Path) -> Twin:
    with place(folder) as (disk, pupil):
        assert await pupil.go() is None
        check_whole(pupil.home, temporary=False)
        result = comparable(pupil.home)
        writes = list(points(disk.seen.copy()))
    assert len(writes) > FEWEST_WRITES
    return result, writes


def share(writes: list[Point], number: int) -> list[Point]:
    return writes[number % SHARES :: SHARES]


def is_comfort(point: Point) -> bool:
    return point[0] in COMFORTS or point in LAST_WORDS


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS], ids=errno.errorcode.__getitem__)
async def test_a_write_that_is_refused_with_all_after_it_ends_the_run_as_one_error(tmp_path: Path, code: int) -> None:
    read_only = code == errno.EROFS
    twin, writes = await undisturbed(tmp_path)
    for point in share(writes, 1 if read_only else 0):
        with place(tmp_path) as (disk, pupil):
            disk.point, disk.code = point, code
            error = await pupil.go()
            check_whole(pupil.home, temporary=read_only)
            assert error is not None or not disk.refused or is_comfort(point), point
            disk.heal()
            await pupil.go_on()
            pupil.check_end(twin, temporary=read_only)


async def test_a_single_write_that_is_refused_ends_the_run_or_is_only_a_comfort(tmp_path: Path) -> None:
    twin, writes = await undisturbed(tmp_path)
    for point in share(writes, 2):
        with place(tmp_path) as (disk, pupil):
            disk.point, disk.lasting = point, False
            error = await pupil.go()
            check_whole(pupil.home, temporary=False)
            assert (error is not None) == (disk.refused and not is_comfort(point)), point
            disk.heal()
            await pupil.go_on()
            pupil.check_end(twin)


async def test_a_database_that_cannot_grow_ends_the_run_as_one_error(tmp_path: Path) -> None:
    twin, _ = await undisturbed(tmp_path)
    ends: Counter[str] = Counter()
    while not ends[FINISHED]:
        with place(tmp_path) as (disk, pupil):
            disk.most_pages = 1 + SHARES * ends.total()
            error = await pupil.go()
            assert error is None or "database or disk is full" in error.message
            ends[error.code if error else FINISHED] += 1
            disk.heal()
            await pupil.go_on()
            pupil.check_end(twin)
    assert ends[StorageError.code] > 10 // SHARES


def test_a_real_disk_that_is_full_sooner_or_later(tmp_path: Path) -> None:
    allowed = subprocess.run(["unshare", "-Urm", "true"], capture_output=True, text=True, check=False)
    if allowed.returncode:
        pytest.skip(f"no file system may be mounted here: {allowed.stderr.strip()}")
    done = subprocess.run(
        ["unshare", "-Urm", sys.executable, "-m", "tests.full_disk", str(tmp_path)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=NEVER_S,
    )
    assert done.returncode == 0, done.stderr
    *too_small, last = json.loads(done.stdout).values()
    assert set(too_small) == {StorageError.code}
    assert last == FINISHED
