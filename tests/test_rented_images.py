"""What rented image providers share: the nearest size, the words that are sent, the check of the bytes."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from providers.media._rented import ImageOrder, RentedWish
from providers.media.sizes import nearest_size, parse_size
from providers.pictures import Look, picture_of
from tests.standins.pictures import drawn

SIZES = [(1024, 1024), (1536, 1024), (1024, 1536)]
FINE_AND_COARSE = [(1280, 720), (1024, 1024), (2560, 1440), (2048, 2048)]


@pytest.mark.parametrize(
    ("sizes", "asked", "nearest"),
    [
        (SIZES, (None, None, None), (1024, 1024)),
        (SIZES[1:], (None, None, "1:1"), (1536, 1024)),  # equally far: the first of them
        (SIZES, (None, None, "5:4"), (1536, 1024)),
        (SIZES, (None, None, "6:5"), (1024, 1024)),
        (SIZES, (300, 200, "1:9"), (1536, 1024)),  # both sides win over the ratio
        (FINE_AND_COARSE, (None, None, None), (1280, 720)),
        (FINE_AND_COARSE, (None, None, "1:1"), (1024, 1024)),  # the area of the first
        (FINE_AND_COARSE, (2000, 2000, None), (2048, 2048)),
        (FINE_AND_COARSE, (2000, None, "16:9"), (2560, 1440)),
        (FINE_AND_COARSE, (None, 2000, "1:1"), (2048, 2048)),
        (FINE_AND_COARSE, (None, 800, "1:1"), (1024, 1024)),
        ([(512, 512)], (4096, 64, None), (512, 512)),
    ],
)
def test_nearest_size(
    sizes: list[tuple[int, int]], asked: tuple[int | None, int | None, str | None], nearest: tuple[int, int]
) -> None:
    assert nearest_size(sizes, *asked) == nearest


_side = st.integers(64, 4096)


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(st.lists(st.tuples(_side, _side), min_size=1, max_size=6), st.data())
def test_a_size_of_the_list_is_its_own_nearest_and_turning_it_turns_the_answer(
    sizes: list[tuple[int, int]], data: st.DataObject
) -> None:
    own = data.draw(st.sampled_from(sizes))
    assert nearest_size(sizes, *own, None) == own
    width, height = data.draw(st.tuples(_side, _side))
    lying = [(size[1], size[0]) for size in sizes]
    assert nearest_size(lying, height, width, None) == nearest_size(sizes, width, height, None)[::-1]


def test_a_malformed_ratio() -> None:
    with pytest.raises(ValueError, match="aspect ratio"):
        nearest_size(SIZES, None, None, "16/9")


@pytest.mark.parametrize("size", ["", "1024", "1024×1024", "0x8", "8x0", " 8x8", "8x8 ", "-8x8", "8X8", "8x999999"])
def test_a_malformed_size(size: str) -> None:
    with pytest.raises(ValueError, match="is not a size"):
        parse_size(size)
    assert parse_size("1536x864") == (1536, 864)


@pytest.mark.parametrize(
    ("unwanted", "text"),
    [(None, "a cup"), ("", "a cup"), ("  ", "a cup"), ("text, people ", "a cup\n\nAvoid: text, people")],
)
def test_what_is_unwanted_is_said_in_words(unwanted: str | None, text: str) -> None:
    order = ImageOrder("m", "a cup", RentedWish(negative_prompt=unwanted), {}, seed=1, seconds=1)
    assert order.text == text


@pytest.mark.parametrize(("form", "media_type"), [("PNG", "image/png"), ("JPEG", "image/jpeg"), ("WEBP", "image/webp")])
def test_a_picture_and_its_broken_copies(form: str, media_type: str) -> None:
    whole = drawn(70, 50, form=form)
    assert picture_of(whole) == Look(70, 50, media_type)
    for part in (0, 1, 10, len(whole) // 2, len(whole) * 3 // 4):
        with pytest.raises(ValueError, match="no whole PNG, JPEG or WebP"):
            picture_of(whole[:part])


@pytest.mark.parametrize("form", ["GIF", "BMP", "TIFF"])
def test_other_formats_are_no_pictures_here(form: str) -> None:
    with pytest.raises(ValueError, match="no whole PNG, JPEG or WebP"):
        picture_of(drawn(70, 50, form=form))


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_scribbled_bytes_are_a_picture_or_a_value_error(form: str) -> None:
    chance = random.Random(form)
    whole = drawn(70, 50, form=form)
    refused = 0
    for _ in range(300):
        scribbled = bytearray(whole)
        for _ in range(3):
            scribbled[chance.randrange(len(scribbled))] = chance.randrange(256)
        try:
            picture_of(bytes(scribbled))
        except ValueError:
            refused += 1
    assert refused
