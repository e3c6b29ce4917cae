"""What every trainer of adapters must do; subclass it and define the fixture `trainer`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from rttc_graph.errors import AdaptationError, BudgetExceeded
from rttc_graph.protocols import (
    AdapterTrainer,
    ContinuingTrainer,
    TrainedAdapter,
    TrainingExample,
    TrainStep,
)
from rttc_graph.settings import TttSettings

EXAMPLES = (
    TrainingExample(messages=({"role": "user", "content": "one and one?"},), answer="two"),
    TrainingExample(messages=({"role": "user", "content": "two and one?"},), answer="three"),
)
SETTINGS = TttSettings(rank=4, alpha=8.0, learning_rate=1e-2, min_steps=4, stop_loss=0.0)


async def train(
    trainer: AdapterTrainer,
    key: str,
    *,
    on_step: Callable[[TrainStep], None] = lambda _: None,
    deadline: float | None = None,
) -> TrainedAdapter:
    """Train an adapter on two examples."""
    return await trainer.train(key, EXAMPLES, SETTINGS, on_step=on_step, deadline=deadline)


async def refused(trainer: AdapterTrainer, bad: TrainedAdapter) -> None:
    """Check that an adapter is neither loaded nor measured."""
    with pytest.raises(AdaptationError):
        await trainer.load(bad)
    with pytest.raises(AdaptationError):
        await trainer.loss(bad, EXAMPLES)
    assert not await trainer.is_resident(bad.key)


class AdapterTrainerContract:
    """Subclass it in a backend's tests and define the fixture `trainer`."""

    @pytest.fixture
    def trainer(self) -> AdapterTrainer:
        """Return the trainer under test, without adapters; override it."""
        raise NotImplementedError("define the fixture `trainer`")

    async def test_a_trained_adapter_is_resident_and_has_its_figures(
        self, trainer: AdapterTrainer
    ) -> None:
        """What it cost is told, and each step was reported."""
        steps: list[TrainStep] = []
        assert not await trainer.is_resident("a")
        adapter = await train(trainer, "a", on_step=steps.append)
        assert await trainer.is_resident("a")
        assert not await trainer.is_resident("b")
        assert (adapter.key, adapter.base_fingerprint) == ("a", await trainer.base_fingerprint())
        assert len(adapter.weights) > 0
        assert adapter.trained_tokens > 0
        assert adapter.steps == len(adapter.losses) == len(steps) >= 4
        assert [step.step for step in steps] == list(range(1, len(steps) + 1))
        assert all(math.isfinite(loss) for loss in adapter.losses)
        assert adapter.losses[-1] < adapter.losses[0]

    async def test_a_trainer_that_goes_on_begins_with_what_was_learnt(
        self, trainer: AdapterTrainer
    ) -> None:
        """Its first loss is that of the adapter it begins with, which stays as it is."""
        if not isinstance(trainer, ContinuingTrainer):
            pytest.skip("it always begins with the base")
        start, steps = await train(trainer, "a"), list[TrainStep]()
        further = replace(SETTINGS, epochs=1, min_steps=1)
        made = await trainer.train_on(start, "b", EXAMPLES, further, on_step=steps.append)
        assert (made.key, made.base_fingerprint) == ("b", start.base_fingerprint)
        assert await trainer.is_resident("b")
        learnt = await trainer.loss(start, EXAMPLES)
        assert math.isclose(steps[0].loss, learnt, abs_tol=0.2)
        assert learnt < start.losses[0]

    async def test_what_was_trained_can_be_loaded_again(self, trainer: AdapterTrainer) -> None:
        """Its bytes are all there is of it; loading twice is no error."""
        adapter = replace(await train(trainer, "a"), key="again")
        await trainer.load(adapter)
        await trainer.load(adapter)
        assert await trainer.is_resident("again")

    async def test_an_adapter_that_is_resident_is_not_loaded_again(
        self, trainer: AdapterTrainer
    ) -> None:
        """Callers need not ask before; nothing is read of what is handed over."""
        adapter = await train(trainer, "a")
        await trainer.load(replace(adapter, weights=b""))
        assert await trainer.is_resident("a")
        assert 0 <= await trainer.loss(adapter, EXAMPLES) < adapter.losses[0]

    async def test_an_adapter_has_less_to_learn_of_its_own_examples(
        self, trainer: AdapterTrainer
    ) -> None:
        """The loss is that of its last steps or lower, in nats per token."""
        adapter = await train(trainer, "a")
        assert 0 <= await trainer.loss(adapter, EXAMPLES) < adapter.losses[0]

    async def test_damaged_bytes_are_refused(self, trainer: AdapterTrainer) -> None:
        """Neither loaded nor measured, and not resident afterwards."""
        await refused(trainer, replace(await train(trainer, "a"), key="bad", weights=b"\0" * 100))

    async def test_an_adapter_of_another_base_is_refused(self, trainer: AdapterTrainer) -> None:
        """Its shapes may fit by chance; its numbers do not."""
        await refused(trainer, replace(await train(trainer, "a"), key="bad", base_fingerprint="x"))

    async def test_a_deadline_that_has_passed_ends_the_training(
        self, trainer: AdapterTrainer
    ) -> None:
        """No half-trained adapter is left."""
        with pytest.raises(BudgetExceeded):
            await train(trainer, "late", deadline=time.monotonic() - 1)
        assert not await trainer.is_resident("late")
        assert (await train(trainer, "late")).key == "late"
