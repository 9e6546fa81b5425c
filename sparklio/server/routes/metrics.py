"""``/metrics``: the counters of this server for Prometheus."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Request, Response
from prometheus_client import CollectorRegistry, exposition
from prometheus_client.openmetrics import exposition as openmetrics

from sparklio.server.services import ServicesOf

__all__ = ["router"]

_OPENMETRICS = "application/openmetrics-text"
_FORMATS: dict[str, Any] = {"text/plain": {"schema": {"type": "string"}}, _OPENMETRICS: {"schema": {"type": "string"}}}

router = APIRouter(tags=["health"])


@router.get(
    "/metrics",
    operation_id="metrics",
    summary="Counters for Prometheus",
    response_class=Response,
    responses={200: {"description": "Prometheus' text format, or OpenMetrics where asked for.", "content": _FORMATS}},
)
async def metrics(request: Request, services: ServicesOf) -> Response:
    """Calls, their duration, tokens and cost by provider and model; runs and image jobs by state; the process.

    With workers also what autoscaling goes by: the queue, how long it takes, the live workers. What cannot be had
    within a second is left out.
    """
    await services.metrics.look()
    write, media_type = _format(request.headers.get("accept", ""))
    return Response(write(services.metrics.registry), media_type=media_type)


def _format(accept: str) -> tuple[Callable[[CollectorRegistry], bytes], str]:
    """The library's own choice fails at a version that is no number, and repeats the header in its answer."""
    accepted = {part.partition(";")[0].strip().lower() for part in accept.split(",")}
    if _OPENMETRICS in accepted:
        return openmetrics.generate_latest, openmetrics.CONTENT_TYPE_LATEST
    return exposition.generate_latest, exposition.CONTENT_TYPE_PLAIN_0_0_4
