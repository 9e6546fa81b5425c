"""The file .env: its assignments, and what in it is likely a slip of the pen.

Other programs may keep variables of theirs in the same file, so only what nearly is one of ours is worth a word.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

from dotenv.parser import parse_stream

from providers.errors import ConfigError
from routing.packaged_files import ENV_EXAMPLE

__all__ = ["DotenvFile", "Doubt", "read_dotenv"]

_ONE_LETTER_OFF = 0.85
_SAME_PREFIX = 0.75  # OLLAMA_URL for OLLAMA_BASE_URL; not OLLAMA_HOST, which is the Ollama server's own


@dataclass(frozen=True)
class Doubt:
    """Something in the settings that is allowed and most likely not what somebody wants.

    ``subject`` says what or where, ``message`` what was found, ``remedy`` what mends it.
    """

    subject: str
    message: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.subject}: {self.message}; {self.remedy}"


@dataclass(frozen=True)
class DotenvFile:
    """``values`` by name, ``lines`` where each name stands, ``broken`` the lines that assign nothing."""

    values: Mapping[str, str | None] = field(default_factory=dict, repr=False)
    lines: Mapping[str, int] = field(default_factory=dict)
    broken: tuple[int, ...] = ()

    def doubts(self, known: Collection[str]) -> Iterator[Doubt]:
        """What is likely a slip; ``known`` are the variables that somebody reads. No value is told: it may be a key."""
        for line in self.broken:
            yield Doubt(f".env:{line}", "this line assigns nothing", "write it as NAME=value, or begin it with #")
        strangers = [name for name in self.values if name not in known]
        readable = {*known, *_in_the_example()} if strangers else set()
        for name in strangers:
            meant = None if name in readable else _meant(name, readable)
            if meant:
                yield Doubt(f".env:{self.lines[name]}", f"nobody reads {name}", f"did you mean {meant}?")


def read_dotenv(path: Path) -> DotenvFile:
    """The file at ``path``, empty where there is none.

    Raises:
        ConfigError: it cannot be read.
    """
    if not path.is_file():
        return DotenvFile()
    values: dict[str, str | None] = {}
    lines: dict[str, int] = {}
    broken: list[int] = []
    try:
        with path.open(encoding="utf-8") as file:
            for binding in parse_stream(file):
                text = binding.original.string
                line = binding.original.line + text[: len(text) - len(text.lstrip())].count("\n")
                if binding.key is not None:
                    values[binding.key], lines[binding.key] = binding.value, line
                if binding.error or (binding.key is not None and binding.value is None):
                    broken.append(line)
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"cannot read {path}: {exc}", hint="make it a readable UTF-8 file") from exc
    return DotenvFile(values, lines, tuple(broken))


def _in_the_example() -> set[str]:
    """The variables of all that can be made active, which .env.example names without importing anybody."""
    lines = ENV_EXAMPLE.read_text(encoding="utf-8").splitlines()
    return {name.lstrip("#") for name, assigns, _ in (line.partition("=") for line in lines) if assigns}


def _meant(name: str, known: Collection[str]) -> str | None:
    word = name.upper()
    alike = [other for other in known if other.startswith(word.partition("_")[0] + "_")]
    found = get_close_matches(word, known, 1, _ONE_LETTER_OFF) or get_close_matches(word, alike, 1, _SAME_PREFIX)
    return found[0] if found else None
