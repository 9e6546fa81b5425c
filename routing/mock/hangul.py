"""Hangul syllables drawn as strokes of a round pen.

Pillow's own font knows no Korean, a fresh machine often has no Korean font, and a font file would outweigh the program.
Each syllable is laid out in one of six blocks: an upright, a lying or a compound vowel, each with or without a final.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from routing.mock.jamo import FINALS, INITIALS, LYING, MEDIALS, UPRIGHT, Stroke, consonant

__all__ = ["Glyph", "glyph", "is_hangul", "split_syllable"]

Box = tuple[float, float, float, float]  # left, top, right, bottom

_FIRST, _LAST = 0xAC00, 0xD7A3

_COMPOUND = {row[0]: (row[1], row[2]) for row in ("ㅘㅗㅏ", "ㅙㅗㅐ", "ㅚㅗㅣ", "ㅝㅜㅓ", "ㅞㅜㅔ", "ㅟㅜㅣ", "ㅢㅡㅣ")}

# Right edge of the initial, left and right edge of the vowel.
_UPRIGHT_COLUMNS: dict[str, tuple[float, float, float]] = {
    "ㅏ": (0.54, 0.72, 0.95),
    "ㅑ": (0.54, 0.72, 0.95),
    "ㅐ": (0.47, 0.63, 0.86),
    "ㅒ": (0.47, 0.63, 0.86),
    "ㅓ": (0.47, 0.60, 0.82),
    "ㅕ": (0.46, 0.61, 0.83),
    "ㅔ": (0.40, 0.51, 0.89),
    "ㅖ": (0.40, 0.52, 0.89),
    "ㅣ": (0.60, 0.80, 0.80),
}
_COMPOUND_COLUMNS: dict[str, tuple[float, float]] = {
    "ㅏ": (0.76, 0.96),
    "ㅐ": (0.72, 0.90),
    "ㅓ": (0.68, 0.85),
    "ㅔ": (0.64, 0.92),
    "ㅣ": (0.82, 0.82),
}


_LETTERS = {letter: consonant(letter, "base") for letter in INITIALS + FINALS.strip()} | UPRIGHT | LYING


@dataclass(frozen=True)
class Glyph:
    """Strokes in a square of side 1, and how much thinner than usual the pen should be."""

    strokes: tuple[Stroke, ...]
    pen: float


def is_hangul(char: str) -> bool:
    """Whether :func:`glyph` knows the character: a syllable or a single letter such as ㅋ."""
    return _FIRST <= ord(char) <= _LAST or char in _LETTERS


def split_syllable(char: str) -> tuple[str, str, str]:
    """Initial, medial and final letter of a syllable; the final is a space where there is none."""
    number = ord(char) - _FIRST
    return INITIALS[number // 588], MEDIALS[number // 28 % 21], FINALS[number % 28]


def _placed(strokes: tuple[Stroke, ...], box: Box) -> tuple[Stroke, ...]:
    left, top, right, bottom = box
    width, height = right - left, bottom - top
    return tuple(tuple((left + x * width, top + y * height) for x, y in stroke) for stroke in strokes)


@lru_cache(maxsize=2048)
def glyph(char: str) -> Glyph:
    """The strokes of one of the 11,172 syllables, or of a single letter."""
    if char in _LETTERS:
        return Glyph(_placed(_LETTERS[char], (0.2, 0.2, 0.8, 0.8)), 1.0)
    initial, medial, final = split_syllable(char)
    closed = final != " "
    if medial in LYING:
        strokes, pen = _over(initial, medial, closed), 0.94 if closed else 1.0
    elif medial in _COMPOUND:
        strokes, pen = _around(initial, medial, closed), 0.86 if closed else 0.94
    else:
        strokes, pen = _beside(initial, medial, closed), 0.95 if closed else 1.0
    if closed:
        strokes += _placed(consonant(final, "base"), _final_box(final, medial))
    crowded = initial in "ㄲㄸㅃㅆㅉ" or final in "ㄲㄳㄵㄶㄺㄻㄼㄽㄾㄿㅀㅄㅆ"
    return Glyph(strokes, pen * (0.9 if crowded else 1.0))


def _final_box(final: str, medial: str) -> Box:
    left, right = (0.16, 0.84) if medial in LYING else (0.22, 0.86)
    top = 0.73 if medial in "ㅜㅠ" else 0.70
    if final in "ㅇㅎㅊ":
        return (left + 0.06, top - 0.03, right - 0.06, 0.97)
    return (left, top, right, 0.95)


def _beside(initial: str, medial: str, closed: bool) -> tuple[Stroke, ...]:
    edge, left, right = _UPRIGHT_COLUMNS[medial]
    top, bottom = (0.09, 0.50) if closed else (0.17, 0.78)
    if initial == "ㅇ" and not closed:
        top, bottom = 0.23, 0.74  # a ring as tall as the other letters looks like a zero
    bar = (0.03, 0.58) if closed else (0.03, 0.97)
    vowel = _placed(UPRIGHT[medial], (left, bar[0], right, bar[1]))
    return _placed(consonant(initial, "side"), (0.09, top, edge, bottom)) + vowel


def _over(initial: str, medial: str, closed: bool) -> tuple[Stroke, ...]:
    if closed:
        top, bottom = (0.06, 0.31)
        rows = {"ㅗ": (0.41, 0.55), "ㅛ": (0.41, 0.55), "ㅜ": (0.45, 0.62), "ㅠ": (0.45, 0.62), "ㅡ": (0.51, 0.51)}
    else:
        top, bottom = (0.10, 0.46)
        rows = {"ㅗ": (0.60, 0.83), "ㅛ": (0.58, 0.83), "ㅜ": (0.63, 0.96), "ㅠ": (0.63, 0.96), "ㅡ": (0.78, 0.78)}
        bottom += 0.08 if medial == "ㅡ" else 0.0
    upper, lower = rows[medial]
    vowel = _placed(LYING[medial], (0.07, upper, 0.93, lower))
    return _placed(consonant(initial, "top"), (0.22, top, 0.78, bottom)) + vowel


def _around(initial: str, medial: str, closed: bool) -> tuple[Stroke, ...]:
    lying, upright = _COMPOUND[medial]
    left, right = _COMPOUND_COLUMNS[upright]
    edge = left - 0.10 if upright in "ㅏㅐㅣ" else left - 0.02
    if closed:
        top, bottom = 0.06, 0.27
        rows = {"ㅗ": (0.37, 0.49), "ㅜ": (0.40, 0.58), "ㅡ": (0.47, 0.47)}
        bar = (0.03, 0.60)
    else:
        top, bottom = 0.11, 0.40
        rows = {"ㅗ": (0.53, 0.73), "ㅜ": (0.56, 0.88), "ㅡ": (0.70, 0.70)}
        bar = (0.03, 0.97)
    upper, lower = rows[lying]
    # ㅝ and ㅞ: the upright's tick passes under the lying bar.
    inner = (left, bar[0], right, bar[1])
    vowel = _placed(LYING[lying], (0.07, upper, edge + 0.04, lower)) + _placed(_lowered(upright), inner)
    return _placed(consonant(initial, "top"), (0.12, top, edge - 0.04, bottom)) + vowel


def _lowered(upright: str) -> tuple[Stroke, ...]:
    """ㅓ and ㅔ beside ㅜ carry their tick lower, below its bar."""
    if upright not in "ㅓㅔ":
        return UPRIGHT[upright]
    return tuple(
        tuple((x, 0.74) for x, _ in stroke) if stroke[0][1] == stroke[1][1] else stroke for stroke in UPRIGHT[upright]
    )
