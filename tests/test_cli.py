"""The command line: what a person types, sees and gets as an exit code."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import httpx
import pytest
import respx
import yaml

from sparklio import terminal
from sparklio.cli import main
from tests.conftest import BRAND, PRODUCT
from tests.standins.comfyui import ComfyUIStandIn
from tests.standins.ollama import OllamaStandIn
from tests.standins.server import free_port
from tests.waiting import NEVER_S

ROOT = Path(__file__).resolve().parent.parent
NODES = ("brand", "brief", "strategist", "copywriter", "vision", "reviewer")


Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts ``sparklio`` as a process of its own; what is left at the end is killed."""
    with ExitStack() as stack:

        def start(*words: str, **environ: str) -> subprocess.Popen[str]:
            process = subprocess.Popen(
                [sys.executable, "-m", "sparklio", *words],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env={**os.environ, "PYTHONUTF8": "1", "PYTHONPATH": str(ROOT), **environ},
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            return process

        yield start


class Shell:
    """Runs commands inside the test's own process, where the imports are made already."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def __call__(self, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
        self._capsys.readouterr()
        with self._monkeypatch.context() as patched, pytest.raises(SystemExit) as ended:
            patched.setattr(sys, "argv", ["sparklio", *words])
            for name, value in environ.items():
                patched.setenv(name, value)
            main()
        code = ended.value.code
        assert isinstance(code, int)
        return subprocess.CompletedProcess(words, code, *self._capsys.readouterr())

    def ok(self, *words: str, **environ: str) -> str:
        done = self(*words, **environ)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def json(self, *words: str, **environ: str) -> dict[str, Any]:
        body: dict[str, Any] = json.loads(self.ok(*words, "--json", **environ))
        return body

    def refused(self, code: int, *words: str, **environ: str) -> str:
        done = self(*words, **environ)
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        assert "hint: " in done.stderr
        return done.stderr


@pytest.fixture
def sparklio(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(monkeypatch, capsys)


@pytest.fixture
def earbuds(tmp_path: Path) -> Path:
    path = tmp_path / "earbuds.yaml"
    path.write_text(yaml.safe_dump({"brand": BRAND, "product": PRODUCT}, allow_unicode=True), encoding="utf-8")
    return path


def test_run_without_anything_makes_a_page(sparklio: Shell, tmp_path: Path) -> None:
    out = sparklio.ok("run")
    (folder,) = (tmp_path / ".sparklio" / "runs").iterdir()
    assert str(folder / "page.html") in out
    assert {"result.json", "page.html", "images", "run.log", "run.json"} <= {path.name for path in folder.iterdir()}
    assert [line.split()[-2:] for line in out.splitlines() if " finished" in line]


def test_run_with_out_and_json(sparklio: Shell, earbuds: Path, tmp_path: Path) -> None:
    result = sparklio.json("run", str(earbuds), "--out", "page", "--run-id", "ears")
    assert set(result) == {"brand_summary", "brief", "sections", "copy", "image", "review", "meta"}
    assert result == json.loads((tmp_path / "page" / "result.json").read_text(encoding="utf-8"))
    assert "소리결" in (tmp_path / "page" / "result.json").read_text(encoding="utf-8"), "Korean unescaped"
    picture = Path(unquote(urlparse(result["image"]["url"]).path))
    assert picture.parent == tmp_path / "page" / "images"
    assert picture.read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "page" / "page.html").read_text(encoding="utf-8")
    assert "소리결 에어 2" in page
    assert "프로틴" not in page


def test_rerun_history_runs_and_show(sparklio: Shell, earbuds: Path) -> None:
    sparklio.ok("run", str(earbuds), "--run-id", "ears")
    again = sparklio.json("rerun", "ears", "--from", "copywriter", "--set", "brief.target=캠핑족")
    assert again["meta"]["run_id"] == "ears.2"
    assert again["brief"]["target"] == "캠핑족"
    assert {name for name, node in again["meta"]["nodes"].items() if not node["cached"]} == {"copywriter", "reviewer"}
    for member in ("ears", "ears.2"):
        told = sparklio.ok("history", member)
        assert "ears.2" in told
        assert "copywriter" in told
    points = sparklio.json("history", "ears")["points"]
    assert {point["run_id"] for point in points} == {"ears", "ears.2"}
    assert [record["run_id"] for record in sparklio.json("runs")["runs"]] == ["ears.2", "ears"]
    assert "ears.2" in sparklio.ok("runs")
    assert sparklio.json("show", "ears.2")["result"]["copy"] == again["copy"]
    headline = "".join(again["copy"]["headline"].split())
    assert headline in "".join(sparklio.ok("show", "ears.2").split()), "whatever the lines are broken at"


def test_resume_of_a_finished_run_prints_its_result(sparklio: Shell, earbuds: Path) -> None:
    first = sparklio.json("run", str(earbuds), "--run-id", "ears")
    assert sparklio.json("resume", "ears") == first


@pytest.mark.parametrize("drawing", ["mermaid", "ascii", "svg"])
def test_graph(sparklio: Shell, drawing: str, tmp_path: Path) -> None:
    text = sparklio.ok("graph", "--format", drawing)
    assert all(name in text for name in NODES)
    sparklio.ok("graph", "--format", drawing, "--out", "flow.txt")
    assert (tmp_path / "flow.txt").read_text(encoding="utf-8").strip() == text.strip()


def test_init_then_run(sparklio: Shell, tmp_path: Path) -> None:
    sparklio.ok("init", "here")
    names = {str(path.relative_to(tmp_path / "here")) for path in (tmp_path / "here").rglob("*") if path.is_file()}
    assert names == {".env", "provider_config.yaml", "examples/protein_plus.yaml"}
    (tmp_path / "here" / ".env").write_text("MINE=1\n")
    assert "kept" in sparklio.ok("init", "here")
    assert (tmp_path / "here" / ".env").read_text() == "MINE=1\n"


def test_config_tells_value_source_and_what_it_hides(sparklio: Shell, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("OLLAMA_BASE_URL=http://desktop:11434\n")
    body = sparklio.json("config", OLLAMA_BASE_URL="http://old:11434")
    shown = body["settings"]["OLLAMA_BASE_URL"]
    assert (shown["value"], shown["source"]) == ("http://old:11434", "environment")
    assert shown["hides"][0] == {"source": ".env", "value": "http://desktop:11434"}
    done = sparklio("config", OLLAMA_BASE_URL="http://old:11434")
    assert "http://old:11434" in done.stdout
    assert "unset OLLAMA_BASE_URL" in done.stderr


def test_the_shadow_is_said_at_the_start_of_a_run(sparklio: Shell, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("OLLAMA_BASE_URL=http://desktop:11434\n")
    assert "unset OLLAMA_BASE_URL" in sparklio("run", OLLAMA_BASE_URL="http://old:11434").stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("run", "nowhere.yaml"), "nowhere.yaml"),
        (("run", "--run-id", "../../x"), "run id"),
        (("show", "../../x"), "not a run id"),
        (("show", "nobody"), "unknown run 'nobody'"),
        (("history", "nobody"), "unknown run"),
        (("resume", "nobody"), "unknown run"),
        (("rerun", "nobody", "--from", "brand"), "unknown run"),
        (("rerun", "there", "--from", "copywritter"), "known: brand, brief, copywriter, reviewer, strategist, vision"),
        (("rerun", "there", "--set", "brief"), "path=value"),
        (("rerun", "there", "--set", "brief.targett=x"), "no such value"),
        (("run", "--run-id", "there"), "exists already"),
    ],
)
def test_wrong_usage_is_exit_2_with_a_hint(sparklio: Shell, words: tuple[str, ...], says: str) -> None:
    if "there" in words:
        sparklio.ok("run", "--run-id", "there")
    assert says in sparklio.refused(2, *words)


def test_wrong_choice_lists_the_choices(sparklio: Shell) -> None:
    done = sparklio("run", "--mode", "real")
    assert done.returncode == 2
    assert "mock" in done.stderr
    assert "live" in done.stderr


def test_wrong_words_are_the_error_object_too(sparklio: Shell) -> None:
    for words in (("run", "--mode", "real"), ("run", "--nope"), ("resume",), ("graph", "--format", "png")):
        done = sparklio(*words, "--json")
        assert (done.returncode, done.stdout) == (2, "")
        assert json.loads(done.stderr)["error"]["code"] == "usage"


def test_a_workflow_that_does_not_exist_is_refused_before_anything_is_done(sparklio: Shell, tmp_path: Path) -> None:
    wish = {"brand": BRAND, "product": PRODUCT, "image": {"workflow": "my_stile"}}
    (tmp_path / "input.yaml").write_text(yaml.safe_dump(wish, allow_unicode=True), encoding="utf-8")
    told = sparklio.refused(2, "run", "input.yaml", "--run-id", "page")
    assert "my_stile" in told
    assert "hero_v1" in told
    assert sparklio.json("runs")["runs"] == []


def test_another_run_in_the_same_out_folder_takes_nothing_from_the_first(sparklio: Shell, earbuds: Path) -> None:
    first = sparklio.json("run", str(earbuds), "--run-id", "one", "--out", "page")
    Path("page", "result.json").unlink()
    second = sparklio.json("run", "--run-id", "two", "--out", "page")
    assert first["brand_summary"]["name"] != second["brand_summary"]["name"]
    assert sparklio.json("resume", "one") == first
    assert sparklio.json("show", "one")["result"] == first


def test_an_id_whose_folder_was_removed_starts_afresh(sparklio: Shell, earbuds: Path, tmp_path: Path) -> None:
    sparklio.ok("run", "--run-id", "page")
    shutil.rmtree(tmp_path / ".sparklio" / "runs" / "page")
    assert sparklio.json("run", str(earbuds), "--run-id", "page")["brand_summary"]["name"] == BRAND["name"]
    (tmp_path / ".sparklio" / "runs" / "empty").mkdir()
    sparklio.ok("run", "--run-id", "empty")


def test_damaged_files_take_nothing_else_down(sparklio: Shell, tmp_path: Path) -> None:
    sparklio.ok("run", "--run-id", "good")
    sparklio.ok("run", "--run-id", "bad")
    (tmp_path / ".sparklio" / "runs" / "bad" / "run.json").write_text("{")
    assert [record["run_id"] for record in sparklio.json("runs")["runs"]] == ["good"]
    assert "damaged" in sparklio.refused(1, "show", "bad")
    (tmp_path / ".sparklio" / "runs" / "good" / "result.json").write_text("{")
    assert "damaged" in sparklio.refused(1, "show", "good")


def test_an_emptied_image_folder_loses_no_rerun(sparklio: Shell, tmp_path: Path) -> None:
    first = sparklio.json("run", "--run-id", "page")
    shutil.rmtree(tmp_path / ".sparklio" / "images")
    again = sparklio.json("rerun", "page", "--from", "copywriter")
    assert again["image"]["image_id"] == first["image"]["image_id"]
    assert Path(unquote(urlparse(again["image"]["url"]).path)).is_file()


def test_out_that_cannot_be_written_is_noticed_before_anything_is_done(sparklio: Shell, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    sparklio.refused(1, "run", "--out", "file/out")
    assert sparklio.json("runs")["runs"] == []


def test_keys_are_for_their_owner_alone(sparklio: Shell, tmp_path: Path) -> None:
    sparklio.ok("init")
    assert (tmp_path / ".env").stat().st_mode & 0o077 == 0


def test_what_a_model_writes_does_not_steer_the_terminal(
    sparklio: Shell, ollama: OllamaStandIn, comfyui: ComfyUIStandIn
) -> None:
    review = {"approved": True, "score": 90, "issues": [], "summary": "fine\x1b]0;owned\x07 \x1b[31mred"}
    ollama.answers_for["StyleReview"].append(review)
    urls = {"GENERATOR_MODE": "live", "OLLAMA_BASE_URL": ollama.url, "COMFYUI_BASE_URL": comfyui.url}
    assert "\x1b" not in sparklio.ok("run", **urls)


def test_a_key_that_the_server_repeats_is_shown_nowhere(sparklio: Shell, tmp_path: Path) -> None:
    key = "key-that-nobody-may-see"
    with respx.mock(assert_all_called=False) as router:
        router.route(host="localhost").mock(side_effect=httpx.ConnectError)
        router.route(host="guarded").respond(401, json={"error": f"no access with {key}"})
        urls = {"GENERATOR_MODE": "live", "OLLAMA_BASE_URL": "http://guarded:1", "OLLAMA_API_KEY": key}
        done = sparklio("run", "--run-id", "page", "-v", **urls)
    assert done.returncode == 1
    assert "no access with ***" in done.stderr
    written = [path.read_text(encoding="utf-8") for path in (tmp_path / ".sparklio" / "runs" / "page").glob("run.*")]
    assert len(written) == 2
    assert not [text for text in (done.stdout, done.stderr, *written) if key in text]


def test_the_trace_of_debug_masks_keys(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.configure(debug=True, verbose=False)
    terminal.keep_secret(("key-that-nobody-may-see",))
    try:
        raise RuntimeError("no access with key-that-nobody-may-see")
    except RuntimeError as error:
        terminal.print_error(error, as_json=False)
    finally:
        terminal.configure(debug=False, verbose=False)
    shown = capsys.readouterr().err
    assert "Traceback" in shown
    assert "RuntimeError: no access with ***" in shown


def test_wrong_config_is_exit_2(sparklio: Shell, tmp_path: Path) -> None:
    (tmp_path / "provider_config.yaml").write_text("providers: {llm: {active: [olama]}}")
    assert "providers.llm.active[0]" in sparklio.refused(2, "run")


def test_errors_as_json_go_to_stderr(sparklio: Shell) -> None:
    done = sparklio("run", "nowhere.yaml", "--json")
    assert (done.returncode, done.stdout) == (2, "")
    error = json.loads(done.stderr)["error"]
    assert set(error) >= {"code", "message", "hint", "request_id"}


def test_with_json_nothing_but_the_error_object_is_on_stderr(sparklio: Shell, tmp_path: Path) -> None:
    """What people are told beside goes into the run's log."""
    (tmp_path / ".env").write_text("OLLAMA_BASE_URL=http://desktop:11434\n")
    wish = {"brand": BRAND, "product": PRODUCT, "image": {"kind": "hreo"}}
    (tmp_path / "input.yaml").write_text(yaml.safe_dump(wish, allow_unicode=True), encoding="utf-8")
    shadow = {"OLLAMA_BASE_URL": "http://old:11434"}
    shown = sparklio("run", "input.yaml", **shadow).stderr
    assert "did you mean" in shown
    assert "unset OLLAMA_BASE_URL" in shown
    for words, told in ((("run", "input.yaml"), ("did you mean", "unset OLLAMA")), (("run",), ("input:", "unset"))):
        done = sparklio(*words, "--run-id", f"page{len(words)}", "--json", **shadow)
        assert (done.returncode, done.stderr) == (0, "")
        log = (tmp_path / ".sparklio" / "runs" / f"page{len(words)}" / "run.log").read_text(encoding="utf-8")
        assert all(log.count(words) == 1 for words in told)
    assert sparklio("resume", "page1", "--json", **shadow).stderr == ""
    refused = sparklio("run", "--run-id", "page1", "--json", **shadow)
    assert json.loads(refused.stderr)["error"]["code"] == "run_exists"


def test_debug_shows_the_trace(sparklio: Shell) -> None:
    done = sparklio("run", "nowhere.yaml", "--debug")
    assert done.returncode == 2
    assert "Traceback" in done.stderr


def test_verbose_shows_the_log(sparklio: Shell) -> None:
    assert "node_finished" in sparklio("run", "-v").stderr


def test_live_on_a_closed_port_is_exit_1_and_says_what_to_do(sparklio: Shell) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    told = sparklio.refused(1, "run", GENERATOR_MODE="live", OLLAMA_BASE_URL=url)
    assert url in told
    assert "ollama serve" in told
    assert "sparklio resume" in told


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere; see the next test")
def test_folder_that_cannot_be_written(sparklio: Shell, tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    assert "locked" in sparklio.refused(1, "run", SPARKLIO_HOME="locked/home")


def test_home_below_a_file_cannot_be_written(sparklio: Shell, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "file" in sparklio.refused(1, "run", SPARKLIO_HOME="file/home")
    assert "file" in sparklio.refused(1, "run", "--out", "file/out")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_run_says_how_to_resume(
    start: Start, sparklio: Shell, number: signal.Signals, ollama: OllamaStandIn, comfyui: ComfyUIStandIn
) -> None:
    urls = {"GENERATOR_MODE": "live", "OLLAMA_BASE_URL": ollama.url, "COMFYUI_BASE_URL": comfyui.url}
    comfyui.seconds_per_image = 30.0
    process = start("run", "--run-id", "page", "--plain", **urls)
    assert process.stdout is not None
    for line in process.stdout:
        if "reviewer" in line and "finished" in line:
            break
    process.send_signal(number)
    _, err = process.communicate(timeout=NEVER_S)
    assert process.returncode == 130
    assert "sparklio resume page" in err
    assert sparklio.json("runs", **urls)["runs"][0]["status"] == "interrupted"


@pytest.mark.usefixtures("unmeasured")
def test_run_killed_outright_is_told_as_interrupted_and_its_lock_is_free(
    start: Start, sparklio: Shell, ollama: OllamaStandIn, comfyui: ComfyUIStandIn
) -> None:
    urls = {"GENERATOR_MODE": "live", "OLLAMA_BASE_URL": ollama.url, "COMFYUI_BASE_URL": comfyui.url}
    ollama.fail_always("hang", task="ContentPlan")
    process = start("run", "--run-id", "page", "--plain", **urls)
    assert process.stdout is not None
    for line in process.stdout:
        if "strategist" in line and "started" in line:
            break
    assert sparklio.json("runs", **urls)["runs"][0]["status"] == "running"
    busy = sparklio("resume", "page", **urls)
    assert busy.returncode == 1
    assert "being run already" in busy.stderr
    process.kill()
    process.communicate()
    assert sparklio.json("runs", **urls)["runs"][0]["status"] == "interrupted"
    ollama.fail_always(None)
    before = ollama.by_task.copy()
    result = sparklio.json("resume", "page", **urls)
    assert set(result["meta"]["nodes"]) == set(NODES)
    assert ollama.by_task["BrandSummary"] == before["BrandSummary"]
