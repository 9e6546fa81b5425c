"""What a rerun runs: the nodes, where the flow is entered, and the state that is kept.

Everything follows from what the agents' own files say that they read and write.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from graph.flow import AGENTS
from graph.inputs import BrandForm, ImageForm, ProductForm, check_numbers
from graph.revision import SettledReview
from graph.state import OUTPUT_KEYS
from providers.errors import InputError, RunUnfinishedError, UnknownNameError, UsageError, nearest
from routing import artifacts
from routing.contracts import Language

__all__ = ["RerunPlan", "apply_changes", "edited_keys", "plan_rerun", "readers_of", "seeded_state"]

NODES = tuple(AGENTS)
READS: Mapping[str, frozenset[str]] = {
    name: frozenset(getattr(module, f"{name.capitalize()}Input").__annotations__) for name, module in AGENTS.items()
}
WRITES: Mapping[str, frozenset[str]] = {
    name: frozenset(getattr(module, f"{name.capitalize()}Update").__annotations__) for name, module in AGENTS.items()
}

_CHAIN = ("brand", "brief", "strategist")
_INPUT_FORMS = ("brand_input", "product_input", "image_input")
_INPUT_MODELS: Mapping[str, TypeAdapter[Any]] = {
    "brand_input": TypeAdapter(BrandForm),
    "product_input": TypeAdapter(ProductForm),
    "image_input": TypeAdapter(ImageForm),
    "language": TypeAdapter(Language),
}
_OUTPUT_MODELS: Mapping[str, type[BaseModel]] = {
    "brand": artifacts.BrandSummary,
    "brief": artifacts.MarketingBrief,
    "copy": artifacts.ProductDetail,
    "review": SettledReview,
}


@dataclass(frozen=True)
class RerunPlan:
    """``nodes`` in flow order; ``start_at`` the first of them; ``goto`` the graph's own nodes to enter."""

    nodes: tuple[str, ...]

    @property
    def start_at(self) -> str | None:
        return self.nodes[0] if self.nodes else None

    @property
    def goto(self) -> list[str]:
        for name in _CHAIN:
            if name in self.nodes:
                return [name]
        desk = ["copy_desk"] if {"copywriter", "reviewer"} & set(self.nodes) else []
        return desk + (["vision"] if "vision" in self.nodes else [])

    @property
    def desk_entry(self) -> str | None:
        """``reviewer`` where the copy stays as it is and only its review is made again."""
        return "reviewer" if "reviewer" in self.nodes and "copywriter" not in self.nodes else None


def plan_rerun(start_at: str | None, changes: Mapping[str, Any], stale: Collection[str] = ()) -> RerunPlan:
    """The nodes that a rerun runs: ``start_at`` and all downstream; else all that are ``stale`` or read what changed,
    and downstream.

    Raises:
        UsageError: a rerun node would overwrite a change.
        UnknownNameError: there is no such node.
    """
    edited = edited_keys(changes)
    if "image" in edited:
        raise UsageError(
            "an image cannot be set", hint="change image_input (kind, aspect_ratio, workflow, seed, photo) instead"
        )
    if start_at is not None and start_at not in NODES:
        raise UnknownNameError("node", start_at, NODES)
    first = {start_at} if start_at else {*stale, *readers_of(edited)}
    nodes = _with_downstream(first)
    overwritten = edited & {key for name in nodes for key in WRITES[name]}
    if overwritten:
        keys = ", ".join(sorted(overwritten))
        raise UsageError(
            f"this rerun would write {keys} again and lose your change of it",
            hint="start further down with --from, or make the two changes in two reruns",
        )
    return RerunPlan(tuple(name for name in NODES if name in nodes))


def readers_of(keys: Collection[str]) -> dict[str, str]:
    """The agents that read one of these keys of the state, each with the key."""
    return {name: min(READS[name] & set(keys)) for name in NODES if READS[name] & set(keys)}


def edited_keys(changes: Iterable[str]) -> set[str]:
    """The state keys in which the dotted paths lie."""
    return {path.split(".", 1)[0] for path in changes}


def _with_downstream(first: Iterable[str]) -> set[str]:
    nodes = set(first)
    while True:
        written = {key for name in nodes for key in WRITES[name]}
        more = {name for name in NODES if READS[name] & written} - nodes
        if not more:
            return nodes
        nodes |= more


def seeded_state(plan: RerunPlan, state: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The state that a rerun starts from: its parent's, changed, without what the rerun writes.

    The calls of kept nodes stay, marked as cached.

    Raises:
        RunUnfinishedError: the parent is not finished and lacks what is to be kept.
        InputError: a change does not fit the state.
    """
    rerun_writes = {key for name in plan.nodes for key in WRITES[name]}
    missing = [key for key in OUTPUT_KEYS if key not in rerun_writes and key not in state]
    if missing:
        raise RunUnfinishedError(f"the run has no {', '.join(missing)} yet", hint="let it end first, or resume it")
    kept = {key: value for key, value in state.items() if key not in rerun_writes and key != "calls"}
    kept = apply_changes(kept, changes)
    kept["calls"] = [call | {"cached": True} for call in state.get("calls", []) if call["node"] not in plan.nodes]
    return kept


def apply_changes(state: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``state`` with each dotted path of ``changes`` set; a mapping is merged, anything else replaced.

    Raises:
        InputError: a path that does not exist, or a value that does not fit; the state itself stays as it was.
    """
    changed: dict[str, Any] = deepcopy(dict(state))
    for path, value in changes.items():
        _check_numbers(path, value)
        _set(changed, path.split("."), value, path)
    for key in edited_keys(changes):
        changed[key] = _checked(key, changed)
    return changed


def _check_numbers(path: str, value: Any) -> None:
    """Also where a model would take the number: checkpoints and the record would not."""
    try:
        check_numbers(value)
    except ValueError as exc:
        raise InputError(f"--set {path}: {exc}", hint=f"mend {path}, or write the number as a text") from exc


def _set(holder: Any, parts: Sequence[str], value: Any, path: str, *, new_keys: bool = False) -> None:
    """Set ``value`` under ``parts``; only inputs take new keys (a fact, an image option): outputs have fixed fields."""
    part, *rest = parts
    key: str | int = part
    if isinstance(holder, list):
        key = _index(holder, part, path)
    elif not isinstance(holder, dict):
        raise InputError(f"--set {path}: there is nothing below {part!r}", hint="set the value above it")
    elif part not in holder and not (new_keys or part in ("image_input", "language")):
        close = nearest(part, holder)
        hint = f"did you mean {close!r}?" if close else f"there is: {', '.join(sorted(holder))}"
        raise InputError(f"--set {path}: no such value", hint=hint)
    old = holder.get(key) if isinstance(holder, dict) else holder[int(key)]
    new_keys = new_keys or part in _INPUT_FORMS
    if rest:
        if old is None:
            old = holder[key] = {}
        _set(old, rest, value, path, new_keys=new_keys)
    elif isinstance(old, dict) and isinstance(value, Mapping):
        for name, inner in value.items():
            _set(old, [str(name)], inner, f"{path}.{name}", new_keys=new_keys)
    else:
        holder[key] = value


def _index(items: Sequence[Any], part: str, path: str) -> int:
    if not part.isdecimal() or int(part) >= len(items):
        raise InputError(f"--set {path}: no item {part!r}", hint=f"items are numbered 0 to {len(items) - 1}")
    return int(part)


def _checked(key: str, state: Mapping[str, Any]) -> Any:
    """The changed value of ``key`` as its model has it."""
    value = state[key]
    try:
        if key == "sections":
            return artifacts.ContentPlan.model_validate({"sections": value}).model_dump()["sections"]
        if key in _OUTPUT_MODELS:
            return value | _OUTPUT_MODELS[key].model_validate(value, context=state).model_dump(mode="json")
        if key in _INPUT_MODELS:
            return _INPUT_MODELS[key].dump_python(_INPUT_MODELS[key].validate_python(value), exclude_none=True)
    except ValidationError as exc:
        error = exc.errors()[0]
        where = ".".join(map(str, (key, *error["loc"])))
        raise InputError(
            f"--set: {where}: {error['msg'].removeprefix('Value error, ')}", hint=f"mend the value of {where}"
        ) from exc
    return value
