"""The photo that an image starts from: which workflows take one, and the file that it becomes on the server."""

from __future__ import annotations

import hashlib

from providers.base import IMAGE_SUFFIXES, Photo
from providers.errors import WorkflowError
from providers.media.comfyui.client import ComfyUIClient
from providers.media.comfyui.workflow import Workflow, WorkflowFolder

__all__ = ["check_photo", "upload_photo"]

SLOT = "image"


def check_photo(photo: Photo | None, workflow: Workflow, folder: WorkflowFolder) -> None:
    """Whether the workflow starts from a photo exactly where one is given.

    Raises:
        WorkflowError: it would ignore the photo, or it has none to start from.
    """
    takes_photo = SLOT in workflow.slots
    if takes_photo and photo is None:
        raise WorkflowError(
            f"workflow {workflow.name!r} starts from a photo, and none is given",
            provider=folder.provider,
            hint="give the product a `photo:` (product shots and thumbnails start from it), or keep the workflow for "
            "photos with `photo: true` in its rule of media_routing",
        )
    if photo is not None and not takes_photo:
        raise WorkflowError(
            f"workflow {workflow.name!r} has no @image slot and would ignore the photo",
            provider=folder.provider,
            hint=_takers_hint(folder),
        )


def _takers_hint(folder: WorkflowFolder) -> str:
    takers = [name for name in folder.names() if _takes_photo(folder, name)]
    if not takers:
        return "put @image into the title of the workflow's LoadImage node"
    return f"route photos to {' or '.join(takers)} with `photo: true` in media_routing of provider_config.yaml"


def _takes_photo(folder: WorkflowFolder, name: str) -> bool:
    try:
        return SLOT in folder.load(name).slots
    except WorkflowError:  # a malformed one is told where it is asked for
        return False


async def upload_photo(client: ComfyUIClient, photo: Photo) -> str:
    """Put the photo into the server's input folder; returns what a LoadImage node calls it.

    Its name follows from its bytes, so that the same photo is the same file, however often it is sent.

    Raises:
        ProviderError: as every request of the client.
    """
    digest = hashlib.sha256(photo.content).hexdigest()[:32]
    name = f"sparklio_{digest}{IMAGE_SUFFIXES.get(photo.media_type, '.png')}"
    file = await client.upload_image(photo.content, name, overwrite=True)
    return f"{file.subfolder}/{file.filename}" if file.subfolder else file.filename
