"""From a request to the routes that may serve it: the first is the choice, the next ones the fallbacks.

A pure function of provider_config.yaml and the default models; it calls nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from providers.errors import ConfigError, UnknownNameError
from providers.registry import Family
from routing.contracts import ImageOptions, ImageRequest, LLMRequest
from routing.provider_config import ImageRule, ProviderConfigFile

__all__ = ["ImageRoute", "LLMRoute", "Router"]


@dataclass(frozen=True)
class LLMRoute:
    provider: str
    model: str


@dataclass(frozen=True)
class ImageRoute:
    """``image_model`` is what a rented service is asked for, ``workflow`` what ComfyUI is."""

    provider: str
    workflow: str | None
    image_model: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    device: str | None = None

    @property
    def model(self) -> str:
        """What stands for the model in ``meta.attempts`` and in the prices."""
        return self.image_model or self.workflow or ""


class Router:
    """Routes by role, task, kind, stage and priority.

    Args:
        config: the routing file.
        default_model: the model of a family's provider where no rule names one; None where there is none.
        default_variable: the variable that names it, for the hint of an error; None where there is none.
    """

    def __init__(
        self,
        config: ProviderConfigFile,
        default_model: Callable[[Family, str], str | None],
        default_variable: Callable[[Family, str], str | None] = lambda family, name: None,
    ) -> None:
        self._llm_active = config.providers.llm.active
        self._media_active = config.providers.media.active
        self._models = config.models
        self._default_model = default_model
        self._default_variable = default_variable
        by_priority = sorted(config.llm_routing.rules, key=lambda rule: rule.priority)
        self._llm_rules = [rule for rule in by_priority if rule.provider in self._llm_active]
        images = sorted(config.media_routing.image, key=lambda rule: rule.priority)
        self._image_rules = [rule for rule in images if rule.provider in self._media_active]

    def llm_routes(self, request: LLMRequest) -> tuple[LLMRoute, ...]:
        """Routes for a chat request, never empty. ``options.provider`` and ``options.model`` win over the rules.

        Raises:
            UnknownNameError: the provider asked for is not active.
            ConfigError: no chat provider is active, or none has a model for this.
        """
        options = request.options
        rules = [rule for rule in self._llm_rules if rule.matches(request.role, request.task, options.stage)]
        if options.provider:
            _check_active("LLM provider", options.provider, self._llm_active)
            rules = [rule for rule in rules if rule.provider == options.provider]
        routes = [self._llm_route(rule.provider, options.model or rule.model) for rule in rules]
        if not routes:
            routes = [self._llm_route(options.provider or _first(self._llm_active, "llm"), options.model)]
        return tuple(dict.fromkeys(routes[:1] if options.model else routes))

    def image_routes(self, request: ImageRequest) -> tuple[ImageRoute, ...]:
        """Routes for an image, never empty. The request's ``provider``, ``options.model`` and ``.workflow`` win.

        Raises:
            UnknownNameError: the provider asked for is not active.
            ConfigError: no image provider is active.
        """
        options = request.options
        rules = [rule for rule in self._image_rules if rule.matches(request.kind, photo=options.photo is not None)]
        if request.provider != "auto":
            _check_active("image provider", request.provider, self._media_active)
            rules = [rule for rule in rules if rule.provider == request.provider]
        if options.workflow:
            rules = [rule for rule in rules if rule.workflow] or rules[:1]
        if not rules:
            provider = _first(self._media_active, "media") if request.provider == "auto" else request.provider
            rules = [ImageRule(provider=provider)]
        routes = [self._image_route(rule, options) for rule in (rules[:1] if options.model else rules)]
        return tuple(route for place, route in enumerate(routes) if route not in routes[:place])

    def own_options(self, route: LLMRoute | ImageRoute) -> dict[str, Any]:
        """What provider_config.yaml gives the route's model: its entry under ``models``, and the rule's options."""
        own = self._models.get(route.provider, {}).get(route.model, {})
        return {**own, **route.options} if isinstance(route, ImageRoute) else dict(own)

    def _image_route(self, rule: ImageRule, asked: ImageOptions) -> ImageRoute:
        model = asked.model or rule.model or self._default_model("media", rule.provider)
        return ImageRoute(
            rule.provider, asked.workflow or rule.workflow, model, rule.options, asked.device or rule.device
        )

    def _llm_route(self, provider: str, model: str | None) -> LLMRoute:
        chosen = model or self._default_model("llm", provider)
        if not chosen:
            variable = self._default_variable("llm", provider)
            raise ConfigError(
                f"no rule names a model of provider {provider!r} for this request, and it has no default model",
                hint=(f"set {variable}, or " if variable else "") + "add `model:` to a rule in provider_config.yaml",
            )
        return LLMRoute(provider, chosen)


def _check_active(kind: str, name: str, active: tuple[str, ...]) -> None:
    if name not in active:
        raise UnknownNameError(kind, name, active, hint=f"add {name!r} to `active` in provider_config.yaml")


def _first(active: tuple[str, ...], family: str) -> str:
    if not active:
        raise ConfigError(
            f"no {family} provider is active", hint=f"name one under providers.{family}.active in provider_config.yaml"
        )
    return active[0]
