"""The writing hand of the mock: fills a language's phrases with one request's facts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from routing.mock.facts import read_facts
from routing.mock.josa import Word
from routing.mock.variety import pick

__all__ = ["Book", "FeatureNote", "Pen", "compile_rules"]

Rules = tuple[tuple[re.Pattern[str], tuple[str, ...]], ...]


@dataclass(frozen=True)
class Book:
    """A language's phrases.

    Attributes:
        language: ``ko`` or ``en``.
        phrases: variants of each phrase; ``{product:은}`` takes the right particle.
        features: what to say of a feature that matches: a line for headings, a sentence for the body.
        scenes: the moment in which a target uses the product.
    """

    language: str
    phrases: Mapping[str, tuple[str, ...]]
    features: Rules
    scenes: Rules


class FeatureNote(NamedTuple):
    feature: str
    line: str
    sentence: str


def compile_rules(*rules: tuple[str, ...]) -> Rules:
    """Rules from rows of a regular expression and what is said where it matches."""
    return tuple((re.compile(row[0], re.IGNORECASE), row[1:]) for row in rules)


class Pen:
    """Writes about one request's payload. The same payload, language and seed always give the same words."""

    def __init__(self, payload: Any, book: Book, seed: object = None) -> None:
        self.payload = payload
        self.facts = facts = read_facts(payload)
        self.book = book
        self._seed = (seed, facts.subject, book.language)
        self.scene = self._scene()
        self.words = {name: Word(text) for name, text in self._texts().items()}

    def _scene(self) -> str:
        for rule, said in self.book.scenes:
            if rule.search(self.facts.target):
                return said[0]
        return self.book.phrases[f"scene.{self.facts.domain}"][0]

    def _texts(self) -> dict[str, str]:
        facts, fallback = self.facts, self.book.phrases
        subject = facts.subject or fallback["no.product"][0]
        return {
            "product": subject,
            "brand": facts.brand or subject,
            "category": facts.category or fallback["no.category"][0],
            "industry": facts.industry or facts.category or fallback["no.industry"][0],
            "target": facts.target or fallback["no.target"][0],
            "scene": self.scene,
            "first": facts.features[0] if facts.features else subject,
            "second": facts.features[1] if len(facts.features) > 1 else facts.category or subject,
            "features": ", ".join(facts.features[:3]) or facts.category or subject,
        }

    def has(self, key: str) -> bool:
        return key in self.book.phrases

    def fill(self, template: str, **words: str) -> str:
        filled = template.format(**self.words | {name: Word(text) for name, text in words.items()})
        return filled[:1].upper() + filled[1:] if self.book.language == "en" else filled

    def say(self, key: str, turn: int = 0, **words: str) -> str:
        """One variant of a phrase; another ``turn``, another variant."""
        return self.fill(pick(self.book.phrases[key], *self._seed, key, turn=turn), **words)

    def all(self, key: str, **words: str) -> list[str]:
        """Every variant of a phrase, in order."""
        return [self.fill(template, **words) for template in self.book.phrases[key]]

    def by_domain(self, key: str) -> str:
        """The phrase's name for this product's domain, or its general one."""
        own = f"{key}.{self.facts.domain}"
        return own if self.has(own) else f"{key}.general"

    @cached_property
    def notes(self) -> tuple[FeatureNote, ...]:
        """A line and a sentence for each feature, none of them said twice."""
        return tuple(self._notes(self.facts.features))

    def _notes(self, features: Iterable[str]) -> Iterable[FeatureNote]:
        used: set[str] = set()
        for number, feature in enumerate(features):
            fitting = (said for rule, said in self.book.features if rule.search(feature) and said[0] not in used)
            line, sentence = next(fitting, None) or self._default_note(number)
            used.add(line)
            yield FeatureNote(feature, self.fill(line, feature=feature), self.fill(sentence, feature=feature))

    def _default_note(self, number: int) -> list[str]:
        return pick(self.book.phrases["feature.default"], *self._seed, "feature", turn=number).split("|")

    def detail(self, *names: str) -> str:
        """The value of the first fact whose name holds one of the words, e.g. ``가격``."""
        return next((text for key, text in self.details if any(name in key.lower() for name in names)), "")

    @cached_property
    def details(self) -> tuple[tuple[str, str], ...]:
        """The facts, with a bare Korean price as people write it: ``89,000원``."""
        return tuple((name, self._priced(name, text)) for name, text in self.facts.details)

    def _priced(self, name: str, text: str) -> str:
        korean = self.book.language == "ko" and any(word in name for word in self.book.phrases["price.names"])
        return f"{int(text):,}원" if korean and text.isascii() and text.isdecimal() else text
