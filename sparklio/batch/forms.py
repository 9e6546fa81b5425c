"""A row as a run's input: with what all rows share, its materials read in and its photo found."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from graph.inputs import MAX_FILE_BYTES, RunInput, beside, read_materials
from graph.photos import MAX_PHOTO_BYTES
from providers.errors import InputError
from routing.yaml_text import read_mapping
from sparklio.batch.table import Row

__all__ = ["Filled", "Forms"]

_SMALLEST = {"brand": {"name": "-"}, "product": {"name": "-", "key_features": ["-"]}}


@dataclass(frozen=True)
class Filled:
    """``inputs`` without their photo, and the photo's file."""

    inputs: RunInput
    photo: Path | None = None

    def digest(self, *beside: str) -> str:
        """Of all that the page is made from, and of ``beside``. Defaults are left out, so that a new one changes none.

        Raises:
            InputError: the photo cannot be read.
        """
        form = self.inputs.model_dump(mode="json", exclude_defaults=True)
        whole = [form, _digest_of(self.photo) if self.photo else None, *beside]
        return hashlib.sha256(json.dumps(whole, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


class Forms:
    """Makes inputs of rows.

    Args:
        folder: where the rows' photos and materials lie.
        defaults: an input file that may be incomplete: what a row does not say. Mappings are merged, lists replaced.

    Raises:
        InputError: ``defaults`` cannot be read, or holds what no input may hold.
    """

    def __init__(self, folder: Path, defaults: Path | None = None) -> None:
        self._folder = folder.resolve()
        self._defaults: dict[str, Any] = {}
        self._photo: Path | None = None
        self.shared = defaults is not None
        if defaults is not None:
            shared = read_mapping(
                defaults,
                InputError,
                holds="the keys that all rows share",
                hint="the form is that of an input file: brand, product, image, language",
                max_bytes=MAX_FILE_BYTES,
                as_written=True,
            )
            self._defaults, self._photo = _with_files(shared, defaults.resolve().parent, defaults.name)
            RunInput.parse(_merged(_SMALLEST, self._defaults), source=defaults.name)

    def fill(self, row: Row) -> Filled:
        """The inputs of a row.

        Raises:
            InputError: it is wrong; the message names its place and the key.
        """
        if row.problem is not None:
            raise InputError(row.problem, hint="mend that row")
        data, photo = _with_files(row.data, self._folder, row.place)
        inputs = RunInput.parse(_merged(self._defaults, data), source=row.place)
        return replace(Filled(inputs), photo=photo or self._photo)


def _with_files(data: Mapping[str, Any], folder: Path, place: str) -> tuple[dict[str, Any], Path | None]:
    """``data`` with the texts of its materials and without its photo; and the photo's file."""
    whole, photo = dict(data), None
    brand, product = data.get("brand"), data.get("product")
    try:
        if isinstance(brand, dict) and isinstance(brand.get("uploaded_materials"), list):
            whole["brand"] = {**brand, "uploaded_materials": read_materials(brand["uploaded_materials"], folder)}
        if isinstance(product, dict) and product.get("photo") is not None:
            photo = _photo_file(product["photo"], folder)
            whole["product"] = {name: value for name, value in product.items() if name != "photo"}
    except InputError as exc:
        raise InputError(f"{place}: {exc.message}", hint=exc.hint) from exc
    return whole, photo


def _photo_file(name: object, folder: Path) -> Path:
    """Whether it is a picture is seen when it is read; that takes too long to be done twice."""
    if not isinstance(name, str):
        raise InputError("product.photo must be the name of a file", hint="e.g. product.jpg")
    path = beside(folder, name, "product.photo")
    if not path.is_file():
        raise InputError(f"product.photo: there is no file {name!r}", hint="names are relative to the table's folder")
    if path.stat().st_size > MAX_PHOTO_BYTES:
        raise InputError(f"product.photo: {name!r} is larger than {MAX_PHOTO_BYTES:,} bytes", hint="make it smaller")
    return path


def _merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(under)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = _merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def _digest_of(file: Path) -> str:
    try:
        with file.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()
    except OSError as exc:
        raise InputError(f"cannot read {file}: {exc.strerror or exc}", hint="make the photo readable") from exc
