"""Cells that a spreadsheet program must not take for formulas, and back."""

from __future__ import annotations

import re

__all__ = ["as_meant", "neutral"]

# Blanks, control and invisible characters before it keep no program from seeing the sign; full-width signs count in
# Korean and Japanese ones. https://owasp.org/www-community/attacks/CSV_Injection
_FORMULA = re.compile("[\\s\x00-\x1f\x7f-\xa0\u200b-\u200f\u2060\ufeff]*[=+\\-@＝＋－＠]|[\t\r\n]")


def neutral(text: str) -> str:
    """``text`` with an apostrophe before it where it would be computed."""
    return f"'{text}" if _FORMULA.match(text) else text


def as_meant(cell: str) -> str:
    """A cell without the apostrophe that :func:`neutral` puts before it."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell[1:]) else cell
