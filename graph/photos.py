"""A product photo on its way in: checked, bounded, upright, and rid of what it tells beside the picture."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import ExifTags, Image, UnidentifiedImageError

from providers.base import Photo
from providers.errors import InputError
from providers.pictures import MEDIA_TYPES

__all__ = ["MAX_PHOTO_BYTES", "MAX_PHOTO_PIXELS", "MIN_PHOTO_SIDE", "check_photo", "read_photo"]

MAX_PHOTO_BYTES = 20_000_000
MAX_PHOTO_PIXELS = 50_000_000
MIN_PHOTO_SIDE = 64

_EIGHT_BITS = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"}
_PLAIN_MODES = {"1", "L", "P", "RGB"}
# What may stay: how the pixels are meant. Place, device, author, comments and previews stand under other names.
_ABOUT_PIXELS = {
    "adobe", "adobe_transform", "background", "chromaticity", "dpi", "duration", "gamma", "icc_profile", "interlace",
    "jfif", "jfif_density", "jfif_unit", "jfif_version", "loop", "progression", "progressive", "srgb", "timestamp",
}  # fmt: skip
_JPEG_MARKERS = ((b"JFIF", "APP0"), (b"ICC_PROFILE\0", "APP2"), (b"Adobe", "APP14"))
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

    The bytes stay as they are where they are all that already.

    Raises:
        InputError: no such image, a damaged one, or one beyond the bounds.
    """
    if len(content) > MAX_PHOTO_BYTES:
        raise InputError(f"photo: {name!r} is larger than {MAX_PHOTO_BYTES:,} bytes", hint="save it smaller")
    try:
        with Image.open(io.BytesIO(content), formats=list(MEDIA_TYPES)) as image:
            _check_size(image, name)
            image.load()
            if _is_plain(image) and _ends_there(content, str(image.format)):
                return Photo(content, MEDIA_TYPES[str(image.format)])
            return _encoded(image, _upright(image))
    except UnidentifiedImageError as exc:
        raise InputError(
            f"photo: {name!r} is not a PNG, JPEG or WebP image", hint="save it as one of these, e.g. as a JPEG"
        ) from exc
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as exc:
        raise _too_large(name) from exc
    except (OSError, SyntaxError, ValueError) as exc:  # what Pillow raises while it reads pixels and metadata
        raise InputError(f"photo: {name!r} is damaged: {exc}", hint="open it and save it again as a JPEG") from exc


def _check_size(image: Image.Image, name: str) -> None:
    if image.width * image.height > MAX_PHOTO_PIXELS:
        raise _too_large(name)
    if min(image.size) < MIN_PHOTO_SIDE:
        raise InputError(
            f"photo: {name!r} has {image.width} x {image.height} pixels; {MIN_PHOTO_SIDE} a side at least",
            hint="give a larger photo: 1,000 pixels a side do well",
        )
    if image.mode not in _EIGHT_BITS:
        raise InputError(f"photo: {name!r} has more than 8 bits a colour", hint="save it as a JPEG")


def _too_large(name: str) -> InputError:
    return InputError(
        f"photo: {name!r} has more than {MAX_PHOTO_PIXELS:,} pixels",
        hint="save it smaller: 2,000 pixels a side do well",
    )


def _is_plain(image: Image.Image) -> bool:
    """Whether the bytes hold one opaque picture and nothing that tells more than the picture does."""
    markers = getattr(image, "applist", [])
    return (
        image.format in MEDIA_TYPES
        and image.mode in _PLAIN_MODES
        and getattr(image, "n_frames", 1) == 1
        and not image.has_transparency_data
        and set(image.info) <= _ABOUT_PIXELS
        and not getattr(image, "private_chunks", [])
        and all(any(name == app and data.startswith(mark) for mark, app in _JPEG_MARKERS) for name, data in markers)
    )


def _ends_there(content: bytes, kind: str) -> bool:
    """Whether the file is the picture and nothing more; in doubt it is not, and is encoded anew."""
    if kind == "JPEG":
        return content.find(b"\xff\xd9") == len(content) - 2  # the end marker; a profile of colours may hold its bytes
    if kind == "PNG":
        return content.find(b"IEND\xaeB`\x82") == len(content) - 8
    size = int.from_bytes(content[16:20], "little")  # WebP: one chunk of pixels behind the 12 bytes of its header
    return content[12:16] in (b"VP8 ", b"VP8L") and 20 + size + size % 2 == len(content)


def _upright(image: Image.Image) -> Image.Image:
    """As it was held. (``ImageOps.exif_transpose`` writes the other metadata anew, and fails on some cameras'.)"""
    turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    return image if turn is None else image.transpose(turn)


def _encoded(original: Image.Image, upright: Image.Image) -> Photo:
    """The pixels alone. A profile of colours stays: without it they would be others."""
    profile = original.info.get("icc_profile") if original.mode not in ("CMYK", "YCbCr") else None
    file = io.BytesIO()
    if upright.has_transparency_data:
        cut_out = upright.convert("RGBA")
        opaque = Image.new("RGB", cut_out.size, "white")  # as shops show products that are cut out
        opaque.paste(cut_out, mask=cut_out)
        kind = "PNG"
    else:
        opaque = upright.convert("RGB")
        kind = "JPEG" if original.format == "MPO" else str(original.format)  # MPO: a phone's JPEG with more behind it
    opaque.info.clear()
    opaque.save(file, kind, icc_profile=profile, **({} if kind == "PNG" else {"quality": _QUALITY}))
    return Photo(file.getvalue(), MEDIA_TYPES[kind])
