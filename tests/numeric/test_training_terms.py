"""A training's products: their gradients, and what bfloat16 leaves of a training."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from tiny_trainings import CPU, tiny_gpt2, train
from torch import Tensor, nn

from rttc_graph.integrations.lora.adapted_model import AdaptedModel
from rttc_graph.integrations.lora.training_terms import FrozenLinear
from rttc_graph.integrations.transformers.loading import LoadedModel, load_model
from rttc_graph.integrations.transformers.precision import choose_training_dtype
from rttc_graph.settings import TrainingDtype

SCALE = 0.7


@pytest.fixture
def loaded(tiny_model_path: Path) -> LoadedModel:
    return load_model(tiny_model_path, device="cpu", dtype="float32")


def random(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=dtype)


def linear(dtype: torch.dtype, *, bias: bool = True) -> nn.Linear:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        return nn.Linear(6, 5, bias=bias, dtype=dtype).requires_grad_(False)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("has_term", "of_x"), [(True, True), (True, False), (False, True)])
def test_the_gradients_are_those_of_finite_differences(
    bias: bool, has_term: bool, of_x: bool
) -> None:
    layer = FrozenLinear.from_module(linear(torch.float64, bias=bias), None)
    assert layer is not None
    x, a, b = (t.requires_grad_(True) for t in (random(2, 3, 6), random(4, 6), random(5, 4)))
    x.requires_grad_(of_x)

    def output(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
        return layer(x, (a, b) if has_term else None, SCALE)

    assert cast("Any", torch.autograd.gradcheck)(output, (x, a, b))


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_a_backward_pass_needs_no_interpreter(dtype: torch.dtype | None) -> None:
    layer = FrozenLinear.from_module(linear(torch.float32), dtype)
    assert layer is not None
    x, a, b = (random(*shape, dtype=torch.float32) for shape in ((2, 3, 6), (4, 6), (5, 4)))
    out = layer(*(x.requires_grad_(True), (a.requires_grad_(True), b.requires_grad_(True)), SCALE))
    nodes: list[Any] = [out.grad_fn]
    for node in nodes:
        assert not isinstance(node, torch.autograd.function.BackwardCFunction)
        nodes += [following for following, _ in node.next_functions if following is not None]
    assert len(nodes) > 5


@pytest.mark.parametrize("bias", [True, False])
def test_the_output_is_the_layer_s_and_the_term_s(bias: bool) -> None:
    module = linear(torch.float32, bias=bias)
    layer = FrozenLinear.from_module(module, None)
    assert layer is not None
    x, a, b = (random(*shape, dtype=torch.float32) for shape in ((2, 3, 6), (4, 6), (5, 4)))
    torch.testing.assert_close(layer(x, (a, b), SCALE), module(x) + SCALE * (x @ a.t() @ b.t()))
    assert torch.equal(layer(x, None, SCALE), module(x))


def test_only_the_frozen_product_is_rounded() -> None:
    module = linear(torch.float32)
    layer = FrozenLinear.from_module(module, torch.bfloat16)
    assert layer is not None
    x = random(2, 3, 6, dtype=torch.float32)
    a, b = (random(*shape, dtype=torch.float32) for shape in ((4, 6), (5, 4)))
    term = layer(x, (a, b), SCALE) - layer(x, None, SCALE)
    torch.testing.assert_close(term, SCALE * (x @ a.t() @ b.t()))  # of float32
    rounded = layer(x, None, SCALE)
    assert rounded.dtype == torch.float32
    assert not torch.equal(rounded, module(x))
    torch.testing.assert_close(rounded, module(x), rtol=2**-7, atol=2**-6)


def test_weights_in_their_own_type_are_shared(loaded: LoadedModel) -> None:
    module = linear(torch.float32)
    own, copied = (FrozenLinear.from_module(module, dtype) for dtype in (None, torch.bfloat16))
    assert own is not None
    assert copied is not None
    assert own.weight.data_ptr() == module.weight.data_ptr()
    assert copied.weight.dtype == torch.bfloat16
    model = AdaptedModel(loaded.model)
    assert model.copied_bytes(torch.float32) == 0
    weights = sum(target.in_features * target.out_features for target in model.layout.targets)
    head = cast("Any", loaded.model).get_output_embeddings().weight
    assert model.copied_bytes(torch.bfloat16) == 2 * (weights + head.numel())


def test_a_training_in_bfloat16_does_what_one_in_float32_does(loaded: LoadedModel) -> None:
    exact = train(AdaptedModel(loaded.model))
    model = AdaptedModel(loaded.model)
    model.multiply_in(torch.bfloat16)
    rounded = train(model)
    assert rounded.losses != exact.losses  # it was rounded
    assert rounded.losses == pytest.approx(exact.losses, rel=0.02)
    for (a, b), (exact_a, exact_b) in zip(rounded.adapter.pairs, exact.adapter.pairs, strict=True):
        assert a.dtype == b.dtype == torch.float32
        for mine, right in ((a, exact_a), (b, exact_b)):
            assert torch.nn.functional.cosine_similarity(mine.ravel(), right.ravel(), 0) > 0.9
    model.multiply_in(torch.float32)
    assert train(model).losses == exact.losses


def test_a_training_leaves_the_base_s_answers_alone(loaded: LoadedModel) -> None:
    ids = torch.tensor([[5, 9, 40, 77, 12, 3, 81]])
    before = loaded.model(input_ids=ids).logits
    model = AdaptedModel(loaded.model)
    model.multiply_in(torch.bfloat16)
    adapter = train(model).adapter
    with torch.inference_mode():
        assert torch.equal(model.forward_rows([None])(input_ids=ids).logits, before)
        adapted = model.forward_rows([adapter])(input_ids=ids).logits
        model.multiply_in(torch.float32)
        assert torch.equal(model.forward_rows([adapter])(input_ids=ids).logits, adapted)


def test_layers_that_are_more_than_a_matrix_keep_their_own_way() -> None:
    model = AdaptedModel(tiny_gpt2())
    exact = train(model)
    model.multiply_in(torch.bfloat16)  # its head alone is a plain layer
    rounded = train(model)
    assert rounded.losses != exact.losses
    assert rounded.losses == pytest.approx(exact.losses, rel=0.02)


@pytest.mark.parametrize(
    ("name", "model", "device", "capabilities", "expected"),
    [
        ("auto", torch.float32, CPU, {"avx512_bf16": True}, torch.bfloat16),
        ("auto", torch.float32, CPU, {"amx_bf16": True}, torch.bfloat16),
        ("auto", torch.float32, CPU, {"avx512_bf16": False, "avx2": True}, torch.float32),
        ("auto", torch.float32, CPU, {}, torch.float32),
        ("auto", torch.float16, CPU, {"avx512_bf16": True}, torch.float16),
        ("auto", torch.float32, torch.device("cuda"), {"avx512_bf16": True}, torch.float32),
        ("float32", torch.float32, CPU, {"avx512_bf16": True}, torch.float32),
        ("bfloat16", torch.float32, CPU, {}, torch.bfloat16),
    ],
)
def test_bfloat16_is_chosen_where_the_cpu_multiplies_in_it(
    name: TrainingDtype,
    model: torch.dtype,
    device: torch.device,
    capabilities: dict[str, bool],
    expected: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert choose_training_dtype(name, model, device) == expected


def test_a_torch_that_knows_no_capabilities_gets_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert choose_training_dtype("auto", torch.float32, CPU) == torch.float32
