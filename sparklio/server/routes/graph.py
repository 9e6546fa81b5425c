"""The flow as a drawing."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Query, Response

from graph.draw import Format
from sparklio.server.services import ServicesOf

__all__ = ["router"]

router = APIRouter(tags=["graph"])

_TEXT, _SVG = "text/plain; charset=utf-8", "image/svg+xml"
_SVG_POLICY = "default-src 'none'; style-src 'unsafe-inline'; sandbox"


class _Drawing(Response):
    media_type = None


@router.get(
    "/graph",
    operation_id="draw_graph",
    summary="Draw the flow",
    description="The graph as it is compiled: Mermaid text, plain text of at most 78 columns, or an SVG.",
    response_class=_Drawing,
    responses={
        200: {
            "description": "The drawing.",
            "content": {
                "text/plain": {"schema": {"type": "string"}, "example": "graph TD;\n  brand --> brief"},
                _SVG: {"schema": {"type": "string"}},
            },
        }
    },
)
async def draw_graph(
    services: ServicesOf, drawing: Annotated[Format, Query(alias="format", description="Of the drawing.")] = "mermaid"
) -> Response:
    text = await asyncio.to_thread(services.studio.draw, drawing)
    if drawing == "svg":
        return Response(text, media_type=_SVG, headers={"Content-Security-Policy": _SVG_POLICY})
    return Response(text, media_type=_TEXT)
