"""Finds a provider by its name: one module each in :mod:`providers.llm` and :mod:`providers.media`, or from outside.

An installed package offers providers of its own as entry points of the groups ``sparklio.llm_providers`` and
``sparklio.image_providers``: the name is the one in provider_config.yaml, the object the class. Either is imported when
its provider is asked for, so a vendor's SDK costs nothing until then.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from inspect import isabstract
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
_GROUPS = {"llm": "sparklio.llm_providers", "media": "sparklio.image_providers"}


def llm_provider(name: str) -> type[LLMProvider]:
    """The class of chat provider ``name``.

    Raises:
        UnknownNameError: there is no such provider.
        ConfigError: its module holds no provider or cannot be imported, or two packages offer one of this name.
    """
    return _load("llm", name, LLMProvider)  # type: ignore[type-abstract]  # an ABC stands for its subclasses here


def image_provider(name: str) -> type[ImageProvider]:
    """The class of image provider ``name``; raises as :func:`llm_provider` does."""
    return _load("media", name, ImageProvider)  # type: ignore[type-abstract]  # as above


@cache
def known_providers(family: Family) -> frozenset[str]:
    """Names of the providers that this installation holds. Imports none of them."""
    return _own(family) | frozenset(entry.name for entry in _offered(family))


@cache
def _own(family: Family) -> frozenset[str]:
    """A module that holds no provider but serves those beside it starts with an underscore or stands in ``HELPERS``."""
    package = _PACKAGES[family]
    helpers: frozenset[str] = getattr(package, "HELPERS", frozenset())
    names = (module.name for module in pkgutil.iter_modules(package.__path__))
    return frozenset(name for name in names if not name.startswith("_") and name not in helpers)


@cache
def _offered(family: Family) -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group=_GROUPS[family]))


def _load(family: Family, name: str, base: type[P]) -> type[P]:
    offered = [entry for entry in _offered(family) if entry.name == name]
    own = name in _own(family)
    if not own and not offered:
        raise UnknownNameError(f"{family} provider", name, known_providers(family))
    if own + len(offered) > 1:
        packages = ", ".join(sorted(entry.dist.name if entry.dist else entry.value for entry in offered))
        raise ConfigError(
            f"more than one {family} provider is named {name!r}", hint=f"uninstall or rename that of {packages}"
        )
    return _of_module(f"{_PACKAGES[family].__name__}.{name}", base) if own else _of_package(offered[0], base)


def _of_module(path: str, base: type[P]) -> type[P]:
    for value in vars(importlib.import_module(path)).values():
        if isinstance(value, type) and issubclass(value, base) and value.__module__.startswith(path):
            return value
    raise ConfigError(f"{path} defines no {base.__name__}", hint=f"write a subclass of {base.__name__} in it")


def _of_package(entry: EntryPoint, base: type[P]) -> type[P]:
    try:
        provider = entry.load()
    except Exception as exc:  # somebody else's module may fail in any way
        raise ConfigError(
            f"provider {entry.name!r} cannot be loaded from {entry.value}: {exc}",
            hint="install what its package needs, or take it out of `active` in provider_config.yaml",
        ) from exc
    if not (isinstance(provider, type) and issubclass(provider, base)) or isabstract(provider):
        raise ConfigError(
            f"provider {entry.name!r} ({entry.value}) is no {base.__name__}",
            hint=f"its package must offer a subclass of {base.__name__} with all of its methods",
        )
    return provider
