"""Adapters row by row against peft itself, and the memory they may take."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from rttc_graph.errors import AdaptationError, ConfigurationError
from rttc_graph.integrations.lora import row_terms
from rttc_graph.integrations.lora.layout import Adapter, AdapterLayout, layout_of
from rttc_graph.integrations.lora.residency import ResidentAdapters
from rttc_graph.integrations.lora.row_terms import OneByOne, SideBySide, terms_of
from rttc_graph.integrations.lora.serialization import (
    PEFT_CONFIG,
    from_bytes,
    to_bytes,
    write_peft_folder,
)
from rttc_graph.protocols import TrainedAdapter

PROBE = torch.tensor([5, 9, 40, 77, 12, 3, 81])
CPU = torch.device("cpu")


def new_base(path: Path) -> PreTrainedModel:
    return cast("PreTrainedModel", AutoModelForCausalLM.from_pretrained(path))


@pytest.fixture(scope="module")
def base(tiny_model_path: Path) -> PreTrainedModel:
    return new_base(tiny_model_path)


@pytest.fixture(scope="module")
def layout(base: PreTrainedModel) -> AdapterLayout:
    return layout_of(base)


def adapter_of(layout: AdapterLayout, *, rank: int, alpha: float, seed: int) -> Adapter:
    random = torch.Generator().manual_seed(seed)

    def drawn(shape: tuple[int, int]) -> Tensor:
        return 0.3 * torch.randn(shape, generator=random)

    shapes = [target.shapes(rank) for target in layout.targets]
    pairs = tuple((drawn(shape_a), drawn(shape_b)) for shape_a, shape_b in shapes)
    return Adapter(rank=rank, alpha=alpha, pairs=pairs)


def trained(layout: AdapterLayout, adapter: Adapter) -> TrainedAdapter:
    config = layout.peft_config(rank=adapter.rank, alpha=adapter.alpha)
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


def logits(forward: Callable[..., Any], rows: int = 1, **kwargs: Any) -> Tensor:
    """Of `rows` different prompts of the same length [rows, T, V]."""
    ids = torch.stack([PROBE + row for row in range(rows)])
    with torch.inference_mode():
        return cast("Tensor", forward(input_ids=ids, **kwargs).logits)


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
    }
    for name, adapter in adapters.items():
        resident.put(name, adapter)
        write_peft_folder(trained(layout, adapter), tmp_path / name)
    keys = ["small", None, "large", "large", None, "small"]
    with resident.rows(keys) as forward:
        mixed = logits(forward, rows=6)
    plain = logits(base, rows=6)
    for row, key in enumerate(keys):
        if key is None:
            assert torch.equal(mixed[row], plain[row])
        else:
            alone = peft_logits(tiny_model_path, tmp_path / key, row)
            torch.testing.assert_close(mixed[row], alone, rtol=1e-4, atol=1e-4)
            assert (mixed[row] - plain[row]).abs().max() > 0.1  # the adapter is not idle


@pytest.mark.parametrize(
    "keys",
    [
        pytest.param(["a", "b", "c"], id="in-every-row"),
        pytest.param([None, "c", "a", None], id="in-some-rows"),
        pytest.param(["a", "b", "a", "c"], id="one-of-them-twice"),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_adapters_side_by_side_are_what_each_is_alone(
    keys: list[str | None], dtype: torch.dtype, tiny_model_path: Path, layout: AdapterLayout
) -> None:
    model = cast("Any", new_base(tiny_model_path)).to(dtype)
    resident = ResidentAdapters(model, max_bytes=2**20)
    for name, alpha in (("a", 8.0), ("b", 3.0), ("c", 1.0)):
        resident.put(name, adapter_of(layout, rank=4, alpha=alpha, seed=ord(name)))
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
    ],
)
def test_many_adapters_lie_side_by_side(
    keys: str, kind: type[object], layout: AdapterLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapters = {key: adapter_of(layout, rank=2, alpha=1.0, seed=ord(key)) for key in "abc"}
    adapters["x"] = adapter_of(layout, rank=3, alpha=1.0, seed=0)
    rows = [adapters.get(key) for key in keys]
    assert isinstance(terms_of(rows), kind)
    monkeypatch.setattr(row_terms, "MOST_BYTES", 2 * adapters["a"].bytes - 1)
    assert not isinstance(terms_of(rows), SideBySide)


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


def sized(layout: AdapterLayout, rank: int = 1) -> Adapter:
    return adapter_of(layout, rank=rank, alpha=1.0, seed=0)


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
    adapter = sized(layout)
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


# --- bytes ---------------------------------------------------------------------------------------


def test_bytes_bring_back_the_same_adapter(layout: AdapterLayout) -> None:
    adapter = adapter_of(layout, rank=3, alpha=5.0, seed=1)
    stored = trained(layout, adapter)
    again = from_bytes(stored.weights, stored.provenance[PEFT_CONFIG], layout, device=CPU)
    assert (again.rank, again.alpha) == (3, 5.0)
    for ours, theirs in zip(adapter.pairs, again.pairs, strict=True):
        assert torch.equal(ours[0], theirs[0])
        assert torch.equal(ours[1], theirs[1])
    assert to_bytes(again, layout) == stored.weights


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


def test_all_linear_layers_but_the_head_are_targets(
    base: PreTrainedModel, layout: AdapterLayout
) -> None:
    modules = cast("Iterable[tuple[str, torch.nn.Module]]", base.named_modules())
    linear = [name for name, module in modules if isinstance(module, torch.nn.Linear)]
    assert [target.name for target in layout.targets] == [
        name for name in linear if name != "lm_head"
    ]
