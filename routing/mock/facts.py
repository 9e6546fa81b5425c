"""What a request's payload tells about a brand and a product, whoever sent it and in whatever shape."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from routing.mock.claims import is_claim, is_superlative, soften
from routing.mock.colors import find_colors, palette_for
from routing.mock.domains import domain_of
from routing.mock.material import Guide, read_guide

__all__ = ["Facts", "as_items", "as_text", "clip", "first_sentence", "leaves", "read_facts", "sentences"]

_DEPTH = 6  # payloads may be nested as deep as JSON allows; nobody writes copy from what lies below
_MAX_TEXT = 8000

_BRANDS = ("brand_input", "brand", "brand_summary", "brand_kit")
_PRODUCTS = ("product_input", "product", "item")
_TEXTS = ("text", "content", "body", "question", "query", "message", "prompt", "input", "topic", "description")

# Lone surrogates cannot be encoded as UTF-8, control characters not be shown.
_SENTENCE_END = re.compile(r"(?<=[.!?。])\s+|\n+")
_IS = re.compile(r"(?:입니다|이에요|예요)[.!]*$")
# Keys that say nothing without the one above them.
_BARE_KEYS = ("name", "text", "value", "id", "title")
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")


@dataclass(frozen=True)
class Facts:
    """Everything that copy may be made of. Strings are empty where the payload says nothing.

    Attributes:
        features: key features that copy may state; ``dropped`` are those that it may not, whole and word for word.
        details: facts as pairs of name and value.
        points: all leaves of the payload as ``name: value``, for tasks that nobody knows.
    """

    brand: str = ""
    industry: str = ""
    product: str = ""
    category: str = ""
    target: str = ""
    features: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    details: tuple[tuple[str, str], ...] = ()
    tone: str = ""
    values: tuple[str, ...] = ()
    colors: tuple[str, ...] = ()
    avoid: tuple[str, ...] = ()
    slogan: str = ""
    positioning: str = ""
    key_messages: tuple[str, ...] = ()
    text: str = ""
    points: tuple[str, ...] = ()
    domain: str = "general"

    @property
    def subject(self) -> str:
        """What the answer is about: the product, else the brand, else the beginning of the text."""
        return self.product or self.brand or topic_of(self.text)


def clip(text: str, length: int) -> str:
    """The text in at most ``length`` characters, cut between words where there are any."""
    if len(text) <= length:
        return text
    cut = text[: length - 1]
    return (cut.rsplit(" ", 1)[0] if " " in cut[length // 2 :] else cut).rstrip(" ,.;:") + "…"


def first_sentence(text: str) -> str:
    return _SENTENCE_END.split(text.strip(), maxsplit=1)[0].strip()


def sentences(text: str) -> list[str]:
    """The sentences that copy may repeat: no claims, no superlatives that could not be taken out."""
    parts = (soften(part.strip()) for part in _SENTENCE_END.split(text) if not is_claim(part))
    return [part for part in parts if part]


def topic_of(text: str) -> str:
    """What a text is about: the subject of its first "this is a ..." sentence, else how it begins."""
    found = sentences(text) or [""]
    naming = next((part for part in found if _IS.search(part)), found[0])
    return clip(_IS.sub("", naming).strip(" .!?~,"), 30)


def as_text(value: Any, depth: int = 0) -> str:
    """Any JSON value as one line of text."""
    if value is None or depth > _DEPTH:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        name = as_text(value.get("name"), depth + 1)
        pairs = ((str(key), as_text(item, depth + 1)) for key, item in value.items())
        return name or ", ".join(f"{key}: {item}" for key, item in pairs if item)
    if isinstance(value, list | tuple):
        return ", ".join(filter(None, (as_text(item, depth + 1) for item in value)))
    return re.sub(r"\s+", " ", _UNPRINTABLE.sub("", str(value)[:_MAX_TEXT])).strip()


def as_items(value: Any) -> tuple[str, ...]:
    """A JSON value as a list of texts, each once; a string is split at its commas and lines."""
    if isinstance(value, str):
        value = re.split(r"[\n;]|,(?!\d{3})\s*", value)
    elif isinstance(value, Mapping):
        value = [f"{key}: {as_text(item)}" for key, item in value.items()]
    elif not isinstance(value, list | tuple):
        value = [value]
    return tuple(dict.fromkeys(filter(None, (clip(as_text(item), 120) for item in value))))


def leaves(value: Any, name: str = "", depth: int = 0) -> Iterator[tuple[str, str]]:
    """All strings and numbers of a JSON value, each with the key nearest to it."""
    if depth > _DEPTH:
        return
    if isinstance(value, Mapping):
        for key, item in value.items():
            word = as_text(key)
            yield from leaves(item, f"{name} {word}" if name and word in _BARE_KEYS else word, depth + 1)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from leaves(item, name, depth + 1)
    elif text := as_text(value):
        yield name, text


def _pairs(value: Any) -> tuple[tuple[str, str], ...]:
    """Facts as pairs, given as an object, as a list of texts or as a list of ``{name, value}``."""
    if isinstance(value, Mapping):
        pairs = [(as_text(key), as_text(item)) for key, item in value.items()]
    elif isinstance(value, list | tuple):
        pairs = [_pair(item) for item in value]
    else:
        pairs = []
    return tuple((clip(name, 60), clip(text, 200)) for name, text in pairs if name and text)


def _pair(item: Any) -> tuple[str, str]:
    if isinstance(item, Mapping):
        name = item.get("name") or item.get("key") or item.get("label")
        return as_text(name), as_text(item.get("value"))
    name, _, value = as_text(item).partition(":")
    return name.strip(), value.strip()


def _part(payload: Mapping[str, Any], names: tuple[str, ...]) -> Mapping[str, Any]:
    """The first of the named parts that is there, as an object; a plain text is taken for its name."""
    for name in names:
        part = payload.get(name)
        if isinstance(part, list) and part:
            part = part[0]
        if isinstance(part, Mapping):
            return part
        if isinstance(part, str | int | float) and as_text(part):
            return {"name": part}
    return {}


def _first(keys: tuple[str, ...], *parts: Mapping[str, Any]) -> Any:
    return next((part[key] for part in parts for key in keys if part.get(key)), None)


def _line(keys: tuple[str, ...], *parts: Mapping[str, Any], length: int = 120) -> str:
    return clip(as_text(_first(keys, *parts)), length)


def _materials(*parts: Mapping[str, Any]) -> list[str]:
    """The texts of uploaded materials, with their lines; file names without a text tell nothing."""
    listed = _first(("uploaded_materials", "materials"), *parts)
    if not isinstance(listed, list):
        return [listed] if isinstance(listed, str) else []
    texts = (item.get("text") if isinstance(item, Mapping) else item for item in listed)
    return [_UNPRINTABLE.sub("", text) for text in texts if isinstance(text, str)]


def read_facts(payload: Any) -> Facts:
    """Read a payload of the six agents, of a gateway's caller, or anything else that is JSON."""
    if isinstance(payload, Mapping):
        return _read(payload)
    text = clip(", ".join(value for _, value in leaves(payload)), _MAX_TEXT)
    return Facts(
        text=text,
        points=_points(payload),
        positioning=clip(" ".join(sentences(text)[:2]), 300),
        colors=find_colors([text]) or palette_for(text),
        domain=domain_of(text),
    )


def _read(payload: Mapping[str, Any]) -> Facts:
    brand, product = _part(payload, _BRANDS), _part(payload, _PRODUCTS)
    brief, top = _part(payload, ("brief", "marketing_brief")), payload
    guide = read_guide(_materials(brand, top))
    brand_name = _line(("name", "brand_name"), brand) or _line(("brand_name",), product, top)
    own_name = "" if brand_name else _line(("name", "title"), top)
    product_name = _line(("name", "product_name", "title"), product) or _line(("product_name",), top) or own_name
    details = _pairs(_first(("facts", "specs", "spec", "details"), product, top))
    ground = "\n".join(f"{key} {value}" for key, value in details)
    features, dropped = _features(
        _first(("key_features", "features", "selling_points", "points"), product, top), ground
    )
    text = _text(payload, known=bool(brand or product))
    category, industry = _line(("category",), product, top), _line(("industry",), brand, top)
    return Facts(
        brand=brand_name,
        industry=industry,
        product=product_name,
        category=category,
        target=_target(_line(("target", "audience", "target_audience"), brief, product, top)),
        features=features,
        dropped=dropped,
        details=details,
        positioning=_positioning(brief, product) or ("" if product_name else clip(" ".join(sentences(text)[:2]), 300)),
        key_messages=_features(_first(("key_messages",), brief), ground)[0],
        text=text,
        points=_points(payload),
        domain=domain_of(category, product_name, industry, text),
        **_voice(brand, guide, brand_name or product_name),
    )


def _positioning(brief: Mapping[str, Any], product: Mapping[str, Any]) -> str:
    """What copy may repeat of the brief's positioning, unless it speaks of a target that was edited away since."""
    text, target = _line(("positioning",), brief, length=300), _line(("target",), product)
    edited = _line(("target",), brief) not in ("", target)
    return "" if edited and target and target in text else " ".join(sentences(text))


def _voice(brand: Mapping[str, Any], guide: Guide, name: str) -> dict[str, Any]:
    """Tone, values and colours: what the brand itself says, then its material, then a palette by its name."""
    tone = _line(("tone", "voice"), brand, length=300)
    banned = read_guide([tone.replace(". ", "\n")]).avoid
    return {
        "tone": tone or guide.tone,
        "values": as_items(brand.get("values"))[:8] if brand.get("values") else guide.values,
        "colors": find_colors(as_items(brand.get("colors"))) or guide.colors or palette_for(name),
        "avoid": guide.avoid or banned,
        "slogan": _line(("slogan",), brand) or guide.slogan,
    }


def _features(value: Any, ground: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Features parted into those that copy may state and those it may not: regulated claims, superlatives.

    Such a feature goes whole, since what is left of "국내 1위를 기록" without its superlative is no Korean.
    """
    items = as_items(value) if value else ()
    dropped = tuple(item for item in items if is_claim(item) or is_superlative(item, ground))
    return tuple(item for item in items if item not in dropped)[:12], dropped


def _target(text: str) -> str:
    """A target that fits into a sentence: without its full stop, only its first clause where it is long."""
    text = text.rstrip(" .!")
    return re.split(r"[.;(\n]|,\s", text, maxsplit=1)[0].strip() if len(text) > 30 else text


def _text(payload: Mapping[str, Any], *, known: bool) -> str:
    """Free text of the payload; without a brand and a product all its leaves together."""
    named = next((payload[key] for key in _TEXTS if payload.get(key)), None)
    if named is None and not known:
        named = [value for _, value in leaves(payload)]
    return clip(as_text(named), _MAX_TEXT)


def _points(payload: Any) -> tuple[str, ...]:
    found = (f"{name}: {clip(text, 160)}" if name else clip(text, 160) for name, text in leaves(payload))
    return tuple(dict.fromkeys(found))[:12]
