"""``sparklio pack``: a run with its images, rows and page as one file, to go on with it on another machine."""

from __future__ import annotations

import asyncio
import io
import os
import zipfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from typing import BinaryIO

from graph.database import Database
from graph.event_log import EVENTS_FILE
from graph.sqlite import storage_errors, to_its_end
from graph.store import RunRecord, RunStore
from graph.vault import PLAIN
from providers.errors import StorageError, UsageError
from routing.image_store import ImageStore
from sparklio import __version__
from sparklio.copies import make_copies, write_events
from sparklio.package import (
    LOGS,
    MANIFEST,
    MAX_BYTES,
    MAX_MEMBER_BYTES,
    MAX_MEMBERS,
    File,
    Manifest,
    add_member,
    is_event,
    is_image,
    new_package,
    rows_file,
)
from sparklio.publish import IMAGES, PAGE_FILE, RESULT_FILE, read_result
from sparklio.rows import TABLES, Row, form_of, image_names, plain, read_rows, to_line

__all__ = ["pack_run", "package_path"]

_SUFFIX = ".sparklio"


def package_path(run_id: str, out: Path | None) -> Path:
    """Where a run is packed to: a file as it is named, else ``<run_id>.sparklio`` in the folder or the current one."""
    if out is not None and not out.is_dir():
        return out
    return (out or Path()) / f"{run_id}{_SUFFIX}"


async def pack_run(store: RunStore, images: ImageStore, database: Database, run_id: str, out: Path) -> Path:
    """Write the run to ``out``, whole or not at all, and return ``out``. Two packs of one run are the same bytes.

    Raises:
        UnknownNameError: there is no such run.
        RunBusyError: it is being run.
        StorageError: something of it cannot be read, or ``out`` not be written.
    """
    store.load(run_id)
    with store.lock(run_id):
        record = _at_rest(store.read(run_id))
        if store.shared:
            await to_its_end(asyncio.to_thread(_fetch, store, images, run_id))
        rows = {table: await read_rows(database, table, run_id) for table in TABLES}
        await to_its_end(asyncio.to_thread(_pack, store.folder(run_id), images, database, record, rows, out))
    return out


def _fetch(store: RunStore, images: ImageStore, run_id: str) -> None:
    """What a store of files has in the run's folder."""
    write_events(store, run_id)
    with suppress(FileNotFoundError):  # it has no result yet
        make_copies(store, images, run_id, read_result(store, run_id))


def _pack(
    folder: Path, images: ImageStore, database: Database, record: RunRecord, rows: dict[str, list[Row]], out: Path
) -> None:
    with storage_errors(f"the run's folder {folder}"):
        stored = images.files()
        own = ImageStore(folder / IMAGES).files()
        pictures = {name: stored[name] for name in _named(database, record, rows, stored)} | own
    with _whole_file(out) as file:
        _write(file, record, rows, _files(folder, [pictures[name] for name in sorted(pictures)]))


def _at_rest(record: RunRecord) -> RunRecord:
    """Nobody runs it, for we hold its lock."""
    waits = record.status in ("queued", "running")
    return record.model_copy(update={"status": "interrupted"}) if waits else record


def _named(database: Database, record: RunRecord, rows: dict[str, list[Row]], stored: Collection[str]) -> set[str]:
    """Ids of the ``stored`` images that the run could ask for when it goes on: its photo, what is not published yet."""
    names = image_names(record.model_dump_json().encode(), stored)
    for table, held in rows.items():
        for row in held:
            names |= image_names(plain(database, table, row), stored)
    return names


def _files(folder: Path, pictures: list[Path]) -> dict[str, Path]:
    files = {name: folder / name for name in (RESULT_FILE, PAGE_FILE, *LOGS) if (folder / name).is_file()}
    return files | {f"{IMAGES}/{path.name}": path for path in pictures}


def _write(target: BinaryIO, record: RunRecord, rows: dict[str, list[Row]], files: dict[str, Path]) -> None:
    entries: dict[str, File] = {}
    with new_package(target) as archive:
        entries["run.json"] = _add_bytes(archive, "run.json", record.model_dump_json(indent=1).encode())
        for table, held in rows.items():
            lines = b"".join(to_line(table, row) for row in held)
            entries[rows_file(table)] = _add_bytes(archive, rows_file(table), lines)
        for name, path in files.items():
            with path.open("rb") as source:
                entries[name] = add_member(archive, name, _whole_events(source) if name == EVENTS_FILE else source)
            if is_image(name) and not entries[name].sha256.startswith(path.stem):
                raise StorageError(f"the image {path} is damaged", hint="remove it and make it again: --from vision")
        _check_bounds(record.run_id, entries)
        manifest = Manifest(
            run_id=record.run_id,
            made_by=__version__,
            created_at=record.created_at.isoformat(timespec="seconds"),
            encrypted=any(form_of(table, row) not in ("", PLAIN) for table in rows for row in rows[table]),
            files=entries,
        )
        _add_bytes(archive, MANIFEST, manifest.model_dump_json(indent=1).encode())


def _whole_events(source: BinaryIO) -> BinaryIO:
    return io.BytesIO(b"".join(line for line in source if is_event(line)))


def _add_bytes(archive: zipfile.ZipFile, name: str, content: bytes) -> File:
    return add_member(archive, name, io.BytesIO(content))


def _check_bounds(run_id: str, entries: dict[str, File]) -> None:
    """What ``unpack`` would refuse is not packed."""
    sizes = [entry.size for entry in entries.values()]
    if len(sizes) >= MAX_MEMBERS or max(sizes) > MAX_MEMBER_BYTES or sum(sizes) > MAX_BYTES:
        raise UsageError(
            f"run {run_id!r} is too large for one file: {len(sizes)} files of {sum(sizes):,} bytes",
            hint=f"at most {MAX_MEMBERS} files of {MAX_BYTES:,} bytes together, {MAX_MEMBER_BYTES:,} each",
        )


@contextmanager
def _whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file that appears when the block ends well, and else leaves nothing behind."""
    temporary = path.with_name(f".{path.name}.{token_hex(8)}")
    with storage_errors(f"{path}"):
        try:
            with temporary.open("xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
