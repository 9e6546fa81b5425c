"""What an Ollama server holds: its models, what is known of each, and how another one gets there.

Wire format: ``/api/version``, ``/api/tags``, ``/api/ps`` and ``/api/show`` load nothing. ``/api/pull`` answers in lines
of JSON, of which the last has ``status: success``; what fails meanwhile (no such model, no room on the disk) is a line
``{"error": ...}`` under status 200. ``/api/generate`` without a prompt loads a model.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass
from functools import partial
from typing import Any

import httpx

from providers.base import Finding, MendingStep
from providers.errors import AttemptTimeoutError, ModelNotFoundError, ProviderError, ServerError
from providers.http import CONNECT_TIMEOUT_S

__all__ = ["Library", "ModelInfo", "Wire", "tagged"]

STALL_S = 300.0
"""Longest silence of a pull: a slow disk reads a model of tens of gigabytes for minutes to check its sum."""

_MAX_ERROR_CHARS = 300

Entry = dict[str, Any]
Call = Callable[[], Awaitable[Any]]


@dataclass(frozen=True)
class Wire:
    """What a library needs of its provider.

    Attributes:
        name: the provider's name in provider_config.yaml.
        url: the server's address without credentials.
        client: lends the running loop's client, whose answers other than 2xx raise.
        step: awaits a call within so many seconds (None: within a probe's) and translates its errors, which name the
            model where there is one.
        arguments: ``model``, ``keep_alive`` and ``options`` of every real call to a model.
        load_seconds: how long a model may take to load.
    """

    name: str
    url: str
    client: Callable[[], AbstractAsyncContextManager[httpx.AsyncClient]]
    step: Callable[[str | None, float | None, Call], Awaitable[Any]]
    arguments: Callable[[str], Mapping[str, Any]]
    load_seconds: float


@dataclass(frozen=True)
class ModelInfo:
    """What Ollama tells of a model.

    Attributes:
        name: with its tag.
        size: of its files, in bytes.
        parameters: their number as Ollama words it, e.g. ``7.6B``.
        quantization: e.g. ``Q4_K_M``.
        context_length: the longest context that it was made for, in tokens; None where nobody tells.
        capabilities: e.g. ``completion``, ``tools``; empty where an old server does not tell.
    """

    name: str
    size: int
    parameters: str
    quantization: str
    context_length: int | None
    capabilities: tuple[str, ...]


class Library:
    """One server's models. Every method but :meth:`diagnose` raises ProviderError where Ollama does not answer.

    Args:
        wire: see there.
        preferred: names of models, the best first; those under ``models`` of provider_config.yaml in their order.
    """

    def __init__(self, wire: Wire, preferred: Sequence[str] = ()) -> None:
        self._wire = wire
        self._preferred = tuple(preferred)

    async def version(self) -> str:
        return str(await self._ask("/api/version", "version"))

    async def list_models(self) -> list[Entry]:
        """The installed models: ``name`` with its tag, ``size`` in bytes, ``details``."""
        return list(await self._ask("/api/tags", "models") or ())

    async def loaded_models(self) -> list[Entry]:
        """The models in memory; part of one runs on the CPU where ``size_vram < size``."""
        return list(await self._ask("/api/ps", "models") or ())

    async def model_info(self, model: str) -> ModelInfo:
        """What is known of an installed model; loads nothing.

        Raises:
            ModelNotFoundError: it is not installed.
        """
        shown = await self._show(model)
        return _model_info(_by_name(await self.list_models()).get(tagged(model), {"name": tagged(model)}), shown)

    async def select_best_model(self, preferred: Sequence[str] | None = None) -> str:
        """The first of ``preferred`` (default: the library's own list) that is installed, as it is written there.

        Raises:
            ModelNotFoundError: none is.
        """
        wanted = self._preferred if preferred is None else preferred
        best = _first(wanted, _by_name(await self.list_models()))
        if best is None:
            raise ModelNotFoundError(
                f"Ollama has none of the preferred models: {', '.join(wanted) or 'none is named'}",
                provider=self._wire.name,
                hint=_pull_command(wanted[0]) if wanted else f"name some under models.{self._wire.name}",
            )
        return best

    async def prewarm(self, model: str) -> None:
        """Load a model as the real calls want it, so that the first one does not wait and none loads it again.

        Raises:
            ModelNotFoundError: it is not installed.
        """
        arguments = self._wire.arguments(model)
        body = {"stream": False, **{key: arguments[key] for key in ("model", "keep_alive", "options")}}
        await self._ask("/api/generate", "done", body, model=model, seconds=self._wire.load_seconds)

    async def pull(self, model: str) -> AsyncGenerator[MendingStep, None]:
        """Have the server fetch a model; each step tells the bytes of all its files so far.

        Raises:
            ModelNotFoundError: the registry has no model of that name.
            AttemptTimeoutError: Ollama told nothing for :data:`STALL_S`.
            ServerError: it failed there, or the answer broke off.
        """
        files: dict[str, tuple[int, int]] = {}
        async with aclosing(self._lines("/api/pull", {"model": model}, model)) as lines:
            async for line in lines:
                if "error" in line:
                    raise self._not_pulled(model, str(line["error"])[:_MAX_ERROR_CHARS])
                if digest := line.get("digest"):
                    files[digest] = (line.get("completed") or 0, line.get("total") or 0)
                status = str(line.get("status") or "")
                done, total = (sum(numbers) for numbers in zip(*files.values(), strict=True)) if files else (0, 0)
                yield MendingStep(status, done, total)
                if status == "success":
                    return
        raise self._broken(model, "the answer broke off before its end")

    async def diagnose(self, models: Sequence[str]) -> list[Finding]:
        """What a run that asks these models would meet. Loads none and raises for nothing that is found."""
        try:
            version = await self.version()
            installed, loaded = _by_name(await self.list_models()), _by_name(await self.loaded_models())
        except ProviderError as exc:
            return [Finding(self._wire.name, "failed", exc.message, exc.hint)]
        found = [Finding(self._wire.name, "ok", f"Ollama {version} answers at {self._wire.url}")]
        for model in dict.fromkeys(models):
            entry = installed.get(tagged(model))
            if entry is None:
                found.append(self._missing(model, installed))
            else:
                found.extend(await self._examined(model, entry, loaded.get(tagged(model))))
        return found

    # -- findings ------------------------------------------------------------------------------------------------------

    def _missing(self, model: str, installed: Collection[str]) -> Finding:
        best = _first(self._preferred, installed)
        instead = f"of those under models.{self._wire.name} {best} is" if best else "nor is another that is configured"
        return Finding(
            f"model {model}",
            "failed",
            f"not pulled on {self._wire.url}; {instead}",
            _pull_command(model),
            partial(self.pull, model),
        )

    async def _examined(self, model: str, entry: Entry, loaded: Entry | None) -> list[Finding]:
        subject = f"model {model}"
        try:
            info = _model_info(entry, await self._show(model))
        except ProviderError as exc:
            return [Finding(subject, "warning", f"pulled, but Ollama tells nothing of it: {exc.message}", exc.hint)]
        num_ctx = self._wire.arguments(model)["options"]["num_ctx"]
        complaints = [*self._misfits(subject, model, info, num_ctx), *_degraded(subject, loaded)]
        kind = " ".join(part for part in (info.parameters, info.quantization) if part)
        facts = [part for part in (f"{info.size / 1e9:.1f} GB", kind, f"context {num_ctx}") if part]
        return complaints or [Finding(subject, "ok", f"pulled: {', '.join(facts)}")]

    def _misfits(self, subject: str, model: str, info: ModelInfo, num_ctx: int) -> Iterator[Finding]:
        if info.capabilities and "completion" not in info.capabilities:
            known = ", ".join(info.capabilities)
            remedy = "name another model in llm_routing of provider_config.yaml"
            yield Finding(subject, "failed", f"it does not write text; it can: {known}", remedy)
        if info.context_length is not None and num_ctx > info.context_length:
            key = f"models.{self._wire.name}.{model}.num_ctx"
            yield Finding(
                subject,
                "warning",
                f"num_ctx is {num_ctx}, but the model was made for {info.context_length} tokens of context",
                f"set `{key}` in provider_config.yaml to {info.context_length} or less",
            )

    # -- the wire ------------------------------------------------------------------------------------------------------

    async def _show(self, model: str) -> Entry:
        answer = await self._ask("/api/show", None, {"model": model}, model=model)
        return answer if isinstance(answer, dict) else {}

    async def _ask(
        self,
        path: str,
        key: str | None,
        body: Mapping[str, Any] | None = None,
        *,
        model: str | None = None,
        seconds: float | None = None,
    ) -> Any:
        """The JSON answer, or its ``key``; with a body the call is a POST."""
        async with self._wire.client() as client:

            async def call() -> Any:
                response = await client.request("GET" if body is None else "POST", path, json=body)
                answer = response.json()
                return answer if key is None else answer[key]

            return await self._wire.step(model, seconds, call)

    async def _lines(self, path: str, body: Mapping[str, Any], model: str) -> AsyncGenerator[Entry, None]:
        """Lines of JSON as they come. There is no limit over all of them, but :data:`STALL_S` on each."""
        async with self._wire.client() as client:
            patient = httpx.Timeout(None, connect=CONNECT_TIMEOUT_S)
            request = client.build_request("POST", path, json=body, timeout=patient)
            response = await self._patiently(model, partial(client.send, request, stream=True))
            async with aclosing(response):
                lines = response.aiter_lines()
                while (line := await self._patiently(model, lambda: anext(lines, None))) is not None:
                    yield self._parsed(line, model)

    async def _patiently(self, model: str, call: Call) -> Any:
        try:
            return await self._wire.step(model, STALL_S, call)
        except AttemptTimeoutError as exc:
            raise AttemptTimeoutError(
                f"Ollama has told nothing of the pull of {model} for {STALL_S:g} s",
                provider=self._wire.name,
                hint="pull again: what has come is kept; the server's log tells more",
            ) from exc

    def _parsed(self, line: str, model: str) -> Entry:
        try:
            entry = json.loads(line)
        except ValueError as exc:
            raise self._broken(model, "a line of the answer is no JSON") from exc
        if not isinstance(entry, dict):
            raise self._broken(model, "a line of the answer is no JSON object")
        return entry

    def _broken(self, model: str, what: str) -> ServerError:
        return ServerError(
            f"the pull of {model} failed: {what}",
            provider=self._wire.name,
            hint="pull again: what has come is kept; the server's log tells more",
        )

    def _not_pulled(self, model: str, text: str) -> ProviderError:
        # Under status 200 the text is all that tells an unknown name from a failure.
        if "manifest" in text and "does not exist" in text:
            return ModelNotFoundError(
                f"the registry has no model {model!r}: {text}",
                provider=self._wire.name,
                hint="mend its name in provider_config.yaml; https://ollama.com/library lists the models",
            )
        return ServerError(
            f"the pull of {model} failed: {text}",
            provider=self._wire.name,
            hint=f"has the machine of {self._wire.url} room on its disk and a way to the registry? then pull again",
        )


def tagged(name: str) -> str:
    """The name with its tag; a bare one means ``:latest``."""
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


def _pull_command(model: str) -> str:
    return f"ollama pull {model}"


def _by_name(entries: Sequence[Entry]) -> dict[str, Entry]:
    return {str(entry.get("name")): entry for entry in entries}


def _first(wanted: Sequence[str], installed: Collection[str]) -> str | None:
    return next((name for name in wanted if tagged(name) in installed), None)


def _model_info(entry: Entry, shown: Entry) -> ModelInfo:
    """From a model's entry in ``/api/tags`` and its ``/api/show``; the latter's keys hold the architecture's name."""
    details = shown.get("details") or entry.get("details") or {}
    lengths = [value for key, value in (shown.get("model_info") or {}).items() if key.endswith(".context_length")]
    return ModelInfo(
        name=str(entry.get("name")),
        size=int(entry.get("size") or 0),
        parameters=str(details.get("parameter_size") or ""),
        quantization=str(details.get("quantization_level") or ""),
        context_length=int(lengths[0]) if lengths else None,
        capabilities=tuple(map(str, shown.get("capabilities") or ())),
    )


def _degraded(subject: str, loaded: Entry | None) -> Iterator[Finding]:
    """Ollama puts what the card cannot hold onto the CPU, in silence."""
    size, on_card = (int((loaded or {}).get(key) or 0) for key in ("size", "size_vram"))
    if on_card < size:
        yield Finding(
            subject,
            "warning",
            f"degraded: {100 - 100 * on_card // size} % of it run on the CPU, so it answers slowly",
            "free the card (`ollama ps`, `ollama stop NAME`), lower its num_ctx, or route a smaller model",
        )
