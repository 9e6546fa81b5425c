"""Text that may be shown in a terminal: what a model or a server writes must not steer it."""

from __future__ import annotations

import unicodedata

__all__ = ["one_line", "printable"]

_STEERING = {"Cc", "Cf", "Cs", "Co"}


def printable(text: object) -> str:
    """``text`` without control characters; line breaks and blanks stay."""
    return "".join(char for char in str(text) if char == "\n" or unicodedata.category(char) not in _STEERING)


def one_line(text: object) -> str:
    """The same on one line, each run of blanks as one."""
    return printable(" ".join(str(text).split()))
