"""What work costs in floating-point operations, as far as a part can tell."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@runtime_checkable
class MeasuredModel(Protocol):
    """A model that knows how large it is."""

    async def parameters(self) -> int | None:
        """Return how many weights each token is multiplied with; `None` if that is not known.

        A table of embeddings is looked up and counts nothing, unless it is the output layer too.
        """
        ...


async def parameters_of(model: object) -> int | None:
    """Return how many weights each token is multiplied with; `None` for a model that is silent."""
    return await model.parameters() if isinstance(model, MeasuredModel) else None


def forward_flops(parameters: int | None, tokens: int) -> float | None:
    """Return the operations of computing tokens: a multiplication and an addition for each weight.

    Attention over earlier tokens is left out, as usual (2001.08361, section 2.1).
    """
    return None if parameters is None else 2.0 * parameters * tokens


def training_flops(parameters: int | None, tokens: int, *, layers: float) -> float | None:
    """Return the operations of training adapters on tokens, beside weights that stay as they are.

    Forward 2 for each weight and token, and 2 more for the gradient that goes back through the
    adapted share of the layers: 4 for all of them, 3 for half. The weights' own gradient, another
    2, is not computed.

    Args:
        parameters: Weights of the base model.
        tokens: Tokens that went through the optimiser, all epochs counted.
        layers: Share of the layers that are adapted, in (0, 1].
    """
    return None if parameters is None else (2.0 + 2.0 * layers) * parameters * tokens


def summed(*flops: float | None) -> float | None:
    """Return the sum; `None` if a part of it is not known."""
    known = [one for one in flops if one is not None]
    return sum(known) if len(known) == len(flops) else None


@dataclass(slots=True)
class Work:
    """Work of a judge in one piece of a run."""

    tokens: int | None = None
    """Tokens that it read; `None` where it did not say."""
    flops: float | None = None
    """Operations; `None` where it did not say."""


_work: ContextVar[Work | None] = ContextVar("rttc_work", default=None)


def note_work(tokens: int, flops: float | None) -> None:
    """Add to the work of the call that is being measured, if one is; for judges, as they score.

    Args:
        tokens: Tokens that were read.
        flops: Operations; `None` if they are not known.
    """
    work = _work.get()
    if work is not None:
        is_first = work.tokens is None
        work.flops = flops if is_first else summed(work.flops, flops)
        work.tokens = (work.tokens or 0) + tokens


@contextmanager
def measured_work() -> Generator[Work]:
    """Measure what judges note in this context and in tasks that it starts."""
    work = Work()
    token = _work.set(work)
    try:
        yield work
    finally:
        _work.reset(token)
