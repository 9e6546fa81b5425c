"""Which agents' answers are no longer those that would be given now."""

from __future__ import annotations

from collections.abc import Iterable

from graph.ledger import Effect
from graph.state import NodeCall
from providers.errors import SparklioError
from routing.contracts import ChatGateway, ImageGateway, ImageRequest

__all__ = ["stale_nodes"]

_UNRECORDED = "nothing is recorded of its calls"
_CHANGES = {
    "mode": "the mode changed",
    "prompt": "its prompt changed",
    "options": "its options changed",
    "routing": "its routing changed: the models, or their options",
    "workflow": "its workflow changed",
}


async def stale_nodes(
    calls: Iterable[NodeCall], effects: Iterable[Effect], llm: ChatGateway, media: ImageGateway
) -> dict[str, str]:
    """Agents that would be asked otherwise now, each with the reason.

    Args:
        calls: those of the finished run.
        effects: its recorded calls.
        llm, media: the gateways as they are configured now.
    """
    recorded = {(effect.node, effect.key): effect for effect in effects}
    found: dict[str, str] = {}
    for call in calls:
        node, keys = call["node"], call.get("effects") or [""]
        for key in keys:
            effect = recorded.get((node, key))
            why = await _why_stale(effect, llm, media) if effect else _UNRECORDED
            if why:
                found.setdefault(node, why)
    return found


async def _why_stale(effect: Effect, llm: ChatGateway, media: ImageGateway) -> str | None:
    request = effect.request
    try:
        now = await (media.fingerprint(request) if isinstance(request, ImageRequest) else llm.fingerprint(request))
    except SparklioError as exc:
        return f"it can no longer be asked: {exc.message}"
    changed = [part for part in now if now[part] != effect.fingerprint.get(part)]
    return next((why for part, why in _CHANGES.items() if part in changed), "its calls changed") if changed else None
