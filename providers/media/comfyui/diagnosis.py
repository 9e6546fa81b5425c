"""What images would meet in a ComfyUI server: its memory, and of each workflow the file, the nodes, the model files.

Asks ``/system_stats``, ``/object_info/{class}`` and ``/models/{folder}``, which load nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from providers.base import Finding, Options
from providers.errors import ProviderError, SparklioError
from providers.media.comfyui.client import ComfyUIClient
from providers.media.comfyui.errors import MODEL_FOLDERS
from providers.media.comfyui.workflow import Graph

__all__ = ["Diagnosis"]

_MAX_CHOICES = 5


class Diagnosis:
    """One look at a server; what was asked once is not asked again.

    Args:
        client: to the server.
        name: the provider's name in provider_config.yaml.
        graph: the graph that options come to; raises SparklioError where they come to none.
    """

    def __init__(self, client: ComfyUIClient, name: str, graph: Callable[[Options], Graph]) -> None:
        self._client = client
        self._name = name
        self._graph = graph
        self._classes: dict[str, dict[str, Any] | None] = {}

    async def findings(self, wishes: Sequence[Options]) -> list[Finding]:
        """On the server first, then on the workflow of each wish; files are looked at even where no server answers."""
        server = await self._server()
        found = [server]
        for wish in wishes:
            found.extend(await self._workflow(wish, answers=server.state != "failed"))
        return list(dict.fromkeys(found))

    async def _server(self) -> Finding:
        try:
            stats = await self._client.get_system_stats()
        except ProviderError as exc:
            return Finding(self._name, "failed", exc.message, exc.hint)
        if not isinstance(stats.get("system"), dict):
            what = f"what answers at {self._client.shown_url} is not ComfyUI"
            return Finding(self._name, "failed", what, "check COMFYUI_BASE_URL")
        version = stats["system"].get("comfyui_version") or "of unknown version"
        answers = f"ComfyUI {version} answers at {self._client.shown_url}"
        device: dict[str, Any] = next(iter(stats.get("devices") or ()), {})
        if device.get("type") == "cpu":
            remedy = "start ComfyUI without --cpu, with a PyTorch that knows your GPU"
            return Finding(self._name, "warning", f"{answers}, but on the CPU: an image takes minutes", remedy)
        return Finding(self._name, "ok", f"{answers}; {_memory(device)}")

    async def _workflow(self, wish: Options, *, answers: bool) -> list[Finding]:
        subject = f"workflow {wish.get('workflow') or 'without a name'}"
        try:
            graph = self._graph(wish)
            if not answers:
                return [Finding(subject, "ok", "its file is well-formed")]
            problems = [*await self._unknown_nodes(subject, graph), *await self._missing_files(graph)]
        except SparklioError as exc:
            return [Finding(subject, "failed", exc.message, exc.hint)]
        return problems or [Finding(subject, "ok", "its file, nodes and model files are there")]

    async def _unknown_nodes(self, subject: str, graph: Graph) -> list[Finding]:
        kinds = dict.fromkeys(node["class_type"] for node in graph.values())
        unknown = [kind for kind in kinds if await self._class(kind) is None]
        if not unknown:
            return []
        remedy = "install the custom nodes in ComfyUI (Manager > Install Missing Custom Nodes), or use another workflow"
        return [Finding(subject, "failed", f"ComfyUI has no node {', '.join(unknown)}", remedy)]

    async def _missing_files(self, graph: Graph) -> list[Finding]:
        """One for each file, which says nothing of the workflow: several may lack the same one."""
        found = []
        for node in graph.values():
            for name, wanted in node["inputs"].items():
                if name in MODEL_FOLDERS and isinstance(wanted, str):
                    there = await self.offered(node["class_type"], name)
                    if wanted not in there:
                        found.append(_missing_file(wanted, MODEL_FOLDERS[name], there))
        return found

    async def offered(self, kind: str, name: str) -> list[str]:
        """The files that a loader may take: its own word first, because not every loader reads the usual folder."""
        info = await self._class(kind)
        return _choices(info or {}, name) or await self._client.models(MODEL_FOLDERS[name])

    async def _class(self, kind: str) -> dict[str, Any] | None:
        if kind not in self._classes:
            self._classes[kind] = await self._client.object_info(kind)
        return self._classes[kind]


def _memory(device: Mapping[str, Any]) -> str:
    free, total = (int(device.get(key) or 0) / 2**30 for key in ("vram_free", "vram_total"))
    return f"{free:.1f} of {total:.1f} GiB of the card are free"


def _choices(info: Mapping[str, Any], name: str) -> list[str]:
    """The values that an input may have: ``[[values], {...}]``, or ``["COMBO", {"options": [values]}]``."""
    inputs = info.get("input") or {}
    config = {**(inputs.get("optional") or {}), **(inputs.get("required") or {})}.get(name) or [[]]
    options = config[1].get("options") if len(config) > 1 and isinstance(config[1], dict) else None
    values = config[0] if isinstance(config[0], list) else options
    return [str(value) for value in values or ()]


def _missing_file(wanted: str, folder: str, there: Sequence[str]) -> Finding:
    shown = ", ".join(there[:_MAX_CHOICES]) or "none"
    more = f" and {len(there) - _MAX_CHOICES} more" if len(there) > _MAX_CHOICES else ""
    change = (
        "set `options: {checkpoint: ...}` in media_routing of provider_config.yaml to one that is there"
        if folder in ("checkpoints", "diffusion_models")
        else "choose one that is there in the workflow"
    )
    return Finding(
        f"file {wanted}",
        "failed",
        f"ComfyUI does not have it in models/{folder}; there: {shown}{more}",
        f"put {wanted} into ComfyUI's models/{folder}, or {change}",
    )
