"""What two runs have made differently, by dotted path: ``brief.target``, ``copy.sections.2.body``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from difflib import SequenceMatcher
from typing import Any, Literal

from graph.store import RunRecord

__all__ = ["Difference", "compared", "differences", "outline"]

_INPUTS = ("brand_input", "product_input", "image_input", "language")
_OUTPUTS = {
    "brand_summary": "brand",
    "brief": "brief",
    "sections": "sections",
    "copy": "copy",
    "image": "image",
    "review": "review",
}
_NAMES = ("id", "section_id", "name", "kind", "title")
_ELSEWHERE = "url"  # of an image: where it lies, and so another for each run

Change = Literal["changed", "added", "removed"]


@dataclass(frozen=True)
class Difference:
    """One value. ``path`` numbers items of lists as they stand in B, what was removed as in A; None: not there."""

    path: str
    change: Change
    old: Any = None
    new: Any = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def outline(record: RunRecord, result: Mapping[str, Any] | None, state: Mapping[str, Any]) -> dict[str, Any]:
    """What a run says of itself: ``{run_id, status, mode, stage, models, cost_usd, wall_ms}``.

    ``models`` are ``provider model`` by agent. Cost and time are of this run alone; ``wall_ms`` is None without result.
    """
    meta = (result or {}).get("meta") or {}
    nodes: Mapping[str, Any] = meta.get("nodes") or {call["node"]: call for call in state.get("calls", [])}
    return {
        "run_id": record.run_id,
        "status": record.status,
        "mode": record.mode,
        "stage": record.stage,
        "models": {name: f"{node['provider']} {node['model']}" for name, node in nodes.items()},
        "cost_usd": record.spent_usd,
        "wall_ms": meta.get("wall_ms"),
    }


def compared(record: RunRecord, result: Mapping[str, Any] | None, state: Mapping[str, Any]) -> dict[str, Any]:
    """All of a run that is compared: inputs, artefacts, and which models made them. Of a run without result: so far."""
    artefacts = {
        name: (result or {}).get(name, state.get(key))
        for name, key in _OUTPUTS.items()
        if name in (result or {}) or key in state
    }
    if isinstance(artefacts.get("image"), Mapping):
        artefacts["image"] = {key: value for key, value in artefacts["image"].items() if key != _ELSEWHERE}
    told = outline(record, result, state)
    return {
        "inputs": {name: record.inputs[name] for name in _INPUTS if name in record.inputs},
        **artefacts,
        "meta": {name: told[name] for name in ("mode", "stage", "models")},
    }


def differences(old: Any, new: Any, path: str = "") -> Iterator[Difference]:
    """The differences of two JSON values, in the order in which they stand in ``new``."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        yield from _of_mappings(old, new, path)
    elif isinstance(old, list) and isinstance(new, list):
        yield from _of_lists(old, new, path)
    elif not _equal(old, new):
        yield Difference(path, "changed", old, new)


def _of_mappings(old: Mapping[str, Any], new: Mapping[str, Any], path: str) -> Iterator[Difference]:
    for key in [*old, *(key for key in new if key not in old)]:
        inner = _below(path, key)
        if key not in new:
            yield Difference(inner, "removed", old=old[key])
        elif key not in old:
            yield Difference(inner, "added", new=new[key])
        else:
            yield from differences(old[key], new[key], inner)


def _of_lists(old: Sequence[Any], new: Sequence[Any], path: str) -> Iterator[Difference]:
    """Items that have names are told apart by them, others by what they are; only where as many gave way to as many
    unnamed ones are these compared one by one."""
    named = _are_named([*old, *new])
    marks = [[_mark(item, named=named) for item in items] for items in (old, new)]
    for tag, i1, i2, j1, j2 in SequenceMatcher(None, marks[0], marks[1], autojunk=False).get_opcodes():
        pairs = 0 if tag == "replace" and named else min(i2 - i1, j2 - j1)
        for i, j in zip(range(i1, i1 + pairs), range(j1, j1 + pairs), strict=True):
            yield from differences(old[i], new[j], _below(path, j))
        for i in range(i1 + pairs, i2):
            yield Difference(_below(path, i), "removed", old=old[i])
        for j in range(j1 + pairs, j2):
            yield Difference(_below(path, j), "added", new=new[j])


def _below(path: str, key: object) -> str:
    return f"{path}.{key}" if path else str(key)


def _are_named(items: Sequence[Any]) -> bool:
    return bool(items) and all(isinstance(item, Mapping) and _name(item) is not None for item in items)


def _name(item: Mapping[str, Any]) -> str | None:
    return next((item[key] for key in _NAMES if isinstance(item.get(key), str)), None)


def _mark(item: Any, *, named: bool) -> str:
    return str(_name(item)) if named else repr(_plain(item))


def _plain(value: Any) -> Any:
    """The value so that equal ones look equal: the order of keys says nothing."""
    if isinstance(value, Mapping):
        return sorted((str(key), _plain(inner)) for key, inner in value.items())
    return [_plain(inner) for inner in value] if isinstance(value, list) else value


def _equal(old: Any, new: Any) -> bool:
    """For Python ``True == 1``; in JSON they are two things."""
    return isinstance(old, bool) == isinstance(new, bool) and bool(old == new)
