"""Files and hub data sets to raw rows, one at a time, without holding a whole file in memory.

A reader yields a line number with either the row's columns or, as a string, what is wrong with
the row; only what spoils the whole source (no such column, not a Parquet file) is raised.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

from rttc_graph.errors import ConfigurationError
from rttc_graph.samples.rows import COLUMNS, REQUIRED_COLUMNS, Fields, parse_json
from rttc_graph.support.extras import require

RawRow = tuple[int, Fields | str]
"""1-based line (JSONL, CSV) or row (Parquet, hub), and the columns or what is wrong."""

MAX_LINE_BYTES = 8 * 2**20
"""Longest JSONL line: three texts of 100,000 characters, each written as a 12-byte escape pair,
fit twice; a file without line ends is not read into memory whole."""

_BOM = b"\xef\xbb\xbf"
_BATCH_ROWS = 1024


def jsonl_rows(path: Path) -> Iterator[RawRow]:
    """Yield one row for each line that is not blank; a byte order mark is left out."""
    with path.open("rb") as file:
        for number, line in enumerate(_lines(file), start=1):
            if isinstance(line, str):
                yield number, line
                continue
            content = line.removeprefix(_BOM) if number == 1 else line
            if content.strip():
                yield number, _json_object(content)


def _lines(file: BinaryIO) -> Iterator[bytes | str]:
    while line := file.readline(MAX_LINE_BYTES):
        if len(line) < MAX_LINE_BYTES or line.endswith(b"\n"):
            yield line
            continue
        while (rest := file.readline(MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
            pass
        yield f"the line is longer than {MAX_LINE_BYTES:,} bytes"


def _json_object(line: bytes) -> Fields | str:
    try:
        value = parse_json(line.decode(), what="the line")
    except UnicodeDecodeError as exc:
        return f"the line is not valid UTF-8: {exc.reason} at byte {exc.start + 1}"
    except ValueError as exc:
        return str(exc)
    if not isinstance(value, dict):
        return f"the line must be a JSON object, got a {type(value).__name__}"
    return cast("Fields", value)


def csv_rows(path: Path) -> Iterator[RawRow]:
    """Yield one row for each record below the header; `metadata` is a column of JSON texts.

    Raises:
        ConfigurationError: The header lacks a column.
    """
    # What is not UTF-8 becomes lone surrogates, which the check of the row then refuses.
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.reader(file, strict=True)
        header = [name.strip() for name in next(reader, list[str]())]
        check_columns(header, str(path))
        yield from _records(reader, header)


def _records(reader: Any, header: list[str]) -> Iterator[RawRow]:
    while True:
        line = cast("int", reader.line_num) + 1
        try:
            cells = cast("list[str]", next(reader))
        except StopIteration:
            return
        except csv.Error as exc:
            yield line, f"not a CSV record: {exc}"
            continue
        if len(cells) == len(header):
            yield line, dict(zip(header, cells, strict=True))
        elif cells:
            yield line, f"{len(cells)} cells under a header of {len(header)}"


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
