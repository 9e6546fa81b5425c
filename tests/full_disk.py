"""One run in mock mode on a disk that may be full, inside this process.

``python -m tests.full_disk FOLDER`` tries real small file systems; it must be allowed to mount, see ``unshare -Urm``.
"""

from __future__ import annotations

import asyncio
import gc
import json
import subprocess
import sys
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from graph.database import open_database
from graph.ledger import Ledger
from providers.errors import StorageError
from routing.contracts import ImageRequest, LLMRequest
from routing.mock.backends import MockImages, MockLLM
from routing.settings import load_settings
from sparklio import Sparklio
from tests.conftest import BRAND, PRODUCT
from tests.killing import RUN, SEED, check_whole, comparable, visible
from tests.standins.pictures import drawn

__all__ = ["FINISHED", "Pupil"]

FINISHED = "finished"
_STEP_KB = 64


class Pupil:
    """The run "page" in ``home``, in as many sessions as it takes; its calls are counted.

    Attributes:
        calls: what was asked, in order.
        unheard: errors of tasks that nobody waited for.
    """

    def __init__(self, home: Path, patch: pytest.MonkeyPatch) -> None:
        self.home = home
        self.calls: list[str] = []
        self.unheard: list[Any] = []
        settings = load_settings({"GENERATOR_MODE": "mock", "SPARKLIO_HOME": str(home)})
        patch.setattr("sparklio.studio.load_settings", lambda _: settings)  # read once for all sessions
        patch.setattr("routing.mock.backends.draw_image", lambda **_: drawn(64, 36))
        patch.setattr("graph.runs.randbits", lambda bits: SEED)
        self._count_calls(patch)

    def _count_calls(self, patch: pytest.MonkeyPatch) -> None:
        ask, draw = MockLLM.stream, MockImages.stream

        def counted_ask(backend: Any, route: Any, request: LLMRequest, *args: Any) -> Any:
            self.calls.append(_named(request))
            return ask(backend, route, request, *args)

        def counted_draw(backend: Any, route: Any, request: ImageRequest, *args: Any) -> Any:
            self.calls.append(_named(request))
            return draw(backend, route, request, *args)

        patch.setattr(MockLLM, "stream", counted_ask)
        patch.setattr(MockImages, "stream", counted_draw)

    async def go(self) -> StorageError | None:
        """To the end, or to one typed error with a hint; any other error is a defect."""
        asyncio.get_running_loop().set_exception_handler(lambda _, context: self.unheard.append(context))
        try:
            async with Sparklio() as studio:
                if (self.home / "runs" / RUN / "run.json").exists():
                    await studio.resume(RUN)
                else:
                    await studio.run(brand=BRAND, product=PRODUCT, run_id=RUN)
        except StorageError as exc:
            return exc if exc.hint else pytest.fail(f"no hint: {exc}")
        return None

    async def go_on(self) -> None:
        """To the end, on a disk that is well, without a call whose answer the ledger holds."""
        recorded, before = await self._recorded(), len(self.calls)
        error = await self.go()
        assert error is None, error
        again = recorded & set(self.calls[before:])
        assert not again, f"asked again: {again}"

    async def _recorded(self) -> set[str]:
        async with open_database(self.home / "checkpoints.sqlite") as database:
            effects = await Ledger(database).load(RUN)
        return {_named(effect.request) for effect in effects if effect.answer}

    def check_end(self, twin: tuple[Any, bytes], *, temporary: bool = False) -> None:
        """As an undisturbed run ends, with one image; on a read-only disk a ``temporary`` file may have stayed."""
        gc.collect()  # an error that nobody heard is told then
        assert not self.unheard, self.unheard
        log = (self.home / "runs" / RUN / "run.log").read_text(encoding="utf-8", errors="replace")  # or half a letter
        assert "'code': 'internal'" not in log, "an agent failed of a foreign error"
        assert comparable(self.home) == twin
        check_whole(self.home, temporary=temporary)
        assert len(visible(self.home / "images")) == len(visible(self.home / "runs" / RUN / "images")) == 1


def _named(request: LLMRequest | ImageRequest) -> str:
    """What is asked, without the request's own id."""
    return json.dumps(request.model_dump(mode="json", exclude={"request_id"}), sort_keys=True, ensure_ascii=False)


# real file systems


async def _on_small_disks(folder: Path) -> Mapping[str, str]:
    """A run on disks of more and more space until one suffices, and on with it with enough: how each ended first."""
    ends: dict[str, str] = {}
    with pytest.MonkeyPatch.context() as patch:
        twin = Pupil(folder / "twin", patch)
        assert await twin.go() is None
    for size in count(8, _STEP_KB):
        home = folder / f"{size}k"
        home.mkdir()
        _mount(home, home.name)
        with pytest.MonkeyPatch.context() as patch:
            ends[home.name] = await _on_a_small_disk(Pupil(home, patch), comparable(twin.home))
        if ends[home.name] == FINISHED:
            return ends
    raise AssertionError


async def _on_a_small_disk(pupil: Pupil, twin: tuple[Any, bytes]) -> str:
    error = await pupil.go()
    check_whole(pupil.home, temporary=False)
    _mount(pupil.home, "64m", "remount")
    await pupil.go_on()
    pupil.check_end(twin)
    return error.code if error else FINISHED


def _mount(folder: Path, size: str, *more: str) -> None:
    options = ",".join((f"size={size}", *more))
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(folder)], check=True)


if __name__ == "__main__":
    print(json.dumps(asyncio.run(_on_small_disks(Path(sys.argv[1])))))  # noqa: T201
