"""How many times as many runs 2 and 4 machines of workers finish in a second as one does.

Each machine is a ``sparklio worker`` of one run and one image at a time; PostgreSQL and Redis are real, and the models'
servers take time and hardly any processor. Counted is from the first run's end to the last one's, so that starting up
does not count. ``python benchmarks/scale.py [--runs 12] [--machines 1 2 4] [--slow 4]``
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.run import say, servers
from tests.postgres_server import PostgresServer, postgres_server
from tests.redis_server import redis_server
from tests.workers import Office, office, worker_process

_LOOKS_EVERY_S = 0.02
_CONNECTIONS = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"


async def rate(booking: Office, runs: int) -> tuple[float, float]:
    """Runs a second, and connections to the database at the end."""
    booked = [await booking.book(f"page-{number}") for number in range(runs)]
    loop, ends = asyncio.get_running_loop(), dict[str, float]()
    while len(ends) < runs:
        await asyncio.sleep(_LOOKS_EVERY_S)
        statuses = await asyncio.to_thread(booking.store.statuses, [one for one in booked if one not in ends])
        for run_id, status in statuses.items():
            if status == "failed":
                raise RuntimeError(booking.reasons(run_id))
            if status == "finished":
                ends[run_id] = loop.time()
    first, *_, last = sorted(ends.values())
    with booking.store.pool.connection() as connection:
        [(connections,)] = connection.execute(_CONNECTIONS).fetchall()
    return (runs - 1) / (last - first), connections


@contextmanager
def machines(number: int, settings: dict[str, str], folder: Path) -> Iterator[None]:
    words = ("--queues", "text,image", "--concurrency", "1")
    with ExitStack() as stack:
        workers = [
            stack.enter_context(worker_process(folder / f"machine-{one}", *words, **settings)) for one in range(number)
        ]
        yield
        for worker in workers:
            worker.stop()  # a killed one's processes are waited for by nobody, and then their time is not told


async def measure(number: int, runs: int, postgres: PostgresServer, models: dict[str, str]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder, redis_server() as redis:
        settings = {
            "SPARKLIO_DATABASE_URL": postgres.new_database(),
            "SPARKLIO_BROKER_URL": redis.url,
            "SPARKLIO_ARTIFACTS_URL": f"file://{folder}/artifacts",
            "GENERATOR_MODE": "live",
            **{name: url for name, url in models.items() if name.endswith("_BASE_URL")},
        }
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        async with office(Path(folder) / "office", **settings) as booking:
            with machines(number, settings, Path(folder)):
                a_second, connections = await rate(booking, runs)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"a_second": a_second, "cpu_s": cpu_s, "connections": connections}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=12, help="for each machine")
    parser.add_argument("--machines", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--slow", type=float, default=4, help="how many times their usual time the models take")
    options = parser.parse_args()
    os.chdir(tempfile.mkdtemp())
    one = None
    with servers("--slow", str(options.slow)) as models, postgres_server() as postgres:
        for number in options.machines:
            told = asyncio.run(measure(number, number * options.runs, postgres, dict(models)))
            one = one or told["a_second"]
            ratio, each_s = told["a_second"] / one, told["cpu_s"] / (number * options.runs)
            facts = f"{told['connections']} connections, {each_s:.2f} s CPU a run with start-up"
            say(f"{number} machines: {60 * told['a_second']:.1f} runs a minute, {ratio:.2f} times one's; {facts}")


if __name__ == "__main__":
    main()
