"""Thresholds of the scorers for sentences, and what a passage's vector is best made of.

`python -m benchmarks.experiments.sentence_scorers`, on `benchmarks/data`. The answers are those of
`trail_facts.jsonl`: 48 right ones in other words, 48 wrong ones, half of them near misses. With
`--grader MODEL` it measures a chat judge on them instead.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from rttc_graph.evaluation.scorers import is_right, says_the_same, token_f1
from rttc_graph.evaluation.verdicts import Verdicts
from rttc_graph.installation.config import load_config
from rttc_graph.installation.configured_grader import open_grader
from rttc_graph.integrations.langchain.huggingface_embedder import local_embedder
from rttc_graph.integrations.rewards.reward_settings import GraderSettings
from rttc_graph.integrations.transformers.weight_files.resolve import resolve
from rttc_graph.protocols import Embedder, NewSample
from rttc_graph.samples import read_samples
from rttc_graph.samples.documents import read_document

DATA = Path(__file__).parents[1] / "data"


def answers(rows: Sequence[NewSample], kind: str) -> list[tuple[str, NewSample]]:
    """Return the answers of a kind, each with its row."""
    return [(text, row) for row in rows for text in row.metadata[kind]]


def share(pairs: Sequence[tuple[str, NewSample]], is_taken: Callable[..., bool]) -> float:
    """Return the share of the answers that are taken for right."""
    return sum(is_taken(*pair) for pair in pairs) / len(pairs)


def overlaps(text: str, row: NewSample, *, limit: float) -> bool:
    """Tell whether the token F1 of an answer reaches a limit."""
    return token_f1(text, row.answer) >= limit


def agrees(text: str, row: NewSample, *, limit: float) -> bool:
    """Tell whether it does, and numbers and yes or no agree."""
    return says_the_same(text, row.answer, limit)


async def similarities(
    embedder: Embedder, pairs: Sequence[tuple[str, NewSample]], *, with_question: bool
) -> list[float]:
    """Return the cosine of each answer with its reference."""
    leads = [f"{row.question} " if with_question else "" for _, row in pairs]
    said = await embedder.embed([lead + text for lead, (text, _) in zip(leads, pairs, strict=True)])
    wanted = await embedder.embed(
        [lead + row.answer for lead, (_, row) in zip(leads, pairs, strict=True)]
    )
    return [float(np.dot(one, other)) for one, other in zip(said, wanted, strict=True)]


async def passages(embedder: Embedder, rows: Sequence[NewSample]) -> None:
    """Print how often the right passage is found, for each way to embed one."""
    found = read_document(DATA / "trail_manual.md", source="trail_manual.md")
    ways: dict[str, Callable[[NewSample], str]] = {
        "text": lambda one: one.answer,
        "last heading and text": lambda one: f"{one.question.split(' > ')[-1]}\n{one.answer}",
        "place and text": lambda one: f"{one.question}\n{one.answer}",
        "place": lambda one: one.question,
    }
    queries = np.array(await embedder.embed([row.question for row in rows]))
    for name, text in ways.items():
        scores = queries @ np.array(await embedder.embed([text(one) for one in found])).T
        ranks = [
            [found[i].metadata["heading"].split(" > ")[-1] for i in np.argsort(-line)].index(
                row.metadata["heading"]
            )
            for line, row in zip(scores, rows, strict=True)
        ]
        at = [sum(rank < k for rank in ranks) for k in (1, 2, 4)]
        print(f"passage's vector of {name:22} right at 1, 2, 4: {at} of {len(rows)}")


async def graded(name: str) -> None:
    """Print what a chat judge takes for right, and how often it abstains."""
    rows = list(read_samples(DATA / "trail_facts.jsonl"))
    with open_grader(load_config(None), GraderSettings(model=name)) as grader:
        verdicts = Verdicts(grader)
        for kind in ("right", "wrong"):
            pairs = answers(rows, kind)
            async for _ in verdicts.ask(pairs):
                pass
            found = [verdicts.of(*pair) for pair in pairs]
            print(
                f"{name}, {kind} answers: taken {found.count(True)}, refused {found.count(False)}, "
                f"abstained {found.count(None)} of {len(found)}"
            )


async def main(embedder_name: str) -> None:
    """Print all figures."""
    rows = list(read_samples(DATA / "trail_facts.jsonl"))
    right, wrong = answers(rows, "right"), answers(rows, "wrong")
    for scorer in ("exact", "contains"):
        shares = [share(pairs, partial(is_right, scorer=scorer)) for pairs in (right, wrong)]
        print(f"{scorer}: right taken {shares[0]:.2f}, wrong taken {shares[1]:.2f}")
    for limit in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8):
        f1 = [share(pairs, partial(overlaps, limit=limit)) for pairs in (right, wrong)]
        same = [share(pairs, partial(agrees, limit=limit)) for pairs in (right, wrong)]
        print(
            f"F1 >= {limit}: right taken {f1[0]:.2f}, wrong {f1[1]:.2f}; with numbers and yes "
            f"or no compared {same[0]:.2f} and {same[1]:.2f}"
        )
    home = load_config(None).home
    embedder = local_embedder(partial(resolve, embedder_name, cache_dir=home), name=embedder_name)
    for with_question in (False, True):
        good = await similarities(embedder, right, with_question=with_question)
        bad = await similarities(embedder, wrong, with_question=with_question)
        for limit in (0.5, 0.6, 0.7, 0.8, 0.9):
            taken = [float(np.mean(np.array(s) >= limit)) for s in (good, bad)]
            print(
                f"cosine >= {limit}, question {'in' if with_question else 'out'}: right taken "
                f"{taken[0]:.2f}, wrong taken {taken[1]:.2f}"
            )
    await passages(embedder, rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("embedder", nargs="?", help="the configured one")
    parser.add_argument("--grader", help="chat model, as --scorer-model takes it")
    given = parser.parse_args()
    if given.grader:
        asyncio.run(graded(given.grader))
    else:
        asyncio.run(main(given.embedder or load_config(None).embedder))
