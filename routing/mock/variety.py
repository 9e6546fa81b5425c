"""Choices that look free and are always the same: a stable hash in place of chance."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TypeVar

__all__ = ["pick", "stable_number"]

Item = TypeVar("Item")


def stable_number(*parts: object) -> int:
    """A 64-bit number from the parts, equal in every process (unlike ``hash``)."""
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big")


def pick(items: Sequence[Item], *parts: object, turn: int = 0) -> Item:
    """One of the items by the parts' hash; each ``turn`` goes on to the next one, so neighbours differ."""
    return items[(stable_number(*parts) + turn) % len(items)]
