"""Trainings of several queries in one pass: each as it is alone, whatever the others do."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
import torch
from tiny_trainings import (
    CPU,
    ROOMY,
    SETTINGS,
    TIGHT,
    encoded,
    finish,
    observed,
    tiny_gpt2,
    tiny_mistral,
)
from torch import Tensor

from rttc_graph.errors import AdaptationError, BudgetExceeded
from rttc_graph.integrations.lora.adapted_model import AdaptedModel
from rttc_graph.integrations.lora.adapter_layout import Adapter
from rttc_graph.integrations.lora.together.joint_batches import PassShape
from rttc_graph.integrations.lora.together.joint_terms import AdapterStack
from rttc_graph.integrations.lora.together.pass_runner import PassRunner
from rttc_graph.integrations.lora.training_batches import (
    EncodedExample,
    StepLimits,
    deal,
    pack,
)
from rttc_graph.integrations.lora.training_loop import (
    Pass,
    Trained,
    fresh_adapter,
    training_passes,
    training_steps,
)
from rttc_graph.integrations.lora.training_watch import TrainingWatch
from rttc_graph.integrations.transformers.loading import load_model
from rttc_graph.integrations.transformers.recorded.capture import Capture
from rttc_graph.settings import TttSettings


@pytest.fixture
def model(tiny_model_path: Path) -> AdaptedModel:
    return AdaptedModel(load_model(tiny_model_path, device="cpu", dtype="float32").model)


def query(number: int, count: int = 4) -> list[EncodedExample]:
    """The examples of a query: four of their own tokens, or fewer."""
    return [
        replace(each, ids=tuple((token + 7 * number) % 200 + 3 for token in each.ids))
        for each in encoded()[:count]
    ]


class Query:
    """One training, of which passes are asked or which trains alone."""

    def __init__(
        self,
        model: AdaptedModel,
        number: int,
        *,
        settings: TttSettings = SETTINGS,
        count: int = 4,
        limits: StepLimits = ROOMY,
        watch: TrainingWatch | None = None,
    ) -> None:
        self.settings = replace(settings, seed=number)
        self.model = model
        self.watch = watch or observed()
        self.epoch = [
            pack(part, limits, device=CPU, share_prefix=True, tree_tokens=model.tree_tokens)
            for part in deal(query(number, count), self.settings)
        ]

    def passes(self) -> Generator[Pass, float, Trained]:
        return training_passes(self.model, self._fresh(), self.epoch, self.settings, self.watch)

    def alone(self) -> Trained:
        return finish(
            training_steps(self.model, self._fresh(), self.epoch, self.settings, self.watch)
        )

    def _fresh(self) -> Adapter:
        return fresh_adapter(self.model.layout, self.settings, device=CPU)


def together(
    runner: PassRunner, queries: Sequence[Query], *, late: int = 0
) -> list[Trained | Exception]:
    """Train all; the last `late` queries join two passes after the others."""
    passes = [each.passes() for each in queries]
    found: dict[int, Trained | Exception] = {}
    wanted: dict[int, Pass] = {}
    turn = 0
    while len(found) < len(queries):
        for at, one in enumerate(passes):
            if at not in found and at not in wanted and (turn >= 2 or at < len(passes) - late):
                wanted[at] = next(one)
        going = sorted(wanted)
        for at, outcome in zip(going, runner.run([wanted[at] for at in going]), strict=True):
            try:
                if isinstance(outcome, Exception):
                    passes[at].throw(outcome)
                wanted[at] = passes[at].send(cast("float", outcome))
            except StopIteration as end:
                found[at] = end.value
            except Exception as exc:  # noqa: BLE001
                found[at] = exc
            if at in found:
                del wanted[at]
        turn += 1
    return [found[at] for at in range(len(queries))]


def assert_same(one: Trained | Exception, other: Trained) -> None:
    assert isinstance(one, Trained)
    assert one.trained_tokens == other.trained_tokens
    assert one.losses == pytest.approx(other.losses, rel=1e-5)
    # Adam divides by the gradient's own size: rounding shows where that is near 0.
    ours, theirs = (cast("Tensor", each.adapter.flat) for each in (one, other))
    assert (ours - theirs).abs().mean() < 1e-5


@pytest.mark.parametrize(
    ("family", "layers", "samples", "limits", "late"),
    [
        pytest.param("llama", 1.0, 4, ROOMY, 0, id="llama"),
        pytest.param("llama", 1.0, 2, ROOMY, 1, id="one-joins-later"),
        pytest.param("llama", 0.5, 2, ROOMY, 1, id="upper-layers"),
        pytest.param("llama", 1.0, 4, TIGHT, 0, id="several-passes-a-step"),
        pytest.param("gpt2", 1.0, 2, ROOMY, 1, id="transposed-weights"),
        pytest.param("mistral", 1.0, 2, ROOMY, 1, id="sliding-attention"),
    ],
)
def test_each_trains_as_it_does_alone(
    family: str, layers: float, samples: int, limits: StepLimits, late: int, model: AdaptedModel
) -> None:
    if family != "llama":
        model = AdaptedModel(tiny_gpt2() if family == "gpt2" else tiny_mistral())
    settings = replace(SETTINGS, layers=layers, samples_per_step=samples)
    queries = [
        Query(model, 1, settings=settings, limits=limits),
        Query(model, 2, settings=replace(settings, epochs=2), limits=limits),
        Query(model, 3, settings=settings, limits=limits, count=3),  # rows are left over
    ]
    joint = together(PassRunner(model), queries, late=late)
    for one, each in zip(joint, queries, strict=True):
        assert_same(one, each.alone())


def test_beside_bfloat16_products_too(model: AdaptedModel) -> None:
    model.multiply_in(torch.bfloat16)
    queries = [Query(model, number) for number in (1, 2)]
    for one, each in zip(together(PassRunner(model), queries), queries, strict=True):
        found, alone = cast("Trained", one).losses, each.alone().losses
        assert found == pytest.approx(alone, rel=0.02)  # eight bits of ten or so


def test_with_weights_in_bfloat16(tiny_model_path: Path) -> None:
    half = AdaptedModel(load_model(tiny_model_path, device="cpu", dtype="bfloat16").model)
    queries = [Query(half, number) for number in (1, 2)]
    for one, each in zip(together(PassRunner(half), queries), queries, strict=True):
        assert cast("Trained", one).losses == pytest.approx(each.alone().losses, rel=0.02)


def test_one_that_is_no_number_any_more_fails_by_itself(model: AdaptedModel) -> None:
    queries = [
        Query(model, 1),
        Query(model, 2, settings=replace(SETTINGS, learning_rate=1e30)),
        Query(model, 3),
    ]
    first, broken, third = together(PassRunner(model), queries)
    assert isinstance(broken, AdaptationError)
    assert "loss of step 2 is nan" in str(broken)
    assert_same(first, queries[0].alone())
    assert_same(third, queries[2].alone())


def test_one_whose_deadline_passes_leaves_by_itself(model: AdaptedModel) -> None:
    now = [0.0]
    late = observed(lambda _: now.append(now[-1] + 1.0), clock=lambda: now[-1], deadline=2.0)
    queries = [Query(model, 1), Query(model, 2, watch=late)]
    first, second = together(PassRunner(model), queries)
    assert isinstance(second, BudgetExceeded)
    assert "before step 3 of 4" in str(second)
    assert_same(first, queries[0].alone())


def test_a_pass_goes_on_while_one_of_its_trainings_may(model: AdaptedModel) -> None:
    stopped = replace(observed(), is_stopped=lambda: True)
    checks: list[str] = []

    def goes_on() -> bool:
        checks.append("asked")
        return False

    going = replace(observed(), is_stopped=goes_on)
    queries = [Query(model, 1, watch=stopped), Query(model, 2, watch=going)]
    wanted = [replace(next(each.passes()), begin=lambda: None) for each in queries]
    assert all(isinstance(each, float) for each in PassRunner(model).run(wanted))
    assert len(checks) > 10  # at each target
    both = [replace(each, watch=stopped) for each in wanted]
    assert all(isinstance(each, BudgetExceeded) for each in PassRunner(model).run(both))


def test_after_a_failed_pass_each_runs_alone(
    model: AdaptedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    queries = [Query(model, number) for number in (1, 2)]
    expected = [each.alone() for each in queries]

    def fails(*args: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(AdapterStack, "keep", fails)  # behind the backward pass
    for one, right in zip(together(PassRunner(model), queries), expected, strict=True):
        assert_same(one, right)


def replayed(done: list[str]) -> Capture:
    """Capture by doing the work again, as a graph would; notes what is recorded and replayed."""

    def capture(work: Callable[[], None]) -> Callable[[], None]:
        done.append("captured")
        work()

        def replay() -> None:
            done.append("replayed")
            work()

        return replay

    return capture


@pytest.mark.parametrize("family", ["llama", "gpt2", "mistral"])
def test_a_captured_pass_in_its_bucket_does_what_an_exact_one_does(
    family: str, model: AdaptedModel
) -> None:
    if family != "llama":
        model = AdaptedModel(tiny_gpt2() if family == "gpt2" else tiny_mistral())
    done: list[str] = []
    queries = [Query(model, 1, count=2), Query(model, 2, count=3), Query(model, 3, count=2)]
    alone = [each.alone() for each in queries]
    runner = PassRunner(model, capture=replayed(done))
    for one, right in zip(together(runner, queries), alone, strict=True):
        assert_same(one, right)
    is_too_long = family == "mistral"  # a bucket of 32 tokens, and attention over 25
    assert done == ([] if is_too_long else ["captured", *["replayed"] * 4])
    assert_same(together(runner, queries[:1])[0], alone[0])  # one alone has a bucket too


def test_a_shape_is_captured_once(model: AdaptedModel) -> None:
    done: list[str] = []
    runner = PassRunner(model, capture=replayed(done))
    for numbers in ((1, 2), (3, 4)):
        together(runner, [Query(model, number) for number in numbers])
        runner.rest()
    assert done.count("captured") == 1


def test_a_pass_for_which_there_is_no_memory_is_not_captured(model: AdaptedModel) -> None:
    done: list[str] = []
    asked: list[PassShape] = []

    def fits(shape: PassShape) -> bool:
        asked.append(shape)
        return shape.members < 2

    queries = [Query(model, number) for number in (1, 2)]
    runner = PassRunner(model, capture=replayed(done), fits=fits)
    for one, each in zip(together(runner, queries), queries, strict=True):
        assert_same(one, each.alone())
    assert not done
    together(runner, queries[:1])
    assert done.count("captured") == 1
    assert asked[-1].members == 1


def test_a_capture_that_fails_or_does_something_else_is_given_up(
    model: AdaptedModel, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(work: Callable[[], None]) -> Callable[[], None]:
        raise RuntimeError("operation not permitted when stream is capturing")

    def wrong(work: Callable[[], None]) -> Callable[[], None]:
        return lambda: None  # a replay that leaves what was there before

    queries = [Query(model, number) for number in (1, 2)]
    alone = [each.alone() for each in queries]
    for capture in (fails, wrong):
        for one, right in zip(
            together(PassRunner(model, capture=capture), queries), alone, strict=True
        ):
            assert_same(one, right)
        assert "are not captured any more" in caplog.text
        caplog.clear()


@pytest.mark.parametrize(
    ("exact", "bucket"),
    [
        ((1, 2, 60, 9), (1, 2, 64, 16)),
        ((3, 2, 65, 17), (4, 2, 96, 32)),
        ((8, 1, 300, 100), (8, 1, 384, 128)),
        ((1, 1, 2049, 5), None),
    ],
)
def test_buckets_are_few_and_not_much_larger(
    exact: tuple[int, int, int, int], bucket: tuple[int, int, int, int] | None
) -> None:
    found = PassShape(*exact).in_bucket
    assert found == (None if bucket is None else PassShape(*bucket))
