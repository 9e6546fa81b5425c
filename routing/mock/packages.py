"""Shapes of packages for the placeholder pictures.

Lengths are shares of the package's height: x from its middle, y upwards from the ground that it stands on.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from PIL import ImageDraw

__all__ = [
    "BOTTLE",
    "CARTON",
    "DROPPER",
    "JAR",
    "PACKAGING",
    "POUCH",
    "PUMP",
    "TUB",
    "TUBE",
    "Brush",
    "Color",
    "Package",
    "Part",
]

Point = tuple[float, float]
Box = tuple[float, float, float, float]  # left, top, right, bottom
Color = Literal["body", "cap", "label", "shade", "glow", "sheen"]


@dataclass(frozen=True)
class Brush:
    """Draws in pixels of the picture into a mask of another scale that begins at ``left`` and ``top``."""

    pen: ImageDraw.ImageDraw
    scale: float
    left: float
    top: float

    def _at(self, points: Iterable[Point]) -> list[Point]:
        return [((x - self.left) * self.scale, (y - self.top) * self.scale) for x, y in points]

    def ellipse(self, box: Box) -> None:
        self.pen.ellipse(self._at((box[:2], box[2:])), fill=255)

    def rounded(self, box: Box, radius: float = 0.0, *, only_top: bool = False) -> None:
        corners = (True, True, not only_top, not only_top)
        self.pen.rounded_rectangle(self._at((box[:2], box[2:])), radius * self.scale, fill=255, corners=corners)

    def polygon(self, points: Iterable[Point]) -> None:
        self.pen.polygon(self._at(points), fill=255)


def _placed(box: Box, foot: Point, size: float) -> Box:
    """A box of a package in pixels of the picture."""
    (x, y), (left, top, right, bottom) = foot, box
    return x + left * size, y - top * size, x + right * size, y - bottom * size


@dataclass(frozen=True)
class Part:
    """A rounded rectangle, or the polygon within it where ``points`` are given."""

    color: Color
    box: Box
    radius: float = 0.0
    points: tuple[Point, ...] = ()

    def box_at(self, foot: Point, size: float) -> Box:
        return _placed(self.box, foot, size)

    def draw(self, brush: Brush, foot: Point, size: float) -> None:
        if self.points:
            brush.polygon([(foot[0] + x * size, foot[1] - y * size) for x, y in self.points])
        else:
            brush.rounded(self.box_at(foot, size), self.radius * size)


@dataclass(frozen=True)
class Package:
    """Parts from back to front.

    Attributes:
        aspect: width by height.
        label: where the name goes; an empty box where it goes nowhere.
        edge: how high the sheen along the sides reaches, 0 for things whose sides are not straight.
        label_on: the colour beneath the name.
    """

    aspect: float
    parts: tuple[Part, ...]
    label: Box
    edge: float
    label_on: Color = "label"

    def label_at(self, foot: Point, size: float) -> Box:
        return _placed(self.label, foot, size)

    def edge_at(self, foot: Point, size: float, side: int) -> Box:
        """A narrow upright strip just inside one side (-1 left, 1 right)."""
        middle = side * (self.aspect / 2 - 0.055)
        return _placed((middle - 0.022, self.edge, middle + 0.022, 0.05), foot, size)


CARTON = Package(
    aspect=0.66,
    parts=(
        Part("body", (-0.33, 1.0, 0.33, 0.0), 0.015),
        Part("cap", (-0.33, 1.0, 0.33, 0.86), 0.015),
        Part("label", (-0.25, 0.74, 0.25, 0.16), 0.02),
    ),
    label=(-0.21, 0.70, 0.21, 0.20),
    edge=0.96,
)
_POUCH_OUTLINE = (
    (-0.31, 1.0),
    (0.31, 1.0),
    (0.34, 0.9),
    (0.36, 0.06),
    (0.33, 0.0),
    (-0.33, 0.0),
    (-0.36, 0.06),
    (-0.34, 0.9),
)
POUCH = Package(
    aspect=0.70,
    parts=(
        Part("body", (-0.36, 1.0, 0.36, 0.0), points=_POUCH_OUTLINE),
        Part("cap", (-0.315, 1.0, 0.315, 0.93), 0.005),
        Part("label", (-0.27, 0.78, 0.27, 0.18), 0.05),
    ),
    label=(-0.22, 0.73, 0.22, 0.23),
    edge=0.88,
)
BOTTLE = Package(
    aspect=0.58,
    parts=(
        Part("body", (-0.085, 0.84, 0.085, 0.70)),
        Part("cap", (-0.11, 1.0, 0.11, 0.79), 0.025),
        Part("body", (-0.29, 0.76, 0.29, 0.0), 0.09),
        Part("label", (-0.29, 0.60, 0.29, 0.12)),
    ),
    label=(-0.235, 0.56, 0.235, 0.16),
    edge=0.68,
)
JAR = Package(
    aspect=0.92,
    parts=(
        Part("body", (-0.46, 0.74, 0.46, 0.0), 0.08),
        Part("cap", (-0.43, 0.92, 0.43, 0.70), 0.035),
        Part("label", (-0.46, 0.58, 0.46, 0.14)),
    ),
    label=(-0.38, 0.56, 0.38, 0.16),
    edge=0.66,
)
TUBE = Package(
    aspect=0.50,
    parts=(
        Part("body", (-0.28, 1.0, 0.28, 0.18), points=((-0.28, 1.0), (0.28, 1.0), (0.25, 0.18), (-0.25, 0.18))),
        Part("cap", (-0.21, 0.20, 0.21, 0.0), 0.03),
        Part("label", (-0.22, 0.84, 0.22, 0.34), 0.03),
    ),
    label=(-0.185, 0.80, 0.185, 0.38),
    edge=0.90,
)
TUB = Package(
    aspect=0.86,
    parts=(
        Part("body", (-0.43, 0.84, 0.43, 0.0), points=((-0.43, 0.84), (0.43, 0.84), (0.37, 0.0), (-0.37, 0.0))),
        Part("cap", (-0.45, 0.94, 0.45, 0.80), 0.03),
        Part("label", (-0.34, 0.66, 0.34, 0.14), 0.04),
    ),
    label=(-0.3, 0.62, 0.3, 0.18),
    edge=0.0,
)
DROPPER = Package(
    aspect=0.5,
    parts=(
        Part("cap", (-0.05, 1.0, 0.05, 0.80), 0.05),
        Part("label", (-0.1, 0.84, 0.1, 0.68), 0.015),
        Part("body", (-0.25, 0.70, 0.25, 0.0), 0.07),
        Part("label", (-0.25, 0.54, 0.25, 0.12)),
    ),
    label=(-0.2, 0.51, 0.2, 0.15),
    edge=0.62,
)
PUMP = Package(
    aspect=0.5,
    parts=(
        Part("cap", (-0.02, 0.96, 0.02, 0.76)),
        Part("cap", (-0.17, 1.0, 0.06, 0.94), 0.02),
        Part("cap", (-0.09, 0.80, 0.09, 0.70), 0.015),
        Part("body", (-0.25, 0.72, 0.25, 0.0), 0.08),
        Part("label", (-0.25, 0.56, 0.25, 0.12)),
    ),
    label=(-0.2, 0.53, 0.2, 0.15),
    edge=0.64,
)

PACKAGING = (CARTON, POUCH, BOTTLE, JAR, TUBE, TUB, DROPPER, PUMP)
