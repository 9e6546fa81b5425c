"""The floor: the job as a plain asyncio and httpx script, nothing checked, nothing kept but the result."""

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
from timing import Job, arguments, main


async def ask(http: httpx.AsyncClient, role: str, **payload: Any) -> dict[str, Any]:
    body = {"model": "qwen2.5:7b", "messages": messages(role, payload), "format": SCHEMAS[role], "stream": True}
    texts = []
    async with http.stream("POST", f"{OLLAMA}/api/chat", json=body) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            texts.append(json.loads(line)["message"]["content"])  # noqa: PERF401
    answer: dict[str, Any] = json.loads("".join(texts))
    return answer


async def run(http: httpx.AsyncClient, home: Path) -> None:
    brand = await ask(http, "brand", brand_input=BRAND)
    brief = await ask(http, "brief", brand=brand, product_input=PRODUCT)
    plan = await ask(http, "strategist", brand=brand, brief=brief, product_input=PRODUCT)
    sections = plan["sections"]

    async def desk() -> tuple[dict[str, Any], dict[str, Any]]:
        copy = await ask(http, "copywriter", brief=brief, sections=sections, product_input=PRODUCT)
        return copy, await ask(http, "reviewer", brand=brand, product_input=PRODUCT, copy=copy)

    async def picture() -> bytes:
        words = await ask(http, "vision", brand=brand, brief=brief, section=sections[0], product_input=PRODUCT)
        return await make_image(http, words)

    (copy, review), image = await asyncio.gather(desk(), picture())
    result = {"brand": brand, "brief": brief, "sections": sections, "copy": copy, "review": review}
    await asyncio.to_thread(save, home / uuid.uuid4().hex, image, result)


@asynccontextmanager
async def opened() -> AsyncGenerator[Job, None]:
    with tempfile.TemporaryDirectory() as home:
        async with http_client() as http:
            yield lambda: run(http, Path(home))


if __name__ == "__main__":
    main(opened(), arguments(__doc__).parse_args())
