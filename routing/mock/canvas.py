"""A canvas with the few things that placeholder pictures are made of: a set, solids, packages, lettering.

Lengths and places are pixels of the picture. Shapes are drawn into masks twice as large, so their edges are smooth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from random import Random

from PIL import Image, ImageDraw, ImageFilter, ImageOps

from routing.mock.colors import RGB, rgb_of
from routing.mock.lettering import fit_text, text_mask
from routing.mock.packages import Brush, Package

__all__ = ["WHITE", "Box", "Canvas", "Palette", "lightness", "mix", "palette_of"]

Box = tuple[float, float, float, float]  # left, top, right, bottom

WHITE: RGB = (255, 255, 255)
_INK: RGB = (28, 30, 34)
_SHARP, _SOFT = 2, 0.25  # scale of a mask: shadows have no edges that would need more


@dataclass(frozen=True)
class Palette:
    """``ground`` and ``floor`` of the set, ``body`` of the product, ``accent``, and ``ink`` for lettering."""

    ground: RGB
    floor: RGB
    body: RGB
    accent: RGB
    ink: RGB


def lightness(color: RGB) -> float:
    """How bright a colour looks, 0-1."""
    return (0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2]) / 255


def mix(one: RGB, other: RGB, share: float) -> RGB:
    """``share`` of the other colour mixed into the first."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(one, other, strict=True))
    return red, green, blue


def palette_of(colors: Iterable[str]) -> Palette:
    """Light ground, dark body, vivid accent, as far as the brand has them; what is missing is mixed."""
    known = sorted(map(rgb_of, colors), key=lightness)
    accent = max(known, key=lambda color: max(color) - min(color))
    dark = known[0] if lightness(known[0]) < 0.6 else mix(known[0], _INK, 0.6)
    light = known[-1] if lightness(known[-1]) > 0.6 else mix(known[-1], WHITE, 0.75)
    ground = mix(light, WHITE, 0.35)
    if len(known) == 1:
        accent = mix(accent, WHITE, 0.35) if lightness(accent) < 0.5 else mix(accent, _INK, 0.2)
    ink = dark if lightness(dark) < 0.45 else _INK
    return Palette(ground, mix(ground, dark, 0.10), dark, accent, mix(ink, _INK, 0.35))


class Canvas:
    """One picture in the making. ``unit`` is the length that things are sized by, ``from_left`` the light's side."""

    def __init__(self, width: int, height: int, palette: Palette, chance: Random) -> None:
        self.width, self.height = width, height
        self.palette = palette
        self.chance = chance
        self.unit = min(height, width * 0.75)
        self.from_left = chance.random() < 0.5
        self.image = self._wall()

    def _wall(self) -> Image.Image:
        """A wall that fades from the light's side; drawn small and stretched, since it has no edges."""
        side = 32
        x0, y0 = side * (0.15 if self.from_left else 0.85), side * self.chance.uniform(0.05, 0.3)
        lit, shade = mix(self.palette.ground, WHITE, 0.4), mix(self.palette.ground, self.palette.body, 0.22)
        small = Image.new("RGB", (side, side))
        small.putdata(
            [
                mix(lit, shade, min(1.0, ((x - x0) ** 2 + (y - y0) ** 2) / (1.2 * side) ** 2))
                for y in range(side)
                for x in range(side)
            ]
        )
        return small.resize((self.width, self.height), Image.Resampling.BICUBIC)

    def paint(
        self, color: RGB, box: Box, draw: Callable[[Brush], None], opacity: float = 1.0, blur: float = 0.0
    ) -> None:
        """What ``draw`` draws within ``box``, in one colour; ``blur`` in units."""
        scale, spread = (_SOFT, 3 * blur * self.unit) if blur else (_SHARP, 1.0)
        left, top = max(0, round(box[0] - spread)), max(0, round(box[1] - spread))
        right, bottom = min(self.width, round(box[2] + spread)), min(self.height, round(box[3] + spread))
        if right <= left or bottom <= top:
            return
        size = (right - left, bottom - top)
        mask = Image.new("L", (max(1, round(size[0] * scale)), max(1, round(size[1] * scale))))
        draw(Brush(ImageDraw.Draw(mask), scale, left, top))
        if blur:
            mask = mask.filter(ImageFilter.GaussianBlur(blur * self.unit * scale))
        mask = mask.resize(size, Image.Resampling.BILINEAR) if blur else mask.reduce(_SHARP)
        if opacity < 1:
            mask = mask.point([round(value * opacity) for value in range(256)])
        self.image.paste(color, (left, top), mask)

    def ellipse(
        self, center: tuple[float, float], radii: tuple[float, float], color: RGB, opacity: float = 1.0
    ) -> None:
        box = _around(center, radii)
        self.paint(color, box, lambda brush: brush.ellipse(box), opacity)

    def shadow(self, center: tuple[float, float], radii: tuple[float, float], opacity: float, blur: float) -> None:
        box = _around(center, radii)
        self.paint(self.palette.ink, box, lambda brush: brush.ellipse(box), opacity, blur)

    def rectangle(self, box: Box, color: RGB, opacity: float = 1.0, radius: float = 0.0, blur: float = 0.0) -> None:
        self.paint(color, box, lambda brush: brush.rounded(box, radius), opacity, blur)

    def floor(self, y: float) -> None:
        """The table from ``y`` downwards, meeting the wall softly."""
        edge = self.unit * 0.1  # past the picture's edges, where the blur must not show
        self.rectangle((-edge, y, self.width + edge, self.height + edge), self.palette.floor, 0.9, blur=0.012)

    def podium(self, center: tuple[float, float], across: float, thick: float) -> None:
        """A round plinth whose upper face is an ellipse around ``center``."""
        (x, top), down = center, across * 0.16
        side = mix(self.palette.floor, self.palette.accent, 0.45)
        foot = (x - across, top + thick - down, x + across, top + thick + down)
        self.shadow((x, top + thick + down * 0.7), (across * 1.12, down * 1.1), 0.24, 0.02)
        self.paint(side, foot, lambda brush: brush.ellipse(foot))
        self.rectangle((x - across, top, x + across, top + thick), side)
        self.ellipse(center, (across, down), mix(side, WHITE, 0.42))

    def package(self, package: Package, name: str, foot: tuple[float, float], size: float) -> None:
        """A package standing on ``foot``, ``size`` high, with its shadow, sheen and label."""
        (x, y), across = foot, package.aspect * size / 2
        away = 1 if self.from_left else -1
        self.shadow((x + away * size * 0.14, y - size * 0.005), (across * 1.45, size * 0.06), 0.30, 0.022)
        self.shadow((x, y), (across * 1.02, size * 0.022), 0.42, 0.008)
        body, label = self._package_colors()
        shade = mix(body, WHITE, 0.28) if lightness(body) < 0.25 else mix(body, self.palette.ink, 0.3)
        colors = {"body": body, "cap": self.palette.accent, "label": label, "shade": shade}
        colors |= {"glow": mix((255, 214, 140), WHITE, 0.35), "sheen": mix(body, WHITE, 0.3)}
        for part in package.parts:
            self.paint(colors[part.color], part.box_at(foot, size), partial(part.draw, foot=foot, size=size))
        for side, color, opacity in () if not package.edge else ((-away, WHITE, 0.34), (away, self.palette.ink, 0.18)):
            self.rectangle(package.edge_at(foot, size, side), color, opacity, 0.02 * size, blur=0.014)
        ink = self.palette.ink if lightness(colors[package.label_on]) > 0.5 else WHITE
        self.text(name, package.label_at(foot, size), size * 0.13, ink)

    def photo(self, photo: Image.Image, box: Box) -> None:
        """A photo as large as it fits into a box, whole and in its own proportions, standing on the box's ground."""
        room = max(1, round(box[2] - box[0])), max(1, round(box[3] - box[1]))
        fitted = ImageOps.contain(photo, room)
        x, y = round((box[0] + box[2] - fitted.width) / 2), round(box[3] - fitted.height)
        down = self.unit * 0.02
        self.rectangle((x, y + down, x + fitted.width, box[3] + down), self.palette.ink, 0.35, blur=0.02)
        self.image.paste(fitted, (x, y))

    def _package_colors(self) -> tuple[RGB, RGB]:
        """Dark body with a light label, or the other way round."""
        palette = self.palette
        if self.chance.random() < 0.5:
            return palette.body, mix(palette.ground, WHITE, 0.6)
        return mix(palette.ground, WHITE, 0.2), mix(palette.body, palette.ink, 0.3)

    def text(self, text: str, box: Box, largest: float, color: RGB, *, align: str = "center", lines: int = 4) -> None:
        """Text centred upright in a box, aligned as asked; nothing where there is no room."""
        left, top, right, bottom = box
        if not text or right - left < 8 or bottom - top < 8:
            return
        block = fit_text(text, round(right - left), round(bottom - top), max(8, round(largest)), lines)
        mask = text_mask(block, align)
        margin = (mask.width - block.width) / 2
        x = {"left": left - margin, "center": (left + right - mask.width) / 2, "right": right + margin - mask.width}[
            align
        ]
        self.image.paste(color, (round(x), round((top + bottom - mask.height) / 2)), mask)

    def png(self) -> bytes:
        buffer = BytesIO()
        self.image.save(buffer, "PNG", compress_level=1)
        return buffer.getvalue()


def _around(center: tuple[float, float], radii: tuple[float, float]) -> Box:
    return center[0] - radii[0], center[1] - radii[1], center[0] + radii[0], center[1] + radii[1]
