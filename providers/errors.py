"""Every error that Sparklio raises on purpose, drawn as one tree.

::

    SparklioError                  code, hint, retryable, request_id, run_id, details
    ├── UsageError                 the caller can mend it: wrong words, wrong file (exit code 2)
    │   ├── InputError             the input file or request does not say what is needed
    │   ├── ConfigError            provider_config.yaml, .env or a variable is wrong
    │   ├── UnknownNameError       a run, node, role, provider or workflow of that name does not exist
    │   ├── RunExistsError         a new run was given the id of an old one
    │   ├── RunUnfinishedError     the run has no result (yet)
    │   └── ConflictError          an idempotency key came again with another request, or before the first was answered
    ├── UnauthorizedError          a server was called without one of its keys
    ├── ListenError                a server's address cannot be used
    ├── QueueFullError             a server has as much to do as it takes           (retryable)
    ├── RunBusyError               another process holds the run
    ├── StorageError               the data folder cannot be read or written
    ├── DeadlineError              one gateway request used up the time of its mode
    ├── BudgetError                the next call would exceed what may be spent
    ├── WorkerLostError            each worker that was given the run died of it
    ├── WorkerTimeLimitError       a task took longer than a worker may give it
    ├── NoWorkerError              no worker takes what is to be done        (retryable)
    ├── BrokerError                the broker cannot be reached              (retryable)
    └── ProviderError              provider, status, retry_after, usage, images
        ├── UnreachableError       no connection, or it broke              (retryable)
        ├── OverloadedError        429 or 503                              (retryable)
        ├── ServerError            any other 5xx, an error inside a stream (retryable)
        ├── EmptyAnswerError       an answer without content               (retryable)
        ├── AttemptTimeoutError    one attempt took longer than its own timeout
        ├── AuthenticationError    401 or 403: the key is missing, wrong or lacks a permission
        ├── RejectedError          any other 4xx: bad request, validation
        ├── RefusedError           the model or the vendor's moderation declined to answer
        ├── ModelNotFoundError     the model is not installed or not offered there
        ├── PromptTooLongError     the prompt cannot fit the model's context
        ├── TruncatedAnswerError   the answer stopped at the token limit
        ├── MalformedAnswerError   not the JSON that was asked for, after one repair
        ├── WorkflowError          a ComfyUI workflow file is malformed or lacks a slot
        └── JobError               an image job failed, was interrupted, got lost or stalled

Foreign errors are translated once, at the edge (``raise X(...) from exc``), by type and status, never by reading text
where a status exists. ``message`` says what happened in one sentence, ``hint`` what to do about it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any, ClassVar

from providers.usage import Usage

__all__ = [
    "AttemptTimeoutError",
    "AuthenticationError",
    "BrokerError",
    "BudgetError",
    "ConfigError",
    "ConflictError",
    "DeadlineError",
    "EmptyAnswerError",
    "InputError",
    "JobError",
    "ListenError",
    "MalformedAnswerError",
    "ModelNotFoundError",
    "NoWorkerError",
    "OverloadedError",
    "PromptTooLongError",
    "ProviderError",
    "QueueFullError",
    "RefusedError",
    "RejectedError",
    "RunBusyError",
    "RunExistsError",
    "RunUnfinishedError",
    "ServerError",
    "SparklioError",
    "StorageError",
    "TruncatedAnswerError",
    "UnauthorizedError",
    "UnknownNameError",
    "UnreachableError",
    "UsageError",
    "WorkerLostError",
    "WorkerTimeLimitError",
    "WorkflowError",
    "describe",
    "error_from",
    "nearest",
]


class SparklioError(Exception):
    """Base of all errors that carry a code and a hint. ``str(error)`` is the message alone."""

    code: ClassVar[str] = "error"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, hint: str = "", details: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.details = dict(details or {})
        self.request_id: str | None = None
        self.run_id: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The error object that every face shows: ``{"error": {code, message, hint, request_id, ...}}``."""
        body: dict[str, Any] = {
            "code": self.code,
            "message": self.message,
            "hint": self.hint,
            "request_id": self.request_id,
        }
        if self.run_id:
            body["run_id"] = self.run_id
        if details := self.details | self._facts():
            body["details"] = details
        return {"error": body}

    def _facts(self) -> dict[str, Any]:
        """Attributes of our own that belong into ``details``."""
        return {}


class UsageError(SparklioError):
    code = "usage"


class InputError(UsageError):
    code = "bad_input"


class ConfigError(UsageError):
    code = "bad_config"


class UnknownNameError(UsageError):
    """A name that does not exist; the message holds the choices, the hint the nearest one.

    Args:
        kind: what the name stands for, e.g. ``"node"``.
        name: what was asked for.
        known: the names that exist.
    """

    code = "unknown_name"

    def __init__(self, kind: str, name: str, known: Iterable[str], *, hint: str = "") -> None:
        self.known = sorted(known)
        choices = ", ".join(self.known) or "none"
        close = nearest(name, self.known)
        super().__init__(
            f"unknown {kind} {name!r}; known: {choices}",
            hint=hint or (f"did you mean {close!r}?" if close else f"choose one of: {choices}"),
            details={"kind": kind, "name": name, "known": self.known},
        )


class RunExistsError(UsageError):
    code = "run_exists"


class RunUnfinishedError(UsageError):
    code = "run_unfinished"


class ConflictError(UsageError):
    code = "conflict"


class UnauthorizedError(SparklioError):
    code = "unauthorized"


class ListenError(SparklioError):
    code = "cannot_listen"


class QueueFullError(SparklioError):
    """``retry_after``: seconds after which there may be room."""

    code = "queue_full"
    retryable = True

    def __init__(
        self, message: str, *, hint: str = "", retry_after: float = 10, details: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(message, hint=hint, details=details)
        self.retry_after = retry_after

    def _facts(self) -> dict[str, Any]:
        return {"retry_after": self.retry_after}


class RunBusyError(SparklioError):
    code = "run_busy"


class StorageError(SparklioError):
    code = "storage"


class DeadlineError(SparklioError):
    code = "deadline"


class BudgetError(SparklioError):
    code = "budget_exhausted"


class WorkerLostError(SparklioError):
    code = "worker_lost"


class WorkerTimeLimitError(SparklioError):
    code = "time_limit"


class NoWorkerError(SparklioError):
    code = "no_worker"
    retryable = True


class BrokerError(SparklioError):
    code = "broker"
    retryable = True


class ProviderError(SparklioError):
    """Something between the gateway and a model went wrong.

    Args:
        provider: name of the provider as it stands in provider_config.yaml.
        status: HTTP status of the answer, where there was one.
        retry_after: seconds that the server asked to wait.
        usage: tokens that the failed call used up all the same; None where nobody knows.
        images: images that it made all the same.
    """

    code = "provider_failed"

    def __init__(
        self,
        message: str,
        *,
        provider: str,
        hint: str = "",
        status: int | None = None,
        retry_after: float | None = None,
        usage: Usage | None = None,
        images: int = 0,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message, hint=hint, details=details)
        self.provider = provider
        self.status = status
        self.retry_after = retry_after
        self.usage = usage
        self.images = images

    def _facts(self) -> dict[str, Any]:
        facts = {"provider": self.provider, "status": self.status, "retry_after": self.retry_after}
        return {name: fact for name, fact in facts.items() if fact is not None}


class UnreachableError(ProviderError):
    code = "provider_unreachable"
    retryable = True


class OverloadedError(ProviderError):
    code = "provider_overloaded"
    retryable = True


class ServerError(ProviderError):
    code = "provider_server_error"
    retryable = True


class EmptyAnswerError(ProviderError):
    code = "empty_answer"
    retryable = True


class AttemptTimeoutError(ProviderError):
    code = "attempt_timeout"


class AuthenticationError(ProviderError):
    code = "provider_authentication"


class RejectedError(ProviderError):
    code = "provider_rejected"


class RefusedError(ProviderError):
    code = "refused"


class ModelNotFoundError(ProviderError):
    code = "model_not_found"


class PromptTooLongError(ProviderError):
    code = "prompt_too_long"


class TruncatedAnswerError(ProviderError):
    code = "truncated_answer"


class MalformedAnswerError(ProviderError):
    code = "malformed_answer"


class WorkflowError(ProviderError):
    code = "bad_workflow"


class JobError(ProviderError):
    code = "image_job_failed"


def error_from(body: Mapping[str, Any]) -> SparklioError:
    """The error whose description (the inside of an error object) another process has sent.

    ``details`` that its class does not take apart stay as they are; an unknown code makes a plain SparklioError.
    """
    details = dict(body.get("details") or {})
    kind = _LEAVES.get(str(body.get("code")), SparklioError)
    error = kind.__new__(kind)
    SparklioError.__init__(error, str(body.get("message", "")), hint=str(body.get("hint", "")), details=details)
    error.request_id, error.run_id = body.get("request_id"), body.get("run_id")
    if isinstance(error, ProviderError):
        error.provider = str(details.pop("provider", "gateway"))
        error.status, error.retry_after = details.pop("status", None), details.pop("retry_after", None)
        error.usage, error.images, error.details = None, 0, details
    elif isinstance(error, QueueFullError):
        error.retry_after = float(details.get("retry_after", 10))
    elif isinstance(error, UnknownNameError):
        error.known = list(details.get("known", ()))
    return error


def _leaves(kind: type[SparklioError]) -> Iterator[type[SparklioError]]:
    yield kind
    for heir in kind.__subclasses__():
        yield from _leaves(heir)


_LEAVES = {kind.code: kind for kind in _leaves(SparklioError)}


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that looks most like ``name``, or None."""
    matches = get_close_matches(name, list(known), n=1, cutoff=0.6)
    return matches[0] if matches else None


def describe(exc: BaseException) -> dict[str, Any]:
    """The inside of the error object for any exception; one that is not ours is a defect and says so."""
    if isinstance(exc, SparklioError):
        body: dict[str, Any] = exc.to_dict()["error"]
        return body
    notes = [f" ({note})" for note in getattr(exc, "__notes__", ())]
    return {
        "code": "internal",
        "message": f"{type(exc).__name__}: {exc}{''.join(notes)}",
        "hint": f"this is a defect of {'that provider' if notes else 'Sparklio'}; "
        "run again with --debug and report the trace",
        "request_id": None,
    }
