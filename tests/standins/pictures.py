"""Pictures that stand-ins draw."""

from __future__ import annotations

import io

from PIL import Image, ImageDraw, ImageStat

__all__ = ["GREEN", "drawn", "mean_colour", "picture_format", "picture_size"]

Colour = tuple[int, int, int]
GREEN = (47, 107, 79)


def drawn(width: int, height: int, *, colour: Colour = GREEN, form: str = "PNG") -> bytes:
    """A picture of that size in pixels; all but a thin ring is of that colour."""
    image = Image.new("RGB", (width, height), colour)
    box = (width // 4, height // 4, width * 3 // 4, height * 3 // 4)
    ImageDraw.Draw(image).ellipse(box, outline=(244, 239, 230), width=max(1, width // 100))
    out = io.BytesIO()
    image.save(out, form)
    return out.getvalue()


def mean_colour(picture: bytes) -> Colour:
    with Image.open(io.BytesIO(picture)) as image:
        red, green, blue = ImageStat.Stat(image.convert("RGB")).mean
    return round(red), round(green), round(blue)


def picture_format(data: bytes) -> str | None:
    """Pillow's name of the format; None where the bytes are no picture."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            return image.format
    except OSError:
        return None


def picture_size(data: bytes) -> tuple[int, int]:
    """Width and height in pixels."""
    with Image.open(io.BytesIO(data)) as image:
        return image.size
