"""The head that judges by samples, fitted in a training: what it learns, and when it is refused."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tiny_checkpoints import encoder_folder

from rttc_graph.integrations.rewards.trained.evidence_reader import EvidenceReader
from rttc_graph.integrations.rewards.trained.head_learning import HeadSettings
from rttc_graph.integrations.rewards.trained.network_learning import LearnSettings
from rttc_graph.integrations.rewards.trained.network_reward import EncoderReward
from rttc_graph.integrations.rewards.trained.reward_folder import encoder_base
from rttc_graph.integrations.rewards.trained.reward_spec import read_spec
from rttc_graph.protocols import NewSample, reward_requests
from rttc_graph.reward_training.candidate_rows import (
    CandidateRow,
    NearSample,
    Source,
    evidence_of_row,
)
from rttc_graph.reward_training.card import Licenses
from rttc_graph.reward_training.evidence_fit import (
    FEWEST_QUESTIONS,
    FittedHead,
    HeadMaterial,
    fit_evidence,
    kinds_of,
)
from rttc_graph.reward_training.evidence_training import judge_with_samples, left_out_answers
from rttc_graph.reward_training.training import TrainSettings, train_reward
from rttc_graph.testing.inputs import candidate

COLOURS = ("red", "green", "blue", "black", "white", "brown")


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return encoder_folder(tmp_path_factory.mktemp("base"))


def group(number: int) -> list[CandidateRow]:
    """Candidates of a question whose nearest sample asks nearly the same and has its answer."""
    colour, other = COLOURS[number % 6], COLOURS[(number + 1) % 6]
    thing = "abcdefghij"[number % 10] * 6
    samples: list[NearSample] = [
        {"question": f"which colour has {thing} {number}", "answer": f"colour {colour}"},
        {"question": "how old is zzzz", "answer": f"colour {other}"},
    ]
    made: list[tuple[Source, str, bool]] = [
        ("reference", f"colour {colour}", True),
        ("neighbour", f"colour {other}", False),
        ("rag", f"colour {colour if number % 3 else other}", bool(number % 3)),
    ]
    return [
        {
            "key": f"{number} {source}",
            "group": f"g{number}",
            "domain": "things",
            "question": f"tell me which colour has {thing} {number}",
            "reference": f"colour {colour}",
            "answer": answer,
            "right": right,
            "source": source,
            "temperature": 0.0,
            "mean_logprob": None,
            "completion_tokens": 2,
            "finish_reason": "stop",
            "samples": samples,
        }
        for source, answer, right in made
    ]


def nothing(pairs: Sequence[tuple[str, str]]) -> list[float]:
    return [0.0] * len(pairs)


def fitted(folder: Path, groups: Sequence[list[CandidateRow]], logits: Any = nothing) -> FittedHead:
    return fit_evidence(groups, logits, HeadMaterial(unchanged=lambda: encoder_base(folder)), 0)


def test_a_head_is_learned_where_samples_tell_right_from_wrong(base_folder: Path) -> None:
    found = fitted(base_folder, [group(n) for n in range(30)])
    assert found.head is not None
    assert found.speech is not None
    told = found.report["held_out"]
    assert told["all"]["auc_grounded"] > 0.8
    assert abs(told["all"]["auc_before"] - 0.5) < 0.1
    assert told["all"]["log_loss_grounded"] < told["all"]["log_loss_before"]
    assert found.report["questions"] == 30
    assert list(found.report["kinds"]) == ["labels"]
    assert {**group(0)[0]}.keys() >= {"samples"}


def test_a_head_learns_that_the_nearest_answer_may_be_that_of_another_question(
    base_folder: Path,
) -> None:
    """From the samples that are left where those that answer rightly are taken out."""
    groups = [group(n) for n in range(30)]
    others: list[NearSample] = [{"question": "how old is zzzz", "answer": "colour grey"}]
    with_left: list[list[CandidateRow]] = [
        [{**row, "left_out": others} for row in some] for some in groups
    ]
    before, after = fitted(base_folder, groups), fitted(base_folder, with_left)
    assert before.head is not None
    assert after.head is not None
    assert after.report["answers"] == before.report["answers"] + 30

    base = encoder_base(base_folder)
    assert after.speech is not None
    reader = EvidenceReader(base, after.speech, nothing)
    samples = [NewSample(question="how old is yyyy", answer="colour grey", domain="things")]
    [judged] = judge_with_samples(
        NewSample(question="which colour has kkkkkk 77", answer="colour red", domain="things"),
        "labels",
        left_out_answers(samples),
        samples,
        reader,
        [0.5],
        random.Random(0),
    )
    assert not judged.right
    assert after.head(judged.features, 0.5) < before.head(judged.features, 0.5)


def test_few_questions_are_told(base_folder: Path) -> None:
    without: list[list[CandidateRow]] = [
        [{**row, "samples": []} for row in group(n)] for n in range(40)
    ]
    few = [group(n) for n in range(FEWEST_QUESTIONS - 1)]
    found = fitted(base_folder, [*few, *without])
    assert (found.head, found.speech) == (None, None)
    assert found.report == {
        "refused": "19 held-out questions have samples near them, 20 are needed: give more "
        "--questions or --samples"
    }


def test_a_head_that_is_no_better_is_told_with_its_figures(base_folder: Path) -> None:
    """A network that knows all answers leaves nothing to the samples."""
    groups = [group(n) for n in range(30)]
    right = {row["question"]: row["reference"] for some in groups for row in some}

    def knows(pairs: Sequence[tuple[str, str]]) -> list[float]:
        return [40.0 if right[q].lower() in a.lower() and len(a) < 30 else -40.0 for q, a in pairs]

    found = fitted(base_folder, groups, knows)
    assert found.head is None
    assert "on held-out questions its log-loss is" in found.report["refused"]
    assert found.report["held_out"]["all"]["answers"] > 100


def test_the_kinds_of_answers() -> None:
    """A long label is a label where the others of its domain are; numbers are told one by one."""
    labels = ("20", "yes", "lost card", "card payment not recognised", "top up")
    sentences = ("It is open all day.", "Closed on Mondays, except in June.")
    rows = [NewSample(question="q", answer=answer, domain="bank") for answer in labels]
    rows += [NewSample(question="q", answer=answer, domain="faq") for answer in sentences]
    assert kinds_of(rows) == ["numbers", "choices", *["labels"] * 3, *["sentences"] * 2]


@pytest.mark.blocking_allowed
async def test_a_training_writes_the_head_into_the_folder(
    base_folder: Path, tmp_path: Path
) -> None:
    settings = TrainSettings(
        name="tiny",
        base="tiny",
        rank=2,
        hidden=4,
        max_tokens=60,
        train_tokens=60,
        held_out=0.7,
        held_out_answered=0.7,
        learn=LearnSettings(epochs=0.5, groups_per_step=8),
        head=HeadSettings(epochs=1),
    )
    rows = [row for n in range(40) for row in group(n)]

    def train(folder: Path, material: HeadMaterial | None) -> str:
        train_reward(
            encoder_base(base_folder),
            rows,
            settings,
            folder,
            material=material,
            licenses=Licenses(base="MIT", data="CC0"),
            on_progress=lambda p: None,
        )
        return (folder / "README.md").read_text()

    card = train(tmp_path / "a", HeadMaterial(unchanged=lambda: encoder_base(base_folder)))
    assert json.loads((tmp_path / "a" / "reward.json").read_text())["format"] == 2
    assert "| all, of arms | 56 |" in card
    assert "- Backbone `tiny`: MIT\n- Questions and answers: CC0\n" in card
    judge = EncoderReward(tmp_path / "a", base_folder)
    assert judge.sees_evidence
    question = rows[0]["question"]
    shown = reward_requests(
        [candidate("colour red"), candidate("colour green")], samples=evidence_of_row(rows[0])
    )
    right, wrong = await judge.score(question, shown)
    assert right > wrong + 0.1

    card = train(tmp_path / "b", None)
    assert read_spec(tmp_path / "b").evidence is None
    assert "There is no head that judges by samples: not asked for." in card
