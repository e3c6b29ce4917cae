"""Adapters to bytes and back, and the bytes that are refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from safetensors.torch import load, save
from tiny_adapters import adapter_of, sized, trained

from rttc_graph.errors import AdaptationError
from rttc_graph.integrations.lora.adapter_layout import AdapterLayout
from rttc_graph.integrations.lora.adapter_serialization import PEFT_CONFIG, from_bytes, to_bytes

CPU = torch.device("cpu")


@pytest.mark.parametrize("layers", [1.0, 0.5])
def test_bytes_bring_back_the_same_adapter(layers: float, layout: AdapterLayout) -> None:
    adapter = adapter_of(layout, rank=3, alpha=5.0, seed=1, layers=layers)
    stored = trained(layout, adapter)
    again = from_bytes(stored.weights, stored.provenance[PEFT_CONFIG], layout, device=CPU)
    assert (again.rank, again.alpha, again.first) == (3, 5.0, adapter.first)
    for ours, theirs in zip(adapter.pairs, again.pairs, strict=True):
        assert torch.equal(ours[0], theirs[0])
        assert torch.equal(ours[1], theirs[1])
    assert to_bytes(again, layout) == stored.weights


def test_bytes_are_those_that_safetensors_writes(layout: AdapterLayout) -> None:
    adapter = adapter_of(layout, rank=3, alpha=5.0, seed=1)
    tensors = {
        key: half.contiguous()
        for target, pair in zip(layout.targets, adapter.pairs, strict=True)
        for key, half in zip(target.keys, pair, strict=True)
    }
    expected = save(tensors, metadata={"format": "pt"})
    assert to_bytes(adapter, layout) == expected
    assert to_bytes(adapter.in_type(torch.float32), layout) == expected  # as a training leaves it


def test_an_adapter_in_half_precision_is_read(layout: AdapterLayout) -> None:
    """As peft saves those of a model in bfloat16."""
    stored = trained(layout, adapter_of(layout, rank=3, alpha=5.0, seed=1))
    halved = {key: tensor.bfloat16() for key, tensor in load(stored.weights).items()}
    again = from_bytes(save(halved), stored.provenance[PEFT_CONFIG], layout, device=CPU)
    [ours, *_] = again.pairs
    assert torch.equal(ours[0], halved[layout.targets[0].keys[0]].float())


def _cut(weights: bytes) -> bytes:
    return weights[: len(weights) // 2]


def _nothing(weights: bytes) -> bytes:
    return weights[:0]


def _something_else(weights: bytes) -> bytes:
    return b"\xff" * len(weights)


def _not_a_number(weights: bytes) -> bytes:
    return weights[:-4] + b"\xff\xff\xff\x7f"


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        pytest.param(_cut, "bytes are damaged", id="cut-short"),
        pytest.param(_nothing, "bytes are damaged", id="empty"),
        pytest.param(_something_else, "bytes are damaged", id="something-else"),
        pytest.param(_not_a_number, "not finite", id="not-a-number"),
    ],
)
def test_damaged_bytes_are_refused(
    damage: Callable[[bytes], bytes], words: str, layout: AdapterLayout
) -> None:
    stored = trained(layout, sized(layout))
    with pytest.raises(AdaptationError, match=words):
        from_bytes(damage(stored.weights), stored.provenance[PEFT_CONFIG], layout, device=CPU)


def _without_last(layout: AdapterLayout) -> AdapterLayout:
    return AdapterLayout(
        targets=layout.targets[:-1], base_name=layout.base_name, fan_in_fan_out=False
    )


def test_an_adapter_of_the_upper_layers_is_not_taken_for_one_of_all(layout: AdapterLayout) -> None:
    upper = adapter_of(layout, rank=1, alpha=1.0, seed=1, layers=0.5)
    config = layout.peft_config(rank=1, alpha=1.0)
    with pytest.raises(
        AdaptationError, match=r"it lacks the tensor 'base_model\.model\..*layers\.0"
    ):
        from_bytes(to_bytes(upper, layout), config, layout, device=CPU)


def test_tensors_of_another_base_are_refused(layout: AdapterLayout) -> None:
    config = layout.peft_config(rank=1, alpha=1.0)
    fewer = _without_last(layout)
    with pytest.raises(AdaptationError, match="it lacks the tensor"):
        from_bytes(to_bytes(sized(fewer), fewer), config, layout, device=CPU)
    with pytest.raises(AdaptationError, match="it has the tensor"):
        from_bytes(to_bytes(sized(layout), layout), config, fewer, device=CPU)
    with pytest.raises(AdaptationError, match=r"has shape \(1, 32\), the base needs \(2, 32\)"):
        from_bytes(
            to_bytes(sized(layout), layout),
            layout.peft_config(rank=2, alpha=1.0),
            layout,
            device=CPU,
        )


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(None, id="missing"),
        pytest.param({"r": 0, "lora_alpha": 1.0}, id="rank-of-0"),
        pytest.param({"r": "4", "lora_alpha": 1.0}, id="rank-is-text"),
        pytest.param({"r": 4}, id="no-alpha"),
        pytest.param({"r": 4, "lora_alpha": float("inf")}, id="alpha-without-end"),
    ],
)
def test_a_configuration_that_says_too_little_is_refused(
    config: object, layout: AdapterLayout
) -> None:
    with pytest.raises(AdaptationError, match="train it again"):
        from_bytes(to_bytes(sized(layout), layout), config, layout, device=CPU)
