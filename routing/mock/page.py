"""The product page: its plan and its copy, section by section as the plan wants them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from routing.mock.claims import is_claim, is_superlative
from routing.mock.facts import as_text, clip, first_sentence
from routing.mock.pen import FeatureNote, Pen

__all__ = ["PageWriter", "content_plan", "product_detail"]

Planned = Mapping[str, str]
Written = dict[str, Any]

_MOST_BULLETS = 12

# What a planned section is about, by its type first and its title second: editors of a plan choose their own words.
_KINDS = tuple(
    (kind, re.compile(words, re.IGNORECASE))
    for kind, words in (
        ("hero", r"^hero|intro|cover|첫\s?화면|인트로"),
        ("specs", r"spec|detail|\binfo|사양|제원|스펙|고시|제품\s?정보|상세\s?정보"),
        ("faq", r"faq|q\s?&\s?a|question|물음|질문"),
        ("usage", r"usage|how|guide|routine|recipe|사용|활용|방법|루틴|레시피"),
        ("cta", r"^cta|purchase|\bbuy|order|closing|구매|주문|마무리"),
        ("trust", r"trust|review|cert|proof|guarantee|warranty|testimonial|후기|리뷰|인증|보증|신뢰"),
        ("features", r"feature|benefit|point|ingredient|why|특징|장점|강점|포인트|성분|원료|이유"),
        ("story", r"story|scene|lifestyle|problem|pain|brand|target|이야기|스토리|순간|공감|고민|브랜드|추천"),
    )
)


def kind_of(section: Planned) -> str:
    """Which writer serves a planned section; ``other`` for words that nobody foresaw."""
    for text in (section["type"], section["id"], section["title"]):
        for kind, words in _KINDS:
            if words.search(text):
                return kind
    return "other"


def content_plan(pen: Pen) -> dict[str, Any]:
    kinds = ["hero", "features", "story", "usage", *(["specs"] if pen.details else []), "cta"]
    return {"sections": [{"id": kind, "type": kind, "title": pen.say(f"plan.{kind}")} for kind in kinds]}


def planned_sections(pen: Pen) -> list[Planned]:
    """The payload's plan as far as it is one, else the plan that this pen would make."""
    given = pen.payload.get("sections") if isinstance(pen.payload, Mapping) else None
    sections: list[Planned] = [
        {"id": item["id"], "type": as_text(item.get("type")), "title": clip(as_text(item.get("title")), 80)}
        for item in (given if isinstance(given, list) else [])
        if isinstance(item, Mapping) and isinstance(item.get("id"), str)
    ]
    return sections or list(content_plan(pen)["sections"])


def product_detail(pen: Pen) -> dict[str, Any]:
    """The page's copy; with a revision in the payload, the draft with new words where the review asked for them."""
    plan = planned_sections(pen)
    revision = pen.payload.get("revision") if isinstance(pen.payload, Mapping) else None
    if not isinstance(revision, Mapping):
        return PageWriter(pen, plan).write()
    fresh = PageWriter(pen, plan, turn=1).write()
    draft = revision.get("draft")
    return _revised(draft, fresh, revision.get("issues")) if isinstance(draft, Mapping) else fresh


def _revised(draft: Mapping[str, Any], fresh: dict[str, Any], issues: Any) -> dict[str, Any]:
    """Keep what nobody complained about. An issue without a section concerns headline, subheadline and cta."""
    blamed = {as_text(issue.get("section_id")) for issue in _objects(issues)}
    kept = {as_text(section.get("section_id")): section for section in _objects(draft.get("sections"))}
    ids = {section["section_id"] for section in fresh["sections"]}
    lines = {
        name: fresh[name] if blamed - ids or _unfit(draft.get(name)) else draft[name]
        for name in ("headline", "subheadline", "cta")
    }
    sections = [
        _merged(kept.get(section["section_id"], {}), section, blamed=section["section_id"] in blamed)
        for section in fresh["sections"]
    ]
    return lines | {"sections": sections}


def _objects(value: Any) -> list[Mapping[str, Any]]:
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def _unfit(text: Any) -> bool:
    return not isinstance(text, str) or not text.strip() or is_claim(text) or is_superlative(text)


def _merged(old: Mapping[str, Any], new: Written, *, blamed: bool) -> Written:
    if blamed or _unfit(old.get("heading")) or _unfit(old.get("body")):
        return new
    bullets = old.get("bullets")
    kept = [bullet for bullet in bullets if not _unfit(bullet)] if isinstance(bullets, list) else []
    return {"section_id": new["section_id"], "heading": old["heading"], "body": old["body"], "bullets": kept}


class PageWriter:
    """Writes one page. It remembers what it said, so that no two sections say the same.

    ``turn`` shifts every choice of words: a revision's sections differ from the draft's.
    """

    def __init__(self, pen: Pen, plan: list[Planned], turn: int = 0) -> None:
        self.pen = pen
        self.plan = plan
        self.turn = turn
        self._kinds = [kind_of(section) for section in plan]
        self._written: Counter[str] = Counter()
        self._said: set[str] = set()

    def write(self) -> dict[str, Any]:
        pen = self.pen
        features = pen.facts.features
        headline = "page.headline" if features else "page.headline.bare"
        # The headline holds the first feature, so the line below it goes on with the next ones.
        subheadline = "page.subheadline" if len(features) > 1 else "page.bare"
        return {
            "headline": pen.say(headline, self.turn),
            "subheadline": pen.say(subheadline, self.turn),
            "sections": [self._section(*pair) for pair in zip(self.plan, self._kinds, strict=True)],
            "cta": pen.say("page.cta", self.turn),
        }

    def _section(self, planned: Planned, kind: str) -> Written:
        turn = self.turn + self._written[kind]
        writers: dict[str, Callable[[int], tuple[str, list[str]]]] = {
            "hero": self._hero,
            "features": self._features,
            "story": self._story,
            "usage": self._usage,
            "specs": self._specs,
            "faq": self._faq,
            "trust": self._trust,
            "cta": self._cta,
        }
        body, bullets = writers[kind](turn) if kind in writers else self._other(planned, turn)
        self._written[kind] += 1
        return {
            "section_id": planned["id"],
            "heading": self._heading(planned, kind, turn),
            "body": self._unsaid(body, planned),
            "bullets": self._fresh(bullets),
        }

    def _heading(self, planned: Planned, kind: str, turn: int) -> str:
        title = planned["title"]
        if title and title.lower() != planned["type"].lower() and not _unfit(title):
            return title
        return self.pen.say(f"plan.{kind}" if self.pen.has(f"plan.{kind}") else "plan.features", turn)

    def _unsaid(self, body: str, planned: Planned) -> str:
        """A body that the page does not hold yet: further feature sentences, else the section's own title."""
        sentences = (note.sentence for note in self.pen.notes if note.sentence)
        options = [body, *sentences, f"{planned['title']}: {body}"]
        chosen = next((option for option in options if option not in self._said), options[-1])
        self._said.add(chosen)
        return chosen

    def _fresh(self, bullets: list[str]) -> list[str]:
        """The bullets that no section had before."""
        fresh = [bullet for bullet in dict.fromkeys(bullets) if bullet not in self._said]
        self._said.update(fresh)
        return fresh[:_MOST_BULLETS]

    def _share(self) -> list[FeatureNote]:
        """This section's part of the features, where the plan has several sections for them."""
        notes, sections = list(self.pen.notes), self._kinds.count("features")
        return notes[self._written["features"] :: sections] if len(notes) >= sections else notes

    def _hero(self, turn: int) -> tuple[str, list[str]]:
        pen, facts = self.pen, self.pen.facts
        opening = first_sentence(facts.positioning) if facts.product else facts.positioning
        key = "hero.positioned" if opening else "hero.body"
        body = pen.say(key, turn, hook=pen.say(pen.by_domain("hook")), positioning=opening)
        # A feature that stands alone has its place in the features section.
        lines = facts.key_messages or _lines(pen.notes)
        alone = {feature.lower() for feature in facts.features}
        return body, [line for line in lines if line.lower() not in alone][:5]

    def _features(self, turn: int) -> tuple[str, list[str]]:
        notes = self._share()
        bullets = [
            self.pen.say("features.bullet", feature=note.feature, sentence=note.sentence)
            if note.sentence
            else self.pen.say("features.alone", feature=note.feature)
            for note in notes
        ]
        return self.pen.say("features.body", turn), bullets or self.pen.all("features.bullets")

    def _story(self, turn: int) -> tuple[str, list[str]]:
        opening = self.pen.say(self.pen.by_domain("opening"))
        return self.pen.say("story.body", turn, opening=opening), self.pen.all("story.bullets")

    def _usage(self, turn: int) -> tuple[str, list[str]]:
        advice, *steps = self.pen.all(self.pen.by_domain("usage"))
        return self.pen.say("usage.body", turn, advice=advice), steps

    def _specs(self, turn: int) -> tuple[str, list[str]]:
        lines = [self.pen.say("specs.bullet", name=name, value=value) for name, value in self.pen.details]
        if len(lines) > _MOST_BULLETS:
            lines[_MOST_BULLETS - 1 :] = [" / ".join(lines[_MOST_BULLETS - 1 :])]
        return self.pen.say("specs.body", turn), lines or self.pen.all("specs.bullets")

    def _faq(self, turn: int) -> tuple[str, list[str]]:
        answers = [self.pen.say("faq.bullet", name=name, value=value) for name, value in self.pen.plain_details[:3]]
        return self.pen.say("faq.body", turn), [*self.pen.all("faq.bullets"), *answers]

    def _trust(self, turn: int) -> tuple[str, list[str]]:
        told = [f"{name} {value}" for name, value in self.pen.plain_details[:4]]
        return self.pen.say("trust.body", turn), told or _lines(self.pen.notes)[:4]

    def _cta(self, turn: int) -> tuple[str, list[str]]:
        return self.pen.say("cta.body", turn), []

    def _other(self, planned: Planned, turn: int) -> tuple[str, list[str]]:
        title = planned["title"] or planned["type"] or self.pen.words["category"]
        return self.pen.say("other.body", turn, title=title), _lines(self.pen.notes)[:3]


def _lines(notes: Iterable[FeatureNote]) -> list[str]:
    return [note.line for note in notes if note.line]
