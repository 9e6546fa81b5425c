"""The pictures: those that were made, at their own addresses, and photos on their way in."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, File, Header, Request, Response, UploadFile, status
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from routing.contracts import ImageAnswer
from routing.image_store import is_image_id
from sparklio.server.errors import ErrorBody
from sparklio.server.once import IdempotencyKey
from sparklio.server.services import ServicesOf

__all__ = ["image_url", "router", "with_urls"]

router = APIRouter(tags=["images"])

_FOR_EVER = "private, max-age=31536000, immutable"  # the id is the hash of the bytes
_BYTES = {"schema": {"type": "string", "format": "binary"}}
_PICTURES = {
    kind: {"schema": {"type": "string", "format": "binary"}} for kind in ("image/png", "image/jpeg", "image/webp")
}


class UploadedPhoto(BaseModel):
    """``photo`` is the id for ``product.photo`` of a run, or ``options.photo`` of an image."""

    model_config = ConfigDict(json_schema_extra={"examples": [
        {"photo": "0f4a9c5f2f0b4c0d8a8e6b7c5d4e3f2a", "url": "/api/v1/images/0f4a9c5f2f0b4c0d8a8e6b7c5d4e3f2a"}
    ]})  # fmt: skip

    photo: str
    url: str = Field(description="root-relative")


def image_url(request: Request, image_id: str) -> str:
    """Where this server shows the picture, without its own name."""
    return str(request.app.url_path_for("get_image", image_id=image_id))


def with_urls(answer: ImageAnswer, request: Request) -> ImageAnswer:
    """The answer as it is told over HTTP, with this server's addresses in place of its files."""
    images = [image.model_copy(update={"url": image_url(request, image.id)}) for image in answer.images]
    return answer.model_copy(update={"images": images})


@router.get(
    "/images/{image_id}",
    operation_id="get_image",
    summary="The bytes of an image",
    response_class=Response,
    responses={
        200: {"content": _PICTURES, "description": "the picture; it never changes, so keep it for as long as you like"},
        304: {"description": "you have it: If-None-Match names its ETag"},
    },
)
async def get_image(
    image_id: str,
    services: ServicesOf,
    if_none_match: Annotated[str | None, Header(description="ETags of images that the client has.")] = None,
) -> Response:
    """An image that was made here, or a photo that was uploaded, by the id that its answer told."""
    store = services.studio.images
    await asyncio.to_thread(store.path, image_id)
    headers = {"ETag": f'"{image_id}"', "Cache-Control": _FOR_EVER, "X-Content-Type-Options": "nosniff"}
    if _is_known(if_none_match or "", image_id):
        return Response(status_code=304, headers=headers)
    content, media_type = await asyncio.to_thread(store.read, image_id)
    return Response(content, media_type=media_type, headers=headers)


def _is_known(if_none_match: str, image_id: str) -> bool:
    """Weak and strong are the same to a comparison for a cache (RFC 9110, 13.1.2)."""
    tags = [tag.strip().removeprefix("W/").strip('"') for tag in if_none_match.split(",")]
    return "*" in tags or (is_image_id(image_id) and image_id in tags)


@router.post(
    "/uploads",
    operation_id="upload_photo",
    summary="Upload a photo of a product",
    status_code=status.HTTP_201_CREATED,
    response_model=UploadedPhoto,
    responses={409: {"model": ErrorBody, "description": "the Idempotency-Key belongs to another request"}},
)
async def upload_photo(
    file: Annotated[UploadFile, File(description="PNG, JPEG or WebP; at most 20 MB and 50 megapixels (WebP: 16)")],
    request: Request,
    services: ServicesOf,
    key: IdempotencyKey = None,
) -> Response:
    """It is turned upright, laid on white where it is transparent, and rid of what else the camera wrote into it.

    The same photo has the same id, however often it is sent.
    """
    async with _turn(request):
        content = await file.read()

        async def keep(token: str | None) -> Response:
            photo = await services.studio.add_photo(content)
            url = image_url(request, photo)
            return JSONResponse({"photo": photo, "url": url}, status.HTTP_201_CREATED, headers={"Location": url})

        return await services.once.answer(request, keep, body=content)


def _turn(request: Request) -> asyncio.Lock:
    """One photo at a time, for each takes much memory; who waits for it here holds neither a thread nor its bytes."""
    state = request.app.state
    if not hasattr(state, "photo_turn"):
        state.photo_turn = asyncio.Lock()
    turn: asyncio.Lock = state.photo_turn
    return turn
