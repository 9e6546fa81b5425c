"""The file in which a run travels: a zip of known members, each with its digest in the manifest. Read with distrust.

What comes from elsewhere may be torn, altered, or made to do harm: nothing that it says of itself is believed, and no
byte of it is written anywhere before all of it has been looked at.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from graph.event_log import EVENTS_FILE
from providers.base import IMAGE_SUFFIXES
from providers.errors import InputError
from sparklio.rows import TABLES

__all__ = [
    "FORMAT",
    "LOGS",
    "MANIFEST",
    "File",
    "Manifest",
    "Package",
    "add_member",
    "is_event",
    "is_image",
    "new_package",
    "open_package",
    "rows_file",
    "unfit",
]

FORMAT = 1
MANIFEST = "manifest.json"
LOGS = ("run.log", EVENTS_FILE)

MAX_MEMBERS = 64
MAX_MEMBER_BYTES = 128 * 1024 * 1024  # a page holds its image, of 64 MB at most, in base64
MAX_BYTES = 384 * 1024 * 1024
MAX_MANIFEST_BYTES = 1024 * 1024
MAX_RATIO = 200
_RATIO_FROM_BYTES = 1024 * 1024
_MAX_DIRECTORY_BYTES = 64 * 1024

_CHUNK = 64 * 1024
_FIXED_TIME = (1980, 1, 1, 0, 0, 0)
_END = struct.Struct("<4s4H2LH")
_END64 = b"PK\x06\x07"
_END64_SIZE = 20
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENCRYPTED = 0x1
_IMAGE = re.compile(rf"images/[0-9a-f]{{32}}({'|'.join(map(re.escape, IMAGE_SUFFIXES.values()))})")
# What Python's zipfile lets out over a file that is no zip, or a broken one.
_BROKEN = (
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    zlib.error,
    struct.error,
    EOFError,
    NotImplementedError,
    RuntimeError,
    ValueError,
    LookupError,
)


def rows_file(table: str) -> str:
    return f"{table}.jsonl"


def is_image(name: str) -> bool:
    """Whether a member of this name can be an image: its id is its name."""
    return bool(_IMAGE.fullmatch(name))


_FILES = {MANIFEST, "run.json", "result.json", "page.html", *LOGS, *map(rows_file, TABLES)}


class File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size: int = Field(ge=0)


class _LoggedEvent(BaseModel):
    """A line of events.jsonl; the run's id is that of its folder."""

    seq: int = Field(ge=1, lt=10**15)
    type: str
    node: str | None
    at: str
    elapsed_ms: int
    data: dict[str, Any]


def is_event(line: bytes) -> bool:
    """Whether a line of events.jsonl is a whole one: who dies while writing leaves a torn one."""
    try:
        _LoggedEvent.model_validate(json.loads(line), strict=True)
    except (ValueError, RecursionError):
        return False
    return line.endswith(b"\n")


class _AnyManifest(BaseModel):
    format: int


class Manifest(BaseModel):
    """What the file says of itself.

    Attributes:
        made_by: the version of Sparklio that packed it.
        created_at: when the run was made, so that packing a run twice gives the same bytes.
        encrypted: whether its rows need the key of the machine that they come from.
    """

    model_config = ConfigDict(extra="forbid")

    format: Literal[1] = 1
    run_id: str
    made_by: str = Field(max_length=100)
    created_at: str = Field(max_length=100)
    encrypted: bool
    files: dict[str, File]


@contextmanager
def new_package(file: BinaryIO) -> Iterator[zipfile.ZipFile]:
    with zipfile.ZipFile(file, "w") as archive:
        yield archive


def add_member(archive: zipfile.ZipFile, name: str, source: IO[bytes]) -> File:
    """Copy ``source`` into the archive, chunk by chunk. Images are compressed already."""
    member = zipfile.ZipInfo(name, _FIXED_TIME)
    member.compress_type = zipfile.ZIP_STORED if name.startswith("images/") else zipfile.ZIP_DEFLATED
    member.external_attr = (stat.S_IFREG | 0o644) << 16
    member.create_system = 3  # Unix, whatever it is made on
    digest, size = hashlib.sha256(), 0
    with archive.open(member, "w") as target:
        while chunk := source.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
            target.write(chunk)
    return File(sha256=digest.hexdigest(), size=size)


class Package:
    """An open package whose manifest and list of members are in order; each read is checked anew."""

    def __init__(self, archive: zipfile.ZipFile, path: Path) -> None:
        self._archive = archive
        self._path = path
        self._members = _members(archive, path)
        self._left = MAX_BYTES
        self.manifest = self._read_manifest()

    @property
    def path(self) -> Path:
        return self._path

    def __contains__(self, name: str) -> bool:
        return name in self._members

    @property
    def images(self) -> list[str]:
        """Names of the members that are images."""
        return [name for name in self._members if name.startswith("images/")]

    def check(self) -> None:
        """Look at every byte of every member, and keep none.

        Raises:
            InputError: a member is not what the manifest says, or larger than may be.
        """
        self._left = MAX_BYTES
        for name in self.manifest.files:
            for _ in self._checked(name):
                pass

    def read(self, name: str) -> bytes:
        """One member, whole.

        Raises:
            InputError: it is not what the manifest says, or larger than may be.
        """
        self._left = MAX_BYTES
        return b"".join(self._checked(name))

    def lines(self, name: str) -> Iterator[bytes]:
        """The same by lines."""
        return iter(io.BytesIO(self.read(name)))

    def _checked(self, name: str) -> Iterator[bytes]:
        said, digest, size = self.manifest.files[name], hashlib.sha256(), 0
        for chunk in self._chunks(name, min(said.size, MAX_MEMBER_BYTES)):
            digest.update(chunk)
            size += len(chunk)
            yield chunk
        if (digest.hexdigest(), size) != (said.sha256, said.size):
            raise unfit(self._path, f"{name} is not what its manifest says")

    def _chunks(self, name: str, limit: int) -> Iterator[bytes]:
        """Counts what comes out: the sizes in a zip's headers are anybody's claim."""
        member, size = self._members[name], 0
        with broken_is_unfit(self._path), self._archive.open(member) as file:
            while chunk := file.read(_CHUNK):
                size += len(chunk)
                self._left -= len(chunk)
                if size > limit or self._left < 0:
                    raise unfit(self._path, f"{name} is larger than it may be")
                if size > max(_RATIO_FROM_BYTES, MAX_RATIO * member.compress_size):
                    raise unfit(self._path, f"{name} is compressed beyond all measure")
                yield chunk

    def _read_manifest(self) -> Manifest:
        text = b"".join(self._chunks(MANIFEST, MAX_MANIFEST_BYTES))
        try:
            told = _AnyManifest.model_validate_json(text).format
            if told > FORMAT:
                raise InputError(
                    f"{self._path} is of format {told}, and this version reads {FORMAT}",
                    hint="install a newer sparklio here",
                )
            manifest = Manifest.model_validate_json(text)
        except ValidationError as exc:
            raise unfit(self._path, f"its {MANIFEST} is not one") from exc
        if set(manifest.files) != set(self._members) - {MANIFEST}:
            raise unfit(self._path, f"its {MANIFEST} names other members than it has")
        for name, file in manifest.files.items():
            if self._members[name].file_size != file.size:
                raise unfit(self._path, f"{name} is not what its {MANIFEST} says")
        return manifest


@contextmanager
def open_package(path: Path) -> Iterator[Package]:
    """Open a package and look at its list of members and its manifest; :meth:`Package.check` looks at the rest.

    Raises:
        InputError: it cannot be read, or is not a package that this version may take.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for who writes into it
            raise unfit(path, "it is no regular file")
        file = path.open("rb")
    except (OSError, ValueError) as exc:  # ValueError: a null byte in the name
        reason = getattr(exc, "strerror", None) or exc
        raise InputError(f"cannot read {path}: {reason}", hint="give a file that `sparklio pack` made") from exc
    with file:
        _check_end(file, path)
        with broken_is_unfit(path):
            archive = zipfile.ZipFile(file)
        with archive:
            yield Package(archive, path)


def _check_end(file: BinaryIO, path: Path) -> None:
    """The directory of a zip is read whole at its opening, so its size is looked at first: ours is small and last."""
    with broken_is_unfit(path):
        size = file.seek(0, io.SEEK_END)
        file.seek(max(0, size - _END.size - _END64_SIZE))
        tail = file.read()
        magic, disk, first_disk, here, count, directory, offset, comment = _END.unpack(tail[-_END.size :])
    if magic != b"PK\x05\x06" or comment or tail.startswith(_END64):
        raise unfit(path, "it is no zip of ours")
    if disk or first_disk or here != count or offset + directory + _END.size != size:
        raise unfit(path, "it is a torn zip")
    if count > MAX_MEMBERS or directory > _MAX_DIRECTORY_BYTES:
        raise unfit(path, "it has more members than it may have")


def _members(archive: zipfile.ZipFile, path: Path) -> dict[str, zipfile.ZipInfo]:
    members: dict[str, zipfile.ZipInfo] = {}
    for member in archive.infolist():
        name = member.orig_filename
        if name != member.filename or not (name in _FILES or is_image(name)):
            raise unfit(path, f"{name[:80]!r} is no member of a packed run")
        if name in members:
            raise unfit(path, f"it has {name} twice")
        if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG):
            raise unfit(path, f"{name} is no regular file")
        if member.flag_bits & _ENCRYPTED or member.compress_type not in _METHODS:
            raise unfit(path, f"{name} is kept in a way that `sparklio pack` does not use")
        members[name] = member
    missing = {MANIFEST, "run.json", *map(rows_file, TABLES)} - set(members)
    if missing or len(members) > MAX_MEMBERS:
        raise unfit(path, f"it lacks {', '.join(sorted(missing))}" if missing else "it has too many members")
    return members


def unfit(path: Path, reason: str) -> InputError:
    return InputError(f"{path} cannot be unpacked: {reason}", hint="pack the run again: sparklio pack RUN")


@contextmanager
def broken_is_unfit(path: Path) -> Iterator[None]:
    """What Python says of a broken zip leaves the block as an InputError."""
    try:
        yield
    except _BROKEN as exc:
        raise unfit(path, "it is damaged, or no zip at all") from exc
    except OSError as exc:
        raise InputError(f"cannot read {path}: {exc.strerror or exc}", hint="make the file readable") from exc
