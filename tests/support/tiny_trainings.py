"""Four small examples, limits of a pass and small models, for tests of training."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import cast

import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
)

from rttc_graph.integrations.lora.adapted_model import AdaptedModel
from rttc_graph.integrations.lora.training_batches import EncodedExample, StepLimits, deal, pack
from rttc_graph.integrations.lora.training_loop import (
    Trained,
    fresh_adapter,
    training_steps,
)
from rttc_graph.integrations.lora.training_watch import TrainingWatch
from rttc_graph.protocols import TrainStep
from rttc_graph.settings import TttSettings

SETTINGS = TttSettings(
    rank=4,
    alpha=8.0,
    learning_rate=1e-2,
    epochs=4,
    samples_per_step=4,  # all examples
    min_steps=1,
    stop_loss=0.0,
    seed=3,
)

CPU = torch.device("cpu")

ROOMY = StepLimits(token_bytes=1.0, answer_bytes=1.0, max_bytes=2**40)

# 60 tokens of padded input to a pass: the four examples below need two passes.
TIGHT = StepLimits(token_bytes=1.0, answer_bytes=0.0, max_bytes=60)

WINDOW = 25
"""Of a model whose attention slides: one of the four examples is longer."""


def encoded() -> list[EncodedExample]:
    """Four examples of 9 to 30 tokens, the first six the same, answers of 2 to 5."""
    random = torch.Generator().manual_seed(1)

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(int(token) for token in torch.randint(3, 200, (count,), generator=random))

    first = tokens(6)
    return [
        EncodedExample(ids=(*first, *tokens(length - 6)), answer_tokens=answer)
        for length, answer in ((12, 3), (30, 5), (9, 2), (21, 4))
    ]


def tiny_gpt2() -> PreTrainedModel:
    """Has transposed weights, biases and dropout, all of which Llama lacks."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        config = GPT2Config(
            vocab_size=300, n_embd=32, n_layer=2, n_head=2, bos_token_id=1, eos_token_id=2
        )
        return cast("PreTrainedModel", GPT2LMHeadModel(config).train(False))


def tiny_mistral() -> PreTrainedModel:
    """Sees no farther back than `WINDOW` tokens."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(6)
        config = MistralConfig(
            vocab_size=300,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            sliding_window=WINDOW,
        )
        return cast("PreTrainedModel", MistralForCausalLM(config).train(False))


def observed(
    on_step: Callable[[TrainStep], None] = lambda step: None,
    *,
    clock: Callable[[], float] = lambda: 0.0,
    deadline: float | None = None,
) -> TrainingWatch:
    return TrainingWatch(on_step=on_step, clock=clock, deadline=deadline)


def start(
    model: AdaptedModel,
    settings: TttSettings = SETTINGS,
    *,
    limits: StepLimits = ROOMY,
    share_prefix: bool = True,
    tree_tokens: int = 0,
    watch: TrainingWatch | None = None,
) -> Generator[None, None, Trained]:
    adapter = fresh_adapter(model.layout, settings, device=CPU)
    epoch = [
        pack(part, limits, device=CPU, share_prefix=share_prefix, tree_tokens=tree_tokens)
        for part in deal(encoded(), settings)
    ]
    return training_steps(model, adapter, epoch, settings, watch or observed())


def finish(steps: Generator[None, None, Trained]) -> Trained:
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return cast("Trained", end.value)


def train(model: AdaptedModel, settings: TttSettings = SETTINGS) -> Trained:
    return finish(start(model, settings))
