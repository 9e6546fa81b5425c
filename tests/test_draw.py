"""Drawings of the flow: made from the graph that is there, showing agents and nothing else."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypedDict, get_args
from xml.etree import ElementTree as ET

import pytest
from langgraph.graph import END, START, StateGraph

from graph.draw import Arrow, Format, draw, read_flow
from sparklio.drawing import draw_flow

AGENTS = ["brand", "brief", "strategist", "copywriter", "vision", "reviewer"]
CAPTIONS = {
    "brand": "brand / brand_summary",
    "brief": "brief / marketing_brief",
    "strategist": "strategist / content_plan",
    "copywriter": "copywriter / product_detail",
    "vision": "vision / image_prompt",
    "reviewer": "reviewer / style_check",
}
WRITES = {
    "brand": "brand", "brief": "brief", "strategist": "sections", "copywriter": "copy", "vision": "image",
    "reviewer": "review",
}  # fmt: skip
SVG = "{http://www.w3.org/2000/svg}"

Builder = StateGraph[Any, Any, Any, Any]


class State(TypedDict, total=False):
    text: str


def nothing(state: State) -> State:
    return {}


def choose(state: State) -> str:
    return "copywriter"


def a_graph(*nodes: str) -> Builder:
    graph: Builder = StateGraph(State)
    for node in nodes:
        graph.add_node(node, nothing)
    return graph


def copy_desk(*, settled: bool = True, entries: tuple[str, ...] = ("copywriter", "reviewer")) -> Builder:
    desk = a_graph("copywriter", "reviewer", *(["settle"] if settled else []))
    desk.add_conditional_edges(START, choose, list(entries))
    desk.add_edge("copywriter", "reviewer")
    if settled:
        desk.add_edge("reviewer", "settle")
    desk.add_conditional_edges("settle" if settled else "reviewer", choose, ["copywriter", END])
    return desk


def flow(desk: Builder | None = None) -> Builder:
    graph = a_graph("brand", "brief", "strategist", "vision")
    graph.add_node("copy_desk", (desk or copy_desk()).compile())
    chain = [(START, "brand"), ("brand", "brief"), ("brief", "strategist"), ("strategist", "copy_desk")]
    for source, target in [*chain, ("strategist", "vision"), ("copy_desk", END), ("vision", END)]:
        graph.add_edge(source, target)
    return graph


def many_lanes() -> Builder:
    """A loop of its own, a real choice, a node with an awkward name and three branches."""
    graph = a_graph("start", "images", "end", "posts", "final")
    graph.add_node("copy_desk", copy_desk().compile())
    for source, target in [(START, "start"), ("start", "copy_desk"), ("start", "images"), ("start", "posts")]:
        graph.add_edge(source, target)
    graph.add_edge("images", "end")
    graph.add_conditional_edges("end", choose, {"good": "final", "again": "images", "stop": END})
    for source, target in [("posts", "final"), ("copy_desk", END), ("final", END)]:
        graph.add_edge(source, target)
    return graph


def pairs(graph: Builder) -> set[tuple[str, str]]:
    return {(arrow.source, arrow.target) for arrow in read_flow(graph).arrows}


# The flow ------------------------------------------------------------------------------------------


def test_only_agents_are_nodes():
    found = read_flow(flow())
    assert sorted(found.nodes) == sorted(
        [START, END, "brand", "brief", "strategist", "vision", "copy_desk:copywriter", "copy_desk:reviewer"]
    )
    assert found.groups == {"copy_desk": ["copy_desk:copywriter", "copy_desk:reviewer"]}


def test_the_ways_between_them():
    assert set(read_flow(flow()).arrows) == {
        Arrow(START, "brand"),
        Arrow("brand", "brief"),
        Arrow("brief", "strategist"),
        Arrow("strategist", "copy_desk:copywriter"),
        Arrow("strategist", "vision"),
        Arrow("vision", END),
        Arrow("copy_desk:copywriter", "copy_desk:reviewer"),
        Arrow("copy_desk:reviewer", END),
        Arrow("copy_desk:reviewer", "copy_desk:copywriter", choice=True, back=True, label="revise"),
    }


@pytest.mark.parametrize(
    "desk",
    [copy_desk(settled=False), copy_desk(entries=("copywriter",)), copy_desk(settled=False, entries=("copywriter",))],
)
def test_the_desk_looks_the_same_however_it_decides(desk):
    assert pairs(flow(desk)) == pairs(flow())


def test_a_node_that_has_a_caption_is_drawn_though_it_only_decides():
    assert "copy_desk:settle" in read_flow(flow(), agents={"settle"}).nodes
    assert "settle" in draw(flow(), "ascii", captions={"settle": "settle / decide"})
    assert "settle" not in draw(flow(), "ascii", captions=CAPTIONS)


def test_a_changed_topology_changes_the_picture():
    graph = flow()
    graph.add_node("thumbnail", nothing)
    graph.add_edge("vision", "thumbnail")
    graph.add_edge("thumbnail", END)
    assert ("vision", "thumbnail") in pairs(graph)
    for kind in get_args(Format):
        assert "thumbnail" in draw(graph, kind)
        assert draw(graph, kind) != draw(flow(), kind)


def test_a_real_choice_stays_one():
    arrows = {(arrow.source, arrow.target): arrow for arrow in read_flow(many_lanes()).arrows}
    assert arrows["end", "final"] == Arrow("end", "final", choice=True, label="good")
    assert arrows["end", "images"] == Arrow("end", "images", choice=True, back=True, label="again")
    assert not arrows["start", "images"].choice


def test_builder_and_compiled_graph_are_drawn_alike():
    assert draw(flow().compile(), "ascii") == draw(flow(), "ascii")


def test_an_unknown_format():
    with pytest.raises(ValueError, match="mermaid, ascii, svg"):
        draw(flow(), "png")  # type: ignore[arg-type]


# Mermaid ------------------------------------------------------------------------------------------

_ID = r"[A-Za-z_][A-Za-z0-9_]*"
_LINES = [
    r"flowchart TD",
    rf'    subgraph {_ID}\["[^"]*"\]',
    r"    end",
    rf'\s+{_ID}(\["[^"]*"\]|\(\[(START|END)\]\))',
    rf'    {_ID} (-->|-\.->)(\|"[^"|]*"\|)? {_ID}',
    rf"    style {_ID} fill:none,stroke-dasharray:5 5",
]


@pytest.mark.parametrize("build", [flow, many_lanes])
def test_mermaid_is_a_flowchart(build: Callable[[], Builder]):
    text = draw(build(), "mermaid", captions={**CAPTIONS, "start": 'a "quoted" <b> | # caption'}, writes=WRITES)
    for line in text.splitlines():
        assert any(re.fullmatch(form, line) for form in _LINES), line
    defined = set(re.findall(rf"(?m)^\s+(?:subgraph )?({_ID})[\[(]", text))
    used = {name for pair in re.findall(rf"(?m)^    ({_ID}) -.*?({_ID})$", text) for name in pair}
    assert used <= defined
    assert "end" not in defined


def test_mermaid_shows_the_desk_and_its_loop():
    text = draw(flow(), "mermaid", captions=CAPTIONS, writes=WRITES)
    inside = text[text.index("subgraph copy_desk") : text.index("    end\n")]
    assert "copywriter[" in inside
    assert "reviewer[" in inside
    assert "vision[" not in inside
    assert '    reviewer -.->|"revise"| copywriter\n' in text
    assert '    strategist -->|"sections"| vision\n' in text
    assert "settle" not in text
    assert not re.search(r"copy_desk (-->|-\.->)|(-->|-\.->)(\|.*\|)? copy_desk", text)


def test_mermaid_tells_nodes_of_one_name_apart():
    graph = flow()
    graph.add_node("copywriter", nothing)
    graph.add_edge("vision", "copywriter")
    text = draw(graph, "mermaid")
    assert "vision --> copywriter\n" in text
    assert "copy_desk_copywriter --> reviewer\n" in text


# Plain text ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", [flow, many_lanes])
@pytest.mark.parametrize("captions", [{}, CAPTIONS, {"start": "a caption that is far too long for its lane " * 3}])
def test_plain_text_fits_a_terminal(build: Callable[[], Builder], captions: dict[str, str]):
    text = draw(build(), "ascii", captions=captions, writes=WRITES)
    assert text.isascii()
    assert max(map(len, text.splitlines())) <= 78
    assert text == "\n".join(line.rstrip() for line in text.splitlines()) + "\n"


def test_plain_text_shows_branches_and_loop():
    text = draw(flow(), "ascii", captions=CAPTIONS, writes=WRITES)
    lines = text.splitlines()
    copywriter = next(line for line in lines if "[ copywriter ]" in line)
    assert "[ vision ]" in copywriter
    assert "<--" in copywriter
    assert any("revise |" in line for line in lines)
    assert any("[ reviewer ] ---" in line for line in lines)
    assert sum("copy_desk" in line for line in lines) == 1
    for name in AGENTS:
        assert text.count(f"[ {name} ]") == 1
        assert CAPTIONS[name] in text
    assert "settle" not in text


# SVG ------------------------------------------------------------------------------------------


def svg(graph: Builder) -> ET.Element:
    return ET.fromstring(draw(graph, "svg", captions=CAPTIONS | {"start": 'a <b> & "c"'}, writes=WRITES))


@pytest.mark.parametrize("build", [flow, many_lanes])
def test_svg_stands_alone(build: Callable[[], Builder]):
    text = draw(build(), "svg", captions=CAPTIONS, writes=WRITES)
    root = svg(build())
    assert root.tag == f"{SVG}svg"
    assert not [node for node in root.iter() if node.tag in {f"{SVG}script", f"{SVG}image", f"{SVG}a", f"{SVG}use"}]
    assert re.findall(r"https?://[^\"]*", text) == ["http://www.w3.org/2000/svg"]
    assert set(re.findall(r"url\(([^)]*)\)", text)) <= {"#tip", "#loop-tip"}
    assert "@import" not in text
    assert "@font-face" not in text


def test_svg_is_described_and_knows_the_dark():
    root = svg(flow())
    title, desc = root.find(f"{SVG}title"), root.find(f"{SVG}desc")
    assert title is not None
    assert desc is not None
    assert root.get("aria-labelledby") == f"{title.get('id')} {desc.get('id')}"
    assert "reviewer to copywriter (revise)" in str(desc.text)
    assert "prefers-color-scheme: dark" in str(root.findtext(f"{SVG}style"))


def test_svg_names_each_agent_once():
    root = svg(flow())
    texts = [(node.get("class"), node.text) for node in root.iter(f"{SVG}text")]
    assert sorted(str(text) for kind, text in texts if kind == "name") == sorted(AGENTS)
    assert sorted(str(text) for kind, text in texts if kind == "caption") == sorted(CAPTIONS.values())
    keys = [text for kind, text in texts if kind == "key"]
    assert sorted(map(str, keys)) == ["brand", "brief", "copy", "image", "review", "sections", "sections"]
    assert [text for kind, text in texts if kind == "group-name"] == ["copy_desk"]
    assert [text for kind, text in texts if kind == "loop-key"] == ["revise"]


@pytest.mark.parametrize("build", [flow, many_lanes])
def test_svg_boxes_lie_within_the_sheet_and_apart(build: Callable[[], Builder]):
    root = svg(build())
    _, _, width, height = map(float, str(root.get("viewBox")).split())
    rects = [node for node in root.iter(f"{SVG}rect") if node.get("class") != "paper"]
    spots = [tuple(float(str(node.get(side))) for side in ("x", "y", "width", "height")) for node in rects]
    for x, y, w, h in spots:
        assert 0 <= x <= x + w <= width
        assert 0 <= y <= y + h <= height
    boxes = [spot for spot, node in zip(spots, rects, strict=True) if node.get("class") == "box"]
    for index, (x, y, w, h) in enumerate(boxes):
        for other_x, other_y, other_w, other_h in boxes[index + 1 :]:
            assert x + w <= other_x or other_x + other_w <= x or y + h <= other_y or other_y + other_h <= y


def test_the_group_holds_its_nodes_and_no_other():
    root = svg(flow())
    group = next(node for node in root.iter(f"{SVG}rect") if node.get("class") == "group")
    left, top, width, height = (float(str(group.get(side))) for side in ("x", "y", "width", "height"))
    inside = {
        node.text
        for node in root.iter(f"{SVG}text")
        if node.get("class") == "name"
        and left < float(str(node.get("x"))) < left + width
        and top < float(str(node.get("y"))) < top + height
    }
    assert inside == {"copywriter", "reviewer"}


def test_the_picture_in_the_docs_is_fresh() -> None:
    stored = (Path(__file__).parent.parent / "docs" / "flow.svg").read_text(encoding="utf-8")
    assert stored == draw_flow("svg"), "run: sparklio graph --format svg --out docs/flow.svg"


def test_the_svg_says_which_gateway_a_node_asks() -> None:
    text = draw(flow(), "svg", asks={"brand": ["LLM gateway"], "vision": ["LLM gateway", "media gateway"]})
    root = ET.fromstring(text)
    titles = [title.text for title in root.iter("{http://www.w3.org/2000/svg}title")]
    assert titles.count("LLM gateway") == 3, "two boxes and the line that explains it"
    assert titles.count("media gateway") == 2
    assert "LLM gateway" not in draw(flow(), "svg")
