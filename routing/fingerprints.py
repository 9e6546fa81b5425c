"""What decides an answer, in digests: whether one that is there already is still the one that is asked for.

A fingerprint is ``{part: digest}``; its parts tell what has changed, the key of a call holds all of it in one word.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

__all__ = ["Fingerprint", "digest", "key_of"]

Fingerprint = Mapping[str, str]

_DIGITS = 32  # of 64: 128 bits


def digest(value: Any) -> str:
    """32 hex digits of the SHA-256 of a value's JSON."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGITS]


def key_of(step: int, fingerprint: Fingerprint) -> str:
    """What a call of a run is known by."""
    return digest([step, dict(fingerprint)])
