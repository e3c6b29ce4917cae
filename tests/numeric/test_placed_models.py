"""Models on several devices, and weights of sixteen and eight bits: as on one, in float32."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from decoding import decode, request
from tiny_adapters import adapter_of
from transformers import AutoModelForCausalLM

from rttc_graph.errors import ConfigurationError
from rttc_graph.integrations.lora.adapted_model import AdaptedModel
from rttc_graph.integrations.lora.adapter_layout import flat_adapter
from rttc_graph.integrations.lora.lora_trainer import LoraTrainer
from rttc_graph.integrations.lora.row_terms import FollowingAdapter, by_device
from rttc_graph.integrations.lora.training_batches import EncodedExample, StepLimits, pack
from rttc_graph.integrations.lora.training_weights import TrainingWeights
from rttc_graph.integrations.transformers.loading import load_model
from rttc_graph.integrations.transformers.local_engine import LocalEngine
from rttc_graph.integrations.transformers.placed.placement import (
    devices_of,
    is_offloaded,
    place_of,
    placement_options,
)
from rttc_graph.integrations.transformers.precision import eight_bits
from rttc_graph.protocols import TrainingExample
from rttc_graph.settings import TttSettings

PARTS = {
    "model.embed_tokens": "cpu",
    "model.layers.0": "cpu",
    "model.layers.1": "disk",
    "model.norm": "cpu",
    "model.rotary_emb": "cpu",
    "lm_head": "disk",
}
EXAMPLES = [
    TrainingExample(messages=({"role": "user", "content": question},), answer=answer)
    for question, answer in (("one and one", "two"), ("two and one", "three"), ("red", "colour"))
]
SETTINGS = TttSettings(learning_rate=1e-2, epochs=2, stop_loss=0.0, seed=3)
CPU = torch.device("cpu")


def trained_and_asked(
    folder: Path, **settings: Any
) -> tuple[tuple[float, ...], list[tuple[int, ...]]]:
    """Return the losses of a training, and the tokens of rows with and without its adapter."""
    engine = LocalEngine(folder, device="cpu", threads=1, **settings)
    try:
        # A CPU with units for bfloat16 would multiply in it, but not by weights that are fetched.
        trainer = LoraTrainer(engine, training_dtype="auto" if "dtype" in settings else "float32")
        trained = asyncio.run(trainer.train("a", EXAMPLES, SETTINGS, on_step=lambda step: None))
        plans: list[dict[str, Any]] = [
            {},
            {"adapter": "a"},
            {"adapter": "a", "temperature": 1.0, "seed": 2},
        ]
        asked = [
            request(text, **each) for text, each in zip(("hi", "ho", "ha"), plans, strict=True)
        ]
        return trained.losses, [row.tokens for row in decode(engine, *asked)]
    finally:
        engine.close()


@pytest.fixture(scope="module")
def plain(tiny_model_path: Path) -> tuple[tuple[float, ...], list[tuple[int, ...]]]:
    return trained_and_asked(tiny_model_path)


def test_a_model_in_parts_answers_and_is_trained_as_in_one(
    tiny_model_path: Path, plain: tuple[tuple[float, ...], list[tuple[int, ...]]]
) -> None:
    losses, tokens = trained_and_asked(tiny_model_path, device_map=PARTS)
    assert losses == pytest.approx(plain[0], rel=1e-5)
    assert tokens == plain[1]


def test_parts_that_are_fetched_are_known(tiny_model_path: Path) -> None:
    loaded = load_model(tiny_model_path, device="cpu", dtype="auto", device_map=PARTS)
    assert loaded.is_placed
    assert loaded.can_batch
    assert is_offloaded(loaded.model)
    assert devices_of(loaded.model) == (CPU,)
    adapted = AdaptedModel(loaded.model)
    whole = AdaptedModel(load_model(tiny_model_path, device="cpu", dtype="auto").model)
    assert adapted.is_offloaded
    assert not whole.is_offloaded
    assert adapted.weight_scale == pytest.approx(whole.weight_scale, rel=0.05)  # by noise
    hooks = [m.__dict__.get("_hf_hook") for m in loaded.model.modules()]
    assert [m.__dict__.get("_hf_hook") for m in adapted._twin.modules()] == hooks  # pyright: ignore[reportPrivateUsage]


def test_a_model_on_two_gpus_has_its_parts_places(tiny_model_path: Path) -> None:
    """What accelerate notes of such a model; the parts themselves stay here."""
    model: Any = load_model(tiny_model_path, device="cpu", dtype="auto").model
    model.hf_device_map = {"model.embed_tokens": "cpu", "model.layers.0": "cpu", "model": 1}
    assert devices_of(model) == (CPU, torch.device("cuda", 1))
    assert place_of(model, "model.layers.0.mlp.up_proj") == CPU
    assert place_of(model, "model.layers.1.mlp.up_proj") == torch.device("cuda", 1)
    assert place_of(model, "lm_head") == CPU


def test_adapters_have_a_copy_on_each_device_that_their_rows_share(tiny_model_path: Path) -> None:
    layout = AdaptedModel(load_model(tiny_model_path, device="cpu", dtype="auto").model).layout
    one, other = (adapter_of(layout, rank=2, alpha=4.0, seed=seed) for seed in (1, 2))
    there = torch.device("meta")
    places = [CPU if at < 7 else there for at in range(len(layout.targets))]
    found = by_device((one, None, one, other), places)
    assert set(found) == {CPU, there}
    assert found[there][0] is found[there][2]
    assert found[there][1] is None
    assert {each.device for each in found[there] if each is not None} == {there}
    following = FollowingAdapter(one, places)
    assert [pair[0].device for at in (6, 7) if (pair := following.pair(at))] == [CPU, there]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        pytest.param({"device_map": "best"}, r"device_map='best' is unknown: use auto", id="name"),
        pytest.param({"max_memory": {"0": "1GiB"}}, r"device_map is not set: set", id="alone"),
        pytest.param({"device_map": "auto", "dtype": "int8"}, r"or use nf4", id="eight-bits"),
    ],
)
def test_a_placement_that_cannot_be_is_refused(settings: dict[str, Any], said: str) -> None:
    given: dict[str, Any] = {"device_map": None, "max_memory": None, "dtype": "auto"} | settings
    with pytest.raises(ConfigurationError, match=said):
        placement_options(
            given["device_map"],
            given["max_memory"],
            dtype=given["dtype"],
        )


def test_memory_is_given_by_the_names_of_accelerate() -> None:
    options = placement_options("auto", {"0": "1GiB", "cuda:1": 5, "cpu": "2GiB"}, dtype="auto")
    assert options["max_memory"] == {0: "1GiB", 1: 5, "cpu": "2GiB"}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_training_in_sixteen_bits_is_that_in_float32(
    dtype: str, tiny_model_path: Path, plain: tuple[tuple[float, ...], list[tuple[int, ...]]]
) -> None:
    losses, tokens = trained_and_asked(tiny_model_path, dtype=dtype)
    assert losses == pytest.approx(plain[0], rel=0.01 if dtype == "float16" else 0.04)
    assert all(tokens)


def gradient(model: AdaptedModel, scale: float) -> torch.Tensor:
    """Return the gradient of a step that has a million answer tokens in all, of which two here."""
    adapter = flat_adapter(model.layout, rank=2, alpha=4.0, first=0, device=CPU)
    torch.nn.init.normal_(adapter.numbers, std=0.02, generator=torch.Generator().manual_seed(1))
    weights = TrainingWeights(adapter, torch.float32, 1e-3, loss_scale=scale)
    example = EncodedExample(ids=(5, 6, 7, 8, 9), answer_tokens=2)
    limits = StepLimits(token_bytes=0.0, answer_bytes=0.0, max_bytes=1.0)
    [batch] = pack([example], limits, device=CPU, share_prefix=False)
    with torch.enable_grad():
        logits = model.logits_at(weights.adapter, batch)
        loss = torch.nn.functional.cross_entropy(logits, batch.targets, reduction="sum") / 1e6
        torch.autograd.backward(loss * weights.loss_scale)
    return weights.gradient / weights.loss_scale


def apart(found: torch.Tensor, right: torch.Tensor) -> float:
    """Return the length of the difference, as a share of what is right."""
    return float((found - right).square().sum().sqrt() / right.square().sum().sqrt())


def test_small_gradients_are_not_lost_in_float16(tiny_model_path: Path) -> None:
    half = AdaptedModel(load_model(tiny_model_path, device="cpu", dtype="float16").model)
    right = gradient(
        AdaptedModel(load_model(tiny_model_path, device="cpu", dtype="float32").model), 1.0
    )

    def off(scale: float) -> float:
        return apart(gradient(half, scale), right)

    assert off(half.loss_scale) < 0.02
    assert off(1.0) > 0.1


def test_a_step_whose_gradient_has_no_range_is_done_again(tiny_model_path: Path) -> None:
    model = AdaptedModel(load_model(tiny_model_path, device="cpu", dtype="float32").model)
    adapter = flat_adapter(model.layout, rank=2, alpha=4.0, first=0, device=CPU)
    weights = TrainingWeights(adapter, torch.float32, 1e-3, loss_scale=256.0)
    weights.gradient[0] = torch.inf
    assert not weights.is_finite
    weights.begin_again()
    assert weights.loss_scale == 16.0
    assert weights.is_finite
    assert not weights.gradient.any()
    for _ in range(3):
        weights.begin_again()
    weights.gradient[0] = torch.nan
    assert weights.is_finite  # nothing smaller is left to try: the training's own checks tell


def test_an_adapter_is_trained_through_weights_of_eight_bits(tiny_model_path: Path) -> None:
    """As on a GPU, by bitsandbytes' own code for a CPU."""
    model: Any = AutoModelForCausalLM.from_pretrained(
        tiny_model_path,
        dtype=torch.float32,
        quantization_config=eight_bits(),
        device_map={"": "cpu"},
    )
    eight = AdaptedModel(model.train(False).requires_grad_(False))
    plain = AdaptedModel(load_model(tiny_model_path, device="cpu", dtype="float32").model)
    right, found = gradient(plain, 1e6), gradient(eight, 1e6)
    assert apart(found, right) < 0.2
    one = adapter_of(eight.layout, rank=2, alpha=4.0, seed=1)
    ids = torch.tensor([[5, 6, 7], [5, 6, 7]])
    with torch.inference_mode():
        ours = eight.forward_rows([one, None])(input_ids=ids).logits
        theirs = plain.forward_rows([replace(one), None])(input_ids=ids).logits
    assert apart(ours, theirs) < 0.2
    assert not torch.equal(ours[0], ours[1])
