"""The flow as a Mermaid flowchart."""

from __future__ import annotations

import re
from collections.abc import Mapping

from langgraph.graph import END

from graph.draw.flow import PILLS, Arrow, Flow, group_of, short_name

__all__ = ["draw_mermaid"]


def draw_mermaid(flow: Flow, captions: Mapping[str, str], writes: Mapping[str, str]) -> str:
    ids = _mermaid_ids(flow)
    boxes = {node: f'{ids[node]}["{_mermaid_label(short_name(node), captions)}"]' for node in flow.nodes}
    boxes |= {pill: f"{ids[pill]}([{name}])" for pill, name in PILLS.items()}
    lines = ["flowchart TD", *(f"    {boxes[node]}" for node in flow.nodes if not group_of(node) and node != END)]
    for group, nodes in flow.groups.items():
        lines += [f'    subgraph {ids[group]}["{_mermaid_text(group)}"]']
        lines += [f"        {boxes[node]}" for node in nodes]
        lines += ["    end"]
    lines += [f"    {boxes[END]}"]
    for arrow in flow.arrows:
        lines += [f"    {ids[arrow.source]} {_mermaid_line(arrow, writes)} {ids[arrow.target]}"]
    lines += [f"    style {ids[group]} fill:none,stroke-dasharray:5 5" for group in flow.groups]
    return "\n".join(lines) + "\n"


def _mermaid_ids(flow: Flow) -> dict[str, str]:
    """Names as they are where they are unique; an underscore keeps ``end`` and its like apart from syntax."""
    nodes = [*flow.nodes, *flow.groups]
    names = [short_name(node) for node in nodes]
    plain = {node: node if node in PILLS or names.count(short_name(node)) > 1 else short_name(node) for node in nodes}
    words = {node: re.sub(r"\W", "_", name, flags=re.ASCII) for node, name in plain.items()}
    reserved = {"end", "graph", "subgraph", "default", "style", "class", "click", "o", "x"}
    return {node: f"{word}_" if word.lower() in reserved else word for node, word in words.items()}


def _mermaid_text(text: str) -> str:
    text = " ".join(text.split()).replace("#", "#35;")
    return text.replace('"', "#quot;").replace("<", "#lt;").replace(">", "#gt;").replace("|", "#124;")


def _mermaid_label(name: str, captions: Mapping[str, str]) -> str:
    caption = captions.get(name)
    return _mermaid_text(name) + (f"<br/><small>{_mermaid_text(caption)}</small>" if caption else "")


def _mermaid_line(arrow: Arrow, writes: Mapping[str, str]) -> str:
    label = arrow.label or ("" if arrow.back else writes.get(short_name(arrow.source), ""))
    line = "-.->" if arrow.choice else "-->"
    return f'{line}|"{_mermaid_text(label)}"|' if label else line
