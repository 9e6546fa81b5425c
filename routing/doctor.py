"""Whether a run would work, found out without running: what ``sparklio doctor`` tells.

The routing rules say which models, workflows and options a run may ask of whom; each provider says what they would
meet. What a run refuses to begin with is ``failed``: a workflow that does not exist, an active provider without its key
or package. What its calls would meet is ``failed`` only where it strikes every route of some role and task, or of some
kind of image: while a fallback serves it is a ``warning``. Mock asks no server, so there what only live needs is a
``warning`` too. Where a server of Sparklio's answers instead of our providers, it alone is looked at.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from providers.base import Finding, ImageProvider, LLMProvider, MendingStep
from providers.errors import ConfigError, SparklioError
from providers.registry import FAMILIES, Family, image_provider, llm_provider
from routing.contracts import Mode
from routing.gateway_check import gateway_findings
from routing.kinds import meant_kind
from routing.logs import mask_secrets
from routing.prices import Prices
from routing.provider_config import ProviderConfigFile
from routing.settings import Settings
from routing.targets import Job, Target, jobs_of

__all__ = ["Report", "examine"]

_LOW_DISK_BYTES = 2**30
_NEEDS_SERVERS: Mapping[Mode, bool] = {"mock": False, "live": True}
_WORST_FIRST = ("failed", "warning", "ok")


@dataclass(frozen=True)
class Report:
    """What was found for ``mode``: settings, data folder, routing, chat providers, image providers, idle ones."""

    mode: Mode
    findings: tuple[Finding, ...]

    @property
    def can_run(self) -> bool:
        return not any(finding.state == "failed" for finding in self.findings)

    @property
    def verdict(self) -> str:
        """One sentence: whether a run would work."""
        failed, warnings = (sum(finding.state == state for finding in self.findings) for state in _WORST_FIRST[:2])
        if failed:
            return f"{self.mode} cannot run: {failed} thing{'s' * (failed > 1)} to mend"
        return f"{self.mode} can run" + (f"; {warnings} warning{'s' * (warnings > 1)}" if warnings else "")

    def to_dict(self) -> dict[str, Any]:
        findings = [
            {"subject": one.subject, "state": one.state, "message": one.message, "remedy": one.remedy}
            for one in self.findings
        ]
        return {"mode": self.mode, "can_run": self.can_run, "findings": findings}


async def examine(settings: Settings, more: Callable[[Settings], Sequence[Finding]] | None = None) -> Report:
    """Look at all that a run with these settings needs. Loads no model, makes no image, leaves nothing behind.

    Args:
        settings: say what there is to look at.
        more: looks at what else there is, and may take its time.
    """
    url = settings.text("SPARKLIO_GATEWAY_URL")
    findings = [
        *(Finding(doubt.subject, "warning", doubt.message, doubt.remedy) for doubt in settings.doubts),
        await asyncio.to_thread(_data_folder, settings.home),
        *(await asyncio.to_thread(more, settings) if more else ()),
        *(await gateway_findings(settings, url) if url else await _of_own_gateways(settings)),
    ]
    secrets = settings.secrets
    return Report(
        settings.mode,
        tuple(
            replace(one, message=mask_secrets(one.message, secrets), remedy=mask_secrets(one.remedy, secrets))
            for one in _merged(findings)
        ),
    )


async def _of_own_gateways(settings: Settings) -> list[Finding]:
    """What the routing rules and the providers that they name would come to."""
    jobs, unroutable = jobs_of(settings)
    struck = await _struck(settings, jobs)
    return [
        *(_failure("routing", error) for error in unroutable),
        *_unheard_of(settings.config),
        *_unpriced(settings, jobs),
        *_weighed(struck, jobs),
        *_idle(settings.config),
    ]


# -- what needs no provider --------------------------------------------------------------------------------------------


def _data_folder(home: Path) -> Finding:
    """Whether files can be written there; what is made for the trial is removed again."""
    missing: list[Path] = []
    try:
        missing += [folder for folder in (home, *home.parents) if not folder.exists()]
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=home) as file:
            file.write(b"\0")
        free = shutil.disk_usage(home).free
    except OSError as exc:
        remedy = "set SPARKLIO_HOME to a folder that you may write to"
        return Finding("data folder", "failed", f"{home} cannot be written: {exc.strerror or exc}", remedy)
    finally:
        with suppress(OSError):  # a run may have begun to use it
            for folder in missing:
                folder.rmdir()
    if free < _LOW_DISK_BYTES:
        remedy = "make room, or set SPARKLIO_HOME to a folder on another disk"
        return Finding("data folder", "warning", f"only {free / 1e6:.0f} MB are free in {home}", remedy)
    return Finding("data folder", "ok", f"{home} can be written; {free / 1e9:.1f} GB are free")


def _idle(config: ProviderConfigFile) -> Iterator[Finding]:
    """Providers that rules name and nobody has made active."""
    groups: tuple[tuple[Sequence[_Rule], tuple[str, ...]], ...] = (
        (config.llm_routing.rules, config.providers.llm.active),
        (config.media_routing.image, config.providers.media.active),
    )
    for rules, active in groups:
        idle = [rule.provider for rule in rules if rule.provider not in active]
        for name in dict.fromkeys(idle):
            yield Finding(name, "ok", f"not active, so its rules are passed over ({idle.count(name)})")


def _unheard_of(config: ProviderConfigFile) -> Iterator[Finding]:
    """Kinds that no request is likely to have. Any word is allowed, so what is no slip is let alone."""
    for index, rule in enumerate(config.media_routing.image):
        for kind in rule.kind:
            if meant := meant_kind(kind):
                message = f"its kind {kind!r} serves nothing unless an input asks for that very word"
                yield Finding(f"media_routing.image[{index}]", "warning", message, f"did you mean {meant!r}?")


def _unpriced(settings: Settings, jobs: Iterable[Job]) -> Iterator[Finding]:
    """Routes that no run takes while there is a budget: nobody told what they cost."""
    if settings.run_budget_usd is None:
        return
    prices = Prices(settings.config.prices)
    for route in {(route.provider, route.model): route for job in jobs for route in job.routes}.values():
        try:
            prices.known(route)
        except ConfigError as exc:
            finding = _failure(f"price of {route.provider} {route.model}", exc)
            yield finding if _NEEDS_SERVERS[settings.mode] else _for_live(finding)


class _Rule(Protocol):
    @property
    def provider(self) -> str: ...


# -- what the providers say --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Struck:
    """A target with what a run would refuse to begin with (``fatal``) and what its calls would meet (``met``)."""

    target: Target
    fatal: list[Finding]
    met: list[Finding]

    @property
    def failed(self) -> bool:
        return bool(self.fatal) or any(finding.state == "failed" for finding in self.met)


async def _struck(settings: Settings, jobs: Iterable[Job]) -> list[_Struck]:
    """Every target once, by provider: the chat providers first, each family in the order of ``active``."""
    providers = settings.config.providers
    active = [(family, name) for family in FAMILIES for name in getattr(providers, family).active]
    looks = (_look(settings, family, name, _targets(settings, family, name, jobs)) for family, name in active)
    return [struck for found in await asyncio.gather(*looks) for struck in found]


def _targets(settings: Settings, family: Family, name: str, jobs: Iterable[Job]) -> list[Target]:
    """What one provider may be asked for, its default model included; where that is nothing, whether it answers."""
    asked = [target for job in jobs for target in job.targets if (target.family, target.provider) == (family, name)]
    default = settings.default_model(family, name) if family == "llm" else None
    found: list[Target] = []
    for target in (*asked, *([Target(family, name, default)] if default else [])):
        if target not in found:  # wishes are mappings and have no hash
            found.append(target)
    return found or [Target(family, name)]


async def _look(settings: Settings, family: Family, name: str, targets: Sequence[Target]) -> list[_Struck]:
    """Build one provider and ask it; each target by itself, because a finding does not tell whom it strikes."""
    asks_servers = _NEEDS_SERVERS[settings.mode]
    try:
        provider = _build(settings, family, name)
    except SparklioError as exc:
        failure = _failure(name, exc)
        if asks_servers or family == "media":  # mock asks the image providers whether they take the options
            return [_Struck(target, [failure], []) for target in targets]
        return [_Struck(target, [], [_for_live(failure)]) for target in targets]
    try:
        unfit = await _unfit(provider)
        return await asyncio.gather(*(_examined(provider, one, unfit, asks_servers=asks_servers) for one in targets))
    finally:
        await provider.aclose()


def _build(settings: Settings, family: Family, name: str) -> LLMProvider | ImageProvider:
    config = settings.provider_config(family, name)
    return llm_provider(name)(config) if family == "llm" else image_provider(name)(config)


async def _unfit(provider: LLMProvider | ImageProvider) -> Finding | None:
    """What no call can work without: a package, a key."""
    try:
        await provider.prepare()
    except SparklioError as exc:
        failure = _failure(provider.config.name, exc)
        keys = [name for name in _keys_that_lack(provider) if name not in exc.message]
        return replace(failure, message=f"{exc.message}; {' or '.join(keys)} is not set either") if keys else failure
    return None


def _keys_that_lack(provider: LLMProvider | ImageProvider) -> list[str]:
    """Its secret variables where none of them is set: who lacks a package learns of the key in the same breath."""
    names = [setting.name for setting in provider.settings if setting.secret]
    return [] if any(provider.config.values.get(name) for name in names) else names


async def _examined(
    provider: LLMProvider | ImageProvider, target: Target, unfit: Finding | None, *, asks_servers: bool
) -> _Struck:
    fatal = await _refusal(provider, target)
    if unfit and asks_servers:
        return _Struck(target, [*fatal, unfit], [])
    met = [unfit] if unfit else await _diagnosis(provider, target)
    return _Struck(target, fatal, met if asks_servers else [_for_live(finding) for finding in met])


async def _diagnosis(provider: LLMProvider | ImageProvider, target: Target) -> list[Finding]:
    try:
        found = await provider.diagnose([] if target.wish is None else [target.wish])
    except SparklioError as exc:
        return [_failure(target.provider, exc)]
    return [replace(one, mend=_closing(provider, one.mend)) if one.mend else one for one in found]


async def _refusal(provider: LLMProvider | ImageProvider, target: Target) -> list[Finding]:
    """What an image provider would refuse whatever its server does, in mock too."""
    if not isinstance(provider, ImageProvider) or target.wish is None:
        return []
    try:
        await provider.check(target.kind, target.wish)
    except SparklioError as exc:
        workflow = target.wish.get("workflow")
        return [_failure(f"workflow {workflow}" if workflow else target.provider, exc)]
    return []


def _closing(
    provider: LLMProvider | ImageProvider, mend: Callable[[], AsyncGenerator[MendingStep, None]]
) -> Callable[[], AsyncGenerator[MendingStep, None]]:
    """The same mending for a provider that is closed already: it opens what it needs anew."""

    async def steps() -> AsyncGenerator[MendingStep, None]:
        try:
            async with aclosing(mend()) as inner:
                async for step in inner:
                    yield step
        finally:
            await provider.aclose()

    return steps


# -- what it comes to --------------------------------------------------------------------------------------------------


def _failure(subject: str, error: SparklioError) -> Finding:
    return Finding(subject, "failed", error.message, error.hint)


def _for_live(finding: Finding) -> Finding:
    if finding.state == "ok":
        return finding
    return replace(finding, state="warning", message=f"live: {finding.message}")


def _weighed(struck: Sequence[_Struck], jobs: Iterable[Job]) -> Iterator[Finding]:
    """What is fatal, and what is met: a failure of the latter counts where it leaves a request without any route."""
    broken = [one.target for one in struck if one.failed]
    needed = [target for job in jobs if all(target in broken for target in job.targets) for target in job.targets]
    for one in struck:
        yield from one.fatal
        for finding in one.met:
            if finding.state == "failed" and one.target not in needed:
                yield replace(finding, state="warning", message=f"{finding.message} (a run does without it)")
            else:
                yield finding


def _merged(findings: Iterable[Finding]) -> Iterable[Finding]:
    """What was found for several targets once, as the worst of them; figures in a message may differ by a moment."""
    kept: dict[tuple[str, str], Finding] = {}
    for finding in findings:
        known = kept.setdefault((finding.subject, finding.remedy), finding)
        if _WORST_FIRST.index(finding.state) < _WORST_FIRST.index(known.state):
            kept[finding.subject, finding.remedy] = finding
    return kept.values()
