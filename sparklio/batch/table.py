"""The rows of a batch, one after the other: of a CSV file, or of a folder of input files."""

from __future__ import annotations

import codecs
import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from graph.inputs import MAX_FILE_BYTES
from providers.errors import InputError
from routing.yaml_text import read_mapping
from sparklio.batch.columns import Column, columns_of, data_of, name_of

__all__ = ["CsvTable", "FolderTable", "Row", "Table", "open_table"]

_CHUNK = 1 << 20
_DELIMITERS = (",", ";", "\t")
_TABLES = (".csv", ".tsv", ".txt")
_MENDABLE = "in Excel: Save As, CSV UTF-8 (comma delimited)"


@dataclass(frozen=True)
class Row:
    """One product.

    Attributes:
        number: as a spreadsheet counts, the header is row 1; of a folder, the file's place in it.
        place: where it stands, for messages.
        name: what it calls itself: its ``id`` column, or the file's name; may be empty.
        data: its part of an input file's form.
        cells: as they stand in the table.
        file: its input file, where it has one of its own.
        problem: why it cannot be read; then there is no ``data``.
    """

    number: int
    place: str
    name: str = ""
    data: dict[str, Any] = field(default_factory=dict)
    cells: Sequence[str] = ()
    file: Path | None = None
    problem: str | None = None


class Table(Protocol):
    """Attributes:
    file: the file or folder.
    folder: where the rows' photos and materials lie.
    header: the titles of the rows' cells.
    """

    file: Path
    folder: Path
    header: Sequence[str]

    def rows(self) -> Iterator[Row]:
        """All rows, read as they are asked for.

        Raises:
            InputError: from here on the file cannot be read.
        """


def open_table(path: Path) -> Table:
    """The table at ``path``; its header is checked already.

    Raises:
        InputError: there is none, or it has not the form of one.
    """
    if path.is_dir():
        return FolderTable(path)
    if path.suffix.lower() in (".yaml", ".yml"):
        raise InputError(f"{path} is the input of one page", hint=f"`sparklio run {path}`, or give its folder")
    if path.exists() and path.suffix.lower() not in _TABLES:
        raise InputError(f"{path} is no CSV file and no folder of YAML files", hint=_MENDABLE)
    return CsvTable(path)


class FolderTable:
    """The ``*.yaml`` and ``*.yml`` files of a folder, by name; folders in it are not looked into."""

    header: Sequence[str] = ("file",)

    def __init__(self, folder: Path) -> None:
        self.file = self.folder = folder

    def rows(self) -> Iterator[Row]:
        try:
            files = [path for path in self.folder.iterdir() if _is_input(path)]
        except OSError as exc:
            raise _unreadable(self.folder, exc) from exc
        for number, path in enumerate(sorted(files), 1):
            yield self._row(number, path)

    def _row(self, number: int, path: Path) -> Row:
        row = Row(number, path.name, path.stem, cells=(path.name,), file=path)
        try:
            data = read_mapping(
                path,
                InputError,
                holds="the keys brand and product",
                hint="`sparklio init` writes an example",
                max_bytes=MAX_FILE_BYTES,
                as_written=True,
            )
        except InputError as exc:
            return Row(number, row.place, row.name, cells=row.cells, file=path, problem=exc.message)
        return Row(number, row.place, row.name, data, row.cells, path)


class CsvTable:
    """A CSV file in UTF-8, UTF-16 or CP949, with ``,`` ``;`` or tabs between the cells and a header row.

    A table with a cell that is not closed, or with bytes of another encoding, is refused as a whole: nobody can tell
    where its rows end.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.folder = file.resolve().parent
        self._encoding = _encoding(file)
        self.header: Sequence[str]
        self._delimiter, self.header = self._read_header()
        self._columns: list[Column] = columns_of(self.header, file.name)

    def rows(self) -> Iterator[Row]:
        records = self._records(self._delimiter)
        next(records)
        for number, (line, cells) in enumerate(records, 2):
            if any(cell.strip() for cell in cells):
                yield self._row(number, line, cells)

    def _row(self, number: int, line: int, cells: list[str]) -> Row:
        """Cells with line breaks make a row's number and its line two things."""
        place = f"{self.file.name} row {number}" + (f" (line {line})" if line != number else "")
        try:
            data = data_of(self._columns, cells)
        except InputError as exc:
            return Row(number, place, cells=cells, problem=f"{place}: {exc.message}")
        return Row(number, place, name_of(self._columns, cells), data, cells)

    def _read_header(self) -> tuple[str, list[str]]:
        """The delimiter that makes most of the first line, and the titles."""
        nothing: tuple[int, list[str]] = (1, [])
        headers = {one: next(self._records(one, strict=False), nothing)[1] for one in _DELIMITERS}
        delimiter = max(_DELIMITERS, key=lambda one: len(headers[one]))
        if not any(title.strip() for title in headers[delimiter]):
            raise InputError(
                f"{self.file.name} has no header row", hint="the first row names the columns, e.g. name,key_features"
            )
        return delimiter, headers[delimiter]

    def _records(self, delimiter: str, *, strict: bool = True) -> Iterator[tuple[int, list[str]]]:
        """Each record with the line that it begins in."""
        line = 1
        try:
            with self.file.open(encoding=self._encoding, newline="") as text:
                reader = csv.reader(text, delimiter=delimiter, strict=strict)
                for cells in reader:
                    yield line, cells
                    line = reader.line_num + 1
        except csv.Error as exc:
            raise InputError(
                f"{self.file.name}: the row that begins in line {line} cannot be read: {exc}",
                hint='a cell that begins with " must end with one; or save the file anew from the spreadsheet',
            ) from exc
        except (OSError, UnicodeError) as exc:
            raise _unreadable(self.file, exc) from exc


def _is_input(path: Path) -> bool:
    return path.suffix.lower() in (".yaml", ".yml") and not path.name.startswith(".") and path.is_file()


def _encoding(file: Path) -> str:
    """UTF-8 wherever the whole file is that: hardly any Korean text in CP949 happens to be."""
    try:
        with file.open("rb") as content:
            head = content.read(2)
        if head in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            return "utf-16"
        for name in ("utf-8-sig", "cp949"):
            if _is_in(file, name):
                return name
    except OSError as exc:
        raise _unreadable(file, exc) from exc
    raise InputError(f"{file.name} is neither UTF-8 nor CP949 text", hint=_MENDABLE)


def _is_in(file: Path, encoding: str) -> bool:
    decoder = codecs.getincrementaldecoder(encoding)()
    try:
        with file.open("rb") as content:
            while chunk := content.read(_CHUNK):
                decoder.decode(chunk)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


def _unreadable(path: Path, exc: Exception) -> InputError:
    reason = getattr(exc, "strerror", None) or exc
    return InputError(f"cannot read {path}: {reason}", hint="give a CSV file or a folder of YAML input files")
