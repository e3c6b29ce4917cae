"""What every policy model must do; subclass it and define the fixture `policy_model`."""

from __future__ import annotations

import asyncio
import json
import math
import time
from dataclasses import replace

import pytest

from rttc_graph.errors import ConfigurationError, PolicyModelError
from rttc_graph.protocols import (
    GenerationRequest,
    OptionsRequest,
    PolicyModel,
    WeighingPolicyModel,
    can_continue,
    can_follow_schema,
    parameters_of,
)
from rttc_graph.state import ChatTurn


def request_for(text: str, *, max_new_tokens: int = 4) -> GenerationRequest:
    """Return a greedy request of one user turn."""
    turn: ChatTurn = {"role": "user", "content": text}
    return GenerationRequest(messages=(turn,), max_new_tokens=max_new_tokens)


class PolicyModelContract:
    """Subclass it in a backend's tests and define the fixture `policy_model`."""

    @pytest.fixture
    def policy_model(self) -> PolicyModel:
        """Return the model under test; override it."""
        raise NotImplementedError("define the fixture `policy_model`")

    async def test_answers_stand_in_the_order_of_the_requests(
        self, policy_model: PolicyModel
    ) -> None:
        """A batch gives what its requests get alone."""
        requests = [request_for("a b c " * count) for count in (6, 1, 3)]
        together = await policy_model.generate(requests)
        alone = [(await policy_model.generate([request]))[0] for request in requests]
        assert [found.text for found in together] == [found.text for found in alone]
        assert [found.prompt_tokens for found in together] == [
            await policy_model.count_tokens(request.messages) for request in requests
        ]

    async def test_an_answer_keeps_to_its_bounds(self, policy_model: PolicyModel) -> None:
        """No more tokens than were asked for, and figures that can be reported."""
        [found] = await policy_model.generate([request_for("a b c", max_new_tokens=3)])
        assert 0 <= found.completion_tokens <= 3
        assert found.finish_reason in ("stop", "length", "budget")
        assert 0 <= found.reused_tokens <= found.prompt_tokens
        if found.mean_logprob is not None:
            assert math.isfinite(found.mean_logprob)
            assert found.mean_logprob <= 0

    async def test_a_seed_makes_sampling_repeatable(self, policy_model: PolicyModel) -> None:
        """A seed gives the same answer, whatever else is in the batch, at least in float32."""
        drawn = replace(request_for("a b c"), temperature=1.0, seed=7)
        [alone] = await policy_model.generate([drawn])
        _, together = await policy_model.generate([request_for("d e"), drawn])
        assert together.text == alone.text

    async def test_no_requests_get_no_answers(self, policy_model: PolicyModel) -> None:
        """An empty batch is no error."""
        assert await policy_model.generate([]) == []

    async def test_a_deadline_that_has_passed_returns_what_there_is(
        self, policy_model: PolicyModel
    ) -> None:
        """The budget's end is no failure of the model."""
        requests = [request_for("a b c", max_new_tokens=50)]
        [found] = await policy_model.generate(requests, deadline=time.monotonic() - 1)
        assert found.finish_reason in ("budget", "stop")
        assert found.completion_tokens < 50

    async def test_a_prompt_beyond_the_context_is_refused(self, policy_model: PolicyModel) -> None:
        """Nothing of it is dropped in silence."""
        context = await policy_model.context_tokens()
        if context is None:
            pytest.skip("this model does not say how long its context is")
        with pytest.raises(PolicyModelError):
            await policy_model.generate([request_for("word " * (context + 1))])

    async def test_an_answer_goes_on_from_its_beginning(self, policy_model: PolicyModel) -> None:
        """Or the model says that it begins every answer anew, and takes no such request."""
        begun = replace(request_for("a b c", max_new_tokens=3), answer_prefix="It is th")
        if not can_continue(policy_model):
            with pytest.raises(PolicyModelError):
                await policy_model.generate([begun])
            return
        plain, found = await policy_model.generate([request_for("a b c", max_new_tokens=3), begun])
        assert found.text.startswith("It is th")
        assert found.completion_tokens <= 3
        assert found.prompt_tokens > plain.prompt_tokens

    async def test_an_answer_follows_its_schema(self, policy_model: PolicyModel) -> None:
        """Whoever says that it holds answers to a schema does so, whatever the prompt asks for."""
        if not can_follow_schema(policy_model):
            pytest.skip("this model does not hold answers to a schema")
        schema = {
            "type": "object",
            "properties": {"kind": {"enum": ["hen", "fox"]}},
            "required": ["kind"],
            "additionalProperties": False,
        }
        asked = replace(request_for("a b c", max_new_tokens=40), answer_schema=json.dumps(schema))
        plain, held = await policy_model.generate([request_for("a b c", max_new_tokens=3), asked])
        assert json.loads(held.text)["kind"] in {"hen", "fox"}
        assert plain.text != held.text

    async def test_a_size_is_known_or_not(self, policy_model: PolicyModel) -> None:
        """A model that says how large it is has weights; one that is silent is of unknown size."""
        parameters = await parameters_of(policy_model)
        assert parameters is None or parameters > 0

    async def test_options_are_weighed(self, policy_model: PolicyModel) -> None:
        """Shares of options are probabilities; a model that cannot weigh has no such method."""
        if not isinstance(policy_model, WeighingPolicyModel):
            pytest.skip("this model does not weigh given answers")
        turns = request_for("a b c").messages
        asked = [
            OptionsRequest(messages=turns, options=options)
            for options in (("A", "B"), ("1", "2", "3"))
        ]
        found = await policy_model.weigh(asked)
        assert [len(one.shares) for one in found] == [2, 3]
        for one in found:
            assert all(0 <= share <= 1 for share in one.shares)
            assert sum(one.shares) <= 1 + 1e-6
            assert one.prompt_tokens == await policy_model.count_tokens(turns)

    def test_an_answer_that_has_ended_is_not_gone_on_with(self) -> None:
        """A stop string in the beginning of an answer is the caller's mistake."""
        with pytest.raises(ConfigurationError, match="stands in answer_prefix at character 4"):
            replace(request_for("a"), answer_prefix="end.\nmore", stop=("\n",))

    async def test_a_cancelled_call_ends_and_the_next_one_works(
        self, policy_model: PolicyModel
    ) -> None:
        """A cancelled request leaves nothing locked."""
        task = asyncio.create_task(policy_model.generate([request_for("a", max_new_tokens=100)]))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task], timeout=20)
        assert task.done()
        assert len(await policy_model.generate([request_for("b")])) == 1
        assert policy_model.name.strip()
