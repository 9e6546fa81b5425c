"""YAML read in one way: every failure is one error with one line, whatever PyYAML raises."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError

from providers.errors import UsageError

__all__ = ["YamlTextError", "parse_yaml", "read_mapping"]


class YamlTextError(ValueError):
    """The text is not YAML, or holds what no value can be made of; the message is one line.

    ``place`` is where: ``line:column``, counted from 1; empty where nobody knows.
    """

    def __init__(self, problem: str, place: str = "") -> None:
        super().__init__(problem)
        self.place = place


_MERGE = "tag:yaml.org,2002:merge"


class _Strict(yaml.SafeLoader):
    """Refuses a key that stands twice in one mapping, of which PyYAML would take the last one in silence."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == _MERGE:
                continue
            word, line = (key.tag, key.value), key.start_mark.line + 1
            if word in lines:
                raise ComposerError(
                    None, None, f"the key {key.value!r} is given twice, first in line {lines[word]}", key.start_mark
                )
            lines[word] = line
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep=deep)
        except (ValueError, AttributeError, LookupError) as exc:  # an impossible date or number, `!!bool 3`
            raise ConstructorError(None, None, f"no value can be made of this: {exc}", node.start_mark) from exc


class _AsWritten(_Strict):
    """Only true, false, null and plain decimal integers are more than text.

    YAML 1.1 would make 90 of ``1:30``, 8 of ``010``, 1.1 of ``1.10`` and a date of ``2026-01-02``; a seller's facts
    stay what the seller wrote.
    """

    yaml_implicit_resolvers: dict[str, list[Any]] = {}  # noqa: RUF012 - PyYAML's own attribute, replaced as a whole


_AsWritten.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|false)$"), list("tf"))
_AsWritten.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"^(?:~|null|)$"), ["~", "n", ""])
_AsWritten.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^-?(?:0|[1-9][0-9]*)$"), list("-0123456789"))
_AsWritten.add_implicit_resolver(_MERGE, re.compile(r"^<<$"), ["<"])


def parse_yaml(text: str, *, as_written: bool = False) -> Any:
    """The value of ``text``.

    Args:
        text: one YAML document.
        as_written: people's own texts and figures: see :class:`_AsWritten`.

    Raises:
        YamlTextError: broken YAML, a key given twice, an impossible date or number, or nesting without end.
    """
    try:
        return yaml.load(text, Loader=_AsWritten if as_written else _Strict)  # noqa: S506 - both are safe
    except yaml.MarkedYAMLError as exc:
        raise YamlTextError(_problem(exc), _place(exc.problem_mark or exc.context_mark)) from exc
    except yaml.reader.ReaderError as exc:
        before = text[: exc.position]
        place = f"{before.count(chr(10)) + 1}:{len(before) - before.rfind(chr(10))}"
        raise YamlTextError(f"unacceptable character #x{exc.character:04x}", place) from exc
    except RecursionError as exc:
        raise YamlTextError("nested too deeply") from exc


def _problem(error: yaml.MarkedYAMLError) -> str:
    """One line, with what PyYAML was reading and where that began, if it began elsewhere."""
    problem = str(error.problem or error.context)
    if error.problem and error.context:
        began, found = error.context_mark, error.problem_mark
        since = f" from line {began.line + 1}" if began and found and began.line != found.line else ""
        problem += f" ({error.context}{since})"
    return " ".join(problem.split())[:400]


def _place(mark: yaml.Mark | None) -> str:
    return f"{mark.line + 1}:{mark.column + 1}" if mark else ""


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
        where = f"{path}:{exc.place}" if exc.place else str(path)
        raise error(f"{where}: not valid YAML: {exc}", hint="mend that line") from exc
    if not isinstance(value, dict):
        raise error(f"{path} must be a mapping with {holds}", hint=hint)
    return value
