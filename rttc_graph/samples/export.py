"""Stored samples back to rows of JSONL that can be ingested again, with the same ids."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from rttc_graph.errors import ConfigurationError
from rttc_graph.protocols.managed_knowledge_base import (
    ManagedKnowledgeBase,
    SampleFilter,
    StoredSample,
)

__all__ = ("export_file", "exported_row", "sample_pages")

_PAGE_SAMPLES = 500


async def sample_pages(
    knowledge_base: ManagedKnowledgeBase,
    which: SampleFilter,
    *,
    tenant: str,
    with_vectors: bool = False,
) -> AsyncIterator[list[StoredSample]]:
    """Yield the samples that are meant, by domain and id, one page in memory at a time."""
    after: str | None = None
    while True:
        page = await knowledge_base.list_samples(
            which, tenant=tenant, limit=_PAGE_SAMPLES, after=after, with_vectors=with_vectors
        )
        yield page.samples
        after = page.next
        if after is None:
            return


def exported_row(sample: StoredSample) -> dict[str, Any]:
    """Return a sample as a row that an ingest reads: the id it came with, texts, metadata.

    A sample that came without an id has none here either; its content hash is the same again.
    """
    row: dict[str, Any] = {} if sample.external_id is None else {"id": sample.external_id}
    row |= {"question": sample.question, "answer": sample.answer, "domain": sample.domain}
    return row | ({"metadata": sample.metadata} if sample.metadata else {})


async def export_file(
    knowledge_base: ManagedKnowledgeBase,
    which: SampleFilter,
    path: Path,
    *,
    tenant: str,
    on_progress: Callable[[int], None] | None = None,
) -> int:
    """Write the samples that are meant to a JSONL file and return how many there were.

    The file appears whole, in the place of one of its name: until then the rows are in a file
    beside it, which is removed if the export breaks off.

    Args:
        knowledge_base: Where the samples are.
        which: The samples that are meant.
        path: The file, in a folder that is there.
        tenant: Tenant of the samples.
        on_progress: Called with the number of samples so far.

    Raises:
        ConfigurationError: The file cannot be written.
        KnowledgeBaseError: The samples cannot be read.
    """
    written = await asyncio.to_thread(_Unfinished, path)
    count = 0
    try:
        async for samples in sample_pages(knowledge_base, which, tenant=tenant):
            await asyncio.to_thread(written.write, samples)
            count += len(samples)
            if on_progress is not None:
                on_progress(count)
        await asyncio.to_thread(written.finish)
    finally:
        written.close()
    return count


class _Unfinished:
    """A file that appears under its name when it is whole.

    A device or a pipe is written to at once, since it must not be replaced.

    Raises:
        ConfigurationError: It cannot be written, as of each method.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._is_special = path.exists() and not path.is_file()
        beside = path.with_name(f".{path.name}.{uuid4().hex[:8]}")
        self._written = path if self._is_special else beside
        with self._explained():
            self._file = self._written.open("w", encoding="utf-8")

    def write(self, samples: Sequence[StoredSample]) -> None:
        """Add a line for each sample."""
        rows = (json.dumps(exported_row(sample), ensure_ascii=False) for sample in samples)
        with self._explained():
            self._file.writelines(f"{row}\n" for row in rows)

    def finish(self) -> None:
        """Give the file its name."""
        with self._explained():
            self._file.flush()
            if not self._is_special:
                os.fsync(self._file.fileno())
                self._written.replace(self._path)

    def close(self) -> None:
        """Remove what was not finished."""
        with suppress(OSError):
            self._file.close()
        if not self._is_special:
            self._written.unlink(missing_ok=True)

    @contextmanager
    def _explained(self) -> Generator[None]:
        try:
            yield
        except OSError as exc:
            raise ConfigurationError(
                f"cannot write {str(self._path)!r}: {exc.strerror or exc}"
            ) from exc
