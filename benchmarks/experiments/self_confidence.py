"""How well does a model's confidence in its answer tell right answers from wrong ones?

Answers questions twice, plainly and with similar samples in the prompt, and reports for each data
set how often a right answer scores above a wrong one (AUC), where the scores of both lie, and what
a cascade that stops at τr would have answered and cost, for a range of τr.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import random
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as hf_logging

from rttc_graph.integrations.langchain.huggingface_embedder import local_embedder
from rttc_graph.reward_training.reward_metrics import auc
from rttc_graph.run.prompts import direct_messages, rag_messages
from rttc_graph.state import ChatTurn, Sample

SCORES = ("self", "self_without_end", "self_total", "base_given_query")
"""exp of: mean log-probability of the answer's tokens; the same without the end token; their sum;
mean log-probability of the answer under the plain prompt, whichever prompt it came from."""

TAUS = (0.3, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.98)


@dataclass(frozen=True, slots=True)
class Task:
    """How a data set's answers are cut off and compared."""

    max_new_tokens: int
    is_right: Callable[[str, str], bool]


@dataclass(frozen=True, slots=True)
class Record:
    """One answer and its scores."""

    question: str
    arm: str
    answer: str
    right: bool
    tokens: int
    scores: dict[str, float]


def same_text(answer: str, expected: str) -> bool:
    """Compare as people would: without case, surrounding space and a final full stop."""
    return answer.lower().strip().rstrip(".").strip() == expected.lower().strip()


def same_number(answer: str, expected: str) -> bool:
    """Compare the last number of both."""
    numbers = [re.findall(r"-?\d+(?:\.\d+)?", text.replace(",", "")) for text in (answer, expected)]
    return bool(numbers[0]) and float(numbers[0][-1]) == float(numbers[1][-1])


TASKS = {
    "banking77": Task(32, same_text),
    "clinc150": Task(32, same_text),
    "pubmedqa": Task(32, same_text),
    "gsm8k": Task(160, same_number),
}


class Scorer:
    """A causal language model that answers greedily and says how likely its answers are."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = cast(PreTrainedTokenizerBase, AutoTokenizer.from_pretrained(folder))
        self.tokenizer.padding_side = "left"
        self.model = cast(
            PreTrainedModel, AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        )
        self.end_ids = {cast(int, self.tokenizer.eos_token_id)}

    def prompt_ids(self, turns: Sequence[ChatTurn]) -> list[int]:
        """Return a prompt as ids, up to where the answer begins."""
        conversation = [cast(dict[str, str], turn) for turn in turns]
        text = cast(
            str,
            self.tokenizer.apply_chat_template(
                conversation, tokenize=False, add_generation_prompt=True
            ),
        )
        return cast(list[int], self.tokenizer(text, add_special_tokens=False)["input_ids"])

    @torch.inference_mode()
    def answers(self, prompts: Sequence[list[int]], max_new_tokens: int) -> list[list[int]]:
        """Return the ids of one greedy answer for each prompt, end token included."""
        batch = self.tokenizer.pad({"input_ids": list(prompts)}, return_tensors="pt")
        output = cast(Any, self.model).generate(
            **batch,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            pad_token_id=self.tokenizer.pad_token_id,
        )
        rows = cast(list[list[int]], output[:, batch["input_ids"].shape[1] :].tolist())
        return [self._up_to_end(row) for row in rows]

    def _up_to_end(self, row: list[int]) -> list[int]:
        for position, token in enumerate(row):
            if token in self.end_ids:
                return row[: position + 1]
        return row

    @torch.inference_mode()
    def logprobs(self, prompt: list[int], answer: list[int]) -> list[float]:
        """Return the log-probability of each token of an answer behind a prompt, in nats."""
        ids = torch.tensor([prompt + answer])  # [1, T]
        logits = self.model(input_ids=ids, logits_to_keep=len(answer) + 1).logits[0, :-1]
        chosen = torch.tensor(answer)[:, None]  # [A, 1]
        picked = logits.float().log_softmax(-1).gather(1, chosen)[:, 0]  # [A, V] → [A]
        return cast(list[float], picked.tolist())

    def text(self, answer: list[int]) -> str:
        """Return an answer as text."""
        return cast(str, self.tokenizer.decode(answer, skip_special_tokens=True))


def mean(values: Sequence[float]) -> float:
    """Return the mean, or minus infinity of nothing."""
    return math.fsum(values) / len(values) if values else -math.inf


def record(
    scorer: Scorer,
    task: Task,
    sample: Sample,
    arm: str,
    ids: tuple[list[int], list[int], list[int]],
) -> Record:
    """Score one answer.

    Args:
        scorer: The model.
        task: The data set's rules.
        sample: The question and its answer.
        arm: `direct` or `rag`.
        ids: Plain prompt, the prompt that was used, and the answer.
    """
    plain, used, answer = ids
    own = scorer.logprobs(used, answer)
    base = own if arm == "direct" else scorer.logprobs(plain, answer)
    ended = answer[-1:] and answer[-1] in scorer.end_ids
    text = scorer.text(answer)
    scores = {
        "self": mean(own),
        "self_without_end": mean(own[:-1] if ended else own),
        "self_total": math.fsum(own),
        "base_given_query": mean(base),
    }
    return Record(
        question=sample["id"],
        arm=arm,
        answer=text,
        right=task.is_right(text, sample["answer"]),
        tokens=len(answer),
        scores={name: math.exp(min(value, 0.0)) for name, value in scores.items()},
    )


def load(path: Path, *, questions: int, base: int, seed: int) -> tuple[list[Sample], list[Sample]]:
    """Return questions to ask and samples to draw on, drawn at random and apart."""
    # Not `splitlines`: it also splits at separators that stand inside of a text.
    lines = [line for line in path.read_text("utf-8").split("\n") if line]
    rows = [cast(dict[str, str], json.loads(line)) for line in lines]
    random.Random(seed).shuffle(rows)
    samples: list[Sample] = [
        {
            "id": row["id"],
            "question": row["question"],
            "answer": row["answer"],
            "domain": row["domain"],
            "similarity": 0.0,
        }
        for row in rows[: questions + base]
    ]
    return samples[:questions], samples[questions:]


def nearest(
    embedding_folder: Path, asked: list[Sample], base: list[Sample], k: int
) -> list[list[Sample]]:
    """Return the `k` samples nearest to each question, nearest first."""
    embedder = local_embedder(embedding_folder)
    texts = [sample["question"] for sample in (*asked, *base)]
    vectors = torch.tensor(asyncio.run(embedder.embed(texts)))  # [Q + B, D]
    similarity = vectors[: len(asked)] @ vectors[len(asked) :].T  # [Q, B]
    picks = cast(list[list[int]], similarity.topk(min(k, len(base))).indices.tolist())
    return [[base[index] for index in row] for row in picks]


def measure(
    scorer: Scorer,
    task: Task,
    asked: list[Sample],
    shown: list[list[Sample]],
    options: argparse.Namespace,
) -> list[Record]:
    """Answer and score the questions in batches, both arms of each, until the time is up."""
    end = time.monotonic() + 60 * options.minutes
    records: list[Record] = []
    for first in range(0, len(asked), options.batch_size):
        if time.monotonic() > end:
            break
        batch = asked[first : first + options.batch_size]
        plain = [scorer.prompt_ids(direct_messages(s["question"])) for s in batch]
        solved = [
            scorer.prompt_ids(rag_messages(s["question"], near))
            for s, near in zip(batch, shown[first:], strict=False)
        ]
        for arm, prompts in (("direct", plain), ("rag", solved)):
            answers = scorer.answers(prompts, task.max_new_tokens)
            rows = zip(batch, plain, prompts, answers, strict=True)
            records += [record(scorer, task, s, arm, (p, used, a)) for s, p, used, a in rows]
    return records


def quantiles(values: Sequence[float]) -> list[float] | None:
    """Return the 10th, 25th, 50th, 75th and 90th percentile."""
    if not values:
        return None
    wanted = torch.tensor([0.1, 0.25, 0.5, 0.75, 0.9])
    return cast(list[float], torch.tensor(values).quantile(wanted).tolist())


def split(records: Sequence[Record], score: str) -> tuple[list[float], list[float]]:
    """Return the scores of right and of wrong answers."""
    right = [r.scores[score] for r in records if r.right]
    return right, [r.scores[score] for r in records if not r.right]


def ranked(records: Sequence[Record], score: str) -> float | None:
    """Return how often a right answer scores above a wrong one; ties count half."""
    return auc([r.scores[score] for r in records], [r.right for r in records])


def cascade(records: Sequence[Record], tau: float, score: str = "self") -> dict[str, float]:
    """Return accuracy and share of second answers of a cascade.

    The plain answer counts where it scores at least τr, else the better scored one of both arms.
    """
    pairs: dict[str, dict[str, Record]] = {}
    for one in records:
        pairs.setdefault(one.question, {})[one.arm] = one
    right = second = 0
    for pair in pairs.values():
        best = pair["direct"]
        if best.scores[score] < tau:
            second += 1
            best = max(pair["direct"], pair["rag"], key=lambda one: one.scores[score])
        right += best.right
    return {"tau": tau, "accuracy": right / len(pairs), "second_answers": second / len(pairs)}


def summary(records: Sequence[Record]) -> dict[str, Any]:
    """Return the numbers of one data set."""
    by_arm = {arm: [r for r in records if r.arm == arm] for arm in ("direct", "rag")}
    return {
        "answers": len(records),
        "accuracy": {arm: mean([float(r.right) for r in rows]) for arm, rows in by_arm.items()},
        "auc": {score: ranked(records, score) for score in SCORES},
        "auc_within_arm": {arm: ranked(rows, "self") for arm, rows in by_arm.items()},
        "quantiles_right": quantiles(split(records, "self")[0]),
        "quantiles_wrong": quantiles(split(records, "self")[1]),
        "quantiles_base_right": quantiles(split(records, "base_given_query")[0]),
        "quantiles_base_wrong": quantiles(split(records, "base_given_query")[1]),
        "cascade": [cascade(records, tau) for tau in TAUS],
    }


def parsed() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with NAME.train.jsonl")
    parser.add_argument("--model", type=Path, required=True, help="folder of the language model")
    parser.add_argument("--embedder", type=Path, required=True, help="sentence-transformers folder")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--sets", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--questions", type=int, default=60, help="of each data set")
    parser.add_argument("--base", type=int, default=3000, help="samples to draw on, each data set")
    parser.add_argument("--k", type=int, default=8, help="samples in the prompt")
    parser.add_argument("--batch-size", type=int, default=6)
    parser.add_argument("--minutes", type=float, default=10, help="longest time for a data set")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    """Measure the data sets one by one and write the report after each."""
    options = parsed()
    torch.set_num_threads(options.threads)
    hf_logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # its annotation is missing
    scorer = Scorer(options.model)
    records: dict[str, list[Record]] = {}
    for name in options.sets:
        path = options.data / f"{name}.train.jsonl"
        asked, base = load(path, questions=options.questions, base=options.base, seed=options.seed)
        shown = nearest(options.embedder, asked, base, options.k)
        records[name] = measure(scorer, TASKS[name], asked, shown, options)
        pooled = [one for rows in records.values() for one in rows]
        report = {
            "settings": {k: str(v) for k, v in vars(options).items()},
            "sets": {key: summary(rows) for key, rows in records.items()},
            "pooled_auc": {score: ranked(pooled, score) for score in SCORES},
            "records": {key: [asdict(one) for one in rows] for key, rows in records.items()},
        }
        options.out.write_text(json.dumps(report, indent=1), encoding="utf-8")
        print(name, json.dumps(summary(records[name])), flush=True)


if __name__ == "__main__":
    main()
