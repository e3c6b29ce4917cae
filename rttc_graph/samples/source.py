"""Where samples come from, by name: a file by its suffix, or `hub:` and the name of a data set."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

from rttc_graph.errors import BadSampleError, ConfigurationError
from rttc_graph.protocols import NewSample
from rttc_graph.samples.formats import (
    RawRow,
    csv_rows,
    hub_rows,
    jsonl_rows,
    parquet_rows,
    separator_taken,
    xlsx_rows,
)
from rttc_graph.samples.rows import (
    UNANSWERABLE,
    USUAL_COLUMNS,
    ColumnNames,
    Fields,
    is_unanswerable,
    sample_from,
)
from rttc_graph.samples.unique_ids import UniqueIds
from rttc_graph.support.identity import checked_name
from rttc_graph.support.named_files import check_file

MAX_KEPT_PROBLEMS = 100
"""Bad rows that are kept for a report; the rest is only counted."""

_READERS: dict[str, Callable[[Path, ColumnNames], Iterator[RawRow]]] = {
    ".jsonl": jsonl_rows,
    ".ndjson": jsonl_rows,
    ".csv": csv_rows,
    ".tsv": csv_rows,
    ".parquet": parquet_rows,
    ".xlsx": xlsx_rows,
    ".xlsm": xlsx_rows,
}
_HUB = re.compile(r"hub:(?P<name>[^:@]+)(?:@(?P<config>[^:]+))?(?::(?P<split>.+))?")


class Samples:
    """The usable rows of one source; each iteration reads the source anew, row by row.

    Reading blocks, so iterate on a thread. `bad` and `bad_count` belong to the latest iteration
    and stay empty unless bad rows are skipped.

    Args:
        source: Path or name, for messages.
        open_rows: Starts a new pass over the raw rows.
        domain: For rows that name none.
        skip_bad: Collect bad rows instead of raising at the first one.
        unique_ids: Take a row for bad whose id was that of an earlier one of its domain, with
            another question or answer, and one that is marked unanswerable.
        columns: Their names in the source.
    """

    def __init__(
        self,
        source: str,
        open_rows: Callable[[], Iterator[RawRow]],
        *,
        domain: str | None = None,
        skip_bad: bool = False,
        unique_ids: bool = False,
        columns: ColumnNames = USUAL_COLUMNS,
    ) -> None:
        self.source = source
        self.bad: list[BadSampleError] = []
        """The first `MAX_KEPT_PROBLEMS` bad rows."""
        self.bad_count = 0
        self._open_rows = open_rows
        self._domain = domain
        self._skip_bad = skip_bad
        self._unique_ids = unique_ids
        self._columns = columns
        self._ids = UniqueIds()

    def separator(self) -> str | None:
        """Return what a CSV or TSV file is split at; `None` for a source of another kind.

        Raises:
            OSError: The file cannot be read.
        """
        path = Path(self.source)
        if _READERS.get(path.suffix.lower()) is not csv_rows:
            return None
        return separator_taken(path, self._columns)

    def __iter__(self) -> Iterator[NewSample]:
        """Yield one sample for each usable row, in order.

        Raises:
            BadSampleError: A row cannot be used, and bad rows are not skipped; or no row from some
                line on can be told; or no row at all could be used.
            ConfigurationError: The source cannot be read, or an extra is missing.
        """
        self.bad = []
        self.bad_count = 0
        self._ids = UniqueIds()
        line, usable = 1, 0
        try:
            for line, fields in self._open_rows():
                sample = self._usable(line, fields)
                if sample is not None:
                    usable += 1
                    yield sample
        except OSError as exc:
            raise ConfigurationError(f"cannot read {self.source!r}: {exc.strerror or exc}") from exc
        except UnicodeDecodeError as exc:
            raise ConfigurationError(
                f"cannot read {self.source!r} as the {exc.encoding} it begins as: {exc.reason}; "
                "save the file as UTF-8"
            ) from exc
        if not usable:
            reason = f"no row could be used: {self._why_none()}"
            raise BadSampleError(reason, source=self.source, line=line)

    def _why_none(self) -> str:
        if not self.bad:
            return "there is none"
        first = self.bad[0]
        more = f"; {self.bad_count - 1} more are bad" if self.bad_count > 1 else ""
        return f"line {first.line}: {first.args[0]}{more}"

    def _usable(self, line: int, fields: Fields | str) -> NewSample | None:
        try:
            if isinstance(fields, str):
                raise BadSampleError(fields, source=self.source, line=line)
            sample = sample_from(
                fields,
                domain=self._domain,
                source=self.source,
                line=line,
                columns=self._columns,
            )
            if self._unique_ids:
                check_row(self._ids, sample, source=self.source, line=line)
            return sample
        except BadSampleError as exc:
            if not self._skip_bad:
                raise
            self.bad_count += 1
            if self.bad_count <= MAX_KEPT_PROBLEMS:
                self.bad.append(exc)
            return None


def check_row(ids: UniqueIds, sample: NewSample, *, source: str, line: int) -> None:
    """Do nothing if the row can be a sample of a knowledge base, with an id of its own.

    Raises:
        BadSampleError: An earlier row has its id, with another question or answer; or it is a
            question to which there is no answer.
    """
    if is_unanswerable(sample.metadata):
        raise BadSampleError(
            f"the question is marked {UNANSWERABLE}, which is for files that rttc eval and rttc "
            "calibrate read: a sample needs an answer",
            source=source,
            line=line,
        )
    before = ids.clash(sample, line)
    if before is not None:
        raise BadSampleError(
            f"id {sample.external_id!r} is that of row {before} of {sample.domain!r}, with another "
            "question or answer; give each row an id of its own, or rename the column",
            source=source,
            line=line,
        )


def read_samples(
    source: str | Path,
    *,
    domain: str | None = None,
    skip_bad: bool = False,
    unique_ids: bool = False,
    columns: ColumnNames = USUAL_COLUMNS,
) -> Samples:
    """Return the samples of a JSONL, CSV, Parquet or xlsx file or of a hub data set.

    A row has `question` and `answer`, and may have `domain`, `id` and `metadata`; a question to
    which there is no answer has `unanswerable` = true in the place of an answer. Other columns are
    ignored, and a number is taken as text. Nothing is read yet, but a file must be there.

    Args:
        source: A path that ends in `.jsonl`, `.ndjson`, `.csv`, `.tsv`, `.parquet`, `.xlsx`
            or `.xlsm`, or `hub:NAME[@CONFIG][:SPLIT]` with a name or a local folder that
            `datasets.load_dataset` takes; the split is `train` by default.
        domain: For rows that name none; a row's own domain is kept. `general` by default.
        skip_bad: Collect bad rows in `Samples.bad` instead of raising at the first one.
        unique_ids: Rows that cannot be samples of a knowledge base are bad: of those of one domain
            with one id and other content all but the first, and unanswerable ones.
        columns: Their names in the source, where they are not those above.

    Raises:
        ConfigurationError: No such file, an unknown suffix, or an unusable domain or column.
    """
    name = str(source)
    columns.check()
    return Samples(
        name,
        _opener(name, columns),
        domain=_clean(domain),
        skip_bad=skip_bad,
        unique_ids=unique_ids,
        columns=columns,
    )


def _opener(name: str, columns: ColumnNames) -> Callable[[], Iterator[RawRow]]:
    if name.startswith("hub:"):
        return _hub_opener(name, columns)
    path = Path(name)
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise ConfigurationError(
            f"cannot tell the format of {name!r} by its suffix {path.suffix!r}: "
            f"give one of {', '.join(_READERS)}, or hub:NAME[@CONFIG][:SPLIT]"
        )
    check_file(path)
    return partial(reader, path, columns)


def _hub_opener(name: str, columns: ColumnNames) -> Callable[[], Iterator[RawRow]]:
    parts = _HUB.fullmatch(name)
    if parts is None:
        raise ConfigurationError(
            f"{name!r} does not name a data set: the form is hub:NAME[@CONFIG][:SPLIT]"
        )
    split = parts["split"] or "train"
    return partial(hub_rows, parts["name"], columns, config=parts["config"], split=split)


def _clean(domain: str | None) -> str | None:
    """Return the domain without outer white space, `None` if nothing is left."""
    name = (domain or "").strip()
    return checked_name("domain", name) if name else None


def draw_rows(rows: Iterable[NewSample], *, limit: int | None, seed: int) -> list[NewSample]:
    """Return at most `limit` rows, drawn by `seed`, in their order; all for `None`.

    Raises:
        BadSampleError: A row cannot be used.
        ConfigurationError: `limit` is below 1, or the source cannot be read.
    """
    if limit is not None and limit < 1:
        raise ConfigurationError(f"limit={limit!r} must be at least 1")
    found = list(rows)
    if limit is None or limit >= len(found):
        return found
    chosen = random.Random(seed).sample(range(len(found)), limit)
    return [found[index] for index in sorted(chosen)]
