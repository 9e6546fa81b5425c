"""How the database keeps what it is given: compressed, and encrypted where there is a key."""

from __future__ import annotations

import os
import zlib
from typing import TYPE_CHECKING

from langgraph.checkpoint.serde.base import CipherProtocol

from providers.errors import ConfigError, StorageError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

__all__ = ["PLAIN", "Vault"]

PLAIN = "zlib"
"""The form of what is not encrypted."""
_SEALED = "zlib-aes256gcm"
_NONCE_BYTES = 12
_CANARY = b"sparklio"
_BIGGEST = 64_000_000
"""Bytes of one value: rows may come from somebody else's archive, and a few of theirs could unfold to any size."""


class Vault(CipherProtocol):
    """Bytes in, form and bytes out; LangGraph writes the form behind the type of each value.

    An encrypted value is a random nonce of 12 bytes, then AES-256-GCM's ciphertext with its tag over the compressed
    bytes; the form's name is the associated data.

    Args:
        key: 32 bytes; None: nothing is encrypted, and nothing encrypted can be read.

    Raises:
        ConfigError: there is a key, and the package that encrypts is not installed.
    """

    def __init__(self, key: bytes | None = None) -> None:
        self._cipher = None if key is None else _cipher(key)

    @property
    def encrypts(self) -> bool:
        return self._cipher is not None

    def encrypt(self, plaintext: bytes) -> tuple[str, bytes]:
        packed = zlib.compress(plaintext, level=1)
        if self._cipher is None:
            return PLAIN, packed
        nonce = os.urandom(_NONCE_BYTES)
        return _SEALED, nonce + self._cipher.encrypt(nonce, packed, _SEALED.encode())

    def decrypt(self, ciphername: str, ciphertext: bytes) -> bytes:
        """The bytes that were given.

        Raises:
            StorageError: this version does not know the form, or the bytes are not what :meth:`encrypt` made of them.
            ConfigError: the bytes are encrypted, and there is no key.
        """
        if ciphername == PLAIN:
            return _unpacked(ciphertext)
        if ciphername == _SEALED:
            return _unpacked(self._opened(ciphertext))
        raise StorageError(
            f"the database holds a value of the unknown form {ciphername!r}", hint="install a newer sparklio"
        )

    def canary(self) -> bytes:
        """Something encrypted, to tell the key by."""
        return self.encrypt(_CANARY)[1]

    def fits(self, canary: bytes) -> bool:
        """Whether the key is the one that made the canary."""
        try:
            return self.decrypt(_SEALED, canary) == _CANARY
        except StorageError:
            return False

    def _opened(self, sealed: bytes) -> bytes:
        if self._cipher is None:
            raise ConfigError(
                "the database holds encrypted values, and there is no key",
                hint="set SPARKLIO_ENCRYPTION_KEY to the key that they were encrypted with",
            )
        from cryptography.exceptions import InvalidTag

        try:
            return self._cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], _SEALED.encode())
        except (InvalidTag, TypeError, ValueError) as exc:
            raise StorageError(
                "a value in the database was changed behind Sparklio's back, or encrypted with another key",
                hint="set SPARKLIO_ENCRYPTION_KEY to the key that it was encrypted with, or start a new run",
            ) from exc


def _cipher(key: bytes) -> AESGCM:
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ModuleNotFoundError as exc:
        raise ConfigError(
            "SPARKLIO_ENCRYPTION_KEY is set, and the package cryptography is not installed",
            hint="pip install 'sparklio[encryption]'",
        ) from exc
    return AESGCM(key)


def _unpacked(packed: bytes) -> bytes:
    unpacking = zlib.decompressobj()
    try:
        content = unpacking.decompress(packed, _BIGGEST)
    except (TypeError, zlib.error) as exc:
        raise _damaged() from exc
    if not unpacking.eof or unpacking.unused_data:
        raise _damaged()
    return content


def _damaged() -> StorageError:
    return StorageError(
        "a value in the database is damaged", hint="put a copy of the database in its place, or start a new run"
    )
