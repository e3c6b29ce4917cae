"""Stored samples back to rows of JSONL that can be ingested again, with the same ids."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

from rttc_graph.errors import ConfigurationError
from rttc_graph.protocols.managed_knowledge_base import (
    ManagedKnowledgeBase,
    SampleFilter,
    StoredSample,
)

__all__ = ("export_file", "exported_row", "stored_samples")

_PAGE_SAMPLES = 500


async def stored_samples(
    knowledge_base: ManagedKnowledgeBase,
    which: SampleFilter,
    *,
    tenant: str,
    with_vectors: bool = False,
) -> AsyncIterator[StoredSample]:
    """Yield the samples that are meant, by domain and id, one page in memory at a time."""
    after: str | None = None
    while True:
        page = await knowledge_base.list_samples(
            which, tenant=tenant, limit=_PAGE_SAMPLES, after=after, with_vectors=with_vectors
        )
        for sample in page.samples:
            yield sample
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
        tenant: Whose samples.
        on_progress: Called with the number of samples so far.

    Raises:
        ConfigurationError: The file cannot be written.
        KnowledgeBaseError: The samples cannot be read.
    """
    unfinished = path.with_name(f".{path.name}.{uuid4().hex[:8]}")
    count = 0
    try:
        with unfinished.open("w", encoding="utf-8") as file:
            async for sample in stored_samples(knowledge_base, which, tenant=tenant):
                file.write(json.dumps(exported_row(sample), ensure_ascii=False) + "\n")
                count += 1
                if on_progress is not None and count % _PAGE_SAMPLES == 0:
                    on_progress(count)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except OSError as exc:
        raise ConfigurationError(f"cannot write {str(path)!r}: {exc.strerror or exc}") from exc
    finally:
        unfinished.unlink(missing_ok=True)
    return count
