"""The same training by us, by trl's SFTTrainer and by transformers' Trainer with peft.

All get the same token ids, the same places to learn, the same rank, targets, learning rate and
number of steps, on one torch thread, and keep the base model in memory between two trainings. Where
ours multiplies in bfloat16, the others' base is loaded in it and autocast is on: of their settings
the fastest one (docs/experiments.md, "Products in bfloat16").
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset  # type: ignore[import-untyped]
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    PrinterCallback,
    Trainer,
    TrainingArguments,
)

from benchmarks.peers.libraries import named, peer, quiet_transformers
from rttc_graph.integrations.lora.adapted_model import AdaptedModel
from rttc_graph.integrations.lora.lora_trainer import LoraTrainer
from rttc_graph.integrations.lora.training_batches import EncodedExample, deal, encode_examples
from rttc_graph.integrations.lora.training_loop import learning_rate_for
from rttc_graph.integrations.transformers.local_engine import LocalEngine
from rttc_graph.protocols import TrainingExample
from rttc_graph.settings import TrainingDtype, TttSettings

IGNORED = -100
"""Label of a token that is not learnt."""


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """One training."""

    seconds: float
    """From samples to an adapter that can answer; of the CPU, as all compute on one thread.

    On a machine that others use too, wall time says more about them."""
    loop_seconds: float
    """Of these, the training loop alone."""
    adapter: dict[str, Tensor]
    """Under peft's names."""


class Ours:
    """Our trainer on its engine."""

    def __init__(self, model: Path, settings: TttSettings, training_dtype: TrainingDtype) -> None:
        self.engine = LocalEngine(model, device="cpu", threads=1)
        self._trainer = LoraTrainer(self.engine, training_dtype=training_dtype)
        self._settings = settings

    def encode(self, examples: Sequence[TrainingExample]) -> list[EncodedExample]:
        """Return the token ids that everybody trains on."""
        return asyncio.run(self.engine.in_lane(lambda loaded: encode_examples(loaded, examples)))

    def train(self, examples: Sequence[TrainingExample]) -> Run:
        """Train as `ttt_adapt` does; tokenising the examples counts too."""
        began = time.process_time()
        trained = asyncio.run(
            self._trainer.train("benchmark", examples, self._settings, on_step=lambda step: None)
        )
        seconds = time.process_time() - began
        steps = self._settings.steps(self._settings.steps_of_epoch(len(examples)))
        if trained.steps != steps:
            raise AssertionError(f"{trained.steps} steps instead of {steps}")
        return Run(seconds, seconds, load(trained.weights))

    def close(self) -> None:
        """Let go of the model."""
        self.engine.close()


class PeftTrainer(ABC):
    """A training with peft, on a base model of its own."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Of the library, with its version and how it is set up."""

    def __init__(
        self, model: Path, settings: TttSettings, dtype: torch.dtype, device: str = "cpu"
    ) -> None:
        quiet_transformers()
        self._dtype = dtype
        self._is_cpu = device == "cpu"
        base: Any = AutoModelForCausalLM.from_pretrained(model, dtype=dtype)
        self._base: Any = base.to(device)
        self._tokenizer: Any = AutoTokenizer.from_pretrained(model)
        rate = learning_rate_for(AdaptedModel(self._base), settings)
        self._settings = replace(settings, learning_rate=rate)
        self._folder = tempfile.TemporaryDirectory()

    def train(self, examples: Sequence[EncodedExample]) -> Run:
        """Train from token ids, which it is given ready made."""
        began = time.process_time()
        dealt = [example for step in deal(examples, self._settings) for example in step]
        trainer = self._trainer(_rows(dealt), self._settings)
        trainer.remove_callback(PrinterCallback)
        began_loop = time.process_time()
        trainer.train()
        ended = time.process_time()
        adapter = {name: t.detach().clone() for name, t in state_of(trainer.model).items()}
        self._base = trainer.model.unload()
        return Run(ended - began, ended - began_loop, adapter)

    def close(self) -> None:
        """Remove the folder that every trainer wants, and leaves empty."""
        self._folder.cleanup()

    @abstractmethod
    def _trainer(self, rows: Dataset, settings: TttSettings) -> Any: ...

    def _arguments(self, rows: Dataset, settings: TttSettings) -> dict[str, Any]:
        """Return what both trainers take; what is not here has no part in so short a training."""
        return {
            "output_dir": self._folder.name,
            "per_device_train_batch_size": settings.samples_per_step,
            "max_steps": settings.steps(settings.steps_of_epoch(len(rows))),
            "train_sampling_strategy": "sequential",  # the rows are in the order of our steps
            "learning_rate": settings.learning_rate,
            "lr_scheduler_type": "constant",  # ours has no schedule
            "weight_decay": 0.0,
            "max_grad_norm": 0.0,  # ours does not clip; it would cost a pass over all gradients
            "optim": "adamw_torch_fused",  # the fastest AdamW of torch, which ours uses too
            "activation_checkpointing": False,  # it saves memory and costs a forward pass
            "bf16": self._dtype == torch.bfloat16,  # as ours multiplies
            "use_cpu": self._is_cpu,
            "logging_strategy": "no",
            "save_strategy": "no",
            "eval_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "dataloader_pin_memory": False,  # nothing to pin for without a GPU
            "seed": settings.seed,
        }


class TrlPeer(PeftTrainer):
    """trl's SFTTrainer."""

    @property
    def name(self) -> str:
        """Of the library, with its version and how it is set up."""
        return named("trl", "SFTTrainer, the same steps as padded batches")

    def _trainer(self, rows: Dataset, settings: TttSettings) -> Any:
        trl = peer("trl")
        arguments = trl.SFTConfig(
            **self._arguments(rows, settings),
            dataset_kwargs={"skip_prepare_dataset": True},  # ids and labels are ready
            packing=False,  # without flash attention it would let samples see each other
        )
        return trl.SFTTrainer(
            model=self._base,
            args=arguments,
            train_dataset=rows,
            processing_class=self._tokenizer,
            peft_config=lora_config(settings),
        )


class TransformersPeer(PeftTrainer):
    """transformers' Trainer over a model that peft has wrapped."""

    @property
    def name(self) -> str:
        """Of the library, with its version and how it is set up."""
        return named("transformers", f"Trainer with {named('peft', 'the same steps')}")

    def _trainer(self, rows: Dataset, settings: TttSettings) -> Any:
        return Trainer(
            model=get_peft_model(self._base, lora_config(settings)),
            args=TrainingArguments(**self._arguments(rows, settings)),
            train_dataset=rows,
            data_collator=DataCollatorForSeq2Seq(self._tokenizer, label_pad_token_id=IGNORED),
        )


class Judge:
    """Says how likely a right answer is with an adapter, in the same way for everybody's."""

    def __init__(self, model: Path, settings: TttSettings) -> None:
        base: Any = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
        self._model: Any = get_peft_model(base, lora_config(settings)).train(False)

    def nats(self, adapter: dict[str, Tensor], example: EncodedExample) -> float:
        """Return the mean negative log-likelihood of the answer's tokens."""
        found: Any = set_peft_model_state_dict(self._model, adapter)
        if found.unexpected_keys:
            raise AssertionError(f"the adapter has other places: {found.unexpected_keys[:3]}")
        ids = torch.tensor([example.ids])
        with torch.inference_mode():
            logits = self._model(input_ids=ids).logits[0, -example.answer_tokens - 1 : -1]
        return float(torch.nn.functional.cross_entropy(logits, ids[0, -example.answer_tokens :]))


def lora_config(settings: TttSettings) -> LoraConfig:
    """Return the adapter that ours trains, in peft's words."""
    return LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]  # peft computes with any number
        lora_dropout=0.0,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )


def state_of(model: Any) -> dict[str, Tensor]:
    """Return a peft model's adapter under the names of its files."""
    found: dict[str, Tensor] = get_peft_model_state_dict(model)
    return found


def _rows(examples: Sequence[EncodedExample]) -> Dataset:
    return Dataset.from_list(
        [
            {
                "input_ids": list(example.ids),
                "attention_mask": [1] * len(example.ids),
                "labels": [IGNORED] * (len(example.ids) - example.answer_tokens)
                + list(example.ids[-example.answer_tokens :]),
            }
            for example in examples
        ]
    )
