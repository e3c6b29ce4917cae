"""The batches of several trainings as the rows of one pass, exact or in a bucket of sizes."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rttc_graph.integrations.lora.training_batches import Batch, EncodedExample

__all__ = ("JointRows", "PassShape")

_TOKENS = (32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)
"""Lengths of rows that a pass is captured for: at most half as much again as the tokens need."""


@dataclass(frozen=True, slots=True)
class PassShape:
    """Sizes of a pass: all that a captured one depends on, beside the adapters' shape."""

    members: int
    """Adapters, M."""
    rows: int
    """Rows of each adapter, R."""
    tokens: int
    """Tokens of a row, T."""
    answers: int
    """Places for answer tokens, of all rows together."""

    @classmethod
    def of(cls, batches: Sequence[Batch]) -> PassShape:
        """Return the smallest shape that holds these batches, one of each adapter."""
        examples = [example for batch in batches for example in batch.examples]
        return cls(
            members=len(batches),
            rows=max(len(batch.examples) for batch in batches),
            tokens=max(len(example.ids) for example in examples),
            answers=sum(example.answer_tokens for example in examples),
        )

    @property
    def in_bucket(self) -> PassShape | None:
        """The next larger of few shapes; `None` where a row is longer than the longest of them."""
        tokens = next((size for size in _TOKENS if size >= self.tokens), None)
        if tokens is None:
            return None
        members, rows = _power_of_two(self.members), _power_of_two(self.rows)
        answers = max(16, _power_of_two(self.answers))
        return PassShape(members=members, rows=rows, tokens=tokens, answers=answers)


@dataclass(frozen=True, slots=True, eq=False)
class JointRows:
    """Rows of a pass as tensors; padded rows, places and adapters count for nothing."""

    input_ids: Tensor
    """Tokens, int64 [M · R, T]."""
    rows: Tensor
    """Row of each answer token, int64 [N]."""
    positions: Tensor
    """Column that predicts it, int64 [N]."""
    targets: Tensor
    """The answer token, int64 [N]."""
    owners: Tensor
    """Adapter that it belongs to, int64 [N]."""
    shares: Tensor
    """Its share in the loss of its adapter's step, float32 [N]; 0 for padding."""

    @classmethod
    def of(cls, batches: Sequence[Batch], answers: Sequence[float], shape: PassShape) -> JointRows:
        """Return the rows of batches on the CPU.

        Args:
            batches: One of each adapter.
            answers: What the loss of each batch is divided by: answer tokens of its whole step, by
                the factor of its loss.
            shape: Sizes, at least those of `PassShape.of`.
        """
        ids = torch.zeros((shape.members * shape.rows, shape.tokens), dtype=torch.long)
        places: list[tuple[int, int, int, int]] = []
        shares: list[float] = []
        for owner, (batch, whole) in enumerate(zip(batches, answers, strict=True)):
            for row, example in enumerate(batch.examples, start=owner * shape.rows):
                ids[row, : len(example.ids)] = torch.tensor(example.ids)
                places += _answer_places(example, row, owner)
                shares += [1 / whole] * example.answer_tokens
        padding = shape.answers - len(places)
        places += [(0, 0, 0, 0)] * padding
        columns = torch.tensor(places).t().contiguous()  # [4, N]
        return cls(
            input_ids=ids,
            rows=columns[0],
            positions=columns[1],
            targets=columns[2],
            owners=columns[3],
            shares=torch.tensor([*shares, *([0.0] * padding)]),
        )

    def on(self, device: torch.device) -> JointRows:
        """Return the rows on a device."""
        return JointRows(*(tensor.to(device) for tensor in self._tensors()))

    def take(self, other: JointRows) -> None:
        """Copy other rows of the same shape into these tensors."""
        for mine, theirs in zip(self._tensors(), other._tensors(), strict=True):
            mine.copy_(theirs, non_blocking=True)

    def _tensors(self) -> Iterable[Tensor]:
        return (
            self.input_ids,
            self.rows,
            self.positions,
            self.targets,
            self.owners,
            self.shares,
        )


def _answer_places(
    example: EncodedExample, row: int, owner: int
) -> Iterable[tuple[int, int, int, int]]:
    """Yield row, predicting column, token and owner of each answer token."""
    first = len(example.ids) - example.answer_tokens
    columns = range(first - 1, len(example.ids) - 1)
    return zip(
        itertools.repeat(row), columns, example.ids[first:], itertools.repeat(owner), strict=False
    )


def _power_of_two(number: int) -> int:
    return 1 << (number - 1).bit_length()
