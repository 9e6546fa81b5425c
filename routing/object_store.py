"""The far side of folders that several machines share: objects under a URL, over obstore, which is imported on use.

Credentials, endpoint and region come from the variables that the vendors' own tools read: AWS_ACCESS_KEY_ID,
AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL, AWS_REGION, ...; GOOGLE_...; AZURE_STORAGE_....
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import url2pathname

from providers.errors import ConfigError, StorageError

if TYPE_CHECKING:
    from obstore.store import ObjectStore as Opened

__all__ = ["Found", "ObjectStore", "shared_folder"]

_SCHEMES = ("s3", "gs", "az")
_ENDPOINTS = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT", "AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT")
_ALLOWANCES = ("AWS_ALLOW_HTTP", "AZURE_ALLOW_HTTP", "GOOGLE_ALLOW_HTTP")
_STATUS = re.compile(r"status code: (\d{3}(?: [A-Z][A-Za-z ]+)?)")
_PATIENCE_S = 30.0
_REQUEST_S = 30.0
_CONNECT_S = 5.0
_LARGEST = 64 * 2**20
_COPIES = 256  # at some 2 MB each half a gigabyte
_IN_USE_S = 60.0
_begun: list[int] = []  # the process that asked first
_KEYS_HINT = "see that the credentials in the environment (AWS_ACCESS_KEY_ID, ...) may read and write there"
_PLACE_HINT = "see that the store is up and its endpoint (AWS_ENDPOINT_URL, ...) right, then resume"


@dataclass(frozen=True)
class Found:
    """An object as a list tells it; ``size`` in bytes."""

    name: str
    size: int
    modified: datetime


class ObjectStore:
    """What lies under ``url``. Objects are named by their path behind it, e.g. ``images/<id>.png``.

    Blocks while it waits; any number of threads may share one. A process that has asked any may not be forked: see
    :func:`_check_process`.

    Args:
        url: ``s3://bucket/prefix``, ``gs://...`` or ``az://...``.

    Raises:
        ConfigError: the URL cannot be used, or the package is missing.
    """

    def __init__(self, url: str) -> None:
        self.place = _without_credentials(url)
        self._opened = _open(url, self.place)
        self._copies: dict[Path, float] = {}
        self._guard = threading.Lock()

    def put(self, name: str, content: bytes) -> None:
        """Write an object, whole or not at all. Names tell the content here, so that writing again changes nothing but
        the object's age, and mends a damaged one.

        Raises:
            StorageError: it cannot be written.
        """
        import obstore

        with self._errors(f"write {name} to"):
            obstore.put(self._opened, name, content, use_multipart=False)

    def get(self, name: str) -> bytes | None:
        """An object's bytes; None where there is none.

        Raises:
            StorageError: it cannot be read, or is larger than anything of ours.
        """
        import obstore

        with self._errors(f"read {name} from"):
            try:
                found = obstore.get(self._opened, name)
            except FileNotFoundError:
                return None
            if found.meta["size"] <= _LARGEST:
                return bytes(found.bytes())
        raise StorageError(f"{name} in {self.place} is larger than any file of ours", hint="remove that object")

    def found(self, folder: str) -> Iterator[Found]:
        """What lies in a folder, in no order, fetched page by page.

        Raises:
            StorageError: it cannot be listed.
        """
        import obstore

        with self._errors(f"list {folder} of"):
            for page in obstore.list(self._opened, folder, chunk_size=1000):
                for meta in page:
                    yield Found(meta["path"], meta["size"], meta["last_modified"])

    def delete(self, name: str) -> None:
        """Delete an object; one that is not there is no failure.

        Raises:
            StorageError: it cannot be deleted.
        """
        import obstore

        with self._errors(f"delete {name} of"), suppress(FileNotFoundError):  # Google and Azure say so, S3 does not
            obstore.delete(self._opened, name)

    def note_copy(self, path: Path) -> None:
        """Note that a file of this machine holds what lies here as well. Where there are many, the oldest are deleted,
        else the disk of whoever works for all would fill; but none that was written a moment ago.

        Raises:
            OSError: one cannot be deleted.
        """
        with self._guard:
            self._copies.pop(path, None)
            self._copies[path] = time.time()
            while len(self._copies) > _COPIES and self._copies[oldest := next(iter(self._copies))] < _in_use_since():
                del self._copies[oldest]
                oldest.unlink(missing_ok=True)

    def note_use(self, path: Path) -> None:
        """Note that somebody needs this file of the machine now, should it be one of the copies."""
        with self._guard:
            if path in self._copies:
                del self._copies[path]
                self._copies[path] = time.time()

    @contextmanager
    def _errors(self, deed: str) -> Iterator[None]:
        """Without the cause: its text may hold key ids and signed URLs, and a log would show it."""
        from obstore.exceptions import BaseError

        _check_process()
        try:
            yield
        except FileNotFoundError:
            raise StorageError(
                f"cannot {deed} {self.place}: there is no such bucket", hint="make it, or mend SPARKLIO_ARTIFACTS_URL"
            ) from None
        except (BaseError, OSError) as exc:
            status = _STATUS.search(str(exc))
            reason = f"it answered {status[1].strip()}" if status else "no connection, or it broke"
            hint = _KEYS_HINT if status and status[1][:3] in ("401", "403") else _PLACE_HINT
            raise StorageError(f"cannot {deed} {self.place}: {reason}", hint=hint) from None


def shared_folder(url: str) -> Path | None:
    """The folder that a ``file://`` URL names; None for another kind of URL.

    Raises:
        ConfigError: it names no absolute folder of this machine.
    """
    parts = urlsplit(url)
    if parts.scheme.lower() != "file":
        return None
    folder = Path(url2pathname(parts.path))
    if parts.netloc not in ("", "localhost") or not folder.is_absolute():
        raise ConfigError(
            f"SPARKLIO_ARTIFACTS_URL {_without_credentials(url)!r} names no folder of this machine",
            hint="an absolute one has three slashes: file:///srv/sparklio",
        )
    return folder


def _open(url: str, place: str) -> Opened:
    if urlsplit(url).scheme.lower() not in _SCHEMES:
        raise ConfigError(
            f"SPARKLIO_ARTIFACTS_URL {place!r} is of an unknown kind",
            hint="file:///shared/folder, s3://bucket/prefix, gs://bucket/prefix or az://container/prefix",
        )
    try:
        from obstore.exceptions import BaseError
        from obstore.store import from_url
    except ImportError as exc:
        raise ConfigError(
            "SPARKLIO_ARTIFACTS_URL needs a package that is not installed", hint="pip install 'sparklio[distributed]'"
        ) from exc
    try:
        return from_url(
            url,
            client_options={
                "allow_http": _allows_http(),
                "connect_timeout": timedelta(seconds=_CONNECT_S),
                "timeout": timedelta(seconds=_REQUEST_S),
            },
            retry_config={
                "max_retries": 10,
                "retry_timeout": timedelta(seconds=_PATIENCE_S),
                "backoff": {
                    "init_backoff": timedelta(milliseconds=100),
                    "max_backoff": timedelta(seconds=5),
                    "base": 2,
                },
            },
        )
    except (BaseError, ValueError) as exc:
        reason = str(exc).partition("\n")[0].replace(url, place)
        raise ConfigError(
            f"SPARKLIO_ARTIFACTS_URL {place!r} cannot be used: {reason}", hint="e.g. s3://bucket/prefix"
        ) from None


def _check_process() -> None:
    """obstore's threads stay behind in the process that was forked, and the other one would wait for them for ever."""
    if not _begun:
        _begun.append(os.getpid())
    if _begun[0] != os.getpid():
        raise StorageError(
            "artefacts were read or written before this process was forked, and cannot be in it",
            hint="fork workers first; this is a defect of whoever starts them",
        )


def _in_use_since() -> float:
    return time.time() - _IN_USE_S


def _allows_http() -> bool:
    """Options that we give hide what obstore reads of them in the environment. Who names an endpoint without TLS means
    it."""
    plain = any(os.environ.get(name, "").startswith("http://") for name in _ENDPOINTS)
    return plain or any(os.environ.get(name, "").lower() in ("1", "true") for name in _ALLOWANCES)


def _without_credentials(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
