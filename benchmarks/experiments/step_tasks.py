"""Questions that are answered in lines of equations, and policy models that write such lines.

Small chat models ramble where an answer takes steps, so that searches over steps have nothing to
choose between. `train` teaches one the form on solved questions of both tasks, by LoRA terms that
are merged into the weights, and writes a model folder that everything else reads like any other.

    python -m benchmarks.experiments.step_tasks questions build/steps
    python -m benchmarks.experiments.step_tasks train build/steps \
        --base smollm2-135m-instruct --rows 500 --out build/steps/smollm2
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from benchmarks.experiments.panel_curves import reasoned_problems
from benchmarks.peers.libraries import peer
from benchmarks.tools.benchmark_options import tell
from rttc_graph.installation.config import load_config
from rttc_graph.integrations.transformers.weight_files.resolve import resolve
from rttc_graph.run.prompts import direct_messages

Solved = tuple[str, str]
"""A question, and its answer in lines that end in `#### number`."""


def sums(count: int, seed: int) -> Iterator[Solved]:
    """Yield sums of five terms, worked out from the left; totals on the way are 2 to 60."""
    dice = random.Random(seed)
    for _ in range(count):
        total = dice.randint(2, 60)
        asked, lines = str(total), list[str]()
        for _ in range(4):
            found = dice.choice([value for value in range(2, 61) if 2 <= abs(value - total) <= 30])
            sign = "+" if found > total else "-"
            lines.append(f"{total} {sign} {abs(found - total)} = {found}")
            asked, total = f"{asked} {sign} {abs(found - total)}", found
        yield f"What is {asked}?", "\n".join([*lines, f"#### {total}"])


def problems(count: int, seed: int) -> Iterator[Solved]:
    """Yield word problems of three steps, one step a line."""
    for question, answer in reasoned_problems(count, seed):
        yield question, answer.replace(". ", "\n")


TASKS: Mapping[str, Callable[[int, int], Iterator[Solved]]] = {"sums": sums, "problems": problems}

COUNTS = {"policy": 2000, "probe": 600, "asked": 400}
"""Questions of each task by who sees them: no two share one."""

BATCH, RANK, LEARNING_RATE = 16, 16, 1e-3


def solved(task: str) -> dict[str, list[Solved]]:
    """Return the questions of a task, each once, by who sees them."""
    seen: dict[str, str] = {}
    for question, answer in TASKS[task](2 * sum(COUNTS.values()), 1):
        seen.setdefault(question, answer)
    rows = iter(seen.items())
    return {who: list(islice(rows, count)) for who, count in COUNTS.items()}


def write_questions(folder: Path) -> None:
    """Write `WHO-TASK.jsonl` for each task and each who; the task is the domain."""
    folder.mkdir(parents=True, exist_ok=True)
    for task in TASKS:
        for who, rows in solved(task).items():
            lines = [
                json.dumps({"question": question, "answer": answer, "domain": task})
                for question, answer in rows
            ]
            path = folder / f"{who}-{task}.jsonl"
            path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def train(base: Path, rows: list[Solved], out: Path, *, seed: int = 0) -> None:
    """Teach a model the form of answers, in one pass over the rows, and write it to a folder.

    Args:
        base: Folder of the model.
        rows: Shuffled before they are used.
        out: Folder that is made.
        seed: Of the order and of the LoRA terms.
    """
    transformers, peft = peer("transformers"), peer("peft")
    torch.manual_seed(seed)
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    terms = peft.LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear")
    model = peft.get_peft_model(model, terms)
    learned = [one for one in model.parameters() if one.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=LEARNING_RATE, weight_decay=0.0)
    rows = random.Random(seed).sample(rows, len(rows))
    batches = [rows[at : at + BATCH] for at in range(0, len(rows), BATCH)]
    began = time.monotonic()
    for done, batch in enumerate(batches):
        ids, labels = _padded(tokenizer, batch)
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(1.0, (done + 1) / 5) * (1 - done / len(batches))
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        tell(f"{done + 1}/{len(batches)}: loss {loss.item():.3f}, {time.monotonic() - began:.0f} s")
    model.merge_and_unload().save_pretrained(out)
    tokenizer.save_pretrained(out)


def _padded(tokenizer: Any, batch: list[Solved]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return token ids and labels of `[row, position]`; only answers have labels."""
    rows: list[tuple[list[int], int]] = []
    for question, answer in batch:
        turns = [dict(turn) for turn in direct_messages(question)]
        asked = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        prompt = tokenizer(asked, add_special_tokens=False)["input_ids"]
        said = tokenizer(answer, add_special_tokens=False)["input_ids"]
        rows.append(([*prompt, *said, _end_of_turn(tokenizer)], len(prompt)))
    longest = max(len(ids) for ids, _ in rows)
    padded = torch.zeros(len(rows), longest, dtype=torch.long)
    labels = torch.full_like(padded, -100)
    for at, (ids, prompt_length) in enumerate(rows):
        padded[at, : len(ids)] = torch.tensor(ids)
        labels[at, prompt_length : len(ids)] = torch.tensor(ids[prompt_length:])
    return padded, labels


def _end_of_turn(tokenizer: Any) -> int:
    return int(tokenizer.convert_tokens_to_ids("<|im_end|>"))


def main() -> None:
    """Write questions, or train a model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["questions", "train"])
    parser.add_argument("folder", type=Path, help="of the questions")
    parser.add_argument("--base", help="model to train: short name, hub name or folder")
    parser.add_argument("--rows", type=int, default=400, help="of each task (default: 400)")
    parser.add_argument("--out", type=Path, help="folder of the trained model")
    given = parser.parse_args()
    if given.what == "questions":
        write_questions(given.folder)
        return
    if given.base is None or given.out is None:
        parser.error("train needs --base and --out")
    rows = [row for task in TASKS for row in solved(task)["policy"][: given.rows]]
    train(resolve(given.base, cache_dir=load_config().home), rows, given.out)


if __name__ == "__main__":
    main()
