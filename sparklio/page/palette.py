"""From a brand's colours to a palette in which every text is readable.

Contrast is WCAG 2's ratio (https://www.w3.org/TR/WCAG22/#dfn-contrast-ratio); normal text needs 4.5. Colours travel as
``#RRGGBB`` only, so that nothing else can reach the style sheet.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["CONTRAST", "contrast", "mix", "palette", "readable", "valid_colors"]

CONTRAST = 4.5
_VISIBLE = 1.07  # where a pale surface begins to be seen beside white
_HEX = re.compile(r"#[0-9A-Fa-f]{6}")
_WHITE, _BLACK = "#FFFFFF", "#000000"
_INK = "#17191C"
_NEUTRAL = ["#2B2F36", "#F4F5F6", "#5A6472"]


def valid_colors(colors: object) -> list[str]:
    """The items of ``colors`` that are exactly ``#RRGGBB``, in capitals; anything else is left out."""
    items = colors if isinstance(colors, list | tuple) else []
    return [item.upper() for item in items if isinstance(item, str) and _HEX.fullmatch(item)]


def contrast(one: str, other: str) -> float:
    """WCAG contrast ratio of two colours, 1 to 21."""
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)


def mix(color: str, other: str, share: float) -> str:
    """``color`` with ``share`` (0 to 1) of ``other`` stirred in."""
    pairs = zip(_channels(color), _channels(other), strict=True)
    return "#" + "".join(f"{round(a + (b - a) * share):02X}" for a, b in pairs)


def readable(color: str, surfaces: Iterable[str]) -> str:
    """The shade nearest to ``color`` that is readable on all ``surfaces``, which must be all light or all dark."""
    surfaces = list(surfaces)
    shades = [mix(color, end, step / 20) for step in range(21) for end in (_BLACK, _WHITE)]
    return next(shade for shade in shades if _fits(shade, surfaces))


def palette(colors: object) -> dict[str, str]:
    """The page's custom properties by name. Without a usable colour the palette is a neutral grey.

    ``band`` is the brand's first strong colour, ``accent`` the most vivid one, ``tint`` a pale one for backgrounds;
    ``*-ink`` and ``on-band*`` are the text colours that go with them.
    """
    brand = valid_colors(colors) or _NEUTRAL
    band = _band(brand)
    accent = max(brand, key=_chroma)
    accent = accent if _chroma(accent) >= 40 else band
    tint = _tint(brand, band)
    light = [_WHITE, tint]
    ink = readable(mix(band, _INK, 0.85), light)
    return {
        "paper": _WHITE,
        "tint": tint,
        "rule": mix(tint, ink, 0.12),
        "ink": ink,
        "muted": readable(mix(ink, _WHITE, 0.32), light),
        "accent": accent,
        "accent-ink": readable(accent, light),
        "band": band,
        "on-band": _text_on([band]),
        "on-band-accent": readable(accent if accent != band else _text_on([band]), [band]),
    }


def _band(brand: list[str]) -> str:
    """A strong colour for wide bands: dark enough for white text, or bright and vivid like a yellow."""
    strong = next((color for color in brand if contrast(color, _WHITE) >= 3), None)
    if strong:
        return readable(strong, [_WHITE])
    first = brand[0]
    return first if _luminance(first) > 0.55 and _chroma(first) >= 120 else mix(first, _BLACK, 0.72)


def _tint(brand: list[str], band: str) -> str:
    """A pale background on which dark text is readable, and which can be told from white."""
    pale = next((c for c in brand if _luminance(c) > 0.6 and _chroma(c) < 60 and contrast(c, _WHITE) >= 1.04), None)
    if pale is None:
        source, white = brand[0] if _chroma(brand[0]) >= 40 else band, 93
    else:
        source, white = pale, 50 if _luminance(pale) < 0.8 else 15
    tints = (mix(source, _WHITE, share / 100) for share in range(white, -1, -1))
    return next((tint for tint in tints if contrast(tint, _WHITE) >= _VISIBLE), source)


def _channels(color: str) -> list[int]:
    return [int(color[at : at + 2], 16) for at in (1, 3, 5)]


def _luminance(color: str) -> float:
    red, green, blue = (_linear(channel / 255) for channel in _channels(color))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _linear(channel: float) -> float:
    return channel / 12.92 if channel <= 0.04045 else float(((channel + 0.055) / 1.055) ** 2.4)


def _chroma(color: str) -> int:
    return max(_channels(color)) - min(_channels(color))


def _fits(text: str, surfaces: Iterable[str]) -> bool:
    return all(contrast(text, surface) >= CONTRAST for surface in surfaces)


def _text_on(surfaces: list[str]) -> str:
    """White where it is readable, else the ink, else black: one of white and black always is."""
    return next(text for text in (_WHITE, _INK, _BLACK) if _fits(text, surfaces))
