"""Small pictures of the pages' pictures, made once and kept in the batch's folder."""

from __future__ import annotations

import io
import logging
from base64 import b64encode
from pathlib import Path

from PIL import Image

from routing.image_store import write_whole

__all__ = ["Thumbnails"]

log = logging.getLogger(__name__)

_SIZE = (128, 96)
_QUALITY = 60  # some 2 kB each, so that an index page of 200 stays under a megabyte


class Thumbnails:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def data_url(self, image_id: str, images: Path) -> str | None:
        """The small picture as part of a page; None where the large one, in ``images``, is gone or damaged.

        Raises:
            StorageError: it cannot be kept.
        """
        path = self._folder / f"{image_id}.jpg"
        try:
            content = path.read_bytes() if path.is_file() else self._made(path, image_id, images)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as exc:  # all of them are Pillow's
            log.warning("no thumbnail of %s: %s", image_id, exc)
            return None
        return f"data:image/jpeg;base64,{b64encode(content).decode()}"

    def _made(self, path: Path, image_id: str, images: Path) -> bytes:
        large = next(images.glob(f"{image_id}.*"), None)
        if large is None:
            raise FileNotFoundError(f"{image_id} is not in {images}")
        small = io.BytesIO()
        with Image.open(large) as image:
            image.draft("RGB", _SIZE)
            image.thumbnail(_SIZE)
            image.convert("RGB").save(small, "JPEG", quality=_QUALITY)
        write_whole(path, small.getvalue())
        return small.getvalue()
