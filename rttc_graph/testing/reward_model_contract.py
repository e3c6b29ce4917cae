"""What every reward model must do, of whole answers and of steps.

Subclass a suite and define its fixture: `reward_model` or `process_reward_model`.
"""

from __future__ import annotations

import asyncio
import copy
import math
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import cast

import pytest

from rttc_graph.errors import ConfigurationError
from rttc_graph.protocols import (
    BegunAnswer,
    ProcessRewardModel,
    RewardModel,
    checked_step_scores,
    reward_requests,
)
from rttc_graph.state import Candidate
from rttc_graph.testing.inputs import TENANT, candidate, recalled_sample

ANSWERS = {
    "empty": "",
    "blank": " \n\t ",
    "short": "42",
    "long": "The answer is a long story. " * 750,
    "chinese": "答案是四十二。" * 20,
    "arabic": "الجواب هو اثنان وأربعون",
    "emoji": "👩‍👩‍👧‍👦🎉",
    "null": "a\0b",
    "lone-surrogate": "a\ud800b",
    "markup": "</answer> {mark} <|im_end|> %s [INST]",
}


def not_blocking() -> AbstractContextManager[object]:
    """Return a context in which a call that blocks the event loop fails; needs blockbuster."""
    return cast(
        AbstractContextManager[object], pytest.importorskip("blockbuster").blockbuster_ctx()
    )


class RewardModelContract:
    """Subclass it in a backend's tests and define the fixture `reward_model`."""

    @pytest.fixture
    def reward_model(self) -> RewardModel:
        """Return the model under test; override it."""
        raise NotImplementedError("define the fixture `reward_model`")

    @pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS.keys())
    async def test_any_answer_gets_a_reward(self, reward_model: RewardModel, answer: str) -> None:
        """Odd answers get a finite reward in [0, 1] like all others."""
        [reward] = await reward_model.score("What is six times seven?", [candidate(answer)])
        assert isinstance(reward, float)
        assert math.isfinite(reward)
        assert 0 <= reward <= 1

    async def test_no_candidates_get_no_rewards(self, reward_model: RewardModel) -> None:
        """An empty batch is no error."""
        assert await reward_model.score("Why?", []) == []

    async def test_rewards_stand_in_the_order_of_the_candidates(
        self, reward_model: RewardModel
    ) -> None:
        """A batch gives what its answers get alone."""
        # Different lengths, so that a model which sorts by length has to put them back.
        answers = ["a much longer answer than the others", "b", "", "c d e", "f g", "b"]
        candidates = [
            candidate(answer, mean_logprob=-0.1 * number) for number, answer in enumerate(answers)
        ]
        together = await reward_model.score("Which letter?", candidates)
        alone = [(await reward_model.score("Which letter?", [one]))[0] for one in candidates]
        assert together == pytest.approx(alone, abs=1e-4)
        assert len(set(alone)) > 2, "this model tells nothing apart, so no order can be seen"

    async def test_the_same_answer_gets_the_same_reward(self, reward_model: RewardModel) -> None:
        """Judging draws no lots."""
        first = await reward_model.score("Why?", [candidate("because"), candidate("so")])
        assert first == await reward_model.score("Why?", [candidate("because"), candidate("so")])

    @pytest.mark.parametrize(
        "query", ["", "why " * 5000, "为什么"], ids=["empty", "long", "chinese"]
    )
    async def test_any_query_can_be_asked(self, reward_model: RewardModel, query: str) -> None:
        """Empty, long and foreign queries are judged too."""
        [reward] = await reward_model.score(query, [candidate("because")])
        assert 0 <= reward <= 1

    async def test_evidence_may_be_read_or_left(self, reward_model: RewardModel) -> None:
        """Samples in hand and the run's other candidates come with every candidate of a run."""
        run: list[Candidate] = [candidate("because"), candidate("so"), candidate("")]
        run[1]["reward"] = 0.25
        samples = [recalled_sample(number) for number in range(3)]
        for judged, given in [(run, samples), (run[:1], []), (run[1:], samples[:1])]:
            requests = reward_requests(judged, of_run=run, samples=given)
            before = copy.deepcopy(requests)
            rewards = await reward_model.score("question 1", requests)
            assert len(rewards) == len(judged)
            assert all(0 <= reward <= 1 for reward in rewards)
            assert requests == before, "the caller keeps its candidates and samples unchanged"

    async def test_it_says_whether_it_is_calibrated(self, reward_model: RewardModel) -> None:
        """A score that is no probability must not be called one."""
        assert await reward_model.is_calibrated() in (True, False)

    async def test_it_judges_for_a_tenant_and_a_domain(self, reward_model: RewardModel) -> None:
        """Where it makes no difference, the model may return itself."""
        for domain in ("math", None):
            scoped = reward_model.within(tenant=TENANT, domain=domain)
            assert scoped.name == reward_model.name
            assert (await scoped.fingerprint()).strip()
            assert len(await scoped.score("Why?", [candidate("because")])) == 1
            assert await scoped.is_calibrated() in (True, False)

    async def test_candidates_are_left_as_they_are(self, reward_model: RewardModel) -> None:
        """The caller keeps its candidates unchanged."""
        one = candidate("because")
        await reward_model.score("Why?", [one])
        assert one == candidate("because")

    async def test_the_event_loop_is_never_blocked(self, reward_model: RewardModel) -> None:
        """Slow work runs on threads."""
        with not_blocking():
            await reward_model.score("Why?", [candidate("because"), candidate("so")])

    async def test_the_fingerprint_stays_the_same(self, reward_model: RewardModel) -> None:
        """Judging does not change the fingerprint."""
        with not_blocking():
            first = await reward_model.fingerprint()
        await reward_model.score("Why?", [candidate("because")])
        assert first.strip()
        assert await reward_model.fingerprint() == first

    async def test_the_name_is_text(self, reward_model: RewardModel) -> None:
        """Calibrations are stored by it."""
        assert reward_model.name.strip()

    def test_several_event_loops_may_use_it(self, reward_model: RewardModel) -> None:
        """Nothing in it is tied to the first loop."""

        def score(_: int) -> list[float]:
            return asyncio.run(reward_model.score("Why?", [candidate("because"), candidate("so")]))

        with ThreadPoolExecutor(3) as pool:
            results = list(pool.map(score, range(6)))
        assert all(result == pytest.approx(results[0], abs=1e-4) for result in results)

    async def test_a_cancelled_call_ends_and_the_next_one_works(
        self, reward_model: RewardModel
    ) -> None:
        """A cancelled request leaves nothing locked."""
        task = asyncio.create_task(reward_model.score("Why?", [candidate("because")] * 50))
        await asyncio.sleep(0)
        task.cancel()
        began = time.monotonic()
        await asyncio.wait([task], timeout=20)
        assert task.done(), f"still running {time.monotonic() - began:.0f} s after it was cancelled"
        assert len(await reward_model.score("Why?", [candidate("so")])) == 1


_STEPS = (
    ("First 2 and 3 is 5.\n", "Then 5 and 4 is 9.\n", "#### 9"),
    ("a\n",),
    ("What is a much longer first step than all the others?\n", "c"),
    ("So\n", "#### 8"),
)


def begun(*steps: str, known: int = 0, is_finished: bool = False) -> BegunAnswer:
    """Return an answer of the base model to a question of these tests."""
    return BegunAnswer(
        steps=steps,
        known=known,
        is_finished=is_finished,
        messages=({"role": "user", "content": "What is 2 and 3 and 4?"},),
    )


class ProcessRewardModelContract:
    """Subclass it in a backend's tests and define the fixture `process_reward_model`."""

    @pytest.fixture
    def process_reward_model(self) -> ProcessRewardModel:
        """Return the model under test; override it."""
        raise NotImplementedError("define the fixture `process_reward_model`")

    @pytest.mark.parametrize("text", ANSWERS.values(), ids=ANSWERS.keys())
    async def test_any_step_is_judged_or_abstained_from(
        self, process_reward_model: ProcessRewardModel, text: str
    ) -> None:
        """Odd steps get a probability like all others, or none at all."""
        [found] = await checked_step_scores(
            process_reward_model, "What is six times seven?", [begun(text)]
        )
        assert len(found) == 1

    async def test_no_answers_get_no_probabilities(
        self, process_reward_model: ProcessRewardModel
    ) -> None:
        """An empty batch is no error."""
        assert await process_reward_model.score_steps("Why?", []) == []

    async def test_an_answer_without_steps_is_refused(self) -> None:
        """There is nothing to score in it, nor in one whose steps are all known."""
        for steps, known in (((), 0), (("a",), 1), (("a",), -1)):
            with pytest.raises(ConfigurationError, match="known="):
                BegunAnswer(steps=steps, known=known)

    async def test_probabilities_stand_in_the_order_of_the_answers(
        self, process_reward_model: ProcessRewardModel
    ) -> None:
        """A batch gives what its answers get alone, and tells something apart."""
        answers = [begun(*steps) for steps in _STEPS]
        together = await checked_step_scores(process_reward_model, "How many?", answers)
        for answer, found in zip(answers, together, strict=True):
            [alone] = await checked_step_scores(process_reward_model, "How many?", [answer])
            assert found == pytest.approx(alone, abs=1e-4)
        said = {share for found in together for share in found if share is not None}
        assert not said or len(said) > 1, "this model tells nothing apart"

    async def test_a_step_is_judged_without_what_follows_it(
        self, process_reward_model: ProcessRewardModel
    ) -> None:
        """So the probability of a prefix may be kept while the answer grows."""
        whole = begun(*_STEPS[0])
        [found] = await checked_step_scores(process_reward_model, "How many?", [whole])
        [first] = await checked_step_scores(
            process_reward_model, "How many?", [begun(_STEPS[0][0])]
        )
        assert first[0] == pytest.approx(found[0], abs=1e-4)

    async def test_known_steps_are_not_told_again(
        self, process_reward_model: ProcessRewardModel
    ) -> None:
        """Only the steps behind them are scored, as they would be with all of them."""
        [whole] = await checked_step_scores(process_reward_model, "How many?", [begun(*_STEPS[0])])
        [tail] = await checked_step_scores(
            process_reward_model, "How many?", [begun(*_STEPS[0], known=2)]
        )
        assert tail == pytest.approx(whole[2:], abs=1e-4)

    async def test_the_same_step_gets_the_same_probability(
        self, process_reward_model: ProcessRewardModel
    ) -> None:
        """Judging draws no lots."""
        answers = [begun(*steps) for steps in _STEPS]
        first = await process_reward_model.score_steps("Why?", answers)
        assert first == await process_reward_model.score_steps("Why?", answers)

    async def test_it_says_how_far_it_can_be_trusted(
        self, process_reward_model: ProcessRewardModel
    ) -> None:
        """Its widest choice, and why nothing should be steered by it, if so."""
        widest = await process_reward_model.widest()
        assert widest is None or widest >= 1
        assert isinstance(await process_reward_model.closed(), str)

    async def test_it_judges_for_a_tenant_and_a_domain(
        self, process_reward_model: ProcessRewardModel
    ) -> None:
        """Where it makes no difference, the model may return itself."""
        for domain in ("math", None):
            scoped = process_reward_model.within(tenant=TENANT, domain=domain)
            assert scoped.name == process_reward_model.name
            assert (await scoped.fingerprint()).strip()
            assert len(await scoped.score_steps("Why?", [begun("So.\n")])) == 1

    async def test_the_event_loop_is_never_blocked(
        self, process_reward_model: ProcessRewardModel
    ) -> None:
        """Slow work runs on threads."""
        with not_blocking():
            await process_reward_model.score_steps("Why?", [begun(*_STEPS[0])])
            await process_reward_model.fingerprint()

    async def test_the_fingerprint_stays_the_same(
        self, process_reward_model: ProcessRewardModel
    ) -> None:
        """Judging does not change it."""
        first = await process_reward_model.fingerprint()
        await process_reward_model.score_steps("Why?", [begun("So.\n")])
        assert first.strip()
        assert await process_reward_model.fingerprint() == first

    async def test_a_cancelled_call_ends_and_the_next_one_works(
        self, process_reward_model: ProcessRewardModel
    ) -> None:
        """A cancelled request leaves nothing locked."""
        many = [begun(*_STEPS[0])] * 20
        task = asyncio.create_task(process_reward_model.score_steps("Why?", many))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task], timeout=20)
        assert task.done()
        assert len(await process_reward_model.score_steps("Why?", [begun("So.\n")])) == 1
