"""What rented services have in common, chat or image: a key, an address, a package of their own, HTTP's statuses."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType

import httpx

from providers.base import ProviderConfig, Setting
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
from providers.http import said, without_credentials

__all__ = ["Service", "rented_settings", "transport_failure"]

OVERLOADED = {429, 503, 529}  # 529 is Anthropic's


def rented_settings(prefix: str, title: str, *, base_url: str, timeout_s: int) -> tuple[Setting, ...]:
    """The four variables of a rented service: key, address, default model, and seconds for one attempt."""
    return (
        Setting(f"{prefix}_API_KEY", f"Key of {title}.", secret=True),
        Setting(f"{prefix}_BASE_URL", f"Address of {title}, or of a server that speaks alike.", base_url, kind="url"),
        Setting(f"{prefix}_DEFAULT_MODEL", "Model where no rule of provider_config.yaml names one.", kind="model"),
        Setting(f"{prefix}_TIMEOUT", "Seconds that one attempt may take.", str(timeout_s), kind="seconds"),
    )


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
            ConfigError: it is not set.
        """
        value = self.config.values.get(self.key_name)
        if not value:
            raise ConfigError(
                f"{self.prefix}_API_KEY is not set, and provider {self.config.name!r} needs it",
                hint=f"set {self.prefix}_API_KEY in the environment or in .env, "
                f"or take {self.config.name!r} out of `active` in provider_config.yaml",
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
        said_so = f"{self.title} answered with status {status}: {text}"
        if status in (401, 403):
            hint = f"check {self.key_name}: is it a key of {self.base_url_shown}, and may it use this model?"
            return self.error(AuthenticationError, said_so, hint, status=status)
        if status == 404:
            hint = f"check the model's name in provider_config.yaml, and {self.prefix}_BASE_URL ({self.base_url_shown})"
            return self.error(ModelNotFoundError, f"{self.title} does not offer {model!r}: {text}", hint, status=status)
        if status in OVERLOADED:
            hint = "try again later, or give the task a second route in provider_config.yaml"
            return self.error(OverloadedError, said_so, hint, status=status, retry_after=retry_after)
        if status >= 500 or status == 408:
            return self.error(ServerError, said_so, "try again", status=status)
        hint = f"is {self.base_url_shown} ({self.prefix}_BASE_URL) the right address, and can the model do this?"
        return self.error(RejectedError, said_so, hint, status=status)

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
        return self.error(UnreachableError, message, where)

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
    ) -> ProviderError:
        return leaf(message, provider=self.config.name, hint=hint, status=status, retry_after=retry_after)


def transport_failure(exc: BaseException) -> BaseException | None:
    """What broke beneath an SDK's error: a timeout or a failed connection, or None."""
    return next((cause for cause in _causes(exc) if isinstance(cause, OSError | httpx.TransportError)), None)


def _causes(exc: BaseException) -> Iterator[BaseException]:
    """``exc`` and what it was raised from; a TimeoutError is an OSError too."""
    cause: BaseException | None = exc
    while cause is not None:
        yield cause
        cause = cause.__cause__
