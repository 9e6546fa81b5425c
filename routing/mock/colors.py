"""Brand colours: found in text, chosen when nobody names any, and told in English for image prompts."""

from __future__ import annotations

import re
from collections.abc import Iterable

from routing.mock.variety import pick

__all__ = ["RGB", "color_name", "find_colors", "hex_of", "palette_for", "rgb_of"]

RGB = tuple[int, int, int]

_HEX = re.compile(r"#[0-9A-Fa-f]{6}\b")

# dark for lettering, light for grounds, an accent
_PALETTES = (
    ("#1F2A44", "#EEF1F6", "#E4A853"),
    ("#23423A", "#F1EFE6", "#D9845B"),
    ("#3B2A26", "#F6EEE6", "#C46B4A"),
    ("#2B2D42", "#F2F3F7", "#EF6F6C"),
    ("#14424C", "#E9F3F2", "#F2B263"),
    ("#40304F", "#F4EFF6", "#B784C9"),
    ("#2F3E2E", "#F2F4EA", "#A8B545"),
    ("#4A2536", "#F9EEF0", "#DE7C93"),
    ("#22303C", "#EDF2F5", "#5BA4CF"),
    ("#33332D", "#F5F3EC", "#D8A31A"),
)

_NAMES: tuple[tuple[str, RGB], ...] = (
    ("black", (15, 15, 18)),
    ("charcoal", (45, 48, 54)),
    ("grey", (140, 142, 146)),
    ("misty grey", (220, 226, 229)),
    ("white", (250, 250, 250)),
    ("cream", (245, 238, 226)),
    ("beige", (215, 195, 165)),
    ("brown", (100, 66, 45)),
    ("terracotta", (200, 105, 75)),
    ("red", (205, 45, 45)),
    ("coral", (240, 115, 110)),
    ("orange", (240, 130, 60)),
    ("amber", (228, 170, 80)),
    ("yellow", (245, 215, 70)),
    ("olive green", (150, 160, 65)),
    ("green", (60, 150, 85)),
    ("deep green", (35, 66, 56)),
    ("mint", (175, 225, 205)),
    ("teal", (25, 85, 95)),
    ("sky blue", (95, 165, 210)),
    ("blue", (45, 90, 200)),
    ("navy", (30, 40, 70)),
    ("lavender", (185, 140, 205)),
    ("plum", (70, 45, 75)),
    ("pink", (225, 130, 150)),
)


def find_colors(texts: Iterable[str]) -> tuple[str, ...]:
    """Every ``#RRGGBB`` of the texts in upper case, each once, eight at most."""
    found = (match.upper() for text in texts for match in _HEX.findall(text))
    return tuple(dict.fromkeys(found))[:8]


def palette_for(name: str) -> tuple[str, ...]:
    """The palette of a brand that names no colours: always the same for the same name."""
    return pick(_PALETTES, "palette", name)


def rgb_of(color: str) -> RGB:
    """``#RRGGBB`` as three numbers of 0-255."""
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)


def hex_of(color: RGB) -> str:
    return "#{:02X}{:02X}{:02X}".format(*color)


def color_name(color: str) -> str:
    """The nearest plain English name, which an image model understands and a hex code not."""
    wanted = rgb_of(color)
    return min(_NAMES, key=lambda named: sum((a - b) ** 2 for a, b in zip(named[1], wanted, strict=True)))[0]
