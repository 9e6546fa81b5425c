"""Korean particles by the sound a word ends in: 세럼은, 키보드는, 30g을, 50ml를, -42dB로.

A template says ``"{product:은}"`` and gets the right form, because the words put into templates are :class:`Word`.
"""

from __future__ import annotations

import re

__all__ = ["Word", "has_final", "josa", "strip_josa"]

# after a final consonant / after a vowel
_PAIRS = (
    ("은", "는"),
    ("이", "가"),
    ("을", "를"),
    ("과", "와"),
    ("으로", "로"),
    ("이나", "나"),
    ("이라", "라"),
    ("이라면", "라면"),
    ("이란", "란"),
    ("이에요", "예요"),
    ("이며", "며"),
    ("이고", "고"),
)
_FORMS = {form: pair for pair in _PAIRS for form in pair}

_RIEUL = 8  # index of ㄹ among the finals: 으로 becomes 로 after it

# The final consonant of each digit's name: 영 일 이 삼 사 오 육 칠 팔 구.
_DIGITS = dict(zip("0123456789", (21, 8, 0, 16, 0, 0, 1, 8, 8, 0), strict=True))
_LETTERS = {"l": _RIEUL, "m": 16, "n": 4, "r": _RIEUL}  # 엘 엠 엔 알; the names of all others end in a vowel
# Units after a number, by how they are read: 그램, 데시벨, 밀리미터 ...
_UNITS = {"g": 16, "kg": 16, "mg": 16, "db": _RIEUL, "mol": _RIEUL, "ppm": 16, "rpm": 16, "nm": 0, "mm": 0, "cm": 0}
_UNITS |= dict.fromkeys(("m", "km", "l", "ml", "dl", "v", "w", "a", "mah", "wh", "hz", "khz", "ghz", "gb", "tb"), 0)

_TAIL = re.compile(r"[^0-9A-Za-z가-힣%℃°]+$")
_UNIT = re.compile(r"\d\s?([A-Za-z]+)$")
_LATIN = re.compile(r"[A-Za-z]+$")
_NASAL = re.compile(r"(n|m|ng|[nm]e)$")
_LIQUID = re.compile(r"(l|[^aeiou]le|ile|yle|ule|ole|ale)$")
_STOP = re.compile(r"([aeiou][pk]|ck)$")


def _latin_final(word: str) -> int:
    """The final of a Latin word: letter names for an acronym, common spelling rules for the rest."""
    lower = word.lower()
    if len(word) == 1 or word.isupper():
        return _LETTERS.get(lower[-1], 0)
    if _LIQUID.search(lower):
        return _RIEUL
    return 1 if _NASAL.search(lower) or _STOP.search(lower) else 0


def _final(text: str) -> int | None:
    """Index of the last sound's final consonant (0: it ends in a vowel); None where nobody can tell."""
    core = _TAIL.sub("", text)
    if not core:
        return None
    last = core[-1]
    if "가" <= last <= "힣":
        return (ord(last) - 0xAC00) % 28
    if last in _DIGITS:
        return _DIGITS[last]
    if last in "%℃°":
        return 0
    unit = _UNIT.search(core)
    if unit and unit[1].lower() in _UNITS:
        return _UNITS[unit[1].lower()]
    latin = _LATIN.search(core)
    return _latin_final(latin.group()) if latin else None


def has_final(text: str) -> bool | None:
    """Whether the text's last sound has a final consonant; None where nobody can tell (kana, emoji, nothing)."""
    final = _final(text)
    return None if final is None else final > 0


def josa(text: str, form: str) -> str:
    """The text with a particle, e.g. ``josa("세럼", "은")``; either form of the pair may be named.

    Where the reading is unknown both forms are written, as in ``은(는)``. An unknown particle is appended as it is.
    """
    if form not in _FORMS:
        return text + form
    closed, opened = _FORMS[form]
    final = _final(text)
    if final is None:
        return f"{text}{closed}({opened})" if closed != "으로" else f"{text}(으)로"
    if closed == "으로":
        return text + ("로" if final in (0, _RIEUL) else "으로")
    return text + (closed if final else opened)


class Word(str):
    """A string whose format specification is a particle: ``f"{Word('세럼'):은}"`` is ``세럼은``.

    For English templates ``a`` is the article before it: ``an air purifier``.
    """

    __slots__ = ()

    def __format__(self, form: str) -> str:
        if form == "a":
            return f"an {self}" if self[:1].lower() in "aeio" else f"a {self}"
        return josa(str(self), form) if form else str(self)


def strip_josa(word: str) -> str:
    """A word without the particle at its end, as far as its spelling tells: 세럼은 becomes 세럼."""
    return re.sub(r"(?<=[가-힣]{2})(?:입니다|에서|으로|까지|부터|은|는|을|를|가|에|의|도)$", "", word)
