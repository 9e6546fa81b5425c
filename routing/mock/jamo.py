"""The shapes of the Korean letters as strokes in a unit square, x to the right and y down.

A stroke is a row of points that a round pen follows. Consonants take three forms where their place in the syllable
changes them: ``side`` (left of an upright vowel), ``top`` (above a lying vowel) and ``base`` (final).
"""

from __future__ import annotations

from math import cos, pi, sin

__all__ = ["FINALS", "INITIALS", "LYING", "MEDIALS", "UPRIGHT", "Point", "Stroke", "consonant"]

Point = tuple[float, float]
Stroke = tuple[Point, ...]

INITIALS = "ㄱㄲㄴㄷㄸㄹㅁㅂㅃㅅㅆㅇㅈㅉㅊㅋㅌㅍㅎ"
MEDIALS = "ㅏㅐㅑㅒㅓㅔㅕㅖㅗㅘㅙㅚㅛㅜㅝㅞㅟㅠㅡㅢㅣ"
FINALS = " ㄱㄲㄳㄴㄵㄶㄷㄹㄺㄻㄼㄽㄾㄿㅀㅁㅂㅄㅅㅆㅇㅈㅊㅋㅌㅍㅎ"

_PAIRED = (
    "ㄲㄱㄱ ㄸㄷㄷ ㅃㅂㅂ ㅆㅅㅅ ㅉㅈㅈ ㄳㄱㅅ ㄵㄴㅈ ㄶㄴㅎ ㄺㄹㄱ ㄻㄹㅁ ㄼㄹㅂ ㄽㄹㅅ ㄾㄹㅌ ㄿㄹㅍ ㅀㄹㅎ ㅄㅂㅅ"
)
_PAIRS = {row[0]: (row[1], row[2]) for row in _PAIRED.split()}


def _curve(start: Point, bend: Point, end: Point, steps: int = 10) -> Stroke:
    """A quadratic Bézier curve as points."""
    points = []
    for step in range(steps + 1):
        t = step / steps
        a, b, c = (1 - t) ** 2, 2 * t * (1 - t), t * t
        points.append((a * start[0] + b * bend[0] + c * end[0], a * start[1] + b * bend[1] + c * end[1]))
    return tuple(points)


def _ring(x: float, y: float, across: float, down: float, steps: int = 36) -> Stroke:
    turns = (2 * pi * step / steps for step in range(steps + 1))
    return tuple((x + across * cos(turn), y + down * sin(turn)) for turn in turns)


def _legs(top: float) -> tuple[Stroke, Stroke]:
    """The two legs of ㅅ, which stand under the bar of ㅈ and ㅊ as well."""
    fork = top + 0.38 * (1 - top)
    left = _curve((0.5, top), (0.5, top + 0.62 * (1 - top)), (0.0, 1.0))
    return left, _curve((0.5, fork), (0.6, fork + 0.55 * (1 - fork)), (1.0, 1.0))


_TOP, _BOTTOM, _MIDDLE = ((0.0, 0.0), (1.0, 0.0)), ((0.0, 1.0), (1.0, 1.0)), ((0.0, 0.5), (1.0, 0.5))
_BOWL = ((0.0, 0.0), (0.0, 1.0), (1.0, 1.0), (1.0, 0.0))

_CONSONANTS: dict[str, tuple[Stroke, ...]] = {
    "ㄱ": (((0.0, 0.0), (1.0, 0.0), (1.0, 1.0)),),
    "ㄴ": (((0.0, 0.0), (0.0, 1.0), (1.0, 1.0)),),
    "ㄷ": (((1.0, 0.0), (0.0, 0.0), (0.0, 1.0), (1.0, 1.0)),),
    "ㄹ": (((0.0, 0.0), (1.0, 0.0), (1.0, 0.5), (0.0, 0.5), (0.0, 1.0), (1.0, 1.0)),),
    "ㅁ": ((*_BOWL, (0.0, 0.0)),),
    "ㅂ": (_BOWL, _MIDDLE),
    "ㅅ": _legs(0.0),
    "ㅇ": (_ring(0.5, 0.5, 0.5, 0.5),),
    "ㅈ": (_TOP, *_legs(0.0)),
    "ㅊ": (((0.5, 0.0), (0.5, 0.24)), ((0.0, 0.27), (1.0, 0.27)), *_legs(0.27)),
    "ㅋ": (((0.0, 0.0), (1.0, 0.0), (1.0, 1.0)), ((0.0, 0.48), (1.0, 0.48))),
    "ㅌ": (((1.0, 0.0), (0.0, 0.0), (0.0, 1.0), (1.0, 1.0)), _MIDDLE),
    "ㅍ": (_TOP, _BOTTOM, ((0.28, 0.0), (0.28, 1.0)), ((0.72, 0.0), (0.72, 1.0))),
    "ㅎ": (((0.5, 0.0), (0.5, 0.16)), ((0.0, 0.24), (1.0, 0.24)), _ring(0.5, 0.71, 0.38, 0.29)),
}
_SIDE: dict[str, tuple[Stroke, ...]] = {
    "ㄱ": (((0.0, 0.0), (0.95, 0.0)), _curve((0.95, 0.0), (0.95, 0.72), (0.05, 1.0))),
    "ㅋ": (((0.0, 0.0), (0.95, 0.0)), _curve((0.95, 0.0), (0.95, 0.72), (0.05, 1.0)), ((0.0, 0.47), (0.88, 0.42))),
}
_TOP_FORM: dict[str, tuple[Stroke, ...]] = {
    "ㄱ": (((0.0, 0.0), (1.0, 0.0)), _curve((1.0, 0.0), (1.0, 0.5), (0.9, 1.0))),
    "ㅋ": (((0.0, 0.0), (1.0, 0.0)), _curve((1.0, 0.0), (1.0, 0.5), (0.9, 1.0)), ((0.0, 0.5), (0.98, 0.5))),
}

# Upright vowels: their bars stand at 1 (and at 0.42 for two), their ticks reach to the left or to the right.
UPRIGHT: dict[str, tuple[Stroke, ...]] = {
    "ㅏ": (((0.0, 0.0), (0.0, 1.0)), ((0.0, 0.48), (1.0, 0.48))),
    "ㅑ": (((0.0, 0.0), (0.0, 1.0)), ((0.0, 0.35), (1.0, 0.35)), ((0.0, 0.62), (1.0, 0.62))),
    "ㅐ": (((0.0, 0.0), (0.0, 1.0)), ((1.0, 0.0), (1.0, 1.0)), ((0.0, 0.48), (1.0, 0.48))),
    "ㅒ": (((0.0, 0.0), (0.0, 1.0)), ((1.0, 0.0), (1.0, 1.0)), ((0.0, 0.36), (1.0, 0.36)), ((0.0, 0.62), (1.0, 0.62))),
    "ㅓ": (((1.0, 0.0), (1.0, 1.0)), ((0.0, 0.48), (1.0, 0.48))),
    "ㅕ": (((1.0, 0.0), (1.0, 1.0)), ((0.0, 0.35), (1.0, 0.35)), ((0.0, 0.62), (1.0, 0.62))),
    "ㅔ": (((0.45, 0.0), (0.45, 1.0)), ((1.0, 0.0), (1.0, 1.0)), ((0.0, 0.48), (0.45, 0.48))),
    "ㅖ": (
        ((0.45, 0.0), (0.45, 1.0)),
        ((1.0, 0.0), (1.0, 1.0)),
        ((0.0, 0.36), (0.45, 0.36)),
        ((0.0, 0.62), (0.45, 0.62)),
    ),
    "ㅣ": (((1.0, 0.0), (1.0, 1.0)),),
}
LYING: dict[str, tuple[Stroke, ...]] = {
    "ㅗ": (_BOTTOM, ((0.5, 0.0), (0.5, 1.0))),
    "ㅛ": (_BOTTOM, ((0.32, 0.0), (0.32, 1.0)), ((0.68, 0.0), (0.68, 1.0))),
    "ㅜ": (_TOP, ((0.5, 0.0), (0.5, 1.0))),
    "ㅠ": (_TOP, ((0.32, 0.0), (0.32, 1.0)), ((0.68, 0.0), (0.68, 1.0))),
    "ㅡ": (_MIDDLE,),
}


def _half(letter: str, form: str, left: bool) -> tuple[Stroke, ...]:
    """A letter squeezed into the left or right part of the square, as in ㄲ and ㄳ."""
    scale, shift = 0.43, 0.0 if left else 0.57
    return tuple(tuple((shift + scale * x, y) for x, y in stroke) for stroke in consonant(letter, form))


def consonant(letter: str, form: str) -> tuple[Stroke, ...]:
    """The strokes of a consonant, single, doubled or paired, in the form for its place."""
    if letter in _PAIRS:
        first, second = _PAIRS[letter]
        return _half(first, form, left=True) + _half(second, form, left=False)
    special = {"side": _SIDE, "top": _TOP_FORM}.get(form, {})
    return special.get(letter, _CONSONANTS[letter])
