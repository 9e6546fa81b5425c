"""What ``sparklio doctor`` tells of the server that SPARKLIO_GATEWAY_URL names: is it there, of our mode, ready?"""

from __future__ import annotations

from collections.abc import Iterator

from providers.base import Finding
from providers.errors import SparklioError
from routing.remote import Readiness, Remote
from routing.remote_errors import GATEWAY
from routing.settings import Settings

__all__ = ["gateway_findings"]


async def gateway_findings(settings: Settings, url: str) -> list[Finding]:
    """What a run through that server would meet. Nothing there loads a model."""
    remote: Remote | None = None
    try:
        remote = Remote(url, settings.text("SPARKLIO_GATEWAY_KEY"))
        readiness = await remote.readiness()
        return [*_of_mode(settings, remote, readiness), await _of_key(remote), *_of_providers(readiness)]
    except SparklioError as exc:
        return [Finding(GATEWAY, "failed", exc.message, exc.hint)]
    finally:
        if remote is not None:
            await remote.aclose()


def _of_mode(settings: Settings, remote: Remote, readiness: Readiness) -> Iterator[Finding]:
    if readiness.mode == settings.mode:
        yield Finding(GATEWAY, "ok", f"{remote.shown} answers, in {readiness.mode}")
    else:
        message = f"{remote.shown} is in {readiness.mode}, and this is {settings.mode}"
        yield Finding(GATEWAY, "failed", message, f"set GENERATOR_MODE={readiness.mode}")


async def _of_key(remote: Remote) -> Finding:
    """Asked for something that needs a key where anything does."""
    try:
        await remote.ask("GET", "/api/v1/llm/health")
    except SparklioError as exc:
        return Finding("gateway key", "failed", exc.message, exc.hint)
    return Finding("gateway key", "ok", "we may call it")


def _of_providers(readiness: Readiness) -> Iterator[Finding]:
    """What is away is a failure only where the server can do nothing without it."""
    away = readiness.failures
    for name in readiness.providers:
        subject = f"{name} at the gateway"
        if name not in away:
            yield Finding(subject, "ok", "answers")
        elif readiness.ready:
            yield Finding(subject, "warning", f"{away[name]} (a run does without it)", "mend it there")
        else:
            yield Finding(subject, "failed", away[name], "mend it there: `sparklio doctor`")
    if not readiness.ready and not away:
        yield Finding(GATEWAY, "failed", "it says that it is not ready", "look there: `sparklio doctor`")
