"""compose.yaml and the Dockerfile, held against the code that they start; there is no engine here to start them."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from redis import Redis
from typer.main import get_command

from routing.settings import load_settings
from sparklio.cli import app
from sparklio.worker.registry import Worker, announce, withdraw
from tests.redis_server import RedisServer
from tests.serving import serving

ROOT = Path(__file__).resolve().parent.parent
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
SERVICES: dict[str, Any] = COMPOSE["services"]
OURS = ("server", "worker", "image-worker")
PASSWORD, OTHER, KEY = "s3cretword", "0therword", "key-of-the-server-1"
GIVEN = {"POSTGRES_PASSWORD": PASSWORD, "REDIS_PASSWORD": OTHER, "SPARKLIO_API_KEYS": KEY}

_VARIABLE = re.compile(r"\$\{(\w+)(?::([-?])([^}]*))?\}")


def filled(text: str, given: dict[str, str]) -> str:
    """What compose makes of ``${NAME}``, ``${NAME:-default}`` and ``${NAME:?hint}``."""

    def value(match: re.Match[str]) -> str:
        name, sign, rest = match.groups()
        if not given.get(name) and sign == "?":
            raise KeyError(name)
        return given.get(name) or (rest if sign == "-" else "")

    return _VARIABLE.sub(value, text)


def environment(service: str, given: dict[str, str] = GIVEN) -> dict[str, str]:
    return {name: filled(value, given) for name, value in SERVICES[service]["environment"].items()}


def instructions() -> list[tuple[str, str]]:
    """Word and rest of each instruction of the Dockerfile, lines that go on joined."""
    lines = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    return [(word, rest.strip()) for word, _, rest in (one.partition(" ") for one in _joined(lines)) if word]


def _joined(lines: str) -> list[str]:
    return re.sub(r"\\\n\s*", " ", lines).splitlines()


# compose.yaml


def test_it_names_its_services() -> None:
    assert set(SERVICES) == {*OURS, "redis", "postgres"}
    assert SERVICES["worker"]["deploy"]["replicas"] == 2


@pytest.mark.parametrize("service", SERVICES)
def test_each_service_tells_how_it_is_and_may_do_little(service: str) -> None:
    body = SERVICES[service]
    assert body["healthcheck"]["test"][0] in {"CMD", "CMD-SHELL"}
    assert body["user"].split(":")[0] not in {"0", "root"}
    assert body["read_only"]
    assert body["cap_drop"] == ["ALL"]
    assert body["security_opt"] == ["no-new-privileges:true"]
    assert body["restart"] == "unless-stopped"
    assert "privileged" not in body
    assert "cap_add" not in body


@pytest.mark.parametrize("service", SERVICES)
def test_each_image_has_a_version(service: str) -> None:
    name, _, tag = SERVICES[service]["image"].partition(":")
    assert name
    assert re.match(r"\d", tag)


def test_nobody_outside_reaches_the_stores() -> None:
    assert COMPOSE["networks"]["store"]["internal"]
    for service in ("redis", "postgres"):
        assert SERVICES[service]["networks"] == ["store"]
        assert "ports" not in SERVICES[service]
    (address,) = SERVICES["server"]["ports"]
    assert filled(address, {}) == "127.0.0.1:8000:8000"


@pytest.mark.parametrize("service", OURS)
def test_ours_wait_for_the_stores(service: str) -> None:
    assert SERVICES[service]["depends_on"] == {
        "postgres": {"condition": "service_healthy"},
        "redis": {"condition": "service_healthy"},
    }


def test_each_volume_is_declared() -> None:
    mounts = [mount.split(":")[0] for body in SERVICES.values() for mount in body["volumes"]]
    assert {name for name in mounts if name[0] not in "./"} == set(COMPOSE["volumes"])
    for source in (name for name in mounts if name.startswith(".")):
        assert (ROOT / source).exists(), "an engine would make an empty folder of it"


@pytest.mark.parametrize("missing", GIVEN)
def test_a_secret_that_is_missing_is_asked_for(missing: str) -> None:
    with pytest.raises(KeyError, match=missing):
        environment("server", {name: value for name, value in GIVEN.items() if name != missing})


@pytest.mark.parametrize("service", OURS)
def test_the_settings_are_known_and_right(service: str, tmp_path: Path) -> None:
    (tmp_path / "provider_config.yaml").write_bytes((ROOT / "provider_config.yaml").read_bytes())
    environ = environment(service) | {"SPARKLIO_CONFIG": "provider_config.yaml"}
    settings = load_settings(environ=environ)
    assert set(environ) <= set(settings.values)
    assert settings.mode == "mock"
    assert settings.home == Path("/data")
    assert settings.database_url == f"postgresql://sparklio:{PASSWORD}@postgres:5432/sparklio"
    assert settings.broker_url == f"redis://:{OTHER}@redis:6379/0"
    assert settings.artifacts_url == "file:///artifacts"
    assert settings.words("SPARKLIO_API_KEYS") == ((KEY,) if service == "server" else ())


def test_what_this_machine_says_wins_over_the_defaults() -> None:
    given = GIVEN | {"GENERATOR_MODE": "live", "OLLAMA_BASE_URL": "http://desktop:11434"}
    environ = environment("worker", given)
    assert environ["GENERATOR_MODE"] == "live"
    assert environ["OLLAMA_BASE_URL"] == "http://desktop:11434"
    assert environ["COMFYUI_BASE_URL"] == "http://host.docker.internal:8188"


def test_the_variables_of_compose_alone_stand_in_the_example() -> None:
    text = (ROOT / "compose.yaml").read_text(encoding="utf-8")
    example = (ROOT / ".env.example").read_text(encoding="utf-8")
    asked = {name for name, sign, _ in _VARIABLE.findall(text) if sign == "?"}
    assert asked == set(GIVEN)
    assert all(f"#{name}=" in example for name in asked)


@pytest.mark.parametrize("service", OURS)
def test_the_commands_are_ours(service: str) -> None:
    """Parsed as the command line parses them, and not run."""
    name, *words = [filled(word, {}) for word in SERVICES[service]["command"]]
    command = get_command(app).commands[name]  # type: ignore[attr-defined]  # Typer does not export its group
    with command.make_context(name, words) as context:
        parsed = context.params
    if service == "server":
        assert parsed["host"] == "0.0.0.0"
        assert SERVICES[service]["ports"][0].endswith(f":{parsed['port']}")
    else:
        assert parsed["queues"] == ("text" if service == "worker" else "image")


# The checks of health, as programs


def status(program: str, **environ: str) -> int:
    """Exit code of a check, run here."""
    words = [sys.executable, "-c", program]
    return subprocess.run(words, check=False, env=os.environ | environ, stderr=subprocess.DEVNULL).returncode


def test_a_worker_is_well_while_it_says_so(redis: RedisServer) -> None:
    (program,) = {SERVICES[service]["healthcheck"]["test"][-1] for service in ("worker", "image-worker")}
    with Redis.from_url(redis.url, decode_responses=True) as client:
        ours, other = worker(socket.gethostname()), worker("elsewhere")
        announce(client, other)
        assert status(program, SPARKLIO_BROKER_URL=redis.url) == 1
        announce(client, ours)
        assert status(program, SPARKLIO_BROKER_URL=redis.url) == 0
        withdraw(client, ours)
        assert status(program, SPARKLIO_BROKER_URL=redis.url) == 1
    redis.kill()
    assert status(program, SPARKLIO_BROKER_URL=redis.url) == 1


def worker(host: str) -> Worker:
    return Worker(host=host, pid=7, queues=["text"], concurrency=2, mode="mock", version="0")


async def test_a_server_is_well_while_it_is_ready(tmp_path: Path) -> None:
    """The check of the image and that of compose.yaml, each asked of a server of ours at another port."""
    (in_image,) = [rest for word, rest in instructions() if word == "HEALTHCHECK"]
    programs = [json.loads(in_image.partition("CMD ")[2])[2], SERVICES["server"]["healthcheck"]["test"][-1]]
    nobody = {"OLLAMA_BASE_URL": "http://127.0.0.1:9", "COMFYUI_BASE_URL": "http://127.0.0.1:9"}
    async with serving(tmp_path / "well") as client:
        assert [await status_of(program, client) for program in programs] == [0, 0]
    async with serving(tmp_path / "unwell", GENERATOR_MODE="live", **nobody) as client:
        assert [await status_of(program, client) for program in programs] == [1, 1]
    assert [await status_of(program, client) for program in programs] == [1, 1]


async def status_of(program: str, client: httpx.AsyncClient) -> int:
    assert program.count("8000") == 1
    return await asyncio.to_thread(status, program.replace("8000", str(client.base_url.port)))


# The Dockerfile


def copied() -> Iterator[str]:
    for word, rest in instructions():
        if word == "COPY" and "--from" not in rest:
            *sources, _ = rest.split()
            yield from sources


def test_the_image_is_made_of_what_is_there_and_not_as_root() -> None:
    words = [word for word, _ in instructions()]
    last = words[len(words) - 1 - words[::-1].index("FROM") :]
    assert last.index("USER") < last.index("HEALTHCHECK") < last.index("ENTRYPOINT")
    (user,) = [rest for word, rest in instructions() if word == "USER"]
    assert user == SERVICES["server"]["user"]
    assert user.split(":")[0] != "0"
    assert dict(instructions())["ENTRYPOINT"] == '["sparklio"]'
    assert all((ROOT / source).exists() for source in copied())
    assert all(re.search(r":\d", rest) for word, rest in instructions() if word == "FROM")


def test_the_image_holds_all_that_the_wheel_is_built_from() -> None:
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    wanted = {*wheel["packages"], *wheel["force-include"], "pyproject.toml", "README.md", "requirements-dev.lock"}
    sources = set(copied())
    assert all(name in sources or name.partition("/")[0] in sources for name in wanted)


@pytest.mark.parametrize("name", ["Dockerfile", "compose.yaml", "requirements.lock", "requirements-dev.lock"])
def test_no_registry_and_no_proxy_is_named(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8").lower()
    assert not re.search(r"--(extra-)?index-url|find-links|trusted-host|pip_(extra_)?index|https?_proxy", text)
    if name.endswith(".lock"):
        assert "://" not in text


# .dockerignore


def kept_out(path: str) -> bool:
    """Whether .dockerignore keeps a path out: the last line that fits it, or a folder above it, decides."""
    out = False
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            pattern = re.escape(line.lstrip("!")).replace(r"\*\*/", "(.*/)?").replace(r"\*", "[^/]*")
            if re.fullmatch(f"{pattern}(/.*)?", path):
                out = not line.startswith("!")
    return out


@pytest.mark.parametrize(
    "path",
    [
        ".env",
        ".git/config",
        ".sparklio/checkpoints.sqlite",
        ".venv/bin/python",
        "examples/.env",
        "examples/.sparklio/runs/a/result.json",
        "graph/__pycache__/flow.pyc",
        "sparklio/server/__pycache__/app.pyc",
        "tests/conftest.py",
    ],
)
def test_what_is_private_or_of_no_use_stays_out(path: str) -> None:
    assert kept_out(path)


def test_what_is_copied_is_let_in() -> None:
    for source in copied():
        assert not kept_out(source)
    assert not kept_out("sparklio/server/app.py")
