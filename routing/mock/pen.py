"""The writing hand of the mock: fills a language's phrases with one request's facts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from routing.mock.claims import is_claim
from routing.mock.facts import read_facts
from routing.mock.josa import Word
from routing.mock.variety import pick

__all__ = ["Book", "FeatureNote", "Pen", "compile_rules"]

Rules = tuple["Rule", ...]

_FREE = re.compile(r"배송(?:비|료)|배달비|shipping|delivery", re.IGNORECASE)


def by_domain(**kinds: Mapping[str, str | tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """Phrases by ``kind.domain``, from a table for each kind; a single phrase is a choice of one."""
    return {
        f"{kind}.{domain}": (said,) if isinstance(said, str) else said
        for kind, table in kinds.items()
        for domain, said in table.items()
    }


@dataclass(frozen=True)
class Book:
    """A language's phrases.

    Attributes:
        language: ``ko`` or ``en``.
        phrases: variants of each phrase; ``{product:은}`` takes the right particle.
        features: what to say of a feature: a line for headings, a sentence for the body.
        scenes: the moment in which a target uses the product.
    """

    language: str
    phrases: Mapping[str, tuple[str, ...]]
    features: Rules
    scenes: Rules


class Rule(NamedTuple):
    """What is ``said`` of a text that the ``words`` match, for products of these ``domains``, or of any."""

    domains: frozenset[str]
    words: re.Pattern[str]
    said: tuple[str, ...]

    def fits(self, domain: str, text: str) -> bool:
        return (not self.domains or domain in self.domains) and self.words.search(text) is not None


class FeatureNote(NamedTuple):
    """``line`` and ``sentence`` are empty where the feature is best left to speak for itself."""

    feature: str
    line: str
    sentence: str


def compile_rules(*rules: tuple[str, ...]) -> Rules:
    """Rules from rows of domains, a regular expression and what is said where both fit.

    The same word means another thing elsewhere: 수분 in a cream is not 수분 under a pot's lid.
    """
    return tuple(Rule(frozenset(row[0].split()), re.compile(row[1], re.IGNORECASE), row[2:]) for row in rules)


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
        facts = self.facts
        fitting = (rule.said[0] for rule in self.book.scenes if rule.fits(facts.domain, facts.target))
        return next(fitting, self.book.phrases[f"scene.{facts.domain}"][0])

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
            "rest": " · ".join(facts.features[1:3]),
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
        for feature in features:
            fitting = (rule.said for rule in self.book.features if rule.fits(self.facts.domain, feature))
            line, sentence = next((said for said in fitting if said[0] not in used), ("", ""))
            used.add(line)
            yield FeatureNote(feature, self.fill(line), self.fill(sentence))

    def detail(self, *names: str) -> str:
        """The value of the first fact whose name holds one of the words, e.g. ``가격``."""
        return next((text for key, text in self.details if any(name in key.lower() for name in names)), "")

    @cached_property
    def details(self) -> tuple[tuple[str, str], ...]:
        """The facts that copy may repeat, with bare amounts as people write them: ``89,000원``, ``무료``."""
        pairs = ((name, self._priced(name, text)) for name, text in self.facts.details)
        return tuple(pair for pair in pairs if not is_claim(" ".join(pair)))

    @property
    def plain_details(self) -> tuple[tuple[str, str], ...]:
        """The details without the price, which has its own places on the page."""
        prices = self.book.phrases["price.names"]
        return tuple(pair for pair in self.details if not any(word in pair[0].lower() for word in prices))

    def _priced(self, name: str, text: str) -> str:
        if _FREE.search(name) and text in ("0", "0원"):
            return self.book.phrases["free"][0]
        korean = self.book.language == "ko" and (
            _FREE.search(name) or any(word in name for word in self.book.phrases["price.names"])
        )
        return f"{int(text):,}원" if korean and text.isascii() and text.isdecimal() else text
