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
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch

from benchmarks.experiments.evidence_sets import OTHERWISE, EvidenceSet, all_sets
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
from rttc_graph.protocols import Embedder, NewSample, RewardRequest, reward_requests
from rttc_graph.reward_training.candidate_rows import CandidateLog, CandidateRow, graph_candidate
from rttc_graph.reward_training.candidate_sampling import CandidateSampler, SamplingSettings
from rttc_graph.reward_training.evidence_answers import made_answers, poisoned, refusal
from rttc_graph.reward_training.grounded_fit import fit_direction, fit_evidence_head
from rttc_graph.reward_training.neighbours import nearest_samples
from rttc_graph.reward_training.reward_metrics import auc
from rttc_graph.reward_training.wordings import with_plea
from rttc_graph.state import Candidate, Sample
from rttc_graph.testing.inputs import candidate

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
_POISONED = 0.25
"""Share of the questions that are judged once more with a sample that speaks to the judge."""

_REAL = ("nearest", "direct", "rag")
_WEIGHTS = {"nearest": 2.0, "direct": 3.0, "rag": 3.0}
"""How much an answer of an arm counts; one that was made counts 1."""

_COMPUTED = 0.25
"""Weight of a computed task, of which there are many; every other set has 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One answer with its features."""

    set: str
    kind: str
    question: str
    answer: str
    source: str
    right: bool
    features: list[float]
    before: float
    """What the same folder says without evidence."""


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


def learn_speech(
    vectors: Callable[[Sequence[str]], torch.Tensor], answers: Sequence[str], seed: int = 0
) -> Speech:
    """Return what tells refusals and pleas from answers.

    Args:
        vectors: Texts to their vectors.
        answers: Right and wrong ones that neither decline nor speak to a judge.
        seed: Of the refusals and pleas.
    """
    chance = random.Random(seed)
    said = list(dict.fromkeys(answers))
    chance.shuffle(said)
    said = said[:3_000]
    refusals = sorted({refusal(chance) for _ in range(300)})
    row = NewSample(question="", answer="", domain="")
    pleas = sorted({with_plea("", chance) for _ in range(450)})
    pleas += sorted({with_plea(chance.choice(said), chance) for _ in range(350)})
    pleas += sorted({poisoned(row, chance.choice(said), chance).answer for _ in range(150)})
    fits = [
        fit_direction(
            cast("list[list[float]]", vectors([*those, *others]).tolist()),
            [True] * len(those) + [False] * len(others),
        )
        for those, others in ((refusals, [*said, *pleas[:300]]), (pleas, [*said, *refusals]))
    ]
    return Speech(
        torch.tensor([weight for weight, _ in fits]), torch.tensor([bias for _, bias in fits])
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    candidate: Candidate
    source: str
    right: bool


def answers_of(
    row: NewSample,
    near: Sequence[NewSample],
    samples: Sequence[NewSample],
    drawn: Sequence[CandidateRow],
    chance: random.Random,
) -> list[_Answer]:
    """Return made answers, the nearest sample's, and what arms answered."""
    found = [
        _Answer(candidate=candidate(made.text), source=made.source, right=made.right)
        for made in made_answers(row, near, samples, chance, row.metadata.get(OTHERWISE, ()))
    ]
    if near:
        text = near[0].answer
        one = candidate(text)
        found.append(_Answer(candidate=one, source="nearest", right=is_right(text, row)))
    for real in drawn:
        if real["source"] not in _REAL or not real["answer"].strip():
            continue
        right = real["right"] or _says_it_all(real["answer"], row.answer)
        told = graph_candidate(real)
        found.append(_Answer(candidate=told, source=real["source"], right=right))
    return found


def _says_it_all(answer: str, reference: str) -> bool:
    """Tell whether a sentence of an arm has the whole reference and hardly more."""
    inside = len(reference.split()) > 4 and normalised(reference) in normalised(answer)
    return inside and len(answer) < 1.5 * len(reference) + 20


def judged_set(
    found: EvidenceSet,
    near: Sequence[Sequence[NewSample]],
    judge: Judge,
    drawn: dict[str, list[CandidateRow]],
) -> list[Judged]:
    """Return all answers to the questions of a set with their features."""
    judged: list[Judged] = []
    for row, samples in zip(found.asked, near, strict=True):
        chance = random.Random(f"{found.name} {row.question}")
        answers = answers_of(row, samples, found.samples, drawn.get(row.question, []), chance)
        wrong = next((a.candidate["answer"] for a in answers if a.source == "neighbour"), "")
        shown = [(list(samples), "")]
        if chance.random() < _POISONED:
            shown.append(([poisoned(row, wrong, chance), *samples][:K], "*"))
        before = judge.before(row.question, [a.candidate for a in answers])
        for evidence, mark in shown:
            requests = _requests(answers, evidence)
            features = judge.reader.features([(row.question, request) for request in requests])
            judged += [
                Judged(
                    set=found.name,
                    kind=found.kind,
                    question=row.question,
                    answer=a.candidate["answer"],
                    source=a.source + mark,
                    right=a.right,
                    features=f,
                    before=b,
                )
                for a, f, b in zip(answers, features, before, strict=True)
                if f is not None
            ]
    return judged


def _requests(answers: Sequence[_Answer], evidence: Sequence[NewSample]) -> list[RewardRequest]:
    samples: list[Sample] = [
        {
            "id": "",
            "question": s.question,
            "answer": s.answer,
            "domain": s.domain,
            "similarity": 0.0,
        }
        for s in evidence
    ]
    return reward_requests([a.candidate for a in answers], samples=samples)


def weights_of(rows: Sequence[Judged]) -> list[float]:
    """Return how much each answer counts: all sets alike, computed tasks less."""
    own = [_WEIGHTS.get(row.source.rstrip("*"), 1.0) for row in rows]
    totals: dict[str, float] = {}
    for row, weight in zip(rows, own, strict=True):
        totals[row.set] = totals.get(row.set, 0.0) + weight
    return [
        weight / totals[row.set] * (_COMPUTED if row.kind == "computed" else 1.0)
        for row, weight in zip(rows, own, strict=True)
    ]


def head_of(rows: Sequence[Judged]) -> EvidenceHead:
    """Return the head that these answers teach, each as far as the head will hold for it."""
    held = [1 - row.features[_FOREIGN] for row in rows]
    return fit_evidence_head(
        [row.features for row in rows],
        [row.right for row in rows],
        [weight * share for weight, share in zip(weights_of(rows), held, strict=True)],
    )


_NEAREST = list(FEATURES).index("nearest")
_FOREIGN = list(FEATURES).index("foreign")


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


def figures(rows: Sequence[Judged], scores: Sequence[float]) -> dict[str, Any]:
    """Return AUC and log-loss, before and with the evidence, of all answers and of arms'."""
    found: dict[str, Any] = {"answers": len(rows)}
    real = [n for n, row in enumerate(rows) if row.source in _REAL]
    for name, places in (("all", range(len(rows))), ("arms", real)):
        right = [rows[n].right for n in places]
        found[name] = {"answers": len(right), "right": sum(right)}
        for which, told in (("before", [rows[n].before for n in places]), ("grounded", None)):
            values = [scores[n] for n in places] if told is None else told
            found[name][f"auc_{which}"] = auc(values, right)
            found[name][f"log_loss_{which}"] = _log_loss(values, right)
    return found


def _log_loss(scores: Sequence[float], right: Sequence[bool]) -> float | None:
    if not right:
        return None
    values = torch.tensor(scores).clamp(1e-4, 1 - 1e-4)
    return float(torch.nn.functional.binary_cross_entropy(values, torch.tensor(right).float()))


def all_figures(rows: Sequence[Judged]) -> dict[str, Any]:
    """Return figures of each set and each kind, by heads that saw neither."""
    found: dict[str, Any] = {"domains": {}, "kinds": {}}
    sets = dict.fromkeys(row.set if row.kind != "computed" else "computed" for row in rows)
    for name in sets:

        def of_set(row: Judged, name: str = name) -> bool:
            return row.set == name or (name == "computed" and row.kind == "computed")

        measured = [row for row in rows if of_set(row)]
        found["domains"][name] = figures(measured, apart(rows, of_set))
    for kind in dict.fromkeys(row.kind for row in rows):

        def of_kind(row: Judged, kind: str = kind) -> bool:
            return row.kind == kind

        measured = [row for row in rows if of_kind(row)]
        found["kinds"][kind] = figures(measured, apart(rows, of_kind))
    return found


def unanswerable(sets: Sequence[EvidenceSet], rows: Sequence[Judged]) -> dict[str, Any]:
    """Return how well questions are told from those whose answer no sample has, as AUC.

    By the nearness of the nearest sample, and by the score of that sample's answer, with a head
    that did not see the set.
    """
    found: dict[str, Any] = {}
    for one in sets:
        known = {sample.answer for sample in one.samples}
        answered = {row.question: row.answer in known for row in one.asked}
        if all(answered.values()) or one.kind in ("computed", "numbers"):
            continue

        def of_set(row: Judged, name: str = one.name) -> bool:
            return row.set == name and row.source == "nearest"

        measured = [row for row in rows if of_set(row)]
        right = [answered[row.question] for row in measured]
        nearness = [row.features[_NEAREST] for row in measured]
        found[one.name] = {
            "questions": len(right),
            "without_answer": right.count(False),
            "auc_nearness": auc(nearness, right),
            "auc_score": auc(apart(rows, of_set), right),
        }
    return found


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
        one.name: asyncio.run(nearest_samples(embedder, one.asked, one.samples, k=K))
        for one in sets
    }
    answers = [
        made.text
        for one in sets
        if one.name not in NEVER_LEARNED
        for row, found in zip(one.asked, near[one.name], strict=True)
        for made in made_answers(
            row, found, one.samples, random.Random(f"{one.name} {row.question}")
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
            file.write_text("".join(json.dumps(vars_of(row)) + "\n" for row in judged))
        rows += [Judged(**json.loads(line)) for line in file.read_text().splitlines()]
        print(one.name, len(rows), flush=True)
    measured = all_figures(rows) | {"unanswerable": unanswerable(sets, rows)}
    print(json.dumps(measured, indent=1))
    give_head(given.folder, rows, speech, measured)
    return 0


def vars_of(row: Judged) -> dict[str, Any]:
    """Return an answer as plain data."""
    return {name: getattr(row, name) for name in Judged.__slots__}


if __name__ == "__main__":
    sys.exit(main())
