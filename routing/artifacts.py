"""The shapes of what the agents produce, as pydantic models. Mock and live answers pass the same ones.

They are lenient where a small model errs harmlessly (unknown fields are dropped, ``#RRGGBB`` is found inside a longer
colour text) and strict where the page would suffer: an error here becomes the text of the repair call. Some checks need
the request: its payload comes as the validation context.
"""

from __future__ import annotations

import re
from copy import deepcopy
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationInfo,
    field_validator,
    model_validator,
)

__all__ = [
    "Artifact",
    "BlogPost",
    "BrandKit",
    "BrandSummary",
    "ContentPlan",
    "CopySection",
    "Headlines",
    "ImagePrompt",
    "MarketingBrief",
    "PlannedSection",
    "ProductDetail",
    "Reasoning",
    "ReviewIssue",
    "Rewrite",
    "SnsPosts",
    "StyleReview",
    "Summary",
    "Tags",
]

_HEX = re.compile(r"#[0-9A-Fa-f]{6}\b")

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
OptionalText = Annotated[str, StringConstraints(strip_whitespace=True)]
SectionId = Annotated[str, StringConstraints(strip_whitespace=True, pattern=r"^[A-Za-z0-9_-]{1,40}$")]


def _hex_colors(value: object) -> object:
    """Keep ``#RRGGBB`` of each item: models write "charcoal #22262B" where a code was asked for."""
    if not isinstance(value, list):
        return value
    found = [_HEX.search(item) for item in value if isinstance(item, str)]
    return [match.group().upper() for match in found if match]


Colors = Annotated[list[str], BeforeValidator(_hex_colors)]


class Artifact(BaseModel):
    """Base of all outputs; ``extra="ignore"`` because models like to add fields."""

    model_config = ConfigDict(extra="ignore")

    @classmethod
    def schema_for(cls, payload: Any) -> dict[str, Any]:
        """The JSON schema of an answer to this payload; narrower than the model where the payload says so."""
        return deepcopy(_schema(cls))


@cache
def _schema(model: type[Artifact]) -> dict[str, Any]:
    """pydantic takes milliseconds to write a schema, and every call needs one."""
    return model.model_json_schema()


class BrandSummary(Artifact):
    name: Text
    tone: Text = Field(description="the brand's voice in one or two sentences")
    values: list[Text] = Field(min_length=1, max_length=8)
    colors: Colors = Field(default=[], max_length=8, description="#RRGGBB codes")


class BrandKit(BrandSummary):
    slogan: Text
    keywords: list[Text] = Field(min_length=1, max_length=12)
    typography: Text
    do: list[Text] = Field(default=[], max_length=10)
    avoid: list[Text] = Field(default=[], max_length=10)


class MarketingBrief(Artifact):
    target: Text
    positioning: Text
    key_messages: list[Text] = Field(min_length=1, max_length=8)


class PlannedSection(Artifact):
    id: SectionId
    type: Text = Field(description="hero, features, story, specs, usage, faq, cta or another word")
    title: Text


class ContentPlan(Artifact):
    sections: list[PlannedSection] = Field(min_length=2, max_length=12)

    @model_validator(mode="after")
    def _hero_first(self) -> ContentPlan:
        ids = [section.id for section in self.sections]
        if len(set(ids)) < len(ids):
            raise ValueError(f"section ids must differ, got {ids}")
        types = [section.type.lower() for section in self.sections]
        if "hero" not in types:
            raise ValueError("the first section must have type 'hero'")
        hero = self.sections.pop(types.index("hero"))
        hero.type = "hero"
        self.sections.insert(0, hero)
        return self


class CopySection(Artifact):
    section_id: SectionId
    heading: Text
    body: Text
    bullets: list[Text] = Field(default=[], max_length=12)


class ProductDetail(Artifact):
    """The page's copy. With ``sections`` in the payload there is exactly one copy section for each, in that order."""

    headline: Text
    subheadline: Text
    sections: list[CopySection] = Field(min_length=1, max_length=12)
    cta: Text

    @classmethod
    def schema_for(cls, payload: Any) -> dict[str, Any]:
        schema = super().schema_for(payload)
        if planned := _planned_ids(payload):
            schema["$defs"]["CopySection"]["properties"]["section_id"] = {"type": "string", "enum": planned}
            schema["properties"]["sections"] |= {"minItems": len(planned), "maxItems": len(planned)}
        return schema

    @model_validator(mode="after")
    def _follows_plan(self, info: ValidationInfo) -> ProductDetail:
        planned = _planned_ids(info.context)
        if planned:
            written = [section.section_id for section in self.sections]
            if sorted(written) != sorted(planned):
                raise ValueError(f"sections must hold exactly these section_id values: {planned}; got {written}")
            self.sections.sort(key=lambda section: planned.index(section.section_id))
        return self


def _planned_ids(payload: Any) -> list[str]:
    sections = payload.get("sections") if isinstance(payload, dict) else None
    if not isinstance(sections, list):
        return []
    return [section["id"] for section in sections if isinstance(section, dict) and isinstance(section.get("id"), str)]


class ImagePrompt(Artifact):
    """Written in English whatever the page's language: SDXL's text encoders know little else."""

    prompt: Text
    negative_prompt: OptionalText = ""


class ReviewIssue(Artifact):
    section_id: OptionalText = Field(default="", description="empty: the page as a whole")
    severity: Literal["low", "medium", "high"] = "medium"
    message: Text
    suggestion: OptionalText = ""

    @field_validator("severity", mode="before")
    @classmethod
    def _lower(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value


class StyleReview(Artifact):
    approved: bool
    score: int = Field(ge=0, le=100)
    issues: list[ReviewIssue] = Field(default=[], max_length=20)
    summary: Text


class SnsPosts(Artifact):
    class Post(Artifact):
        channel: Text
        text: Text
        hashtags: list[Text] = Field(default=[], max_length=15)

    posts: list[Post] = Field(min_length=1, max_length=6)


class Headlines(Artifact):
    headlines: list[Text] = Field(min_length=1, max_length=10)


class Rewrite(Artifact):
    text: Text
    changes: list[Text] = Field(default=[], max_length=10)


class Summary(Artifact):
    summary: Text


class Tags(Artifact):
    tags: list[Text] = Field(min_length=1, max_length=20)


class Reasoning(Artifact):
    conclusion: Text
    steps: list[Text] = Field(min_length=1, max_length=12)


class BlogPost(Artifact):
    class Paragraphs(Artifact):
        heading: Text
        body: Text

    title: Text
    intro: Text
    sections: list[Paragraphs] = Field(min_length=1, max_length=10)
    outro: Text
