"""Files and hub data sets to raw rows, one at a time, without holding a whole file in memory.

A reader yields a line number with either the row's columns or, as a string, what is wrong with
the row; only what spoils the whole source (no such column, not a Parquet file) is raised.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date, time
from itertools import chain
from pathlib import Path
from typing import Any, TextIO, cast
from zipfile import BadZipFile

from rttc_graph.errors import BadSampleError, ConfigurationError
from rttc_graph.samples.rows import ColumnNames, Fields, parse_json
from rttc_graph.support.encodings import open_text, undecodable
from rttc_graph.support.extras import require

RawRow = tuple[int, Fields | str]
"""1-based line (JSONL, CSV) or row (Parquet, hub), and the columns or what is wrong."""

MAX_RECORD_CHARACTERS = 8 * 2**20
"""Longest line of JSONL and longest record of CSV: three texts of 100,000 characters, each written
as a 12-character escape pair, fit twice; a file without line ends is not read into memory whole."""

_BATCH_ROWS = 1024
_SEPARATORS = (",", ";", "\t", "|")
_SEPARATOR_LINE = re.compile(r"\s*\"?sep=(.)\"?\s*", re.IGNORECASE)
"""Line that Excel puts before the header to name the separator."""


def jsonl_rows(path: Path, columns: ColumnNames) -> Iterator[RawRow]:
    """Yield one row for each line that is not blank, whatever its columns.

    Raises:
        ConfigurationError: The file is one JSON array.
    """
    del columns
    is_first = True
    with open_text(path) as file:
        for number, (line, is_whole) in enumerate(_lines(file), start=1):
            if is_first and line.lstrip().startswith("["):
                raise ConfigurationError(
                    f"{str(path)!r} is a JSON array, not one JSON object a line: "
                    f"jq -c '.[]' {path.name} makes such lines of it"
                )
            if not is_whole:
                yield number, f"the line is longer than {MAX_RECORD_CHARACTERS:,} characters"
            elif line.strip():
                yield number, _json_object(line)
            is_first = is_first and not line.strip()


def _lines(file: TextIO) -> Iterator[tuple[str, bool]]:
    """Yield each line, and whether that is all of it."""
    while line := file.readline(MAX_RECORD_CHARACTERS):
        is_whole = len(line) < MAX_RECORD_CHARACTERS or line.endswith("\n")
        rest = "" if is_whole else line
        while rest and not rest.endswith("\n"):
            rest = file.readline(MAX_RECORD_CHARACTERS)
        yield line, is_whole


def _json_object(line: str) -> Fields | str:
    problem = undecodable(line)
    if problem is not None:
        return f"the line is {problem}"
    try:
        value = parse_json(line, what="the line")
    except ValueError as exc:
        return str(exc)
    if not isinstance(value, dict):
        return f"the line must be a JSON object, got a {type(value).__name__}"
    return cast("Fields", value)


def csv_rows(path: Path, columns: ColumnNames) -> Iterator[RawRow]:
    """Yield one row for each record below the header; `metadata` is a column of JSON texts.

    The separator is the one of comma, semicolon, tab and bar under which the header names the
    columns, or that of a first line `sep=;`. Names in the header may have capitals.

    Raises:
        BadSampleError: A quote is never closed, or has text behind it: what follows may be a part
            of a field, so no later record can be told.
        ConfigurationError: The header lacks a column.
    """
    # The limit is the process's. A field above it would end the record in the middle, and what
    # is left of it would be read as rows; so it is raised to what `_Records` allows.
    csv.field_size_limit(max(csv.field_size_limit(), MAX_RECORD_CHARACTERS))
    with open_text(path, newline="") as file:
        records = _Records(file, str(path), columns)
        header = records.header()
        for line, cells in records:
            if len(cells) == len(header):
                yield line, dict(zip(header, cells, strict=True))
            elif cells:
                yield line, f"{len(cells)} cells under a header of {len(header)}"


class _Records:
    """The records of a CSV file from the header on, each with the 1-based line where it begins.

    Args:
        file: Open text, with its line ends as they are.
        source: For errors.
        columns: Their names in the header.
    """

    def __init__(self, file: TextIO, source: str, columns: ColumnNames) -> None:
        self._file = file
        self._source = source
        self._columns = columns
        self._characters = 0
        """Length of the record in hand."""
        first, separator, self._lines_before = _beginning(file, columns)
        self._reader = csv.reader(
            chain([first] if first else [], self._lines()),
            delimiter=separator,
            skipinitialspace=True,  # so that a quote behind a space is one
            strict=True,
        )

    def header(self) -> list[str]:
        """Return the names of the columns, as they are looked for but for their capitals.

        Raises:
            ConfigurationError: A column is missing or there twice.
        """
        _, cells = next(self, (0, list[str]()))
        names = as_looked_for(cells, self._columns)
        check_columns(names, self._source, self._columns)
        return names

    def __iter__(self) -> Iterator[tuple[int, list[str]]]:
        return self

    def __next__(self) -> tuple[int, list[str]]:
        """Return the line on which the next record begins, and its cells.

        Raises:
            BadSampleError: Nobody can tell where the record ends.
        """
        line = self._lines_before + self._reader.line_num + 1
        self._characters = 0
        try:
            return line, next(self._reader)
        except csv.Error as exc:
            raise BadSampleError(
                f"not a CSV record: {exc}. From here on a row cannot be told from a part of a "
                "field, so nothing of the file is used: close the quote, or write each quote "
                "inside a quoted field twice",
                source=self._source,
                line=line,
            ) from exc

    def _lines(self) -> Iterator[str]:
        while line := self._file.readline(MAX_RECORD_CHARACTERS):
            self._characters += len(line)
            if self._characters > MAX_RECORD_CHARACTERS:
                raise csv.Error(f"longer than {MAX_RECORD_CHARACTERS:,} characters")
            yield line


def separator_taken(path: Path, columns: ColumnNames) -> str:
    """Return the separator with which the columns of a CSV file are told apart.

    Raises:
        OSError: The file cannot be read.
    """
    with open_text(path, newline="") as file:
        return _beginning(file, columns)[1]


def _beginning(file: TextIO, columns: ColumnNames) -> tuple[str, str, int]:
    """Return the header's line, the separator, and how many lines stand before the header."""
    first = file.readline(MAX_RECORD_CHARACTERS)
    named = _SEPARATOR_LINE.fullmatch(first)
    if named:
        return file.readline(MAX_RECORD_CHARACTERS), named[1], 1
    return first, _separator_of(first, columns), 0


def as_looked_for(cells: Sequence[str], columns: ColumnNames) -> list[str]:
    """Return the names in a header, written as they are looked for where only capitals differ.

    That is done if the needed ones are all there then; else the names stay as they are.
    """
    names = [name.strip() for name in cells]
    by_fold = {column.casefold(): column for column in columns.read}
    found = [by_fold.get(name.casefold(), name) for name in names]
    return found if {columns.question, columns.answer} <= set(found) else names


def _separator_of(header: str, columns: ColumnNames) -> str:
    """Return the separator under which a header names most of the needed columns."""

    def found(separator: str) -> int:
        cells = next(csv.reader([header], delimiter=separator, skipinitialspace=True), list[str]())
        names = {cell.strip().casefold() for cell in cells}
        return len(names.intersection(column.casefold() for column in columns.needed))

    return max(_SEPARATORS, key=found)


def parquet_rows(path: Path, columns: ColumnNames) -> Iterator[RawRow]:
    """Yield the rows of a Parquet file, one group of rows in memory at a time.

    Raises:
        ConfigurationError: `pyarrow` is not installed, the file is not Parquet, or lacks a column.
    """
    parquet = require("pyarrow.parquet", extra="data", purpose="parquet files")
    invalid: type[Exception] = require(
        "pyarrow", extra="data", purpose="parquet files"
    ).ArrowInvalid
    try:
        with parquet.ParquetFile(str(path)) as file:
            names: list[str] = file.schema_arrow.names
            check_columns(names, str(path), columns)
            wanted = [name for name in columns.read if name in names]
            batches = file.iter_batches(batch_size=_BATCH_ROWS, columns=wanted)
            yield from enumerate(_arrow_rows(batches), start=1)
    except invalid as exc:
        raise ConfigurationError(f"cannot read {str(path)!r} as parquet: {exc}") from exc


def _arrow_rows(batches: Iterable[Any]) -> Iterator[Fields | str]:
    for batch in batches:
        columns: list[Any] = batch.columns
        names: list[str] = batch.schema.names
        for cells in zip(*columns, strict=True):
            try:
                yield {name: cell.as_py() for name, cell in zip(names, cells, strict=True)}
            except UnicodeDecodeError as exc:
                yield f"the row is not valid UTF-8: {exc.reason}"


def xlsx_rows(path: Path, columns: ColumnNames) -> Iterator[RawRow]:
    """Yield the rows of the first sheet of a workbook whose first row names the needed columns.

    Cells are read as they were last computed; dates become ISO texts, TRUE and FALSE texts.

    Raises:
        ConfigurationError: `openpyxl` is not installed, the file is no workbook, or no sheet has
            the columns.
    """
    openpyxl = require("openpyxl", extra="data", purpose="xlsx files")
    invalid: type[Exception] = require(
        "openpyxl.utils.exceptions", extra="data", purpose="xlsx files"
    ).InvalidFileException
    try:
        book = openpyxl.load_workbook(str(path), read_only=True, data_only=True)
    except (invalid, BadZipFile, KeyError, ValueError) as exc:
        raise ConfigurationError(f"cannot read {str(path)!r} as a workbook: {exc}") from exc
    try:
        header, rows = _sheet_with(columns, book, str(path))
        for number, cells in enumerate(rows, start=2):
            if any(cell is not None for cell in cells):
                yield number, dict(zip(header, map(_cell, cells), strict=False))
    finally:
        book.close()


def _sheet_with(
    columns: ColumnNames, book: Any, source: str
) -> tuple[list[str], Iterator[Sequence[object]]]:
    """Return header and further rows of the first sheet that has the columns.

    Raises:
        ConfigurationError: None has; names what the first one has.
    """
    first: list[str] | None = None
    for sheet in book.worksheets:
        rows = cast("Iterator[Sequence[object]]", sheet.iter_rows(values_only=True))
        cells = ["" if cell is None else str(cell) for cell in next(rows, ())]
        header = as_looked_for(cells, columns)
        if all(column in header for column in columns.needed):
            check_columns(header, source, columns)
            return header, rows
        first = header if first is None else first
    check_columns(first or [], source, columns)
    raise AssertionError("a header without a needed column is refused")


def _cell(value: object) -> object:
    if isinstance(value, bool):
        return str(value).upper()
    return value.isoformat() if isinstance(value, date | time) else value


def hub_rows(
    name: str, columns: ColumnNames, *, config: str | None, split: str
) -> Iterator[RawRow]:
    """Yield the rows of a data set that `datasets` loads by name or from a local folder.

    Raises:
        ConfigurationError: `datasets` is not installed, cannot load it, or it lacks a column.
    """
    datasets = require("datasets", extra="data", purpose="hub data sets")
    failed: type[Exception] = datasets.exceptions.DatasetsError
    try:
        table = datasets.load_dataset(name, config, split=split)
    except (failed, OSError, ValueError) as exc:
        detail = " ".join(str(exc).split())
        raise ConfigurationError(
            f"cannot load the data set {name!r}, split {split!r}: {detail}"
        ) from exc
    names: list[str] = table.column_names
    check_columns(names, name, columns)
    wanted = [column for column in columns.read if column in names]
    rows = cast("Iterable[Mapping[str, object]]", table.select_columns(wanted))
    yield from enumerate(rows, start=1)


def check_columns(names: Iterable[str], source: str, columns: ColumnNames) -> None:
    """Refuse a table without a needed column, or with two of one name.

    Raises:
        ConfigurationError: Says which column, and which ones are there.
    """
    found = list(names)
    for column in columns.all:
        if found.count(column) > 1:
            raise ConfigurationError(f"{source!r} has two columns named {column!r}")
    missing = [column for column in columns.needed if column not in found]
    if missing:
        raise ConfigurationError(
            f"{source!r} has no column {missing[0]!r}, it has {found!r}: rename the column, or "
            "name those for question and answer (--question-column, --answer-column)"
        )
