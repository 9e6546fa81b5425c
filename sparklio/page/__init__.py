"""The finished product page: one self-contained HTML file without scripts or requests.

Everything that decides what is shown is here and in :mod:`sparklio.page.palette`; the templates beside this file only
place it. What shoppers see is the reviewed copy and the facts that the seller states, nothing else of the run.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Mapping
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparklio.page.palette import palette

if TYPE_CHECKING:
    from jinja2 import Template
    from markupsafe import Markup

__all__ = ["render_page"]

_KINDS = {
    "hero": ("hero",),
    "features": ("feature", "benefit", "benefits", "point", "points", "특징", "장점"),
    "story": ("about", "brand", "brand_story", "intro", "스토리"),
    "usage": ("how_to", "howto", "how_to_use", "routine", "steps", "사용법"),
    "specs": ("spec", "specification", "specifications", "details", "제원", "상품정보"),
    "faq": ("qna", "q&a", "questions", "질문"),
    "cta": ("call_to_action", "purchase", "구매"),
}
_KIND_OF = {word: kind for kind, words in _KINDS.items() for word in (kind, *words)}

_WORDS = {
    "ko": {
        "specs": "제품 정보",
        "product": "제품명",
        "image": "제품 이미지",
        "yes": "예",
        "no": "아니요",
        "free": "무료",
    },
    "en": {
        "specs": "Product information",
        "product": "Product",
        "image": "product image",
        "yes": "Yes",
        "no": "No",
        "free": "Free",
    },
}
_PRICE_KEYS = ("가격", "판매가", "price")
_WON_KEYS = ("가격", "판매가", "정가", "할인가", "배송비", "배송료")
_DELIVERY_KEYS = ("배송비", "배송료", "shipping", "delivery", "shipping fee", "delivery fee")

_IMAGE_TYPE = re.compile(r"image/[a-z0-9][a-z0-9.+-]{0,40}")
_LABELLED = re.compile(r"^(.{1,28}?)(?:\s*[:：]\s+|\s+[–—-]\s+)(.+)$", re.DOTALL)
# Browsers break a line after a dash or a sign even where Korean would not: "70%|부터", "30-|40대".
_BREAKABLE = re.compile(r"\d[-–~∼/]\d|[0-9가-힣][%℃°][가-힣]|[A-Za-z]-\d")
_WORD = r"[가-힣A-Za-z]+ [-–−]?\d\S*|\S+"  # a figure belongs to the word before it
_LONGEST_UNBROKEN = 12  # characters that fit a phone's line in the largest heading

_QUESTION = re.compile(r"^(?:Q\s*[.:)]\s*)?(.{2,}?\?)\s*(?:A\s*[.:)]\s*)?(.+)$", re.DOTALL)


def render_page(
    result: Mapping[str, Any],
    *,
    product: Mapping[str, Any],
    brand: Mapping[str, Any],
    image: tuple[bytes, str] | None,
    language: str = "ko",
) -> str:
    """The page of a finished run.

    Args:
        result: the content of ``result.json``.
        product: the input's product; its name, category and facts are shown. ``key_features`` are not: they are notes
            for the copywriter that no review has seen.
        brand: the input's brand; its name is shown.
        image: bytes and media type of the hero image, put into the page itself.
        language: ``ko`` or ``en``, for the words that are the page's own.

    Raises:
        ValueError: the image's media type is not one of an image.
    """
    words = _WORDS.get(language, _WORDS["en"])
    facts = _facts(product.get("facts") or {}, language)
    summary = result["brand_summary"]
    return _template().render(
        language=language,
        words=words,
        copy=result["copy"],
        sections=_sections(result, has_facts=bool(facts)),
        brand=str(brand.get("name") or summary["name"]),
        product=str(product["name"]),
        category=str(product.get("category") or ""),
        price=next((value for key, value in facts if key.casefold() in _PRICE_KEYS), ""),
        facts=facts,
        units=_units(product) if language == "ko" else (),
        image=_image(result.get("image") or {}, image),
        palette=palette(summary.get("colors")),
    )


@cache
def _template() -> Template:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined, pass_context

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["grid"] = _grid
    environment.filters["paragraphs"] = _paragraphs
    environment.filters["labelled"] = _labelled
    environment.filters["question"] = _question
    environment.filters["keep"] = pass_context(_keep)
    return environment.get_template("product.html.j2")


def _sections(result: Mapping[str, Any], *, has_facts: bool) -> list[dict[str, Any]]:
    """What to show from top to bottom: hero first, then the plan's order, facts and call to action in any case."""
    written = {section["section_id"]: section for section in result["copy"]["sections"]}
    planned = [_section(plan, written.pop(plan["id"])) for plan in result["sections"] if plan["id"] in written]
    unplanned = [_section({"type": "", "title": ""}, section) for section in written.values()]
    closing = planned.pop() if planned and planned[-1]["kind"] == "cta" else None
    shown = planned + unplanned
    tables = [section for section in shown if section["kind"] == "specs"]
    if has_facts and not tables:
        shown.append(_section({"type": "specs", "title": ""}, {}))
    for extra in tables[1:]:
        extra["kind"] = "default"
    if closing or all(section["kind"] != "cta" for section in shown):
        shown.append(closing or _section({"type": "cta", "title": ""}, {}))
    heroes = [section for section in shown if section["kind"] == "hero"] or [
        _section({"type": "hero", "title": ""}, {})
    ]
    for extra in heroes[1:]:
        extra["kind"] = "default"
    ordered = [heroes[0], *(section for section in shown if section is not heroes[0])]
    for above, section in pairwise(ordered):
        section["joined"] = _surface(above["kind"]) == _surface(section["kind"])
    return ordered


def _surface(kind: str) -> str:
    """The background that the style sheet gives to a kind; neighbours on the same one share their margin."""
    return {"story": "tint", "faq": "tint", "cta": "band", "hero": "hero"}.get(kind, "paper")


def _section(plan: Mapping[str, Any], section: Mapping[str, Any]) -> dict[str, Any]:
    word = re.sub(r"[\s-]+", "_", str(plan["type"]).strip().lower())
    return {
        "kind": _KIND_OF.get(word, "default"),
        "title": plan["title"],
        "heading": section.get("heading", ""),
        "body": section.get("body", ""),
        "bullets": section.get("bullets") or [],
    }


def _facts(facts: Mapping[str, Any], language: str) -> list[tuple[str, str]]:
    return [(str(key), _fact(str(key), value, language)) for key, value in facts.items() if value not in (None, "")]


def _fact(key: str, value: Any, language: str) -> str:
    """A fact as shoppers read it; only an amount that is a bare number is known to be won."""
    words = _WORDS.get(language, _WORDS["en"])
    if isinstance(value, bool):
        return words["yes" if value else "no"]
    if value in (0, "0", "0원") and key.casefold() in _DELIVERY_KEYS:
        return words["free"]
    if isinstance(value, int | float) and language == "ko" and key in _WON_KEYS:
        return f"{value:,.0f}원"
    if isinstance(value, list | tuple):
        return ", ".join(_fact("", item, language) for item in value)
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {_fact('', item, language)}" for name, item in value.items())
    return str(value)


def _image(facts: Mapping[str, Any], image: tuple[bytes, str] | None) -> dict[str, Any] | None:
    """The data URI and, where the result tells it, the size that keeps the page from jumping while it loads."""
    if image is None:
        return None
    data, media_type = image
    if not _IMAGE_TYPE.fullmatch(media_type):
        raise ValueError(f"not the media type of an image: {media_type!r}")
    width, height = facts.get("width"), facts.get("height")
    sized = isinstance(width, int) and isinstance(height, int) and width > 0 and height > 0
    return {
        "src": f"data:{media_type};base64,{b64encode(data).decode('ascii')}",
        "width": width if sized else None,
        "height": height if sized else None,
    }


def _paragraphs(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def _grid(count: int) -> str:
    """The name of the grid in which ``count`` cards leave no hole."""
    if count % 3 == 0:
        return "threes"
    if count == 1:
        return "single"
    return "pairs" if count % 2 == 0 else "led"


def _labelled(text: str) -> tuple[str, str]:
    """Split "label: text" and "label - text"; without a label the text stands alone as ``("", text)``."""
    match = _LABELLED.match(text)
    return (match[1], match[2]) if match else ("", text)


def _question(text: str) -> tuple[str, str]:
    """Split "Q. question? A. answer"; without a question mark the text stands alone as ``("", text)``."""
    match = _QUESTION.match(text)
    return (match[1], match[2]) if match else ("", text)


def _units(product: Mapping[str, Any]) -> tuple[str, ...]:
    """What a heading should not divide, where it has room: the product's name and category; the longest first."""
    names = {str(product.get(key) or "") for key in ("name", "category")}
    return tuple(sorted((name for name in names if " " in name), key=len, reverse=True))


def _keep(context: Mapping[str, Any], text: str) -> Markup:
    """The escaped text with spans for what belongs together: names with their particles, ranges, figures."""
    from markupsafe import Markup, escape

    units = "|".join(rf"{re.escape(name)}\S*" for name in context["units"])
    marked, end = Markup(), 0
    for match in re.finditer(rf"(?P<unit>{units or '(?!)'})|{_WORD}", text):
        word = match.group()
        if len(word) > _LONGEST_UNBROKEN and not match["unit"]:
            word = word.rpartition(" ")[2]
        if match["unit"] or (len(word) <= _LONGEST_UNBROKEN and (" " in word or _BREAKABLE.search(word))):
            kind = "unit" if match["unit"] else "keep"
            marked += escape(text[end : match.end() - len(word)]) + Markup('<span class="{}">{}</span>').format(
                kind, word
            )
            end = match.end()
    return marked + escape(text[end:])
