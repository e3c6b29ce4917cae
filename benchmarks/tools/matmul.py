"""How much matrix multiplication a training needs, and how fast this machine multiplies now."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import torch
from transformers import AutoConfig

from rttc_graph.integrations.lora.adapter_layout import AdapterLayout
from rttc_graph.integrations.lora.training_batches import EncodedExample

PEAK_SECONDS = 0.1
"""How long each shape is multiplied, seconds of the CPU."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shapes:
    """Sizes of a model's matrices."""

    linear: tuple[tuple[int, int], ...]
    """Inputs and outputs of every layer with an adapter."""
    vocabulary: int
    hidden: int
    layers: int

    @classmethod
    def of(cls, model: Path, layout: AdapterLayout) -> Shapes:
        """Read them off a model."""
        config = AutoConfig.from_pretrained(model).get_text_config()
        return cls(
            linear=tuple((target.in_features, target.out_features) for target in layout.targets),
            vocabulary=int(config.vocab_size),
            hidden=int(config.hidden_size),
            layers=int(config.num_hidden_layers),
        )


def needed_flops(shapes: Shapes, examples: Sequence[EncodedExample], *, rank: int) -> float:
    """Return the operations of one step: no padding, what all samples share computed once.

    Through a frozen matrix forward and the gradient of its input, through an adapter's matrices
    also their own gradients, through the head only where an answer is predicted.
    """
    shared = _shared(examples)
    tokens = shared + sum(len(example.ids) - shared for example in examples)
    answers = sum(example.answer_tokens for example in examples)
    frozen = sum(inputs * outputs for inputs, outputs in shapes.linear)
    trained = sum(rank * (inputs + outputs) for inputs, outputs in shapes.linear)
    pairs = shared**2 / 2 + sum(_seen(len(example.ids), shared) for example in examples)
    attention = 2 * 2 * shapes.hidden * pairs * shapes.layers  # q k and its product with v
    head = 2 * 2 * shapes.vocabulary * shapes.hidden * answers
    return 2 * tokens * (2 * frozen + 3 * trained) + 3 * attention + head


def peak_flops(shapes: Shapes, tokens: int, dtype: torch.dtype) -> float:
    """Return the operations a second of `torch.mm`, for the model's shape that runs fastest."""
    return max(_speed(tokens, *shape, dtype) for shape in set(shapes.linear))


def _speed(tokens: int, inputs: int, outputs: int, dtype: torch.dtype) -> float:
    x, w = torch.rand(tokens, inputs).to(dtype), torch.rand(inputs, outputs).to(dtype)
    out = torch.mm(x, w)
    done, began = 0, time.process_time()
    while (seconds := time.process_time() - began) < PEAK_SECONDS:
        torch.mm(x, w, out=out)
        done += 1
    return 2.0 * tokens * inputs * outputs * done / seconds


def _shared(examples: Sequence[EncodedExample]) -> int:
    columns = zip(*(example.ids for example in examples), strict=False)
    return sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))


def _seen(length: int, shared: int) -> float:
    """Return how many tokens those behind the shared ones look at, all together."""
    return (length**2 - shared**2) / 2
