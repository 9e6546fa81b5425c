"""YAML read in one way: every failure is one error with one line, whatever PyYAML raises."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from providers.errors import UsageError

__all__ = ["YamlTextError", "parse_yaml", "read_mapping"]


class YamlTextError(ValueError):
    """The text is not YAML, or holds what no value can be made of; the message is one line."""


class _AsWritten(yaml.SafeLoader):
    """Only true, false, null and plain decimal integers are more than text.

    YAML 1.1 would make 90 of ``1:30``, 8 of ``010``, 1.1 of ``1.10`` and a date of ``2026-01-02``; a seller's facts
    stay what the seller wrote.
    """

    yaml_implicit_resolvers: dict[str, list[Any]] = {}  # noqa: RUF012 - PyYAML's own attribute, replaced as a whole


_AsWritten.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|false)$"), list("tf"))
_AsWritten.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"^(?:~|null|)$"), ["~", "n", ""])
_AsWritten.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^-?(?:0|[1-9][0-9]*)$"), list("-0123456789"))
_AsWritten.add_implicit_resolver("tag:yaml.org,2002:merge", re.compile(r"^<<$"), ["<"])


def parse_yaml(text: str, *, as_written: bool = False) -> Any:
    """The value of ``text``.

    Args:
        text: one YAML document.
        as_written: people's own texts and figures: see :class:`_AsWritten`.

    Raises:
        YamlTextError: broken YAML, an impossible date or number, or nesting without end.
    """
    try:
        return yaml.load(text, Loader=_AsWritten if as_written else yaml.SafeLoader)  # noqa: S506 - both are safe
    except (yaml.YAMLError, ValueError) as exc:
        raise YamlTextError(" ".join(str(exc).split())[:400]) from exc
    except RecursionError as exc:
        raise YamlTextError("nested too deeply") from exc


def read_mapping(
    path: Path,
    error: type[UsageError],
    *,
    holds: str,
    hint: str,
    max_bytes: int | None = None,
    as_written: bool = False,
) -> dict[str, Any]:
    """The mapping in the YAML file at ``path``.

    Args:
        path: the file.
        error: what is raised where it cannot be read, is no UTF-8 text, no YAML or no mapping.
        holds: what the mapping must hold, for the message, e.g. ``"the key 'providers'"``.
        hint: what to do where there is no such file, or another kind of value in it.
        max_bytes: bound on the file's size.
        as_written: as in :func:`parse_yaml`.
    """
    try:
        if max_bytes is not None and path.stat().st_size > max_bytes:
            raise error(f"{path} is larger than {max_bytes:,} bytes", hint="shorten it")
        value = parse_yaml(path.read_text(encoding="utf-8"), as_written=as_written)
    except OSError as exc:
        raise error(f"cannot read {path}: {exc.strerror or exc}", hint=hint) from exc
    except UnicodeDecodeError as exc:
        raise error(f"{path} is not UTF-8 text", hint="give a YAML file, saved as UTF-8") from exc
    except YamlTextError as exc:
        raise error(f"{path} is not valid YAML: {exc}", hint="mend the line that it names") from exc
    if not isinstance(value, dict):
        raise error(f"{path} must be a mapping with {holds}", hint=hint)
    return value
