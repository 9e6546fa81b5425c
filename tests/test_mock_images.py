"""The mock's pictures: right size, one for each request, and lettered in Korean on any machine."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import pytest
from PIL import Image, ImageChops

from routing.mock import draw_image
from routing.mock.canvas import palette_of
from routing.mock.hangul import glyph, is_hangul, split_syllable
from routing.mock.lettering import fit_text, text_mask
from routing.mock.objects import PLAIN, packages_for
from routing.mock.packages import PACKAGING

KINDS = ("product_shot", "hero", "concept", "thumbnail", "mood board")
NAMES = (
    "프로틴플러스 초코맛",
    "소리결 에어 2 무선 이어폰",
    "봄결 시카 수분 세럼 50ml",
    "뷁쀓 값닭 읽",
    "Tactra K75 wireless keyboard",
)


def draw(**changes: Any) -> bytes:
    arguments: dict[str, Any] = {
        "prompt": "a cup on a table",
        "kind": "product_shot",
        "brand": {"name": "고요", "product": "고요 찻잔", "colors": ["#22262B", "#DDE3E6", "#F2853F"]},
        "width": 320,
        "height": 180,
        "seed": 7,
    }
    return draw_image(**arguments | changes)


def opened(content: bytes) -> Image.Image:
    picture = Image.open(BytesIO(content))
    picture.load()
    return picture


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(1344, 768), (768, 1344), (256, 256), (64, 64), (64, 512), (512, 64)])
def test_size_and_format(kind, size):
    picture = opened(draw(kind=kind, width=size[0], height=size[1]))
    assert picture.format == "PNG"
    assert picture.size == size
    assert len(picture.convert("L").resize((32, 32)).getcolors() or []) > 4, "not a blank picture"


def test_the_same_request_gives_the_same_bytes():
    assert draw() == draw()


def test_products_kinds_seeds_and_colors_give_different_pictures():
    pictures = [draw(brand={"product": name}) for name in NAMES]
    pictures += [draw(kind=kind) for kind in KINDS]
    pictures += [draw(seed=seed) for seed in range(8, 16)]
    pictures += [draw(brand={"product": "고요 찻잔", "colors": [color]}) for color in ("#AA2222", "#2222AA")]
    assert len(set(pictures)) == len(pictures)


def _photo(width: int, height: int) -> bytes:
    """Four patches of colour in the corners."""
    photo = Image.new("RGB", (2, 2))
    photo.putdata([(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)])
    file = BytesIO()
    photo.resize((width, height), Image.Resampling.NEAREST).save(file, "PNG")
    return file.getvalue()


def _patches(picture: Image.Image) -> list[tuple[int, int, int, int]]:
    """Where each of the photo's four colours stands in a picture: left, top, right, bottom."""
    boxes = []
    for color in ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)):
        far = ImageChops.difference(picture.convert("RGB"), Image.new("RGB", picture.size, color)).convert("L")
        box = far.point([255 if value < 12 else 0 for value in range(256)]).getbbox()
        assert box is not None, color
        boxes.append(box)
    return boxes


@pytest.mark.parametrize("kind", ["product_shot", "thumbnail"])
@pytest.mark.parametrize("size", [(1344, 768), (768, 1344), (320, 320)])
@pytest.mark.parametrize("shape", [(300, 400), (900, 300), (80, 80)])
def test_a_photo_is_shown_whole_and_in_its_own_proportions(kind, size, shape):
    picture = opened(draw(kind=kind, width=size[0], height=size[1], photo=_photo(*shape)))
    assert picture.size == size
    boxes = _patches(picture)
    widths, heights = zip(*((right - left, lower - upper) for left, upper, right, lower in boxes), strict=True)
    assert max(widths) - min(widths) <= 4, "nothing is cut off on either side"
    assert max(heights) - min(heights) <= 4
    assert sum(widths) / sum(heights) == pytest.approx(shape[0] / shape[1], rel=0.1)


def test_another_photo_is_another_picture_and_the_same_one_the_same():
    assert draw(photo=_photo(80, 80)) == draw(photo=_photo(80, 80))
    assert len({draw(), draw(photo=_photo(80, 80)), draw(photo=_photo(80, 160))}) == 3


THINGS = (
    "이어폰",
    "헤드폰",
    "스피커",
    "키보드",
    "마우스",
    "모니터",
    "노트북",
    "앱",
    "의자",
    "소파",
    "책상",
    "냄비",
    "프라이팬",
    "머그",
    "텀블러",
    "셔츠",
    "운동화",
    "가방",
    "랜턴",
    "램프",
    "텐트",
    "노트",
    "침대",
    "가습기",
)


@pytest.mark.parametrize("thing", THINGS)
def test_a_product_looks_like_what_it_is(thing):
    (package,) = packages_for(("professional product photography", f"고요 {thing}"))
    assert package not in (PLAIN, *PACKAGING)
    assert opened(draw(brand={"product": f"고요 {thing}"})).size == (320, 180)


def test_what_has_no_shape_of_its_own_is_drawn_abstractly():
    assert packages_for(("consumer product", "고요 하나")) == (PLAIN,)
    assert all(package in PACKAGING for name in ("김치", "세럼", "사료", "샴푸") for package in packages_for((name,)))


def test_the_prompt_s_subject_counts_and_its_props_do_not():
    brand = {"product": "Lumo"}
    plain = draw(prompt="a photo, consumer product, x", brand=brand)
    assert draw(prompt="a photo, consumer product, on a chair by a desk", brand=brand) == plain
    assert draw(prompt="a photo, office chair, x", brand=brand) != plain


@pytest.mark.parametrize(
    "brand",
    [
        {},
        {"name": None, "product": None, "colors": None},
        {"name": "고요", "colors": "먹색 #22262b"},
        {"product": {"name": "찻잔"}, "colors": ["no colour", 3]},
        {"product": "漢字 かな ✨ café 33㎡ ㈜봄결 ㅋㅋ"},
        {"product": "이름 " * 300},
        {"product": "띄어쓰기없는아주긴이름" * 10},
    ],
    ids=str,
)
def test_odd_brands_are_drawn(brand):
    for kind in KINDS:
        assert opened(draw(kind=kind, brand=brand, seed=2**62)).size == (320, 180)


def test_brand_colors_are_used():
    picture = opened(draw(kind="thumbnail", brand={"product": "찻잔", "colors": ["#00AA55", "#F4F4F4"]}))
    assert picture.convert("RGB").getpixel((1, 1)) == (0, 0xAA, 0x55)


@pytest.mark.parametrize(
    "colors", [("#000000",), ("#FFFFFF",), ("#FF0000",), ("#101010", "#202020"), ("#EEEEEE", "#FFFFFF")]
)
def test_palettes_can_be_read(colors):
    palette = palette_of(colors)
    assert sum(palette.ground) - sum(palette.ink) > 200


def test_every_syllable_has_its_own_strokes_inside_the_square():
    seen = set()
    for code in range(0xAC00, 0xD7A4):
        shape = glyph(chr(code))
        seen.add(shape.strokes)
        for x, y in (point for stroke in shape.strokes for point in stroke):
            assert 0 <= x <= 1
            assert 0 <= y <= 1
    assert len(seen) == 11_172


def test_syllables_leave_ink_on_the_page():
    """Every initial, medial and final at least once, and a walk through all of them."""
    sample = {*range(0xAC00, 0xD7A4, 53), *(0xAC00 + 588 * i for i in range(19)), *(0xAC00 + 28 * m for m in range(21))}
    sample |= {0xAC00 + final for final in range(28)}
    for code in sorted(sample):
        mask = text_mask(fit_text(chr(code), 40, 40, 24))
        assert (mask.getbbox() or (0, 0, 0, 0))[3] > 12, chr(code)


def test_syllables_come_apart():
    assert split_syllable("값") == ("ㄱ", "ㅏ", "ㅄ")
    assert split_syllable("뷁") == ("ㅂ", "ㅞ", "ㄺ")
    assert split_syllable("의") == ("ㅇ", "ㅢ", " ")
    assert is_hangul("힣")
    assert is_hangul("ㅋ")
    assert not is_hangul("A")


@pytest.mark.parametrize("name", NAMES)
def test_names_are_wrapped_and_fit_their_box(name):
    block = fit_text(name, 300, 200, 80)
    assert " ".join(block.lines) == name
    assert block.width <= 300
    assert block.height <= 200


def test_what_does_not_fit_is_cut_to_the_lines_allowed():
    block = fit_text("길고 긴 이름 " * 50, 100, 40, 30, most_lines=2)
    assert len(block.lines) <= 2


def test_decomposed_hangul_is_composed():
    assert fit_text("\u1112\u1161\u11ab", 100, 100, 50).lines == ("한",)
