"""Which size an image gets, and the sizes that SDXL was trained on.

These are from Podell et al., "SDXL: Improving Latent Diffusion Models for High-Resolution Image Synthesis", arXiv
2307.01952, appendix I. Other sizes work, but subjects get cropped or doubled the farther a size is from these.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import overload

__all__ = [
    "MAX_SIDE",
    "MIN_SIDE",
    "SDXL_BUCKETS",
    "choose_size",
    "closest_bucket",
    "nearest_size",
    "parse_aspect_ratio",
    "parse_size",
]

MIN_SIDE, MAX_SIDE = 64, 4096

# (width, height) in pixels. The paper lists height first; its table really has 1344x704 without its mirror image.
SDXL_BUCKETS: tuple[tuple[int, int], ...] = (
    (2048, 512), (1984, 512), (1920, 512), (1856, 512), (1792, 576), (1728, 576), (1664, 576), (1600, 640),
    (1536, 640), (1472, 704), (1408, 704), (1344, 704), (1344, 768), (1280, 768), (1216, 832), (1152, 832),
    (1152, 896), (1088, 896), (1088, 960), (1024, 960), (1024, 1024), (960, 1024), (960, 1088), (896, 1088),
    (896, 1152), (832, 1152), (832, 1216), (768, 1280), (768, 1344), (704, 1408), (704, 1472), (640, 1536),
    (640, 1600), (576, 1664), (576, 1728), (576, 1792), (512, 1856), (512, 1920), (512, 1984), (512, 2048),
)  # fmt: skip

_RATIO = re.compile(r"([1-9]\d{0,2}):([1-9]\d{0,2})")
_SIZE = re.compile(r"([1-9]\d{0,4})x([1-9]\d{0,4})")


def parse_aspect_ratio(aspect_ratio: str) -> float:
    """Width divided by height of a ratio such as ``"16:9"``.

    Raises:
        ValueError: it is not two whole numbers from 1 to 999 with a colon between them.
    """
    match = _RATIO.fullmatch(aspect_ratio)
    if match is None:
        raise ValueError(f"{aspect_ratio!r} is not an aspect ratio like '16:9'")
    return int(match[1]) / int(match[2])


def parse_size(size: str) -> tuple[int, int]:
    """(width, height) in pixels of a size such as ``"1536x1024"``.

    Raises:
        ValueError: it is not two whole numbers from 1 to 99999 with an x between them.
    """
    match = _SIZE.fullmatch(size)
    if match is None:
        raise ValueError(f"{size!r} is not a size like '1024x1024'")
    return int(match[1]), int(match[2])


def closest_bucket(aspect_ratio: str) -> tuple[int, int]:
    """The (width, height) in pixels of SDXL's training size nearest to ``aspect_ratio``, e.g. 1344x768 for ``"16:9"``.

    Ratios are compared by their logarithms, so that landscape and portrait are treated alike.

    Raises:
        ValueError: as :func:`parse_aspect_ratio`.
    """
    wanted = math.log(parse_aspect_ratio(aspect_ratio))
    return min(SDXL_BUCKETS, key=lambda size: abs(math.log(size[0] / size[1]) - wanted))


@overload
def choose_size(
    width: int | None, height: int | None, aspect_ratio: str | None, default: tuple[int, int]
) -> tuple[int, int]: ...
@overload
def choose_size(
    width: int | None, height: int | None, aspect_ratio: str | None, default: None
) -> tuple[int, int] | None: ...
def choose_size(
    width: int | None, height: int | None, aspect_ratio: str | None, default: tuple[int, int] | None
) -> tuple[int, int] | None:
    """The (width, height) in pixels of an image for which none, some or all of the three were asked.

    Both sides win over the ratio. One side gets the other from the ratio, else from ``default``, else from itself (a
    square). A ratio alone means SDXL's nearest size, and nothing at all ``default`` as it is. What was asked or
    reckoned is rounded to a multiple of 8, which latents need, from MIN_SIDE to MAX_SIDE.

    Raises:
        ValueError: as :func:`parse_aspect_ratio`.
    """
    if width is None and height is None:
        return default if aspect_ratio is None else closest_bucket(aspect_ratio)
    if width is None or height is None:
        if aspect_ratio is not None:
            ratio = parse_aspect_ratio(aspect_ratio)
            other_width, other_height = (height or 0) * ratio, (width or 0) / ratio
        else:
            other_width, other_height = default or (height or 0, width or 0)
        return _side(width or other_width), _side(height or other_height)
    return _side(width), _side(height)


def nearest_size(
    sizes: Sequence[tuple[int, int]], width: int | None, height: int | None, aspect_ratio: str | None
) -> tuple[int, int]:
    """The one of ``sizes``, (width, height) in pixels, that is nearest to what was asked.

    The ratio counts first, by its logarithm, then the area, then the order of ``sizes``. What was not asked is taken
    from the first of them, and a missing side from the ratio where there is one.

    Raises:
        ValueError: as :func:`parse_aspect_ratio`.
    """
    ratio, area = _asked_form(sizes[0], width, height, aspect_ratio)

    def distance(size: tuple[int, int]) -> tuple[float, float]:
        # Rounded, for 3:2 and 2:3 are equally far from 1:1 but for the last bit.
        return (
            round(abs(math.log(size[0] / size[1] / ratio)), 9),
            round(abs(math.log(size[0] * size[1] / area)), 9),
        )

    return min(sizes, key=distance)


def _asked_form(
    default: tuple[int, int], width: int | None, height: int | None, aspect_ratio: str | None
) -> tuple[float, float]:
    """Width divided by height, and the area in pixels, that were asked; ``default`` lends what was not."""
    if width is not None and height is not None:
        return width / height, width * height
    if aspect_ratio is None:
        sides = width or default[0], height or default[1]
        return sides[0] / sides[1], sides[0] * sides[1]
    ratio = parse_aspect_ratio(aspect_ratio)
    if width is None and height is None:
        return ratio, default[0] * default[1]
    return ratio, width * width / ratio if width is not None else (height or 0) ** 2 * ratio


def _side(pixels: float) -> int:
    return min(MAX_SIDE, max(MIN_SIDE, round(pixels / 8) * 8))
