"""What HTTP adds to a call of the LLM gateway, and how many calls a server answers beside a bare FastAPI route.

The bare route has the same request and answer models, the same mock gateway's answer made once, and nothing else: no
gateway, no keys, no request ids, no metrics. Both serve by uvicorn in a process of their own, and take turns. A keyed
call has an Idempotency-Key of its own, as each of LLMGatewayClient's has: its answer is kept on disk for a repetition.
The last line is ``{"added_p50_ms", "keyed_p50_ms", "http_p50_ms", "own_p50_ms", "served", "per_s", "bare_per_s",
"errors"}``: what a call, and a keyed one, takes over one in process; ``served`` is the ratio of the calls a second of
both servers; ``errors`` counts the calls that failed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from statistics import median
from uuid import uuid4

import aiohttp

from routing.contracts import LLMAnswer, LLMRequest
from routing.gateways import build_gateways
from routing.settings import load_settings

BODY = {
    "role": "brief",
    "task": "marketing_brief",
    "mode": "json",
    "payload": {
        "brand": {"name": "프로틴플러스", "tone": "믿음직한", "values": ["건강"], "colors": ["#2F6B4F"]},
        "product_input": {"name": "프로틴플러스 초코맛", "key_features": ["고단백 30g", "저당", "간편 쉐이크"]},
    },
}
GENERATE = "/api/v1/llm/generate"
AT_ONCE = 16
TURNS = 5


def bare() -> None:
    """Serve the bare route until stdin ends."""
    import uvicorn
    from fastapi import FastAPI

    answer = asyncio.run(_answered())
    app = FastAPI()

    @app.post(GENERATE)
    async def generate(request: LLMRequest) -> LLMAnswer:
        return answer

    class Told(uvicorn.Server):
        async def startup(self, sockets: object = None) -> None:
            await super().startup()
            port = self.servers[0].sockets[0].getsockname()[1]
            print(f"listening on http://127.0.0.1:{port}", flush=True)

    Told(uvicorn.Config(app, port=0, log_level="warning", access_log=False)).run()


async def _answered() -> LLMAnswer:
    gateways = build_gateways(load_settings({"GENERATOR_MODE": "mock"}, environ={}))
    return await gateways.llm.generate(LLMRequest.model_validate(BODY))


@contextmanager
def serving(*command: str, home: str) -> Generator[str, None, None]:
    """A server in a process of its own; yields its address."""
    environment = {**os.environ, "GENERATOR_MODE": "mock", "SPARKLIO_HOME": home}
    with subprocess.Popen(
        [sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().split()[-1]
        finally:
            process.terminate()


async def p50_ms(call: Callable[[], Awaitable[object]], count: int) -> float:
    """Median wall of one call in milliseconds, one after another."""
    walls = []
    for _ in range(count):
        started = time.perf_counter()
        await call()
        walls.append(time.perf_counter() - started)
    return 1000 * median(walls)


async def per_second(call: Callable[[], Awaitable[object]], count: int) -> float:
    """Calls a second with :data:`AT_ONCE` under way."""
    left = iter(range(count))

    async def client() -> None:
        for _ in left:
            await call()

    started = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(AT_ONCE)))
    return count / (time.perf_counter() - started)


async def measure(url: str, bare_url: str, count: int) -> dict[str, float]:
    gateways = build_gateways(load_settings({"GENERATOR_MODE": "mock"}, environ={}))
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
        errors = 0

        async def post(address: str, **headers: str) -> None:
            nonlocal errors
            async with http.post(address + GENERATE, json=BODY, headers=headers) as response:
                await response.read()
                errors += response.status != 200

        async def keyed() -> None:
            await post(url, **{"Idempotency-Key": uuid4().hex})

        async def own() -> None:
            await gateways.llm.generate(LLMRequest.model_validate(BODY))

        for _ in range(count // 10):
            await asyncio.gather(post(url), keyed(), post(bare_url), own())
        over, keyed_over, inside, rates, bare_rates = [], [], [], [], []
        for _ in range(TURNS):
            inside.append(await p50_ms(own, count // TURNS))
            over.append(await p50_ms(lambda: post(url), count // TURNS))
            keyed_over.append(await p50_ms(keyed, count // TURNS))
            rates.append(await per_second(lambda: post(url), count // TURNS))
            bare_rates.append(await per_second(lambda: post(bare_url), count // TURNS))
    return {
        "added_p50_ms": median(a - b for a, b in zip(over, inside, strict=True)),
        "keyed_p50_ms": median(a - b for a, b in zip(keyed_over, inside, strict=True)),
        "http_p50_ms": median(over),
        "own_p50_ms": median(inside),
        "served": median(a / b for a, b in zip(rates, bare_rates, strict=True)),
        "per_s": median(rates),
        "bare_per_s": median(bare_rates),
        "errors": errors,
    }


def main(count: int) -> None:
    with (
        tempfile.TemporaryDirectory() as home,
        serving("-m", "sparklio", "serve", "--port", "0", home=home) as url,
        serving(__file__, "--bare", home=home) as bare_url,
    ):
        print(json.dumps(asyncio.run(measure(url, bare_url, count))))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--bare", action="store_true", help="be the bare server")
    options = parser.parse_args()
    bare() if options.bare else main(options.n)
