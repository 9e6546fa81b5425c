"""What copy must not say: disease claims, superlatives without ground, words that the brand does not use."""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["find_banned", "find_claims", "find_foreign", "find_superlatives", "is_claim", "soften"]

# Cosmetics and health food may not promise to treat or prevent an illness; its name alone suggests it.
_CLAIM = re.compile(
    r"(?:아토피|여드름|피부염|습진|건선|탈모|당뇨|고혈압|고지혈|관절염|비염|천식|우울증|불면증|치매|감기|염증|항암|암세포)"
    r"(?:[을를의]?\s?(?:완화|치료|예방|개선|억제|제거|치유|감소))?"
    r"|완치|(?:질병|질환|통증)[을를의]?\s?(?:완화|치료|예방|개선)|(?<![가-힣])치료(?!\s?용?\s?기)"
    r"|\b(?:eczema|acne|psoriasis|dermatitis|diabetes|hypertension|cancer|arthritis|asthma|insomnia|dementia|atopic)\b"
    r"(?:\s(?:relief|treatment|prevention|care))?"
    r"|\b(?:cures?|heals?|treats?|prevents?)\s(?:disease|illness|pain|inflammation)s?\b",
    re.IGNORECASE,
)
_SUPERLATIVE = re.compile(
    r"(?:업계|국내|세계|전국)\s?(?:최고|최초|최대|1위)(?:의|급)?"
    r"|(?<![가-힣])(?:최고(?:의|급)?|역대급|끝판왕|넘사벽|압도적인|기적의|무조건|완벽한|혁명적인|독보적인)(?![가-힣])"
    r"|(?<!\d)1위(?![가-힣])"
    r"|\b(?:world['’]s\s(?:best|first)|best[- ]ever|number\sone|no\.\s?1|ultimate|revolutionary|unbeatable|miracle)\b",
    re.IGNORECASE,
)
_FOREIGN = re.compile(r"[぀-ヿ㐀-䶿一-鿿]+")


def _found(pattern: re.Pattern[str], text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(match.group().strip() for match in pattern.finditer(text)))


def find_claims(text: str) -> tuple[str, ...]:
    """Regulated claims of the text, e.g. ``아토피 완화``."""
    return _found(_CLAIM, text)


def is_claim(text: str) -> bool:
    return _CLAIM.search(text) is not None


def find_superlatives(text: str) -> tuple[str, ...]:
    return _found(_SUPERLATIVE, text)


def find_foreign(text: str) -> tuple[str, ...]:
    """Chinese characters and kana, which have no place on a Korean or English page."""
    return _found(_FOREIGN, text)


def find_banned(text: str, banned: Iterable[str]) -> tuple[str, ...]:
    return tuple(word for word in banned if word and word in text)


def soften(text: str) -> str:
    """The text without its superlatives; the text itself where nothing else would be left."""
    softened = re.sub(r"\s{2,}", " ", _SUPERLATIVE.sub("", text)).strip(" ,")
    return softened or text
