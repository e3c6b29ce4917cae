"""The one place that turns what torch and transformers raise into errors of ours."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import torch

from rttc_graph.errors import PolicyModelError, RttcError


@contextmanager
def translated(action: str) -> Generator[None]:
    """Re-raise errors of the model's code as PolicyModelError, saying what was being done."""
    try:
        yield
    except RttcError:  # ours already; some of them are a ValueError too
        raise
    except torch.OutOfMemoryError as exc:
        torch.cuda.empty_cache()  # the next try finds the memory that this one gave back
        raise PolicyModelError(
            f"out of memory, could not {action}: lower max_batch or max_batch_tokens",
            retryable=True,
        ) from exc
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as exc:
        # a model's remote or patched code raises any of these for a batch it cannot take
        raise PolicyModelError(f"could not {action}: {type(exc).__name__}: {exc}") from exc
