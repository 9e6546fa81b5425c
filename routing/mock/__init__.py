"""Mock answers: text and pictures made from the request alone, with no server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from routing.mock.text import answer_text

__all__ = ["answer_text", "draw_image"]


def draw_image(
    *, prompt: str, kind: str, brand: Mapping[str, Any], width: int, height: int, seed: int, photo: bytes | None = None
) -> bytes:
    """A PNG that stands in for the generated picture; see :func:`routing.mock.images.draw_image`."""
    # Pillow takes a while to load, and text needs none of it.
    from routing.mock.images import draw_image as draw

    return draw(prompt=prompt, kind=kind, brand=brand, width=width, height=height, seed=seed, photo=photo)
