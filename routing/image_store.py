"""Images and finished pages on disk, each under the hash of its own bytes: written once, never torn, never changed.

Several machines share them by SPARKLIO_ARTIFACTS_URL: a folder that all of them see, or a far side that each writes
through to and fetches from what it lacks.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, ClassVar

from providers.base import IMAGE_SUFFIXES
from providers.errors import StorageError, UnknownNameError

if TYPE_CHECKING:
    from routing.object_store import Found, ObjectStore
    from routing.settings import Settings

__all__ = [
    "MEDIA_TYPES",
    "ImageStore",
    "PageStore",
    "check_artifacts",
    "hash_id",
    "image_id",
    "image_store",
    "is_image_id",
    "make_folder",
    "page_store",
    "write_whole",
]

_ID = re.compile(r"[0-9a-f]{32}")
MEDIA_TYPES = {suffix: media_type for media_type, suffix in IMAGE_SUFFIXES.items()}


def hash_id(content: bytes) -> str:
    """The first 32 hex digits of the SHA-256 of the bytes."""
    return hashlib.sha256(content).hexdigest()[:32]


def image_id(content: bytes, media_type: str = "image/png") -> str:
    """The id under which an image would be stored."""
    return hash_id(content)


def is_image_id(text: str) -> bool:
    return _ID.fullmatch(text) is not None


class _HashedFiles:
    """Files in ``folder``, named ``<id><suffix>``; the id is the :func:`hash_id` of the bytes.

    Args:
        folder: on this machine, or one that several machines see.
        far: where they lie for other machines, as ``<kind>s/<id><suffix>``. The folder is then no more than what this
            machine has needed of late.
    """

    kind: ClassVar[str]
    key: ClassVar[str]
    suffixes: ClassVar[tuple[str, ...]]

    def __init__(self, folder: Path, far: ObjectStore | None = None) -> None:
        self.folder = folder
        self.far = far

    def path(self, file_id: str) -> Path:
        """The file of an id, fetched from the far side where this machine lacks it.

        Raises:
            UnknownNameError: there is none, or it is not an id at all.
            StorageError: the far side cannot be read, or has another content under that id.
        """
        if _ID.fullmatch(file_id):
            for suffix in self.suffixes:
                if (path := self.folder / f"{file_id}{suffix}").is_file():
                    if self.far is not None:
                        self.far.note_use(path)
                    return path
            if self.far is not None and (fetched := self._fetched(file_id, self.far)):
                return fetched
        raise UnknownNameError(self.kind, file_id, (), hint=f"{self.kind} ids stand in result.json under {self.key}")

    def files(self) -> dict[str, Path]:
        """All that are there on this machine, by their ids."""
        found = sorted(self.folder.glob("*"))
        return {path.stem: path for path in found if _ID.fullmatch(path.stem) and path.suffix in self.suffixes}

    def far_files(self) -> Iterator[tuple[str, Found]]:
        """All that are on the far side, each with its id, in no order.

        Raises:
            StorageError: it cannot be listed.
        """
        for found in self.far.found(f"{self.kind}s") if self.far else ():
            path = Path(found.name)
            if _ID.fullmatch(path.stem) and path.suffix in self.suffixes:
                yield path.stem, found

    def delete_far(self, found: Found) -> None:
        """Delete one of :meth:`far_files`.

        Raises:
            StorageError: it cannot be deleted.
        """
        if self.far is not None:
            self.far.delete(found.name)

    def _save(self, content: bytes, suffix: str) -> str:
        name = hash_id(content)
        path = self.folder / f"{name}{suffix}"
        if not _made_young(path):
            write_whole(path, content)
        if self.far is not None:
            self.far.put(self._far_name(path.name), content)
            self.far.note_copy(path)
        return name

    def _fetched(self, file_id: str, far: ObjectStore) -> Path | None:
        for suffix in self.suffixes:
            path = self.folder / f"{file_id}{suffix}"
            content = far.get(self._far_name(path.name))
            if content is None:
                continue
            if hash_id(content) != file_id:
                raise StorageError(
                    f"{self._far_name(path.name)} in {far.place} is damaged",
                    hint=f"remove that object, and make the {self.kind} again",
                )
            write_whole(path, content)
            far.note_copy(path)
            return path
        return None

    def _far_name(self, name: str) -> str:
        return f"{self.kind}s/{name}"

    def _read(self, path: Path) -> bytes:
        try:
            return path.read_bytes()
        except OSError as exc:
            raise StorageError(f"cannot read {path}: {exc.strerror or exc}", hint="make the file readable") from exc


class ImageStore(_HashedFiles):
    """Images, ``<id>.png``, ``.jpg`` or ``.webp``."""

    kind = "image"
    key = "image.image_id"
    suffixes = tuple(MEDIA_TYPES)

    def save(self, content: bytes, media_type: str = "image/png") -> str:
        """Store the bytes and return their id.

        Raises:
            StorageError: the folder, or the far side, cannot be written.
        """
        return self._save(content, IMAGE_SUFFIXES.get(media_type, ".png"))

    def read(self, image_id: str) -> tuple[bytes, str]:
        """An image's bytes and their media type.

        Raises:
            UnknownNameError: no such image, or not an id at all.
            StorageError: its file cannot be read, or as :meth:`path`.
        """
        path = self.path(image_id)
        return self._read(path), MEDIA_TYPES[path.suffix]

    def url(self, image_id: str) -> str:
        """The file's URL on this machine."""
        return self.path(image_id).as_uri()


class PageStore(_HashedFiles):
    """Finished pages, ``<id>.html``."""

    kind = "page"
    key = "meta.page_id"
    suffixes = (".html",)

    @classmethod
    def of(cls, images: ImageStore) -> PageStore:
        """The pages that lie beside these images, on both sides."""
        return cls(images.folder.with_name("pages"), images.far)

    def save(self, content: bytes) -> str:
        """Store the bytes and return their id.

        Raises:
            StorageError: the folder, or the far side, cannot be written.
        """
        return self._save(content, ".html")

    def read(self, page_id: str) -> bytes:
        """A page's bytes.

        Raises:
            UnknownNameError: no such page, or not an id at all.
            StorageError: its file cannot be read, or as :meth:`path`.
        """
        return self._read(self.path(page_id))


def image_store(settings: Settings) -> ImageStore:
    """Where the settings have images kept: the data folder, a folder that machines share, or one with a far side.

    Raises:
        ConfigError: SPARKLIO_ARTIFACTS_URL cannot be used, or its package is missing.
    """
    url = settings.artifacts_url
    if url is None:
        return ImageStore(settings.images)
    from routing.object_store import ObjectStore, shared_folder

    if folder := shared_folder(url):
        return ImageStore(folder / settings.images.name)
    return ImageStore(settings.images, ObjectStore(url))


def check_artifacts(settings: Settings) -> None:
    """Write and read where several machines keep images and pages.

    Raises:
        StorageError: that cannot be done.
        ConfigError: as :func:`image_store`.
    """
    images, name = image_store(settings), f"probe-{token_hex(8)}"
    if images.far is None:
        write_whole(images.folder / name, b"probe")
        (images.folder / name).unlink()
        return
    images.far.put(name, b"probe")
    if images.far.get(name) != b"probe":
        raise StorageError(f"{images.far.place} does not keep what it is given", hint="look into that service")
    images.far.delete(name)


def page_store(settings: Settings) -> PageStore:
    """Where they have pages kept: beside the images; raises as :func:`image_store` does."""
    return PageStore.of(image_store(settings))


def _made_young(path: Path) -> bool:
    """Whether the file is there; prune spares what somebody has just asked for."""
    try:
        os.utime(path)
    except FileNotFoundError:
        return False
    except OSError as exc:
        raise _unwritable(path, exc) from exc
    return True


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
        raise _unwritable(path, exc) from exc


def _unwritable(path: Path, exc: OSError) -> StorageError:
    return StorageError(
        f"cannot write {path}: {exc.strerror or exc}", hint="make the folder writable, or choose another one"
    )


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
