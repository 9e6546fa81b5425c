"""ComfyUI workflows: finding them by name, checking them, filling their slots.

A workflow is a graph that ComfyUI wrote with "Save (API Format)": ``{node_id: {class_type, inputs, _meta: {title}}}``,
where an input is a value or a link ``[node_id, output_index]``. Slot words in the nodes' titles say what is filled in::

    @prompt @negative @image @seed @width @height @steps @checkpoint @filename_prefix

A title may hold several ("Size @width @height"). ``@image`` is the photo that the picture starts from. Only ``@prompt``
is required; what is not marked keeps the graph's own value. A new workflow is a file in COMFYUI_WORKFLOW_DIR and
needs no code.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, NoReturn

from providers.errors import UnknownNameError, WorkflowError, nearest

__all__ = ["SLOTS", "Graph", "Workflow", "WorkflowFolder", "packaged_workflows", "parse_workflow"]

Graph = dict[str, dict[str, Any]]
Target = tuple[str, str]
"""A node's id and the name of one of its inputs."""

_TEXTS = ("text", "text_g", "text_l", "clip_l", "t5xxl", "prompt")

SLOTS: Mapping[str, tuple[str, ...]] = {
    "prompt": _TEXTS,
    "negative": _TEXTS,
    "image": ("image",),
    "seed": ("seed", "noise_seed"),
    "width": ("width", "target_width"),
    "height": ("height", "target_height"),
    "steps": ("steps",),
    "checkpoint": ("ckpt_name", "unet_name"),
    "filename_prefix": ("filename_prefix",),
}
"""Slot word -> the inputs that it fills, as many of them as the node has (or ``value``, on a primitive node)."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_SLOT_WORD = re.compile(r"(?<!\w)@(\w+)")
_EXPORT = 'export it again in ComfyUI with "Save (API Format)" (Workflow > Export (API))'


@dataclass(frozen=True)
class Workflow:
    """A checked graph and where its slots are. :meth:`fill` makes the graph to send."""

    name: str
    graph: Graph
    slots: Mapping[str, tuple[Target, ...]]

    def fill(self, values: Mapping[str, Any]) -> Graph:
        """A copy of the graph with ``values`` (by slot word) in place; slots that it does not have are left out."""
        graph = copy.deepcopy(self.graph)
        for slot, value in values.items():
            for node_id, name in self.slots.get(slot, ()):
                graph[node_id]["inputs"][name] = value
        return graph

    def read(self, graph: Graph, slot: str) -> Any:
        """What ``slot`` holds in a graph made by :meth:`fill`; where it is not marked, the first input of its name."""
        marked = self.read_marked(graph, slot)
        unmarked = [(node_id, name) for node_id in graph for name in SLOTS[slot]]
        return _first_value(graph, unmarked) if marked is None else marked

    def read_marked(self, graph: Graph, slot: str) -> Any:
        """The same, but None where the slot is not marked."""
        return _first_value(graph, self.slots.get(slot, ()))


@dataclass(frozen=True)
class WorkflowFolder:
    """Workflows by name, looked up in ``folders`` in this order. Files are read at every use: they are small."""

    folders: Sequence[Path]
    provider: str = "comfyui"

    def names(self) -> list[str]:
        """The names of all workflows, sorted, malformed ones included."""
        paths = [path for folder in self.folders if folder.is_dir() for path in folder.glob("*.json")]
        return sorted({path.stem for path in paths if _NAME.fullmatch(path.stem)})

    def load(self, name: str) -> Workflow:
        """The workflow of that name.

        Raises:
            UnknownNameError: no folder has ``<name>.json``, or the name is not letters, digits, ``_`` and ``-``.
            WorkflowError: the file is malformed.
        """
        path = self._find(name)
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as exc:
            reason = (exc.strerror or "no reason given") if isinstance(exc, OSError) else "it is not UTF-8 text"
            raise WorkflowError(
                f"workflow {name!r} cannot be read: {reason}",
                provider=self.provider,
                hint=f"check the file {path.name} in COMFYUI_WORKFLOW_DIR",
            ) from exc
        return parse_workflow(name, text, provider=self.provider)

    def _find(self, name: str) -> Path:
        # The pattern keeps separators and dots out of the name, so no name leads out of a folder.
        if _NAME.fullmatch(name):
            for folder in self.folders:
                path = folder / f"{name}.json"
                if path.is_file():
                    return path
        known = self.names()
        close = nearest(name, known)
        raise UnknownNameError(
            "workflow",
            name,
            known,
            hint=f"did you mean {close!r}?" if close else "put its API-format JSON into COMFYUI_WORKFLOW_DIR",
        )


def packaged_workflows() -> Path:
    """The folder of the workflows that come with Sparklio."""
    return Path(str(files("workflows")))


def parse_workflow(name: str, text: str, *, provider: str = "comfyui") -> Workflow:
    """A workflow from the text of its file.

    Raises:
        WorkflowError: not JSON, not an API-format graph, a link to a missing node, no ``@prompt``, an unknown slot
            word, or a slot on a node that has no such input.
    """
    try:
        graph = _parse_graph(text)
        slots = _find_slots(graph)
    except _Malformed as exc:
        raise WorkflowError(f"workflow {name!r} {exc}", provider=provider, hint=exc.hint) from exc
    return Workflow(name=name, graph=graph, slots=slots)


class _Malformed(Exception):  # noqa: N818  # never leaves this module
    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


def _parse_graph(text: str) -> Graph:
    try:
        graph = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as exc:
        raise _Malformed(f"is not JSON: {exc}", _EXPORT) from exc
    if isinstance(graph, dict) and "nodes" in graph and "links" in graph:
        raise _Malformed("is in the format of ComfyUI's editor, not in API format", _EXPORT)
    if not isinstance(graph, dict) or not graph or not all(_is_node(node) for node in graph.values()):
        raise _Malformed("is not a graph of nodes with class_type and inputs", _EXPORT)
    for node_id, node in graph.items():
        for input_name, value in node["inputs"].items():
            if _is_link(value) and value[0] not in graph:
                raise _Malformed(
                    f"links input {input_name!r} of node {node_id} to node {value[0]}, which is not there",
                    "connect that input in ComfyUI and " + _EXPORT,
                )
    return graph


def _first_value(graph: Graph, targets: Iterable[Target]) -> Any:
    values = (graph.get(node_id, {}).get("inputs", {}).get(name) for node_id, name in targets)
    return next((value for value in values if value is not None and not _is_link(value)), None)


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is not a JSON value")


def _is_node(node: object) -> bool:
    return isinstance(node, dict) and isinstance(node.get("class_type"), str) and isinstance(node.get("inputs"), dict)


def _is_link(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], int)


def _find_slots(graph: Graph) -> dict[str, tuple[Target, ...]]:
    slots: dict[str, tuple[Target, ...]] = {}
    owners: dict[Target, str] = {}
    for node_id, node in graph.items():
        for slot in _slot_words(node_id, node):
            targets = _targets(slot, node_id, node)
            for target in targets:
                if owners.setdefault(target, slot) != slot:
                    raise _Malformed(
                        f"has @{owners[target]} and @{slot} for the same input {target[1]!r} of node {node_id}",
                        "leave one of the two words in the node's title",
                    )
            slots[slot] = slots.get(slot, ()) + targets
    if "prompt" not in slots:
        raise _Malformed(
            "has no @prompt slot",
            "put @prompt into the title of the node that holds the prompt's text, and " + _EXPORT,
        )
    return slots


def _slot_words(node_id: str, node: Mapping[str, Any]) -> list[str]:
    meta = node.get("_meta")
    title = meta.get("title") if isinstance(meta, dict) else None
    words = [word.lower() for word in _SLOT_WORD.findall(title)] if isinstance(title, str) else []
    for word in words:
        if word not in SLOTS:
            close = nearest(word, SLOTS)
            raise _Malformed(
                f"has the unknown slot word @{word} in the title of node {node_id}",
                (f"did you mean @{close}? " if close else "")
                + "slot words: "
                + ", ".join(f"@{slot}" for slot in SLOTS),
            )
    return list(dict.fromkeys(words))


def _targets(slot: str, node_id: str, node: Mapping[str, Any]) -> tuple[Target, ...]:
    inputs: Mapping[str, Any] = node["inputs"]
    present = [name for name in SLOTS[slot] if name in inputs] or [name for name in ("value",) if name in inputs]
    free = tuple((node_id, name) for name in present if not _is_link(inputs[name]))
    if free:
        return free
    if present:
        raise _Malformed(
            f"has @{slot} on node {node_id}, whose input {present[0]!r} comes from node {inputs[present[0]][0]}",
            f"move @{slot} to the title of that node",
        )
    raise _Malformed(
        f"has @{slot} on node {node_id} ({node['class_type']}), which has no input for it",
        f"@{slot} belongs on a node with an input named {' or '.join(SLOTS[slot])}",
    )
