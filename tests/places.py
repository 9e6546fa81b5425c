"""Where a database may be: in a file, or on a real server."""

from __future__ import annotations

from pathlib import Path

import pytest

__all__ = ["KINDS", "place_of"]

KINDS = ("sqlite", "postgres")


def place_of(request: pytest.FixtureRequest, tmp_path: Path) -> Path | str:
    """For a fixture with :data:`KINDS` as its params."""
    if request.param == "postgres":
        return str(request.getfixturevalue("database_url"))
    return tmp_path / "checkpoints.sqlite"
