"""The placeholder picture: a product on a set, drawn in the brand's colours and lettered with its name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from io import BytesIO
from random import Random
from typing import Any

from PIL import Image

from routing.mock.canvas import WHITE, Canvas, mix, palette_of
from routing.mock.colors import find_colors, palette_for
from routing.mock.facts import as_text, clip
from routing.mock.objects import packages_for
from routing.mock.packages import Package
from routing.mock.variety import stable_number

__all__ = ["draw_image"]

_LONGEST_NAME = 60


def draw_image(
    *, prompt: str, kind: str, brand: Mapping[str, Any], width: int, height: int, seed: int, photo: bytes | None = None
) -> bytes:
    """A PNG of exactly ``width`` by ``height`` pixels; the same arguments always give the same bytes.

    Args:
        prompt: its first words and the product's name choose what is drawn; lettered where the brand has no name.
        kind: ``product_shot``, ``hero``, ``concept`` and ``thumbnail`` are each composed in their own way.
        brand: ``colors`` (#RRGGBB), ``product`` and ``name``, as far as they are known.
        seed: light, shape and placing.
        photo: a picture of the product, shown whole in place of a drawn one.
    """
    brand_name = as_text(brand.get("name"))
    name = as_text(brand.get("product")) or brand_name or clip(as_text(prompt), 40)
    colors = find_colors([as_text(brand.get("colors"))]) or palette_for(brand_name or name)
    # What a prompt says after its subject is about light and props.
    subject = ",".join(as_text(prompt).split(",")[:2])
    canvas = Canvas(width, height, palette_of(colors), Random(stable_number(name, kind, seed)))
    if photo is None:
        thing = canvas.chance.choice(packages_for((subject, name)))
        _COMPOSITIONS.get(kind, _still_life)(canvas, thing, clip(name, _LONGEST_NAME))
    else:
        _photo_shot(canvas, _opened(photo), clip(name, _LONGEST_NAME))
    _mark(canvas, re.sub(r"[_\s]+", " ", as_text(kind)).upper())
    return canvas.png()


def _mark(canvas: Canvas, label: str) -> None:
    """The kind in one corner and MOCK in the other, small."""
    pad, size = canvas.unit * 0.06, max(8.0, canvas.unit * 0.026)
    top, middle, ink = canvas.height - pad - size, canvas.width / 2, canvas.palette.ink
    canvas.text(label, (pad, top, middle, top + 2 * size), size, ink, align="left", lines=1)
    canvas.text("MOCK", (middle, top, canvas.width - pad, top + 2 * size), size, ink, align="right", lines=1)


def _opened(photo: bytes) -> Image.Image:
    with Image.open(BytesIO(photo)) as image:
        return image.convert("RGB")


def _photo_shot(canvas: Canvas, photo: Image.Image, name: str) -> None:
    """The photo on a table before a disc of accent, its name above."""
    width, height, unit = canvas.width, canvas.height, canvas.unit
    canvas.floor(height * 0.70)
    drift = canvas.chance.uniform(-0.16, 0.16) * unit
    canvas.ellipse((width / 2 + drift, height * 0.49), (unit * 0.34, unit * 0.34), canvas.palette.accent, 0.55)
    canvas.photo(photo, (width * 0.1, height * 0.15, width * 0.9, height * 0.82))
    canvas.text(
        name, (width * 0.1, height * 0.03, width * 0.9, height * 0.12), unit * 0.05, canvas.palette.ink, lines=1
    )


def _product_shot(canvas: Canvas, thing: Package, name: str) -> None:
    """The thing alone on a plinth, a disc of accent behind it; its name above it where it bears no label."""
    width, height, unit, x = canvas.width, canvas.height, canvas.unit, canvas.width / 2
    canvas.floor(height * 0.70)
    drift = canvas.chance.uniform(-0.16, 0.16) * unit
    bare = thing.label[0] == thing.label[2]
    center, radius = (height * 0.47, unit * 0.31) if bare else (height * 0.42, unit * 0.36)
    canvas.ellipse((x + drift, center), (radius, radius), canvas.palette.accent, 0.55)
    canvas.podium((x, height * 0.80), unit * 0.42, unit * 0.06)
    canvas.package(thing, name, (x, height * 0.81), unit * 0.66)
    if bare:
        canvas.text(
            name, (width * 0.1, height * 0.03, width * 0.9, height * 0.12), unit * 0.05, canvas.palette.ink, lines=1
        )


def _hero(canvas: Canvas, thing: Package, name: str) -> None:
    """A banner: the name large on one side (above, where the picture is upright), the package on the other."""
    width, height, unit, palette = canvas.width, canvas.height, canvas.unit, canvas.palette
    wide, pad = width > height * 1.15, width * 0.07
    canvas.floor(height * 0.78)
    x = width * (0.74 if wide else 0.5) + canvas.chance.uniform(-0.03, 0.03) * unit
    canvas.ellipse((x, height * (0.5 if wide else 0.62)), (unit * 0.45, unit * 0.45), palette.accent, 0.8)
    canvas.package(thing, name if wide else "", (x, height * 0.86), min(unit * 0.68, height * (0.72 if wide else 0.46)))
    if wide:
        canvas.text(
            name, (pad, height * 0.24, width * 0.50, height * 0.72), unit * 0.13, palette.ink, align="left", lines=3
        )
        canvas.rectangle((pad, height * 0.19, pad + unit * 0.12, height * 0.19 + unit * 0.012), palette.accent)
    else:
        canvas.text(name, (pad, height * 0.07, width - pad, height * 0.32), unit * 0.13, palette.ink, lines=3)


def _concept(canvas: Canvas, thing: Package, name: str) -> None:
    """Overlapping translucent discs, the package in an arch, the name beneath."""
    width, height, unit, palette = canvas.width, canvas.height, canvas.unit, canvas.palette
    x, ground, chance = width / 2, height * 0.70, canvas.chance
    for color in (palette.body, palette.accent, mix(palette.accent, palette.ground, 0.5)):
        center = (x + chance.uniform(-0.42, 0.42) * unit, height * 0.38 + chance.uniform(-0.1, 0.1) * unit)
        radius = chance.uniform(0.15, 0.26) * unit
        canvas.ellipse(center, (radius, radius), color, 0.78)
    arch = unit * 0.24
    gate = (x - arch, ground - unit * 0.62, x + arch, ground)
    canvas.paint(mix(palette.ground, WHITE, 0.5), gate, lambda brush: brush.rounded(gate, arch, only_top=True), 0.92)
    canvas.package(thing, "", (x, ground), unit * 0.42)
    canvas.text(name, (width * 0.1, height * 0.745, width * 0.9, height * 0.90), unit * 0.085, palette.ink, lines=2)


def _thumbnail(canvas: Canvas, thing: Package, name: str) -> None:
    """Readable when small: a frame, a slanted ground, the package large above its name."""
    width, height, unit, palette = canvas.width, canvas.height, canvas.unit, canvas.palette
    whole, inset = (0.0, 0.0, float(width), float(height)), unit * 0.03
    canvas.rectangle(whole, palette.accent)
    canvas.rectangle((inset, inset, width - inset, height - inset), palette.ground, 0.95, unit * 0.04)
    rise = canvas.chance.uniform(-0.12, 0.12) * height
    band = ((0, height * 0.60 + rise), (width, height * 0.60 - rise), (width, height), (0, height))
    canvas.paint(palette.accent, whole, lambda brush: brush.polygon(band), 0.35)
    canvas.package(thing, "", (width / 2, height * 0.70), unit * 0.60)
    canvas.text(name, (width * 0.07, height * 0.735, width * 0.93, height * 0.90), unit * 0.13, palette.ink, lines=2)


def _still_life(canvas: Canvas, thing: Package, name: str) -> None:
    """For kinds that nobody foresaw: two packages and a ball."""
    height, unit = canvas.height, canvas.unit
    x = canvas.width / 2 + canvas.chance.uniform(-0.06, 0.06) * unit
    canvas.floor(height * 0.66)
    canvas.shadow((x - unit * 0.42, height * 0.845), (unit * 0.13, unit * 0.03), 0.3, 0.02)
    canvas.ellipse(
        (x - unit * 0.42, height * 0.845 - unit * 0.12), (unit * 0.12, unit * 0.12), canvas.palette.accent, 0.95
    )
    canvas.package(thing, "", (x + unit * 0.42, height * 0.80), unit * 0.36)
    canvas.package(thing, name, (x, height * 0.85), unit * 0.64)


_COMPOSITIONS = {"product_shot": _product_shot, "hero": _hero, "concept": _concept, "thumbnail": _thumbnail}
