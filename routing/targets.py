"""What the routing sends to whom: everything that the active providers may be asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from providers.base import Photo
from providers.errors import SparklioError
from providers.registry import Family
from routing.contracts import ImageOptions, ImageRequest, LLMOptions, LLMRequest, Route, Stage
from routing.provider_config import ProviderConfigFile
from routing.router import ImageRoute, Router
from routing.settings import Settings
from routing.tasks import ROLES, TASKS

__all__ = ["Job", "Target", "jobs_of"]

_ANY_PHOTO = "0" * 32  # the id of no picture: routing asks only whether there is one
_PHOTO = Photo(
    bytes.fromhex(  # one grey pixel, PNG
        "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b55"
        "0000000a4944415478da63e80000008a0089529b3b430000000049454e44ae426082"
    ),
    "image/png",
)


@dataclass(frozen=True)
class Target:
    """What a provider may be asked for: a model, or the options and the kind of an image; None is nothing at all."""

    family: Family
    provider: str
    wish: Any = None
    kind: str = ""


@dataclass(frozen=True)
class Job:
    """The routes that may serve one request, the choice first, and what each of them asks for."""

    routes: tuple[Route, ...]
    targets: tuple[Target, ...]


def jobs_of(settings: Settings) -> tuple[list[Job], list[SparklioError]]:
    """Everything that a run or a request of a known role may ask, and why some of it has no route."""
    router = Router(settings.config, settings.default_model, settings.default_variable)
    jobs: list[Job] = []
    unroutable: list[SparklioError] = []
    requests: list[LLMRequest | ImageRequest] = [*_chat_requests(settings.config), *_image_requests(settings.config)]
    for request in requests:
        try:
            jobs.append(_job(router, request))
        except SparklioError as exc:
            unroutable.append(exc)
    return jobs, unroutable


def _chat_requests(config: ProviderConfigFile) -> Iterator[LLMRequest]:
    """Each role with each of its tasks, the tasks that only a rule names included, in each stage."""
    known = [(role, task.name) for task in TASKS.values() for role in task.roles or ROLES]
    own = [(role, task) for rule in config.llm_routing.rules for task in rule.task for role in rule.role or ROLES]
    for role, task in dict.fromkeys(known + own):
        for stage in get_args(Stage):
            yield LLMRequest(role=role, task=task, options=LLMOptions(stage=stage))


def _image_requests(config: ProviderConfigFile) -> Iterator[ImageRequest]:
    """Each kind that a rule names, with a photo where the rule wants one, and the kind of who names none."""
    usual = str(ImageRequest.model_fields["kind"].default)
    active = config.providers.media.active
    rules = [rule for rule in config.media_routing.image if rule.provider in active]
    asked = [(kind, bool(rule.photo)) for rule in rules for kind in rule.kind or (usual,)]
    for kind, photo in dict.fromkeys([(usual, False), *asked]):
        yield ImageRequest(kind=kind, prompt=kind, options=ImageOptions(photo=_ANY_PHOTO if photo else None))


def _job(router: Router, request: LLMRequest | ImageRequest) -> Job:
    if isinstance(request, LLMRequest):
        models = router.llm_routes(request)
        return Job(models, tuple(Target("llm", route.provider, route.model) for route in models))
    routes = router.image_routes(request)
    photo = {"photo": _PHOTO} if request.options.photo else {}
    return Job(routes, tuple(_image_target(route, request.kind, photo) for route in routes))


def _image_target(route: ImageRoute, kind: str, photo: Mapping[str, Photo]) -> Target:
    model = {} if route.image_model is None else {"model": route.image_model}
    return Target("media", route.provider, {**route.options, **model, **photo, "workflow": route.workflow}, kind)
