"""What the bytes of a picture are, looked at as a whole: half a file has a flawless header."""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass

from PIL import Image

__all__ = ["MEDIA_TYPES", "Look", "picture_of"]

MEDIA_TYPES = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}
"""Pillow's names of the formats that we take, with their media types."""

# What Pillow lets out over bytes that are broken behind their header.
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)


@dataclass(frozen=True)
class Look:
    """What a picture's bytes are; sides in pixels."""

    width: int
    height: int
    media_type: str


def picture_of(content: bytes) -> Look:
    """Size and type of a whole PNG, JPEG or WebP image. Decodes it, which takes tens of milliseconds.

    Raises:
        ValueError: it is none, or broken.
    """
    try:
        with Image.open(io.BytesIO(content), formats=list(MEDIA_TYPES)) as image:
            image.load()
            return Look(image.width, image.height, MEDIA_TYPES[str(image.format)])
    except _BROKEN as exc:
        raise ValueError(f"its {len(content)} bytes are no whole PNG, JPEG or WebP image") from exc
