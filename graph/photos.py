"""A product photo on its way in: checked, bounded, upright, and rid of what it tells beside the picture."""

from __future__ import annotations

import ctypes
import io
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from PIL import ExifTags, Image, UnidentifiedImageError

from graph.photo_parts import is_nothing_more, is_profile
from providers.base import Photo
from providers.errors import InputError
from providers.pictures import MEDIA_TYPES

__all__ = [
    "MAX_ENCODED_PIXELS",
    "MAX_PHOTO_BYTES",
    "MAX_PHOTO_PIXELS",
    "MAX_WEBP_PIXELS",
    "MIN_PHOTO_SIDE",
    "check_photo",
    "read_photo",
]

MAX_PHOTO_BYTES = 20_000_000
MAX_PHOTO_PIXELS = 50_000_000
MAX_WEBP_PIXELS = 16_000_000
"""libwebp's reader, as Pillow uses it, holds a picture four times over: 16 bytes a pixel."""
MAX_ENCODED_PIXELS = 16_000_000
"""What must be encoded anew and has more is halved: no model looks at as many, and it bounds what a photo costs."""
MIN_PHOTO_SIDE = 64

_EIGHT_BITS = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"}
_PLAIN_MODES = {"1", "L", "RGB"}  # a palette has room for words in what no pixel uses
_STRIP = 64  # rows that are reworked at a time; even, to be halved
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_QUALITY = 95  # of what must be encoded anew: the eye sees no difference, and neither does a model
_turns = threading.Lock()


def read_photo(path: Path, name: str) -> Photo:
    """The photo in a file; ``name`` stands for it in messages.

    Raises:
        InputError: it cannot be read, or as :func:`check_photo`.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_PHOTO_BYTES + 1)
    except (OSError, ValueError) as exc:  # ValueError: a null byte in the name
        reason = getattr(exc, "strerror", None) or exc
        raise InputError(f"photo: cannot read {name!r}: {reason}", hint="mend the name, or remove it") from exc
    return check_photo(content, name)


def check_photo(content: bytes, name: str = "the photo") -> Photo:
    """The photo in ``content`` (PNG, JPEG or WebP), as it will be used: upright, opaque on white, without metadata.

    The bytes stay as they are where they are all that already. Photos are looked at one at a time, whoever asks.

    Raises:
        InputError: no such image, a damaged one, or one beyond the bounds.
    """
    if len(content) > MAX_PHOTO_BYTES:
        raise InputError(f"photo: {name!r} is larger than {MAX_PHOTO_BYTES:,} bytes", hint="save it smaller")
    try:
        with _one_at_a_time(), closing(Image.open(io.BytesIO(content), formats=list(MEDIA_TYPES))) as image:
            _check_size(image, name)
            if _is_plain(image, content):
                _look_through(image)
                return Photo(content, MEDIA_TYPES[str(image.format)])
            return _encoded(image)
    except UnidentifiedImageError as exc:
        raise InputError(
            f"photo: {name!r} is not a PNG, JPEG or WebP image", hint="save it as one of these, e.g. as a JPEG"
        ) from exc
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as exc:
        raise _too_large(name, MAX_PHOTO_PIXELS) from exc
    except (OSError, SyntaxError, ValueError) as exc:  # what Pillow raises while it reads pixels and metadata
        raise InputError(f"photo: {name!r} is damaged: {exc}", hint="open it and save it again as a JPEG") from exc


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    """A decoded photo takes up to 200 MB, and each thread's part of the heap would keep as much for its next one."""
    with _turns:
        try:
            yield
        finally:
            if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):  # not in musl
                trim(0)


def _check_size(image: Image.Image, name: str) -> None:
    most = MAX_WEBP_PIXELS if image.format == "WEBP" else MAX_PHOTO_PIXELS
    if image.width * image.height > most:
        raise _too_large(name, most)
    least = MIN_PHOTO_SIDE * _factor(image)
    if min(image.size) < least:
        raise InputError(
            f"photo: {name!r} has {image.width} x {image.height} pixels; {least} a side at least",
            hint="give a larger photo: 1,000 pixels a side do well",
        )
    if image.mode not in _EIGHT_BITS:
        raise InputError(f"photo: {name!r} has more than 8 bits a colour", hint="save it as a JPEG")


def _too_large(name: str, most: int) -> InputError:
    return InputError(
        f"photo: {name!r} has more than {most:,} pixels",
        hint="save it smaller, e.g. as a JPEG: 2,000 pixels a side do well",
    )


def _factor(image: Image.Image) -> int:
    return 2 if image.width * image.height > MAX_ENCODED_PIXELS else 1


def _is_plain(image: Image.Image, content: bytes) -> bool:
    """Whether the bytes hold one opaque picture and nothing that tells more than the picture does."""
    return (
        image.format in MEDIA_TYPES
        and image.mode in _PLAIN_MODES
        and getattr(image, "n_frames", 1) == 1
        and not image.has_transparency_data
        and is_nothing_more(content, str(image.format))
    )


def _look_through(image: Image.Image) -> None:
    """Find damage. A JPEG is read as a small one, which takes all of its bytes and little memory."""
    image.draft(None, (MIN_PHOTO_SIDE, MIN_PHOTO_SIDE))
    image.load()


def _encoded(image: Image.Image) -> Photo:
    """The pixels alone, upright. A profile of colours stays: without it they would be others."""
    kind = "JPEG" if image.format == "MPO" else str(image.format)  # MPO: a phone's JPEG with more behind it
    factor = _factor(image)
    if factor > 1 and image.draft(None, (image.width // factor, image.height // factor)):
        factor = 1  # a JPEG has been halved as it is read
    image.load()
    turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    profile = image.info.get("icc_profile") if image.mode not in ("CMYK", "YCbCr") else None
    if image.has_transparency_data:
        kind = "PNG"
    opaque = _opaque(image, factor)
    image.close()  # with its pixels, before they are copied once more
    if turn is not None:
        opaque = opaque.transpose(turn)
    file = io.BytesIO()
    kept = profile if profile and is_profile(profile) else None
    opaque.save(file, kind, icc_profile=kept, **({} if kind == "PNG" else {"quality": _QUALITY}))
    return Photo(file.getvalue(), MEDIA_TYPES[kind])


def _opaque(image: Image.Image, factor: int) -> Image.Image:
    """The picture in RGB, on white where it is transparent, its sides divided by ``factor``.

    It is made strip by strip, for whole copies in between would take 200 MB each.
    """
    width, height = image.size
    opaque = Image.new("RGB", (-(-width // factor), -(-height // factor)))
    for top in range(0, height, _STRIP):
        strip = image.crop((0, top, width, min(top + _STRIP, height)))
        opaque.paste(_on_white(strip).reduce(factor), (0, top // factor))
    return opaque


def _on_white(strip: Image.Image) -> Image.Image:
    """As shops show products that are cut out."""
    if not strip.has_transparency_data:
        return strip.convert("RGB")
    cut_out = strip.convert("RGBA")
    white = Image.new("RGB", cut_out.size, "white")
    white.paste(cut_out, mask=cut_out)
    return white
