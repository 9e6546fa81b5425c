"""What is found of a ComfyUI server and of the workflows that are meant for it; the whole is in test_doctor.py."""

from __future__ import annotations

from typing import Any

import respx

from providers.base import Finding
from providers.media.comfyui.client import ComfyUIClient
from providers.media.comfyui.diagnosis import Diagnosis
from providers.media.comfyui.workflow import Graph
from tests.standins.comfyui import ComfyUIStandIn

GRAPH: Graph = {
    "1": {"class_type": "UNETLoader", "inputs": {"unet_name": "flow.safetensors", "other": ["2", 0]}},
    "2": {"class_type": "LoraLoader", "inputs": {"lora_name": "ink.safetensors"}},
}
LISTED = {"input": {"required": {"unet_name": [["flow.safetensors"], {}]}}}
COMBO = {"input": {"optional": {"lora_name": ["COMBO", {"options": ["a", "b", "c", "d", "e", "f"]}]}}}


async def diagnosed(router: respx.MockRouter, **answers: Any) -> list[Finding]:
    """The findings on a server that answers each path so; what is not named is empty."""
    stats = {"system": {"comfyui_version": "0.36.0"}, "devices": [{"type": "cuda", "vram_free": 2**33}]}
    for path, answer in ({"system_stats": stats} | answers).items():
        router.get(f"http://comfy/{path}").respond(json=answer)
    client = ComfyUIClient("http://comfy")
    try:
        return await Diagnosis(client, "pictures", lambda _: GRAPH).findings([{"workflow": "w"}, {"workflow": "w"}])
    finally:
        await client.aclose()


async def test_model_files_are_those_that_the_loader_offers(respx_mock: respx.MockRouter) -> None:
    found = await diagnosed(
        respx_mock,
        **{"object_info/UNETLoader": {"UNETLoader": LISTED}, "object_info/LoraLoader": {"LoraLoader": COMBO}},
    )
    assert [(one.subject, one.state) for one in found] == [("pictures", "ok"), ("file ink.safetensors", "failed")]
    assert "8.0 of 0.0 GiB" in found[0].message
    assert "a, b, c, d, e and 1 more" in found[1].message
    assert "models/loras" in found[1].remedy
    assert "in the workflow" in found[1].remedy


async def test_a_loader_that_lists_nothing_is_looked_up_in_its_folder(respx_mock: respx.MockRouter) -> None:
    answers = {
        "object_info/UNETLoader": {"UNETLoader": LISTED},
        "object_info/LoraLoader": {"LoraLoader": {"input": {"required": {"lora_name": ["STRING", {}]}}}},
        "models/loras": ["ink.safetensors"],
    }
    found = await diagnosed(respx_mock, **answers)
    assert [one.state for one in found] == ["ok", "ok"]


async def test_something_else_on_that_port(respx_mock: respx.MockRouter) -> None:
    found = await diagnosed(respx_mock, system_stats={"hello": "world"})
    assert (found[0].state, found[0].remedy) == ("failed", "check COMFYUI_BASE_URL")
    assert found[1].state == "ok", "its file can be read all the same"


async def test_a_server_that_fails_meanwhile(comfyui: ComfyUIStandIn) -> None:
    comfyui.answer_next("/object_info", 500)
    client = ComfyUIClient(comfyui.url)
    found = await Diagnosis(client, "pictures", lambda _: GRAPH).findings([{}])
    await client.aclose()
    assert found[0].state == "warning", "it runs on the CPU"
    assert (found[1].subject, found[1].state) == ("workflow without a name", "failed")
    assert "500" in found[1].message
