"""Which store keeps the runs: files of this machine, or a database that machines share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from graph.run_files import FileRunStore
from graph.store import RunStore
from routing.settings import Settings

__all__ = ["open_run_store"]


@contextmanager
def open_run_store(settings: Settings) -> Iterator[RunStore]:
    """The runs' book, for as long as the block lasts.

    Raises:
        ConfigError: SPARKLIO_DATABASE_URL is no URL of a database, or a package is missing.
        StorageError: the database cannot be reached.
    """
    if settings.database_url is None:
        yield FileRunStore(settings.home)
        return
    from graph.run_table import open_run_table

    with open_run_table(settings.home, settings.database_url, settings.broker_url) as store:
        yield store
