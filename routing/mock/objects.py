"""Silhouettes of products for the placeholder pictures, chosen by the words that name the product.

Lengths as in :mod:`routing.mock.packages`. Where no word fits, a ball on a plinth stands in for anything.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from math import cos, pi, sin

from routing.mock.packages import BOTTLE, CARTON, DROPPER, JAR, POUCH, PUMP, TUB, TUBE, Box, Color, Package, Part, Point

__all__ = ["PLAIN", "packages_for"]

NO_LABEL: Box = (0.0, 0.0, 0.0, 0.0)


def _arc(center: Point, radii: Point, thick: float, start: float, end: float) -> tuple[Point, ...]:
    """A band along an ellipse, angles in turns from the right upwards."""
    turns = [start + (end - start) * step / 24 for step in range(25)]
    outer = [_on(center, radii, turn) for turn in turns]
    inner = [_on(center, (radii[0] - thick, radii[1] - thick), turn) for turn in reversed(turns)]
    return (*outer, *inner)


def _on(center: Point, radii: Point, turn: float) -> Point:
    return center[0] + radii[0] * cos(2 * pi * turn), center[1] + radii[1] * sin(2 * pi * turn)


def _shape(color: Color, *points: Point) -> Part:
    xs, ys = [x for x, _ in points], [y for _, y in points]
    return Part(color, (min(xs), max(ys), max(xs), min(ys)), points=points)


def _ring(color: Color, center: Point, radii: Point, thick: float, start: float = 0.0, end: float = 1.0) -> Part:
    return _shape(color, *_arc(center, radii, thick, start, end))


def _ball(color: Color, center: Point, radius: float) -> Part:
    (x, y) = center
    return Part(color, (x - radius, y + radius, x + radius, y - radius), radius)


def _object(aspect: float, *parts: Part, label: Box = NO_LABEL, on: Color = "body") -> Package:
    return Package(aspect, parts, label, edge=0.0, label_on=on)


PLAIN = _object(
    0.9,
    Part("label", (-0.45, 0.2, 0.45, 0.0), 0.02),
    Part("shade", (-0.45, 0.2, 0.45, 0.17)),
    _ball("body", (0.0, 0.52), 0.33),
    _ball("sheen", (-0.1, 0.64), 0.1),
)
_EARBUDS = _object(
    1.15,
    Part("body", (-0.42, 0.52, 0.2, 0.0), 0.2),
    Part("shade", (-0.42, 0.345, 0.2, 0.33)),
    _ball("cap", (-0.11, 0.22), 0.02),
    *(
        part
        for x in (0.32, 0.5)
        for part in (Part("body", (x, 0.34, x + 0.07, 0.0), 0.035), _ball("body", (x + 0.035, 0.33), 0.085))
    ),
    *(_ball("cap", (x, 0.34), 0.04) for x in (0.335, 0.515)),
)
_HEADPHONES = _object(
    0.9,
    _ring("body", (0.0, 0.45), (0.4, 0.5), 0.07, 0.0, 0.5),
    Part("cap", (-0.45, 0.5, -0.27, 0.08), 0.08),
    Part("cap", (0.27, 0.5, 0.45, 0.08), 0.08),
)
_SPEAKER = _object(
    0.62,
    Part("body", (-0.31, 0.9, 0.31, 0.0), 0.06),
    _ball("shade", (0.0, 0.32), 0.22),
    _ball("cap", (0.0, 0.32), 0.13),
    _ball("shade", (0.0, 0.7), 0.11),
)
_KEYBOARD = _object(
    1.3,
    _shape("shade", (-0.6, 0.36), (0.6, 0.36), (0.68, 0.0), (-0.68, 0.0)),
    _shape("body", (-0.6, 0.38), (0.6, 0.38), (0.68, 0.04), (-0.68, 0.04)),
    *(
        Part("label", (x * (1 - y / 3) - 0.04, y + 0.055, x * (1 - y / 3) + 0.04, y), 0.012)
        for y in (0.3, 0.225, 0.15)
        for x in (-0.575 + 0.105 * column for column in range(12))
    ),
    Part("label", (-0.6, 0.125, -0.34, 0.07), 0.012),
    Part("cap", (-0.3, 0.125, 0.28, 0.07), 0.012),
    Part("label", (0.32, 0.125, 0.6, 0.07), 0.012),
)
_MOUSE = _object(
    0.6,
    Part("body", (-0.28, 0.72, 0.28, 0.0), 0.26),
    Part("shade", (-0.007, 0.72, 0.007, 0.4)),
    Part("cap", (-0.035, 0.62, 0.035, 0.48), 0.03),
)
_SCREEN = _object(
    1.25,
    Part("shade", (-0.06, 0.3, 0.06, 0.02)),
    Part("body", (-0.24, 0.04, 0.24, 0.0), 0.01),
    Part("body", (-0.62, 0.86, 0.62, 0.16), 0.03),
    Part("label", (-0.58, 0.82, 0.58, 0.21), 0.01),
    label=(-0.5, 0.76, 0.5, 0.27),
    on="label",
)
_LAPTOP = _object(
    1.25,
    Part("body", (-0.48, 0.72, 0.48, 0.05), 0.03),
    Part("label", (-0.44, 0.68, 0.44, 0.1), 0.01),
    _shape("shade", (-0.48, 0.06), (0.48, 0.06), (0.62, 0.0), (-0.62, 0.0)),
    label=(-0.38, 0.62, 0.38, 0.16),
    on="label",
)
_PHONE = _object(
    0.52,
    Part("body", (-0.25, 1.0, 0.25, 0.0), 0.06),
    Part("label", (-0.22, 0.96, 0.22, 0.04), 0.035),
    Part("cap", (-0.17, 0.88, 0.17, 0.62), 0.02),
    *(Part("body", (-0.17, y, width, y - 0.035), 0.015) for y, width in ((0.54, 0.1), (0.46, 0.16), (0.38, 0.04))),
    *(Part("shade", (x, 0.26, x + 0.155, 0.1), 0.02) for x in (-0.17, 0.015)),
)
_CHAIR = _object(
    0.72,
    Part("shade", (-0.03, 0.46, 0.03, 0.1)),
    Part("shade", (-0.33, 0.12, 0.33, 0.07), 0.025),
    *(_ball("shade", (x, 0.035), 0.035) for x in (-0.3, 0.0, 0.3)),
    Part("shade", (-0.045, 0.62, 0.045, 0.42)),
    Part("body", (-0.26, 1.0, 0.26, 0.56), 0.09),
    Part("cap", (-0.31, 0.51, 0.31, 0.41), 0.05),
    *(Part("shade", (x, 0.68, x + 0.12, 0.645), 0.015) for x in (-0.4, 0.28)),
    *(Part("shade", (x, 0.66, x + 0.03, 0.46), 0.01) for x in (-0.34, 0.31)),
)
_TABLE = _object(
    1.25,
    *(Part("shade", (x, 0.6, x + 0.06, 0.0)) for x in (-0.56, 0.5)),
    Part("body", (-0.62, 0.66, 0.62, 0.58), 0.02),
    Part("cap", (0.1, 0.58, 0.5, 0.44), 0.01),
)
_SOFA = _object(
    1.25,
    Part("body", (-0.5, 0.66, 0.5, 0.2), 0.08),
    Part("cap", (-0.48, 0.38, 0.48, 0.2), 0.05),
    *(Part("body", (x, 0.46, x + 0.16, 0.06), 0.06) for x in (-0.62, 0.46)),
    *(Part("shade", (x, 0.08, x + 0.05, 0.0)) for x in (-0.52, 0.47)),
    Part("body", (-0.5, 0.22, 0.5, 0.06)),
)
_POT = _object(
    1.1,
    *(_ring("shade", (x, 0.4), (0.12, 0.07), 0.035) for x in (-0.45, 0.45)),
    Part("body", (-0.44, 0.5, 0.44, 0.0), 0.1),
    Part("body", (-0.44, 0.52, 0.44, 0.3)),
    _shape("cap", *_arc((0.0, 0.52), (0.45, 0.16), 0.15, 0.0, 0.5), (0.45, 0.52)),
    Part("shade", (-0.46, 0.54, 0.46, 0.51), 0.01),
    Part("shade", (-0.06, 0.76, 0.06, 0.67), 0.03),
    label=(-0.3, 0.38, 0.3, 0.14),
)
_PAN = _object(
    1.3,
    _shape("body", (-0.64, 0.24), (0.14, 0.24), (0.04, 0.02), (-0.54, 0.02)),
    Part("cap", (-0.66, 0.26, 0.16, 0.22), 0.015),
    Part("shade", (0.12, 0.25, 0.66, 0.19), 0.03),
)
_MUG = _object(
    0.9,
    _ring("body", (0.28, 0.32), (0.18, 0.2), 0.06),
    Part("body", (-0.34, 0.64, 0.28, 0.0), 0.06),
    Part("cap", (-0.34, 0.64, 0.28, 0.6), 0.01),
    label=(-0.26, 0.52, 0.2, 0.12),
)
_TUMBLER = _object(
    0.46,
    _shape("body", (-0.22, 0.9), (0.22, 0.9), (0.17, 0.0), (-0.17, 0.0)),
    Part("cap", (-0.24, 1.0, 0.24, 0.88), 0.03),
    label=(-0.15, 0.72, 0.15, 0.2),
)
_SHIRT = _object(
    1.05,
    _shape(
        "body",
        *((-0.17, 0.95), (-0.3, 0.9), (-0.52, 0.64), (-0.38, 0.52), (-0.29, 0.61), (-0.29, 0.04)),
        *((0.29, 0.04), (0.29, 0.61), (0.38, 0.52), (0.52, 0.64), (0.3, 0.9), (0.17, 0.95)),
    ),
    _shape("cap", *_arc((0.0, 0.95), (0.17, 0.13), 0.04, 0.5, 1.0)),
    _shape("label", *_arc((0.0, 0.955), (0.13, 0.09), 0.088, 0.5, 1.0)),
    label=(-0.2, 0.66, 0.2, 0.36),
)
_SHOE = _object(
    1.2,
    _shape("body", (-0.56, 0.44), (-0.2, 0.48), (0.1, 0.26), (0.48, 0.2), (0.56, 0.1), (0.56, 0.06), (-0.58, 0.06)),
    Part("label", (-0.6, 0.1, 0.6, 0.0), 0.045),
    *(
        _shape("cap", (x, y), (x + 0.05, y - 0.03), (x - 0.03, y - 0.16), (x - 0.08, y - 0.14))
        for x, y in ((-0.12, 0.42), (-0.02, 0.34), (0.08, 0.27))
    ),
)
_BAG = _object(
    0.8,
    _ring("shade", (0.0, 0.62), (0.2, 0.34), 0.05, 0.0, 0.5),
    Part("body", (-0.38, 0.68, 0.38, 0.0), 0.09),
    Part("cap", (-0.38, 0.68, 0.38, 0.46), 0.09),
    Part("label", (-0.05, 0.5, 0.05, 0.4), 0.02),
    label=(-0.28, 0.34, 0.28, 0.08),
)
_LANTERN = _object(
    0.56,
    _ring("shade", (0.0, 0.76), (0.18, 0.23), 0.03, 0.0, 0.5),
    Part("body", (-0.2, 0.82, 0.2, 0.68), 0.05),
    Part("glow", (-0.19, 0.69, 0.19, 0.26), 0.03),
    *(Part("shade", (x, 0.69, x + 0.02, 0.26)) for x in (-0.2, -0.01, 0.18)),
    Part("body", (-0.27, 0.27, 0.27, 0.0), 0.05),
    Part("cap", (-0.05, 0.17, 0.05, 0.1), 0.02),
)
_LAMP = _object(
    0.7,
    Part("shade", (-0.022, 0.7, 0.022, 0.05)),
    Part("body", (-0.2, 0.06, 0.2, 0.0), 0.03),
    _shape("glow", (-0.18, 1.0), (0.18, 1.0), (0.34, 0.6), (-0.34, 0.6)),
)
_TENT = _object(
    1.25,
    _shape("body", (0.0, 0.72), (0.62, 0.0), (-0.62, 0.0)),
    _shape("shade", (0.0, 0.72), (0.2, 0.0), (-0.2, 0.0)),
    _shape("cap", (0.0, 0.72), (-0.2, 0.0), (-0.3, 0.0)),
)
_NOTEBOOK = _object(
    0.72,
    Part("label", (-0.33, 0.96, 0.36, 0.0), 0.02),
    Part("body", (-0.36, 0.98, 0.33, 0.02), 0.03),
    Part("shade", (-0.36, 0.98, -0.28, 0.02), 0.02),
    Part("cap", (0.2, 0.98, 0.24, 0.02)),
    label=(-0.24, 0.8, 0.16, 0.5),
)
_BED = _object(
    1.25,
    Part("shade", (-0.6, 0.12, 0.6, 0.0), 0.02),
    Part("body", (-0.62, 0.36, 0.62, 0.1), 0.06),
    Part("label", (-0.58, 0.48, -0.22, 0.32), 0.07),
    Part("cap", (-0.18, 0.4, 0.62, 0.2), 0.05),
)
_TOWER = _object(
    0.5,
    Part("body", (-0.24, 1.0, 0.24, 0.0), 0.1),
    *(Part("shade", (-0.16, y, 0.16, y - 0.012)) for y in (0.34, 0.29, 0.24, 0.19, 0.14)),
    _ball("cap", (0.0, 0.84), 0.06),
    label=(-0.18, 0.72, 0.18, 0.42),
)

_RULES: tuple[tuple[str, tuple[Package, ...]], ...] = (
    (
        r"(?<![가-힣])(?:앱|어플)(?![가-힣])|소프트웨어|\bapps?\b|app screen|smartphone|\bphone\b|스마트폰|휴대폰",
        (_PHONE,),
    ),
    (r"사료|pet food|dog food|cat food", (POUCH,)),
    (r"이어폰|이어버드|earbud|earphone", (_EARBUDS,)),
    (r"헤드폰|헤드셋|headphone|headset", (_HEADPHONES,)),
    (r"스피커|speaker", (_SPEAKER,)),
    (r"키보드|keyboard", (_KEYBOARD,)),
    (r"마우스|\bmouse\b", (_MOUSE,)),
    (r"모니터|monitor|television", (_SCREEN,)),
    (r"노트북|laptop", (_LAPTOP,)),
    (r"의자|체어|chair", (_CHAIR,)),
    (r"소파|sofa|couch", (_SOFA,)),
    (r"매트리스|침대|이불|베개|침구|mattress|\bbed\b|bedding|pillow", (_BED,)),
    (r"세럼|앰플|serum|ampoule", (DROPPER,)),
    (r"샴푸|클렌[징저]|바디워시|shampoo|cleanser|pump bottle", (PUMP,)),
    (r"(?<!스)(?<!아이스)크림(?!빵)|(?<!ice )\bcream\b", (JAR, TUBE)),
    (r"화장품|스킨케어|로션|토너|향수|cosmetic|skincare|lotion|\btoner\b|perfume", (BOTTLE, TUBE)),
    (r"단백질|프로틴|protein", (POUCH, TUB)),
    (r"비타민|보충제|유산균|홍삼|오메가|건강\s?기능|vitamin|supplement|probiotic", (JAR, TUB)),
    (r"[프후]라이팬|frying pan|\bpan\b", (_PAN,)),
    (r"냄비|\bpot\b", (_POT,)),
    (r"텀블러|보온병|tumbler|thermos", (_TUMBLER,)),
    (r"머그|찻잔|컵|\bmugs?\b|\bcups?\b|tableware", (_MUG,)),
    (r"김치|반찬|장아찌|kimchi|food tub|ice cream|아이스크림", (TUB,)),
    (r"음료|주스|와인|맥주|생수|소스|참기름|(?<![가-힣])꿀|juice|drink|wine|beer|sauce|honey", (BOTTLE,)),
    (r"커피|원두|간식|과자|견과|쌀|식품|밀키트|coffee|snack|\brice\b|packaged food|pouch", (POUCH,)),
    (r"녹차|홍차|허브티|\btea\b|상자|\bbox\b|carton", (CARTON,)),
    (r"셔츠|티셔츠|니트|의류|자켓|재킷|코트|원피스|shirt|hoodie|knit|jacket|garment|\bdress\b", (_SHIRT,)),
    (r"신발|운동화|러닝화|구두|\bshoes?\b|sneaker", (_SHOE,)),
    (r"가방|백팩|\bbag\b|backpack", (_BAG,)),
    (r"랜턴|lantern", (_LANTERN,)),
    (r"조명|램프|스탠드|\blamp\b", (_LAMP,)),
    (r"텐트|\btent\b", (_TENT,)),
    (r"청정기|가습기|제습기|purifier|humidifier", (_TOWER,)),
    (r"책상|테이블|\bdesk\b|\btable\b", (_TABLE,)),
    (r"(?<![가-힣])노트|다이어리|플래너|notebook|\bdiary\b|planner", (_NOTEBOOK,)),
)
_PATTERNS = tuple((re.compile(words, re.IGNORECASE), packages) for words, packages in _RULES)


def packages_for(texts: Iterable[str]) -> tuple[Package, ...]:
    """What the product may look like, by the first text that names a thing that can be drawn."""
    for text in texts:
        for pattern, packages in _PATTERNS:
            if pattern.search(text):
                return packages
    return (PLAIN,)
