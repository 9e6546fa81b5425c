"""vision / image_prompt, then the image itself: a picture of the product that fits the brief and the hero section.

Besides the brief and the hero it reads the product and the brand: a picture of "a bottle" is not one of this bottle,
and the brand's colours set the scene. Where there is a photo of the product, pictures that show it by itself start from
that; a banner or a concept is composed anew.
"""

from __future__ import annotations

from typing import Any, NotRequired

from langgraph.runtime import Runtime
from typing_extensions import TypedDict

from nodes.context import Context
from routing.contracts import ImageOptions, ImageRequest, Language

ROLE, TASK = "vision", "image_prompt"
DEFAULTS: dict[str, Any] = {"kind": "product_shot", "aspect_ratio": "16:9"}
FROM_PHOTO = ("product_shot", "thumbnail")


class VisionInput(TypedDict):
    brand: dict[str, Any]
    brief: dict[str, Any]
    sections: list[dict[str, Any]]
    product_input: dict[str, Any]
    image_input: NotRequired[dict[str, Any]]
    language: NotRequired[Language]


class VisionUpdate(TypedDict):
    image: dict[str, Any]


def planned_request(image_input: dict[str, Any]) -> ImageRequest:
    """The image request as far as it is known before a word is written: enough to see whether it can be served."""
    wish = DEFAULTS | image_input
    options = ImageOptions(
        aspect_ratio=wish["aspect_ratio"], workflow=wish.get("workflow"), photo=_photo(wish), seed=wish.get("seed")
    )
    return ImageRequest(kind=wish["kind"], prompt=TASK, options=options)


async def vision(state: VisionInput, runtime: Runtime[Context]) -> VisionUpdate:
    wish = DEFAULTS | state.get("image_input", {})
    payload = {
        "brand": state["brand"],
        "brief": state["brief"],
        "section": state["sections"][0],
        "product_input": state["product_input"],
        "image": {"kind": wish["kind"], "aspect_ratio": wish["aspect_ratio"]},
    }
    if _photo(wish):
        payload["image"]["from_photo"] = True
    written = await runtime.context.ask(ROLE, TASK, payload, language=state.get("language", "ko"))
    request = _image_request(payload, wish, written, runtime.context)
    answer = await runtime.context.make_image(request)
    made = answer.images[0]
    # A resumed run may have found the job of its first try, which was asked in other words: then the image tells them.
    used = made.meta if "prompt" in made.meta else written
    return {
        "image": {
            "image_id": made.id,
            "url": made.url,
            "prompt_used": used["prompt"],
            "negative_prompt": used.get("negative_prompt", ""),
            "seed": made.seed,
            "workflow": made.meta.get("workflow"),
            "width": made.width,
            "height": made.height,
            "kind": wish["kind"],
            "provider": answer.provider,
        }
    }


def _photo(wish: dict[str, Any]) -> str | None:
    """The id of the photo that the picture starts from."""
    return wish.get("photo") if wish["kind"] in FROM_PHOTO else None


def _image_request(
    payload: dict[str, Any], wish: dict[str, Any], written: dict[str, Any], context: Context
) -> ImageRequest:
    """Its idempotency key holds what the agent was given, not what the model wrote: a model never writes the same."""
    seed = wish.get("seed")
    if seed is None:
        seed = context.seed_for("image")
    return ImageRequest(
        kind=wish["kind"],
        prompt=written["prompt"],
        brand={
            "name": payload["brand"]["name"],
            "colors": payload["brand"].get("colors", []),
            "product": payload["product_input"]["name"],
        },
        options=ImageOptions(
            aspect_ratio=wish["aspect_ratio"],
            workflow=wish.get("workflow"),
            photo=_photo(wish),
            negative_prompt=written["negative_prompt"] or None,
            seed=seed,
            idempotency_key=context.job_key(ROLE, payload, wish, seed),
        ),
    )
