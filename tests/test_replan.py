"""A rerun without a wish runs what has changed, and exactly that; what would run can be seen before."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from graph.planning import Preview
from routing import prompt_builder
from routing.packaged_files import DEFAULT_CONFIG
from sparklio import Sparklio
from sparklio.cli import main
from tests.conftest import BRAND, PRODUCT
from tests.faults import NODES, routed
from tests.standins.ollama import OllamaStandIn

ALL = ("brand", "brief", "strategist", "copywriter", "reviewer", "vision")
ROOT = Path(__file__).parents[1]


async def made(folder: Path, **sparklio: Any) -> None:
    async with Sparklio(home=folder / "home", **sparklio) as studio:
        await studio.run(brand=BRAND, product=PRODUCT, run_id="page")


async def preview(folder: Path, *, run_id: str = "page", **sparklio: Any) -> Preview:
    async with Sparklio(home=folder / "home", **sparklio) as studio:
        return await studio.preview_rerun(run_id)


def names(preview: Preview) -> tuple[str, ...]:
    return tuple(node.node for node in preview.nodes)


def reasons(preview: Preview) -> dict[str, str]:
    return {node.node: node.why for node in preview.nodes}


@pytest.mark.each_place
async def test_nothing_has_changed(tmp_path: Path) -> None:
    await made(tmp_path)
    assert (await preview(tmp_path)).nodes == ()
    async with Sparklio(home=tmp_path / "home") as studio:
        again = await studio.rerun("page")
        assert again.id == "page"
        assert len(studio.runs.store.all()) == 1


def with_option(model: str, **options: Any) -> Callable[[Path], Path]:
    def changed(models: dict[str, Any]) -> dict[str, Any]:
        return {**models, "ollama": {**models["ollama"], model: {**models["ollama"].get(model, {}), **options}}}

    return lambda folder: routed(folder, models=changed)


def other_model(task: str) -> Callable[[Path], Path]:
    rule = {"task": [task], "provider": "ollama", "model": "somebody-else", "priority": 0}
    return lambda folder: routed(
        folder, llm_routing=lambda routing: {**routing, "rules": [rule, *routing.get("rules", [])]}
    )


@pytest.mark.parametrize(
    ("change", "runs"),
    [
        (other_model("style_check"), ("reviewer",)),
        (other_model("image_prompt"), ("vision",)),
        (other_model("product_detail"), ("copywriter", "reviewer")),
        (other_model("marketing_brief"), ALL[1:]),
        (other_model("sns"), ()),
        (with_option("qwen2.5:14b", num_ctx=20000), ("strategist", "copywriter", "reviewer", "vision")),
        (with_option("unheard-of", num_ctx=20000), ()),
    ],
    ids=["reviewer's", "vision's", "copywriter's", "brief's", "another task's", "option", "unused option"],
)  # fmt: skip
async def test_a_changed_model_or_option(tmp_path: Path, change: Callable[[Path], Path], runs: tuple[str, ...]) -> None:
    await made(tmp_path)
    assert names(await preview(tmp_path, config=change(tmp_path))) == runs


async def test_a_changed_rule_of_images(tmp_path: Path) -> None:
    await made(tmp_path)
    config = routed(
        tmp_path,
        media_routing=lambda routing: {
            "image": [{**rule, "options": {**rule.get("options", {}), "steps": 11}} for rule in routing["image"]]
        },
    )
    found = await preview(tmp_path, config=config)
    assert reasons(found) == {"vision": "its routing changed: the models, or their options"}


async def test_a_changed_prompt_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await made(tmp_path)
    prompts = tmp_path / "prompts"
    shutil.copytree(prompt_builder._FOLDER, prompts)
    path = prompts / "ko" / "content_plan.md"
    path.write_text(path.read_text(encoding="utf-8") + "\n짧게 쓰세요.\n", encoding="utf-8")
    monkeypatch.setattr(prompt_builder, "_FOLDER", prompts)
    found = reasons(await preview(tmp_path))
    assert found == {
        "strategist": "its prompt changed",
        "copywriter": "it reads what strategist writes",
        "reviewer": "it reads what copywriter writes",
        "vision": "it reads what strategist writes",
    }


async def test_a_changed_workflow(tmp_path: Path) -> None:
    workflows = tmp_path / "workflows"
    shutil.copytree(ROOT / "workflows", workflows)
    await made(tmp_path)
    assert (await preview(tmp_path)).nodes == (), "the same workflow from another folder"
    for path in workflows.glob("product_shot_v1.json"):
        path.write_text(path.read_text(encoding="utf-8").replace('"steps": ', '"steps": 1'), encoding="utf-8")
    assert reasons(await preview(tmp_path)) == {"vision": "its workflow changed"}


async def test_another_mode_changes_everything(tmp_path: Path, live: None) -> None:
    await made(tmp_path, mode="mock")
    found = await preview(tmp_path, mode="live")
    assert set(names(found)) == NODES
    assert found.nodes[0].why == "the mode changed"


@pytest.mark.each_place
async def test_a_rerun_of_a_rerun_is_judged_by_itself(tmp_path: Path) -> None:
    await made(tmp_path)
    config = other_model("style_check")(tmp_path)
    async with Sparklio(home=tmp_path / "home", config=config) as studio:
        again = await studio.rerun("page")
        assert again.id == "page.2"
        assert [name for name, node in again.result["meta"]["nodes"].items() if not node["cached"]] == ["reviewer"]
        assert (await studio.preview_rerun("page.2")).nodes == ()
        shutil.rmtree(studio.runs.store.folder("page"))
        await studio.runs.database.forget("page")
        assert (await studio.preview_rerun("page.2")).nodes == (), "it has its parent's calls for its own"
    assert names(await preview(tmp_path, run_id="page.2", config=DEFAULT_CONFIG)) == ("reviewer",)


@pytest.mark.each_place
async def test_what_it_costs(tmp_path: Path, live: None, ollama: OllamaStandIn) -> None:
    prices = {"comfyui": "free", "ollama": {model: {"input": 1.0} for model in ("qwen2.5:7b", "qwen2.5:14b")}}
    config = routed(tmp_path, prices=lambda _: prices)
    async with Sparklio(home=tmp_path / "home", config=config) as studio:
        run = await studio.run(brand=BRAND, product=PRODUCT, run_id="page")
        told = (await studio.preview_rerun("page", start_at="strategist")).to_dict()
    meta = run.result["meta"]["nodes"]
    chosen = ("strategist", "copywriter", "reviewer", "vision")
    assert (told["calls"], told["images"]) == (4, 1)
    assert told["seconds"] == pytest.approx(sum(meta[name]["ms"] for name in chosen) / 1000)
    assert told["cost_usd"] == pytest.approx(sum(meta[name]["cost_usd"] for name in chosen))


@pytest.mark.each_place
async def test_a_run_without_a_ledger_runs_whole(tmp_path: Path) -> None:
    await made(tmp_path)
    async with Sparklio(home=tmp_path / "home") as studio:
        await studio.runs.database.write(("DELETE FROM effects", ()))
        found = await studio.preview_rerun("page")
    assert set(names(found)) == NODES
    assert found.nodes[0].why == "nothing is recorded of its calls"


# the command line, which knows the input file


@pytest.fixture
def sparklio(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    def run(*words: str) -> Any:
        capsys.readouterr()
        with monkeypatch.context() as patched, pytest.raises(SystemExit) as ended:
            patched.setattr("sys.argv", ["sparklio", *words])
            main()
        out = capsys.readouterr()
        assert ended.value.code == 0, out.err
        return json.loads(out.out) if "--json" in words else out.out

    return run


def write_input(folder: Path, **product: Any) -> Path:
    path = folder / "input.yaml"
    path.write_text(yaml.safe_dump({"brand": BRAND, "product": {**PRODUCT, **product}}), encoding="utf-8")
    return path


@pytest.mark.each_place
def test_a_changed_input_file(sparklio: Callable[..., Any], tmp_path: Path) -> None:
    path = write_input(tmp_path)
    sparklio("run", str(path), "--run-id", "page", "--json")
    assert sparklio("rerun", "page", "--dry-run", "--json")["nodes"] == []
    assert "nothing has changed since page" in sparklio("rerun", "page")
    assert sparklio("rerun", "page", "--json")["meta"]["run_id"] == "page"

    write_input(tmp_path, target="캠핑족")
    planned = sparklio("rerun", "page", "--dry-run", "--json")
    assert [node["node"] for node in planned["nodes"]] == list(ALL[1:])
    assert planned["nodes"][0]["why"] == "it reads product_input, which the input file changed"
    assert "brief" in sparklio("rerun", "page", "--dry-run")
    again = sparklio("rerun", "page", "--json")
    assert again["meta"]["run_id"] == "page.2"
    assert not again["meta"]["nodes"]["brief"]["cached"]
    assert again["meta"]["nodes"]["brand"]["cached"]
    assert sparklio("rerun", "page.2", "--dry-run", "--json")["nodes"] == []

    path.unlink()
    assert sparklio("rerun", "page", "--dry-run", "--json")["nodes"] == [], "a file that is gone has changed nothing"


def test_a_dry_run_of_a_wish_runs_nothing(sparklio: Callable[..., Any], tmp_path: Path) -> None:
    sparklio("run", str(write_input(tmp_path)), "--run-id", "page", "--json")
    planned = sparklio("rerun", "page", "--from", "copywriter", "--dry-run", "--json")
    assert [(node["node"], node["why"]) for node in planned["nodes"]] == [
        ("copywriter", "it was asked for"),
        ("reviewer", "it reads what copywriter writes"),
    ]
    planned = sparklio("rerun", "page", "--set", "copy.headline=새 제목", "--dry-run", "--json")
    assert [(node["node"], node["why"]) for node in planned["nodes"]] == [("reviewer", "it reads copy, which is set")]
    assert len(sparklio("runs", "--json")["runs"]) == 1
