"""A product photo from the file to the finished page: what is taken in, and whole runs that start from it."""

from __future__ import annotations

import io
import json
import re
import struct
import subprocess
import sys
import zlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import pytest
import yaml
from PIL import ExifTags, Image, ImageCms, PngImagePlugin

from graph import photos
from graph.photo_parts import is_nothing_more
from graph.photos import check_photo, read_photo
from nodes import vision
from nodes.context import Context
from providers.base import Photo
from providers.errors import InputError, ServerError, UnknownNameError, WorkflowError
from routing import attempts
from routing.contracts import LLMRequest
from routing.mock import answer_text
from sparklio import Sparklio
from sparklio.cli import main
from tests.conftest import BRAND, PRODUCT
from tests.standins.comfyui import ComfyUIStandIn
from tests.standins.ollama import OllamaStandIn

TEAL = (20, 150, 140)
PLACE = b"37.5665"


def picture(kind: str = "JPEG", size: tuple[int, int] = (200, 120), mode: str = "RGB", **options: Any) -> bytes:
    image = Image.new("RGB", size, TEAL).convert(mode)
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def exif(orientation: int | None = None) -> Image.Exif:
    """What a phone writes."""
    tags = Image.Exif()
    tags[ExifTags.Base.Make] = PLACE.decode()
    if orientation:
        tags[ExifTags.Base.Orientation] = orientation
    tags.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitudeRef] = "N"
    return tags


def opened(photo: Photo) -> Image.Image:
    image = Image.open(io.BytesIO(photo.content))
    image.load()
    return image


def refused(content: bytes) -> InputError:
    with pytest.raises(InputError) as caught:
        check_photo(content, "jar.jpg")
    assert "'jar.jpg'" in caught.value.message
    assert caught.value.hint
    return caught.value


# what is taken in


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_plain_photo_stays_as_it_is(kind: str) -> None:
    content = picture(kind)
    assert check_photo(content) == Photo(content, f"image/{kind.lower()}")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_photo_is_turned_upright_and_its_metadata_is_dropped(kind: str, orientation: int) -> None:
    content = picture(kind, exif=exif(orientation))
    assert PLACE in content
    photo = check_photo(content)
    assert photo.media_type == f"image/{kind.lower()}"
    assert PLACE not in photo.content
    image = opened(photo)
    assert image.size == ((120, 200) if orientation in (6, 8) else (200, 120))
    assert dict(image.getexif()) == {}
    assert check_photo(photo.content) == photo, "there is nothing left to mend"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_the_one_that_viewers_show(orientation: int) -> None:
    image = Image.new("RGB", (96, 64), "white")
    image.paste("black", (0, 0, 40, 20))
    file = io.BytesIO()
    image.save(file, "PNG", exif=exif(orientation))
    turns = {
        1: image,
        2: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        3: image.rotate(180),
        4: image.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
        5: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).rotate(90, expand=True),
        6: image.rotate(270, expand=True),
        7: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).rotate(270, expand=True),
        8: image.rotate(90, expand=True),
    }
    assert opened(check_photo(file.getvalue())).tobytes() == turns[orientation].tobytes()


def _described(kind: str) -> bytes:
    notes = PngImagePlugin.PngInfo()
    notes.add_text("Comment", PLACE.decode())
    options: dict[str, dict[str, Any]] = {
        "PNG": {"pnginfo": notes},
        "JPEG": {"comment": PLACE},
        "WEBP": {"xmp": b"<x>" + PLACE + b"</x>"},
    }
    return picture(kind, **options[kind])


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_comments_go_too(kind: str) -> None:
    content = _described(kind)
    assert PLACE in content
    assert PLACE not in check_photo(content).content


def test_what_pillow_does_not_read_goes_too() -> None:
    jpeg, png = picture("JPEG"), picture("PNG")
    segment = b"\xff\xeb" + (len(PLACE) + 2).to_bytes(2, "big") + PLACE
    private = PngImagePlugin.PngInfo()
    private.add(b"prVt", PLACE)
    for content in (jpeg[:2] + segment + jpeg[2:], picture("PNG", pnginfo=private)):
        assert PLACE in content
        assert PLACE not in check_photo(content).content
    assert check_photo(png).content == png


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_what_lies_behind_the_picture_goes_too(kind: str) -> None:
    content = picture(kind)
    hidden = PLACE + (b"\xff\xd9" if kind == "JPEG" else b"")
    chunk = b"xtra" + len(hidden).to_bytes(4, "little") + hidden + bytes(len(hidden) % 2)
    within = b"RIFF" + (len(content) + len(chunk) - 8).to_bytes(4, "little") + content[8:] + chunk
    for longer in (content + hidden, *([within] if kind == "WEBP" else [])):
        photo = check_photo(longer)
        assert PLACE not in photo.content
        assert opened(photo).size == opened(Photo(content, "")).size
    assert check_photo(content).content == content


@cache
def profile() -> bytes:
    """It says when it was made, to the second."""
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def test_colours_keep_their_profile() -> None:
    for kind in ("PNG", "JPEG", "WEBP"):
        content = picture(kind, icc_profile=profile(), exif=exif())
        assert opened(check_photo(content)).info["icc_profile"] == profile()
    plain = picture("JPEG", icc_profile=profile())
    assert check_photo(plain).content == plain


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("text", [PLACE, profile() + PLACE])
def test_what_is_no_profile_is_none(kind: str, text: bytes) -> None:
    content = picture(kind, icc_profile=text)
    photo = check_photo(content)
    assert PLACE not in photo.content
    assert "icc_profile" not in opened(photo).info


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def segment(marker: int, data: bytes) -> bytes:
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(data) + 2) + data


_PARTS = {
    **{
        kind.decode(): ("PNG", chunk(kind, data + PLACE))
        for kind, data in {
            b"tEXt": b"Comment\0", b"prVt": b"", b"abCd": b"", b"tIME": b"", b"sPLT": b"", b"hIST": b"", b"bKGD": b"",
            b"sBIT": b"\x08\x08\x08", b"gAMA": bytes(4), b"cHRM": bytes(32), b"sRGB": b"\0", b"pHYs": bytes(9),
            b"PLTE": bytes(11), b"iCCP": b"a\0\0" + zlib.compress(b"no profile"),
        }.items()
    },
    **{
        f"{marker:x} {data[:5]!r}": ("JPEG", segment(marker, data + PLACE))
        for marker, data in (
            (0xFE, b""), (0xE0, b"JFIF\0\1\1\0\0\1\0\1\4\3"), (0xE0, b"JFIF\0\1\1\0\0\1\0\1\0\0"),
            (0xE0, b"JFXX\0\x13"), (0xE1, b"Exif\0\0"), (0xE2, b"ICC_PROFILE\0\1\1"),
            (0xEE, b"Adobe\0\x64\0\0\0\0\0"), (0xE5, b""),
        )
    },
}  # fmt: skip


def test_segments_that_nobody_reads_are_damage_or_gone() -> None:
    content = picture("JPEG")
    for marker, data in ((0xE2, b"MPF\0"), (0xF0, b""), (0xFD, b""), (0xDF, b""), (0xDC, b""), (0xDB, b"\xf0")):
        assert not is_nothing_more(content[:2] + segment(marker, data + PLACE) + content[2:], "JPEG")


@pytest.mark.parametrize(("kind", "part"), _PARTS.values(), ids=_PARTS)
def test_a_part_of_a_kind_or_a_length_that_is_not_needed_goes(kind: str, part: bytes) -> None:
    content, behind = picture(kind), {"PNG": 33, "JPEG": 2}[kind]  # the head
    photo = check_photo(content[:behind] + part + content[behind:])
    assert PLACE not in photo.content
    assert opened(photo).size == (200, 120)


def test_harmless_parts_stay() -> None:
    content = picture("PNG", dpi=(300, 300))
    for kind, size in ((b"gAMA", 4), (b"cHRM", 32), (b"sRGB", 1)):
        content = content[:33] + chunk(kind, bytes(size - 1) + b"\1") + content[33:]
    for whole in (
        content,
        picture("JPEG", dpi=(300, 300)),
        picture("JPEG", progressive=True),
        picture("JPEG", mode="L"),
    ):
        assert check_photo(whole).content == whole


def test_what_lies_among_the_compressed_pixels_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    content = picture("PNG")
    pixels = content[41:-16]
    assert len(zlib.decompress(pixels)) == 120 * 601
    behind = pixels + PLACE
    within = zlib.compress(zlib.decompress(pixels) + PLACE, 0)
    for data in (behind, within):
        assert PLACE not in check_photo(content[:33] + chunk(b"IDAT", data) + content[-12:]).content
    monkeypatch.setattr("graph.photo_parts._PIECE", 1000)
    assert check_photo(content).content == content, "however it is looked through"


def test_a_palette_has_no_room_for_words() -> None:
    image = Image.new("P", (80, 80))
    image.putpalette(b"\x14\x96\x8c" + PLACE + bytes(3 * 255 - len(PLACE)))
    file = io.BytesIO()
    image.save(file, "PNG")
    assert PLACE in file.getvalue()
    photo = check_photo(file.getvalue())
    assert PLACE not in photo.content
    assert opened(photo).getpixel((40, 40)) == TEAL


@pytest.mark.parametrize(
    ("kind", "mode"), [("PNG", "RGBA"), ("PNG", "RGB"), ("JPEG", "RGB"), ("PNG", "L"), ("MPO", "RGB")]
)
@pytest.mark.parametrize("orientation", [1, 6])
def test_what_must_be_encoded_anew_and_is_very_large_is_halved(
    kind: str, mode: str, orientation: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(photos, "MAX_ENCODED_PIXELS", 200 * 300 - 1)
    image = Image.new(mode, (200, 300), "black")
    image.paste(Image.new(mode, (100, 300), "white"), (100, 0))
    file = io.BytesIO()
    image.save(file, kind, exif=exif(orientation))
    small = opened(check_photo(file.getvalue()))
    assert small.size == ((100, 150) if orientation == 1 else (150, 100))
    black, white = ((20, 75), (80, 75)) if orientation == 1 else ((75, 20), (75, 80))
    assert [small.convert("L").getpixel(where) for where in (black, white)] == [0, 255]
    whole = picture("PNG", size=(200, 300))
    assert check_photo(whole).content == whole, "what stays as it is keeps its size"
    assert "128 a side at least" in refused(picture("PNG", size=(800, 100))).message


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_strips_leave_no_seams(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    image = Image.linear_gradient("L").resize((90, 333)).convert("RGB")
    file = io.BytesIO()
    image.save(file, kind, exif=exif(3), **({} if kind == "PNG" else {"quality": 100}))
    whole = opened(check_photo(file.getvalue()))
    monkeypatch.setattr(photos, "_STRIP", 400)
    assert opened(check_photo(file.getvalue())).tobytes() == whole.tobytes()
    if kind == "PNG":
        assert whole.tobytes() == image.transpose(Image.Transpose.ROTATE_180).tobytes()


def test_a_large_webp_is_refused_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photos, "MAX_WEBP_PIXELS", 200 * 120 - 1)
    assert "23,999 pixels" in refused(picture("WEBP")).message
    assert check_photo(picture("PNG"))


_MEASURED = """
import io, json, resource, sys, threading
from PIL import Image
from graph.photo_parts import is_nothing_more
from graph.photos import check_photo

def megabytes(name):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith(name))

content = open(sys.argv[1], "rb").read()
check_photo(content)
before, peak = megabytes("VmRSS:"), megabytes("VmHWM:")
for _ in range(2):
    threads = [threading.Thread(target=check_photo, args=(content,)) for _ in range(3)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
print(json.dumps({"before": before, "peak": megabytes("VmHWM:"), "after": megabytes("VmRSS:")}))
"""


@pytest.mark.usefixtures("unmeasured")
@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
@pytest.mark.parametrize("mode", ["RGBA", "RGB"])
def test_photos_are_looked_at_one_at_a_time_and_the_memory_is_given_back(mode: str, tmp_path: Path) -> None:
    """16 megapixels are 64 MB, in RGB and in RGBA."""
    path = tmp_path / "large.png"
    Image.new(mode, (4000, 4000), 0).save(path, compress_level=1)
    command = [sys.executable, "-c", _MEASURED, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parent.parent)
    took = json.loads(done.stdout)
    one = 64 * (3 if mode == "RGBA" else 1.5)  # what is read, what is made of it, and some more
    assert took["peak"] - took["before"] < one
    assert took["after"] - took["before"] < 32


@pytest.mark.parametrize(("kind", "mode"), [("PNG", "RGBA"), ("PNG", "LA"), ("WEBP", "RGBA")])
def test_a_cut_out_product_stands_on_white(kind: str, mode: str) -> None:
    cut_out = Image.new(mode, (100, 80))
    cut_out.paste(Image.new(mode.rstrip("A") or "L", (50, 80)).convert(mode), (0, 0))
    file = io.BytesIO()
    cut_out.save(file, kind, lossless=True)
    photo = check_photo(file.getvalue())
    image = opened(photo)
    assert (photo.media_type, image.mode) == ("image/png", "RGB")
    assert (image.getpixel((10, 40)), image.getpixel((90, 40))) == ((0, 0, 0), (255, 255, 255))


def test_unusual_but_fit_photos_become_plain() -> None:
    frames = [Image.new("RGB", (80, 80), color) for color in (TEAL, "red")]
    file = io.BytesIO()
    frames[0].save(file, "PNG", save_all=True, append_images=frames[1:])
    mpo = io.BytesIO()
    frames[0].save(mpo, "MPO", save_all=True, append_images=frames[1:])
    for content, media_type in (
        (file.getvalue(), "image/png"),
        (mpo.getvalue(), "image/jpeg"),
        (picture("JPEG", mode="CMYK"), "image/jpeg"),
    ):
        photo = check_photo(content)
        image = opened(photo)
        assert (photo.media_type, image.mode, getattr(image, "n_frames", 1)) == (media_type, "RGB", 1)
        assert photo.content != content


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "not a PNG, JPEG or WebP image"),
        (b"GIF89a" + bytes(50), "not a PNG, JPEG or WebP image"),
        (picture("GIF"), "not a PNG, JPEG or WebP image"),
        (picture("BMP"), "not a PNG, JPEG or WebP image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a PNG, JPEG or WebP image"),
        (b"%PDF-1.7", "not a PNG, JPEG or WebP image"),
        (picture("JPEG")[:-200], "is damaged"),
        (picture("PNG", size=(900, 900))[:-120], "is damaged"),
        (picture("PNG", size=(63, 500)), "63 x 500 pixels; 64 a side at least"),
        (picture("PNG", mode="I;16"), "more than 8 bits"),
    ],
    ids=str,
)
def test_what_is_no_photo(content: bytes, says: str) -> None:
    assert says in refused(content).message


def _claiming(size: tuple[int, int]) -> bytes:
    """A PNG whose header promises more than it holds."""
    content = picture("PNG")
    header = b"IHDR" + struct.pack(">II", *size) + content[24:29]
    return content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:]


def test_a_photo_is_bounded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for size in ((10_000, 5_001), (12_000, 9_000), (20_000, 19_000)):  # the last two are bombs, for Pillow
        assert "50,000,000 pixels" in refused(_claiming(size)).message
    assert "20,000,000 bytes" in refused(bytes(20_000_001)).message
    monkeypatch.setattr(photos, "MAX_PHOTO_BYTES", 1000)
    path = tmp_path / "jar.png"
    path.write_bytes(picture("PNG") + bytes(5000))
    with pytest.raises(InputError, match="larger than 1,000 bytes"):
        read_photo(path, "jar.png")


async def test_add_photo_takes_a_file_or_bytes_and_the_same_photo_has_one_id(tmp_path: Path) -> None:
    content = picture("PNG")
    (tmp_path / "jar.png").write_bytes(content)
    async with Sparklio() as studio:
        ids = [await studio.add_photo(given) for given in (content, "jar.png", tmp_path / "jar.png")]
        assert studio.images.read(ids[0]) == (content, "image/png")
        for wrong in ("nowhere.png", tmp_path, b"text", "a\0b"):
            with pytest.raises(InputError):
                await studio.add_photo(wrong)
    assert len(set(ids)) == 1
    assert re.fullmatch(r"[0-9a-f]{32}", ids[0])


# what vision asks for


@pytest.mark.parametrize(
    ("wish", "photo"),
    [
        ({}, "0" * 32),
        ({"kind": "product_shot"}, "0" * 32),
        ({"kind": "thumbnail"}, "0" * 32),
        ({"kind": "hero"}, None),
        ({"kind": "concept"}, None),
        ({"kind": "moodboard"}, None),
    ],
)
def test_pictures_of_the_product_by_itself_start_from_the_photo(wish: Mapping[str, Any], photo: str | None) -> None:
    assert vision.planned_request({**wish, "photo": "0" * 32}).options.photo == photo
    assert vision.planned_request(dict(wish)).options.photo is None


def test_another_photo_is_another_job() -> None:
    payload = {"brand": {"name": "x"}, "product_input": {"name": "y"}}
    written = {"prompt": "a jar", "negative_prompt": ""}

    def key(**wish: str) -> str | None:
        request = vision._image_request(payload, vision.DEFAULTS | wish, written, Context(run_id="page", seed=1))
        return request.options.idempotency_key

    assert key(photo="0" * 32) == key(photo="0" * 32)
    assert len({key(), key(photo="0" * 32), key(photo="1" * 32)}) == 3


def test_the_mock_s_prompt_invents_no_packaging_where_there_is_a_photo() -> None:
    def prompt(**image: Any) -> str:
        payload = {"product_input": PRODUCT, "image": {"kind": "product_shot", **image}}
        request = LLMRequest(role="vision", task="image_prompt", mode="json", payload=payload)
        return str(json.loads(answer_text(request))["prompt"])

    assert prompt(from_photo=True).endswith("the product exactly as in the photo")
    assert prompt().endswith("unbranded plain packaging")


# whole runs


@pytest.fixture(params=["mock", "live"])
def mode(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(attempts, "_BACKOFF", lambda state: 0)
    if request.param == "live":
        request.getfixturevalue("live")
    return str(request.param)


def share_of(color: tuple[int, int, int], url: str) -> float:
    """How much of an image has about that colour, 0-1."""
    with Image.open(Path(unquote(urlparse(url).path))) as image:
        small = image.convert("RGB").resize((64, 64), Image.Resampling.NEAREST)
    pixels = [small.getpixel((x, y)) for x in range(64) for y in range(64)]
    near = [
        isinstance(pixel, tuple) and max(abs(a - b) for a, b in zip(pixel, color, strict=True)) < 6 for pixel in pixels
    ]
    return sum(near) / len(near)


async def test_a_run_starts_from_the_photo(mode: str) -> None:
    async with Sparklio() as studio:
        photo = await studio.add_photo(picture("PNG", size=(300, 400)))
        plain = await studio.run(brand=BRAND, product=PRODUCT)
        run = await studio.run(brand=BRAND, product={**PRODUCT, "photo": photo})
        small = await studio.run(brand=BRAND, product={**PRODUCT, "photo": photo}, image={"kind": "thumbnail"})
    assert run.result["meta"]["mode"] == mode
    assert share_of(TEAL, plain.result["image"]["url"]) < 0.02
    assert share_of(TEAL, run.result["image"]["url"]) > 0.1
    assert share_of(TEAL, small.result["image"]["url"]) > 0.1
    assert run.result["image"]["workflow"] == small.result["image"]["workflow"] != plain.result["image"]["workflow"]
    assert set(run.result["image"]) == set(plain.result["image"])
    assert (run.result["image"]["width"], run.result["image"]["height"]) == (1344, 768)
    assert run.state["image_input"] == {"photo": photo}
    assert photo not in json.dumps([run.state["product_input"], run.state["brand_input"]])


async def test_a_banner_is_composed_anew(mode: str) -> None:
    async with Sparklio() as studio:
        photo = await studio.add_photo(picture("PNG"))
        run = await studio.run(brand=BRAND, product={**PRODUCT, "photo": photo}, image={"kind": "hero"})
    assert share_of(TEAL, run.result["image"]["url"]) < 0.02


async def test_a_rerun_with_another_photo_makes_only_the_picture_anew(mode: str) -> None:
    async with Sparklio() as studio:
        photo = await studio.add_photo(picture("PNG"))
        await studio.run(brand=BRAND, product=PRODUCT, run_id="page")
        again = await studio.rerun("page", changes={"image_input.photo": photo})
        without = await studio.rerun("page.2", changes={"image_input.photo": None})
        with pytest.raises(InputError, match="photo"):
            await studio.rerun("page", changes={"image_input.photo": "../jar.png"})
    assert {name for name, node in again.result["meta"]["nodes"].items() if not node["cached"]} == {"vision"}
    assert share_of(TEAL, again.result["image"]["url"]) > 0.1
    assert share_of(TEAL, without.result["image"]["url"]) < 0.02


async def test_an_unknown_photo_and_a_workflow_that_takes_none_are_refused_before_anything_is_done(mode: str) -> None:
    async with Sparklio() as studio:
        photo = await studio.add_photo(picture("PNG"))
        with pytest.raises(UnknownNameError):
            await studio.run(brand=BRAND, product={**PRODUCT, "photo": "0" * 32})
        with pytest.raises(WorkflowError) as ignored:
            await studio.run(brand=BRAND, product={**PRODUCT, "photo": photo}, image={"workflow": "concept_v1"})
        with pytest.raises(WorkflowError) as without:
            await studio.run(brand=BRAND, product=PRODUCT, image={"workflow": "product_photo_v1"})
        assert studio.runs.store.all() == []
    assert "photo: true" in ignored.value.hint
    assert "none is given" in without.value.message


def _shell(monkeypatch: pytest.MonkeyPatch, *words: str) -> int | str | None:
    monkeypatch.setattr(sys, "argv", ["sparklio", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code


def _input_file(folder: Path, photo: str) -> Path:
    path = folder / "input.yaml"
    wish = {"brand": BRAND, "product": {**PRODUCT, "photo": photo}}
    path.write_text(yaml.safe_dump(wish, allow_unicode=True), encoding="utf-8")
    return path


def test_the_command_line_takes_the_photo_beside_the_input_file(
    mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shop = tmp_path / "shop"
    shop.mkdir()
    (shop / "jar.jpg").write_bytes(picture("JPEG", size=(400, 300), exif=exif(6), quality=100, subsampling=0))
    path = _input_file(shop, "jar.jpg")
    assert _shell(monkeypatch, "run", str(path), "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["meta"]["mode"] == mode
    assert share_of(TEAL, result["image"]["url"]) > 0.1
    assert all(PLACE not in image.read_bytes() for image in (tmp_path / ".sparklio" / "images").iterdir())


def test_a_photo_that_cannot_be_used_is_exit_2_and_begins_no_run(
    mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "jar.jpg").write_bytes(b"no picture")
    for name, says in (("jar.jpg", "not a PNG, JPEG or WebP"), ("../jar.jpg", "outside"), ("no.jpg", "cannot read")):
        assert _shell(monkeypatch, "run", str(_input_file(tmp_path, name))) == 2
        told = capsys.readouterr().err
        assert says in told
        assert "hint: " in told
    assert not (tmp_path / ".sparklio").exists()


# live alone: what is sent, and how often


@pytest.fixture
def _live(live: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "_BACKOFF", lambda state: 0)


@pytest.mark.usefixtures("_live")
async def test_no_prompt_holds_the_photo_and_only_vision_hears_that_there_is_one(ollama: OllamaStandIn) -> None:
    async with Sparklio() as studio:
        photo = await studio.add_photo(picture("PNG"))
        await studio.run(brand=BRAND, product={**PRODUCT, "photo": photo})
        asked = {body["format"]["title"]: body["messages"][-1]["content"] for body in ollama.chats}
        assert not [title for title, text in asked.items() if photo in text]
        assert [title for title, text in asked.items() if '"from_photo": true' in text] == ["ImagePrompt"]
        ollama.chats.clear()
        await studio.run(brand=BRAND, product=PRODUCT)
        assert not [body for body in ollama.chats if '"from_photo"' in body["messages"][-1]["content"]]


@pytest.mark.usefixtures("_live")
@pytest.mark.each_place
async def test_a_resumed_run_finds_its_picture_and_uploads_nothing_again(comfyui: ComfyUIStandIn) -> None:
    comfyui.hold()
    async with Sparklio() as studio:
        photo = await studio.add_photo(picture("PNG"))
        async for event in studio.stream(brand=BRAND, product={**PRODUCT, "photo": photo}, run_id="page"):
            if event["type"] == "image_progress":
                break
        comfyui.release()
        run = await studio.resume("page")
    assert share_of(TEAL, run.result["image"]["url"]) > 0.1
    assert len(comfyui.uploads) == len(comfyui.accepted) == 1


@pytest.mark.usefixtures("_live")
async def test_an_upload_that_fails_is_tried_again(comfyui: ComfyUIStandIn) -> None:
    comfyui.answer_next("/upload/image", 500)
    comfyui.cut_uploads()
    async with Sparklio() as studio:
        photo = await studio.add_photo(picture("PNG"))
        run = await studio.run(brand=BRAND, product={**PRODUCT, "photo": photo})
    assert share_of(TEAL, run.result["image"]["url"]) > 0.1
    assert len(comfyui.uploads) == len(comfyui.accepted) == 1


@pytest.mark.usefixtures("_live")
async def test_a_run_whose_upload_keeps_failing_can_go_on(comfyui: ComfyUIStandIn, ollama: OllamaStandIn) -> None:
    comfyui.answer_next("/upload/image", 500, times=50)
    async with Sparklio() as studio:
        photo = await studio.add_photo(picture("PNG"))
        with pytest.raises(ServerError) as caught:
            await studio.run(brand=BRAND, product={**PRODUCT, "photo": photo}, run_id="page")
        assert caught.value.run_id == "page"
        assert comfyui.accepted == []
        comfyui.heal()
        run = await studio.resume("page")
    assert share_of(TEAL, run.result["image"]["url"]) > 0.1
    assert len(comfyui.uploads) == 1
