"""The one place that turns what torch and transformers raise into errors of ours."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, cast

import torch

from rttc_graph.errors import PolicyModelError, RttcError
from rttc_graph.integrations.concurrency.settled_futures import clear_frames

_OUT_OF_MEMORY = ("out of memory", "not enough memory", "can't allocate memory")
"""Words of torch's allocators in a plain `RuntimeError` for memory that ran out."""


@contextmanager
def translated(action: str) -> Generator[None]:
    """Re-raise errors of the model's code as PolicyModelError, saying what was being done.

    Any `Exception` is meant: a model's own code asserts, reads files and runs out of memory, and
    the caller that waits for the row must be told in each case.
    """
    try:
        yield
    except RttcError:  # ours already; some of them are a ValueError too
        raise
    except Exception as exc:
        if is_out_of_memory(exc):
            let_go(exc)
            raise PolicyModelError(
                f"out of memory, could not {action}: lower max_batch or max_batch_tokens",
                retryable=True,
            ) from exc
        raise PolicyModelError(f"could not {action}: {type(exc).__name__}: {exc}") from exc


def is_out_of_memory(exc: BaseException | None) -> bool:
    """Tell whether an error, or what it was made from, says that memory ran out."""
    if exc is None:
        return False
    if isinstance(exc, (MemoryError, torch.OutOfMemoryError)):
        return True
    said = isinstance(exc, RuntimeError) and any(one in str(exc).lower() for one in _OUT_OF_MEMORY)
    return said or is_out_of_memory(exc.__cause__)


def let_go(exc: BaseException) -> None:
    """Free what the frames of a failed pass hold, for as long as somebody keeps its error."""
    held: BaseException | None = exc
    while held is not None:
        clear_frames(held)
        held = held.__cause__
    if cast(
        "Any", torch.cuda
    ).is_initialized():  # the next try finds the memory that this one gave back
        torch.cuda.empty_cache()
