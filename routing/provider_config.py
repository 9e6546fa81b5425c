"""provider_config.yaml, read once by :func:`load_provider_config` into frozen models.

Every error names the file, the key and the remedy.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
)
from pydantic_core import ErrorDetails

from providers.errors import ConfigError, UnknownNameError, nearest
from providers.registry import Family, known_providers
from routing.contracts import DeviceName, Stage
from routing.prices import Price
from routing.tasks import ROLES
from routing.yaml_text import read_mapping

__all__ = ["ImageRule", "LLMRule", "ProviderConfigFile", "load_provider_config"]


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], BeforeValidator(_as_list)]

_FREE, _BY_MODEL = "<free>", "<by model>"  # stand in the place of an error, and in no file
_PricesOfOne = Annotated[
    Annotated[Literal["free"], Tag(_FREE)] | Annotated[dict[str, Price], Tag(_BY_MODEL)],
    Discriminator(lambda value: _FREE if isinstance(value, str) else _BY_MODEL),
]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _Activation(_Frozen):
    active: Names = ()
    available: Names = ()


class _Providers(_Frozen):
    llm: _Activation = _Activation()
    media: _Activation = _Activation()


class LLMRule(_Frozen):
    """Matches when each of role, task and stage is empty or holds the request's. Low ``priority`` comes first."""

    role: Names = ()
    task: Names = ()
    stage: Stage | None = Field(default=None, validation_alias=AliasChoices("stage", "mode"))
    provider: str
    model: str | None = None
    priority: int = 100

    def matches(self, role: str, task: str, stage: str) -> bool:
        return (
            (not self.role or role in self.role)
            and (not self.task or task in self.task)
            and self.stage in (None, stage)
        )


class ImageRule(_Frozen):
    """Matches when ``kind`` is empty or holds the request's, and ``photo`` is absent or says whether there is one.

    ``options`` go to the provider beneath the request's; ``device`` names the machine whose workers make the image.
    """

    kind: Names = ()
    photo: bool | None = None
    provider: str
    model: str | None = None
    workflow: str | None = None
    device: DeviceName | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    priority: int = 100

    def matches(self, kind: str, *, photo: bool) -> bool:
        return (not self.kind or kind in self.kind) and self.photo in (None, photo)


class _LLMRouting(_Frozen):
    rules: tuple[LLMRule, ...] = ()


class _MediaRouting(_Frozen):
    image: tuple[ImageRule, ...] = ()


class ProviderConfigFile(_Frozen):
    """The whole file. ``models`` is ``{provider: {model: {option: value}}}``, ``settings`` ``{VARIABLE: value}``,
    ``prices`` ``{provider: "free" | {model: {input, output, image}}}`` in US dollars.
    """

    providers: _Providers
    llm_routing: _LLMRouting = _LLMRouting()
    media_routing: _MediaRouting = _MediaRouting()
    models: dict[str, dict[str, dict[str, Any]]] = Field(default_factory=dict)
    prices: dict[str, _PricesOfOne] = Field(default_factory=dict)
    settings: dict[str, str | int | float] = Field(default_factory=dict, repr=False)


def load_provider_config(path: Path) -> ProviderConfigFile:
    """Read and check the file at ``path``.

    Raises:
        ConfigError: it cannot be read, is not YAML, or a key or value is wrong.
    """
    raw = read_mapping(
        path, ConfigError, holds="the key 'providers'", hint="set SPARKLIO_CONFIG to a file, or run `sparklio init`"
    )
    try:
        config = ProviderConfigFile.model_validate(raw)
    except ValidationError as exc:
        first = min(exc.errors(), key=lambda error: error["type"] != "extra_forbidden")
        raise _explain(path, first) from exc
    _check_names(path, config)
    return config


def _explain(path: Path, error: ErrorDetails) -> ConfigError:
    """One sentence for the first error: ``providers.llm.actve`` with the nearest key as the hint."""
    parts = [part for part in error["loc"] if part not in (_FREE, _BY_MODEL)]
    if parts[0] == "settings":
        parts = parts[:2]  # behind it stands which of its types a value is not
    key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts).lstrip(".")
    if error["type"] == "extra_forbidden":
        known = _known_keys(parts)
        close = nearest(str(parts[-1]), known)
        return ConfigError(
            f"{path}: unknown key {key}; known: {', '.join(known)}",
            hint=f"did you mean {close!r}?" if close else "remove it or mend its spelling",
        )
    if error["type"] == "missing":
        return ConfigError(f"{path}: {key} is missing", hint=f"add {key}")
    shown = "" if parts[0] == "settings" else f", got {error['input']!r}"  # a setting may be a secret
    return ConfigError(f"{path}: {key}: {_problem(parts, error)}{shown}", hint=f"mend {key}")


def _problem(parts: list[int | str], error: ErrorDetails) -> str:
    if parts[0] == "settings" and len(parts) == 2:
        return "must be a text or a number"
    if parts[0] == "prices" and len(parts) == 2:
        return "must be the word free, or prices by model: {NAME: {input: 1.00, output: 4.00}}"
    said = error["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    return _FORMS.get(error["type"], said)


_FORMS = {
    "dict_type": "must be a mapping",
    "model_type": "must be a mapping",
    "tuple_type": "must be a list",
    "string_type": "must be a text",
}


def _known_keys(location: list[int | str]) -> list[str]:
    """Field names of the model in which the unknown key stands."""
    model: type[BaseModel] = ProviderConfigFile
    for part in location[:-1]:
        if isinstance(part, str) and part in model.model_fields:
            model = next(_models_in(model.model_fields[part].annotation), model)
    return list(model.model_fields)


def _models_in(annotation: object) -> Iterator[type[BaseModel]]:
    """The models that an annotation names, however deep."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models_in(inner)


def _check_names(path: Path, config: ProviderConfigFile) -> None:
    """Unknown roles and providers are typing errors: say so here, not when a run falls through to a default."""
    families: tuple[tuple[Family, _Activation], ...] = (
        ("llm", config.providers.llm),
        ("media", config.providers.media),
    )
    for family, activation in families:
        for index, name in enumerate(activation.active):
            _check(path, f"providers.{family}.active[{index}]", "provider", name, known_providers(family))
    llm_names = _names("llm", config.providers.llm)
    for index, rule in enumerate(config.llm_routing.rules):
        _check(path, f"llm_routing.rules[{index}].provider", "provider", rule.provider, llm_names)
        for role in rule.role:
            _check(path, f"llm_routing.rules[{index}].role", "role", role, ROLES)
    media_names = _names("media", config.providers.media)
    for index, image_rule in enumerate(config.media_routing.image):
        _check(path, f"media_routing.image[{index}].provider", "provider", image_rule.provider, media_names)
    for key, named in (("models", config.models), ("prices", config.prices)):
        for name in named:
            _check(path, f"{key}.{name}", "provider", name, llm_names | media_names)


def _names(family: Family, activation: _Activation) -> frozenset[str]:
    """Installed providers and those that the file promises to come."""
    return known_providers(family) | frozenset(activation.available)


def _check(path: Path, key: str, kind: str, name: str, known: frozenset[str] | tuple[str, ...]) -> None:
    if name not in known:
        unknown = UnknownNameError(kind, name, known)
        raise ConfigError(f"{path}: {key}: {unknown.message}", hint=unknown.hint)
