"""``sparklio doctor --fix``: mends what has a mending of its own, under a progress bar on stderr."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import aclosing

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from providers.base import Finding, MendingStep
from providers.errors import SparklioError
from routing.doctor import Report, examine
from routing.settings import Settings
from sparklio.plain_text import one_line

__all__ = ["check_up"]

Mend = Callable[[], AsyncGenerator[MendingStep, None]]


async def check_up(settings: Settings, *, fix: bool) -> tuple[Report, list[SparklioError]]:
    """Examine; with ``fix`` mend what can be mended and examine again. Also returns what the mending failed with."""
    report = await examine(settings, _backends(settings))
    mendings = [(one.subject, one.mend) for one in report.findings if one.mend is not None]
    if not fix or not mendings:
        return report, []
    failures = await _mend(mendings)
    return await examine(settings, _backends(settings)), failures


def _backends(settings: Settings) -> Callable[[Settings], Sequence[Finding]] | None:
    """Looks at the database and the broker, where there are any."""
    if not settings.database_url and not settings.broker_url:
        return None
    from sparklio.server.backends import examine_backends

    return examine_backends


async def _mend(mendings: Iterable[tuple[str, Mend]]) -> list[SparklioError]:
    failures = []
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True, highlight=False)) as progress:
        for subject, mend in mendings:
            try:
                await _mend_one(subject, mend, progress)
            except SparklioError as exc:  # the next one may work all the same
                failures.append(exc)
    return failures


async def _mend_one(subject: str, mend: Mend, progress: Progress) -> None:
    task = progress.add_task(one_line(subject), total=None)
    async with aclosing(mend()) as steps:
        async for step in steps:
            description = one_line(f"{subject}: {step.note}")
            progress.update(task, description=description, completed=step.done, total=step.total or None)
