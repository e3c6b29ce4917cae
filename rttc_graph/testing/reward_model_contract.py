"""What every reward model must do; subclass it and define the fixture `reward_model`."""

from __future__ import annotations

import asyncio
import copy
import math
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import cast

import pytest

from rttc_graph.protocols import RewardModel, reward_requests
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
