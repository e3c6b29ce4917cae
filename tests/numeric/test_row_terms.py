"""Adapters side by side in one batch against each of them alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from tiny_adapters import adapter_of, logits, new_base

from rttc_graph.integrations.lora import row_terms
from rttc_graph.integrations.lora.adapter_layout import AdapterLayout
from rttc_graph.integrations.lora.resident_adapters import ResidentAdapters
from rttc_graph.integrations.lora.row_terms import OneByOne, SideBySide, combine_adapters


@pytest.mark.parametrize(
    "keys",
    [
        pytest.param(["a", "b", "c"], id="in-every-row"),
        pytest.param([None, "c", "a", None], id="in-some-rows"),
        pytest.param(["a", "b", "a", "c"], id="one-of-them-twice"),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layers", [1.0, 0.5])
def test_adapters_side_by_side_are_what_each_is_alone(
    keys: list[str | None],
    dtype: torch.dtype,
    layers: float,
    tiny_model_path: Path,
    layout: AdapterLayout,
) -> None:
    model = cast("Any", new_base(tiny_model_path)).to(dtype)
    resident = ResidentAdapters(model, max_bytes=2**20)
    for name, alpha in (("a", 8.0), ("b", 3.0), ("c", 1.0)):
        made = adapter_of(layout, rank=4, alpha=alpha, seed=ord(name), layers=layers)
        resident.put(name, made)
    near = 1e-4 if dtype == torch.float32 else 0.3  # of logits up to 40
    plain = logits(model, len(keys))
    with resident.rows(keys) as forward:
        mixed = logits(forward, len(keys))
    for row, key in enumerate(keys):
        if key is None:
            assert torch.equal(mixed[row], plain[row])
            continue
        with resident.rows([key] * len(keys)) as forward:
            alone = logits(forward, len(keys))[row]
        torch.testing.assert_close(mixed[row], alone, rtol=1e-4, atol=near)
        assert (mixed[row] - plain[row]).abs().max() > 0.1  # the adapter is not idle


@pytest.mark.parametrize(
    ("keys", "kind"),
    [
        ("", type(None)),
        ("--", type(None)),
        ("aa", OneByOne),
        ("aab", SideBySide),
        ("a-bc", SideBySide),
        ("aaabbb", OneByOne),  # six copies for what two products do
        ("ax", OneByOne),  # of another rank
        ("ay", OneByOne),  # of fewer layers
        ("ab-y", OneByOne),
        ("yz", SideBySide),
    ],
)
def test_many_adapters_lie_side_by_side(
    keys: str, kind: type[object], layout: AdapterLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapters = {key: adapter_of(layout, rank=2, alpha=1.0, seed=ord(key)) for key in "abc"}
    adapters["x"] = adapter_of(layout, rank=3, alpha=1.0, seed=0)
    for key in "yz":
        adapters[key] = adapter_of(layout, rank=2, alpha=1.0, seed=ord(key), layers=0.5)
    rows = [adapters.get(key) for key in keys]
    assert isinstance(combine_adapters(rows), kind)
    monkeypatch.setattr(row_terms, "MOST_BYTES", 2 * adapters["y"].bytes - 1)
    assert not isinstance(combine_adapters(rows), SideBySide)
