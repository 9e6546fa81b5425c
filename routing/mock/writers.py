"""What each task of the catalogue answers, as the fields of its output model."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from routing.mock.claims import find_claims, find_superlatives
from routing.mock.colors import color_name
from routing.mock.domains import english_noun
from routing.mock.facts import clip, sentences
from routing.mock.josa import strip_josa
from routing.mock.page import PageWriter, content_plan, product_detail
from routing.mock.pen import Pen
from routing.mock.review import style_check
from routing.mock.variety import pick

__all__ = ["WRITERS", "generic"]

Fields = dict[str, Any]

_FEW = 3
_VERB = re.compile(r"[가-힣](?:[다요는은한된할인며고서게라]|해)$")
_LIGHTS = (
    "soft window light from the left",
    "soft window light from the right",
    "diffused studio light",
    "warm morning light",
)
_SETTINGS = {
    "audio": "on a smooth stone surface, calm commuting mood",
    "computer": "on a tidy wooden desk",
    "app": "held upright on a tidy desk",
    "furniture": "in a quiet bright room",
    "kitchen": "on a clean kitchen counter",
    "accessory": "against a plain textured wall",
    "supplement": "on a bright kitchen counter, fresh active mood",
    "beauty": "on a pale stone surface with water ripples and green leaves",
    "drink": "on a wooden table, relaxed cafe mood",
    "food": "on a linen tablecloth, appetizing mood",
    "outdoor": "outdoors on natural ground, open sky behind",
    "fashion": "against a plain textured wall",
    "living": "in a quiet bright living room",
    "kids": "in a bright playroom with soft shapes",
    "pet": "on a soft rug in a bright room",
}
_PLAIN_SETTING = "on a clean plinth, seamless studio background"
_FRAMINGS = {
    "hero": "wide hero banner composition, generous empty space beside the product",
    "concept": "conceptual still life, sculptural geometric props",
    "thumbnail": "tight close-up, simple background, instantly readable silhouette",
    "product_shot": "centered product shot, eye-level three-quarter view",
}
_NEGATIVE = (
    "text, letters, logo, watermark, label writing, people, hands, blurry, low quality, deformed, "
    "duplicate product, oversaturated, cluttered background"
)
_PLACES = (
    (re.compile(r"캠핑|백패킹|camp", re.IGNORECASE), "at a campsite on a wooden table"),
    (re.compile(r"지하철|출퇴근|통근|commut", re.IGNORECASE), "on a smooth surface, quiet commuting mood"),
    (re.compile(r"직장인|사무실|office|개발자|programmer", re.IGNORECASE), "on a tidy desk in a bright office"),
    (re.compile(r"운동|헬스|러닝|gym|runner|fitness", re.IGNORECASE), "on a gym bench, active mood"),
    (re.compile(r"여행|travel", re.IGNORECASE), "beside a travel bag, bright mood"),
)


def brand_summary(pen: Pen) -> Fields:
    facts = pen.facts
    tone = facts.tone or pen.say(pen.by_domain("tone"))
    if facts.avoid and not any(word in tone for word in facts.avoid):
        tone += " " + pen.say("brand.avoid", words=", ".join(f'"{word}"' for word in facts.avoid))
    values = list(facts.values) or pen.all(pen.by_domain("values"))
    return {"name": pen.words["brand"], "tone": tone, "values": values[:8], "colors": list(facts.colors)}


def brand_kit(pen: Pen) -> Fields:
    summary = brand_summary(pen)
    keywords = [*summary["values"], pen.facts.category, pen.facts.industry, *pen.facts.features]
    return summary | {
        "slogan": pen.facts.slogan or pen.say("kit.slogan", value=summary["values"][0]),
        "keywords": _distinct(keywords)[:12],
        "typography": pen.say("kit.typography"),
        "do": pen.all("kit.do"),
        "avoid": (list(pen.facts.avoid) + pen.all("kit.avoid"))[:10],
    }


def marketing_brief(pen: Pen) -> Fields:
    facts = pen.facts
    positioning = pen.say("brief.positioning" if facts.features else "brief.positioning.bare")
    if facts.tone:
        # The copywriter gets the brief without the brand, so the voice travels in here.
        positioning += " " + pen.say("brief.tone", tone=facts.tone)
    messages = [
        pen.say("brief.message", feature=note.feature, line=note.line)
        if note.line
        else pen.say("features.alone", feature=note.feature)
        for note in pen.notes[:4]
    ]
    if facts.values and facts.brand and len(messages) < _FEW:
        messages.append(pen.say("brief.value", values=", ".join(facts.values[:3])))
    return {
        "target": pen.words["target"],
        "positioning": positioning,
        "key_messages": messages or pen.all("brief.bare"),
    }


def sns(pen: Pen) -> Fields:
    opening = pen.say(pen.by_domain("opening"))
    hashtags = _distinct([_hashtag(tag) for tag in _tags(pen)])
    texts = pen.all("sns.posts" if pen.facts.features else "sns.posts.bare", opening=opening)
    channels = pen.all("sns.channels")
    return {
        "posts": [
            {"channel": channel, "text": text, "hashtags": hashtags[:8]}
            for channel, text in zip(channels, texts, strict=True)
        ]
    }


def _hashtag(tag: str) -> str:
    """The tag as one word, empty if nothing is left. Figures with a sign go: #무게41g would not be 4.1g."""
    words = (word for word in tag.split() if not (re.search(r"\d", word) and re.search(r"[^0-9A-Za-z가-힣]", word)))
    joined = re.sub(r"[^0-9A-Za-z가-힣]", "", "".join(words))
    return f"#{joined}" if joined else ""


def headline(pen: Pen) -> Fields:
    return {"headlines": pen.all("headlines" if pen.facts.features else "headlines.bare")}


def blog_post(pen: Pen) -> Fields:
    page = PageWriter(pen, content_plan(pen)["sections"]).write()
    wanted = [section for section in page["sections"] if section["section_id"] in ("story", "features", "usage")]
    return {
        "title": pen.say("blog.title"),
        "intro": pen.say("blog.intro", opening=pen.say(pen.by_domain("opening"))),
        "sections": [
            {"heading": section["heading"], "body": "\n".join([section["body"], *section["bullets"]])}
            for section in wanted
        ],
        "outro": pen.say("blog.outro"),
    }


def image_prompt(pen: Pen) -> Fields:
    """In English whatever the language: image models know little else. The product's name stays as it is."""
    facts = pen.facts
    kind = _image_kind(pen.payload)
    packaging = "the product exactly as in the photo" if _from_photo(pen.payload) else "unbranded plain packaging"
    noun = english_noun(facts.domain, facts.category, facts.product, facts.text)
    named = facts.subject if facts.subject.lower() not in noun.lower() else ""
    place = next((said for rule, said in _PLACES if rule.search(facts.target)), None)
    parts = (
        f"professional product photography, {noun}",
        named,
        place or _SETTINGS.get(facts.domain, _PLAIN_SETTING),
        _FRAMINGS.get(kind, f"{kind} composition" if kind.isascii() else _FRAMINGS["product_shot"]),
        "color palette of " + " and ".join(dict.fromkeys(map(color_name, facts.colors[:3]))),
        pick(_LIGHTS, "light", facts.subject, kind),
        f"shallow depth of field, realistic materials, sharp focus, high detail, {packaging}",
    )
    return {"prompt": ", ".join(part for part in parts if part), "negative_prompt": _NEGATIVE}


def _image_kind(payload: Any) -> str:
    parts = [payload.get("image"), payload] if isinstance(payload, Mapping) else []
    kinds = (part.get("kind") for part in parts if isinstance(part, Mapping))
    return next((kind.strip()[:40] for kind in kinds if isinstance(kind, str) and kind.strip()), "product_shot")


def _from_photo(payload: Any) -> bool:
    image = payload.get("image") if isinstance(payload, Mapping) else None
    return isinstance(image, Mapping) and image.get("from_photo") is True


def rewrite(pen: Pen) -> Fields:
    """Mends what an editor would: superlatives, claims, spaces, rows of exclamation marks."""
    original = pen.facts.text
    if not original:
        return {"text": _described(pen), "changes": pen.all("rewrite.written")}
    text = re.sub(r"\s{2,}", " ", re.sub(r"[!~]+", ".", " ".join(sentences(original))))
    removed = find_superlatives(original) + find_claims(original)
    changes = [pen.say("rewrite.removed", words=", ".join(f"'{word}'" for word in removed))] if removed else []
    if not changes:
        changes = pen.all("rewrite.marks" if text != original else "rewrite.kept")
    return {"text": text or _described(pen), "changes": changes}


def _described(pen: Pen) -> str:
    return pen.say("rewrite.product" if pen.facts.features else "summary.plain")


def short_summary(pen: Pen) -> Fields:
    facts = pen.facts
    if facts.text and not facts.product:
        told = sentences(facts.text) or [facts.text]
        return {"summary": clip(" ".join(told[:2]), 200)}
    return {"summary": pen.say("summary" if facts.features else "summary.plain" if facts.product else "summary.bare")}


def tagging(pen: Pen) -> Fields:
    return {"tags": _tags(pen)}


def heavy_reasoning(pen: Pen) -> Fields:
    facts = pen.facts
    known = [f"{name} {value}" for name, value in pen.details] + list(facts.features)
    known = known or sentences(facts.text) or list(facts.points)
    asked = clip(facts.text, 120) or pen.words["product"]
    steps = [pen.say("reason.asked", text=asked)]
    if known:
        steps.append(pen.say("reason.facts", text=", ".join(known[:6])))
    steps += pen.all("reason.limits")
    core = ", ".join(known[:3]) if known else asked
    return {"conclusion": pen.say("reason.end", text=core), "steps": steps}


def generic(pen: Pen, task: str) -> Fields:
    """The answer for a pair that the catalogue does not hold."""
    points = [point for point in pen.facts.points if point]
    return {"result": pen.say("generic.result" if points else "generic.empty", task=task), "points": points}


def _distinct(items: list[str]) -> list[str]:
    return list(dict.fromkeys(filter(None, items)))


def _tags(pen: Pen) -> list[str]:
    facts = pen.facts
    tags = _distinct([facts.product, facts.brand, facts.category, facts.industry, *facts.features])
    words = map(strip_josa, re.findall(r"[0-9A-Za-z가-힣]{2,}", " ".join(sentences(facts.text))))
    nouns = [word for word in words if not _VERB.search(word) and len(word) > 1]
    return _distinct(tags + nouns)[:12] or [pen.words["product"]]


WRITERS: Mapping[str, Callable[[Pen], Fields]] = MappingProxyType(
    {
        "brand_summary": brand_summary,
        "brand_kit": brand_kit,
        "marketing_brief": marketing_brief,
        "content_plan": content_plan,
        "product_detail": product_detail,
        "sns": sns,
        "headline": headline,
        "blog_post": blog_post,
        "image_prompt": image_prompt,
        "style_check": style_check,
        "rewrite": rewrite,
        "short_summary": short_summary,
        "tagging": tagging,
        "heavy_reasoning": heavy_reasoning,
    }
)
