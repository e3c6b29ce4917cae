"""Weights of eight bits: the same model as their dequantised values, whatever is done with it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from decoding import QUESTIONS, computed, decode, generated, held, request, resident_adapters
from tiny_adapters import adapter_of
from tiny_models import make_tiny_model
from torch import Tensor, nn

from rttc_graph.errors import AdaptationError
from rttc_graph.integrations.lora.adapted_model import AdaptedModel
from rttc_graph.integrations.lora.lora_trainer import LoraTrainer
from rttc_graph.integrations.lora.training_loop import learning_rate_for
from rttc_graph.integrations.lora.training_terms import FrozenLinear
from rttc_graph.integrations.transformers import int8_weights
from rttc_graph.integrations.transformers.int8_weights import (
    Int8Embedding,
    Int8Linear,
    Int8Matrix,
)
from rttc_graph.integrations.transformers.loading import LoadedModel, load_model
from rttc_graph.integrations.transformers.local_engine import LocalEngine
from rttc_graph.protocols import TrainedAdapter, TrainingExample
from rttc_graph.settings import TrainingDtype, TttSettings

SETTINGS = TttSettings(learning_rate=1e-2, epochs=4, stop_loss=0.0, seed=3)
EXAMPLES = [
    TrainingExample(messages=({"role": "user", "content": question},), answer=answer)
    for question, answer in (("one and one", "two"), ("two and one", "three"), ("red", "colour"))
]


@pytest.fixture(scope="module")
def eight_bits(tiny_model_path: Path) -> LoadedModel:
    return load_model(tiny_model_path, device="cpu", dtype="int8")


@pytest.fixture(scope="module")
def float32(tiny_model_path: Path) -> LoadedModel:
    return load_model(tiny_model_path, device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def dequantised_path(
    eight_bits: LoadedModel, tiny_model_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Folder of the model whose float32 weights are just what eight bits leave of them."""
    plain = load_model(tiny_model_path, device="cpu", dtype="float32")
    modules = cast("Iterable[tuple[str, nn.Module]]", eight_bits.model.named_modules())
    for name, module in modules:
        if isinstance(module, Int8Linear | Int8Embedding):
            exact = cast("Any", plain.model.get_submodule(name)).weight
            exact.data.copy_(dequantised(module))
    folder = tmp_path_factory.mktemp("models") / "dequantised"
    plain.model.save_pretrained(folder)
    plain.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def engine(tiny_model_path: Path) -> Iterator[LocalEngine]:
    engine = LocalEngine(
        tiny_model_path, device="cpu", dtype="int8", threads=1, prefix_cache_bytes=100_000
    )
    yield engine
    engine.close()


def trained_on(folder: Path, dtype: str, products: TrainingDtype = "float32") -> TrainedAdapter:
    engine = LocalEngine(folder, device="cpu", dtype=dtype, threads=1)
    try:
        trainer = LoraTrainer(engine, training_dtype=products)
        return asyncio.run(trainer.train("eight", EXAMPLES, SETTINGS, on_step=lambda step: None))
    finally:
        engine.close()


def dequantised(module: Int8Linear | Int8Embedding) -> Tensor:
    if isinstance(module, Int8Embedding):
        return module.weight.float() * module.scale[:, None]
    return module.matrix.whole.float() * module.matrix.scale[:, None]


def linear(inputs: int = 48, outputs: int = 40) -> tuple[Int8Linear, nn.Linear]:
    """Return a layer of eight bits, and a plain one with its dequantised weights."""
    plain = nn.Linear(inputs, outputs).requires_grad_(False)
    ours = Int8Linear(Int8Matrix(noise(outputs, inputs)), plain.bias)
    plain.weight.data.copy_(dequantised(ours))
    return ours, plain


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


# --- what the model is -------------------------------------------------------------------------


def test_matrices_have_eight_bits_and_adapters_the_same_places(
    eight_bits: LoadedModel, float32: LoadedModel
) -> None:
    model = AdaptedModel(eight_bits.model)
    assert model.layout.targets == AdaptedModel(float32.model).layout.targets
    for target in model.layout.targets:
        assert isinstance(eight_bits.model.get_submodule(target.name), Int8Linear), target.name
    matrices = [weight for weight in eight_bits.model.parameters() if weight.dim() == 2]
    assert matrices
    assert all(weight.dtype == torch.int8 for weight in matrices)
    assert eight_bits.can_batch


def test_an_adapter_of_other_bits_is_another_base_s(
    eight_bits: LoadedModel, float32: LoadedModel, tiny_model_path: Path, engine: LocalEngine
) -> None:
    assert eight_bits.fingerprint != float32.fingerprint
    adapter = trained_on(tiny_model_path, "float32")
    with pytest.raises(AdaptationError, match=f"made for the base '{float32.fingerprint}'"):
        asyncio.run(LoraTrainer(engine).load(adapter))


def test_the_base_answers_as_its_dequantised_weights_do(
    eight_bits: LoadedModel, float32: LoadedModel, dequantised_path: Path
) -> None:
    plain = load_model(dequantised_path, device="cpu", dtype="float32")
    ids = torch.arange(3, 20)[None]
    with torch.inference_mode():
        ours, right, before = (
            each.model(input_ids=ids).logits for each in (eight_bits, plain, float32)
        )
    torch.testing.assert_close(ours, right, rtol=1e-3, atol=1e-2)  # of logits up to 40
    assert (ours - before).abs().mean() < 0.05 * before.std()


def test_a_head_that_shares_its_weights_with_the_embedding_is_rounded_too(tmp_path: Path) -> None:
    model = load_model(make_tiny_model(tmp_path, tied=True), device="cpu", dtype="int8").model
    head, embedding = (
        cast("object", getattr(cast("Any", model), f"get_{which}_embeddings")())
        for which in ("output", "input")
    )
    assert isinstance(head, Int8Linear)
    assert isinstance(embedding, Int8Embedding)
    assert torch.equal(head.matrix.whole, embedding.weight)


# --- layers ------------------------------------------------------------------------------------


@pytest.fixture(params=["packed", "converted"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute as a CPU does that has the packed kernel, and as one that has not."""
    is_packed = request.param == "packed" and int8_weights.packs_exactly()
    monkeypatch.setattr(int8_weights, "packs_exactly", lambda: is_packed)


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("inputs", [48, 33])
@pytest.mark.parametrize("products", [None, torch.bfloat16])
@pytest.mark.parametrize("block", [2**24, 100], ids=["at-once", "in-blocks"])
def test_output_and_gradient_are_those_of_dequantised_weights(
    inputs: int, products: torch.dtype | None, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(int8_weights, "_BLOCK", block)
    ours, plain = linear(inputs)
    frozen = FrozenLinear.from_module(ours, products)
    assert frozen is not None
    x, a, b = noise(2, 3, inputs), noise(4, inputs), noise(40, 4)
    toward = noise(2, 3, 40)

    def found(output: Callable[[Tensor, Tensor, Tensor], Tensor]) -> list[Tensor]:
        given = [each.clone().requires_grad_(True) for each in (x, a, b)]
        result = output(given[0], given[1], given[2])
        cast("Any", (result * toward).sum()).backward()
        return [result.detach(), *(cast("Tensor", each.grad) for each in given)]

    def with_term(module: nn.Module) -> list[Tensor]:
        return found(lambda x, a, b: module(x) + 2.0 * x @ a.t() @ b.t())

    right, layer = with_term(plain), with_term(ours)
    node = found(lambda x, a, b: frozen(x, (a, b), 2.0))
    near = 1e-4 if products is None else 2e-2
    for exact, mine in zip(right, layer, strict=True):
        torch.testing.assert_close(mine, exact, rtol=1e-3, atol=1e-3)
    for exact, mine in zip(right, node, strict=True):
        torch.testing.assert_close(mine, exact, rtol=near, atol=near * float(exact.std()))


def test_a_row_of_a_product_does_not_depend_on_the_others() -> None:
    ours, _ = linear()
    if not ours.matrix.is_packed:
        pytest.skip("this CPU lacks the packed kernel")
    x = noise(300, 48)
    together = ours(x)
    assert all(torch.equal(ours(x[row : row + 1])[0], together[row]) for row in (0, 7, 299))


def test_an_input_keeps_sixteen_bits_beside_one_that_is_a_thousand_times_larger() -> None:
    ours, plain = linear()
    x = noise(4, 48)
    x[:, 5] *= 1000
    off = (ours(x) - plain(x)).abs().max() / plain(x).std()
    assert off < 1e-3  # with eight bits it would be 0.05


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_row_that_is_not_finite_spoils_itself_alone(number: float) -> None:
    ours, _ = linear()
    x = noise(3, 48)
    right = ours(x)
    x[1, 7] = number
    found = ours(x)
    assert not found[1].isfinite().any()
    assert torch.equal(found[[0, 2]], right[[0, 2]])
    assert torch.equal(ours(torch.zeros(1, 48))[0], ours.bias)


def test_a_kernel_that_overflows_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def saturated(x: Tensor, *_: object) -> Tensor:
        return torch.full((len(x), 3), 32767.0)

    monkeypatch.setattr(int8_weights, "_whole_product", saturated)
    int8_weights.packs_exactly.cache_clear()
    try:
        assert not int8_weights.packs_exactly()
    finally:
        int8_weights.packs_exactly.cache_clear()


# --- decoding ----------------------------------------------------------------------------------


def test_rows_together_are_what_generate_gives(engine: LocalEngine) -> None:
    with held(engine):
        futures = engine.decode([request(q) for q in QUESTIONS])
    for question, future in zip(QUESTIONS, futures, strict=True):
        assert list(future.result(60).tokens) == generated(engine, question, 24)


def test_kept_prompts_and_drafts_change_no_answer(engine: LocalEngine) -> None:
    (first,) = decode(engine, request("what is the rain?"))
    again = request("what is the rain?", drafts=(first.text,))
    with computed(engine) as passes:
        (second,) = decode(engine, again)
    assert second.tokens == first.tokens
    assert len(passes) < 10  # of 24: the draft was checked, the prompt was known


def test_each_row_has_its_own_adapter(engine: LocalEngine) -> None:
    resident = resident_adapters(engine)
    for name in ("a", "b"):
        resident.put(name, adapter_of(resident.adapted.layout, rank=4, alpha=4.0, seed=ord(name)))
    keys = (None, "a", "b", "a")
    alone = [decode(engine, request(adapter=key))[0].tokens for key in keys]
    with held(engine):
        futures = engine.decode([request(adapter=key) for key in keys])
    assert [future.result(60).tokens for future in futures] == alone
    assert len(set(alone)) == 3


# --- training ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("products", "near"), [("float32", 2e-3), ("bfloat16", 0.1)])
def test_training_is_that_of_the_dequantised_weights(
    tiny_model_path: Path, dequantised_path: Path, products: TrainingDtype, near: float
) -> None:
    ours = trained_on(tiny_model_path, "int8", products)
    plain = trained_on(dequantised_path, "float32")
    assert ours.losses[-1] < ours.losses[0] - 0.1
    # Rounded products lead a training of so large steps away from the exact one, a little each.
    assert ours.losses == pytest.approx(plain.losses, rel=near)
    assert ours.losses[0] == pytest.approx(plain.losses[0], rel=1e-3)
    assert ours.provenance["products"] == products


def test_the_learning_rate_is_that_of_the_weights_before(
    eight_bits: LoadedModel, float32: LoadedModel
) -> None:
    found, right = (
        learning_rate_for(AdaptedModel(each.model), TttSettings()) for each in (eight_bits, float32)
    )
    assert found == pytest.approx(right, rel=0.25)  # noise measures narrow layers to some percent


def test_trainings_in_another_type_copy_no_weights_of_eight_bits(eight_bits: LoadedModel) -> None:
    assert AdaptedModel(eight_bits.model).copied_bytes(torch.bfloat16) == 0
