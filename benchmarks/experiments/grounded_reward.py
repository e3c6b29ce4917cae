"""Give a reward-model folder its evidence head, and measure it on sets that it did not see.

    python -m benchmarks.experiments.grounded_reward build/split build/grounded \
        --folder integrations/rewards/shipped

`build/split` is what `shipped_reward` reads. Each set leaves a file of answers with their features
in `build/grounded` and is skipped where the file is there, so a killed run goes on. `--ask 40` lets
the policy model answer as many questions of each set too, by itself and with samples, which takes
some seconds each; without it the only real answers are those of the nearest sample.

The head that is written is learned from all sets but `library` and `routing`, which are for
measuring only. The figures of every other domain and kind are those of another head, which learned
from all sets but that domain's or that kind's.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.experiments.evidence_sets import OTHERWISE, EvidenceSet, all_sets
from rttc_graph.arms import ARMS
from rttc_graph.evaluation.scorers import is_right, normalised
from rttc_graph.installation.config import load_config
from rttc_graph.integrations.langchain.huggingface_embedder import local_embedder
from rttc_graph.integrations.rewards.grounded.evidence import FEATURES
from rttc_graph.integrations.rewards.grounded.evidence_head import EvidenceHead
from rttc_graph.integrations.rewards.trained.evidence_reader import EvidenceReader
from rttc_graph.integrations.rewards.trained.network import RewardNetwork
from rttc_graph.integrations.rewards.trained.reward_folder import (
    RewardBase,
    Speech,
    add_speech,
    encoder_base,
    load_network,
)
from rttc_graph.integrations.rewards.trained.reward_spec import RewardSpec, read_spec
from rttc_graph.integrations.rewards.trained.signals import probability
from rttc_graph.integrations.transformers.local_engine import LocalEngine
from rttc_graph.integrations.transformers.transformers_policy_model import TransformersPolicyModel
from rttc_graph.integrations.transformers.weight_files.resolve import resolve
from rttc_graph.protocols import Embedder, NewSample
from rttc_graph.reward_training.candidate_rows import CandidateLog, CandidateRow, graph_candidate
from rttc_graph.reward_training.candidate_sampling import (
    CandidateSampler,
    SamplingSettings,
    without_right,
)
from rttc_graph.reward_training.evidence_answers import made_answers
from rttc_graph.reward_training.evidence_training import (
    LEFT_OUT,
    RECALLED,
    Judged,
    ToJudge,
    head_figures,
    judge_with_samples,
    learn_head,
    learn_speech,
    left_out_answers,
    unwritten,
)
from rttc_graph.reward_training.neighbours import nearest_samples
from rttc_graph.reward_training.reward_metrics import auc
from rttc_graph.state import Candidate

NEVER_LEARNED = ("library", "routing")

SAME_DOMAIN = (
    ("banking", "banking-faq"),
    ("assistant", "assistant-faq"),
    ("math", "math-bare"),
    ("library", "routing"),
)
"""Sets of the same questions: where one is measured, none of the others is learned from."""

QUESTIONS = {"math": 14, "medical": 8, "computed": 6}
"""Of sets with long texts and of each computed task; 50 of the others."""

MOST_QUESTIONS = 50
SAMPLES = {"math": 60, "medical": 60}

COMPUTED_TASKS = (
    *("word-order", "gcd", "syllogism", "calendar-arithmetic", "simple-equations"),
    *("word-sorting", "family-relationships", "time-intervals"),
)
"""Those of reasoning-gym that are looked at."""

K = 8

_WIDE = 80
"""Nearest samples among which those with the own answer are looked for, to take them out."""

_COMPUTED = 0.25
"""Weight of a computed task, of which there are many; every other set has 1."""


class Judge:
    """The folder's network, and the reader of evidence before the head."""

    def __init__(self, folder: Path, encoder: Path) -> None:
        self.spec: RewardSpec = read_spec(folder)
        base = encoder_base(encoder)
        self.network: RewardNetwork = load_network(folder, self.spec, base)
        self.network.merge()
        self._pairs = base.pairs(self.spec.max_tokens, self.spec.backbone)
        self.unchanged: RewardBase = encoder_base(encoder)
        self.reader = self.reader_with(
            Speech(torch.zeros(2, self.unchanged.model.config.hidden_size), torch.full((2,), -9.0))
        )

    def reader_with(self, speech: Speech) -> EvidenceReader:
        """Return a reader that hears what `speech` says."""
        return EvidenceReader(self.unchanged, speech, self.logits)

    @torch.inference_mode()
    def logits(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """Return the network's logits."""
        found: list[float] = []
        for first in range(0, len(pairs), 32):
            rows = [self._pairs.encode(*pair) for pair in pairs[first : first + 32]]
            found += map(float, self.network(rows).tolist())
        return found

    def before(self, question: str, candidates: Sequence[Candidate]) -> list[float]:
        """Return the scores without evidence."""
        logits = self.logits([(question, c["answer"]) for c in candidates])
        spec = self.spec
        return [
            probability(logit, c, spec.with_signals, spec.without_signals)
            for logit, c in zip(logits, candidates, strict=True)
        ]


def answers_of(
    row: NewSample,
    near: Sequence[NewSample],
    samples: Sequence[NewSample],
    drawn: Sequence[CandidateRow],
    chance: random.Random,
) -> list[ToJudge]:
    """Return made answers, the nearest sample's, and what arms answered."""
    found = [
        ToJudge(candidate=unwritten(made.text), source=made.source, right=made.right)
        for made in made_answers(row, near, samples, chance, row.metadata.get(OTHERWISE, ()))
    ]
    if near:
        text = near[0].answer
        one = unwritten(text)
        found.append(ToJudge(candidate=one, source="nearest", right=is_right(text, row)))
    for real in drawn:
        if real["source"] not in ARMS or not real["answer"].strip():
            continue
        right = real["right"] or _says_it_all(real["answer"], row.answer)
        told = graph_candidate(real)
        found.append(ToJudge(candidate=told, source=real["source"], right=right))
    return found


def _says_it_all(answer: str, reference: str) -> bool:
    """Tell whether a sentence of an arm has the whole reference and hardly more."""
    inside = len(reference.split()) > 4 and normalised(reference) in normalised(answer)
    return inside and len(answer) < 1.5 * len(reference) + 20


def left_out(row: NewSample, wide: Sequence[NewSample]) -> tuple[list[NewSample], list[ToJudge]]:
    """Return the nearest samples without those that answer rightly, and what they answer."""
    others = without_right(row, wide, K)
    return others, left_out_answers(others)


def judged_set(
    found: EvidenceSet,
    near: Sequence[Sequence[NewSample]],
    judge: Judge,
    drawn: dict[str, list[CandidateRow]],
) -> list[Judged]:
    """Return all answers to the questions of a set with their features."""
    judged: list[Judged] = []
    for row, wide in zip(found.asked, near, strict=True):
        samples = list(wide[:K])
        chance = random.Random(f"{found.name} {row.question}")
        answers = answers_of(row, samples, found.samples, drawn.get(row.question, []), chance)
        shown = [(samples, answers)]
        if found.kind in RECALLED:
            shown.append(left_out(row, wide))
        for evidence, given in shown:
            judged += judge_with_samples(
                replace(row, domain=found.name),
                found.kind,
                given,
                evidence,
                judge.reader,
                judge.before(row.question, [a.candidate for a in given]),
                chance,
            )
    return judged


def head_of(rows: Sequence[Judged]) -> EvidenceHead:
    """Return the head that these answers teach; computed tasks, of which there are many, less."""
    return learn_head(rows, lambda row: _COMPUTED if row.kind == "computed" else 1.0)


_NEAREST = list(FEATURES).index("nearest")


def apart(rows: Sequence[Judged], is_measured: Callable[[Judged], bool]) -> list[float]:
    """Return each measured answer's score by a head that learned from none of them."""
    names = {row.set for row in rows if is_measured(row)}
    kin = {other for group in SAME_DOMAIN for other in group if names & set(group)}
    learned = [
        row
        for row in rows
        if not is_measured(row) and row.set not in {*NEVER_LEARNED, *names, *kin}
    ]
    head = head_of(learned)
    return [head(row.features, row.before) for row in rows if is_measured(row)]


def all_figures(rows: Sequence[Judged]) -> dict[str, Any]:
    """Return figures of each set and each kind, by heads that saw neither."""
    found: dict[str, Any] = {"domains": {}, "kinds": {}}
    sets = dict.fromkeys(row.set if row.kind != "computed" else "computed" for row in rows)
    for name in sets:

        def of_set(row: Judged, name: str = name) -> bool:
            return row.set == name or (name == "computed" and row.kind == "computed")

        measured = [row for row in rows if of_set(row)]
        found["domains"][name] = head_figures(measured, apart(rows, of_set))
    for kind in dict.fromkeys(row.kind for row in rows):

        def of_kind(row: Judged, kind: str = kind) -> bool:
            return row.kind == kind

        measured = [row for row in rows if of_kind(row)]
        found["kinds"][kind] = head_figures(measured, apart(rows, of_kind))
    return found


def unanswerable(rows: Sequence[Judged]) -> dict[str, Any]:
    """Return how well the nearest sample's answer is told from one that has lost its sample.

    As AUC of the right answers of the nearest samples against those of the nearest that are left
    when all right ones are taken out: by the nearness of the nearest question, and by a head that
    did not see the set; with the shares of either that such a head would accept at 0.5.
    """
    found: dict[str, Any] = {}
    for name in dict.fromkeys(row.set for row in rows if row.source == LEFT_OUT):

        def of_set(row: Judged, name: str = name) -> bool:
            is_right_one = row.source == "nearest" and row.right
            return row.set == name and (is_right_one or row.source == LEFT_OUT)

        measured = [row for row in rows if of_set(row)]
        right = [row.right for row in measured]
        scores = apart(rows, of_set)
        accepted = [score >= _HALF for score in scores]
        found[name] = {
            "right": sum(right),
            "left_out": right.count(False),
            "auc_nearness": auc([row.features[_NEAREST] for row in measured], right),
            "auc_score": auc(scores, right),
            "right_accepted": sum(a for a, r in zip(accepted, right, strict=True) if r),
            "left_out_accepted": sum(a for a, r in zip(accepted, right, strict=True) if not r),
        }
    return found


_HALF = 0.5


def draw(
    found: EvidenceSet, embedder: Embedder, engine: LocalEngine | None, questions: int, file: Path
) -> dict[str, list[CandidateRow]]:
    """Return what the policy model answered to the first questions, by question."""
    rows: Iterable[CandidateRow] = CandidateLog(file).load().values()
    if engine is not None and questions:
        drawer = CandidateSampler(policy_model=TransformersPolicyModel(engine), embedder=embedder)
        settings = SamplingSettings(
            arms=("direct", "rag"), temperatures=(0.0,), k=K, max_new_tokens=40, negatives=0
        )
        asked = found.asked[:questions]
        rows = asyncio.run(drawer.draw(asked, found.samples, settings, CandidateLog(file)))
    drawn: dict[str, list[CandidateRow]] = {}
    for row in rows:
        drawn.setdefault(row["question"], []).append(row)
    return drawn


def thinned(found: EvidenceSet) -> EvidenceSet:
    """Return a set with as many questions and samples as are looked at."""
    most = QUESTIONS.get(found.name, QUESTIONS.get(found.kind, MOST_QUESTIONS))
    return replace(
        found, asked=found.asked[:most], samples=found.samples[: SAMPLES.get(found.name)]
    )


def give_head(folder: Path, rows: Sequence[Judged], speech: Speech, measured: Any) -> None:
    """Write the head that all sets but the measuring ones teach into a reward-model folder."""
    learned = [row for row in rows if row.set not in NEVER_LEARNED]
    spec = read_spec(folder)
    add_speech(speech, folder)
    counts: dict[str, int] = {}
    for row in learned:
        counts[row.set] = counts.get(row.set, 0) + 1
    training = spec.training | {"evidence": {"answers_by_set": counts, "held_out": measured}}
    replace(spec, evidence=head_of(learned), training=training).write(folder)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the stages."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n    ")[0])
    parser.add_argument("data", type=Path, help="folder with banking77/samples.jsonl and so on")
    parser.add_argument("work", type=Path, help="folder for answers with their features")
    parser.add_argument("--folder", type=Path, required=True, help="reward model; is changed")
    parser.add_argument("--ask", type=int, default=0, help="questions for the policy model")
    parser.add_argument("--threads", type=int, default=1, help="default: %(default)s")
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    config = load_config(threads=given.threads)
    find = partial(resolve, config.embedder, cache_dir=config.home)
    embedder = local_embedder(find, name=config.embedder)
    judge = Judge(given.folder, resolve(read_spec(given.folder).base, cache_dir=config.home))
    sets = [
        thinned(one)
        for one in all_sets(given.data, questions=150)
        if one.kind != "computed" or one.name in COMPUTED_TASKS
    ]
    given.work.mkdir(parents=True, exist_ok=True)
    near = {
        one.name: asyncio.run(nearest_samples(embedder, one.asked, one.samples, k=_WIDE))
        for one in sets
    }
    answers = [
        made.text
        for one in sets
        if one.name not in NEVER_LEARNED
        for row, found in zip(one.asked, near[one.name], strict=True)
        for made in made_answers(
            row, found[:K], one.samples, random.Random(f"{one.name} {row.question}")
        )
        if made.source not in ("refusal", "plea", "echo")
    ]
    speech = learn_speech(judge.reader.vectors, answers)
    judge.reader = judge.reader_with(speech)
    engine = LocalEngine(config.model, cache_dir=config.home, threads=1) if given.ask else None
    rows: list[Judged] = []
    for one in sets:
        file = given.work / f"judged-{one.name}.jsonl"
        if not file.exists():
            drawn = draw(one, embedder, engine, given.ask, given.work / f"arms-{one.name}.jsonl")
            judged = judged_set(one, near[one.name], judge, drawn)
            file.write_text("".join(json.dumps(asdict(row)) + "\n" for row in judged))
        rows += [Judged(**json.loads(line)) for line in file.read_text().splitlines()]
        print(one.name, len(rows), flush=True)
    measured = all_figures(rows) | {"unanswerable": unanswerable(rows)}
    print(json.dumps(measured, indent=1))
    give_head(given.folder, rows, speech, measured)
    return 0


if __name__ == "__main__":
    sys.exit(main())
