"""Makes a finished run's result: result.json, page.html and images/, each whole or not at all."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from graph.driver import Published
from graph.rerun import NODES
from graph.run_files import RESULT_FILE
from graph.store import RunRecord, RunStore, root_of
from providers.base import Usage
from providers.errors import StorageError, UnknownNameError, UsageError
from routing.image_store import MEDIA_TYPES, ImageStore, PageStore, is_image_id, write_whole
from routing.prices import total_cost
from sparklio.page import render_page

__all__ = ["IMAGES", "PAGE_FILE", "RESULT_FILE", "Publisher", "encoded", "holder_of", "out_folder", "read_result"]

PAGE_FILE = "page.html"
IMAGES = "images"


class Publisher:
    """Keeps each result with its run, and its page, which ``meta.page_id`` names, under its hash: it never changes.

    Where a person drives the run, copies go into the run's own folder, and into ``--out`` where that is another one;
    somebody else may write there later. The disk of a worker, who drives runs for everybody, would fill with them: see
    :mod:`sparklio.copies`.

    Args:
        images: the gateway's store; the pages lie beside it.
        runs: where the results are, and the runs' own folders.
    """

    def __init__(self, images: ImageStore, runs: RunStore) -> None:
        self._images = images
        self._pages = PageStore.of(images)
        self._runs = runs

    async def __call__(self, record: RunRecord, state: Mapping[str, Any], clock: Callable[[], int]) -> Published:
        """Publish ``state``; ``clock`` tells the run's time so far in milliseconds and is asked at the very end.

        Raises:
            StorageError: a folder cannot be written, or the image is gone.
        """
        return await asyncio.to_thread(self._publish, record, state, clock)

    def _publish(self, record: RunRecord, state: Mapping[str, Any], clock: Callable[[], int]) -> Published:
        image = self._image(record, state["image"]["image_id"])
        content = image.read_bytes()
        folders = self._folders(record)
        result = build_result(record, state)
        result["image"] = result["image"] | {"url": _copy_of(image, folders).as_uri()}
        page = render_page(
            result,
            product=state["product_input"],
            brand=state["brand_input"],
            image=(content, MEDIA_TYPES[image.suffix]),
            language=state.get("language", "ko"),
        ).encode()
        result["meta"]["page_id"] = self._pages.save(page)
        for folder in folders:
            write_whole(folder / IMAGES / image.name, content)
            write_whole(folder / PAGE_FILE, page)
        result["meta"]["wall_ms"] = clock()
        told = encoded(result)
        self._runs.save_result(record.run_id, told)
        for folder in folders:
            _write_if_other(folder / RESULT_FILE, told)
        place = record.out if not folders or record.out.resolve() in folders else folders[-1]
        return Published(result, place / RESULT_FILE, place / PAGE_FILE)

    def _folders(self, record: RunRecord) -> list[Path]:
        """Where copies go. ``--out`` may be a folder of another machine, on which the run was begun."""
        if not self._runs.has_folder(record):
            return []
        own, out = self._runs.folder(record.run_id).resolve(), record.out.resolve()
        return [own] if own == out or (self._runs.shared and not out.is_dir()) else [own, out]

    def _image(self, record: RunRecord, image_id: str) -> Path:
        """From the store, or from the folder of a member of the family: an emptied cache loses no rerun."""
        try:
            return self._images.path(image_id)
        except UnknownNameError as exc:
            for member in self._runs.family(record.run_id) if is_image_id(image_id) else ():
                kept = (self._runs.folder(member.run_id) / IMAGES).glob(f"{image_id}.*")
                if found := next(kept, None):
                    return found
            raise StorageError(
                f"the image {image_id} is gone", hint=f"make it again: sparklio rerun {record.run_id} --from vision"
            ) from exc


def _copy_of(image: Path, folders: list[Path]) -> Path:
    return folders[-1] / IMAGES / image.name if folders else image.resolve()


def _write_if_other(path: Path, content: bytes) -> None:
    """A store of files has written the run's own one already."""
    if not path.is_file() or path.read_bytes() != content:
        write_whole(path, content)


def encoded(result: Mapping[str, Any]) -> bytes:
    """What result.json holds."""
    return json.dumps(result, ensure_ascii=False, indent=2).encode() + b"\n"


def out_folder(out: str | Path | None, member: str | None = None) -> Path | None:
    """``out`` made absolute, before anything is made for it; a rerun may publish where its family, of which ``member``
    is one, has published before.

    Raises:
        UsageError: it holds the page of another run.
    """
    if not out:
        return None
    folder = Path(out).expanduser().absolute()
    holder = holder_of(folder)
    if holder is not None and (member is None or root_of(holder) != root_of(member)):
        raise UsageError(
            f"{folder} holds the page of run {holder!r}", hint="choose another --out, or remove that folder first"
        )
    return folder


def holder_of(folder: Path) -> str | None:
    """The run whose result is in the folder; None: no result of ours is there."""
    try:
        return str(json.loads((folder / RESULT_FILE).read_bytes())["meta"]["run_id"])
    except (OSError, ValueError, LookupError, TypeError):
        return None


def read_result(runs: RunStore, run_id: str) -> dict[str, Any]:
    """The result of a run as it was published, wherever that was.

    Raises:
        FileNotFoundError: it has none (yet).
        StorageError: it cannot be read.
    """
    content = runs.read_result(run_id)
    if content is None:
        raise FileNotFoundError(f"run {run_id} has no result")
    try:
        result: dict[str, Any] = json.loads(content)
    except ValueError as exc:
        raise StorageError(
            f"the result of run {run_id!r} is damaged", hint=f"make it again: sparklio rerun {run_id} --from reviewer"
        ) from exc
    return result


def build_result(record: RunRecord, state: Mapping[str, Any]) -> dict[str, Any]:
    """result.json: the six artefacts and ``meta``, its ``page_id`` and ``wall_ms`` still open.

    ``meta.usage`` counts what this run itself asked for, ``meta.cost_usd`` what it paid, failed calls included (None
    where a model without a price took part).
    """
    calls = state.get("calls", [])
    usage = sum((Usage.model_validate(call["usage"]) for call in calls if not call["cached"]), Usage())
    return {
        "brand_summary": state["brand"],
        "brief": state["brief"],
        "sections": state["sections"],
        "copy": state["copy"],
        "image": state["image"],
        "review": state["review"],
        "meta": {
            "run_id": record.run_id,
            "mode": record.mode,
            "stage": record.stage,
            "language": state.get("language", "ko"),
            "parent": record.parent.model_dump() if record.parent else None,
            "page_id": None,
            "wall_ms": 0,
            "usage": usage.model_dump(),
            "cost_usd": record.spent_usd,
            "nodes": {name: entry for name in NODES if (entry := _node_entry(name, calls))},
        },
    }


def _node_entry(name: str, calls: list[Mapping[str, Any]]) -> dict[str, Any] | None:
    """One agent's executions added up; a revision executes copywriter and reviewer twice."""
    mine = [call for call in calls if call["node"] == name]
    if not mine:
        return None
    return {
        "provider": mine[-1]["provider"],
        "model": mine[-1]["model"],
        "ms": sum(call["ms"] for call in mine),
        "cached": mine[-1]["cached"],
        "degraded": any(call["degraded"] for call in mine),
        "attempts": sum(call["attempts"] for call in mine),
        "usage": sum((Usage.model_validate(call["usage"]) for call in mine), Usage()).model_dump(),
        "cost_usd": total_cost(call["cost_usd"] for call in mine),
    }
