"""The input of a run: the file's form, checked, with its materials read in.

``language: ko|en``, ``brand: {name, industry, uploaded_materials}``, ``product: {name, category, target, key_features,
facts, photo}``, ``image: {kind, aspect_ratio, workflow, seed}``. An input file names files beside it as materials and
photo; from Python a material comes as its text, a photo as the id of a stored one.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError, field_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from graph.state import PageInput
from providers.errors import InputError, nearest
from routing.contracts import AspectRatio, ImageId, Language, Seed, Word, WorkflowId
from routing.kinds import meant_kind
from routing.yaml_text import read_mapping

__all__ = [
    "BrandForm",
    "ImageForm",
    "ProductForm",
    "RunInput",
    "beside",
    "check_numbers",
    "load_input",
    "read_materials",
]

log = logging.getLogger(__name__)

MAX_FILE_BYTES = 2_000_000
MAX_MATERIALS = 10
MAX_MATERIAL_BYTES = 200_000


def _one_line(value: object) -> object:
    """YAML may fold a long text over several lines."""
    return " ".join(value.split()) if isinstance(value, str) else value


_NO_CONTROL = r"^[^\x00-\x1f\x7f-\x9f]*$"  # a terminal obeys control characters
Name = Annotated[str, BeforeValidator(_one_line), StringConstraints(min_length=1, max_length=200, pattern=_NO_CONTROL)]
Line = Annotated[str, BeforeValidator(_one_line), StringConstraints(max_length=500, pattern=_NO_CONTROL)]
Feature = Annotated[
    str, BeforeValidator(_one_line), StringConstraints(min_length=1, max_length=300, pattern=_NO_CONTROL)
]


def check_numbers(value: Any) -> Any:
    """``value``, if each number in it can be kept: the checkpoints' MessagePack ends at 64 bits, JSON has no infinity.

    Raises:
        PydanticCustomError, a ValueError: one cannot.
    """
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, Mapping):
            waiting.extend(one.values())
        elif isinstance(one, list):
            waiting.extend(one)
        elif isinstance(one, int) and not -(2**63) <= one < 2**63:
            raise PydanticCustomError("number_too_big", "must be a number of at most 64 bits")
        elif isinstance(one, float) and not math.isfinite(one):
            raise PydanticCustomError("number_not_finite", "must be a finite number")
    return value


Fact = Annotated[str | int | float | bool, BeforeValidator(check_numbers)]


class _Form(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True)


class Material(_Form):
    """A text that the user uploaded: data, never instructions."""

    name: Name
    text: str


class BrandForm(_Form):
    name: Name
    industry: Line = ""
    uploaded_materials: list[Material] = Field(default=[], max_length=MAX_MATERIALS)

    @field_validator("uploaded_materials")
    @classmethod
    def _bounded(cls, materials: list[Material]) -> list[Material]:
        size = sum(len(material.text.encode()) for material in materials)
        if size > MAX_MATERIAL_BYTES:
            raise ValueError(f"the texts hold {size:,} bytes together; {MAX_MATERIAL_BYTES:,} at most")
        return materials


class ProductForm(_Form):
    name: Name
    category: Line = ""
    target: Line = ""
    key_features: list[Feature] = Field(min_length=1, max_length=30)
    facts: dict[Name, Fact] = Field(default={}, max_length=100)


class _GivenProduct(ProductForm):
    """``photo`` is the id of a stored picture."""

    photo: ImageId | None = None


class _GivenImage(_Form):
    kind: Word | None = None
    aspect_ratio: AspectRatio | None = None
    workflow: WorkflowId | None = None
    seed: Seed | None = None


class ImageForm(_GivenImage):
    """The state's form. The photo stands here and not beside the product, which is what every agent's prompt holds."""

    photo: ImageId | None = None


class RunInput(_Form):
    language: Language = "ko"
    brand: BrandForm
    product: _GivenProduct
    image: _GivenImage = _GivenImage()

    @classmethod
    def parse(cls, data: Mapping[str, Any], *, source: str = "input") -> RunInput:
        """Check a mapping.

        Raises:
            InputError: names the key and what to do; for an unknown key the nearest known one.
        """
        try:
            inputs = cls.model_validate(data)
        except ValidationError as exc:
            first = min(exc.errors(), key=lambda error: error["type"] != "extra_forbidden")
            raise _explain(source, first) from exc
        for warning in inputs.warnings:
            log.warning("%s: %s", source, warning)
        return inputs

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is allowed and most likely a slip, a sentence each."""
        kind = self.image.kind
        meant = meant_kind(kind) if kind else None
        return (f"image.kind {kind!r} is none of the usual kinds; did you mean {meant!r}?",) if meant else ()

    def to_state(self) -> PageInput:
        """The state that a graph starts from."""
        return PageInput(
            brand_input=self.brand.model_dump(),
            product_input=self.product.model_dump(exclude={"photo"}),
            image_input=ImageForm(**self.image.model_dump(), photo=self.product.photo).model_dump(exclude_none=True),
            language=self.language,
        )


def load_input(path: Path, keep_photo: Callable[[bytes, str], str]) -> RunInput:
    """Read an input file; each of its ``uploaded_materials`` becomes ``{name, text}``, its ``photo`` an id.

    Args:
        path: the file.
        keep_photo: stores the bytes of a photo of some media type and returns their id; called last of all.

    Raises:
        InputError: no such file, not YAML, not a mapping, a wrong key or value, a material or photo that may not be
            read.
    """
    data = read_mapping(
        path,
        InputError,
        holds="the keys brand and product",
        hint="`sparklio init` writes an example",
        max_bytes=MAX_FILE_BYTES,
        as_written=True,
    )
    folder = path.resolve().parent
    brand, product = data.get("brand"), data.get("product")
    if isinstance(brand, dict) and isinstance(brand.get("uploaded_materials"), list):
        materials = read_materials(brand["uploaded_materials"], folder)
        data = {**data, "brand": {**brand, "uploaded_materials": materials}}
    if not isinstance(product, dict) or product.get("photo") is None:
        return RunInput.parse(data, source=path.name)
    inputs = RunInput.parse({**data, "product": {**product, "photo": None}}, source=path.name)
    photo_id = _keep_photo(product["photo"], folder, keep_photo)
    return inputs.model_copy(update={"product": inputs.product.model_copy(update={"photo": photo_id})})


def _keep_photo(name: object, folder: Path, keep: Callable[[bytes, str], str]) -> str:
    if not isinstance(name, str):
        raise InputError("product.photo must be the name of a file", hint="e.g. photo: product.jpg")
    from graph.photos import read_photo  # with Pillow, which most commands need not wait for

    photo = read_photo(beside(folder, name, "product.photo"), name)
    return keep(photo.content, photo.media_type)


def beside(folder: Path, name: str, key: str) -> Path:
    """The file ``name`` of the input file's folder or one below it, wherever links lead."""
    try:
        path = (folder / name).resolve()
    except (OSError, ValueError, RuntimeError) as exc:  # a null byte in the name, links in a circle
        raise InputError(f"{key}: cannot read {name!r}: {exc}", hint="mend the name, or remove it") from exc
    if not path.is_relative_to(folder):
        raise InputError(f"{key}: {name!r} lies outside the input file's folder", hint="copy the file beside the input")
    return path


def read_materials(items: list[Any], folder: Path) -> list[Any]:
    if len(items) > MAX_MATERIALS:
        raise InputError(
            f"uploaded_materials names {len(items)} files; {MAX_MATERIALS} at most", hint="join or drop some"
        )
    left = MAX_MATERIAL_BYTES
    texts: list[Any] = []
    for item in items:
        if isinstance(item, str):
            content = _read_material(item, folder, left)
            left -= len(content.encode())
            texts.append({"name": item, "text": content})
        else:
            texts.append(item)
    return texts


def _read_material(name: str, folder: Path, bytes_left: int) -> str:
    path = beside(folder, name, "uploaded_materials")
    try:
        if path.stat().st_size > bytes_left:
            raise InputError(
                f"uploaded_materials: with {name!r} the files exceed {MAX_MATERIAL_BYTES:,} bytes together",
                hint="shorten the texts",
            )
        content = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as exc:
        raise InputError(
            f"uploaded_materials: {name!r} is not UTF-8 text",
            hint="give text files; PDFs are not read, and a picture of the product belongs under product.photo",
        ) from exc
    except OSError as exc:
        raise InputError(
            f"uploaded_materials: cannot read {name!r}: {exc.strerror or exc}", hint="mend the name, or remove it"
        ) from exc
    if "\0" in content:
        raise InputError(f"uploaded_materials: {name!r} is binary", hint="give text files")
    return content


def _explain(source: str, error: ErrorDetails) -> InputError:
    location = error["loc"]
    if location[:2] == ("product", "facts"):
        location = location[:3]  # behind the fact's name stands which of its types a value is not
    key = ".".join(map(str, location)) or "input"
    if error["type"] == "extra_forbidden":
        return InputError(f"{source}: unknown key {key}", hint=_where_instead(location))
    if error["type"] == "missing":
        return InputError(f"{source}: {key} is missing", hint=f"add {key}")
    if "uploaded_materials" in location and error["type"] == "model_type":
        return InputError(
            f"{source}: {key} must be {{name, text}}", hint="paths are read from an input file only; send the text"
        )
    if location == ("product", "photo"):
        return InputError(
            f"{source}: {key} must be the id of a stored photo",
            hint="store it first: `await studio.add_photo(path)`; an input file names the photo's file",
        )
    problem, hint = _in_words(error)
    return InputError(f"{source}: {key}: {problem.format(**error.get('ctx', {}))}", hint=hint.format(key=key))


def _where_instead(location: tuple[int | str, ...]) -> str:
    """What to do about an unknown key: a section that has one of its name, else the nearest of those about it."""
    key, known = str(location[-1]), _known_keys(location)
    if len(location) > 1 and key in RunInput.model_fields:
        return f"it belongs at the top, not under {location[0]}:"
    homes = [f"{section}:" for section, form in _SECTIONS.items() if key in form.model_fields]
    if homes:
        return f"it belongs under {' or '.join(homes)}"
    close = nearest(key, known)
    return f"did you mean {close!r}?" if close else f"known keys: {', '.join(known)}"


def _in_words(error: ErrorDetails) -> tuple[str, str]:
    """Problem and hint, with fields to be filled from the error's context and its key."""
    location, kind = error["loc"], error["type"]
    if location[:2] == ("product", "facts") and len(location) == 4 and location[3] != "[key]":
        return "must be a text, a number, true or false", "e.g. product.facts: {{가격: 39000}}"
    if error.get("ctx", {}).get("field_type") == "Value":  # pydantic's word for a text whose form we changed first
        kind = f"string_{kind}"
    said = error["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    return _IN_WORDS.get(kind, (said.replace("{", "{{").replace("}", "}}"), "mend {key}"))


_IN_WORDS = {
    "too_short": ("is empty", "add at least one, e.g. {key}: [...]"),
    "too_long": ("has more than {max_length} entries", "keep the important ones"),
    "string_too_short": ("is empty", "write something there"),
    "string_too_long": ("is longer than {max_length} characters", "shorten it; long texts go into uploaded_materials"),
    "string_type": ("must be a text", "write a text there"),
    "list_type": ("must be a list", "write it as a list: one `- entry` a line"),
    "dict_type": ("must be a mapping", "e.g. {key}: {{가격: 39000}}"),
    "model_type": ("must be a mapping", "write its keys beneath it, each as `key: value`"),
    "literal_error": ("must be {expected}", "write {key}: followed by one of these"),
    "int_parsing": ("must be a whole number", "write {key} in digits, e.g. 42"),
    "int_from_float": ("must be a whole number", "write {key} in digits, e.g. 42"),
    "int_type": ("must be a whole number", "write {key} in digits, e.g. 42"),
    "number_too_big": ("must be a number of at most 64 bits", "write it as a text, in quotes"),
    "number_not_finite": ("must be a finite number", "write it as a text, in quotes"),
    "string_pattern_mismatch": (
        "has not the form that is wanted here",
        "write ratios like 16:9 and names as plain text",
    ),
}


_SECTIONS: dict[str, type[BaseModel]] = {"brand": BrandForm, "product": _GivenProduct, "image": _GivenImage}


def _known_keys(location: tuple[int | str, ...]) -> list[str]:
    if "uploaded_materials" in location[:-1]:
        return list(Material.model_fields)
    form = _SECTIONS.get(str(location[0]), RunInput) if len(location) > 1 else RunInput
    return list(form.model_fields)
