"""The answer to whoever books a run, or acts on one."""

from __future__ import annotations

from fastapi import Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict

from graph.store import RunRecord, Status
from sparklio.server.routes.run_views import path_of

__all__ = ["RunBooked", "told"]

_ID = "20260114-101530-3fa9"


class Links(BaseModel):
    """Root-relative addresses."""

    self: str
    events: str
    result: str
    page: str


class RunBooked(BaseModel):
    """The run that was asked for: ``queued`` or further on, and what leads to it."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "run_id": _ID,
                    "status": "queued",
                    "links": {
                        "self": f"/api/v1/runs/{_ID}",
                        "events": f"/api/v1/runs/{_ID}/events",
                        "result": f"/api/v1/runs/{_ID}/result",
                        "page": f"/api/v1/runs/{_ID}/page",
                    },
                }
            ]
        }
    )

    run_id: str
    status: Status
    links: Links


def told(request: Request, record: RunRecord, status: int) -> Response:
    """The answer to whoever has a run booked, or acts on one."""
    routes = {"self": "read_run", "events": "follow_run", "result": "run_result", "page": "run_page"}
    links = {name: path_of(request, route, record.run_id) for name, route in routes.items()}
    answer = RunBooked(run_id=record.run_id, status=record.status, links=Links(**links))
    return JSONResponse(answer.model_dump(mode="json"), status, headers={"Location": links["self"]})
