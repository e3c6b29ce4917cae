"""Logits to tokens: greedy, or sampled with the row's own random numbers.

Each sampled row draws one uniform number per token from its own generator on the CPU and looks it
up in its cumulative distribution. So a row's choice depends on its seed and its logits alone: not
on what it is batched with, and not on the device's random generator.
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
    for row, draw in enumerate(draws):
        if not draw.is_greedy:
            tokens[row] = _sample(logprobs[row], draw)
    chosen = logprobs.gather(1, tokens[:, None])[:, 0]  # [B]
    return cast("list[int]", tokens.tolist()), cast("list[float]", chosen.tolist())


def _sample(logprobs: Tensor, draw: Draw) -> Tensor:
    """Draw from one row [V]; float64, so that the cumulative sum reaches its total."""
    weights = torch.softmax(logprobs.to(_precise(logprobs)) / draw.temperature, dim=-1)  # [V]
    order: Tensor | None = None
    if draw.top_p < 1:
        weights, order = weights.sort(descending=True, stable=True)
        # The nucleus: tokens whose more likely ones sum to less than top_p, so at least one.
        outside = weights.cumsum(0) - weights >= draw.top_p  # [V]
        weights = weights.masked_fill(outside, 0)
    upto = weights.cumsum(0)  # [V], not normalised: `aim` is scaled to its total
    aim = _uniform(draw.generator).to(upto) * upto[-1]
    at = torch.searchsorted(upto, aim, right=True)
    at = at.clamp(max=int(weights.nonzero()[-1]))  # if rounding took `aim` to the total
    return at if order is None else order[at]


def _uniform(generator: torch.Generator) -> Tensor:
    return torch.rand((), generator=generator, dtype=torch.float64)


def _precise(like: Tensor) -> torch.dtype:
    return torch.float32 if like.device.type == "mps" else torch.float64  # MPS has no float64
