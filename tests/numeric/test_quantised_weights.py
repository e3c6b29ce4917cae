"""Weights of four bits: the same model as their dequantised values, in generation and training."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from bitsandbytes import functional as untyped_functional
from bitsandbytes.nn.modules import Linear4bit

from rttc_graph.errors import ConfigurationError
from rttc_graph.integrations.lora.adapted_model import AdaptedModel
from rttc_graph.integrations.lora.lora_trainer import LoraTrainer
from rttc_graph.integrations.lora.training_loop import learning_rate_for
from rttc_graph.integrations.transformers.loading import LoadedModel, load_model
from rttc_graph.integrations.transformers.local_engine import LocalEngine
from rttc_graph.protocols import TrainedAdapter, TrainingExample
from rttc_graph.settings import TttSettings

functional = cast("Any", untyped_functional)
SETTINGS = TttSettings(learning_rate=1e-2, epochs=4, stop_loss=0.0, seed=3)
EXAMPLES = [
    TrainingExample(messages=({"role": "user", "content": question},), answer=answer)
    for question, answer in (("one and one", "two"), ("two and one", "three"), ("red", "colour"))
]


def dequantised_folder(folder: Path, target: Path) -> Path:
    """Write the model whose weights are just what four bits leave of them."""
    model = load_model(folder, device="cpu", dtype="nf4").model
    plain = load_model(folder, device="cpu", dtype="float32")
    for place in AdaptedModel(model).layout.targets:
        weight: Any = model.get_submodule(place.name).weight
        layer: Any = plain.model.get_submodule(place.name)
        layer.weight.data.copy_(functional.dequantize_4bit(weight, weight.quant_state))
    plain.model.save_pretrained(target)
    plain.tokenizer.save_pretrained(target)
    return target


def trained_on(folder: Path, dtype: str) -> TrainedAdapter:
    engine = LocalEngine(folder, device="cpu", dtype=dtype, threads=1)
    try:
        trainer = LoraTrainer(engine, training_dtype="float32")
        return asyncio.run(trainer.train("four", EXAMPLES, SETTINGS, on_step=lambda step: None))
    finally:
        engine.close()


@pytest.fixture
def four_bits(tiny_model_path: Path) -> LoadedModel:
    return load_model(tiny_model_path, device="cpu", dtype="nf4")


def test_linear_layers_have_four_bits_and_are_the_same_places_for_an_adapter(
    four_bits: LoadedModel, tiny_model_path: Path
) -> None:
    model = AdaptedModel(four_bits.model)
    plain = AdaptedModel(load_model(tiny_model_path, device="cpu", dtype="auto").model)
    assert model.layout.targets == plain.layout.targets
    for target in model.layout.targets:
        assert isinstance(four_bits.model.get_submodule(target.name), Linear4bit), target.name


def test_an_adapter_of_other_bits_is_another_base_s(
    four_bits: LoadedModel, tiny_model_path: Path
) -> None:
    assert (
        four_bits.fingerprint != load_model(tiny_model_path, device="cpu", dtype="auto").fingerprint
    )


def test_training_is_that_of_the_dequantised_weights(tiny_model_path: Path, tmp_path: Path) -> None:
    ours = trained_on(tiny_model_path, "nf4")
    plain = trained_on(dequantised_folder(tiny_model_path, tmp_path / "plain"), "float32")
    assert ours.losses[-1] < ours.losses[0] - 0.1
    assert ours.losses == pytest.approx(plain.losses, rel=1e-4)


def test_the_learning_rate_is_that_of_the_weights_before(
    four_bits: LoadedModel, tiny_model_path: Path
) -> None:
    plain = AdaptedModel(load_model(tiny_model_path, device="cpu", dtype="auto").model)
    rate = learning_rate_for(AdaptedModel(four_bits.model), TttSettings())
    # Four bits round the tiny model's weights by a tenth, noise measures their size to some
    # percent, and which weights it has depends on the CPU's random numbers.
    assert rate == pytest.approx(learning_rate_for(plain, TttSettings()), rel=0.25)


def test_without_bitsandbytes_the_error_names_the_extra(
    tiny_model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ConfigurationError, match=r"rttc-graph\[quantized\]"):
        load_model(tiny_model_path, device="cpu", dtype="nf4")


def test_the_base_answers_as_its_dequantised_weights_do(
    four_bits: LoadedModel, tiny_model_path: Path, tmp_path: Path
) -> None:
    folder = dequantised_folder(tiny_model_path, tmp_path / "plain")
    plain = load_model(folder, device="cpu", dtype="float32")
    ids = torch.arange(3, 20)[None]
    with torch.inference_mode():
        ours, theirs = (each.model(input_ids=ids).logits for each in (four_bits, plain))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
