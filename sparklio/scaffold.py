"""What ``sparklio init`` writes, and where the first example is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from routing.image_store import write_whole
from routing.packaged_files import DEFAULT_CONFIG, ENV_EXAMPLE, EXAMPLE_INPUT

__all__ = ["example_input", "told_example", "write_scaffold"]

_EXAMPLE = Path("examples") / "protein_plus.yaml"


def write_scaffold(folder: Path) -> Iterator[tuple[Path, bool]]:
    """Write each file that is not there yet; yields every path and whether it was written.

    Raises:
        StorageError: the folder cannot be written.
    """
    sources = {_EXAMPLE: EXAMPLE_INPUT, Path(".env"): ENV_EXAMPLE, Path("provider_config.yaml"): DEFAULT_CONFIG}
    for name, source in sources.items():
        path = folder / name
        written = not path.exists()
        if written:
            write_whole(path, source.read_bytes(), mode=0o600 if name.name == ".env" else 0o666)  # keys go into .env
        yield path, written


def example_input() -> Path:
    """The example of this folder, else the packaged one."""
    return _EXAMPLE if _EXAMPLE.is_file() else EXAMPLE_INPUT


def told_example(path: Path) -> str:
    """Which example that is, for somebody who named no input."""
    return (
        f"input:  {path}" if path == _EXAMPLE else "input:  the packaged example; `sparklio init` writes one to change"
    )
