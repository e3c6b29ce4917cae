"""Adapters side by side in one batch against each of them alone."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from tiny_adapters import adapter_of, logits, new_base
from transformers import PreTrainedModel

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
    ("keys", "parts"),
    [
        ("", []),
        ("--", []),
        ("aa", [OneByOne]),
        ("aab", [SideBySide]),
        ("a-bc", [SideBySide]),
        ("aaabbb", [OneByOne]),  # six copies for what two products do
        ("ax", [OneByOne]),  # of another rank
        ("ay", [OneByOne]),  # of fewer layers
        ("ab-y", [SideBySide, OneByOne]),
        ("yz", [SideBySide]),
        ("aybz", [SideBySide, SideBySide]),
    ],
)
def test_many_adapters_lie_side_by_side(
    keys: str, parts: list[type[object]], layout: AdapterLayout
) -> None:
    adapters = {key: adapter_of(layout, rank=2, alpha=1.0, seed=ord(key)) for key in "abc"}
    adapters["x"] = adapter_of(layout, rank=3, alpha=1.0, seed=0)
    for key in "yz":
        adapters[key] = adapter_of(layout, rank=2, alpha=1.0, seed=ord(key), layers=0.5)
    rows = [adapters.get(key) for key in keys]
    terms = combine_adapters(rows, lambda: math.inf)
    assert [type(part) for part in (terms.parts if terms else ())] == parts
    cramped = combine_adapters(rows, lambda: 2 * adapters["y"].bytes - 1)
    assert not any(isinstance(part, SideBySide) for part in (cramped.parts if cramped else ()))


def test_stacks_share_the_memory_that_there_is(layout: AdapterLayout) -> None:
    """The group that comes second gets what the first one leaves, and goes without a stack."""
    upper = [adapter_of(layout, rank=2, alpha=1.0, seed=seed, layers=0.5) for seed in (1, 2)]
    whole = [adapter_of(layout, rank=2, alpha=1.0, seed=seed) for seed in (3, 4)]
    room = 2 * (upper[0].bytes + whole[0].bytes)
    for left, parts in ((room, [SideBySide, SideBySide]), (room - 1, [SideBySide, OneByOne])):
        terms = combine_adapters([*upper, *whole], partial(float, left))
        assert terms is not None
        assert [type(part) for part in terms.parts] == parts


def test_groups_of_several_kinds_are_what_each_adapter_is_alone(
    tiny_model_path: Path, layout: AdapterLayout
) -> None:
    resident = ResidentAdapters(new_base(tiny_model_path), max_bytes=2**20)
    keys = ["a", "y", None, "b", "z", "x"]
    for name, rank, layers in (("a", 4, 1.0), ("b", 4, 1.0), ("y", 2, 0.5), ("z", 2, 0.5)):
        made = adapter_of(layout, rank=rank, alpha=8.0, seed=ord(name), layers=layers)
        resident.put(name, made)
    resident.put("x", adapter_of(layout, rank=3, alpha=8.0, seed=0))
    with resident.rows(keys) as forward:
        mixed = logits(forward, len(keys))
    for row, key in enumerate(keys):
        with resident.rows([key] * len(keys)) as forward:
            alone = logits(forward, len(keys))[row]
        torch.testing.assert_close(mixed[row], alone, rtol=1e-4, atol=1e-4)


def test_a_stack_is_kept_while_its_rows_stay_and_no_training_wants_the_memory(
    base: PreTrainedModel, layout: AdapterLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    stack = SideBySide.__init__

    def counted(self: SideBySide, spans: Any, batch: int) -> None:
        made.append(batch)
        stack(self, spans, batch)

    monkeypatch.setattr(SideBySide, "__init__", counted)
    resident = ResidentAdapters(base, max_bytes=2**20)
    for key in "ab":
        resident.put(key, adapter_of(layout, rank=2, alpha=1.0, seed=ord(key)))
    for keys in ("ab", "ab", "ba", "ab"):
        with resident.rows(keys) as forward:
            logits(forward, 2)
    assert made == [2, 2, 2]
    resident.put("a", adapter_of(layout, rank=2, alpha=1.0, seed=9))  # another one of that name
    with resident.rows("ab") as forward:
        logits(forward, 2)
    assert made == [2, 2, 2, 2]


def test_adapters_are_resident_in_the_type_of_the_base(
    tiny_model_path: Path, layout: AdapterLayout
) -> None:
    model = cast("Any", new_base(tiny_model_path)).to(torch.bfloat16)
    resident = ResidentAdapters(model, max_bytes=2**20)
    adapter = adapter_of(layout, rank=2, alpha=1.0, seed=0)
    resident.put("a", adapter)
    assert resident.bytes == adapter.bytes / 2
