"""``make bench``: Sparklio beside a bare LangGraph and a plain script, in one session; prints a table of ratios.

The contenders take turns (A B C A B C), each measurement in a fresh process against the same servers. A ratio is taken
within its round, so that a busy machine touches both sides of it; the table tells the median and the spread of the
rounds. Nothing is asserted: a benchmark that fails on a busy machine teaches people to ignore it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).parent
CONTENDERS = {"sparklio": "worker.py", "bare": "bare_langgraph.py", "plain": "plain.py"}
CRITICAL_PATH_S = 3 * 0.2 + max(2 * 0.2, 0.2 + 1.0)
IMPORTS = "import langgraph.graph, langchain_ollama"
Round = dict[str, dict[str, Any]]


def say(text: str) -> None:
    print(text, flush=True)


@contextmanager
def servers(*words: str) -> Generator[dict[str, str], None, None]:
    """The two servers as a process that ends with this one; yields the environment that leads there."""
    environment = {"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], "PYTHONPATH": str(HERE.parent)}
    command = [sys.executable, str(HERE / "servers.py"), *words]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, env=environment, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield environment | json.loads(process.stdout.readline())
        process.stdin.close()


def measure(script: str, environment: Mapping[str, str], *arguments: str) -> dict[str, Any]:
    command = [sys.executable, str(HERE / script), *arguments]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if told["errors"]:
        say(f"! {script} {' '.join(arguments)}: {told['errors']} runs or calls failed")
    return told


def all_of(environment: Mapping[str, str], *arguments: str) -> Round:
    return {name: measure(script, environment, *arguments) for name, script in CONTENDERS.items()}


def cold(environment: Mapping[str, str]) -> tuple[float, float]:
    """Seconds of a whole ``sparklio run`` in mock, and of the imports that no LangGraph application is without."""
    with tempfile.TemporaryDirectory() as home:
        mock = {**environment, "GENERATOR_MODE": "mock", "SPARKLIO_HOME": home}
        return (
            _seconds([sys.executable, "-m", "sparklio", "run", "--plain"], mock, home),
            _seconds([sys.executable, "-c", IMPORTS], mock, home),
        )


def _seconds(command: list[str], environment: Mapping[str, str], folder: str) -> float:
    started = time.perf_counter()
    subprocess.run(command, env=environment, cwd=folder, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - started


def row(what: str, values: Iterable[float], target: str = "", unit: str = "") -> None:
    told = sorted(values)
    spread = f"{told[0]:.2f} to {told[-1]:.2f}"
    say(f"| {what} | {median(told):.2f}{unit} | {spread} | {target} |")


def table(
    seq: list[Round],
    conc: list[Round],
    mock: list[dict[str, Any]],
    gateway: list[dict[str, Any]],
    durable: list[dict[str, Any]],
    served: list[dict[str, Any]],
    colds: list[tuple[float, float]],
) -> None:
    say("\n| measured | median | of the rounds | target |\n|---|---:|---:|---:|")
    for name, target in (("sparklio", "1.05"), ("bare", ""), ("plain", "")):
        row(
            f"warm run, wall / critical path: {name}", (median(r[name]["walls"]) / CRITICAL_PATH_S for r in seq), target
        )
    for name, target in (("bare", "1.2"), ("plain", "")):
        row(f"CPU a run: sparklio / {name}", (r["sparklio"]["cpu_s"] / r[name]["cpu_s"] for r in seq), target)
    for name, target in (("bare", "1.2"), ("plain", "")):
        ratios = (r["sparklio"]["wall_s"] / r[name]["wall_s"] for r in conc)
        row(f"concurrent runs, wall: sparklio / {name}", ratios, target)
    for name in CONTENDERS:
        row(f"concurrent runs, wall / ideal: {name}", (r[name]["wall_s"] / CRITICAL_PATH_S for r in conc))
    for name, target in (("bare", "1.2"), ("plain", "")):
        ratios = (r["sparklio"]["cpu_s"] / r[name]["cpu_s"] for r in conc)
        row(f"concurrent runs, CPU: sparklio / {name}", ratios, target)
    row("warm mock run, CPU", (told["cpu_s"] / len(told["walls"]) for told in mock), "0.1 s", " s")
    row(
        "LLM gateway, CPU a call over its backend's",
        (t["gateway_ms"] - t["backend_ms"] for t in gateway),
        "1 ms",
        " ms",
    )
    for what, key in (("", "added_p50_ms"), (" and keyed", "keyed_p50_ms")):
        row(f"LLM gateway over HTTP{what}, p50 a call over the one in process", (t[key] for t in served), "3 ms", " ms")
    row("LLM gateway over HTTP, calls a second / a bare FastAPI route's", (t["served"] for t in served))
    row("durability, CPU a mock run: our database and ledger / LangGraph's saver alone", (t["cpu"] for t in durable))
    row("durability, bytes a run: the same", (t["bytes"] for t in durable))
    row("durability, bytes a run", (t["own_bytes"] / 1000 for t in durable), "200 kB", " kB")
    for what, key in (("CPU", "stored_cpu"), ("wall", "stored_wall")):
        row(f"mock run beside 1,000 stored ones, {what} / beside none", (t[key] for t in durable), "1.1")
    row("cold `sparklio run` in mock / the bare imports", (run / imports for run, imports in colds))
    row("cold `sparklio run` in mock / (1.6 x the bare imports + 0.5 s)", (r / (1.6 * i + 0.5) for r, i in colds), "1")
    for name in CONTENDERS:
        ms = [1000 * median(r[name]["cpu_s"] / max(1, len(r[name]["walls"])) for r in rounds) for rounds in (seq, conc)]
        say(f"CPU a run, {name}: {ms[0]:.0f} ms one after another, {ms[1]:.0f} ms at once")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--concurrent", type=int, default=100)
    options = parser.parse_args()
    seq, conc, mock, gateway, durable, served, colds = [], [], [], [], [], [], []
    with servers() as environment:
        for number in range(1, options.rounds + 1):
            say(f"round {number} of {options.rounds}: in turn, at once, mock, gateway, durability, HTTP, cold")
            seq.append(all_of(environment, "--mode", "seq", "--n", "5", "--warmup", "2"))
            conc.append(all_of(environment, "--mode", "conc", "--n", str(options.concurrent), "--warmup", "2"))
            mocked = ("--mode", "seq", "--n", "20", "--warmup", "3", "--generator", "mock")
            mock.append(measure(CONTENDERS["sparklio"], environment, *mocked))
            gateway.append(measure("router.py", environment))
            durable.append(measure("durability.py", environment))
            served.append(measure("http_gateway.py", environment))
            colds.append(cold(environment))
    table(seq, conc, mock, gateway, durable, served, colds)


if __name__ == "__main__":
    main()
