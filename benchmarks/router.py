"""What the LLM gateway itself costs a call: the same answers through it and straight from the backend.

The backend answers at once, so all that differs is the gateway: prompt, route, attempt, deadline, cost, the check of
the answer against its schema. The last line is ``{"gateway_ms", "backend_ms", "errors"}``, CPU a call.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Any

from providers.base import LLMChunk, LLMOutput, LLMProviderResponse, Usage
from routing.contracts import LLMRequest
from routing.llm_gateway import LLMGateway
from routing.prices import Prices
from routing.prompt_builder import Prompt, build_prompt
from routing.router import LLMRoute, Router
from routing.settings import load_settings
from routing.tasks import find_task

BRIEF = {"target": "직장인", "positioning": "간편함", "key_messages": ["고단백", "저당", "간편 쉐이크"]}
PIECES = [json.dumps(BRIEF, ensure_ascii=False)[at : at + 20] for at in range(0, 200, 20)]
PAYLOAD = {
    "brand": {"name": "프로틴플러스", "tone": "믿음직한", "values": ["건강"], "colors": ["#2F6B4F"]},
    "product_input": {"name": "프로틴플러스 초코맛", "key_features": ["고단백 30g", "저당", "간편 쉐이크"]},
}
REQUEST = LLMRequest(role="brief", task="marketing_brief", mode="json", payload=PAYLOAD)


class Instant:
    """A backend that has its answer ready."""

    async def stream(
        self, route: LLMRoute, request: LLMRequest, prompt: Prompt, options: Mapping[str, Any]
    ) -> AsyncGenerator[LLMChunk, None]:
        for piece in PIECES:
            yield LLMChunk(text=piece)
        output = LLMOutput(type="json", content="".join(PIECES))
        usage = Usage(prompt_tokens=300, completion_tokens=60, total_tokens=360)
        yield LLMChunk(
            response=LLMProviderResponse(provider=route.provider, model=route.model, usage=usage, output=output)
        )

    async def prepare(self) -> None: ...

    async def aclose(self) -> None: ...


async def cpu_ms(call: Callable[[], Awaitable[object]], count: int) -> float:
    """CPU of one call in milliseconds, over ``count`` of them after a tenth as many to warm up."""
    for _ in range(count // 10):
        await call()
    started = time.process_time()
    for _ in range(count):
        await call()
    return 1000 * (time.process_time() - started) / count


async def main(count: int) -> None:
    settings = load_settings(environ={})
    backend = Instant()
    router = Router(settings.config, settings.default_model)
    gateway = LLMGateway(router, backend, mode="live", deadline_s=180, prices=Prices(settings.config.prices))
    route, prompt = router.llm_routes(REQUEST)[0], build_prompt(REQUEST, find_task(REQUEST.role, REQUEST.task))

    async def through() -> None:
        answer = await gateway.generate(REQUEST, lambda progress: None)
        assert answer.output.parsed == BRIEF

    async def straight() -> None:
        async with aclosing(backend.stream(route, REQUEST, prompt, {})) as chunks:
            async for _ in chunks:
                pass

    print(
        json.dumps(
            {"gateway_ms": await cpu_ms(through, count), "backend_ms": await cpu_ms(straight, count), "errors": 0}
        )
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=1000)
    asyncio.run(main(parser.parse_args().n))
