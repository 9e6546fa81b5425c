"""Text in a picture: Hangul from strokes, everything else from Pillow's own font, wrapped and scaled to fit a box."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from functools import lru_cache

from PIL import Image, ImageDraw, ImageFont

from routing.mock.hangul import glyph, is_hangul

__all__ = ["TextBlock", "fit_text", "text_mask"]

_HANGUL_ADVANCE = 0.95  # of the type size
_HANGUL_SIZE = 0.90
_PEN = 0.088
_BASELINE = 0.80
_LEADING = 1.24
_UNKNOWN_ADVANCE = 0.72
_NO_CHARACTER = "\U0010ffff"  # a code point that never has a glyph
_MEASURE = 100  # the size at which Latin advances are measured
_SMOOTH = 3  # masks are drawn this much larger and then reduced


@dataclass(frozen=True)
class TextBlock:
    """Lines of one size; ``size`` and ``height`` in pixels."""

    lines: tuple[str, ...]
    size: int

    @property
    def width(self) -> int:
        return round(max(map(_advance, self.lines)) * self.size)

    @property
    def height(self) -> int:
        return round(((len(self.lines) - 1) * _LEADING + 1) * self.size)


@lru_cache(maxsize=64)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


@lru_cache(maxsize=1024)
def _width_of(char: str) -> float:
    if is_hangul(char):
        return _HANGUL_ADVANCE
    return _font(_MEASURE).getlength(char) / _MEASURE if _has_glyph(char) else _UNKNOWN_ADVANCE


@lru_cache(maxsize=1024)
def _has_glyph(char: str) -> bool:
    font = _font(_MEASURE)
    return char.isspace() or bytes(font.getmask(char)) != bytes(font.getmask(_NO_CHARACTER))


def _drawable(text: str) -> str:
    """The text composed, with what the font lacks taken apart: ㎡ becomes m2, é becomes e."""
    composed = unicodedata.normalize("NFC", text)
    return "".join(char if is_hangul(char) or _has_glyph(char) else _simpler(char) for char in composed)


def _simpler(char: str) -> str:
    if unicodedata.category(char) == "Pd":
        return "-"
    apart = unicodedata.normalize("NFKD", char)
    for parts in (unicodedata.normalize("NFC", apart), apart):
        plain = "".join(part for part in parts if is_hangul(part) or _has_glyph(part))
        if plain:
            return plain
    return char


def _advance(text: str) -> float:
    """Width of a text in type sizes."""
    return sum(map(_width_of, text))


def _wrap(text: str, width: float) -> tuple[str, ...]:
    """Lines no wider than ``width`` type sizes: broken at spaces, and inside a word that is too wide by itself."""
    lines = [""]
    for word in text.split():
        joined = f"{lines[-1]} {word}".strip()
        if _advance(joined) <= width:
            lines[-1] = joined
            continue
        if lines[-1]:
            lines.append("")
        for char in word:
            if lines[-1] and _advance(lines[-1] + char) > width:
                lines.append("")
            lines[-1] += char
    return tuple(lines)


def fit_text(text: str, width: int, height: int, largest: int, most_lines: int = 4) -> TextBlock:
    """The largest setting of the text that fits the box; at the smallest size what is too long is cut off."""
    text = _drawable(text)
    smallest = max(8, largest // 5)
    size = largest
    while True:
        block = TextBlock(_wrap(text, width / size), size)
        whole_words = all(_advance(word) * size <= width for word in text.split())
        fits = block.height <= height and len(block.lines) <= most_lines and (whole_words or size < largest // 2)
        if fits or size <= smallest:
            return (
                block
                if fits
                else TextBlock(block.lines[: max(1, min(most_lines, round(height / size / _LEADING)))], size)
            )
        size = max(smallest, round(size * 0.93))


def text_mask(block: TextBlock, align: str = "center") -> Image.Image:
    """The block as a mask (mode ``L``), as large as its letters need with a little room around."""
    size = block.size * _SMOOTH
    margin = size // 6
    width = block.width * _SMOOTH + 2 * margin
    height = block.height * _SMOOTH + 2 * margin
    mask = Image.new("L", (width + -width % _SMOOTH, height + -height % _SMOOTH))
    draw = ImageDraw.Draw(mask)
    for number, line in enumerate(block.lines):
        slack = block.width * _SMOOTH - _advance(line) * size
        left = margin + {"left": 0.0, "center": slack / 2, "right": slack}[align]
        _draw_line(draw, line, left, margin + number * _LEADING * size, size)
    return mask.reduce(_SMOOTH)


def _draw_line(draw: ImageDraw.ImageDraw, line: str, left: float, top: float, size: int) -> None:
    font = _font(size)
    for char in line:
        if is_hangul(char):
            _draw_syllable(draw, char, left, top, size)
        elif not _has_glyph(char):
            _draw_unknown(draw, left, top, size)
        elif not char.isspace():
            draw.text((left, top + _BASELINE * size), char, fill=255, font=font, anchor="ls", stroke_width=size // 90)
        left += _width_of(char) * size


def _draw_unknown(draw: ImageDraw.ImageDraw, left: float, top: float, size: int) -> None:
    """A quiet ring for a character of a script that cannot be lettered here."""
    box = (left + 0.1 * size, top + 0.2 * size, left + 0.62 * size, top + 0.72 * size)
    draw.ellipse(box, outline=255, width=max(2, size // 18))


def _draw_syllable(draw: ImageDraw.ImageDraw, char: str, left: float, top: float, size: int) -> None:
    shape = glyph(char)
    scale = size * _HANGUL_SIZE
    pen = max(2, round(size * _PEN * shape.pen))
    tip = pen / 2 - 0.75  # ellipses include their last pixel, lines do not
    x0 = left + size * (_HANGUL_ADVANCE - _HANGUL_SIZE) / 2
    y0 = top + size * (_BASELINE - 0.83 * _HANGUL_SIZE)
    for stroke in shape.strokes:
        points = [(x0 + x * scale, y0 + y * scale) for x, y in stroke]
        draw.line(points, fill=255, width=pen, joint="curve")
        for x, y in (points[0], points[-1]):
            draw.ellipse((x - tip, y - tip, x + tip, y + tip), fill=255)
