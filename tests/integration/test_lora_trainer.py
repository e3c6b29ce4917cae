"""The trainer in the engine's lane: beside generation, cancelled, out of memory, loaded again."""

from __future__ import annotations

import asyncio
import gc
import math
import threading
import time
import weakref
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from live_tensors import live_tensors
from peft import PeftModel
from tiny_models import make_tiny_model
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from rttc_graph.errors import AdaptationError, BudgetExceeded, ConfigurationError
from rttc_graph.integrations.lora import lora_trainer, training_planner
from rttc_graph.integrations.lora.adapted_model import AdaptedModel
from rttc_graph.integrations.lora.adapter_serialization import PEFT_CONFIG, write_peft_folder
from rttc_graph.integrations.lora.lora_trainer import LoraTrainer
from rttc_graph.integrations.lora.training_batches import encode_examples
from rttc_graph.integrations.lora.training_loop import fresh_adapter
from rttc_graph.integrations.lora.training_terms import TrainingTerms
from rttc_graph.integrations.transformers import local_engine
from rttc_graph.integrations.transformers.decoding.row import Decoded, DecodeRequest
from rttc_graph.integrations.transformers.free_memory import DeviceSizes
from rttc_graph.integrations.transformers.loading import load_model
from rttc_graph.integrations.transformers.local_engine import LoadedModel, LocalEngine
from rttc_graph.integrations.transformers.tokens import encode_answer
from rttc_graph.integrations.transformers.transformers_policy_model import TransformersPolicyModel
from rttc_graph.protocols import (
    AdapterTrainer,
    Generation,
    GenerationRequest,
    TrainedAdapter,
    TrainingExample,
    TrainStep,
)
from rttc_graph.settings import TrainingDtype, TttSettings
from rttc_graph.state import ChatTurn

SETTINGS = TttSettings(
    rank=4, alpha=8.0, learning_rate=2e-2, epochs=12, samples_per_step=8, min_steps=1, stop_loss=0.0
)
QUESTION: ChatTurn = {"role": "user", "content": "what is the capital of the rain?"}
EXAMPLES = tuple(
    TrainingExample(messages=({"role": "user", "content": text},), answer="the tin hen")
    for text in ("what is the capital of the rain?", "capital of rain", "where reigns the rain?")
)


@pytest.fixture
def trainer(tiny_engine: LocalEngine) -> LoraTrainer:
    return LoraTrainer(tiny_engine)


@pytest.fixture
def policy(tiny_engine: LocalEngine) -> TransformersPolicyModel:
    return TransformersPolicyModel(tiny_engine)


def ignore(step: TrainStep) -> None:
    del step


async def ask(policy: TransformersPolicyModel, adapter: str | None = None) -> Generation:
    request = GenerationRequest(messages=(QUESTION,), max_new_tokens=12, adapter=adapter)
    return (await policy.generate([request]))[0]


async def train(
    trainer: LoraTrainer, key: str = "k", settings: TttSettings = SETTINGS
) -> TrainedAdapter:
    return await trainer.train(key, EXAMPLES, settings, on_step=ignore)


class Pause:
    """Holds the lane in `on_step` until it is let go."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.reached = threading.Event()
        self.free = threading.Event()

    def __call__(self, step: TrainStep) -> None:
        self.steps.append(step.step)
        self.reached.set()
        assert self.free.wait(60)


@pytest.mark.usefixtures("no_blocking_calls")
async def test_a_trained_adapter_answers_as_it_was_taught(
    trainer: LoraTrainer, policy: TransformersPolicyModel
) -> None:
    checked: AdapterTrainer = trainer
    before = await ask(policy)
    assert not await checked.is_resident("k")
    told: list[TrainStep] = []
    trained = await checked.train("k", EXAMPLES, SETTINGS, on_step=told.append)
    assert await checked.is_resident("k")
    taught = await ask(policy, "k")
    assert (taught.text, taught.finish_reason) == ("the tin hen", "stop")
    assert await ask(policy) == before
    assert before.text != "the tin hen"
    assert trained.losses == tuple(step.loss for step in told)
    assert trained.losses[-1] < 0.5 < trained.losses[0]
    assert trained.steps == len(told) == 12
    assert trained.base_fingerprint == await checked.base_fingerprint()
    assert trained.provenance["settings"]["learning_rate"] == 2e-2
    assert trained.provenance["learning_rate"] == 2e-2


async def test_no_base_but_its_own_is_loaded_for_a_question_about_residency(
    tmp_path: Path,
) -> None:
    engine = LocalEngine(tmp_path / "nothing-here")
    assert not await LoraTrainer(engine).is_resident("k")
    engine.close()


async def test_trained_tokens_count_every_epoch(
    tiny_engine: LocalEngine, trainer: LoraTrainer, policy: TransformersPolicyModel
) -> None:
    trained = await train(trainer, settings=replace(SETTINGS, epochs=2))
    prompts = [await policy.count_tokens(example.messages) for example in EXAMPLES]
    answer = await tiny_engine.in_lane(
        lambda loaded: encode_answer(loaded, "the tin hen", end=True)
    )
    assert trained.trained_tokens == 2 * sum(prompt + len(answer) for prompt in prompts)


async def test_generation_during_a_training_is_as_without(
    trainer: LoraTrainer, policy: TransformersPolicyModel
) -> None:
    await train(trainer, "other", replace(SETTINGS, seed=5, epochs=3))
    base, other = await ask(policy), await ask(policy, "other")
    alone = await train(trainer, "alone")
    training = asyncio.create_task(train(trainer, "beside"))
    answers = 0
    while not training.done():
        assert await ask(policy) == base
        assert await ask(policy, "other") == other
        answers += 2
    assert answers >= 4
    assert (await training).weights == alone.weights
    assert await ask(policy) == base


async def test_a_short_answer_waits_for_one_step_of_a_training_at_most(
    tiny_engine: LocalEngine, trainer: LoraTrainer
) -> None:
    events: list[str] = []
    rows: list[Future[Decoded]] = []

    def ask_in_the_third(step: TrainStep) -> None:
        events.append("step")
        if step.step == 3:
            generation = GenerationRequest(messages=(QUESTION,), max_new_tokens=2)
            asked = DecodeRequest(generation=generation, on_text=lambda _: events.append("text"))
            rows.extend(tiny_engine.decode([asked]))

    await trainer.train("k", EXAMPLES, SETTINGS, on_step=ask_in_the_third)
    await asyncio.wrap_future(rows[0])
    assert events[:4] == ["step", "step", "step", "text"]
    assert events.count("step") == 12


async def test_cancelling_stops_the_training_at_its_next_step(
    trainer: LoraTrainer, policy: TransformersPolicyModel
) -> None:
    base = await ask(policy)
    pause = Pause()
    training = asyncio.create_task(
        trainer.train("k", EXAMPLES, replace(SETTINGS, epochs=10_000), on_step=pause)
    )
    assert await asyncio.to_thread(pause.reached.wait, 60)
    training.cancel()
    with pytest.raises(asyncio.CancelledError):
        await training
    pause.free.set()
    assert await ask(policy) == base  # behind the step in hand
    assert pause.steps == [1]
    assert not await trainer.is_resident("k")
    assert (await train(trainer)).steps == 12  # and the lane trains again


async def test_a_deadline_ends_it_without_an_adapter(tiny_engine: LocalEngine) -> None:
    now = 0.0

    def tick(step: TrainStep) -> None:
        nonlocal now
        now += 1.0

    trainer = LoraTrainer(tiny_engine, clock=lambda: now)
    with pytest.raises(BudgetExceeded, match="before step 4 of 12"):
        await trainer.train("k", EXAMPLES, SETTINGS, on_step=tick, deadline=3.0)
    assert not await trainer.is_resident("k")


async def test_seconds_are_those_of_the_clock(tiny_engine: LocalEngine) -> None:
    now = 0.0

    def tick(step: TrainStep) -> None:
        nonlocal now
        now += 1.0

    trainer = LoraTrainer(tiny_engine, clock=lambda: now)
    trained = await trainer.train("k", EXAMPLES, SETTINGS, on_step=tick)
    assert trained.seconds == 12.0


_CPU_WORDS = "[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: not enough memory: tried"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        pytest.param(torch.OutOfMemoryError("CUDA out of memory"), "out of memory", id="cuda"),
        pytest.param(RuntimeError(_CPU_WORDS), "out of memory", id="cpu"),
        pytest.param(MemoryError(), "out of memory", id="python"),
        pytest.param(RuntimeError("sizes do not match"), "could not train", id="another-error"),
    ],
)
async def test_what_torch_raises_becomes_an_adaptation_error(
    error: Exception,
    words: str,
    trainer: LoraTrainer,
    policy: TransformersPolicyModel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    base = await ask(policy)
    whole = AdaptedModel.logits_at
    calls = 0

    def failing(self: AdaptedModel, *args: Any) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise error
        return whole(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(AdaptedModel, "logits_at", failing)
        with pytest.raises(AdaptationError, match=words):
            await train(trainer)
    assert await ask(policy) == base
    assert not await trainer.is_resident("k")
    await train(trainer)
    assert (await ask(policy, "k")).text == "the tin hen"


@pytest.mark.parametrize(
    ("training_dtype", "free", "products"),
    [
        ("auto", math.inf, "bfloat16"),
        ("auto", 1e4, "float32"),  # the copies would take 70 kB
        ("bfloat16", 1e4, "bfloat16"),
        ("float32", math.inf, "float32"),
    ],
)
async def test_trainings_multiply_in_the_type_that_fits(
    training_dtype: TrainingDtype,
    free: float,
    products: str,
    tiny_engine: LocalEngine,
    policy: TransformersPolicyModel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    monkeypatch.setattr(training_planner, "free_on_all", lambda _: free)  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]
    trained = await train(LoraTrainer(tiny_engine, training_dtype=training_dtype))
    assert trained.provenance["products"] == products
    assert (await ask(policy, "k")).text == "the tin hen"


async def test_an_adapter_without_room_is_an_error(tiny_engine: LocalEngine) -> None:
    trainer = LoraTrainer(tiny_engine, max_resident_bytes=1000)
    with pytest.raises(AdaptationError, match="raise max_resident_bytes"):
        await train(trainer, settings=replace(SETTINGS, epochs=1))


@pytest.mark.parametrize("how", ["train", "load"])
async def test_an_adapter_waits_for_room_that_a_request_still_uses(
    how: str, tiny_engine: LocalEngine, policy: TransformersPolicyModel
) -> None:
    trainer = LoraTrainer(tiny_engine, max_resident_bytes=20_000)  # one has 16,640
    settings = replace(SETTINGS, epochs=1)
    other = await train(trainer, "other", settings)
    await train(trainer, "k", settings)  # other has had its time, and nobody asked for it
    begun, free = threading.Event(), threading.Event()

    def stay(_: str) -> None:
        begun.set()
        assert free.wait(60)

    generation = GenerationRequest(messages=(QUESTION,), max_new_tokens=12, adapter="k")
    (row,) = tiny_engine.decode([DecodeRequest(generation=generation, on_text=stay)])
    assert await asyncio.to_thread(begun.wait, 60)
    again = asyncio.create_task(
        trainer.load(other) if how == "load" else _forget(train(trainer, "other", settings))
    )
    free.set()
    assert (await asyncio.wrap_future(row)).tokens
    await again
    assert await trainer.is_resident("other")
    assert not await trainer.is_resident("k")


async def _forget(training: Coroutine[Any, Any, TrainedAdapter]) -> None:
    await training


async def test_a_loaded_adapter_answers_as_the_trained_one(
    trainer: LoraTrainer, policy: TransformersPolicyModel, tiny_model_path: Path
) -> None:
    trained = await train(trainer)
    first = await ask(policy, "k")
    engine = LocalEngine(tiny_model_path, device="cpu", threads=1)
    elsewhere = LoraTrainer(engine)
    await elsewhere.load(trained)
    assert await elsewhere.is_resident("k")
    assert await ask(TransformersPolicyModel(engine), "k") == first
    engine.close()


def loss_by_peft(base: Path, adapter: TrainedAdapter, folder: Path) -> float:
    write_peft_folder(adapter, folder)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder)
    losses: list[float] = []
    for example in encode_examples(load_model(base, device="cpu", dtype="auto"), EXAMPLES):
        ids = torch.tensor([example.ids])
        with torch.inference_mode():
            logits = model(input_ids=ids).logits[0, -example.answer_tokens - 1 : -1]
        losses.append(float(cross_entropy(logits, ids[0, -example.answer_tokens :])))
    return sum(losses) / len(losses)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
async def test_the_loss_of_a_stored_adapter_is_that_of_peft(
    trainer: LoraTrainer, tiny_model_path: Path, tmp_path: Path
) -> None:
    trained = await train(trainer, settings=replace(SETTINGS, epochs=3))
    expected = await asyncio.to_thread(loss_by_peft, tiny_model_path, trained, tmp_path)
    engine = LocalEngine(tiny_model_path, device="cpu", threads=1)
    elsewhere = LoraTrainer(engine)  # where it is not resident
    found = [await each.loss(trained, EXAMPLES) for each in (trainer, elsewhere)]
    assert found == pytest.approx([expected] * 2, rel=1e-4)
    assert found[0] < trained.losses[0]
    engine.close()


async def test_examples_that_do_not_fit_into_the_context_have_no_loss(trainer: LoraTrainer) -> None:
    trained = await train(trainer, settings=replace(SETTINGS, epochs=1))
    long = TrainingExample(messages=EXAMPLES[0].messages, answer="a hen " * 300)
    with pytest.raises(AdaptationError, match=r"could not try adapter 'k': .* longer context"):
        await trainer.loss(trained, [long])


def _foreign(trained: TrainedAdapter) -> TrainedAdapter:
    return replace(trained, base_fingerprint="0" * 32)


def _damaged(trained: TrainedAdapter) -> TrainedAdapter:
    return replace(trained, weights=trained.weights[:-1])


def _unexplained(trained: TrainedAdapter) -> TrainedAdapter:
    return replace(trained, provenance={})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param(_foreign, "was made for the base '0000", id="another-base"),
        pytest.param(_damaged, "bytes are damaged", id="damaged"),
        pytest.param(_unexplained, f"lacks '{PEFT_CONFIG}'", id="without-configuration"),
    ],
)
async def test_an_adapter_that_does_not_fit_is_refused(
    change: Callable[[TrainedAdapter], TrainedAdapter],
    words: str,
    trainer: LoraTrainer,
    policy: TransformersPolicyModel,
) -> None:
    trained = await train(trainer, settings=replace(SETTINGS, epochs=1))
    base = await ask(policy)
    with pytest.raises(AdaptationError, match=words):
        await trainer.load(replace(change(trained), key="new"))
    assert not await trainer.is_resident("new")
    assert await ask(policy) == base


async def test_a_base_with_other_weights_has_another_fingerprint(
    trainer: LoraTrainer, tmp_path: Path
) -> None:
    engine = LocalEngine(make_tiny_model(tmp_path / "other", seed=1), device="cpu", threads=1)
    other = LoraTrainer(engine)
    assert await other.base_fingerprint() != await trainer.base_fingerprint()
    with pytest.raises(AdaptationError, match="was made for the base"):
        await other.load(await train(trainer, settings=replace(SETTINGS, epochs=1)))
    engine.close()


async def test_sizes_that_are_not_given_fit_the_device(
    tiny_engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_engine, "free_on_all", lambda _: 2.0**20 * 160)  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]
    trainer = LoraTrainer(tiny_engine)
    assert tiny_engine.sizes is None
    await trainer.base_fingerprint()
    assert tiny_engine.sizes == DeviceSizes(rows=16, positions=32_768, adapter_bytes=20 * 2**20)
    with pytest.raises(AdaptationError, match=f"than the {20 * 2**20} that adapters may take"):
        await train(trainer, settings=replace(SETTINGS, epochs=1, rank=8192))  # of 34 MB


async def test_trainings_that_are_not_bounded_fit_the_device(
    tiny_engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = DeviceSizes(
        rows=16, positions=2048, adapter_bytes=20 * 2**20, training_bytes=100_000, device="cuda"
    )
    monkeypatch.setattr(local_engine, "device_sizes", lambda *_, **__: small)  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]
    trainer = LoraTrainer(tiny_engine)
    with pytest.raises(AdaptationError, match=r"max_training_bytes is 100000: lower ttt_rank"):
        await train(trainer, settings=replace(SETTINGS, rank=64))
    assert (await train(trainer, settings=replace(SETTINGS, rank=1))).steps


async def test_an_engine_has_one_trainer(tiny_engine: LocalEngine, trainer: LoraTrainer) -> None:
    with pytest.raises(ConfigurationError, match="share them"):
        LoraTrainer(tiny_engine)
    assert not await trainer.is_resident("k")


async def test_the_base_has_no_gradients_afterwards(
    tiny_engine: LocalEngine, trainer: LoraTrainer
) -> None:
    await train(trainer, settings=replace(SETTINGS, epochs=2))

    def has_gradients(loaded: LoadedModel) -> bool:
        return any(p.requires_grad or p.grad is not None for p in loaded.model.parameters())

    assert not await tiny_engine.in_lane(has_gradients)


async def test_several_trainings_at_once_do_not_mix(trainer: LoraTrainer) -> None:
    settings = [replace(SETTINGS, epochs=3, seed=seed) for seed in range(3)]
    alone = [await train(trainer, f"alone-{s.seed}", s) for s in settings]
    together = await asyncio.gather(*(train(trainer, f"together-{s.seed}", s) for s in settings))
    assert [one.weights for one in together] == [one.weights for one in alone]


def _made_since(earlier: Sequence[weakref.ref[Tensor]]) -> int:
    """Count new tensors only: what tests before this one left may go at any time."""
    there = {id(tensor()) for tensor in earlier}
    return sum(id(tensor) not in there for tensor in live_tensors())


@pytest.mark.parametrize("fails", [False, True], ids=["fine", "failed"])
async def test_trainings_leave_nothing_behind_but_the_last_adapter(
    fails: bool, trainer: LoraTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    await trainer.base_fingerprint()  # the base model is there
    earlier = [weakref.ref(tensor) for tensor in live_tensors()]
    await train(trainer, settings=replace(SETTINGS, epochs=2))
    await trainer.base_fingerprint()  # until then the lane has what it did last in hand
    one_adapter = _made_since(earlier)
    if fails:
        monkeypatch.setattr(AdaptedModel, "logits_at", _no_memory)
    for seed in range(4):
        with suppress(AdaptationError):
            await train(trainer, settings=replace(SETTINGS, epochs=2, seed=seed))
    await trainer.base_fingerprint()  # until then asyncio has the last error in hand
    assert _made_since(earlier) == one_adapter > 0


async def test_tensors_of_a_late_training_are_freed_at_once(
    trainer: LoraTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    await trainer.base_fingerprint()
    await train(trainer)
    made: list[weakref.ref[Tensor]] = []
    fresh = fresh_adapter

    def watched(*args: Any, **kwargs: Any) -> Any:
        adapter = fresh(*args, **kwargs)
        made.extend(weakref.ref(tensor) for pair in adapter.pairs for tensor in pair)
        return adapter

    monkeypatch.setattr(lora_trainer, "fresh_adapter", watched)
    now = [0.0]
    late = LoraTrainer.__new__(LoraTrainer)
    late.__dict__.update(trainer.__dict__)
    monkeypatch.setattr(late, "_clock", lambda: now[0])
    gc.disable()
    try:
        with pytest.raises(BudgetExceeded) as kept:  # the error is kept, its tensors are not
            await late.train(
                "late",
                EXAMPLES,
                SETTINGS,
                on_step=lambda _: now.append(now.pop() + 9),
                deadline=5.0,
            )
        await trainer.base_fingerprint()
        assert made
        assert not [tensor for ref in made if (tensor := ref()) is not None]
        assert kept.value
    finally:
        gc.enable()


async def test_a_training_beyond_the_memory_for_trainings_is_refused(
    tiny_engine: LocalEngine,
) -> None:
    trainer = LoraTrainer(tiny_engine, max_training_bytes=100_000)
    with pytest.raises(AdaptationError, match=r"rank 64 .* takes \d+ bytes and max_training_bytes"):
        await train(trainer, settings=replace(SETTINGS, rank=64))
    assert (await train(trainer, settings=replace(SETTINGS, rank=1))).steps
    with pytest.raises(ConfigurationError, match="max_training_bytes must be above 0, got 0"):
        LoraTrainer(tiny_engine, max_training_bytes=0)


async def test_of_eight_large_trainings_one_holds_memory_and_the_late_are_refused_at_once(
    tiny_engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = LoraTrainer(tiny_engine)
    settings = replace(SETTINGS, rank=256, epochs=20, stop_loss=0.0)
    running: list[str] = []
    most = [0]
    train_one = LoraTrainer._train  # pyright: ignore[reportPrivateUsage]

    def watched(self: LoraTrainer, *args: Any) -> Any:
        running.append("one")
        most[0] = max(most[0], len(running))
        try:
            return (yield from train_one(self, *args))
        finally:
            running.pop()

    monkeypatch.setattr(LoraTrainer, "_train", watched)
    began = asyncio.get_running_loop().time()
    await train(trainer, settings=settings)
    alone = asyncio.get_running_loop().time() - began
    deadline = time.monotonic() + alone * 40

    async def one(number: int, until: float) -> TrainedAdapter | BaseException:
        try:
            return await trainer.train(
                f"k{number}",
                EXAMPLES,
                replace(settings, seed=number),
                on_step=ignore,
                deadline=until,
            )
        except BudgetExceeded as exc:
            return exc

    found = await asyncio.gather(*(one(n, deadline) for n in range(8)))
    assert all(isinstance(each, TrainedAdapter) for each in found)
    assert most == [1]
    trainer._pace.note(1.0, 1e-9)  # pyright: ignore[reportPrivateUsage]
    monkeypatch.setattr(trainer._pace, "least_seconds", _for_ever)  # pyright: ignore[reportPrivateUsage]
    refused = await one(9, deadline)
    assert "would end in 1000000.0 s at the earliest, with 0 before it" in str(refused)


def _for_ever(work: float) -> float:
    return 1e6 + 0 * work


async def test_a_cancelled_pass_ends_at_its_next_layer(tiny_engine: LocalEngine) -> None:
    trainer = LoraTrainer(tiny_engine)
    await trainer.base_fingerprint()
    in_pass, free = threading.Event(), threading.Event()
    passes: list[int] = []
    output = TrainingTerms.output

    def slow(self: TrainingTerms, index: int, *args: Any) -> Tensor:
        passes.append(index)
        in_pass.set()
        assert free.wait(60)
        return output(self, index, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingTerms, "output", slow)
        task = asyncio.create_task(train(trainer))
        await asyncio.to_thread(in_pass.wait, 60)
        task.cancel()
        await asyncio.wait([task])
        free.set()
        await trainer.base_fingerprint()
    assert passes == [0]
    assert (await train(trainer)).steps


async def test_a_first_pass_too_long_for_the_budget_is_not_begun(tiny_engine: LocalEngine) -> None:
    trainer = LoraTrainer(tiny_engine)
    now = [0.0]
    passes: list[int] = []
    logits_at = AdaptedModel.logits_at

    def slow(self: AdaptedModel, adapter: Any, batch: Any, *rest: Any) -> Tensor:
        tokens = batch.input_ids.numel()
        passes.append(tokens)
        now[0] += tokens / 100
        return logits_at(self, adapter, batch, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AdaptedModel, "logits_at", slow)
        patch.setattr(lora_trainer, "_PROBE_TOKENS", 16)
        patch.setattr(trainer, "_clock", lambda: now[0])
        example = TrainingExample(messages=({"role": "user", "content": "x" * 400},), answer="y")
        with pytest.raises(BudgetExceeded, match=r"would take .* s more at least, from step 1"):
            await trainer.train("k", [example], SETTINGS, on_step=ignore, deadline=2.0)
    assert passes == [16]


def _no_memory(*args: Any) -> Tensor:
    raise RuntimeError(_CPU_WORDS)


_CASES = {
    "lost or stolen card": (
        "Someone took my wallet with my card.",
        "I can't find my card anymore.",
    ),
    "exchange rate": ("How do you set your exchange rates?", "What rate do I get for euros?"),
    "top up failed": ("My top up was not accepted.", "Why can't I top up my account?"),
    "change pin": ("Where can I choose another PIN?", "I want a different PIN for my card."),
}


def _intent(message: str) -> tuple[ChatTurn, ...]:
    text = f"Name the banking intent of this customer message.\nMessage: {message}"
    return (
        {"role": "system", "content": "Answer the question."},
        {"role": "user", "content": text},
    )


@pytest.mark.model
@pytest.mark.timeout(600)
async def test_a_real_model_learns_labels_from_eight_samples(smollm2_path: Path) -> None:
    engine = LocalEngine(smollm2_path, device="cpu")
    trainer, policy = LoraTrainer(engine), TransformersPolicyModel(engine)
    examples = [
        TrainingExample(messages=_intent(message), answer=label)
        for label, messages in _CASES.items()
        for message in messages
    ]
    settings = TttSettings(rank=8, alpha=16.0, learning_rate=4e-3, epochs=5)
    trained = await trainer.train("k", examples, settings, on_step=ignore)
    assert trained.losses[-1] < 0.2 * trained.losses[0]
    request = GenerationRequest(
        messages=_intent("My card was stolen on the train."), max_new_tokens=12, adapter="k"
    )
    plain = replace(request, adapter=None)
    answers = await policy.generate([request, plain])
    assert answers[0].text == "lost or stolen card"
    assert answers[0].finish_reason == "stop"
    assert "lost or stolen card" not in answers[1].text
    engine.close()


async def test_a_training_goes_on_from_another_adapter(
    trainer: LoraTrainer, policy: TransformersPolicyModel
) -> None:
    learnt = await train(trainer, "learnt")
    # a higher rank, another scale, and a step that changes next to nothing
    one_step = replace(SETTINGS, rank=6, epochs=1, learning_rate=1e-7)
    steps: list[TrainStep] = []
    await trainer.train_on(learnt, "on", EXAMPLES, one_step, on_step=steps.append)
    # the first loss is that of the adapter it begins with, and not of the base
    assert steps[0].loss == pytest.approx(await trainer.loss(learnt, EXAMPLES), abs=1e-3)
    assert steps[0].loss < learnt.losses[0] / 2
    assert (await ask(policy, "on")).text == (await ask(policy, "learnt")).text
    with pytest.raises(AdaptationError, match=r"has rank 4 and adapts 14 layers, .* rank 2"):
        await trainer.train_on(learnt, "low", EXAMPLES, replace(SETTINGS, rank=2), on_step=ignore)


async def test_an_adapter_that_was_pushed_out_is_loaded_again(tiny_engine: LocalEngine) -> None:
    trainer = LoraTrainer(tiny_engine)
    learnt = await train(trainer, "learnt")
    wanted: list[str] = []

    async def load(key: str) -> None:
        wanted.append(key)
        await trainer.load(replace(learnt, key=key))

    policy = TransformersPolicyModel(tiny_engine, load=load)
    before = await ask(policy, "learnt")
    assert not await trainer.is_resident("pushed out")
    assert (await ask(policy, "pushed out")).text == before.text
    await ask(policy)
    assert wanted == ["learnt", "pushed out"]
