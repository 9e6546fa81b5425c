"""What ComfyUI says went wrong, translated to :mod:`providers.errors`.

Its own words may hold kilobytes of traceback and paths of the server; a message here is one sentence without either.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import httpx

from providers.errors import (
    AuthenticationError,
    JobError,
    ModelNotFoundError,
    OverloadedError,
    ProviderError,
    RejectedError,
    ServerError,
    UnreachableError,
)
from providers.http import error_type, retry_after

__all__ = [
    "LostJobError",
    "MissingImageError",
    "UnansweredError",
    "UnusableImageError",
    "job_failure",
    "rejection",
    "status_error",
    "tidy",
]

MODEL_FOLDERS: Mapping[str, str] = {
    "ckpt_name": "checkpoints",
    "unet_name": "diffusion_models",
    "clip_name": "text_encoders",
    "vae_name": "vae",
    "lora_name": "loras",
}
"""Input that names a model file -> the folder below ComfyUI's ``models`` where the file belongs."""

_HINTS: Mapping[type[ProviderError], str] = {
    AuthenticationError: "a proxy before ComfyUI wants credentials: COMFYUI_BASE_URL may hold them "
    "(http://user:password@host)",
    OverloadedError: "ComfyUI is busy or starting: try again in a moment",
    ServerError: "look at ComfyUI's own log",
    RejectedError: "check COMFYUI_BASE_URL and ComfyUI's version",
}
_MAX_CHARS = 300
_MAX_CHOICES = 5
_WINDOWS_PATH = re.compile(r"[A-Za-z]:\\(?:[^'\"\n\\/:*?<>|]+[\\/])*([^\s'\"\\/:*?<>|]*)")
_POSIX_PATH = re.compile(r"(?<![\w./])/(?:[^\s'\"/]+/)+([^\s'\"/]*)")
_TENSOR = re.compile(r"tensor\(.*", re.DOTALL)


class UnansweredError(UnreachableError):
    """The connection broke after the request was sent: it may or may not have been carried out."""


class LostJobError(JobError):
    """The job is neither in the queue nor in the history: deleted, or ComfyUI was restarted."""


class MissingImageError(JobError):
    """The history names an image file that is no longer there."""


class UnusableImageError(JobError):
    """The job's file is no image that we know, or not a whole one."""


def tidy(text: object, limit: int = _MAX_CHARS) -> str:
    """The first line of ``text`` in at most ``limit`` characters, without folders of the server and without tensors."""
    stripped = str(text).strip()
    line = stripped.splitlines()[0] if stripped else ""
    line = _TENSOR.sub("tensor(…)", _POSIX_PATH.sub(r"\1", _WINDOWS_PATH.sub(r"\1", line)))
    return line if len(line) <= limit else line[: limit - 1].rstrip() + "…"


def status_error(response: httpx.Response, *, provider: str) -> ProviderError:
    """The error for an answer whose HTTP status is not the one that was hoped for."""
    leaf = error_type(response.status_code)
    return leaf(
        f"ComfyUI answered {response.request.method} {response.request.url.path} with {response.status_code}",
        provider=provider,
        status=response.status_code,
        retry_after=retry_after(response.headers),
        hint=_HINTS[leaf],
    )


def rejection(body: Mapping[str, Any], *, provider: str, status: int) -> ProviderError:
    """The error for a body of POST /prompt with ``error`` or non-empty ``node_errors`` (status 400, or even 200)."""
    problems = list(_problems(body.get("node_errors")))
    for node, problem in problems:
        missing = _missing_model(node, problem, provider=provider, status=status)
        if missing is not None:
            return missing
    sentences = [_sentence(node, problem) for node, problem in problems[:3]]
    error = body.get("error")
    if not sentences and isinstance(error, dict):
        sentences = [f"{error.get('message', '')} {error.get('details', '')}".strip()]
    elif not sentences:
        sentences = [str(error or "no reason given")]
    return RejectedError(
        f"ComfyUI refused the workflow: {tidy('; '.join(sentences))}",
        provider=provider,
        status=status,
        hint=_refusal_hint(error),
    )


def _problems(node_errors: object) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each problem with the node that has it, ``"4 (CheckpointLoaderSimple)"``."""
    for node_id, entry in (node_errors if isinstance(node_errors, dict) else {}).items():
        found = entry.get("errors") if isinstance(entry, dict) else None
        for problem in found if isinstance(found, list) else [{"message": str(entry)}]:
            if isinstance(problem, dict):
                kind = entry.get("class_type", "?") if isinstance(entry, dict) else "?"
                yield f"{node_id} ({kind})", problem


def _sentence(node: str, problem: Mapping[str, Any]) -> str:
    parts = [str(problem.get(key) or "") for key in ("message", "details")]
    return f"node {node}: " + ": ".join(part for part in parts if part)


def _refusal_hint(error: object) -> str:
    kind = error.get("type") if isinstance(error, dict) else None
    if kind in ("invalid_prompt", "missing_node_type"):
        return "install the custom node that the workflow needs in ComfyUI, or choose another workflow"
    if kind == "prompt_no_outputs":
        return "end the workflow in a SaveImage node"
    return "open the workflow in ComfyUI, mend it there and export it again"


def _missing_model(node: str, problem: Mapping[str, Any], *, provider: str, status: int) -> ModelNotFoundError | None:
    info = problem.get("extra_info")
    if problem.get("type") != "value_not_in_list" or not isinstance(info, dict):
        return None
    folder = MODEL_FOLDERS.get(str(info.get("input_name")))
    if folder is None:
        return None
    wanted, available = tidy(info.get("received_value")), _choices(info.get("input_config"))
    shown = ", ".join(available[:_MAX_CHOICES]) or "none"
    more = f" and {len(available) - _MAX_CHOICES} more" if len(available) > _MAX_CHOICES else ""
    change = (
        "change `options: {checkpoint: ...}` in provider_config.yaml"
        if folder in ("checkpoints", "diffusion_models")
        else "choose another in the workflow"
    )
    return ModelNotFoundError(
        f"ComfyUI has no file {wanted!r} for node {node}",
        provider=provider,
        status=status,
        hint=f"put the file into ComfyUI's models/{folder}, or {change}; available there: {shown}{more}",
        details={"model": wanted, "folder": folder, "available": available[:_MAX_CHOICES]},
    )


def _choices(config: object) -> list[str]:
    """The allowed values in an ``input_config``: ``[[values], {...}]``, or ``["COMBO", {"options": [values]}]``."""
    if not isinstance(config, list) or not config:
        return []
    values = config[0]
    if not isinstance(values, list):
        values = config[1].get("options") if len(config) > 1 and isinstance(config[1], dict) else None
    return [tidy(value) for value in values] if isinstance(values, list) else []


def job_failure(prompt_id: str, last_message: tuple[str, Mapping[str, Any]], *, provider: str) -> JobError:
    """The error for a history entry that is not a success; only its last status message tells what happened."""
    name, data = last_message
    node = f"{data.get('node_type', 'a node')} (node {data.get('node_id', '?')})"
    if name == "execution_interrupted":
        return JobError(
            f"the image was interrupted in ComfyUI while it ran {node}",
            provider=provider,
            hint="somebody cancelled it there; start it again",
            details={"reason": "interrupted", "prompt_id": prompt_id},
        )
    kind = tidy(data.get("exception_type", "unknown error"), 100)
    out_of_memory = "outofmemory" in kind.replace("_", "").lower()
    return JobError(
        f"ComfyUI failed in {node}: {kind}: {tidy(data.get('exception_message', ''))}",
        provider=provider,
        hint=(
            "the GPU is out of memory: unload other models (`ollama stop NAME`), or make the image smaller"
            if out_of_memory
            else "look at ComfyUI's own log, or run the workflow in ComfyUI to see the node at fault"
        ),
        details={
            "reason": "out_of_memory" if out_of_memory else "failed",
            "prompt_id": prompt_id,
            "node_type": tidy(data.get("node_type", ""), 100),
            "exception_type": kind,
        },
    )
