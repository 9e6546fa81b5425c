"""Finds a provider by its name: one module each in :mod:`providers.llm` and :mod:`providers.media`.

A module is imported when its provider is asked for, so a vendor's SDK costs nothing until then.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from typing import Literal, TypeVar

import providers.llm
import providers.media
from providers.base import ImageProvider, LLMProvider
from providers.errors import ConfigError, UnknownNameError

__all__ = ["FAMILIES", "Family", "image_provider", "known_providers", "llm_provider"]

Family = Literal["llm", "media"]
P = TypeVar("P", LLMProvider, ImageProvider)

FAMILIES: tuple[Family, ...] = ("llm", "media")
_PACKAGES = {"llm": providers.llm, "media": providers.media}


def llm_provider(name: str) -> type[LLMProvider]:
    """The class of chat provider ``name``.

    Raises:
        UnknownNameError: there is no such provider.
        ConfigError: its module defines no provider, or its vendor's package is not installed.
    """
    return _load("llm", name, LLMProvider)  # type: ignore[type-abstract]  # an ABC stands for its subclasses here


def image_provider(name: str) -> type[ImageProvider]:
    """The class of image provider ``name``; raises as :func:`llm_provider` does."""
    return _load("media", name, ImageProvider)  # type: ignore[type-abstract]  # as above


@cache
def known_providers(family: Family) -> frozenset[str]:
    """Names of the providers that this installation holds. Imports none of them.

    A module that holds no provider but serves those beside it starts with an underscore or declares itself in
    ``HELPERS`` of its package.
    """
    package = _PACKAGES[family]
    helpers: frozenset[str] = getattr(package, "HELPERS", frozenset())
    names = (module.name for module in pkgutil.iter_modules(package.__path__))
    return frozenset(name for name in names if not name.startswith("_") and name not in helpers)


def _load(family: Family, name: str, base: type[P]) -> type[P]:
    if name not in known_providers(family):
        raise UnknownNameError(f"{family} provider", name, known_providers(family))
    module = importlib.import_module(f"{_PACKAGES[family].__name__}.{name}")
    for value in vars(module).values():
        if isinstance(value, type) and issubclass(value, base) and value.__module__.startswith(module.__name__):
            return value
    raise ConfigError(
        f"{module.__name__} defines no {base.__name__}", hint=f"write a subclass of {base.__name__} in it"
    )
