"""The reviewer: checks a copy for what a page must not say, and approves it otherwise."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from routing.mock.claims import find_banned, find_claims, find_foreign, find_superlatives
from routing.mock.facts import leaves
from routing.mock.pen import Pen
from routing.mock.variety import stable_number

__all__ = ["style_check"]

Issue = dict[str, str]

_COST = {"low": 1, "medium": 8, "high": 30}
_LOWEST_SCORE = 20
_MOST_ISSUES = 20
_NUMBER = re.compile(r"\d+(?:\.\d+)?")


def style_check(pen: Pen) -> dict[str, Any]:
    """Approved unless an issue is of high severity; the score starts between 93 and 97."""
    known = _known(pen.payload)
    issues = [
        issue for section, text in _passages(pen.payload) for issue in _issues(pen, section, text, known)
    ] + _dropped(pen)
    approved = all(issue["severity"] != "high" for issue in issues)
    score = 93 + stable_number(pen.facts.subject) % 5 - sum(_COST[issue["severity"]] for issue in issues)
    flagged = any(issue["severity"] != "low" for issue in issues)
    summary = "review.bad" if not approved else "review.noted" if flagged else "review.good"
    return {
        "approved": approved,
        "score": max(_LOWEST_SCORE, score),
        "issues": issues[:_MOST_ISSUES],
        "summary": pen.say(summary),
    }


def _passages(payload: Any) -> Iterator[tuple[str, str]]:
    """Section ids with all their text; an empty id for the lines of the whole page."""
    copy = payload.get("copy", payload.get("text")) if isinstance(payload, Mapping) else payload
    if not isinstance(copy, Mapping):
        yield "", _together(copy)
        return
    yield "", _together({key: value for key, value in copy.items() if key != "sections"})
    sections = copy.get("sections")
    for section in sections if isinstance(sections, list) else []:
        if isinstance(section, Mapping):
            named = section.get("section_id")
            texts = {key: value for key, value in section.items() if key != "section_id"}
            yield (named if isinstance(named, str) else ""), _together(texts)


def _together(value: Any) -> str:
    return "\n".join(text for _, text in leaves(value))


def _known(payload: Any) -> str:
    """What the material says, without the copy that is to be checked."""
    if not isinstance(payload, Mapping):
        return ""
    return _together({key: value for key, value in payload.items() if key not in ("copy", "text")})


def _issues(pen: Pen, section: str, text: str, known: str) -> Iterator[Issue]:
    # A page cannot help saying what the product is called and for whom it is.
    named = " ".join((pen.facts.product, pen.facts.category, pen.facts.target))
    yield from _issue(pen, section, "high", "claim", _unknown(find_claims(text), named))
    yield from _issue(pen, section, "medium", "superlative", _unknown(find_superlatives(text), known))
    yield from _issue(pen, section, "medium", "banned", find_banned(text, pen.facts.avoid))
    yield from _issue(pen, section, "medium", "foreign", _unknown(find_foreign(text), known))
    numbers = tuple(dict.fromkeys(_NUMBER.findall(text.replace(",", ""))))
    told = set(_NUMBER.findall(known.replace(",", "")))
    yield from _issue(pen, section, "low", "number", tuple(n for n in numbers if told and n not in told))


def _unknown(words: tuple[str, ...], known: str) -> tuple[str, ...]:
    return tuple(word for word in words if word not in known)


def _issue(pen: Pen, section: str, severity: str, kind: str, words: tuple[str, ...]) -> Iterator[Issue]:
    if words:
        quoted = ", ".join(f"'{word}'" for word in words[:5])
        yield {
            "section_id": section,
            "severity": severity,
            "message": pen.say(f"review.{kind}", words=quoted),
            "suggestion": pen.say(f"review.{kind}.fix"),
        }


def _dropped(pen: Pen) -> list[Issue]:
    """A note on features that the copy rightly left out."""
    return list(_issue(pen, "", "low", "dropped", pen.facts.claims))
