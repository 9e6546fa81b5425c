"""Makes a finished run's result: result.json, page.html and images/, each whole or not at all."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

from graph.rerun import NODES
from graph.runs import Published
from graph.store import RunRecord
from providers.base import Usage
from routing.image_store import ImageStore, write_whole
from sparklio.page import render_page

__all__ = ["RESULT_FILE", "Publisher"]

RESULT_FILE = "result.json"
PAGE_FILE = "page.html"


class Publisher:
    """Writes results into each run's ``out`` folder, with the images of ``store``."""

    def __init__(self, store: ImageStore) -> None:
        self._store = store

    async def __call__(self, record: RunRecord, state: Mapping[str, Any], wall_ms: int) -> Published:
        """Publish ``state``; ``wall_ms`` is the run's time so far.

        Raises:
            StorageError: the folder cannot be written.
        """
        return await asyncio.to_thread(self._publish, record, state, wall_ms)

    def _publish(self, record: RunRecord, state: Mapping[str, Any], wall_ms: int) -> Published:
        image_id = state["image"]["image_id"]
        source = self._store.path(image_id)
        content = source.read_bytes()
        target = record.out.resolve() / "images" / source.name
        write_whole(target, content)

        result = build_result(record, state, wall_ms)
        result["image"] = result["image"] | {"url": target.as_uri()}
        page = render_page(
            result,
            product=state["product_input"],
            brand=state["brand_input"],
            image=(content, self._store.media_type(image_id)),
            language=state.get("language", "ko"),
        )
        page_path, result_path = record.out / PAGE_FILE, record.out / RESULT_FILE
        write_whole(page_path, page.encode())
        write_whole(result_path, json.dumps(result, ensure_ascii=False, indent=2).encode() + b"\n")
        return Published(result, result_path, page_path)


def build_result(record: RunRecord, state: Mapping[str, Any], wall_ms: int) -> dict[str, Any]:
    """result.json: the six artefacts and ``meta``. ``meta.usage`` counts what this run itself asked for."""
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
            "wall_ms": wall_ms,
            "usage": usage.model_dump(),
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
        "attempts": sum(call["attempts"] for call in mine),
        "usage": sum((Usage.model_validate(call["usage"]) for call in mine), Usage()).model_dump(),
    }
