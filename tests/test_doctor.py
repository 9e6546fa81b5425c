"""``sparklio doctor``: what it finds, what it says, and that it neither loads a model nor makes an image."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import respx
import yaml

from providers.base import Finding
from providers.errors import ServerError
from providers.llm.ollama import OllamaProvider
from routing.doctor import Report, examine
from routing.packaged_files import DEFAULT_CONFIG
from routing.settings import load_settings
from sparklio.cli import main
from sparklio.worker.broker import connect
from sparklio.worker.registry import Worker, announce
from tests.redis_server import RedisServer
from tests.standins.comfyui import ComfyUIStandIn
from tests.standins.ollama_library import OllamaLibraryStandIn
from tests.standins.server import free_port
from tests.waiting import NEVER_S, wait_until

ROOT = Path(__file__).resolve().parent.parent
COPY_MODEL, SMALL_MODEL = "qwen2.5:14b", "qwen2.5:7b"


class Doctor:
    """Runs ``sparklio doctor`` in the test's own process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def __call__(self, *words: str) -> subprocess.CompletedProcess[str]:
        self._capsys.readouterr()
        with self._monkeypatch.context() as patched, pytest.raises(SystemExit) as ended:
            patched.setattr(sys, "argv", ["sparklio", "doctor", *words])
            main()
        code = ended.value.code
        assert isinstance(code, int)
        return subprocess.CompletedProcess(words, code, *self._capsys.readouterr())

    def json(self, *words: str) -> dict[str, Any]:
        done = self(*words, "--json")
        body: dict[str, Any] = json.loads(done.stdout)
        assert done.returncode == (0 if body["can_run"] else 1)
        assert body["can_run"] == ("failed" not in {one["state"] for one in body["findings"]})
        return body

    def findings(self, *words: str) -> dict[str, dict[str, str]]:
        """By subject; the first of each."""
        return {one["subject"]: one for one in reversed(self.json(*words)["findings"])}


@pytest.fixture
def doctor(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Doctor:
    monkeypatch.setenv("COLUMNS", "200")
    return Doctor(monkeypatch, capsys)


@pytest.fixture
def ollama() -> Iterator[OllamaLibraryStandIn]:
    with OllamaLibraryStandIn() as server:
        yield server


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """Addresses of Ollama and ComfyUI where nothing listens."""
    urls = (f"http://127.0.0.1:{free_port()}", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("OLLAMA_BASE_URL", urls[0])
    monkeypatch.setenv("COMFYUI_BASE_URL", urls[1])
    return urls


def write_config(folder: Path, **changes: Any) -> None:
    """The packaged routing file with other top-level keys."""
    config = yaml.safe_load(DEFAULT_CONFIG.read_text(encoding="utf-8")) | changes
    (folder / "provider_config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")


def nothing_was_made(ollama: OllamaLibraryStandIn, comfyui: ComfyUIStandIn) -> bool:
    return (ollama.loads, ollama.chats, ollama.generates, comfyui.prompts) == ([], [], [], [])


# -- mock --------------------------------------------------------------------------------------------------------------


def test_mock_needs_no_server_and_tells_what_live_needs(doctor: Doctor, closed: tuple[str, str]) -> None:
    done = doctor()
    assert done.returncode == 0, done.stdout
    assert "mock can run" in done.stdout
    assert "live: " in done.stdout
    assert "ollama serve" in done.stdout
    body = doctor.json()
    assert (body["mode"], body["can_run"]) == ("mock", True)
    assert {one["state"] for one in body["findings"]} == {"ok", "warning"}
    assert body["findings"][0]["subject"] == "data folder"


@pytest.mark.parametrize("mode", ["mock", "live"])
@pytest.mark.usefixtures("live")
def test_a_data_folder_that_cannot_be_written(
    doctor: Doctor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SPARKLIO_HOME", "file/home")
    found = doctor.findings("--mode", mode)["data folder"]
    assert found["state"] == "failed"
    assert str(tmp_path / "file" / "home") in found["message"]
    assert "SPARKLIO_HOME" in found["remedy"]


def test_the_trial_leaves_nothing_behind(doctor: Doctor, closed: tuple[str, str], tmp_path: Path) -> None:
    doctor.json()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / ".sparklio").mkdir()
    (tmp_path / ".sparklio" / "mine").write_text("")
    doctor.json()
    assert [path.name for path in (tmp_path / ".sparklio").iterdir()] == ["mine"]


def test_a_full_disk_is_a_warning(
    doctor: Doctor, closed: tuple[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=5_000_000))
    found = doctor.findings()["data folder"]
    assert found["state"] == "warning"
    assert "5 MB" in found["message"]


def test_a_workflow_that_is_not_there_fails_in_mock_too(
    doctor: Doctor, closed: tuple[str, str], tmp_path: Path
) -> None:
    rule = {"kind": ["hero"], "provider": "comfyui", "workflow": "my_style"}
    write_config(tmp_path, media_routing={"image": [rule, {"provider": "comfyui", "workflow": "hero_v1"}]})
    for mode in ("mock", "live"):
        found = doctor.findings("--mode", mode)["workflow my_style"]
        assert found["state"] == "failed", "a run refuses it though the rule for all kinds follows"
        assert "hero_v1" in found["message"]


# -- live --------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("live")
def test_live_can_run(doctor: Doctor, ollama: OllamaLibraryStandIn, comfyui: ComfyUIStandIn) -> None:
    done = doctor()
    assert done.returncode == 0, done.stdout
    assert "live can run" in done.stdout
    assert ollama.url in done.stdout
    assert comfyui.url in done.stdout
    subjects = list(doctor.findings())
    assert {"ollama", f"model {COPY_MODEL}", "comfyui", "workflow hero_v1"} < set(subjects)
    assert len(subjects) == len(doctor.json()["findings"]), "each is told once"
    assert nothing_was_made(ollama, comfyui)


@pytest.mark.usefixtures("live")
def test_nothing_but_harmless_questions_are_asked(doctor: Doctor, comfyui: ComfyUIStandIn) -> None:
    doctor.json()
    asked = {path.split("/")[1] for _, path in comfyui.requests}
    assert asked <= {"system_stats", "object_info", "models"}
    assert {method for method, _ in comfyui.requests} == {"GET"}


def test_closed_ports(doctor: Doctor, closed: tuple[str, str]) -> None:
    done = doctor("--mode", "live")
    assert done.returncode == 1
    assert closed[0] in done.stdout
    assert closed[1] in done.stdout
    assert "ollama serve" in done.stdout
    assert "start ComfyUI" in done.stdout
    assert "live cannot run: 2 things to mend" in done.stdout


@pytest.mark.usefixtures("live")
def test_a_model_without_which_no_run_gets_through(doctor: Doctor, ollama: OllamaLibraryStandIn) -> None:
    ollama.models.remove(COPY_MODEL)
    done = doctor()
    assert done.returncode == 1
    assert f"→ ollama pull {COPY_MODEL}" in done.stdout
    assert "live cannot run: 1 thing to mend" in done.stdout
    assert SMALL_MODEL in doctor.findings()[f"model {COPY_MODEL}"]["message"], "the best one that is pulled"


@pytest.mark.usefixtures("live")
def test_a_model_that_has_a_fallback_is_a_warning(doctor: Doctor, ollama: OllamaLibraryStandIn) -> None:
    ollama.models.remove("mistral-small:latest")
    found = doctor.findings()["model mistral-small"]
    assert found["state"] == "warning"
    assert found["remedy"] == "ollama pull mistral-small"


@pytest.mark.usefixtures("live")
def test_a_default_model_that_no_rule_needs_is_a_warning(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_DEFAULT_MODEL", "stranger")
    assert doctor.findings()["model stranger"]["state"] == "warning"


@pytest.mark.usefixtures("live")
def test_a_checkpoint_that_is_missing(doctor: Doctor, comfyui: ComfyUIStandIn) -> None:
    comfyui.checkpoints = ["other.safetensors"]
    done = doctor()
    assert "live cannot run: 1 thing to mend" in done.stdout, "four workflows want the same file"
    found = doctor.findings()["file sd_xl_base_1.0.safetensors"]
    assert "put sd_xl_base_1.0.safetensors into ComfyUI's models/checkpoints" in found["remedy"]
    assert "other.safetensors" in found["message"]
    comfyui.checkpoints = []
    assert "there: none" in doctor.findings()["file sd_xl_base_1.0.safetensors"]["message"]


@pytest.mark.usefixtures("live")
def test_what_strikes_one_request_altogether_is_failed_whatever_else_it_strikes(
    doctor: Doctor, tmp_path: Path, comfyui: ComfyUIStandIn
) -> None:
    def rule(kind: str, checkpoint: str) -> dict[str, Any]:
        return {"kind": kind, "provider": "comfyui", "workflow": f"{kind}_v1", "options": {"checkpoint": checkpoint}}

    there = comfyui.checkpoints[0]
    hero = [rule("hero", "gone"), {**rule("hero", there), "workflow": "concept_v1"}]
    write_config(tmp_path, media_routing={"image": [rule("product_shot", there), *hero]})
    assert doctor.findings()["file gone"]["state"] == "warning"
    write_config(tmp_path, media_routing={"image": [rule("product_shot", there), *hero, rule("concept", "gone")]})
    assert doctor.findings()["file gone"]["state"] == "failed"


@pytest.mark.usefixtures("live")
def test_a_diagnosis_that_fails_is_a_finding(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    async def diagnose(self: object, models: object) -> list[Finding]:
        raise ServerError("no idea", provider="ollama", hint="look at its log")

    monkeypatch.setattr(OllamaProvider, "diagnose", diagnose)
    found = doctor.findings()["ollama"]
    assert (found["state"], found["message"], found["remedy"]) == ("failed", "no idea", "look at its log")


@pytest.mark.usefixtures("live")
def test_a_node_that_is_missing(doctor: Doctor, tmp_path: Path) -> None:
    packaged = ROOT / "workflows" / "product_shot_v1.json"
    graph = json.loads(packaged.read_text(encoding="utf-8"))
    graph["8"]["class_type"] = "FancyDecode"
    (tmp_path / "workflows").mkdir()
    for name in ("product_shot_v1", "hero_v1"):
        (tmp_path / "workflows" / f"{name}.json").write_text(json.dumps(graph))
    hero = {"kind": ["hero"], "provider": "comfyui", "workflow": "hero_v1", "priority": 1}
    write_config(tmp_path, media_routing={"image": [hero, {"provider": "comfyui", "workflow": "product_shot_v1"}]})
    assert doctor.findings()["workflow hero_v1"]["state"] == "failed", "its fallback is struck too"
    (tmp_path / "workflows" / "product_shot_v1.json").unlink()
    assert doctor.findings()["workflow hero_v1"]["state"] == "warning", "its fallback serves"
    found = doctor.findings()["workflow hero_v1"]
    assert "FancyDecode" in found["message"]
    assert "custom nodes" in found["remedy"]


# -- mending -----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("live")
def test_fix_pulls_what_is_missing(doctor: Doctor, ollama: OllamaLibraryStandIn, comfyui: ComfyUIStandIn) -> None:
    ollama.models[:] = [SMALL_MODEL]
    done = doctor("--fix")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "live can run" in done.stdout
    assert sorted(body["model"] for body in ollama.pulled) == ["llama3.2", "mistral-small", COPY_MODEL]
    assert "4.7/4.7 GB" in done.stderr
    assert nothing_was_made(ollama, comfyui)
    doctor("--fix")
    assert len(ollama.pulled) == 3, "what is there is not pulled again"


@pytest.mark.usefixtures("live")
def test_fix_that_fails_says_why_and_tries_the_others(doctor: Doctor, ollama: OllamaLibraryStandIn) -> None:
    ollama.models[:] = [SMALL_MODEL]
    ollama.pull_error = "write: no space left on device"
    done = doctor("--fix", "--json")
    assert done.returncode == 1
    assert done.stderr.count("no space left on device") == 3
    assert "hint: " in done.stderr
    assert json.loads(done.stdout)["can_run"] is False


@pytest.mark.usefixtures("live")
def test_interrupting_a_pull_is_exit_130_and_no_trace(ollama: OllamaLibraryStandIn) -> None:
    ollama.models.remove(COPY_MODEL)
    ollama.pull_stalls = True
    with subprocess.Popen(
        [sys.executable, "-m", "sparklio", "doctor", "--fix"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUTF8": "1", "PYTHONPATH": str(ROOT)},
    ) as process:
        wait_until(lambda: ollama.pulled or process.poll() is not None)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=NEVER_S)
    assert (process.returncode, len(ollama.pulled)) == (130, 1)
    assert "Traceback" not in err


def test_an_ollama_that_hangs_is_not_said_to_load_a_model(
    doctor: Doctor, closed: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("providers.llm.ollama._PROBE_TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("OLLAMA_BASE_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        found = doctor.findings("--mode", "live")["ollama"]
    assert (found["state"], found["message"]) == ("failed", "no answer from Ollama within 0.2 s")
    assert "hang" in found["remedy"]


def test_a_host_that_nobody_knows_is_not_told_to_be_started(
    doctor: Doctor, closed: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    known = socket.getaddrinfo

    def look_up(host: str, *rest: Any, **more: Any) -> Any:
        if host == "desktop":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return known(host, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setenv("OLLAMA_BASE_URL", "http://me:hidden-word@desktop:11434")
    found = doctor.findings("--mode", "live")["ollama"]
    assert "'desktop'" in found["remedy"]
    assert "ollama serve" not in found["remedy"]
    assert "hidden-word" not in json.dumps(found)


# -- settings and routing ----------------------------------------------------------------------------------------------


def test_a_variable_that_hides_dotenv_comes_first(doctor: Doctor, closed: tuple[str, str], tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("OLLAMA_BASE_URL=http://me:word@desktop:11434\n")
    first = doctor.json()["findings"][0]
    assert (first["subject"], first["state"]) == ("setting OLLAMA_BASE_URL", "warning")
    assert first["remedy"] == "unset OLLAMA_BASE_URL"
    assert closed[0] in first["message"]
    assert "http://***@desktop:11434" in first["message"]


def test_slips_in_dotenv_are_findings(doctor: Doctor, closed: tuple[str, str], tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("OLAMA_BASE_URL=http://desktop:11434\nOLLAMA_BASE_URL http://desktop:11434\n")
    found = {subject: (one["state"], one["remedy"]) for subject, one in doctor.findings().items()}
    assert found[".env:1"] == ("warning", "did you mean OLLAMA_BASE_URL?")
    assert found[".env:2"] == ("warning", "write it as NAME=value, or begin it with #")


@pytest.mark.usefixtures("live")
def test_a_rule_s_kind_that_is_likely_a_slip(doctor: Doctor, tmp_path: Path) -> None:
    kinds = ["banner", "hero_wide", "heroo", "hero"]
    rules = [{"kind": [kind], "provider": "comfyui", "workflow": "hero_v1"} for kind in kinds]
    write_config(tmp_path, media_routing={"image": rules})
    found = {key: one for key, one in doctor.findings().items() if key.startswith("media_routing")}
    assert list(found) == ["media_routing.image[2]"], "any other word may be somebody's own"
    assert found["media_routing.image[2]"]["state"] == "warning"
    assert "did you mean 'hero'?" in found["media_routing.image[2]"]["remedy"]


def test_credentials_are_shown_nowhere(
    doctor: Doctor, closed: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, url in zip(("OLLAMA_BASE_URL", "COMFYUI_BASE_URL"), closed, strict=True):
        monkeypatch.setenv(name, url.replace("//", "//me:hidden-word@"))
    for words in (("--mode", "live"), ("--mode", "live", "--json"), ()):
        done = doctor(*words)
        assert closed[0] in done.stdout
        assert "hidden-word" not in done.stdout + done.stderr


async def test_a_key_that_the_server_repeats_is_masked(closed: tuple[str, str]) -> None:
    key = "key-that-nobody-may-see"
    settings = load_settings(
        environ={
            "GENERATOR_MODE": "live",
            "OLLAMA_BASE_URL": "http://guarded:1",
            "OLLAMA_API_KEY": key,
            "COMFYUI_BASE_URL": closed[1],
        }
    )
    with respx.mock(assert_all_called=False) as router:
        router.route(host="127.0.0.1").mock(side_effect=httpx.ConnectError)
        router.route(host="guarded").respond(401, json={"error": f"no access with {key}"})
        report = await examine(settings)
    assert "no access with ***" in json.dumps(report.to_dict())
    assert key not in json.dumps(report.to_dict()) + repr(report)


@pytest.mark.usefixtures("live")
def test_rules_of_idle_providers_are_told_and_no_failure(doctor: Doctor, tmp_path: Path) -> None:
    config = yaml.safe_load(DEFAULT_CONFIG.read_text(encoding="utf-8"))
    rule = {"role": ["copywriter"], "provider": "anthropic", "model": "muse", "priority": 0}
    config["llm_routing"]["rules"] += [rule, {**rule, "stage": "final"}]
    write_config(tmp_path, **config)
    found = doctor.json()["findings"][-1]
    assert (found["subject"], found["state"], found["remedy"]) == ("anthropic", "ok", "")
    assert "(2)" in found["message"]


@pytest.mark.parametrize("mode", ["mock", "live"])
@pytest.mark.usefixtures("live")
def test_a_key_that_is_missing_stops_every_live_run(doctor: Doctor, tmp_path: Path, mode: str) -> None:
    rules = [{"provider": "ollama", "model": SMALL_MODEL, "priority": 1}, {"provider": "openai", "model": "muse"}]
    providers = {"llm": {"active": ["ollama", "openai"]}, "media": {"active": ["comfyui"]}}
    write_config(tmp_path, providers=providers, llm_routing={"rules": rules})
    found = doctor.findings("--mode", mode)["openai"]
    assert found["state"] == {"mock": "warning", "live": "failed"}[mode]
    assert "OPENAI_API_KEY" in found["remedy"]


@pytest.mark.usefixtures("live")
def test_a_package_and_a_key_that_lack_are_told_together(
    doctor: Doctor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_config(tmp_path, providers={"llm": {"active": ["openai"]}, "media": {"active": ["comfyui"]}})
    monkeypatch.setenv("OPENAI_DEFAULT_MODEL", "muse")
    for name in ("langchain_openai", "providers.llm.openai.chat"):
        monkeypatch.setitem(sys.modules, name, None)
    found = doctor.findings("--mode", "live")["openai"]
    assert found["state"] == "failed"
    assert "needs the package" in found["message"]
    assert "OPENAI_API_KEY is not set either" in found["message"]
    monkeypatch.setenv("OPENAI_API_KEY", "key-that-nobody-may-see")
    assert "OPENAI_API_KEY" not in doctor.findings("--mode", "live")["openai"]["message"]


@pytest.mark.parametrize("mode", ["mock", "live"])
def test_the_variable_of_a_missing_default_model_is_the_provider_s_own(
    doctor: Doctor, closed: tuple[str, str], tmp_path: Path, mode: str
) -> None:
    write_config(
        tmp_path,
        providers={"llm": {"active": ["gemini"]}, "media": {"active": ["comfyui"]}},
        llm_routing={},
        models={},
        prices={},
        settings={},
    )
    found = doctor.findings("--mode", mode)["routing"]
    assert "set GOOGLE_DEFAULT_MODEL, or" in found["remedy"]


@pytest.mark.parametrize("mode", ["mock", "live"])
@pytest.mark.usefixtures("live")
def test_a_model_option_that_is_wrong_is_what_live_would_refuse(doctor: Doctor, tmp_path: Path, mode: str) -> None:
    write_config(tmp_path, models={"ollama": {SMALL_MODEL: {"num_ctx": "many"}}})
    body = doctor.findings("--mode", mode)
    assert body["ollama"]["state"] == {"mock": "warning", "live": "failed"}[mode]
    assert f"models.ollama.{SMALL_MODEL}.num_ctx" in body["ollama"]["message"]


@pytest.mark.parametrize("mode", ["mock", "live"])
@pytest.mark.usefixtures("live")
def test_requests_that_no_route_serves_fail_in_both_modes(doctor: Doctor, tmp_path: Path, mode: str) -> None:
    write_config(tmp_path, providers={"llm": {"active": []}, "media": {"active": ["comfyui"]}}, settings={})
    found = doctor.findings("--mode", mode)["routing"]
    assert found["state"] == "failed"
    assert "providers.llm.active" in found["remedy"]


@pytest.mark.parametrize("mode", ["mock", "live"])
def test_a_budget_wants_the_price_of_every_route(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ollama: OllamaLibraryStandIn, mode: str
) -> None:
    monkeypatch.setenv("OLLAMA_BASE_URL", ollama.url)
    write_config(tmp_path, prices={"comfyui": "free", "ollama": {SMALL_MODEL: {"input": 0.1}}})
    subject = f"price of ollama {COPY_MODEL}"
    assert subject not in doctor.findings("--mode", mode)
    monkeypatch.setenv("RUN_BUDGET_USD", "1")
    found = doctor.findings("--mode", mode)
    assert found[subject]["state"] == {"mock": "warning", "live": "failed"}[mode]
    assert "prices.ollama" in found[subject]["remedy"]
    assert f"price of ollama {SMALL_MODEL}" not in found


def test_a_folder_name_that_no_disk_takes(doctor: Doctor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SPARKLIO_HOME", str(tmp_path / ("x" * 300)))
    found = doctor.findings()["data folder"]
    assert found["state"] == "failed"
    assert "SPARKLIO_HOME" in found["remedy"]


@pytest.mark.usefixtures("live")
def test_an_active_provider_without_a_rule_is_asked_whether_it_answers(
    doctor: Doctor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_config(tmp_path, providers={"llm": {"active": ["ollama", "openai"]}, "media": {"active": ["comfyui"]}})
    monkeypatch.setenv("OPENAI_API_KEY", "key-that-nobody-may-see")
    monkeypatch.setenv("OPENAI_BASE_URL", f"http://127.0.0.1:{free_port()}/v1")
    assert doctor.findings()["openai"]["state"] == "warning", "a run does without it"


def test_wrong_settings_are_exit_2(doctor: Doctor, tmp_path: Path) -> None:
    (tmp_path / "provider_config.yaml").write_text("providers: {llm: {active: [olama]}}")
    assert doctor().returncode == 2


@pytest.mark.parametrize(
    ("states", "verdict"),
    [
        (("ok",), "live can run"),
        (("ok", "warning"), "live can run; 1 warning"),
        (("warning", "warning"), "live can run; 2 warnings"),
        (("failed", "warning"), "live cannot run: 1 thing to mend"),
        (("failed", "failed"), "live cannot run: 2 things to mend"),
    ],
)
def test_the_verdict(states: tuple[Any, ...], verdict: str) -> None:
    report = Report("live", tuple(Finding("x", state, "") for state in states))
    assert report.verdict == verdict
    assert report.can_run == ("failed" not in states)


# -- what servers and workers share ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("closed")
def test_a_database_and_a_broker_that_are_away(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the database nothing runs; without the broker it waits."""
    nowhere = free_port()
    monkeypatch.setenv("SPARKLIO_DATABASE_URL", f"postgresql://me:hunter2secret@127.0.0.1:{nowhere}/x")
    monkeypatch.setenv("SPARKLIO_BROKER_URL", f"redis://:hunter3secret@127.0.0.1:{nowhere}/0")
    monkeypatch.setenv("SPARKLIO_ARTIFACTS_URL", Path.cwd().as_uri())
    done = doctor()
    assert done.returncode == 1
    assert "secret" not in done.stdout + done.stderr
    findings = doctor.findings()
    assert {name: findings[name]["state"] for name in ("database", "broker")} == {
        "database": "failed",
        "broker": "warning",
    }
    assert "SPARKLIO_DATABASE_URL" in findings["database"]["remedy"]
    assert "redis-server" in findings["broker"]["remedy"]
    assert "workers" not in findings


@pytest.mark.usefixtures("closed")
def test_workers_that_lack_are_told_with_the_command(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch, database_url: str, redis: RedisServer
) -> None:
    monkeypatch.setenv("SPARKLIO_DATABASE_URL", database_url)
    monkeypatch.setenv("SPARKLIO_BROKER_URL", redis.url)
    monkeypatch.setenv("SPARKLIO_ARTIFACTS_URL", Path.cwd().as_uri())
    findings = doctor.findings()
    assert {findings[name]["state"] for name in ("database", "broker")} == {"ok"}
    assert (findings["workers"]["state"], findings["workers"]["remedy"]) == (
        "warning",
        "sparklio worker --queues text,image",
    )
    with connect(redis.url) as client:
        worker = Worker(host="h", pid=1, queues=["text", "image"], concurrency=1, mode="live", version="0")
        announce(client, worker)
        assert "GENERATOR_MODE=mock" in doctor.findings()["workers"]["remedy"]
        announce(client, worker.model_copy(update={"mode": "mock"}))
        assert doctor.findings()["workers"]["message"] == "alive: text 1 at a time, image 1 at a time"
