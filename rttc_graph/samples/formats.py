"""Files and hub data sets to raw rows, one at a time, without holding a whole file in memory.

A reader yields a line number with either the row's columns or, as a string, what is wrong with
the row; only what spoils the whole source (no such column, not a Parquet file) is raised.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, TextIO, cast

from rttc_graph.errors import BadSampleError, ConfigurationError
from rttc_graph.samples.rows import COLUMNS, REQUIRED_COLUMNS, Fields, parse_json
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


def jsonl_rows(path: Path) -> Iterator[RawRow]:
    """Yield one row for each line that is not blank.

    Raises:
        ConfigurationError: The file is one JSON array.
    """
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


def csv_rows(path: Path) -> Iterator[RawRow]:
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
        records = _Records(file, str(path))
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
    """

    def __init__(self, file: TextIO, source: str) -> None:
        self._file = file
        self._source = source
        self._characters = 0
        """Length of the record in hand."""
        first = file.readline(MAX_RECORD_CHARACTERS)
        named = _SEPARATOR_LINE.fullmatch(first)
        self._lines_before = 1 if named else 0
        if named:
            first = file.readline(MAX_RECORD_CHARACTERS)
        self._reader = csv.reader(
            chain([first] if first else [], self._lines()),
            delimiter=named[1] if named else _separator_of(first),
            skipinitialspace=True,  # so that a quote behind a space is one
            strict=True,
        )

    def header(self) -> list[str]:
        """Return the names of the columns, in lower case if the needed ones are there then.

        Raises:
            ConfigurationError: A column is missing or there twice.
        """
        _, cells = next(self, (0, list[str]()))
        names = [name.strip() for name in cells]
        folded = [name.casefold() for name in names]
        if all(column in folded for column in REQUIRED_COLUMNS):
            names = folded
        check_columns(names, self._source)
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


def _separator_of(header: str) -> str:
    """Return the separator under which a header names most of the needed columns."""

    def found(separator: str) -> int:
        cells = next(csv.reader([header], delimiter=separator, skipinitialspace=True), list[str]())
        names = {cell.strip().casefold() for cell in cells}
        return len(names.intersection(REQUIRED_COLUMNS))

    return max(_SEPARATORS, key=found)


def parquet_rows(path: Path) -> Iterator[RawRow]:
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
            check_columns(names, str(path))
            wanted = [name for name in COLUMNS if name in names]
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


def hub_rows(name: str, *, config: str | None, split: str) -> Iterator[RawRow]:
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
    check_columns(names, name)
    wanted = [column for column in COLUMNS if column in names]
    rows = cast("Iterable[Mapping[str, object]]", table.select_columns(wanted))
    yield from enumerate(rows, start=1)


def check_columns(names: Iterable[str], source: str) -> None:
    """Refuse a table without a question or answer column, or with two of one name.

    Raises:
        ConfigurationError: Says which column, and which ones are there.
    """
    found = list(names)
    for column in COLUMNS:
        if found.count(column) > 1:
            raise ConfigurationError(f"{source!r} has two columns named {column!r}")
    missing = [column for column in REQUIRED_COLUMNS if column not in found]
    if missing:
        raise ConfigurationError(
            f"{source!r} has no column {missing[0]!r}, it has {found!r}: "
            "rename the column, a table needs 'question' and 'answer'"
        )
