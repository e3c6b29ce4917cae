"""Training against a plain slow loop with peft, and what it must leave untouched."""

from __future__ import annotations

import hashlib
import itertools
import math
import subprocess
import sys
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_trainings import (
    CPU,
    ROOMY,
    SETTINGS,
    TIGHT,
    encoded,
    finish,
    observed,
    start,
    tiny_gpt2,
    tiny_mistral,
    train,
)
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, GPT2LMHeadModel, PreTrainedModel

from rttc_graph.errors import AdaptationError, BudgetExceeded
from rttc_graph.integrations.lora.adapted_model import AdaptedModel
from rttc_graph.integrations.lora.adapter_serialization import to_bytes
from rttc_graph.integrations.lora.training_batches import EncodedExample, StepLimits, pack
from rttc_graph.integrations.lora.training_loop import (
    Trained,
    fresh_adapter,
    learning_rate_for,
    training_steps,
)
from rttc_graph.integrations.lora.training_watch import Pace, TrainingWatch
from rttc_graph.integrations.transformers.loading import LoadedModel, load_model
from rttc_graph.protocols import TrainStep
from rttc_graph.settings import TttSettings

PROBE = torch.tensor([[5, 9, 40, 77, 12, 3, 81], [8, 8, 30, 4, 100, 61, 7]])


@pytest.fixture
def loaded(tiny_model_path: Path) -> LoadedModel:
    return load_model(tiny_model_path, device="cpu", dtype="float32")


@pytest.fixture
def model(loaded: LoadedModel) -> AdaptedModel:
    return AdaptedModel(loaded.model)


def probe(forward: Callable[..., Any]) -> Tensor:
    with torch.inference_mode():
        return cast("Tensor", forward(input_ids=PROBE, use_cache=False).logits)


def digest(model: PreTrainedModel) -> str:
    """Of every weight and buffer, and of what autograd would see in them."""
    total = hashlib.sha256()
    for name, tensor in itertools.chain(model.named_parameters(), model.named_buffers()):
        total.update(f"{name} {tensor.requires_grad} {tensor.grad is None}".encode())
        total.update(tensor.detach().numpy().tobytes())
    return total.hexdigest()


def plain_loop(base: PreTrainedModel, settings: TttSettings) -> tuple[list[float], list[Tensor]]:
    """Train with peft's layers, full logits, masked batches, torch's AdamW."""
    layout = AdaptedModel(base).layout
    first = fresh_adapter(layout, settings, device=CPU)
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=cast("int", settings.alpha),
        target_modules=[target.name for target in layout.targets[first.first :]],
        task_type="CAUSAL_LM",
        fan_in_fan_out=isinstance(base, GPT2LMHeadModel),
    )
    wrapped = cast("Any", get_peft_model(base, config)).eval()
    weights: list[Tensor] = [p for p in wrapped.parameters() if p.requires_grad]
    with torch.no_grad():
        for weight, value in zip(weights, itertools.chain(*first.pairs), strict=True):
            weight.copy_(value)
    # two steps: the farthest and the second nearest, then the other two
    dealt = {4: [encoded()], 2: [encoded()[3::-2], encoded()[2::-2]]}[settings.samples_per_step]
    optimizer = torch.optim.AdamW(
        weights, lr=settings.learning_rate, weight_decay=0.0, foreach=False
    )
    losses: list[float] = []
    for examples in dealt * settings.epochs:
        ids, mask, labels = _padded(examples)
        out = wrapped(input_ids=ids, attention_mask=mask).logits
        loss = cross_entropy(out[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        losses.append(loss.item())
    return losses, [weight.detach() for weight in weights]


def _padded(examples: Sequence[EncodedExample]) -> tuple[Tensor, Tensor, Tensor]:
    longest = max(len(example.ids) for example in examples)
    ids = torch.zeros(len(examples), longest, dtype=torch.long)
    mask, labels = ids.clone(), torch.full_like(ids, -100)
    for row, example in enumerate(examples):
        end = len(example.ids)
        ids[row, :end] = torch.tensor(example.ids)
        mask[row, :end] = 1
        answer = slice(end - example.answer_tokens, end)
        labels[row, answer] = ids[row, answer]
    return ids, mask, labels


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize(
    "limits", [pytest.param(ROOMY, id="one-pass"), pytest.param(TIGHT, id="several-passes")]
)
@pytest.mark.parametrize("share_prefix", [True, False], ids=["shared", "repeated"])
@pytest.mark.parametrize("as_trees", [True, False], ids=["trees", "rows"])
@pytest.mark.parametrize("samples_per_step", [4, 2])
@pytest.mark.parametrize("layers", [1.0, 0.5])
@pytest.mark.parametrize("family", ["llama", "gpt2", "mistral"])
def test_losses_and_weights_are_those_of_a_plain_loop(
    limits: StepLimits,
    share_prefix: bool,
    as_trees: bool,
    samples_per_step: int,
    layers: float,
    family: str,
    tiny_model_path: Path,
) -> None:
    settings = replace(SETTINGS, samples_per_step=samples_per_step, layers=layers)

    def base() -> PreTrainedModel:
        if family != "llama":
            return tiny_gpt2() if family == "gpt2" else tiny_mistral()
        return cast("PreTrainedModel", AutoModelForCausalLM.from_pretrained(tiny_model_path))

    losses, weights = plain_loop(base(), settings)
    model = AdaptedModel(base())
    assert model.tree_tokens > 0
    trained = finish(
        start(
            model,
            settings,
            limits=limits,
            share_prefix=share_prefix,
            tree_tokens=model.tree_tokens if as_trees else 0,
        )
    )
    assert losses[-1] < losses[0] - 0.1  # the reference itself learns
    torch.testing.assert_close(
        torch.tensor(trained.losses), torch.tensor(losses), rtol=1e-4, atol=0
    )
    # Adam divides by the gradient's own size, so that rounding shows where that is near 0:
    # a weight may be off by a small part of the four steps of 0.01 that it moves.
    for ours, theirs in zip(itertools.chain(*trained.adapter.pairs), weights, strict=True):
        assert (ours - theirs).abs().mean() < 1e-4


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_layers_computed_twice_give_the_same_for_less_memory(
    family: str, tiny_model_path: Path
) -> None:
    base = load_model(tiny_model_path, device="cpu", dtype="float32").model
    model = AdaptedModel(base if family == "llama" else tiny_gpt2())
    adapters: list[Trained] = []
    kept: list[int] = []
    for recompute in (False, True):
        beyond = 20 if recompute else math.inf  # of 12, 30, 9 and 21 tokens
        limits = replace(TIGHT, max_bytes=20, recompute_bytes=beyond)
        batches = pack(encoded(), limits, device=CPU, share_prefix=True, tree_tokens=99)
        assert [batch.recompute for batch in batches] == [recompute, recompute, False]
        kept.append(0)

        def keep(tensor: Tensor) -> Tensor:
            kept[-1] += tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            adapters.append(finish(start(model, limits=limits)))
    assert adapters[0].losses == adapters[1].losses
    assert bytes_of_one(adapters[0], model) == bytes_of_one(adapters[1], model)
    assert kept[1] < 0.6 * kept[0]


def test_half_precision_weights_train_an_adapter_in_full_precision(
    tiny_model_path: Path,
) -> None:
    found: list[Trained] = []
    for dtype in ("float32", "bfloat16"):
        loaded = load_model(tiny_model_path, device="cpu", dtype=dtype)
        model = AdaptedModel(loaded.model)
        assert model.tree_tokens > 0
        before = digest_of_halves(loaded.model)
        found.append(finish(start(model, tree_tokens=99)))
        assert digest_of_halves(loaded.model) == before
        assert all(half.dtype is torch.float32 for pair in found[-1].adapter.pairs for half in pair)
    whole, half = (torch.tensor(one.losses) for one in found)
    assert half[-1] < half[0] - 0.2
    # bfloat16 keeps 8 bits: a loss of about 10 is off by some hundredths
    torch.testing.assert_close(half, whole, rtol=0.02, atol=0)


def digest_of_halves(model: PreTrainedModel) -> float:
    return sum(float(weight.detach().double().abs().sum()) for weight in model.parameters())


def bytes_of_one(trained: Trained, model: AdaptedModel) -> bytes:
    return to_bytes(trained.adapter, model.layout)


def test_only_the_adapter_gets_gradients(loaded: LoadedModel) -> None:
    for weight in loaded.model.parameters():
        weight.requires_grad_(True)  # as a caller may have left them
    model = AdaptedModel(loaded.model)
    adapter = fresh_adapter(model.layout, SETTINGS, device=CPU)
    steps = training_steps(
        model,
        adapter,
        [pack(encoded(), TIGHT, device=CPU, share_prefix=True)],
        SETTINGS,
        observed(),
    )
    next(steps)  # one of two passes: gradients are there, the update is not
    assert all(half.grad is not None for pair in adapter.pairs for half in pair)
    assert all(weight.grad is None for weight in loaded.model.parameters())
    assert all(weight.requires_grad for weight in loaded.model.parameters())
    steps.close()
    assert all(half.grad is None for pair in adapter.pairs for half in pair)
    assert not any(half.requires_grad for pair in adapter.pairs for half in pair)


def bytes_of(model: AdaptedModel, settings: TttSettings = SETTINGS) -> bytes:
    return to_bytes(train(model, settings).adapter, model.layout)


def test_the_same_seed_gives_the_same_bytes_whatever_the_global_state(model: AdaptedModel) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        first = bytes_of(model)
        torch.manual_seed(2)
        before = torch.get_rng_state()
        assert bytes_of(model) == first
        assert torch.equal(torch.get_rng_state(), before)
    assert bytes_of(model, replace(SETTINGS, seed=4)) != first


_IN_ANOTHER_PROCESS = """
import hashlib, sys
sys.path[:0] = sys.argv[1:3]
import torch
torch.set_num_threads(int(sys.argv[4]))
import test_lora_training as here
from transformers import AutoModelForCausalLM
base = AutoModelForCausalLM.from_pretrained(sys.argv[3]).eval()
print(hashlib.sha256(here.bytes_of(here.AdaptedModel(base))).hexdigest())
"""


def test_another_process_gives_the_same_bytes(model: AdaptedModel, tiny_model_path: Path) -> None:
    here = Path(__file__).parent
    threads = str(torch.get_num_threads())
    arguments = [str(here), str(here.parent / "support"), str(tiny_model_path), threads]
    done = subprocess.run(
        [sys.executable, "-c", _IN_ANOTHER_PROCESS, *arguments],
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.split()[-1] == hashlib.sha256(bytes_of(model)).hexdigest()


def _close_early(steps: Generator[None, None, Trained]) -> None:
    next(steps)
    next(steps)
    steps.close()


def _explode(steps: Generator[None, None, Trained]) -> None:
    with pytest.raises(AdaptationError):
        finish(steps)


@pytest.mark.parametrize(
    ("end", "rate"),
    [
        pytest.param(finish, 1e-2, id="success"),
        pytest.param(_explode, 1e30, id="error"),
        pytest.param(_close_early, 1e-2, id="cancel"),
    ],
)
def test_the_base_model_is_bit_identical_after(
    end: Callable[[Generator[None, None, Trained]], object], rate: float, loaded: LoadedModel
) -> None:
    before, output = digest(loaded.model), probe(loaded.model)
    end(start(AdaptedModel(loaded.model), replace(SETTINGS, learning_rate=rate)))
    assert digest(loaded.model) == before
    assert torch.equal(probe(loaded.model), output)
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("limits", [ROOMY, TIGHT], ids=["one-pass", "several-passes"])
def test_nobody_sees_a_training_between_its_steps(
    limits: StepLimits, loaded: LoadedModel, model: AdaptedModel
) -> None:
    other = train(model, replace(SETTINGS, seed=9)).adapter
    alone = finish(start(model, limits=limits))
    base = probe(loaded.model)
    mixed = probe(model.forward_rows([other, None]))
    seen = 0
    steps = start(model, limits=limits)
    try:
        while True:
            next(steps)
            seen += 1
            assert torch.equal(probe(loaded.model), base)
            assert torch.equal(probe(model.forward_rows([other, None])), mixed)
            assert not any(weight.requires_grad for weight in loaded.model.parameters())
            assert torch.is_grad_enabled()  # the thread's mode is not left changed either
    except StopIteration as end:
        interrupted = cast("Trained", end.value)
    assert seen >= SETTINGS.epochs
    assert to_bytes(interrupted.adapter, model.layout) == to_bytes(alone.adapter, model.layout)


def test_one_yield_for_each_pass(model: AdaptedModel) -> None:
    passes = len(pack(encoded(), TIGHT, device=CPU, share_prefix=True))
    assert sum(1 for _ in start(model, limits=TIGHT)) == passes * SETTINGS.epochs


@pytest.mark.parametrize(
    ("samples_per_step", "min_steps", "epochs"),
    [
        pytest.param(4, 1, 1, id="one-step"),
        pytest.param(2, 1, 1, id="an-epoch-is-always-whole"),
        pytest.param(2, 3, 2, id="not-before-the-least-steps"),
    ],
)
def test_no_epoch_follows_one_that_ended_below_the_limit(
    samples_per_step: int, min_steps: int, epochs: int, model: AdaptedModel
) -> None:
    settings = replace(SETTINGS, samples_per_step=samples_per_step, min_steps=min_steps)
    short = train(model, replace(settings, stop_loss=1e9))
    whole = train(model, replace(settings, epochs=epochs))
    assert short.losses == whole.losses
    assert short.trained_tokens == epochs * sum(len(example.ids) for example in encoded())
    assert to_bytes(short.adapter, model.layout) == to_bytes(whole.adapter, model.layout)


def test_epochs_go_on_until_one_ends_below_the_limit(model: AdaptedModel) -> None:
    settings = replace(SETTINGS, samples_per_step=2)
    full = train(model, settings)
    ends = full.losses[1::2]
    assert ends[1] < ends[0]
    short = train(model, replace(settings, stop_loss=(ends[0] + ends[1]) / 2))
    assert short.losses == full.losses[:4]


def test_progress_is_told_with_every_loss(model: AdaptedModel) -> None:
    told: list[TrainStep] = []
    trained = finish(start(model, watch=observed(told.append)))
    assert told == [
        TrainStep(step=step, steps=4, loss=loss) for step, loss in enumerate(trained.losses, 1)
    ]


@pytest.mark.parametrize(
    ("epochs", "rate", "words"),
    [
        pytest.param(4, 1e30, "loss of step 2 is nan", id="a-later-loss"),
        pytest.param(1, float("inf"), "weights are not finite", id="the-last-update"),
    ],
)
def test_numbers_that_are_not_finite_are_an_error(
    epochs: int, rate: float, words: str, model: AdaptedModel
) -> None:
    with pytest.raises(AdaptationError, match=words):
        train(model, replace(SETTINGS, epochs=epochs, learning_rate=rate))


def test_instead_of_0_the_size_of_the_weights_gives_the_learning_rate(
    tiny_model_path: Path,
) -> None:
    plain, larger = (
        load_model(tiny_model_path, device="cpu", dtype="auto").model for _ in range(2)
    )
    for layer in larger.modules():
        if isinstance(layer, torch.nn.Linear):
            layer.weight.data *= 3.0
    model, settings = AdaptedModel(plain), TttSettings()
    rate = learning_rate_for(model, settings)
    # The tiny model's weights are normal with a deviation of 0.4, most targets have 32 inputs.
    assert rate == pytest.approx(4.25e-4 * 0.4 * 32**0.5, rel=0.1)
    assert learning_rate_for(AdaptedModel(larger), settings) == pytest.approx(3 * rate, rel=0.05)
    assert learning_rate_for(AdaptedModel(larger), SETTINGS) == SETTINGS.learning_rate
    found = train(model, replace(SETTINGS, learning_rate=0.0))
    assert found.losses == train(model, replace(SETTINGS, learning_rate=rate)).losses


def test_the_deadline_is_checked_before_each_pass(model: AdaptedModel) -> None:
    now = [1.0]
    watch = observed(lambda _: now.append(3.0), clock=lambda: now[-1], deadline=3.0)
    with pytest.raises(BudgetExceeded, match="before step 2 of 4"):
        finish(start(model, limits=TIGHT, watch=watch))


@pytest.mark.parametrize("deadline", [10, 17], ids=["forward", "backward"])
def test_a_pass_ends_at_the_next_layer_behind_the_deadline(
    deadline: int, model: AdaptedModel
) -> None:
    asked: list[float] = []

    def clock() -> float:
        asked.append(0.0)
        return float(len(asked))

    # Two times before the pass, at 14 targets on the way forward, at two layers on the way back.
    watch = observed(clock=clock, deadline=deadline)
    with pytest.raises(BudgetExceeded, match="within the training"):
        finish(start(model, watch=watch, share_prefix=False))
    assert len(asked) == deadline
    assert finish(start(model)).losses == finish(start(model)).losses  # nothing is left behind


def test_a_training_that_cannot_end_in_time_is_given_up_at_once(model: AdaptedModel) -> None:
    pace = Pace()
    pace.note(1.0, 10.0)
    watch = TrainingWatch(on_step=lambda _: None, clock=lambda: 0.0, deadline=100.0, pace=pace)
    steps = training_steps(
        model,
        fresh_adapter(model.layout, SETTINGS, device=CPU),
        [pack(encoded(), ROOMY, device=CPU, share_prefix=False)],
        SETTINGS,
        watch,
        [[4.0]],
    )
    with pytest.raises(BudgetExceeded, match=r"would take 160.0 s more at least, from step 1 of 4"):
        finish(steps)
