"""Generated images on disk, each under the hash of its own bytes: written once, never torn, never overwritten."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from secrets import token_hex

from providers.base import IMAGE_SUFFIXES
from providers.errors import StorageError, UnknownNameError

__all__ = ["MEDIA_TYPES", "ImageStore", "image_id", "is_image_id", "make_folder", "write_whole"]

_ID = re.compile(r"^[0-9a-f]{32}$")
MEDIA_TYPES = {suffix: media_type for media_type, suffix in IMAGE_SUFFIXES.items()}


def image_id(content: bytes, media_type: str = "image/png") -> str:
    """The id under which an image would be stored."""
    return hashlib.sha256(content).hexdigest()[:32]


def is_image_id(text: str) -> bool:
    return _ID.match(text) is not None


class ImageStore:
    """Images in ``folder``, named ``<id>.png``; the id is the first 32 hex digits of the SHA-256 of the bytes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, content: bytes, media_type: str = "image/png") -> str:
        """Store the bytes and return their id.

        Raises:
            StorageError: the folder cannot be written.
        """
        name = image_id(content)
        path = self.folder / f"{name}{IMAGE_SUFFIXES.get(media_type, '.png')}"
        if path.exists():
            path.touch()  # young again: prune spares what somebody has just asked for
        else:
            write_whole(path, content)
        return name

    def path(self, image_id: str) -> Path:
        """The file of an image.

        Raises:
            UnknownNameError: no such image, or not an id at all.
        """
        if is_image_id(image_id):
            for suffix in IMAGE_SUFFIXES.values():
                if (path := self.folder / f"{image_id}{suffix}").is_file():
                    return path
        raise UnknownNameError("image", image_id, (), hint="image ids stand in result.json under image.image_id")

    def read(self, image_id: str) -> tuple[bytes, str]:
        """An image's bytes and their media type.

        Raises:
            UnknownNameError: no such image, or not an id at all.
            StorageError: its file cannot be read.
        """
        path = self.path(image_id)
        try:
            return path.read_bytes(), MEDIA_TYPES[path.suffix]
        except OSError as exc:
            raise StorageError(f"cannot read {path}: {exc.strerror or exc}", hint="make the file readable") from exc

    def url(self, image_id: str) -> str:
        """The file's URL on this machine."""
        return self.path(image_id).as_uri()


def write_whole(path: Path, content: bytes, *, mode: int = 0o666) -> None:
    """Write a file that appears whole or not at all, and is there when this returns: temporary file, fsync, rename.

    ``mode`` is under the umask.

    Raises:
        StorageError: the folder cannot be made or written.
    """
    temporary = path.with_name(f".{path.name}.{token_hex(8)}")
    try:
        make_folder(path.parent)
        try:
            with os.fdopen(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode), "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            _sync_folder(path.parent)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as exc:
        raise StorageError(
            f"cannot write {path}: {exc.strerror or exc}", hint="make the folder writable, or choose another one"
        ) from exc


def make_folder(folder: Path) -> None:
    """Make a folder with its parents, so that a power cut does not take any of them away again.

    Raises:
        OSError: it cannot be made.
    """
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for one in missing:
        _sync_folder(one.parent)


def _sync_folder(folder: Path) -> None:
    """Until its folder is written, a power cut may undo a rename."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
