"""A run goes by its package from a database that machines share to a data folder, and back."""

from __future__ import annotations

from pathlib import Path

import pytest

from providers.errors import RunExistsError
from sparklio import Sparklio
from tests.conftest import BRAND, PRODUCT


async def told(studio: Sparklio, run_id: str) -> tuple[object, ...]:
    """All that is kept of a run, but for folders."""
    run = await studio.load(run_id)
    result = {**run.result, "image": {**run.result["image"], "url": None}}
    events = [event async for event in studio.follow(run_id)]
    history = [(point.next, point.values) for point in await studio.history(run_id)]
    return run.state, result, run.page_path.read_bytes(), events, history


async def test_a_run_goes_from_postgres_to_a_folder_and_back(tmp_path: Path, database_url: str) -> None:
    shared = {"SPARKLIO_DATABASE_URL": database_url, "SPARKLIO_ARTIFACTS_URL": f"file://{tmp_path}/artifacts"}
    async with Sparklio(home=tmp_path / "a", settings=shared) as studio:
        run_id = (await studio.run(brand=BRAND, product=PRODUCT)).id
        before = await told(studio, run_id)
        package = await studio.pack(run_id, tmp_path / "run.sparklio")
        with pytest.raises(RunExistsError):
            await studio.unpack(package)
    async with Sparklio(home=tmp_path / "b") as studio:
        await studio.unpack(package)
        assert await told(studio, run_id) == before
        package = await studio.pack(run_id, tmp_path / "again.sparklio")
        again = await studio.rerun(run_id, start_at="copywriter")
        assert again.result["image"]["image_id"] == before[1]["image"]["image_id"]  # type: ignore[index]
    async with Sparklio(home=tmp_path / "c", settings=shared) as studio:
        assert await studio.runs.ledger.load(run_id)
        studio.runs.store.discard(run_id)
        assert not await studio.runs.ledger.load(run_id), "nothing is left to a later run of this id"
        await studio.unpack(package)
        assert await told(studio, run_id) == before
