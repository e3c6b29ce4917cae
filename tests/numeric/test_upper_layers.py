"""Adapters of the upper layers, and what is computed once below them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
from tiny_models import make_tiny_model
from tiny_trainings import CPU, SETTINGS, finish, start
from torch import Tensor
from transformers.models.llama.modeling_llama import LlamaMLP

from rttc_graph.errors import AdaptationError
from rttc_graph.integrations.lora.adapted_model import AdaptedModel
from rttc_graph.integrations.lora.adapter_layout import AdapterLayout
from rttc_graph.integrations.lora.training_loop import fresh_adapter
from rttc_graph.integrations.transformers.loading import load_model


@pytest.fixture
def model(tmp_path: Path) -> AdaptedModel:
    """Has four layers of seven targets."""
    path = make_tiny_model(tmp_path / "four", layers=4)
    return AdaptedModel(load_model(path, device="cpu", dtype="auto").model)


@pytest.mark.parametrize(
    ("layers", "first"),
    [
        pytest.param(1.0, 0, id="all"),
        pytest.param(0.75, 7, id="three-of-four"),
        pytest.param(0.5, 14, id="two"),
        pytest.param(0.01, 21, id="at-least-one"),
    ],
)
def test_an_adapter_has_the_upper_layers(layers: float, first: int, model: AdaptedModel) -> None:
    settings = replace(SETTINGS, layers=layers)
    made = fresh_adapter(model.layout, settings, device=CPU)
    assert (made.first, len(made.pairs)) == (first, 28 - first)
    assert model.layout.targets[first].name == f"model.layers.{first // 7}.self_attn.q_proj"


def test_layers_that_are_not_known_are_trained_together_or_not_at_all() -> None:
    layout = AdapterLayout(targets=(), base_name="odd", fan_in_fan_out=False)
    assert layout.first_adapted(1.0) == 0
    with pytest.raises(
        AdaptationError, match=r"ttt_layers=0\.5: the layers of 'odd'.* set it to 1"
    ):
        layout.first_adapted(0.5)


@pytest.mark.parametrize("as_trees", [True, False], ids=["trees", "rows"])
def test_layers_below_an_adapter_are_computed_once_for_each_batch(
    as_trees: bool, model: AdaptedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(SETTINGS, layers=0.25, samples_per_step=2)  # two batches, four epochs
    steps = start(model, settings, share_prefix=False, tree_tokens=99 if as_trees else 0)
    computed = 0
    forward = cast("Callable[..., Tensor]", LlamaMLP.forward)

    def count(self: LlamaMLP, x: Tensor) -> Tensor:
        nonlocal computed
        computed += 1
        return forward(self, x)

    monkeypatch.setattr(LlamaMLP, "forward", count)
    finish(steps)
    assert computed == 2 * 3 + 8 * 1  # three layers for each batch, the topmost at each step


@pytest.mark.parametrize("layers", [1.0, 0.25])
def test_a_pass_leaves_no_mode_behind(layers: float, model: AdaptedModel, tmp_path: Path) -> None:
    """What the model is found to be afterwards is what it was before a training."""
    finish(start(model, replace(SETTINGS, layers=layers)))
    path = make_tiny_model(tmp_path / "fresh", layers=4)
    fresh = AdaptedModel(load_model(path, device="cpu", dtype="auto").model)
    assert fresh.tree_tokens > 0
    assert model.tree_tokens == fresh.tree_tokens
    assert model.can_share_prefix == fresh.can_share_prefix
