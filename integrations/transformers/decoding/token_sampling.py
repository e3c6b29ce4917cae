"""Logits to tokens: greedy, or sampled with the row's own random numbers.

Each sampled row draws one uniform number per token from its own generator on the CPU and looks it
up in its cumulative distribution, all rows at once on the device. So a row's choice depends on its
seed and its logits alone: not on what it is batched with, and not on the device's random generator.
"""

from __future__ import annotations

from collections.abc import Sequence
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


def choose(logits: Tensor, draws: Sequence[Draw]) -> tuple[list[int], list[float]]:
    """Choose one token for each row.

    Args:
        logits: Any float type [B, V].
        draws: One for each row.

    Returns:
        Tokens, and their log-probabilities in nats at temperature 1 (NaN if the logits are).
    """
    logprobs = torch.log_softmax(logits.float(), dim=-1)  # [B, V]
    tokens = logprobs.argmax(dim=-1)  # [B]
    for of_nucleus in (False, True):  # a sort is most of the work
        rows = [
            row
            for row, draw in enumerate(draws)
            if not draw.is_greedy and (draw.top_p < 1) == of_nucleus
        ]
        if rows:
            index = torch.tensor(rows, device=logits.device)
            tokens[index] = _sample(logprobs[index], [draws[row] for row in rows])
    chosen = logprobs.gather(1, tokens[:, None])[:, 0]  # [B]
    precise = _precise(logprobs)  # one read-back for both; float64 holds every token
    both = torch.stack([tokens.to(precise), chosen.to(precise)])
    found = cast("list[list[float]]", both.tolist())
    return [int(token) for token in found[0]], found[1]


def _sample(logprobs: Tensor, draws: Sequence[Draw]) -> Tensor:
    """Draw from rows [S, V], all of a nucleus or none; float64, so that sums reach their total."""
    precise = _precise(logprobs)
    told = [[draw.temperature, draw.top_p, float(_uniform(draw.generator))] for draw in draws]
    numbers = torch.tensor(told, dtype=torch.float64).to(logprobs.device, precise)
    temperature, top_p, uniform = numbers.t().unsqueeze(2)  # [S, 1] each
    weights = torch.softmax(logprobs.to(precise) / temperature, dim=-1)  # [S, V]
    order: Tensor | None = None
    if draws[0].top_p < 1:
        weights, order = weights.sort(dim=1, descending=True, stable=True)
        # The nucleus: tokens whose more likely ones sum to less than top_p, so at least one.
        outside = weights.cumsum(1) - weights >= top_p  # [S, V]
        weights = weights.masked_fill(outside, 0)
    upto = weights.cumsum(1)  # [S, V], not normalised: `aim` is scaled to its total
    aim = uniform * upto[:, -1:]
    at = torch.searchsorted(upto, aim, right=True)  # [S, 1]
    places = torch.arange(weights.shape[1], device=weights.device)
    last = torch.where(weights != 0, places, 0).amax(dim=1, keepdim=True)
    at = torch.minimum(at, last)  # if rounding took `aim` to the total
    return (at if order is None else order.gather(1, at))[:, 0]


def _uniform(generator: torch.Generator) -> Tensor:
    return torch.rand((), generator=generator, dtype=torch.float64)


def _precise(like: Tensor) -> torch.dtype:
    return torch.float32 if like.device.type == "mps" else torch.float64  # MPS has no float64
