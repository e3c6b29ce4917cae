"""Which training settings serve test-time training best: accuracy and likelihood by setting.

Each question is answered after training on its nearest samples, the question itself left out; all
settings see the same questions and samples. Rows go to a JSONL file, and a second run goes on
where the first one stopped.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import re
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

from rttc_graph.integrations.lora.adapted_model import AdaptedModel
from rttc_graph.integrations.lora.adapter_layout import Adapter
from rttc_graph.integrations.lora.training_batches import StepLimits, encode_examples, pack
from rttc_graph.integrations.lora.training_loop import (
    epoch_steps,
    fresh_adapter,
    training_steps,
)
from rttc_graph.integrations.lora.training_watch import TrainingWatch
from rttc_graph.integrations.transformers.loading import LoadedModel, load_model
from rttc_graph.integrations.transformers.tokens import encode_prompt
from rttc_graph.run.prompts import direct_messages, training_examples
from rttc_graph.settings import TttSettings
from rttc_graph.state import Sample

ANSWER_TOKENS = {"gsm8k": 200}
"""Longest answer by data set; 16 tokens hold every intent and yes, no or maybe."""


@dataclass(frozen=True)
class Setting:
    """A point of the grid; the steps are counted inside one training."""

    learning_rate: float
    rank: int
    samples_per_step: int
    layers: float
    steps: tuple[int, ...]

    @property
    def label(self) -> str:
        """Name in the output."""
        layers = "" if self.layers == 1 else f" upper {self.layers:g}"
        return f"lr={self.learning_rate:g} rank={self.rank} of {self.samples_per_step}{layers}"

    def ttt(self) -> TttSettings:
        """Return the settings of the longest training, without early stop."""
        return TttSettings(
            rank=self.rank,
            alpha=2.0 * self.rank,
            layers=self.layers,
            learning_rate=self.learning_rate,
            epochs=1,
            samples_per_step=self.samples_per_step,
            min_steps=max(self.steps),
            stop_loss=0.0,
        )


@dataclass(frozen=True)
class Question:
    """A question with its right answer and its nearest samples."""

    data_set: str
    sample: Sample
    nearest: list[Sample]


def main() -> None:
    """Run the grid and print a table."""
    options = _options()
    torch.set_num_threads(options.threads)
    loaded = load_model(options.model, device="cpu", dtype="auto")
    model = AdaptedModel(loaded.model)
    end = time.monotonic() + 60 * options.minutes
    done = {(row["question"], row["setting"]) for row in _rows(options.out)}
    with options.out.open("a", encoding="utf-8") as out:
        for question, setting in _work(options):
            if (question.sample["id"], setting.label) in done:
                continue
            if time.monotonic() > end:
                break
            for row in measure(loaded, model, question, setting):
                out.write(json.dumps(row) + "\n")
            out.flush()
    print(table(_rows(options.out)))


def measure(
    loaded: LoadedModel, model: AdaptedModel, question: Question, setting: Setting
) -> Iterator[dict[str, Any]]:
    """Train once and yield one row for the base and for each number of steps."""
    settings = setting.ttt()
    adapter = fresh_adapter(model.layout, settings, device=model.device)
    limits = StepLimits.from_layout(
        model.layout, vocabulary=int(loaded.model.config.vocab_size), max_bytes=2**30
    )
    examples = encode_examples(loaded, training_examples(question.nearest))
    epoch = epoch_steps(model, examples, limits, settings)
    losses: list[float] = []
    watch = TrainingWatch(
        on_step=lambda step: losses.append(step.loss), clock=time.monotonic, deadline=None
    )
    yield _row(loaded, model, adapter, question, setting, 0, losses, seconds=0.0)
    left = set(setting.steps)
    spent, began = 0.0, time.process_time()
    for _ in training_steps(model, adapter, epoch, settings, watch):
        if len(losses) in left:  # the first yield after a step's loss follows its update
            left.remove(len(losses))
            spent += time.process_time() - began
            yield _row(loaded, model, adapter, question, setting, len(losses), losses, spent)
            began = time.process_time()


def _row(
    loaded: LoadedModel,
    model: AdaptedModel,
    adapter: Adapter,
    question: Question,
    setting: Setting,
    steps: int,
    losses: Sequence[float],
    seconds: float,
) -> dict[str, Any]:
    answer = greedy(loaded, model, adapter, question)
    return {
        "data_set": question.data_set,
        "question": question.sample["id"],
        "setting": setting.label,
        "steps": steps,
        "nats": right_answer_nats(loaded, model, adapter, question),
        "correct": is_right(question.data_set, answer, question.sample["answer"]),
        "label_near": any(s["answer"] == question.sample["answer"] for s in question.nearest),
        "answer": answer,
        "losses": list(losses),
        "cpu_seconds": round(seconds, 2),
    }


def greedy(loaded: LoadedModel, model: AdaptedModel, adapter: Adapter, question: Question) -> str:
    """Return the greedy answer with the adapter on."""
    forward = model.forward_rows([adapter])
    ids = encode_prompt(loaded, direct_messages(question.sample["question"]))
    chosen: list[int] = []
    cache: Any = None
    with torch.inference_mode():
        step = torch.tensor([ids])
        for _ in range(ANSWER_TOKENS.get(question.data_set, 16)):
            output = forward(
                input_ids=step, past_key_values=cache, use_cache=True, logits_to_keep=1
            )
            cache = output.past_key_values
            token = int(output.logits[0, -1].argmax())
            if token in loaded.eos_ids:
                break
            chosen.append(token)
            step = torch.tensor([[token]])
    return str(loaded.tokenizer.decode(chosen, skip_special_tokens=True))


def right_answer_nats(
    loaded: LoadedModel, model: AdaptedModel, adapter: Adapter, question: Question
) -> float:
    """Return the mean nats of the right answer's tokens, a finer measure than accuracy."""
    [example] = encode_examples(loaded, training_examples([question.sample]))
    limits = StepLimits(token_bytes=0.0, answer_bytes=0.0, max_bytes=1)
    [batch] = pack([example], limits, device=model.device, share_prefix=False)
    with torch.inference_mode():
        logits = model.logits_at(adapter, batch)
        return float(torch.nn.functional.cross_entropy(logits, batch.targets))


def is_right(data_set: str, answer: str, right: str) -> bool:
    """Compare as the data set asks: the last number, the first word, or the whole label."""
    if data_set == "gsm8k":
        return _last_number(answer) == _last_number(right)
    if data_set == "pubmedqa":
        return answer.strip().lower()[: len(right)] == right.lower()
    return answer.strip().rstrip(".").lower() == right.strip().lower()


def _last_number(text: str) -> str | None:
    found = re.findall(r"-?\d[\d,]*\.?\d*", text)
    return found[-1].replace(",", "").rstrip(".") if found else None


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return accuracy and nats by data set, setting and steps; n is the number of questions."""
    groups: dict[tuple[str, str, int], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[row["data_set"], row["setting"], row["steps"]].append(row)
    lines = [f"{'data set':<10} {'setting':<34} steps   n  accuracy  nats  ±se  cpu s"]
    for (data_set, setting, steps), group in sorted(groups.items()):
        nats = [row["nats"] for row in group]
        error = statistics.stdev(nats) / math.sqrt(len(nats)) if len(nats) > 1 else math.nan
        lines.append(
            f"{data_set:<10} {setting:<34} {steps:>5} {len(group):>3} "
            f"{statistics.mean(row['correct'] for row in group):>9.2f} "
            f"{statistics.mean(nats):>5.2f} {error:>4.2f} "
            f"{statistics.median(row['cpu_seconds'] for row in group):>6.1f}"
        )
    return "\n".join(lines)


def _work(options: argparse.Namespace) -> Iterator[tuple[Question, Setting]]:
    """Yield question by question, so that a run cut short has all settings for those it did."""
    points = product(options.rates, options.ranks, options.samples_per_step, options.layers)
    grid = [Setting(*point, steps=tuple(options.steps)) for point in points]
    sets = [list(_questions(options, name)) for name in options.sets]
    for group in zip(*sets, strict=True):
        yield from product(group, grid)


def _questions(options: argparse.Namespace, name: str) -> Iterator[Question]:
    with (options.data / f"{name}.train.jsonl").open(encoding="utf-8") as file:
        samples = [cast("Sample", {**json.loads(line), "similarity": 0.0}) for line in file]
    vectors = _vectors(options, name, [sample["question"] for sample in samples])
    for index in random.Random(options.seed).sample(range(len(samples)), options.questions):
        question = samples[index]["question"]
        nearest = np.argsort(-(vectors @ vectors[index]))[: 4 * options.k]
        others = [samples[i] for i in nearest if samples[i]["question"] != question]
        yield Question(name, samples[index], others[: options.k])


def _vectors(options: argparse.Namespace, name: str, texts: list[str]) -> np.ndarray[Any, Any]:
    cached = options.out.with_name(f"{name}.vectors.npy")
    if not cached.exists():
        embedder = SentenceTransformer(str(options.embedder), device="cpu")
        np.save(cached, embedder.encode(texts, normalize_embeddings=True, batch_size=64))
    vectors: np.ndarray[Any, Any] = np.load(cached)
    return vectors


def _rows(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="folder of the policy model")
    parser.add_argument("--embedder", type=Path, required=True, help="sentence-transformers folder")
    parser.add_argument("--data", type=Path, required=True, help="folder of NAME.train.jsonl files")
    parser.add_argument("--out", type=Path, required=True, help="JSONL file, appended to")
    parser.add_argument("--sets", nargs="+", default=["banking77", "clinc150", "pubmedqa"])
    parser.add_argument("--questions", type=int, default=24, help="for each data set")
    parser.add_argument("--k", type=int, default=8, help="samples to train on")
    parser.add_argument("--rates", type=float, nargs="+", default=[2e-3])
    parser.add_argument("--ranks", type=int, nargs="+", default=[8])
    parser.add_argument("--samples-per-step", type=int, nargs="+", default=[2, 8])
    parser.add_argument(
        "--layers", type=float, nargs="+", default=[1.0], help="share, from the top"
    )
    parser.add_argument("--steps", type=int, nargs="+", default=[4, 8])
    parser.add_argument("--minutes", type=float, default=35.0, help="wall time, then stop")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0, help="of the choice of questions")
    return parser.parse_args()


if __name__ == "__main__":
    main()
