"""The trainer with several trainings in one pass: who joins, who leaves, what the others see."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rttc_graph.errors import BudgetExceeded, ConfigurationError, PolicyModelError
from rttc_graph.integrations.lora import lora_trainer
from rttc_graph.integrations.lora.lora_trainer import LoraTrainer
from rttc_graph.integrations.lora.together.pass_runner import PassRunner
from rttc_graph.integrations.lora.together.training_plans import (
    TrainingPlan,
    fit_together,
    most_together,
)
from rttc_graph.integrations.lora.training_batches import EncodedExample, StepLimits, pack
from rttc_graph.integrations.lora.training_loop import Pass
from rttc_graph.integrations.transformers.local_engine import LocalEngine
from rttc_graph.protocols import TrainedAdapter, TrainingExample, TrainStep
from rttc_graph.settings import TttSettings

SETTINGS = TttSettings(
    rank=4, alpha=8.0, learning_rate=2e-2, epochs=6, samples_per_step=2, min_steps=1, stop_loss=0.0
)
QUESTIONS = ("what is the capital of the rain?", "capital of rain", "where reigns the rain?")


def examples(answer: str) -> tuple[TrainingExample, ...]:
    return tuple(
        TrainingExample(messages=({"role": "user", "content": text},), answer=answer)
        for text in QUESTIONS
    )


@pytest.fixture
def trainer(tiny_engine: LocalEngine) -> LoraTrainer:
    return LoraTrainer(tiny_engine, together=3, training_dtype="float32")


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many trainings were in each pass."""
    sizes: list[int] = []
    run = PassRunner.run

    def counted(self: PassRunner, wanted: Sequence[Pass]) -> list[float | Exception]:
        sizes.append(len(wanted))
        return run(self, wanted)

    monkeypatch.setattr(PassRunner, "run", counted)
    return sizes


class Gate:
    """Holds the lane at the first step until it is let go, so that others can come."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.reached, self.free = threading.Event(), threading.Event()

    def __call__(self, step: TrainStep) -> None:
        self.steps.append(step.step)
        self.reached.set()
        assert self.free.wait(60)


async def train(
    trainer: LoraTrainer,
    key: str,
    settings: TttSettings = SETTINGS,
    on_step: Callable[[TrainStep], None] = lambda _: None,
) -> TrainedAdapter:
    return await trainer.train(key, examples(f"the {key} hen"), settings, on_step=on_step)


async def until(holds: Callable[[], bool]) -> None:
    for _ in range(60_000):
        if holds():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it never happened")


async def company(
    trainer: LoraTrainer, *others: tuple[str, TttSettings]
) -> tuple[asyncio.Task[TrainedAdapter], list[asyncio.Task[TrainedAdapter]], Gate]:
    """Begin a training of 12 steps, and let others come while it is at its first."""
    gate = Gate()
    first = asyncio.create_task(train(trainer, "tin", on_step=gate))
    assert await asyncio.to_thread(gate.reached.wait, 60)
    rest = [asyncio.create_task(train(trainer, key, settings)) for key, settings in others]
    gate.free.set()  # plans are made in the lane
    await until(lambda: len(trainer._plans) > len(others))  # pyright: ignore[reportPrivateUsage]
    return first, rest, gate


def assert_alike(one: TrainedAdapter, other: TrainedAdapter) -> None:
    assert one.steps == other.steps
    # Rounding of a loss shows in the weights and so in later losses, however small these are.
    assert one.losses == pytest.approx(other.losses, rel=1e-5, abs=1e-5 * max(other.losses))


async def test_trainings_join_at_the_next_step_and_leave_when_they_are_done(
    trainer: LoraTrainer, passes: list[int]
) -> None:
    short = replace(SETTINGS, epochs=1, seed=7)
    alone = {key: await train(trainer, key, s) for key, s in (("tin", SETTINGS), ("red", short))}
    assert set(passes) == {1}
    passes.clear()
    first, (second,), gate = await company(trainer, ("red", short))
    done = await second
    assert not first.done()  # it does not wait for the longer one
    assert_alike(done, alone["red"])
    assert_alike(await first, alone["tin"])
    assert gate.steps == list(range(1, 13))
    joined = passes.index(2)
    assert passes[joined:] == [2] * 2 + [1] * (len(passes) - joined - 2)
    assert len(passes) == 12  # its two steps took no pass of their own
    assert await trainer.is_resident("tin")
    assert await trainer.is_resident("red")


async def test_no_more_are_together_than_may_be(trainer: LoraTrainer, passes: list[int]) -> None:
    found = await asyncio.gather(*(train(trainer, key) for key in ("tin", "red", "hot", "old")))
    assert max(passes) == 3
    for one, key in zip(found, ("tin", "red", "hot", "old"), strict=True):
        assert_alike(one, await train(trainer, f"{key}"))


async def test_one_that_is_cancelled_leaves_the_others(
    trainer: LoraTrainer, passes: list[int]
) -> None:
    alone = await train(trainer, "tin")
    passes.clear()
    first, (second, third), _ = await company(trainer, ("red", SETTINGS), ("hot", SETTINGS))
    await until(lambda: 3 in passes)
    second.cancel()
    assert_alike(await first, alone)
    assert (await third).steps == 12
    assert second.cancelled()
    assert not await trainer.is_resident("red")
    crowd: Any = trainer._crowd  # pyright: ignore[reportPrivateUsage]
    await until(lambda: not crowd._has_job)
    assert not crowd._active


async def test_other_ranks_and_too_large_ones_wait(
    tiny_engine: LocalEngine, passes: list[int]
) -> None:
    trainer = LoraTrainer(tiny_engine, together=3, max_training_bytes=150_000)  # one has 66,560
    others = [("red", replace(SETTINGS, rank=2)), ("hot", SETTINGS), ("old", SETTINGS)]
    first, rest, _ = await company(trainer, *others)
    await asyncio.gather(first, *rest)
    assert max(passes) == 2  # of the rank of the first, and no third in memory
    assert passes[:12] == [1] * 12  # first come, first in: nobody overtakes the other rank


async def test_a_closed_engine_tells_all(trainer: LoraTrainer, tiny_engine: LocalEngine) -> None:
    first, rest, gate = await company(
        trainer, ("red", SETTINGS), ("hot", replace(SETTINGS, rank=2))
    )
    tiny_engine.close()
    gate.free.set()
    for each in (first, *rest):
        with pytest.raises((PolicyModelError, BudgetExceeded), match=r"closed|stopped"):
            await each
    with pytest.raises(PolicyModelError, match="closed"):
        await train(trainer, "old")


async def test_a_model_that_does_not_load_is_told_to_all(tmp_path: Path) -> None:
    engine = LocalEngine(tmp_path / "nothing-here")
    trainer = LoraTrainer(engine, together=2)
    found = await asyncio.gather(
        *(train(trainer, key) for key in ("tin", "red")), return_exceptions=True
    )
    assert all(isinstance(each, PolicyModelError) for each in found)
    engine.close()


@pytest.mark.parametrize(("max_pass_bytes", "recorded"), [(None, True), (1, False)])
async def test_a_pass_is_recorded_where_its_bucket_fits(
    max_pass_bytes: int | None,
    recorded: bool,
    tiny_engine: LocalEngine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done: list[str] = []

    def capture(work: Callable[[], None]) -> Callable[[], None]:
        done.append("recorded")
        return work

    monkeypatch.setattr(lora_trainer, "capture_for", lambda _: capture)  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]
    await train(LoraTrainer(tiny_engine, max_pass_bytes=max_pass_bytes), "tin")
    assert bool(done) == recorded


def test_together_is_at_least_one(tiny_engine: LocalEngine) -> None:
    with pytest.raises(ConfigurationError, match="together must be at least 1, got 0"):
        LoraTrainer(tiny_engine, together=0)


def test_a_cpu_trains_one_by_one_and_a_gpu_eight() -> None:
    assert most_together(torch.device("cpu")) == 1
    assert most_together(torch.device("cuda")) == 8


def plan(tokens: int = 40, **changes: Any) -> TrainingPlan:
    limits = StepLimits(token_bytes=10.0, answer_bytes=100.0, max_bytes=5000.0)
    made = [EncodedExample(ids=(5,) * tokens, answer_tokens=2)] * 2
    return TrainingPlan(
        key="k",
        examples=made,
        epoch=[pack(made, limits, device=torch.device("cpu"), share_prefix=False)],
        works=[[1.0]],
        settings=changes.pop("settings", SETTINGS),
        adapter_bytes=changes.pop("adapter_bytes", 100),
        limits=limits,
    )


@pytest.mark.parametrize(
    ("plans", "fits"),
    [
        pytest.param([plan(), plan()], True, id="alike"),
        pytest.param([plan(), plan(settings=replace(SETTINGS, seed=9, epochs=1))], True, id="seed"),
        pytest.param([plan(), plan(settings=replace(SETTINGS, rank=2))], False, id="rank"),
        pytest.param([plan(), plan(settings=replace(SETTINGS, alpha=2.0))], False, id="alpha"),
        pytest.param([plan(), plan(settings=replace(SETTINGS, layers=0.5))], False, id="layers"),
        pytest.param([plan(), plan(tokens=20)], True, id="some-padding"),
        pytest.param([plan(), plan(tokens=10), plan(tokens=10)], True, id="twice-the-tokens"),
        pytest.param([plan(), *[plan(tokens=8)] * 3], False, id="much-padding"),
        pytest.param([plan()] * 3, True, id="three-of-a-thousand-bytes"),
        pytest.param([plan()] * 4, False, id="a-pass-too-large"),
        pytest.param([plan(adapter_bytes=5000)] * 2, False, id="weights-too-large"),
    ],
)
def test_those_train_together_that_fit(plans: list[TrainingPlan], fits: bool) -> None:
    assert fit_together(plans, max_training_bytes=30_000) == fits
