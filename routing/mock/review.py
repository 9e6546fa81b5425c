"""The reviewer: checks a copy for what a page must not say, and approves it otherwise."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from routing.mock.claims import find_banned, find_claims, find_foreign, find_superlatives, is_claim
from routing.mock.facts import leaves
from routing.mock.pen import Pen
from routing.mock.variety import stable_number

__all__ = ["style_check"]

Issue = dict[str, str]

_COST = {"low": 1, "medium": 8, "high": 30}
_LOWEST_SCORE = 20
_MOST_ISSUES = 20
_MOST_COUNTED = 3  # a dropped feature is a note to the seller, no fault of the copy
_HIGHEST_WITH_DROPPED = 94
_NUMBER = re.compile(r"\d+(?:\.\d+)?")


def style_check(pen: Pen) -> dict[str, Any]:
    """Approved unless an issue is of high severity; the score starts between 93 and 97."""
    known = _known(pen.payload)
    passages = list(_passages(pen.payload))
    found = [issue for section, text in passages for issue in _issues(pen, section, text, known)]
    dropped = _dropped(pen, "\n".join(text for _, text in passages))
    approved = all(issue["severity"] != "high" for issue in found)
    score = 93 + stable_number(pen.facts.subject) % 5 - sum(_COST[issue["severity"]] for issue in found)
    if dropped:
        score = min(score - min(len(dropped), _MOST_COUNTED), _HIGHEST_WITH_DROPPED)
    flagged = any(issue["severity"] != "low" for issue in found)
    summary = pen.say("review.bad" if not approved else "review.noted" if flagged else "review.good")
    if dropped:
        summary += " " + pen.say("review.left", count=str(len(dropped)))
    return {
        "approved": approved,
        "score": max(_LOWEST_SCORE, score),
        "issues": (found + dropped)[:_MOST_ISSUES],
        "summary": summary,
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
    facts = pen.facts
    named = "\n".join((facts.brand, facts.product, facts.category, facts.target))
    ground = "\n".join((named, *(f"{name} {value}" for name, value in facts.details)))
    yield from _issue(pen, section, "high", "claim", _unknown(find_claims(text), named))
    yield from _issue(pen, section, "medium", "superlative", _unknown(find_superlatives(text), ground))
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


def _dropped(pen: Pen, copy: str) -> list[Issue]:
    """A note on each feature that the copy rightly left out."""
    return [
        issue
        for feature in pen.facts.dropped
        if feature not in copy
        for kind in ("dropped.claim" if is_claim(feature) else "dropped.superlative",)
        for issue in _issue(pen, "", "low", kind, (feature,))
    ]
