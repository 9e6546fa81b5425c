"""``sparklio unpack``: a packed run becomes one of this machine's, once all of it has been looked at."""

from __future__ import annotations

import asyncio
import io
import json
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from pydantic import BaseModel, Field, ValidationError

from graph.database import Database
from graph.event_log import EVENTS_FILE
from graph.ledger import Effect
from graph.long_texts import join, part
from graph.photos import MAX_PHOTO_PIXELS
from graph.rerun import NODES
from graph.sqlite import Statement, to_its_end
from graph.store import RunRecord, RunStore, check_run_id
from graph.vault import PLAIN
from providers.errors import ConfigError, InputError, RunExistsError, SparklioError
from providers.pictures import MEDIA_TYPES as FORMATS
from providers.pictures import picture_of
from routing.image_store import MEDIA_TYPES, ImageStore, PageStore, hash_id, write_whole
from sparklio.copies import read_events
from sparklio.package import LOGS, MAX_BYTES, Package, is_event, open_package, rows_file, unfit
from sparklio.publish import PAGE_FILE, RESULT_FILE, encoded
from sparklio.rows import TABLES, Row, form_of, key_of, plain, sealed, to_row

__all__ = ["Checked", "check_file", "check_package", "unpack_run"]

_TYPES = {"null", "bytes", "bytearray", "msgpack"}  # what LangGraph can revive beside, it never writes for us


class _Image(BaseModel):
    image_id: str = Field(pattern=r"^[0-9a-f]{32}$")


class _Issue(BaseModel):
    severity: str
    message: str


class _Review(BaseModel):
    approved: bool
    score: float
    summary: str
    issues: list[_Issue]


class _Meta(BaseModel):
    run_id: str
    mode: str
    nodes: dict[str, dict[str, Any]]
    page_id: str | None = None


class _Result(BaseModel):
    """What Sparklio itself reads of a result.json."""

    brand_summary: dict[str, Any]
    brief: dict[str, Any]
    sections: list[Any]
    copy_: dict[str, Any] = Field(alias="copy")
    image: _Image
    review: _Review
    meta: _Meta


class _Named(BaseModel):
    name: str


class _Inputs(BaseModel):
    brand_input: _Named
    product_input: _Named


@dataclass(frozen=True)
class Checked:
    """The record as it was packed, and the rows by their tables."""

    record: RunRecord
    rows: dict[str, list[Row]]


def check_package(package: Package) -> Checked:
    """Look at everything that needs no database.

    Raises:
        InputError: something is not as ``sparklio pack`` makes it.
    """
    package.check()
    record = _record(package)
    for name in package.images:
        _check_image(package, name)
    if RESULT_FILE in package:
        _result(package)
    elif record.status == "finished":
        raise unfit(package.path, f"it lacks {RESULT_FILE}")
    if EVENTS_FILE in package and not all(map(is_event, package.lines(EVENTS_FILE))):
        raise unfit(package.path, f"{EVENTS_FILE} holds a line that is no event")
    return Checked(record, {table: _rows(package, table) for table in TABLES})


def check_file(path: Path) -> Checked:
    """The same for a file that is not open yet.

    Raises:
        InputError: as :func:`check_package`; or it cannot be read.
    """
    with open_package(path) as package:
        return check_package(package)


async def unpack_run(store: RunStore, images: ImageStore, database: Database, package: Package) -> RunRecord:
    """Make the run in ``package`` one of this machine's, and return its record.

    The run is seen only when all of it is there: its record is written last. What a torn try left is written over.

    Raises:
        InputError: something is not as ``sparklio pack`` makes it; nothing is written then.
        ConfigError: its rows are encrypted, and not with this machine's key; nothing is written then.
        RunExistsError: there is such a run here.
        RunBusyError: somebody is unpacking it.
        StorageError: the data folder cannot be written.
    """
    packed, statements = await to_its_end(asyncio.to_thread(_check_all, package, database))
    run_id, folder = packed.run_id, store.folder(packed.run_id)
    nobody = {"keeper": None, "batch": None, "request": None}  # a file from elsewhere books no work here
    record = packed.model_copy(update={"out": folder, "input_file": None, **nobody})
    with _place(store, record):
        await database.forget(run_id)
        await database.write(*statements)
        await to_its_end(asyncio.to_thread(store.clear, run_id))
        await to_its_end(asyncio.to_thread(_write_files, package, run_id, store, images))
        store.save(record)
    return record


@contextmanager
def _place(store: RunStore, record: RunRecord) -> Iterator[None]:
    """Hold the run's id. A table holds only what stands in it: there the record comes first, as of a run that is not
    whole, and goes again where the block fails.
    """
    run_id = record.run_id
    _check_new(store, run_id)
    if store.shared:
        store.create(record.model_copy(update={"status": "cancelled"}))
    try:
        with store.lock(run_id):
            if not store.shared:
                _check_new(store, run_id)
            yield
    except BaseException:
        if store.shared:
            store.discard(run_id)
        raise


def _check_all(package: Package, database: Database) -> tuple[RunRecord, list[Statement]]:
    """The record, and the statements that write its rows as they may stand among this machine's."""
    packed = check_package(package)
    rows = _checked(package, database, packed.rows)
    return packed.record, [one for table, held in rows.items() for one in _insertions(package, database, table, held)]


def _insertions(package: Package, database: Database, table: str, rows: list[Row]) -> list[Statement]:
    try:
        return database.insertions(table, rows)
    except (SparklioError, ValueError, RecursionError) as exc:
        raise unfit(package.path, f"{rows_file(table)} holds a row that cannot be kept here: {exc}") from exc


def _check_new(store: RunStore, run_id: str) -> None:
    if store.exists(run_id):
        raise RunExistsError(
            f"run {run_id!r} exists here already, and nothing of it is overwritten",
            hint=f"look at it with `sparklio show {run_id}`; to replace it, remove its folder {store.folder(run_id)}",
        )


def _record(package: Package) -> RunRecord:
    """The record, with an id that is one and the same everywhere."""
    try:
        record = RunRecord.model_validate_json(package.read("run.json"))
        _Inputs.model_validate(record.inputs)
        check_run_id(record.run_id)
        if record.parent is not None:
            check_run_id(record.parent.run_id)
    except (ValidationError, InputError) as exc:
        raise unfit(package.path, "its run.json is no record of a run") from exc
    if record.run_id != package.manifest.run_id:
        raise unfit(package.path, "its members speak of different runs")
    if record.status in ("queued", "running") or not set(record.nodes) <= set(NODES):
        raise unfit(package.path, "its run.json is no record of a run at rest")
    return record


def _result(package: Package) -> dict[str, Any]:
    try:
        text = package.read(RESULT_FILE)
        told = _Result.model_validate_json(text)
        result: dict[str, Any] = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise unfit(package.path, f"its {RESULT_FILE} is no result") from exc
    if told.meta.run_id != package.manifest.run_id:
        raise unfit(package.path, "its members speak of different runs")
    if _image_file(package, told.image.image_id) is None:
        raise unfit(package.path, f"it lacks the image {told.image.image_id}")
    return result


def _image_file(package: Package, image_id: str) -> str | None:
    return next((name for name in package.images if Path(name).stem == image_id), None)


def _check_image(package: Package, name: str) -> None:
    content = package.read(name)
    try:
        with Image.open(io.BytesIO(content), formats=list(FORMATS)) as image:  # reads no more than the header
            if image.width * image.height > MAX_PHOTO_PIXELS:
                raise unfit(package.path, f"{name} is larger than any picture of ours")
        media_type = picture_of(content).media_type
    except (OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError) as exc:
        raise unfit(package.path, f"{name} is no picture") from exc
    if MEDIA_TYPES[Path(name).suffix] != media_type:
        raise unfit(package.path, f"{name} is a picture of another type")
    if not package.manifest.files[name].sha256.startswith(Path(name).stem):
        raise unfit(package.path, f"{name} is not named by its own digest")


def _rows(package: Package, table: str) -> list[Row]:
    try:
        rows = [to_row(table, line, package.manifest.run_id) for line in package.lines(rows_file(table))]
    except (ValueError, RecursionError) as exc:
        raise unfit(package.path, f"{rows_file(table)} holds no rows of this run: {exc}") from exc
    if len({key_of(table, row) for row in rows}) != len(rows):
        raise unfit(package.path, f"{rows_file(table)} holds a row twice")
    return rows


def _checked(package: Package, database: Database, rows: dict[str, list[Row]]) -> dict[str, list[Row]]:
    """The rows as they may stand among this machine's: each can be read here, and is what it says of itself."""
    left, texts = MAX_BYTES, dict[str, str]()
    checked: dict[str, list[Row]] = {}
    for table, held in rows.items():
        checked[table] = []
        for row in held:
            content = _opened(package, database, table, row)
            left -= len(content)  # a few bytes can stand for millions
            if left < 0:
                raise unfit(package.path, "its rows are larger than they may be")
            _check_value(package, database, table, row, content, texts)
            checked[table].append(sealed(database, table, row, content))
    return checked


def _opened(package: Package, database: Database, table: str, row: Row) -> bytes:
    try:
        return plain(database, table, row)
    except SparklioError as exc:
        if form_of(table, row) == PLAIN:
            raise unfit(package.path, f"{rows_file(table)} holds a damaged row") from exc
        raise ConfigError(
            f"the run in {package.path} is encrypted, and this machine's key does not open it",
            hint="set SPARKLIO_ENCRYPTION_KEY to the key of the machine that packed it",
        ) from exc


def _check_value(
    package: Package, database: Database, table: str, row: Row, content: bytes, texts: dict[str, str]
) -> None:
    """``texts`` are those seen so far, by their references; a text is added to them."""
    held = dict(zip(TABLES[table], row, strict=True))
    try:
        if table == "texts":
            texts |= _text(held, content)
        elif table == "effects":
            body = json.loads(content.decode("utf-8", "surrogatepass"))
            Effect.from_plain(held["node"], held["ordinal"], join(body, texts))
        else:
            _check_typed(database, table, held, content, texts)
    except (SparklioError, ValueError, LookupError, TypeError, RecursionError) as exc:
        raise unfit(package.path, f"{rows_file(table)} holds a row that cannot be read") from exc


def _text(held: dict[str, Any], content: bytes) -> dict[str, str]:
    """The text under the reference that its own content gives it."""
    reference, texts = part(content.decode("utf-8", "surrogatepass"))
    if set(texts) != {reference} or reference.rpartition(":")[2] != held["digest"]:
        raise ValueError("a text that would not be kept so")
    return texts


def _check_typed(database: Database, table: str, held: dict[str, Any], content: bytes, texts: dict[str, str]) -> None:
    kind = held["type"].partition("+")[0]
    if kind not in _TYPES:
        raise ValueError(f"a value of type {kind!r}")
    value = join(database.saver.serde.loads_typed((kind, content)), texts)
    if table == "checkpoints" and not (isinstance(value, dict) and isinstance(json.loads(held["metadata"]), dict)):
        raise ValueError("no checkpoint")


def _write_files(package: Package, run_id: str, store: RunStore, images: ImageStore) -> None:
    folder = store.folder(run_id)
    for name in package.images:
        content = package.read(name)
        write_whole(folder / name, content)
        images.save(content, MEDIA_TYPES[Path(name).suffix])
    for name in (PAGE_FILE, *LOGS):
        if name in package:
            write_whole(folder / name, package.read(name))
    if RESULT_FILE in package:
        result = _result(package)
        _store_page(package, result["meta"].get("page_id"), PageStore.of(images))
        image = folder.resolve() / str(_image_file(package, result["image"]["image_id"]))
        result["image"]["url"] = image.as_uri()
        store.save_result(run_id, encoded(result))
    if store.shared:
        read_events(store, run_id)


def _store_page(package: Package, page_id: str | None, pages: PageStore) -> None:
    """Under its hash, where the page is the one that the result names."""
    if PAGE_FILE in package and hash_id(content := package.read(PAGE_FILE)) == page_id:
        pages.save(content)
