"""Effective settings, each with its source and what it hides.

Order: argument > OS environment > .env > provider_config.yaml > default. A value in the OS environment that hides a
different one in .env is said aloud (:attr:`Settings.warnings`): that very thing once cost a team a day. So is what in
.env looks like a slip.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast
from urllib.parse import unquote, urlsplit

from providers.base import ImageProvider, LLMProvider, ProviderConfig, Setting
from providers.errors import ConfigError, UnknownNameError, nearest
from providers.http import is_http_url
from providers.registry import FAMILIES, Family, image_provider, known_providers, llm_provider
from routing.contracts import Mode
from routing.dotenv_file import DotenvFile, Doubt, read_dotenv
from routing.packaged_files import DEFAULT_CONFIG
from routing.provider_config import ProviderConfigFile, load_provider_config

__all__ = ["Settings", "Source", "Value", "load_settings", "mask"]

Source = Literal["argument", "environment", ".env", "provider_config.yaml", "default"]

CORE_SETTINGS = (
    Setting(
        "GENERATOR_MODE",
        "mock: answers made here, no server; live: real models.",
        "mock",
        kind="choice",
        choices=("mock", "live"),
    ),
    Setting("GATEWAY_TIMEOUT_MOCK", "Seconds for one LLM request with all its attempts, in mock.", "5", kind="seconds"),
    Setting("GATEWAY_TIMEOUT_LIVE", "The same in live.", "180", kind="seconds"),
    Setting("RUN_BUDGET_USD", "What one run may spend on rented models, in US dollars; none: no limit.", kind="amount"),
    Setting("SPARKLIO_HOME", "Data folder: runs, images, checkpoints.", "./.sparklio", kind="path"),
    Setting(
        "SPARKLIO_ENCRYPTION_KEY",
        "Encrypts what the database keeps: 32 bytes as base64 or 64 hex digits; none: nothing is.",
        secret=True,
    ),
    Setting(
        "SPARKLIO_DATABASE_URL",
        "PostgreSQL for the runs of several machines, postgresql://...; none: SQLite and files in SPARKLIO_HOME.",
        kind="place",
        choices=("postgresql", "postgres"),
    ),
    Setting(
        "SPARKLIO_BROKER_URL",
        "Redis, redis://..., by which workers are given the runs; none: whoever books a run drives it.",
        kind="place",
        choices=("redis", "rediss"),
    ),
    Setting(
        "SPARKLIO_ARTIFACTS_URL",
        "Where images and pages are kept: file:///shared/folder or s3://bucket/prefix; none: in SPARKLIO_HOME.",
        kind="place",
        choices=("file", "s3", "gs", "az"),
    ),
    Setting(
        "SPARKLIO_MAX_DELIVERIES",
        "How often a run is begun that its worker dies of, or whose models are away, before it is set apart as failed.",
        "5",
        kind="count",
    ),
    Setting("SPARKLIO_CONFIG", "The routing file.", "./provider_config.yaml", kind="path"),
    Setting("SPARKLIO_GATEWAY_URL", "Another Sparklio's server, whose gateways answer instead of our own.", kind="url"),
    Setting("SPARKLIO_GATEWAY_KEY", "One of that server's SPARKLIO_API_KEYS.", secret=True),
    Setting(
        "SPARKLIO_API_KEYS",
        "Keys that the server takes, separated by commas, each of 16 characters at least; none: loopback only.",
        kind="words",
        secret=True,
    ),
    Setting("SPARKLIO_MAX_RUNS", "How many runs the server, or a batch, drives at once.", "2", kind="count"),
    Setting(
        "SPARKLIO_MAX_QUEUED",
        "How many more runs, or images, may wait; beyond it the server says 429.",
        "1000",
        kind="count",
    ),
    Setting("SPARKLIO_MAX_BODY_MB", "The largest request that the server reads, in megabytes.", "25", kind="amount"),
    Setting(
        "SPARKLIO_ALLOWED_HOSTS",
        "Host names, beside its own address, that the server answers to, separated by commas.",
        kind="words",
    ),
    Setting(
        "SPARKLIO_CORS_ORIGINS",
        "Web origins that may call the server from a browser, separated by commas; none: none.",
        kind="words",
    ),
)

_SHORTEST_KEY = 16
_URLSAFE = str.maketrans("-_", "+/")


@dataclass(frozen=True)
class Value:
    """One effective value; ``hides`` holds what weaker sources say differently, strongest first."""

    setting: Setting
    value: str | None = field(repr=False)
    source: Source
    hides: tuple[tuple[Source, str], ...] = field(default=(), repr=False)

    def shown(self) -> str | None:
        """The value as it may be shown: secrets and credentials inside URLs masked."""
        return _shown(self.setting, self.value)

    def words(self) -> tuple[str, ...]:
        """The parts of a list; of any other value the value itself, if there is one."""
        return _words(self.setting, self.value)

    def to_dict(self) -> dict[str, object]:
        return {
            "value": self.shown(),
            "source": self.source,
            "hides": [{"source": source, "value": _shown(self.setting, value)} for source, value in self.hides],
        }


@dataclass(frozen=True)
class Settings:
    """Everything that configures a process: variables and the routing file. Build it with :func:`load_settings`."""

    values: Mapping[str, Value]
    config: ProviderConfigFile
    config_path: Path
    folder: Path
    doubts: tuple[Doubt, ...] = field(default=())

    @property
    def warnings(self) -> tuple[str, ...]:
        """The doubts, a sentence each."""
        return tuple(map(str, self.doubts))

    def text(self, name: str) -> str | None:
        return self.values[name].value

    def words(self, name: str) -> tuple[str, ...]:
        return self.values[name].words()

    def count(self, name: str) -> int:
        return int(self._required(name))

    @property
    def mode(self) -> Mode:
        return cast("Mode", self._required("GENERATOR_MODE"))

    @property
    def home(self) -> Path:
        """The data folder, absolute."""
        return self.folder / Path(self._required("SPARKLIO_HOME")).expanduser()

    @property
    def images(self) -> Path:
        """Where images and uploaded photos are kept."""
        return self.home / "images"

    @property
    def pages(self) -> Path:
        """Where finished pages are kept."""
        return self.home / "pages"

    @property
    def gateway_timeout_s(self) -> float:
        """Bound on one LLM request with all its attempts, in seconds, for the present mode."""
        return float(self._required(f"GATEWAY_TIMEOUT_{self.mode.upper()}"))

    @property
    def run_budget_usd(self) -> float | None:
        """What one run may spend, in US dollars; None where there is no limit."""
        value = self.text("RUN_BUDGET_USD")
        return None if value is None else float(value)

    @property
    def encryption_key(self) -> bytes | None:
        """32 bytes that the database is encrypted with; None where it is not."""
        value = self.text("SPARKLIO_ENCRYPTION_KEY")
        return None if value is None else _key_bytes(value)

    @property
    def database_url(self) -> str | None:
        """PostgreSQL's URL; None: SQLite, and files in the data folder."""
        return self.text("SPARKLIO_DATABASE_URL")

    @property
    def broker_url(self) -> str | None:
        """Redis' URL; None: there are no workers."""
        return self.text("SPARKLIO_BROKER_URL")

    @property
    def artifacts_url(self) -> str | None:
        """Where images and pages are kept; None: in the data folder."""
        return self.text("SPARKLIO_ARTIFACTS_URL")

    @property
    def secrets(self) -> tuple[str, ...]:
        """Values that no log, event or answer may hold."""
        return tuple(secret for value in self.values.values() for secret in _secrets(value))

    def to_dict(self) -> dict[str, Any]:
        """What every face shows of the settings: each value with its source and what it hides, secrets masked."""
        return {
            "config_path": str(self.config_path),
            "settings": {name: value.to_dict() for name, value in self.values.items()},
            "warnings": list(self.warnings),
        }

    def _required(self, name: str) -> str:
        value = self.values[name].value
        if value is None:
            raise ConfigError(f"{name} is not set", hint=f"set {name}")
        return value

    def provider_config(self, family: Family, name: str) -> ProviderConfig:
        """What provider ``name`` is built from: the variables that it declares and its models' options."""
        declared = _provider_class(family, name).settings
        return ProviderConfig(
            name=name,
            values={setting.name: self.values[setting.name].value for setting in declared},
            models=self.config.models.get(name, {}),
        )

    def default_model(self, family: Family, name: str) -> str | None:
        """The model of provider ``name`` where no rule names one."""
        variable = self.default_variable(family, name)
        return self.values[variable].value if variable else None

    def default_variable(self, family: Family, name: str) -> str | None:
        """The variable that names :meth:`default_model`, e.g. ``OLLAMA_DEFAULT_MODEL``; None where there is none."""
        declared = _provider_class(family, name).settings
        return next((setting.name for setting in declared if setting.kind == "model"), None)


def load_settings(
    arguments: Mapping[str, str | None] | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> Settings:
    """Collect the settings for a process that runs in ``folder`` (default: the current one).

    Args:
        arguments: values by variable name that beat all others; None values are passed over.
        environ: the OS environment (default: ``os.environ``).
        folder: where .env, ./provider_config.yaml and relative paths are looked for.

    Raises:
        ConfigError: a value is not of its kind, or the routing file is wrong.
        UnknownNameError: an argument names no variable.
    """
    folder = (folder or Path.cwd()).resolve()
    dotenv = read_dotenv(folder / ".env")
    layers: list[tuple[Source, Mapping[str, str | None]]] = [
        ("argument", arguments or {}),
        ("environment", os.environ if environ is None else environ),
        (".env", dotenv.values),
    ]
    config_path = _config_path(layers, folder)
    config = load_provider_config(config_path)
    layers.append(("provider_config.yaml", _as_text(config.settings)))
    if config_path != DEFAULT_CONFIG:
        layers.append(("default", _as_text(load_provider_config(DEFAULT_CONFIG).settings)))

    declared = {setting.name: setting for setting in (*CORE_SETTINGS, *_declared_by_providers(config))}
    _check_known(config, config_path, declared)
    for name in arguments or {}:
        if name not in declared:
            raise UnknownNameError("setting", name, declared)
    values = {name: _resolve(setting, layers) for name, setting in declared.items()}
    values["SPARKLIO_CONFIG"] = replace(values["SPARKLIO_CONFIG"], value=str(config_path))
    settings = Settings(values, config, config_path, folder, tuple(_doubts(values.values(), dotenv)))
    _ = settings.encryption_key  # refused here as any wrong value, not when the database is opened
    if settings.broker_url and not settings.database_url:
        raise ConfigError(
            "SPARKLIO_BROKER_URL is set and SPARKLIO_DATABASE_URL is not: workers keep their runs in PostgreSQL",
            hint="set SPARKLIO_DATABASE_URL=postgresql://user:password@host/database, or unset SPARKLIO_BROKER_URL",
        )
    if settings.broker_url and not settings.artifacts_url:
        raise ConfigError(
            "SPARKLIO_BROKER_URL is set and SPARKLIO_ARTIFACTS_URL is not: nobody finds what workers make",
            hint="set SPARKLIO_ARTIFACTS_URL to what all machines see: file:///shared/folder, or s3://bucket/prefix",
        )
    return settings


def mask(value: str | None, *, secret: bool = False) -> str | None:
    """``value`` as it may be shown: a secret keeps its last four characters at most, a URL loses its credentials."""
    if not value:
        return value
    if secret:
        return "***" + (value[-4:] if len(value) > 12 else "")
    scheme, separator, rest = value.partition("://")
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if separator and "@" in authority:
        return f"{scheme}://***@{rest[authority.rindex('@') + 1 :]}"
    return value


def _secrets(value: Value) -> tuple[str, ...]:
    """The value, or of a URL its password, as it is and as it stands there."""
    if value.setting.secret:
        return value.words()
    if value.setting.kind == "place" and value.value and (password := urlsplit(value.value).password):
        return tuple(dict.fromkeys((password, unquote(password))))
    return ()


def _words(setting: Setting, value: str | None) -> tuple[str, ...]:
    parts = (value or "").split(",") if setting.kind == "words" else [value or ""]
    return tuple(part.strip() for part in parts if part.strip())


def _shown(setting: Setting, value: str | None) -> str | None:
    shown = (mask(word, secret=setting.secret) or "" for word in _words(setting, value))
    return value and ", ".join(shown)


def _key_bytes(text: str) -> bytes:
    """32 bytes from 64 hex digits or base64 of either alphabet; no part of the text is told where it is neither."""
    try:
        key = bytes.fromhex(text) if len(text) == 64 else base64.b64decode(_padded(text), validate=True)
    except ValueError:
        key = b""
    if len(key) != 32:
        raise ConfigError(
            "SPARKLIO_ENCRYPTION_KEY must be 32 bytes as base64, or 64 hex digits",
            hint='make one with: python -c "import secrets; print(secrets.token_hex(32))"',
        )
    return key


def _padded(text: str) -> str:
    """The base64 of 32 bytes in the standard alphabet with its one ``=``, which token_urlsafe leaves out."""
    return text.rstrip("=").translate(_URLSAFE) + "="


def _config_path(layers: list[tuple[Source, Mapping[str, str | None]]], folder: Path) -> Path:
    """SPARKLIO_CONFIG if somebody set it, else ./provider_config.yaml, else the packaged one."""
    for _, layer in layers:
        if chosen := layer.get("SPARKLIO_CONFIG"):
            return folder / Path(chosen).expanduser()
    local = folder / "provider_config.yaml"
    return local if local.is_file() else DEFAULT_CONFIG


def _as_text(settings: Mapping[str, str | int | float]) -> dict[str, str | None]:
    return {name: str(value) for name, value in settings.items()}


def _provider_class(family: Family, name: str) -> type[LLMProvider] | type[ImageProvider]:
    return llm_provider(name) if family == "llm" else image_provider(name)


def _declared_by_providers(config: ProviderConfigFile) -> Iterable[Setting]:
    for name in config.providers.llm.active:
        yield from llm_provider(name).settings
    for name in config.providers.media.active:
        yield from image_provider(name).settings


def _check_known(config: ProviderConfigFile, path: Path, declared: Mapping[str, Setting]) -> None:
    """Refuse a variable in the routing file that no provider reads; idle providers are imported only to ask them."""
    strangers = [name for name in config.settings if name not in declared]
    if not strangers:
        return
    idle = (_provider_class(family, name) for family in FAMILIES for name in known_providers(family))
    readable = set(declared) | {setting.name for provider in idle for setting in provider.settings}
    for name in strangers:
        if name not in readable:
            close = nearest(name, readable)
            hint = f"did you mean {close!r}?" if close else "see .env.example for the variables"
            raise ConfigError(f"{path}: settings.{name}: no provider reads this variable", hint=hint)


def _resolve(setting: Setting, layers: list[tuple[Source, Mapping[str, str | None]]]) -> Value:
    found = [(source, value) for source, layer in layers if (value := _said(setting, layer))]
    if setting.default is not None:
        found.append(("default", setting.default))
    if not found:
        return Value(setting, None, "default")
    source, value = found[0]
    _check(setting, value, source)
    return Value(setting, value, source, tuple((s, v) for s, v in found[1:] if v != value))


def _said(setting: Setting, layer: Mapping[str, str | None]) -> str | None:
    """What a layer says; a key that was read from a file often brings its line's end along."""
    value = layer.get(setting.name)
    return value.strip() if value and setting.secret else value


def _check(setting: Setting, value: str, source: Source) -> None:
    problem = ""
    if setting.kind == "choice" and value not in setting.choices:
        problem = f"must be one of {', '.join(setting.choices)}"
    elif setting.kind == "url" and not is_http_url(value):
        problem = "must be an http:// or https:// URL"
    elif setting.kind == "place" and value.partition("://")[0] not in setting.choices:
        problem = f"must be a URL that begins with {' or '.join(f'{scheme}://' for scheme in setting.choices)}"
    elif setting.kind == "seconds" and not _is_number(value, lambda number: number > 0):
        problem = "must be a number of seconds above 0"
    elif setting.kind == "amount" and not _is_number(value, lambda number: number >= 0):
        problem = "must be a number from 0"
    elif setting.kind == "count" and not _is_number(value, lambda number: number >= 1 and number.is_integer()):
        problem = "must be a whole number from 1"
    elif setting.secret and not all(map(_is_plain, _words(setting, value))):
        problem = "must be one word of plain ASCII, as keys are"
    elif (
        setting.secret and setting.kind == "words" and any(len(word) < _SHORTEST_KEY for word in _words(setting, value))
    ):
        problem = f"must have keys of {_SHORTEST_KEY} characters at least"
    if problem:
        shown = _shown(setting, value)
        raise ConfigError(f"{setting.name} {problem}, got {shown!r} from {source}", hint=f"mend it in {source}")


def _is_plain(word: str) -> bool:
    return word.isascii() and word.isprintable() and " " not in word


def _is_number(value: str, fits: Callable[[float], bool]) -> bool:
    try:
        return fits(float(value)) and float(value) < float("inf")
    except ValueError:
        return False


def _doubts(values: Iterable[Value], dotenv: DotenvFile) -> Iterator[Doubt]:
    """Variables of the OS environment that hide another value in .env, and what in .env looks like a slip."""
    values = tuple(values)
    for value in values:
        name = value.setting.name
        for source, hidden in value.hides:
            if value.source == "environment" and source == ".env":
                found = f"{value.shown()} from the OS environment hides {_shown(value.setting, hidden)} of .env"
                yield Doubt(f"setting {name}", found, f"unset {name}")
    yield from dotenv.doubts({value.setting.name for value in values})
