"""The kinds of image that rules, requests and the mock usually speak of. Any other word is a kind as well."""

from __future__ import annotations

from difflib import get_close_matches

__all__ = ["USUAL_KINDS", "meant_kind"]

USUAL_KINDS = ("product_shot", "hero", "concept", "thumbnail")
_ALIKE = 0.75  # "hreo" and "thumnail" are slips; "hero_wide" is a word of somebody's own


def meant_kind(kind: str) -> str | None:
    """The usual kind that ``kind`` is likely a slip of, or None."""
    close = get_close_matches(kind, USUAL_KINDS, 1, _ALIKE)
    return close[0] if close and kind not in USUAL_KINDS else None
