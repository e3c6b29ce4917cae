"""Adapters row by row against peft itself, and the memory they may take."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import cast

import pytest
import torch
from peft import PeftModel
from tiny_adapters import PROBE, adapter_of, logits, new_base, sized, trained
from torch import Tensor
from transformers import PreTrainedModel

from rttc_graph.errors import AdaptationError, ConfigurationError
from rttc_graph.integrations.lora.adapter_layout import AdapterLayout
from rttc_graph.integrations.lora.adapter_serialization import write_peft_folder
from rttc_graph.integrations.lora.resident_adapters import ResidentAdapters


def peft_logits(base: Path, folder: Path, row: int) -> Tensor:
    """Logits [T, V] of row `row`'s prompt by peft alone."""
    wrapped = PeftModel.from_pretrained(new_base(base), folder)
    with torch.inference_mode():
        return cast("Tensor", wrapped(input_ids=PROBE[None] + row).logits[0])


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_each_row_of_a_mixed_batch_is_what_peft_gives_alone(
    base: PreTrainedModel, layout: AdapterLayout, tiny_model_path: Path, tmp_path: Path
) -> None:
    resident = ResidentAdapters(base, max_bytes=2**20)
    adapters = {
        "small": adapter_of(layout, rank=2, alpha=3.0, seed=1),
        "large": adapter_of(layout, rank=8, alpha=16.0, seed=2),
        "upper": adapter_of(layout, rank=8, alpha=16.0, seed=3, layers=0.5),
    }
    for name, adapter in adapters.items():
        resident.put(name, adapter)
        write_peft_folder(trained(layout, adapter), tmp_path / name)
    keys = ["small", None, "large", "large", None, "small", "upper"]
    with resident.rows(keys) as forward:
        mixed = logits(forward, rows=7)
    plain = logits(base, rows=7)
    for row, key in enumerate(keys):
        if key is None:
            assert torch.equal(mixed[row], plain[row])
        else:
            alone = peft_logits(tiny_model_path, tmp_path / key, row)
            torch.testing.assert_close(mixed[row], alone, rtol=1e-4, atol=1e-4)
            assert (mixed[row] - plain[row]).abs().max() > 0.1  # the adapter is not idle


def test_one_adapter_for_all_rows_is_the_same_as_in_a_mixed_batch(
    base: PreTrainedModel, layout: AdapterLayout
) -> None:
    resident = ResidentAdapters(base, max_bytes=2**20)
    resident.put("a", adapter_of(layout, rank=4, alpha=8.0, seed=1))
    with resident.rows(["a", "a"]) as every, resident.rows(["a", None]) as first:
        torch.testing.assert_close(logits(every, 2)[0], logits(first, 2)[0], rtol=1e-5, atol=1e-5)


def test_tokens_after_a_cache_are_those_of_one_pass(
    base: PreTrainedModel, layout: AdapterLayout
) -> None:
    resident = ResidentAdapters(base, max_bytes=2**20)
    resident.put("a", adapter_of(layout, rank=4, alpha=8.0, seed=1))
    with resident.rows([None, "a"]) as forward, torch.inference_mode():
        ids = torch.stack([PROBE, PROBE + 1])
        cache = forward(input_ids=ids[:, :-1], use_cache=True).past_key_values
        last = forward(input_ids=ids[:, -1:], past_key_values=cache, use_cache=True).logits[:, -1]
        torch.testing.assert_close(last, logits(forward, 2)[:, -1], rtol=1e-4, atol=1e-4)


def test_contexts_may_cross(base: PreTrainedModel, layout: AdapterLayout) -> None:
    """As when the lane goes to and fro between two batches."""
    resident = ResidentAdapters(base, max_bytes=2**20)
    resident.put("a", adapter_of(layout, rank=4, alpha=8.0, seed=1))
    resident.put("b", adapter_of(layout, rank=4, alpha=8.0, seed=2))
    plain = logits(base)
    with resident.rows(["a"]) as with_a:
        a = logits(with_a)
        with resident.rows(["b"]) as with_b, resident.rows([None]) as with_none:
            b = logits(with_b)
            assert torch.equal(logits(with_a), a)
            assert torch.equal(logits(with_none), plain)
            assert torch.equal(logits(with_b), b)
        assert torch.equal(logits(with_a), a)
    assert not torch.equal(a, b)
    assert torch.equal(logits(base), plain)


def test_a_failed_pass_leaves_no_adapter_on(base: PreTrainedModel, layout: AdapterLayout) -> None:
    resident = ResidentAdapters(base, max_bytes=2**20)
    resident.put("a", adapter_of(layout, rank=4, alpha=8.0, seed=1))
    with resident.rows(["a", None]) as forward:
        expected = logits(forward, 2)
        with pytest.raises(AdaptationError, match="3 rows for a batch of 2"):
            logits(forward, 3)
        assert torch.equal(logits(forward, 2), expected)


def test_half_precision_weights_work_with_adapters_in_full_precision(
    tiny_model_path: Path, base: PreTrainedModel, layout: AdapterLayout
) -> None:
    half = cast("PreTrainedModel", new_base(tiny_model_path).to(torch.bfloat16))  # type: ignore[arg-type]  # transformers' decorator hides the signature
    adapter = adapter_of(layout, rank=4, alpha=8.0, seed=1)
    outputs: list[Tensor] = []
    for model in (base, half):
        resident = ResidentAdapters(model, max_bytes=2**20)
        resident.put("a", adapter)
        with resident.rows(["a"]) as forward:
            outputs.append(logits(forward).float())
    # bfloat16 keeps 8 bits, logits of this model reach 40
    assert (outputs[0] - outputs[1]).abs().mean() < 0.03 * outputs[0].abs().max()


def keys_of(resident: ResidentAdapters, keys: Sequence[str] = "abcdef") -> str:
    """Which of the keys are there; asking counts as use, in this order."""
    found = ""
    for key in keys:
        try:
            with resident.rows([key]):
                found += key
        except AdaptationError:
            continue
    return found


def test_the_least_recently_used_go_first(base: PreTrainedModel, layout: AdapterLayout) -> None:
    one = sized(layout).bytes
    resident = ResidentAdapters(base, max_bytes=3 * one)
    for key in "abc":
        resident.put(key, sized(layout))
    assert resident.has("a")  # now b is the oldest
    resident.put("d", sized(layout))
    assert keys_of(resident) == "acd"
    assert resident.bytes == 3 * one
    resident.put("e", sized(layout, rank=2))  # needs the room of two
    assert resident.bytes == 3 * one
    assert keys_of(resident) == "de"


def test_adapters_in_use_stay(base: PreTrainedModel, layout: AdapterLayout) -> None:
    one = sized(layout).bytes
    resident = ResidentAdapters(base, max_bytes=2 * one)
    resident.put("a", sized(layout))
    resident.put("b", sized(layout))
    with resident.rows(["a", None]), resident.rows(["a"]):
        resident.put("c", sized(layout))
        assert keys_of(resident) == "ac"
        with resident.rows(["c"]), pytest.raises(AdaptationError, match="2 in use") as caught:
            resident.put("d", sized(layout))
        assert caught.value.retryable
        assert keys_of(resident) == "ac"
    resident.put("d", sized(layout))
    resident.put("e", sized(layout))
    assert keys_of(resident) == "de"


def test_a_held_adapter_stays_until_every_holder_let_go(
    base: PreTrainedModel, layout: AdapterLayout
) -> None:
    resident = ResidentAdapters(base, max_bytes=sized(layout).bytes)
    resident.put("a", sized(layout))
    first, second = resident.hold("a"), resident.hold("a")
    first()
    with pytest.raises(AdaptationError, match="1 in use"):
        resident.put("b", sized(layout))
    second()
    resident.put("b", sized(layout))
    resident.hold("a")()  # gone by now: there is nothing to hold
    assert keys_of(resident) == "b"


def test_a_new_adapter_stays_for_its_first_use(
    base: PreTrainedModel, layout: AdapterLayout
) -> None:
    now = 0.0
    resident = ResidentAdapters(
        base, max_bytes=2 * sized(layout).bytes, first_use_seconds=2.0, clock=lambda: now
    )
    resident.put("a", sized(layout))
    resident.put("b", sized(layout))
    with pytest.raises(AdaptationError, match="2 in use") as caught:
        resident.put("c", sized(layout))
    assert caught.value.retryable
    resident.hold("b")()  # used once: it may go, though it is younger than a
    resident.put("c", sized(layout))
    assert keys_of(resident, "ac") == "ac"
    resident.put("d", sized(layout))
    now = 2.0
    resident.put("e", sized(layout))
    resident.put("f", sized(layout))
    assert keys_of(resident) == "ef"


def test_an_adapter_that_never_fits_is_refused_and_nothing_is_lost(
    base: PreTrainedModel, layout: AdapterLayout
) -> None:
    resident = ResidentAdapters(base, max_bytes=2 * sized(layout).bytes)
    resident.put("a", sized(layout))
    with pytest.raises(AdaptationError, match="raise max_resident_bytes") as caught:
        resident.put("b", sized(layout, rank=4))
    assert not caught.value.retryable
    assert keys_of(resident) == "a"


def test_the_same_key_replaces_and_drop_frees(base: PreTrainedModel, layout: AdapterLayout) -> None:
    one = sized(layout).bytes
    resident = ResidentAdapters(base, max_bytes=2 * one)
    resident.put("a", sized(layout))
    resident.put("a", sized(layout, rank=2))
    assert resident.bytes == 2 * one
    assert resident.drop("a")
    assert not resident.drop("a")
    assert resident.bytes == 0
    assert not resident.has("a")


def test_a_dropped_adapter_frees_its_tensors(base: PreTrainedModel, layout: AdapterLayout) -> None:
    resident = ResidentAdapters(base, max_bytes=2**20)
    adapter = sized(layout).in_type(torch.float32)  # in one buffer, which is kept as it is
    tensor = weakref.ref(adapter.pairs[0][0])
    resident.put("a", adapter)
    with resident.rows(["a", None]) as forward:
        logits(forward, 2)
    del adapter, forward
    assert tensor() is not None
    resident.drop("a")
    assert tensor() is None


def test_an_unknown_key_is_an_error_that_pins_nothing(
    base: PreTrainedModel, layout: AdapterLayout
) -> None:
    one = sized(layout).bytes
    resident = ResidentAdapters(base, max_bytes=one)
    resident.put("a", sized(layout))
    with (
        pytest.raises(AdaptationError, match="'gone' is not resident"),
        resident.rows(["a", "gone"]),
    ):
        pass
    resident.put("b", sized(layout))
    assert keys_of(resident) == "b"


def test_memory_must_be_positive(base: PreTrainedModel) -> None:
    with pytest.raises(ConfigurationError, match="above 0, got 0"):
        ResidentAdapters(base, max_bytes=0)


def test_all_linear_layers_but_the_head_are_targets(
    base: PreTrainedModel, layout: AdapterLayout
) -> None:
    modules = cast("Iterable[tuple[str, torch.nn.Module]]", base.named_modules())
    linear = [name for name, module in modules if isinstance(module, torch.nn.Linear)]
    assert [target.name for target in layout.targets] == [
        name for name in linear if name != "lm_head"
    ]
