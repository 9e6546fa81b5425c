"""What uploaded brand material says about the brand, read from its labelled lines.

Only lines such as ``말투: ...`` or ``Values: ...`` are used. Everything else is left alone, whatever it asks for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from routing.mock.colors import find_colors

__all__ = ["Guide", "read_guide"]

_LABELS = {
    "tone": r"말투|어조|톤(?:\s?앤\s?매너)?|보이스|tone(?: of voice| and manner)?|voice",
    "values": r"(?:핵심\s?|브랜드\s?)?가치|(?:core |brand )?values?",
    "avoid": r"쓰지\s?않는\s?(?:말|표현)|금[지칙]어|피할\s?(?:말|표현)|words? (?:to|we) avoid|banned words?|avoid",
    "slogan": r"슬로건|자주\s?쓰는\s?문장|태그라인|slogan|tagline",
}
_LINE = {
    name: re.compile(rf"^[ \t\-*•·>]*(?:{words})\s*[:：]\s*(.+)$", re.IGNORECASE | re.MULTILINE)
    for name, words in _LABELS.items()
}
_QUOTED = re.compile(r"[\"“‘'「『]([^\"”’'」』]{1,80})[\"”’'」』]")
_SEPARATOR = re.compile(r"\s*[,，、/;]\s*")


@dataclass(frozen=True)
class Guide:
    """A brand guide in short; empty where the material does not say."""

    tone: str = ""
    values: tuple[str, ...] = ()
    avoid: tuple[str, ...] = ()
    slogan: str = ""
    colors: tuple[str, ...] = ()


def _line(name: str, text: str) -> str:
    match = _LINE[name].search(text)
    return match[1].strip() if match else ""


def _items(line: str) -> tuple[str, ...]:
    """Quoted words where there are quotes, otherwise what commas separate."""
    words = _QUOTED.findall(line) or _SEPARATOR.split(line.rstrip(" ."))
    return tuple(dict.fromkeys(word.strip() for word in words if word.strip()))[:8]


def read_guide(texts: Iterable[str]) -> Guide:
    """Read all materials together; the first that says something about a label wins."""
    together = "\n".join(texts)
    slogan = _line("slogan", together)
    return Guide(
        tone=_line("tone", together)[:200],
        values=_items(_line("values", together)),
        avoid=_items(_line("avoid", together)),
        slogan=(_items(slogan)[0] if _QUOTED.search(slogan) else slogan)[:80],
        colors=find_colors([together]),
    )
