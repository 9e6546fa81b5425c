"""A finished run's result, page and image as files of this machine, in the run's own folder.

Whoever drives a run for a person writes them there as it ends. Where runs and artefacts are kept elsewhere, another
machine makes them when somebody asks for them, and anew once the run was published again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from graph.event_log import EVENTS_FILE, FileEventReader, line_of
from graph.store import RunRecord, RunStore, root_of
from providers.errors import UnknownNameError
from routing.image_store import ImageStore, PageStore, is_image_id, write_whole
from sparklio.publish import IMAGES, PAGE_FILE, RESULT_FILE, encoded, holder_of, read_result

__all__ = ["make_copies", "page_here", "read_events", "read_page", "result_here", "write_events"]

Result = Mapping[str, Any]


def make_copies(runs: RunStore, images: ImageStore, run_id: str, result: Result) -> Path:
    """Write what is missing, or older than ``result``, into the run's own folder, and return that.

    What is gone from the store as well stays missing.

    Raises:
        StorageError: the store cannot be read, has damaged content, or the folder cannot be written.
    """
    own = runs.folder(run_id)
    stale = not _tells(own, result)
    with suppress(UnknownNameError):
        if stale or _image_in(own, result) is None:
            image = images.path(result["image"]["image_id"])
            write_whole(own / IMAGES / image.name, image.read_bytes())
    with suppress(UnknownNameError):
        if stale or not (own / PAGE_FILE).is_file():
            write_whole(own / PAGE_FILE, PageStore.of(images).read(result["meta"].get("page_id") or ""))
    if stale:
        write_whole(own / RESULT_FILE, encoded(result_here(runs, run_id, result)))
    return own


def write_events(runs: RunStore, run_id: str) -> None:
    """Write the run's events into its own folder, as a store of files has them there.

    Raises:
        StorageError: they cannot be read, or the folder not be written.
    """
    write_whole(runs.folder(run_id) / EVENTS_FILE, b"".join(map(line_of, runs.events(run_id))))


def read_events(runs: RunStore, run_id: str) -> None:
    """Have the store keep the events of the file that :func:`write_events` writes."""
    reader = FileEventReader(runs.folder(run_id) / EVENTS_FILE, run_id, 0)
    with runs.event_log(run_id, lambda: None) as log:
        while (events := reader.read()) is not None:
            for event in events:
                log.append(event)


def page_here(runs: RunStore, record: RunRecord) -> Path:
    """The page where the run was asked to put it, if that is on this machine; else the copy in its own folder."""
    page = record.out / PAGE_FILE
    own = runs.folder(record.run_id) / PAGE_FILE
    holder = holder_of(record.out)
    elsewhere = page.is_file() and (holder is None or root_of(holder) == root_of(record.run_id))
    return page if elsewhere or not own.is_file() else own


def result_here(runs: RunStore, run_id: str, result: Result) -> dict[str, Any]:
    """``result`` with its image's URL on this machine, where the one that it tells leads nowhere here."""
    told = Path(url2pathname(urlsplit(result["image"].get("url") or "").path))
    copy = _image_in(runs.folder(run_id), result)
    if told.is_file() or copy is None:
        return dict(result)
    return {**result, "image": {**result["image"], "url": copy.resolve().as_uri()}}


def read_page(runs: RunStore, images: ImageStore, run_id: str) -> bytes:
    """The page of a run, without making copies.

    Raises:
        FileNotFoundError: it has none (yet).
        StorageError: it cannot be read, or is damaged.
    """
    own = runs.folder(run_id)
    try:
        result = read_result(runs, run_id)
    except FileNotFoundError:
        return (own / PAGE_FILE).read_bytes()
    if _tells(own, result) and (own / PAGE_FILE).is_file():
        return (own / PAGE_FILE).read_bytes()
    try:
        return PageStore.of(images).read(result["meta"].get("page_id") or "")
    except UnknownNameError as exc:
        raise FileNotFoundError(f"run {run_id} has no page") from exc


def _tells(folder: Path, result: Result) -> bool:
    """Whether the folder's result is this one; each machine has its own URL of the image."""
    try:
        told = json.loads((folder / RESULT_FILE).read_bytes())
        return bool(_without_url(told) == _without_url(result))
    except (OSError, ValueError, LookupError, TypeError):
        return False  # nothing of ours is there, or a torn disk's remains


def _without_url(result: Result) -> dict[str, Any]:
    return {**result, "image": {**result["image"], "url": None}}


def _image_in(folder: Path, result: Result) -> Path | None:
    image_id = result["image"]["image_id"]
    return next((folder / IMAGES).glob(f"{image_id}.*"), None) if is_image_id(image_id) else None
