"""Differences for people: each path with what it was and what it is, and in long texts the words that changed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from difflib import SequenceMatcher
from typing import Any

from rich.text import Text

from sparklio.plain_text import one_line
from sparklio.view import seconds

__all__ = ["difference_lines", "head_line"]

_SHORT = 60
_ALIKE = 0.3  # below this hardly a word is common, and marks would only be noise
_WORDS = re.compile(r"\s+|\w+|[^\w\s]")
_SAME = "no difference"


def head_line(outline: Mapping[str, Any]) -> str:
    """One run in a line: id, state, mode, stage, what it cost and how long it took."""
    cost = outline["cost_usd"]
    parts = [
        outline["status"],
        outline["mode"],
        outline["stage"],
        "cost unknown" if cost is None else f"${cost:.4f}",
        *([] if outline["wall_ms"] is None else [seconds(float(outline["wall_ms"]))]),
    ]
    return f"{one_line(outline['run_id'])}: {', '.join(one_line(part) for part in parts)}"


def difference_lines(a: Mapping[str, Any], b: Mapping[str, Any], found: Iterable[Mapping[str, Any]]) -> list[Text]:
    """The two runs and what differs.

    Args:
        a: ``{run_id, status, mode, stage, cost_usd, wall_ms}`` of the first run.
        b: the same of the second.
        found: ``{path, change: changed | added | removed, old, new}`` each.
    """
    lines = [line for difference in found for line in _lines(difference)]
    heads = [Text(f"- {head_line(a)}", "red"), Text(f"+ {head_line(b)}", "green"), Text()]
    return heads + (lines or [Text(_SAME)])


def _lines(difference: Mapping[str, Any]) -> Iterator[Text]:
    path = Text(one_line(difference["path"]), "bold")
    old, new = _words(difference["old"]), _words(difference["new"])
    if difference["change"] != "changed":
        sign, style, shown = ("+", "green", new) if difference["change"] == "added" else ("-", "red", old)
        yield path
        yield Text(f"  {sign} {shown}", style)
    elif len(old) + len(new) <= _SHORT:
        yield Text.assemble(path, "  ", (old, "red"), " -> ", (new, "green"))
    else:
        yield path
        yield from _marked(old, new)


def _marked(old: str, new: str) -> tuple[Text, Text]:
    """Both texts, the words that only one of them has in reverse."""
    words = [_WORDS.findall(text) for text in (old, new)]
    matcher = SequenceMatcher(None, words[0], words[1], autojunk=False)
    alike = SequenceMatcher(None, old.split(), new.split(), autojunk=False).ratio() >= _ALIKE
    removed, added = Text("  - ", "red"), Text("  + ", "green")
    for tag, i1, i2, j1, j2 in matcher.get_opcodes():
        style = "reverse" if alike and tag != "equal" else ""
        removed.append("".join(words[0][i1:i2]), style)
        added.append("".join(words[1][j1:j2]), style)
    return removed, added


def _words(value: Any) -> str:
    return one_line(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
