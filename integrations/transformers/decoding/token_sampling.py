"""Logits to tokens: greedy, or sampled with the row's own random numbers.

Each sampled row draws one uniform number per token from its own generator on the CPU and looks it
up in its cumulative distribution: on a GPU all rows at once, on a CPU row by row, as one row fits
its cache. So a row's choice depends on its seed and its logits alone: not on what it is batched
with, and not on the device's random generator.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Draw:
    """Sampling of one row's tokens."""

    temperature: float
    top_p: float
    generator: torch.Generator

    @property
    def is_greedy(self) -> bool:
        """Whether nothing is drawn."""
        return self.temperature <= 0

    @classmethod
    def seeded(cls, *, temperature: float, top_p: float, seed: int | None) -> Draw:
        """Make a draw; without a seed it cannot be repeated."""
        generator = torch.Generator()
        if seed is None:
            generator.seed()
        else:
            generator.manual_seed(seed)
        return cls(temperature, top_p, generator)

    def rewound(self, drawn: int) -> Draw:
        """Return this sampling as it was after `drawn` tokens."""
        generator = torch.Generator()
        generator.manual_seed(self.generator.initial_seed())
        if not self.is_greedy:
            for _ in range(drawn):
                _uniform(generator)
        return Draw(self.temperature, self.top_p, generator)


def choose(
    logits: Tensor, draws: Sequence[Draw], *, at_once: bool | None = None
) -> tuple[list[int], list[float]]:
    """Choose one token for each row.

    Args:
        logits: Any float type [B, V].
        draws: One for each row.
        at_once: Whether rows are sampled together; `None` does so where the device is no CPU. The
            tokens are the same.

    Returns:
        Tokens, and their log-probabilities in nats at temperature 1 (NaN if the logits are).
    """
    logprobs = torch.log_softmax(logits.float(), dim=-1)  # [B, V]
    tokens = logprobs.argmax(dim=-1)  # [B]
    for rows in _groups(draws, at_once=logits.device.type != "cpu" if at_once is None else at_once):
        one = slice(rows[0], rows[0] + 1)  # a view; several rows are a copy
        index = one if len(rows) == 1 else torch.tensor(rows, device=logits.device)
        tokens[index] = _sample(logprobs[index], [draws[row] for row in rows])
    chosen = logprobs.gather(1, tokens[:, None])[:, 0]  # [B]
    # One read-back for both: float32 holds every token below 2²⁴.
    found = cast("list[list[float]]", torch.stack([tokens, chosen]).tolist())
    return [int(token) for token in found[0]], found[1]


def _groups(draws: Sequence[Draw], *, at_once: bool) -> Iterator[list[int]]:
    """Yield the rows to be sampled together: of a nucleus or not, as a sort is most of the work."""
    sampled = [row for row, draw in enumerate(draws) if not draw.is_greedy]
    if not at_once:
        yield from ([row] for row in sampled)
        return
    for of_nucleus in (False, True):
        if rows := [row for row in sampled if (draws[row].top_p < 1) == of_nucleus]:
            yield rows


def _sample(logprobs: Tensor, draws: Sequence[Draw]) -> Tensor:
    """Draw from rows [S, V], all of a nucleus or none; float64, so that sums reach their total."""
    precise = _precise(logprobs)
    temperature, top_p, uniform = _told(draws, logprobs.device, precise)
    weights = torch.softmax(logprobs.to(precise) / temperature, dim=-1)  # [S, V]
    order: Tensor | None = None
    if draws[0].top_p < 1:
        weights, order = weights.sort(dim=1, descending=True, stable=True)
        # The nucleus: tokens whose more likely ones sum to less than top_p, so at least one.
        outside = weights.cumsum(1) - weights >= top_p  # [S, V]
        weights = weights.masked_fill(outside, 0)
    upto = weights.cumsum(1)  # [S, V], not normalised: `aim` is scaled to its total
    total = upto[:, -1:]
    # Below the total, also where rounding takes the product to it: so a token with a weight is hit.
    aim = torch.minimum(uniform * total, torch.nextafter(total, torch.zeros_like(total)))
    at = torch.searchsorted(upto, aim, right=True)  # [S, 1]
    at = at.clamp_(max=weights.shape[1] - 1)  # numbers that are none are not found
    return (at if order is None else order.gather(1, at))[:, 0]


def _told(
    draws: Sequence[Draw], device: torch.device, dtype: torch.dtype
) -> Iterable[float | Tensor]:
    """Return temperature, top_p and a uniform number: of several rows [S, 1] each."""
    told = [(draw.temperature, draw.top_p, float(_uniform(draw.generator))) for draw in draws]
    if len(told) == 1:
        return told[0]
    return torch.tensor(told, dtype=torch.float64).to(device, dtype).t().unsqueeze(2).unbind()


def _uniform(generator: torch.Generator) -> Tensor:
    return torch.rand((), generator=generator, dtype=torch.float64)


def _precise(like: Tensor) -> torch.dtype:
    return torch.float32 if like.device.type == "mps" else torch.float64  # MPS has no float64
