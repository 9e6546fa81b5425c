"""Images on their way between the local store and a server's: each is known by the hash of its bytes on both sides."""

from __future__ import annotations

import asyncio

from pydantic import BaseModel

from providers.base import IMAGE_SUFFIXES
from providers.errors import MalformedAnswerError, ServerError, SparklioError, UnknownNameError
from routing.contracts import Image
from routing.image_store import ImageStore, image_id, is_image_id
from routing.remote import Remote
from routing.remote_errors import GATEWAY, told_error

__all__ = ["ImageTransfer", "uploaded"]

_LARGEST_IMAGE = 64 * 2**20


class _Uploaded(BaseModel):
    photo: str


async def uploaded(remote: Remote, file: tuple[str, bytes] | tuple[str, bytes, str]) -> str:
    """The id under which the server keeps a photo that is sent now: its name, its bytes, and of which type they are."""
    response = await remote.ask("POST", "/api/v1/uploads", files={"file": file})
    return remote.parsed(_Uploaded, response).photo


class ImageTransfer:
    """Between ``store`` and one server."""

    def __init__(self, remote: Remote, store: ImageStore) -> None:
        self._remote = remote
        self._store = store
        self._ids: dict[str, str] = {}  # of photos that the server encoded anew: a few, and never wrong

    async def sent(self, photo: str) -> str:
        """The id under which the server has a photo, put there now where only the local store has it.

        The server is asked each time: it removes what no run of its own names. One that nobody has is its to refuse.
        """
        known = self._ids.get(photo, photo)
        if await self._is_there(known):
            return known
        try:
            content, media_type = await asyncio.to_thread(self._store.read, photo)
        except UnknownNameError:
            return photo
        file = (f"photo{IMAGE_SUFFIXES[media_type]}", content, media_type)
        there = await self._remote.patiently(lambda: uploaded(self._remote, file))
        if there != photo:
            self._ids[photo] = there
        return there

    async def fetched(self, image: Image) -> Image:
        """The same image, its file in the local store and its URL there.

        Raises:
            ServerError: what arrives is another image.
            StorageError: it cannot be written.
        """
        try:
            await asyncio.to_thread(self._store.path, image.id)
        except UnknownNameError:
            content, media_type = await self._remote.patiently(lambda: self._remote.settled(lambda: self._get(image)))
            await asyncio.to_thread(self._store.save, content, media_type)
        return image.model_copy(update={"url": self._store.url(image.id)})

    async def _is_there(self, photo: str) -> bool:
        response = await self._remote.patiently(
            lambda: self._remote.ask("HEAD", f"/api/v1/images/{photo}", passes=[404])
        )
        return response.status_code != 404

    async def _get(self, image: Image) -> tuple[bytes, str] | SparklioError:
        if not is_image_id(image.id):
            return MalformedAnswerError(
                f"{image.id!r} is no image id", provider=GATEWAY, hint="is it a Sparklio server?"
            )
        async with self._remote.exchange("GET", f"/api/v1/images/{image.id}") as response:
            if (error := await told_error(response)) is not None:
                return error
            content = bytearray()
            async for chunk in response.aiter_bytes():
                content += chunk
                if len(content) > _LARGEST_IMAGE:
                    return MalformedAnswerError(
                        "an image without end", provider=GATEWAY, hint="is it a Sparklio server?"
                    )
        if image_id(bytes(content)) != image.id:
            raise ServerError("an image arrived damaged", provider=GATEWAY, hint="try again")
        return bytes(content), response.headers.get("content-type", "").partition(";")[0]
