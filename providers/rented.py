"""What rented services have in common, chat or image: a key, an address, a package of their own, HTTP's statuses."""

from __future__ import annotations

import importlib
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import Any, ClassVar

import httpx

from providers.base import Finding, ProviderConfig, Setting
from providers.errors import (
    AttemptTimeoutError,
    AuthenticationError,
    ConfigError,
    ModelNotFoundError,
    OverloadedError,
    ProviderError,
    RejectedError,
    ServerError,
    UnreachableError,
)
from providers.exchange import Exchange, note_response
from providers.http import PerLoop, client_options, error_type, said, without_credentials
from providers.usage import Usage

__all__ = ["MISSHAPEN", "Rented", "Service", "rented_settings", "transport_failure", "wanted"]

MISSHAPEN = (ValueError, TypeError, AttributeError, LookupError)
"""What comes out where a request, or a body, is not of the vendor's form."""
_PROBE_TIMEOUT_S = 5.0
_A_KEY = re.compile(r"[!-~]+")


def rented_settings(prefix: str, title: str, *, base_url: str, timeout_s: int) -> tuple[Setting, ...]:
    """The four variables of a rented service: key, address, default model, and seconds for one attempt."""
    return (
        Setting(f"{prefix}_API_KEY", f"Key of {title}.", secret=True),
        Setting(f"{prefix}_BASE_URL", f"Address of {title}, or of a server that speaks alike.", base_url, kind="url"),
        Setting(f"{prefix}_DEFAULT_MODEL", "Model where no rule of provider_config.yaml names one.", kind="model"),
        Setting(f"{prefix}_TIMEOUT", "Seconds that one attempt may take.", str(timeout_s), kind="seconds"),
    )


def wanted(own: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
    """``asked`` over the model's ``own`` options of the YAML; what is None in either is not sent."""
    forbidden = {key for key, value in own.items() if value is None}
    merged = {**own, **{key: value for key, value in asked.items() if value is not None}}
    return {key: value for key, value in merged.items() if key not in forbidden}


@dataclass(frozen=True)
class Service:
    """A rented service as one provider uses it; makes the errors that speak of it.

    Attributes:
        config: the provider's.
        title: how the vendor is called in messages.
        prefix: of its variables: ``<prefix>_API_KEY``, ``_BASE_URL``, ``_TIMEOUT``.
        extra: the extra of this package that installs what it needs.
        spare_key: a variable whose key serves where its own is not set.
    """

    config: ProviderConfig
    title: str
    prefix: str
    extra: str
    spare_key: str | None = None

    @property
    def base_url(self) -> str:
        return self.config.text(f"{self.prefix}_BASE_URL").rstrip("/")

    @property
    def base_url_shown(self) -> str:
        return str(without_credentials(httpx.URL(self.base_url)))

    @property
    def timeout_s(self) -> float:
        return self.config.seconds(f"{self.prefix}_TIMEOUT")

    @property
    def key_name(self) -> str:
        """The variable whose key is used."""
        own = f"{self.prefix}_API_KEY"
        return self.spare_key if self.spare_key and not self.config.values.get(own) else own

    def key(self) -> str:
        """The key.

        Raises:
            ConfigError: it is not set, or no header can carry it.
        """
        value = self.config.values.get(self.key_name)
        if not value:
            names = f"{self.prefix}_API_KEY" + (f" or {self.spare_key}" if self.spare_key else "")
            raise ConfigError(
                f"{names} is not set, and provider {self.config.name!r} needs it",
                hint=f"set {names} in the environment or in .env, "
                f"or take {self.config.name!r} out of `active` in provider_config.yaml",
            )
        if not _A_KEY.fullmatch(value):  # an HTTP client would quote it in its complaint
            raise ConfigError(
                f"{self.key_name} holds a blank, a line's end or a letter beyond ASCII, as no key does",
                hint=f"copy {self.key_name} anew",
            )
        return value

    def load(self, module: str) -> ModuleType:
        """Import ``module``, which needs the vendor's package.

        Raises:
            ConfigError: the package is not installed.
        """
        try:
            return importlib.import_module(module)
        except ModuleNotFoundError as exc:
            raise ConfigError(
                f"provider {self.config.name!r} needs the package {(exc.name or module).split('.')[0]!r}",
                hint=f"pip install 'sparklio[{self.extra}]'",
            ) from exc

    def refused(
        self, status: int, text: str, *, model: str | None = None, retry_after: float | None = None
    ) -> ProviderError:
        """The error for an HTTP status above 299; ``text`` is what the service said."""
        if status == 404:
            hint = f"check the model's name in provider_config.yaml, and {self.prefix}_BASE_URL ({self.base_url_shown})"
            return self.error(ModelNotFoundError, f"{self.title} does not offer {model!r}: {text}", hint, status=status)
        leaf = error_type(status)
        return self.error(
            leaf,
            f"{self.title} answered with status {status}: {text}",
            self._hint(leaf),
            status=status,
            retry_after=retry_after,
        )

    def _hint(self, leaf: type[ProviderError]) -> str:
        if leaf is AuthenticationError:
            return f"check {self.key_name}: is it a key of {self.base_url_shown}, and may it use this model?"
        if leaf is OverloadedError:
            return "try again later, or give the task a second route in provider_config.yaml"
        if leaf is ServerError:
            return "try again"
        return f"is {self.base_url_shown} ({self.prefix}_BASE_URL) the right address, and can the model do this?"

    def used_up(self, text: str, *, status: int) -> ProviderError:
        """The error for an account without means, which no waiting mends."""
        return self.error(
            RejectedError,
            f"the account at {self.title} has no means left: {text}",
            "look at its billing",
            status=status,
        )

    def unreachable(self, exc: BaseException, *, answering: bool) -> ProviderError:
        where = f"is {self.prefix}_BASE_URL right? it is {self.base_url_shown}"
        if answering:
            message = f"the connection to {self.title} broke in the middle of an answer: {said(exc)}"
        else:
            message = f"no connection to {self.title}: {said(exc)}"
        never_sent = isinstance(exc, httpx.ConnectError | httpx.ConnectTimeout)
        return self.error(UnreachableError, message, where, usage=Usage() if never_sent else None)

    def timed_out(self, seconds: float) -> ProviderError:
        return self.error(
            AttemptTimeoutError,
            f"{self.title} was still at work after {seconds:g} s",
            f"raise {self.prefix}_TIMEOUT (now {self.timeout_s:g} s), or use a faster model",
        )

    def error(
        self,
        leaf: type[ProviderError],
        message: str,
        hint: str,
        *,
        status: int | None = None,
        retry_after: float | None = None,
        usage: Usage | None = None,
    ) -> ProviderError:
        return leaf(message, provider=self.config.name, hint=hint, status=status, retry_after=retry_after, usage=usage)


def transport_failure(exc: BaseException) -> BaseException | None:
    """What broke beneath an SDK's error: a timeout or a failed connection, or None."""
    return next((cause for cause in _causes(exc) if isinstance(cause, OSError | httpx.TransportError)), None)


def _causes(exc: BaseException) -> Iterator[BaseException]:
    """``exc`` and what it was raised from; a TimeoutError is an OSError too."""
    cause: BaseException | None = exc
    while cause is not None:
        yield cause
        cause = cause.__cause__


class Rented(ABC):
    """What chat and image providers of rented services do alike.

    A vendor says in class attributes ``title``, ``prefix``, ``extra`` and ``spare_key`` as in :class:`Service`.
    """

    title: ClassVar[str]
    prefix: ClassVar[str]
    extra: ClassVar[str]
    spare_key: ClassVar[str | None] = None
    config: ProviderConfig
    _connections: PerLoop[Any]

    @cached_property
    def service(self) -> Service:
        return Service(self.config, self.title, self.prefix, self.extra, self.spare_key)

    @abstractmethod
    def _sdk_errors(self) -> tuple[type[Exception], ...]:
        """Bases of what the vendor's package raises; empty while it is not imported."""

    @abstractmethod
    def _refused(self, exc: Exception, model: str | None) -> ProviderError | None:
        """Ours for an error that the service itself told, or None where ``exc`` is none."""

    @abstractmethod
    def _headers(self) -> dict[str, str]:
        """What carries the key in a probe."""

    @abstractmethod
    def _offered(self, body: Any) -> set[str]:
        """Names of the models in the answer to a GET of :meth:`_probe_path`."""

    @abstractmethod
    def _load(self, connection: Any) -> None:
        """Import the vendor's package and build its client, where that is still to be done.

        Raises:
            ConfigError: the key or the package is missing.
        """

    def _probe_path(self) -> str:
        return "/models"

    def _refused_probe(self, response: httpx.Response) -> ProviderError:
        """Ours for a probe's status above 299."""
        return self.service.refused(response.status_code, response.text[:300].strip())

    async def prepare(self) -> None:
        """Imports the vendor's package and builds its client. Connects to nothing: a service may be hired in vain."""
        async with self._connections.borrow() as connection:
            self._load(connection)

    async def health_check(self) -> bool:
        try:
            await self._models()
        except ProviderError:
            return False
        return True

    async def models(self) -> list[dict[str, Any]]:
        return [{"name": name} for name in sorted(await self._models())]

    async def _findings(self, models: Iterable[str]) -> list[Finding]:
        """Asks for the list of models once; raises ConfigError for a missing key or package."""
        try:
            offered = await self._models()
        except ProviderError as exc:
            return [Finding(self.config.name, "failed", exc.message, exc.hint)]
        found = Finding(self.config.name, "ok", f"{self.title} answers at {self.service.base_url_shown}")
        return [found, *(self._finding(model, offered) for model in models)]

    def _finding(self, model: str, offered: set[str]) -> Finding:
        subject = f"{self.config.name} {model}"
        if model in offered:
            return Finding(subject, "ok", "offered")
        remedy = "check its name in provider_config.yaml"
        return Finding(subject, "warning", f"not among the {len(offered)} models on offer", remedy)

    async def _models(self) -> set[str]:
        async with self._connections.borrow() as connection:
            self._load(connection)

            async def probe() -> set[str]:
                url = self.service.base_url + self._probe_path()
                response: httpx.Response = await connection.http.get(url, headers=self._headers())
                if not response.is_success:
                    raise self._refused_probe(response)
                return self._offered(response.json())

            return await Exchange(None, _PROBE_TIMEOUT_S).step(probe, self._foreign(), self._translated)

    def _http(self) -> httpx.AsyncClient:
        """A client of ours for the running event loop, whichever package sends through it."""
        options = client_options(self.service.base_url, read_timeout_s=self.service.timeout_s, local=False)
        return httpx.AsyncClient(**options, event_hooks={"response": [note_response]})

    def _foreign(self) -> tuple[type[Exception], ...]:
        return (httpx.HTTPError, OSError, *MISSHAPEN, *self._sdk_errors())

    def _translated(self, exc: Exception, exchange: Exchange) -> ProviderError:
        if told := self._refused(exc, exchange.model):
            return told
        answering = exchange.response is not None and exchange.response.is_success
        broken = transport_failure(exc)
        if isinstance(broken, httpx.ConnectTimeout):
            return self.service.unreachable(broken, answering=False)
        if isinstance(broken, TimeoutError | httpx.TimeoutException):
            return self.service.timed_out(exchange.seconds)
        if broken is not None:
            return self.service.unreachable(broken, answering=answering)
        if exchange.response is None:
            return self._unsendable(exc, exchange.model)
        message = f"{self.title} answered in a form that is not its own: {said(exc)}"
        hint = f"is {self.service.base_url_shown} the right address? try again"
        return self.service.error(ServerError, message, hint)

    def _unsendable(self, exc: Exception, model: str | None) -> ProviderError:
        message = f"the request cannot be put into {self.title}'s form: {said(exc)}"
        own = f"`models.{self.config.name}.{model}` in provider_config.yaml"
        return self.service.error(RejectedError, message, f"check the request's options and schema, and {own}")
