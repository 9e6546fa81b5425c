"""ComfyUI's answers as values: queue, history and files, read leniently because custom nodes write what they like."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from providers.media.comfyui.workflow import Graph

__all__ = ["Download", "HistoryEntry", "OutputFile", "QueueState"]


@dataclass(frozen=True)
class QueueState:
    """Prompt ids in ComfyUI's queue, the pending ones in the order in which they will run."""

    running: tuple[str, ...] = ()
    pending: tuple[str, ...] = ()

    @classmethod
    def read(cls, answer: Mapping[str, Any]) -> Self:
        """From ``{queue_running: [[number, id, graph, extra, outputs]], queue_pending: [...]}``."""
        return cls(running=_ids(answer.get("queue_running")), pending=_ids(answer.get("queue_pending")))

    def __contains__(self, prompt_id: str) -> bool:
        return prompt_id in self.running or prompt_id in self.pending


@dataclass(frozen=True)
class OutputFile:
    """A file on the server; ``type`` is ``output``, ``temp`` or ``input``."""

    filename: str
    subfolder: str = ""
    type: str = "output"

    @classmethod
    def read(cls, item: object, name_key: str = "filename") -> Self | None:
        """From ``{filename, subfolder, type}``; None for anything else."""
        if not isinstance(item, dict) or not isinstance(item.get(name_key), str):
            return None
        return cls(item[name_key], str(item.get("subfolder") or ""), str(item.get("type") or "output"))


@dataclass(frozen=True)
class Download:
    """The bytes of a file on the server."""

    file: OutputFile
    content: bytes = field(repr=False)


@dataclass(frozen=True)
class HistoryEntry:
    """A job that ended.

    Attributes:
        graph: what ran, as it was submitted.
        files: the images that it made; a failed job may have some.
        last_message: name and data of its last status message; of a failed job, the only one that tells why.
    """

    prompt_id: str
    succeeded: bool
    graph: Graph = field(repr=False)
    files: tuple[OutputFile, ...]
    last_message: tuple[str, Mapping[str, Any]] = field(repr=False)

    @property
    def interrupted(self) -> bool:
        return not self.succeeded and self.last_message[0] == "execution_interrupted"

    @classmethod
    def read(cls, prompt_id: str, item: Mapping[str, Any]) -> Self:
        """From ``{prompt: [number, id, graph, ...], outputs: {node: {images: [...]}}, status: {...}}``."""
        prompt, status = item.get("prompt"), item.get("status")
        status = status if isinstance(status, dict) else {}
        graph = prompt[2] if isinstance(prompt, list) and len(prompt) > 2 else None
        return cls(
            prompt_id=prompt_id,
            succeeded=status.get("status_str") == "success",
            graph=graph if isinstance(graph, dict) else {},
            files=tuple(_images(item.get("outputs"))),
            last_message=_last_message(status.get("messages")),
        )


def _ids(items: object) -> tuple[str, ...]:
    found = [item for item in items if _is_queue_item(item)] if isinstance(items, list) else []
    # The server lists pending items in heap order.
    return tuple(str(item[1]) for item in sorted(found, key=lambda item: item[0]))


def _is_queue_item(item: object) -> bool:
    return isinstance(item, list) and len(item) > 1 and isinstance(item[0], int | float)


def _last_message(messages: object) -> tuple[str, Mapping[str, Any]]:
    """From ``[[name, data], ...]``."""
    match messages:
        case [*_, [str(name), dict(data)]]:
            return name, data
        case _:
            return "unknown", {}


def _images(outputs: object) -> Iterator[OutputFile]:
    for output in outputs.values() if isinstance(outputs, dict) else ():
        images = output.get("images") if isinstance(output, dict) else None
        for image in images if isinstance(images, list) else ():
            file = OutputFile.read(image)
            if file is not None:
                yield file
