"""Adapters of random weights for the tiny model, and what the model says with them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from rttc_graph.integrations.lora.adapter_layout import Adapter, AdapterLayout, adapter_layout
from rttc_graph.integrations.lora.adapter_serialization import PEFT_CONFIG, to_bytes
from rttc_graph.protocols import TrainedAdapter

PROBE = torch.tensor([5, 9, 40, 77, 12, 3, 81])


def new_base(path: Path) -> PreTrainedModel:
    return cast("PreTrainedModel", AutoModelForCausalLM.from_pretrained(path))


@pytest.fixture(scope="module")
def base(tiny_model_path: Path) -> PreTrainedModel:
    return new_base(tiny_model_path)


@pytest.fixture(scope="module")
def layout(base: PreTrainedModel) -> AdapterLayout:
    return adapter_layout(base)


def adapter_of(
    layout: AdapterLayout, *, rank: int, alpha: float, seed: int, layers: float = 1.0
) -> Adapter:
    random = torch.Generator().manual_seed(seed)

    def drawn(shape: tuple[int, int]) -> Tensor:
        return 0.3 * torch.randn(shape, generator=random)

    first = layout.first_adapted(layers)
    shapes = [target.shapes(rank) for target in layout.targets[first:]]
    pairs = tuple((drawn(shape_a), drawn(shape_b)) for shape_a, shape_b in shapes)
    return Adapter(rank=rank, alpha=alpha, pairs=pairs, first=first)


def trained(layout: AdapterLayout, adapter: Adapter) -> TrainedAdapter:
    config = layout.peft_config(rank=adapter.rank, alpha=adapter.alpha, first=adapter.first)
    return TrainedAdapter(
        key="k",
        weights=to_bytes(adapter, layout),
        base_fingerprint="f",
        trained_tokens=0,
        steps=0,
        losses=(),
        seconds=0.0,
        provenance={PEFT_CONFIG: config},
    )


def sized(layout: AdapterLayout, rank: int = 1) -> Adapter:
    return adapter_of(layout, rank=rank, alpha=1.0, seed=0)


def logits(forward: Callable[..., Any], rows: int = 1, **kwargs: Any) -> Tensor:
    """Of `rows` different prompts of the same length [rows, T, V]."""
    ids = torch.stack([PROBE + row for row in range(rows)])
    with torch.inference_mode():
        return cast("Tensor", forward(input_ids=ids, **kwargs).logits)
