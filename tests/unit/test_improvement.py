"""Self-training: which questions and answers it takes, what it learns, and when it is kept."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from scripted_parts import ScriptedRewardModel, ScriptedTrainer, trained_adapter

from rttc_graph.errors import BackendError, ConfigurationError
from rttc_graph.improvement.answer_log import AnswerLog
from rttc_graph.improvement.domain_adapters import (
    REFRESH_SECONDS,
    DomainAdapters,
    adapter_loader,
)
from rttc_graph.improvement.held_out_trial import Trial, sign_test
from rttc_graph.improvement.lessons import edit_distance, revision_lesson
from rttc_graph.improvement.questions import (
    KnownQuestion,
    Questions,
    known_questions,
    split_questions,
)
from rttc_graph.improvement.self_training import (
    Improved,
    ImprovementParts,
    ImprovementSettings,
    SelfTraining,
)
from rttc_graph.protocols import (
    Generation,
    GenerationRequest,
    NewSample,
    RatedRun,
    Rating,
    StandingAdapter,
    TrainedAdapter,
)
from rttc_graph.protocols.managed_knowledge_base import StoredSample
from rttc_graph.run.prompts import REVISE
from rttc_graph.settings import PromptSettings
from rttc_graph.state import ChatTurn
from rttc_graph.support.progress import Advance, show_nothing


def solved(question: str, answer: str = "1", **metadata: object) -> StoredSample:
    return StoredSample(
        id=question, question=question, answer=answer, domain="sums", metadata=metadata
    )


def rated(query: str, answered: str, *, right: bool, answer: str | None = None) -> RatedRun:
    rating = Rating(run_id=query, is_right=right, answer=answer)
    return RatedRun(rating=rating, query=query, domain="sums", answered=answered)


def test_each_question_counts_once_and_a_persons_word_comes_first() -> None:
    known = known_questions(
        [solved("a", "1"), solved("  A ", "2"), solved("b", "3"), solved("no", unanswerable=True)],
        [
            rated("a", "nine", right=True),
            rated("c", "wrong", right=False, answer="7"),
            rated("d", "wrong", right=False),
            replace(rated("e", "5", right=True), domain="other"),
            replace(rated("f", "5", right=True), declined=True),
        ],
        "sums",
    )
    said = {one.row.question: (one.row.answer, one.accepted) for one in known}
    assert said == {"a": ("nine", "nine"), "c": ("7", "7"), "b": ("3", None)}


def test_what_is_held_out_stays_held_out_when_other_questions_come() -> None:
    known = known_questions([solved(f"q{n}") for n in range(60)], [], "sums")
    few = split_questions(known[:30], held_out=0.4, limit=100, seed=0)
    many = split_questions(
        known, ["q1", "new"] + [f"u{n}" for n in range(50)], held_out=0.4, limit=90, seed=5
    )
    assert {one.digest for one in few.held_out} <= {one.digest for one in many.held_out}
    assert not {one.digest for one in many.held_out} & {one.digest for one in many.training}
    assert len(many.training) + len(many.held_out) + len(many.unrated) <= 90
    assert "q1" not in many.unrated
    with pytest.raises(ConfigurationError, match=r"0 to train on and 5 held out.*a larger share"):
        split_questions(known[:5], held_out=0.99, limit=9, seed=0).check_enough("sums")
    with pytest.raises(ConfigurationError, match=r"0 to train on and 60 held out.*a smaller share"):
        split_questions(known, held_out=0.99, limit=90, seed=0).check_enough("sums")


@pytest.mark.parametrize(
    ("gained", "lost", "luck"), [(0, 0, 1.0), (1, 0, 0.5), (5, 0, 1 / 32), (3, 1, 5 / 16)]
)
def test_chance_is_that_of_fair_coins(gained: int, lost: int, luck: float) -> None:
    assert sign_test(gained, lost) == pytest.approx(luck)


def test_a_trial_asks_for_more_than_chance() -> None:
    before = [False] * 10
    five, four = [True] * 5 + [False] * 5, [True] * 4 + [False] * 6
    assert Trial(before=before, after=five, chance=0.05).is_better
    assert not Trial(before=before, after=four, chance=0.05).is_better
    assert not Trial(before=five, after=before, chance=1.0).is_better


@pytest.mark.parametrize(
    ("left", "right", "distance"),
    [("", "", 0), ("abc", "", 3), ("kitten", "sitting", 3), ("flaw", "lawn", 2), ("a", "a", 0)],
)
def test_edit_distance(left: str, right: str, distance: int) -> None:
    assert edit_distance(left, right) == edit_distance(right, left) == distance


def test_a_revision_has_up_to_four_wrong_answers_the_nearest_last() -> None:
    wrong = ["99", "41", "41", "four", "4", "far away"]
    lesson = revision_lesson("q", "42", wrong, PromptSettings())
    assert lesson is not None
    said = [turn["content"] for turn in lesson.messages[2:]]
    assert said[-4:] == ["41", REVISE, "4", REVISE]
    assert said[1::2] == [REVISE] * 4
    distances = [edit_distance(text, "42") for text in said[::2]]
    assert distances == sorted(distances, reverse=True)
    assert lesson.answer == "42"
    assert revision_lesson("q", "42", [], PromptSettings()) is None


@dataclass
class Sums:
    """Adds up, when it is not greedy, what it has an adapter for or what is in `knows`."""

    knows: Callable[[int, bool, str | None], bool]
    requests: list[GenerationRequest] = field(default_factory=list[GenerationRequest])
    name: str = "sums"

    async def count_tokens(self, messages: Sequence[ChatTurn]) -> int:
        return len(messages)

    async def context_tokens(self) -> int | None:
        return None

    async def generate(
        self, requests: Sequence[GenerationRequest], *, deadline: float | None = None
    ) -> list[Generation]:
        del deadline
        self.requests += requests
        return [self._answer(one) for one in requests]

    def _answer(self, asked: GenerationRequest) -> Generation:
        number = int(re.findall(r"\d+", asked.messages[-1]["content"])[0])
        is_right = self.knows(number, asked.temperature > 0, asked.adapter)
        return Generation(
            text=f"Well, it is {number + 1 if is_right else 0}.",
            prompt_tokens=5,
            completion_tokens=5,
            mean_logprob=-0.1,
            finish_reason="stop",
        )


@dataclass
class Store:
    kept: dict[str, TrainedAdapter] = field(default_factory=dict[str, TrainedAdapter])

    async def load_adapter(self, key: str, *, base_fingerprint: str) -> TrainedAdapter | None:
        assert base_fingerprint == "base"
        return self.kept.get(key)

    async def keep_adapter(self, adapter: TrainedAdapter) -> None:
        self.kept[adapter.key] = adapter

    async def discard_adapter(self, key: str) -> None:
        self.kept.pop(key, None)


@contextmanager
def unseen(what: str) -> Generator[Advance]:
    del what
    yield show_nothing


QUESTIONS = Questions(
    training=[
        KnownQuestion(row=NewSample(question=f"{n} + 1?", answer=str(n + 1), domain="sums"))
        for n in range(1, 13)
    ],
    held_out=[
        KnownQuestion(row=NewSample(question=f"{n} + 1?", answer=str(n + 1), domain="sums"))
        for n in range(100, 124)
    ],
)


@dataclass
class Bench:
    """A self-training with scripted parts."""

    path: Path
    model: Sums
    trainer: ScriptedTrainer = field(default_factory=ScriptedTrainer)
    store: Store = field(default_factory=Store)
    judge: ScriptedRewardModel = field(default_factory=ScriptedRewardModel)
    reuse_scope: str = ""

    async def run(self, questions: Questions = QUESTIONS, **settings: Any) -> Improved:
        parts = ImprovementParts(
            policy_model=self.model,
            trainer=self.trainer,
            store=self.store,
            reward_model=self.judge,
            step=unseen,
            reuse_scope=self.reuse_scope,
        )
        wanted = replace(ImprovementSettings(scorer="number"), **settings)
        log = await asyncio.to_thread(AnswerLog, self.path, self.model)
        return await SelfTraining(parts, wanted, log).run(questions)


async def test_it_learns_from_drawn_answers_that_reach_the_result(tmp_path: Path) -> None:
    # greedy it is right on even numbers, sampled on multiples of three too, with an adapter always
    model = Sums(lambda n, drawn, adapter: n % 2 == 0 or bool(adapter) or (drawn and n % 3 == 0))
    bench = Bench(tmp_path / "log.jsonl", model)

    improved = await bench.run()

    assert improved.best is not None
    assert improved.best.lessons == {"drawn": 8}
    [learnt] = bench.trainer.learnt
    assert sorted(example.answer for example in learnt) == sorted(
        f"Well, it is {n + 1}." for n in (2, 3, 4, 6, 8, 9, 10, 12)
    )
    assert (improved.best.trial.gained, improved.best.trial.lost) == (12, 0)
    assert list(bench.store.kept) == [improved.best.adapter.key]

    asked = len(model.requests)
    again = await bench.run()  # as after a kill: nothing is drawn or trained again
    assert (len(model.requests), len(bench.trainer.trainings)) == (asked, 1)
    assert again.best is not None
    assert again.best.trial == improved.best.trial


async def test_without_a_gain_beyond_chance_nothing_is_kept(tmp_path: Path) -> None:
    gains = {100, 102, 104, 106}  # of 24; four of four are luck once in 16
    model = Sums(lambda n, _, adapter: n < 50 or (bool(adapter) and n in gains))
    bench = Bench(tmp_path / "log.jsonl", model)

    improved = await bench.run(rounds=3)

    assert improved.best is None
    assert [one.trial.gained for one in improved.rounds] == [4]  # the last one is no better
    assert bench.store.kept == {}
    assert (await bench.run(chance=0.1)).best is not None
    assert (await bench.run(chance=0.1, rounds=2)).best is None  # shared out among the rounds


async def test_later_rounds_draw_with_the_adapter_and_train_from_the_base(tmp_path: Path) -> None:
    model = Sums(lambda n, _, adapter: n % 2 == 0 or bool(adapter))
    bench = Bench(tmp_path / "log.jsonl", model)

    improved = await bench.run(rounds=2)

    assert [one.lessons for one in improved.rounds] == [{"drawn": 6}, {"drawn": 12}]
    assert [count for _, count in bench.trainer.trainings] == [6, 12]
    assert improved.best is improved.rounds[0]  # as good, with less to be wrong in
    assert list(bench.store.kept) == [improved.rounds[0].adapter.key]


async def test_revisions_are_learnt_beside_the_answers(tmp_path: Path) -> None:
    model = Sums(lambda n, drawn, adapter: (drawn and n % 2 == 0) or bool(adapter))
    bench = Bench(tmp_path / "log.jsonl", model)

    improved = await bench.run(revisions=True, draws=2)

    assert improved.rounds[0].lessons == {"drawn": 6, "revisions": 6}
    [learnt] = bench.trainer.learnt
    assert sum(one.messages[-1]["content"] == REVISE for one in learnt) == 6


async def test_unrated_answers_need_a_majority_and_a_trusted_judge(tmp_path: Path) -> None:
    unrated = replace(QUESTIONS, unrated=["31 + 1?", "32 + 1?", "33 + 1?"])
    # 31: wrong alike, and not trusted; 32: all right; 33: one of three
    turns = {31: [False] * 3, 32: [True] * 3, 33: [True, False, False]}
    model = Sums(
        lambda n, drawn, adapter: turns[n].pop() if n in turns else n < 50 or bool(adapter)
    )
    bench = Bench(tmp_path / "log.jsonl", model)
    with pytest.raises(ConfigurationError, match="rttc calibrate first, or leave out --unrated"):
        await bench.run(unrated, draws=3)

    async def calibrated() -> bool:
        return True

    bench.judge.is_calibrated = calibrated  # type: ignore[method-assign]
    bench.judge.rewards = {"Well, it is 33.": 0.95, "Well, it is 0.": 0.2, "Well, it is 34.": 0.99}
    improved = await bench.run(unrated, draws=3)
    assert improved.rounds[0].lessons == {"drawn": 12, "unrated": 1}
    assert "Well, it is 33." in [one.answer for one in bench.trainer.learnt[0]]


async def test_tenants_share_no_adapter(tmp_path: Path) -> None:
    keys: set[str] = set()
    for tenant in ("", "one", "two"):
        model = Sums(lambda n, _, adapter: n % 2 == 0 or bool(adapter))
        bench = Bench(tmp_path / "log.jsonl", model, reuse_scope=tenant)
        improved = await bench.run()
        keys.add(improved.rounds[0].adapter.key)
    assert len(keys) == 3


async def test_nothing_to_learn_from_is_said(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "log.jsonl", Sums(lambda n, drawn, adapter: False))
    with pytest.raises(ConfigurationError, match="of 12 questions the model answered none rightly"):
        await bench.run()


@pytest.mark.parametrize(
    "given", [{"rounds": 0}, {"draws": 0}, {"chance": 0.0}, {"bound": 1.5}, {"temperature": 3.0}]
)
def test_bad_values_are_refused(given: dict[str, Any]) -> None:
    [(name, value)] = given.items()
    with pytest.raises(ConfigurationError, match=re.escape(f"{name}={value!r} must be")):
        replace(ImprovementSettings(), **given)


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Known:
    key: str | None = "own"
    error: BackendError | None = None
    asked: list[tuple[str, str, str]] = field(default_factory=list[tuple[str, str, str]])

    async def find(
        self, *, domain: str, base_fingerprint: str, tenant: str
    ) -> StandingAdapter | None:
        self.asked.append((domain, base_fingerprint, tenant))
        if self.error:
            raise self.error
        if self.key is None:
            return None
        return StandingAdapter(
            domain=domain, base_fingerprint=base_fingerprint, key=self.key, card={}
        )


async def test_which_adapter_stands_is_looked_up_once_a_minute() -> None:
    known, clock, store = Known(), Clock(), Store({"own": trained_adapter("own")})
    trainer = ScriptedTrainer()
    found = DomainAdapters(known, store, trainer.base_fingerprint, clock=clock)

    async def now(tenant: str = "t") -> str | None:
        return await found.standing_adapter(domain="sums", tenant=tenant)

    assert [await now(), await now(), await now("other")] == ["own"] * 3
    assert known.asked == [("sums", "base", "t"), ("sums", "base", "other")]
    known.key = None
    assert await now() == "own"
    clock.now += REFRESH_SECONDS
    known.error = BackendError("down")
    assert await now() == "own"  # better than another model in the middle of the day
    known.error = None
    assert await now() is None
    known.error = BackendError("down")
    with pytest.raises(BackendError, match="down"):
        await now("third")


async def test_the_plain_model_answers_where_the_adapter_is_damaged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock, store = Clock(), Store()
    found = DomainAdapters(Known(), store, ScriptedTrainer().base_fingerprint, clock=clock)
    assert await found.standing_adapter(domain="sums", tenant="t") is None
    assert "'sums' is damaged, so the plain model answers" in caplog.text
    store.kept["own"] = trained_adapter("own")  # trained anew
    clock.now += REFRESH_SECONDS
    assert await found.standing_adapter(domain="sums", tenant="t") == "own"
    store.kept.clear()  # what is in use is not read again
    clock.now += REFRESH_SECONDS
    assert await found.standing_adapter(domain="sums", tenant="t") == "own"


async def test_a_stored_adapter_is_made_resident_once() -> None:
    trainer, store = ScriptedTrainer(), Store({"own": trained_adapter("own")})
    load = adapter_loader(trainer, store)
    await load("own")
    assert trainer.resident == {"own"}
    store.kept.clear()
    await load("own")
    await load("gone")  # whoever answers with it says so
    assert trainer.resident == {"own"}
