"""The options of an image request that every provider of images reads; each adds its own."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator

from providers.base import Options, Photo
from providers.errors import RejectedError
from providers.media.sizes import parse_aspect_ratio

__all__ = ["ImageWish"]


class ImageWish(BaseModel):
    """Options that are not known here are somebody else's business. Sizes in pixels."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    negative_prompt: str | None = Field(default=None, max_length=8000)
    seed: int | None = Field(default=None, ge=0, lt=2**64)
    width: int | None = Field(default=None, ge=16, le=16384)
    height: int | None = Field(default=None, ge=16, le=16384)
    aspect_ratio: str | None = None
    photo: Photo | None = None
    idempotency_key: Annotated[str, StringConstraints(pattern=r"^[\x21-\x7e]{1,300}$")] | None = None

    @field_validator("aspect_ratio")
    @classmethod
    def _is_ratio(cls, value: str | None) -> str | None:
        if value is not None:
            parse_aspect_ratio(value)
        return value

    @classmethod
    def read(cls, options: Options, *, provider: str) -> Self:
        """The wish in ``options``.

        Raises:
            RejectedError: they cannot be used.
        """
        try:
            return cls.model_validate(dict(options))
        except ValidationError as exc:
            problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in exc.errors()[:3])
            raise RejectedError(
                f"the image options cannot be used: {problems}",
                provider=provider,
                hint="mend them in the request or in media_routing of provider_config.yaml",
            ) from exc
