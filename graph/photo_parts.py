"""Whether a picture's file is the picture and nothing more, read part by part.

A part stays only where its kind and its length leave no room for anything else: places, devices, authors, times,
comments and previews stand in parts of other kinds, behind the last one, or in those that are longer than they need be.
In doubt the answer is no, and the picture is encoded anew.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

__all__ = ["is_nothing_more", "is_profile"]

_PNG_HEAD = b"\x89PNG\r\n\x1a\n"
_PNG_LENGTHS = {b"IHDR": 13, b"gAMA": 4, b"cHRM": 32, b"sRGB": 1, b"pHYs": 9, b"IEND": 0}
_PNG_SAMPLES = {0: 1, 2: 3}  # of a pixel, by the colour type: grey, RGB
_PIECE = 1 << 20

_APP0, _APP2, _APP14 = 0xE0, 0xE2, 0xEE
_TABLES, _HUFFMAN, _RESTARTS, _SCAN, _END = 0xDB, 0xC4, 0xDD, 0xDA, 0xD9
_FRAMES = {0xC0, 0xC1, 0xC2}
_PROFILE = b"ICC_PROFILE\0"


def is_nothing_more(content: bytes, kind: str) -> bool:
    """``kind`` is PNG, JPEG or WEBP; what is damaged may be either."""
    try:
        return {"PNG": _is_pure_png, "JPEG": _is_pure_jpeg, "WEBP": _is_pure_webp}[kind](content)
    except (IndexError, zlib.error):
        return False


def is_profile(profile: bytes) -> bool:
    """Whether it is a profile of colours (ICC) and no longer than it says."""
    return len(profile) >= 128 and int.from_bytes(profile[:4], "big") == len(profile) and profile[36:40] == b"acsp"


def _is_pure_png(content: bytes) -> bool:
    chunks = list(_chunks(content))
    kinds = [kind for kind, _ in chunks]
    return (
        content.startswith(_PNG_HEAD)
        and kinds[0] == b"IHDR"
        and kinds[-1] == b"IEND"
        and len({kind for kind in kinds if kind != b"IDAT"}) == sum(kind != b"IDAT" for kind in kinds)
        and all(kind == b"IDAT" or len(data) == _PNG_LENGTHS.get(kind) for kind, data in chunks)
        and _holds_pixels_alone(chunks[0][1], (data for kind, data in chunks if kind == b"IDAT"))
    )


def _chunks(content: bytes) -> Iterator[tuple[bytes, memoryview]]:
    at, view = len(_PNG_HEAD), memoryview(content)
    while at < len(content):
        size = int.from_bytes(view[at : at + 4], "big")
        data = view[at + 8 : at + 8 + size]
        if len(data) + 4 != len(view[at + 8 : at + 12 + size]):  # with its checksum
            raise IndexError("the file ends in the middle of a chunk")
        yield bytes(view[at + 4 : at + 8]), data
        at += 12 + size


def _holds_pixels_alone(head: memoryview, parts: Iterator[memoryview]) -> bool:
    """Whether the compressed data hold as many bytes as the picture has, and end there."""
    width, height = int.from_bytes(head[:4], "big"), int.from_bytes(head[4:8], "big")
    depth, colours, interlaced = head[8], head[9], head[12]
    if colours not in _PNG_SAMPLES or interlaced:
        return False
    left = height * (1 + (width * depth * _PNG_SAMPLES[colours] + 7) // 8)
    inflater = zlib.decompressobj()
    for part in parts:
        data: bytes | memoryview = part
        while len(data):
            if inflater.eof:
                return False
            left -= len(inflater.decompress(data, _PIECE))
            if left < 0 or inflater.unused_data:
                return False
            data = inflater.unconsumed_tail
    while not inflater.eof and left >= 0 and (more := inflater.decompress(b"", _PIECE)):
        left -= len(more)
    return inflater.eof and left == 0


def _is_pure_jpeg(content: bytes) -> bool:
    at, profile, apps = 2, [], []
    if content[:2] != b"\xff\xd8":
        return False
    while content[at + 1] != _END:
        marker, size = content[at + 1], int.from_bytes(content[at + 2 : at + 4], "big")
        data = content[at + 4 : at + 2 + size]
        if content[at] != 0xFF or size < 2 or len(data) != size - 2 or not _is_pure_segment(marker, data):
            return False
        if marker == _APP2:
            profile.append(data)
        elif marker in (_APP0, _APP14):
            apps.append(marker)
        at += 2 + size
        if marker == _SCAN:
            at = _end_of_scan(content, at)
    return content[at:] == b"\xff\xd9" and len(apps) == len(set(apps)) and (not profile or is_profile(_joined(profile)))


def _is_pure_segment(marker: int, data: bytes) -> bool:
    if marker == _APP0:
        return len(data) == 14 and data.startswith(b"JFIF\0") and data.endswith(b"\0\0")  # without a preview
    if marker == _APP2:
        return data.startswith(_PROFILE) and len(data) > len(_PROFILE) + 2
    if marker == _APP14:
        return len(data) == 12 and data.startswith(b"Adobe")
    if marker == _TABLES:
        return _are_quantisers(data)
    if marker == _HUFFMAN:
        return _are_huffman_tables(data)
    if marker in _FRAMES:
        return len(data) == 6 + 3 * data[5]
    if marker == _SCAN:
        return len(data) == 4 + 2 * data[0]
    return marker == _RESTARTS and len(data) == 2


def _are_quantisers(data: bytes) -> bool:
    at = 0
    while at < len(data):
        if data[at] >> 4 > 1 or data[at] & 15 > 3:
            return False
        at += 1 + 64 * (1 + (data[at] >> 4))
    return at == len(data) > 0


def _are_huffman_tables(data: bytes) -> bool:
    at = 0
    while at < len(data):
        if data[at] >> 4 > 1 or data[at] & 15 > 3:
            return False
        at += 17 + sum(data[at + 1 : at + 17])
    return at == len(data) > 0


def _end_of_scan(content: bytes, at: int) -> int:
    """Where the next marker stands; in the pixels 0xFF is followed by 0, or by the count of a restart."""
    while True:
        at = content.find(b"\xff", at)
        if at < 0:
            raise IndexError("the pixels do not end")
        if content[at + 1] != 0 and not 0xD0 <= content[at + 1] <= 0xD7:
            return at
        at += 2


def _joined(parts: list[bytes]) -> bytes:
    """A profile's parts stand in their order, each with its number and how many there are."""
    start = len(_PROFILE)
    numbered = [(part[start], part[start + 1]) for part in parts]
    whole = numbered == [(number, len(parts)) for number in range(1, len(parts) + 1)]
    return b"".join(part[start + 2 :] for part in parts) if whole else b""


def _is_pure_webp(content: bytes) -> bool:
    """One chunk of pixels behind the 12 bytes of the header."""
    size = int.from_bytes(content[16:20], "little")
    return (
        content[12:16] in (b"VP8 ", b"VP8L")
        and int.from_bytes(content[4:8], "little") == len(content) - 8
        and 20 + size + size % 2 == len(content)
        and (size % 2 == 0 or content[-1] == 0)
    )
