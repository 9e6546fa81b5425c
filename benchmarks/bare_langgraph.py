"""The yardstick: the job as a bare LangGraph of the same topology, with ChatOllama and AsyncSqliteSaver."""

from __future__ import annotations

import asyncio
import json
import tempfile
import uuid
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
from job import BRAND, OLLAMA, PRODUCT, SCHEMAS, http_client, make_image, messages, save
from langchain_core.messages import HumanMessage, SystemMessage
from langchain_ollama import ChatOllama
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from timing import Job, arguments, main
from typing_extensions import TypedDict


class State(TypedDict, total=False):
    brand_input: dict[str, Any]
    product_input: dict[str, Any]
    brand: dict[str, Any]
    brief: dict[str, Any]
    sections: list[dict[str, Any]]
    copy: dict[str, Any]
    review: dict[str, Any]
    image: dict[str, Any]


class Desk(TypedDict, total=False):
    """What the copy desk shares with the page; written in both, ``brand`` would be a conflict with nobody."""

    product_input: dict[str, Any]
    brand: dict[str, Any]
    brief: dict[str, Any]
    sections: list[dict[str, Any]]
    copy: dict[str, Any]
    review: dict[str, Any]


class DeskOutput(TypedDict):
    copy: dict[str, Any]
    review: dict[str, Any]


Graph = CompiledStateGraph[Any, Any, Any, Any]


def build(model: ChatOllama, http: httpx.AsyncClient, home: Path, saver: BaseCheckpointSaver[str]) -> Graph:
    async def ask(role: str, state: State | Desk, *keys: str) -> dict[str, Any]:
        payload = {key: value for key, value in state.items() if key in keys}
        system, user = (message["content"] for message in messages(role, payload))
        stream = model.astream([SystemMessage(system), HumanMessage(user)], format=SCHEMAS[role])
        answer: dict[str, Any] = json.loads("".join([str(chunk.content) async for chunk in stream]))
        return answer

    async def brand(state: State) -> State:
        return {"brand": await ask("brand", state, "brand_input")}

    async def brief(state: State) -> State:
        return {"brief": await ask("brief", state, "brand", "product_input")}

    async def strategist(state: State) -> State:
        return {"sections": (await ask("strategist", state, "brand", "brief", "product_input"))["sections"]}

    async def copywriter(state: Desk) -> Desk:
        return {"copy": await ask("copywriter", state, "brief", "sections", "product_input")}

    async def reviewer(state: Desk) -> Desk:
        return {"review": await ask("reviewer", state, "brand", "product_input", "copy")}

    async def vision(state: State) -> State:
        words = await ask("vision", state, "brand", "brief", "sections", "product_input")
        image_id = uuid.uuid4().hex
        await asyncio.to_thread((home / f"{image_id}.png").write_bytes, await make_image(http, words))
        return {"image": {"image_id": image_id, "prompt_used": words["prompt"]}}

    desk = StateGraph(Desk, output_schema=DeskOutput)
    desk.add_node("copywriter", copywriter)
    desk.add_node("reviewer", reviewer)
    desk.add_edge(START, "copywriter")
    desk.add_edge("copywriter", "reviewer")
    desk.add_edge("reviewer", END)

    graph = StateGraph(State)
    graph.add_node("brand", brand)
    graph.add_node("brief", brief)
    graph.add_node("strategist", strategist)
    graph.add_node("copy_desk", desk.compile())
    graph.add_node("vision", vision)
    graph.add_edge(START, "brand")
    graph.add_edge("brand", "brief")
    graph.add_edge("brief", "strategist")
    graph.add_edge("strategist", "copy_desk")
    graph.add_edge("strategist", "vision")
    graph.add_edge("copy_desk", END)
    graph.add_edge("vision", END)
    return graph.compile(checkpointer=saver)


async def run(graph: Graph, home: Path) -> None:
    run_id = uuid.uuid4().hex
    config: Any = {"configurable": {"thread_id": run_id}}
    state = await graph.ainvoke({"brand_input": BRAND, "product_input": PRODUCT}, config)
    image = await asyncio.to_thread((home / f"{state['image']['image_id']}.png").read_bytes)
    await asyncio.to_thread(save, home / run_id, image, state)


@asynccontextmanager
async def opened() -> AsyncGenerator[Job, None]:
    model = ChatOllama(model="qwen2.5:7b", base_url=OLLAMA)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        async with http_client() as http, AsyncSqliteSaver.from_conn_string(f"{home}/checkpoints.sqlite") as saver:
            graph = build(model, http, home, saver)
            yield lambda: run(graph, home)


if __name__ == "__main__":
    main(opened(), arguments(__doc__).parse_args())
