"""Workflows: the packaged ones, what a user may drop into the folder, and what is said of a malformed one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from providers.errors import UnknownNameError, WorkflowError
from providers.media.comfyui.workflow import WorkflowFolder, packaged_workflows, parse_workflow
from providers.media.sizes import SDXL_BUCKETS, choose_size, closest_bucket
from tests.standins.comfyui import ComfyUIStandIn

FROM_TEXT = ["concept_v1", "hero_v1", "product_shot_v1", "thumbnail_v1"]
FROM_PHOTO = ["product_photo_v1"]
PACKAGED = sorted(FROM_TEXT + FROM_PHOTO)


def graph(**nodes: Any) -> dict[str, Any]:
    """A small graph with @prompt; ``n3=...`` puts a node beside it or in place of it."""
    base = {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "a.safetensors"}},
        "2": {"class_type": "CLIPTextEncode", "inputs": {"text": "x", "clip": ["1", 1]}, "_meta": {"title": "@prompt"}},
    }
    return base | {name.removeprefix("n"): node for name, node in nodes.items()}


def node(kind: str, title: str | None = None, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs, **({"_meta": {"title": title}} if title else {})}


def parse(content: Any) -> Any:
    return parse_workflow("mine", content if isinstance(content, str) else json.dumps(content))


def problem(content: Any) -> WorkflowError:
    with pytest.raises(WorkflowError) as caught:
        parse(content)
    assert caught.value.message.startswith("workflow 'mine' ")
    assert caught.value.hint
    return caught.value


# the packaged workflows


@pytest.mark.parametrize("name", PACKAGED)
def test_packaged_workflows_have_every_slot(name: str) -> None:
    workflow = WorkflowFolder([packaged_workflows()]).load(name)
    assert set(workflow.slots) - {"image"} == {
        "prompt", "negative", "seed", "width", "height", "steps", "checkpoint", "filename_prefix",
    }  # fmt: skip
    assert ("image" in workflow.slots) == (name in FROM_PHOTO)


@pytest.mark.parametrize("name", PACKAGED)
def test_packaged_workflows_satisfy_the_recorded_node_classes(name: str) -> None:
    stand_in = ComfyUIStandIn()
    stand_in.files["input", "", "product.png"] = b"a photo"
    error, outputs, node_errors = stand_in._validate(WorkflowFolder([packaged_workflows()]).load(name).graph)
    assert (error, outputs, node_errors) == (None, ["9"], {})
    stand_in.loop.close()


def test_packaged_workflows_differ_in_what_matters_for_their_kind() -> None:
    folder = WorkflowFolder([packaged_workflows()])
    assert folder.names() == PACKAGED
    loaded = [folder.load(name) for name in PACKAGED]
    samplers = {json.dumps({**w.graph["3"]["inputs"], "seed": 0}) for w in loaded}
    negatives = {w.read(w.graph, "negative") for w in loaded}
    assert len(samplers) == len(negatives) == len(PACKAGED)
    for workflow in loaded:
        assert (workflow.read(workflow.graph, "width"), workflow.read(workflow.graph, "height")) in SDXL_BUCKETS


def test_a_picture_from_a_photo_keeps_the_whole_photo_and_part_of_it_stays() -> None:
    workflow = WorkflowFolder([packaged_workflows()]).load(*FROM_PHOTO)
    filled = workflow.fill({"prompt": "p", "image": "sub/jar.jpg", "width": 1344, "height": 768})
    by_class = {node["class_type"]: node["inputs"] for node in filled.values()}
    assert by_class["LoadImage"]["image"] == "sub/jar.jpg"
    fitted = by_class["ResizeAndPadImage"]
    assert (fitted["target_width"], fitted["target_height"]) == (1344, 768)
    assert 0.4 < by_class["KSampler"]["denoise"] < 0.7
    encoded = filled[by_class["KSampler"]["latent_image"][0]]
    assert encoded["class_type"] == "VAEEncode"
    assert filled[encoded["inputs"]["pixels"][0]]["class_type"] == "ResizeAndPadImage"


# filling


def test_filling_leaves_the_loaded_graph_alone() -> None:
    workflow = WorkflowFolder([packaged_workflows()]).load("hero_v1")
    before = json.dumps(workflow.graph)
    filled = workflow.fill({"prompt": "프로틴 초코", "seed": 7, "width": 832, "height": 1216, "steps": 12})
    assert json.dumps(workflow.graph) == before
    assert filled["3"]["inputs"]["seed"] == 7
    assert filled["3"]["inputs"]["steps"] == 12
    assert filled["5"]["inputs"]["width"] == 832
    positive = filled["6"]["inputs"]
    assert positive["text_g"] == positive["text_l"] == "프로틴 초코"
    assert (positive["target_width"], positive["target_height"]) == (832, 1216)
    assert filled["7"]["inputs"]["text_g"] == workflow.graph["7"]["inputs"]["text_g"]


def test_only_the_prompt_is_required_and_the_rest_keeps_its_value() -> None:
    workflow = parse(graph(n3=node("EmptyLatentImage", "Empty", width=640, height=512)))
    filled = workflow.fill({"prompt": "a jar", "width": 1024, "height": 1024, "seed": 1})
    assert filled["2"]["inputs"]["text"] == "a jar"
    assert filled["3"]["inputs"] == {"width": 640, "height": 512}


def test_several_slot_words_in_one_title_and_several_nodes_for_one_word() -> None:
    workflow = parse(
        graph(
            n3=node("EmptyLatentImage", "Size (@Width,@HEIGHT) of me@home", width=1, height=2),
            n4=node("CLIPTextEncode", "second @prompt", text="", clip=["1", 1]),
            n5=node("KSamplerAdvanced", "@seed", noise_seed=0),
            n6=node("PrimitiveInt", "@steps", value=3),
            n7=node("LoadImage", "@image", image="example.png"),
        )
    )
    filled = workflow.fill({"prompt": "p", "width": 10, "height": 20, "seed": 9, "steps": 4, "image": "a/b.png"})
    assert filled["7"]["inputs"]["image"] == "a/b.png"
    assert filled["3"]["inputs"] == {"width": 10, "height": 20}
    assert filled["2"]["inputs"]["text"] == filled["4"]["inputs"]["text"] == "p"
    assert filled["5"]["inputs"]["noise_seed"] == 9
    assert filled["6"]["inputs"]["value"] == 4
    assert workflow.read(filled, "seed") == 9


def test_reading_falls_back_to_an_unmarked_input() -> None:
    workflow = parse(graph(n3=node("KSampler", seed=["2", 0]), n4=node("KSampler", seed=5)))
    assert workflow.read(workflow.graph, "seed") == 5
    assert workflow.read(workflow.graph, "checkpoint") == "a.safetensors"
    assert workflow.read({}, "seed") is None
    assert workflow.read_marked(workflow.graph, "prompt") == "x"
    assert workflow.read_marked(workflow.graph, "seed") is None


# what is malformed


@pytest.mark.parametrize("text", ["{", "", "[" * 100_000, '{"1": NaN}'])
def test_not_json(text: str) -> None:
    assert "is not JSON" in problem(text).message


def test_the_format_of_the_editor() -> None:
    error = problem({"last_node_id": 9, "nodes": [{"id": 1}], "links": []})
    assert "API format" in error.message
    assert "Save (API Format)" in error.hint


@pytest.mark.parametrize(
    "content", [{}, [], "7", {"1": {"class_type": "X"}}, {"1": {"inputs": {}}}, {"1": []}, {"prompt": graph()}]
)
def test_no_graph(content: Any) -> None:
    error = problem(content)
    assert "is not a graph" in error.message
    assert "Save (API Format)" in error.hint


def test_no_prompt_slot() -> None:
    content = graph()
    content["2"]["_meta"] = {"title": 3}
    assert "has no @prompt slot" in problem(content).message
    assert "title" in problem(content).hint


def test_a_link_to_a_missing_node() -> None:
    error = problem(graph(n3=node("VAEDecode", samples=["99", 0])))
    assert error.message.endswith("links input 'samples' of node 3 to node 99, which is not there")


def test_a_slot_on_a_node_without_such_an_input() -> None:
    error = problem(graph(n3=node("VAEDecode", "Decode @seed", samples=["2", 0])))
    assert "has @seed on node 3 (VAEDecode), which has no input for it" in error.message
    assert "seed or noise_seed" in error.hint


def test_a_slot_on_an_input_that_comes_from_elsewhere() -> None:
    error = problem(graph(n3=node("KSampler", "@seed", seed=["4", 0]), n4=node("PrimitiveInt", value=1)))
    assert "comes from node 4" in error.message
    assert "move @seed" in error.hint


def test_two_slots_for_one_input() -> None:
    error = problem(graph(n3=node("CLIPTextEncode", "@prompt @negative", text="", clip=["1", 1])))
    assert "@prompt and @negative for the same input 'text' of node 3" in error.message


def test_a_misspelt_slot_word() -> None:
    error = problem(graph(n3=node("KSampler", "@sed", seed=1)))
    assert "unknown slot word @sed" in error.message
    assert "did you mean @seed?" in error.hint


# the folders


def test_a_users_file_is_found_by_name_and_wins_over_a_packaged_one(tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text("\ufeff" + json.dumps(graph()), encoding="utf-8")
    (tmp_path / "hero_v1.json").write_text(json.dumps(graph()), encoding="utf-8")
    (tmp_path / "not a name.json").write_text("{}", encoding="utf-8")
    folder = WorkflowFolder([tmp_path, packaged_workflows()])
    assert folder.names() == sorted({*PACKAGED, "mine"})
    assert set(folder.load("mine").slots) == {"prompt"}
    assert set(folder.load("hero_v1").slots) == {"prompt"}


def test_a_file_is_read_afresh(tmp_path: Path) -> None:
    folder = WorkflowFolder([tmp_path])
    path = tmp_path / "mine.json"
    path.write_text("{", encoding="utf-8")
    with pytest.raises(WorkflowError):
        folder.load("mine")
    path.write_text(json.dumps(graph()), encoding="utf-8")
    assert folder.load("mine").name == "mine"


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(UnknownNameError) as caught:
        WorkflowFolder([Path("nowhere"), packaged_workflows()]).load("product_shot")
    assert caught.value.known == PACKAGED
    assert caught.value.hint == "did you mean 'product_shot_v1'?"
    with pytest.raises(UnknownNameError) as caught:
        WorkflowFolder([packaged_workflows()]).load("zzz")
    assert "COMFYUI_WORKFLOW_DIR" in caught.value.hint


@pytest.mark.parametrize(
    "name", ["../secret", "sub/secret", "secret.json", "", "a" * 65, "secret\n", "/etc/passwd", "-a"]
)
def test_a_name_never_leads_out_of_the_folder(tmp_path: Path, name: str) -> None:
    inner = tmp_path / "inner"
    (inner / "sub").mkdir(parents=True)
    for path in (tmp_path / "secret.json", inner / "sub" / "secret.json"):
        path.write_text(json.dumps(graph()), encoding="utf-8")
    with pytest.raises(UnknownNameError):
        WorkflowFolder([inner]).load(name)


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(WorkflowError, match="cannot be read"):
        WorkflowFolder([tmp_path]).load("mine")


# sizes


@pytest.mark.parametrize(
    ("ratio", "size"),
    [
        ("1:1", (1024, 1024)),
        ("16:9", (1344, 768)),
        ("9:16", (768, 1344)),
        ("4:3", (1152, 896)),
        ("3:4", (896, 1152)),
        ("3:2", (1216, 832)),
        ("2:3", (832, 1216)),
        ("4:5", (896, 1152)),
        ("21:9", (1536, 640)),
        ("2:1", (1408, 704)),
        ("999:1", (2048, 512)),
        ("1:999", (512, 2048)),
    ],
)
def test_the_closest_bucket(ratio: str, size: tuple[int, int]) -> None:
    assert closest_bucket(ratio) == size


def test_buckets_are_near_a_megapixel_in_multiples_of_64() -> None:
    assert len(set(SDXL_BUCKETS)) == 40
    for width, height in SDXL_BUCKETS:
        assert width % 64 == height % 64 == 0
        assert 0.85 < width * height / 1024**2 <= 1.0


@pytest.mark.parametrize("ratio", ["wide", "16x9", "0:1", "16:9\n", "1000:1", ""])
def test_what_is_no_aspect_ratio(ratio: str) -> None:
    with pytest.raises(ValueError, match="16:9"):
        closest_bucket(ratio)


@pytest.mark.parametrize(
    ("width", "height", "ratio", "default", "size"),
    [
        (None, None, None, None, None),
        (None, None, None, (1001, 20), (1001, 20)),
        (None, None, "16:9", (8, 8), (1344, 768)),
        (800, 600, "wide", (8, 8), (800, 600)),
        (801, 603, None, None, (800, 600)),
        (1, 9999, None, None, (64, 4096)),
        (800, None, "16:9", (8, 8), (800, 448)),
        (None, 800, "1:2", (8, 8), (400, 800)),
        (4096, None, "1:2", None, (4096, 4096)),
        (800, None, None, (1344, 768), (800, 768)),
        (None, 800, None, (1344, 768), (1344, 800)),
        (None, 800, None, None, (800, 800)),
    ],
)
def test_the_size_of_an_image(
    width: int | None,
    height: int | None,
    ratio: str | None,
    default: tuple[int, int] | None,
    size: tuple[int, int] | None,
) -> None:
    assert choose_size(width, height, ratio, default) == size


def test_half_a_size_and_half_a_ratio() -> None:
    with pytest.raises(ValueError, match="16:9"):
        choose_size(800, None, "16", None)
