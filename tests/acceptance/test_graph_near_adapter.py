"""An adapter of a less near query: tried on the samples before one is trained on them."""

from __future__ import annotations

from typing import Any

import pytest
from graph_runs import Face, arms, ask, events, failures
from scripted_parts import Parts, recalling, sample, trained_adapter

from rttc_graph.errors import AdaptationError, QueryStateCacheError
from rttc_graph.run.adapter_source import adapter_key
from rttc_graph.run.prompts import training_examples
from rttc_graph.settings import TttSettings

SAMPLES = [sample(1), sample(2), sample(3)]
KEY_OF_SAMPLES = adapter_key("base", training_examples(SAMPLES), TttSettings())


def parts_near(similarity: float = 0.85, *, loss: float | Exception = 0.1) -> Parts:
    """Return parts whose cache has an adapter of another query, with its loss on the samples."""
    parts = Parts().rewarding(direct=0.1, rag=0.2, ttt=0.9)
    parts.knowledge_base.samples = SAMPLES
    parts.cache.recalled = recalling(adapter="k1", similarity=similarity)
    parts.cache.stored["k1"] = trained_adapter("k1")
    parts.trainer.left_to_learn = loss
    return parts


async def test_one_that_knows_the_samples_saves_the_training(face: Face) -> None:
    parts = parts_near(loss=0.1)

    output = await ask(parts, face)

    assert (output["arm"], output["reward"]) == ("ttt", 0.9)
    assert arms(output) == ["direct", "rag", "ttt"]
    assert (output["candidates"][2]["adapter"], output["candidates"][2]["trained_tokens"]) == (
        "k1",
        0,
    )
    assert parts.trainer.trainings == []
    assert parts.trainer.losses == [("k1", ["answer 1", "answer 2"])]  # the nearest two
    assert "k1" in parts.trainer.resident
    assert output["cache"] == {"samples": "miss", "adapter": "hit"}
    assert events(output, of="ttt_adapt") == ["checked", "reused"]
    assert parts.cache.states[0].adapter == "k1"


async def test_one_that_does_not_know_them_leads_to_a_training(face: Face) -> None:
    parts = parts_near(loss=0.2)

    output = await ask(parts, face)

    assert parts.trainer.trainings == [(KEY_OF_SAMPLES, 3)]
    assert output["candidates"][2]["adapter"] == KEY_OF_SAMPLES
    assert "k1" not in parts.trainer.resident
    assert output["cache"]["adapter"] == "miss"
    assert events(output, of="ttt_adapt") == ["checked", "trained"]
    [checked] = [e["detail"] for e in output["ledger"] if e["event"] == "checked"]
    assert checked == {"key": "k1", "similarity": 0.85, "loss": 0.2, "reuse_loss": 0.2}


async def test_one_that_is_judged_low_is_not_discarded_since_others_use_it(face: Face) -> None:
    parts = parts_near(loss=0.1).rewarding(direct=0.1, rag=0.2, ttt=0.15)

    output = await ask(parts, face)

    assert output["arm"] == "rag"
    assert parts.cache.discarded == []
    assert parts.trainer.trainings == []


@pytest.mark.parametrize(
    ("similarity", "settings", "asked"),
    [
        pytest.param(0.79, {}, [0.9, 0.8], id="not-near-enough"),
        pytest.param(0.85, {"reuse_similarity": 0.86}, [0.9, 0.86], id="by-the-settings"),
        pytest.param(0.85, {"reuse_loss": 0.0}, [0.9], id="nobody-wants-it"),
        pytest.param(0.85, {"use_cache": False}, [], id="no-cache"),
    ],
)
async def test_without_one_a_training_follows_at_once(
    similarity: float, settings: dict[str, Any], asked: list[float], face: Face
) -> None:
    parts = parts_near(similarity)

    output = await ask(parts, face, **settings)

    assert [request.adapter_similarity for request in parts.cache.requests] == asked
    assert parts.trainer.losses == []
    assert parts.trainer.trainings == [(KEY_OF_SAMPLES, 3)]
    assert events(output, of="ttt_adapt") == ["trained"]


async def test_one_that_was_recalled_and_has_answered_is_not_tried_again(face: Face) -> None:
    parts = parts_near(0.95, loss=0.1).rewarding(direct=0.1, rag=0.2, ttt=0.3)

    output = await ask(parts, face)

    assert arms(output) == ["direct", "ttt", "rag", "ttt"]
    assert len(parts.cache.requests) == 1
    assert parts.trainer.trainings == [(KEY_OF_SAMPLES, 3)]


async def test_one_that_was_recalled_and_could_not_be_loaded_is_not_tried_again(
    face: Face,
) -> None:
    parts = parts_near(0.95, loss=0.1)
    parts.cache.fails = {"load_adapter": QueryStateCacheError("no connection")}

    output = await ask(parts, face)

    assert failures(output["ledger"]) == ["retrieve: QueryStateCacheError: no connection"]
    assert parts.trainer.trainings == [(KEY_OF_SAMPLES, 3)]
    assert output["arm"] == "ttt"


async def test_one_that_is_gone_is_none(face: Face) -> None:
    parts = parts_near()
    parts.cache.stored.clear()

    output = await ask(parts, face)

    assert parts.trainer.trainings == [(KEY_OF_SAMPLES, 3)]
    assert failures(output["ledger"]) == []


async def test_a_trial_that_fails_costs_the_trial_and_not_the_arm(face: Face) -> None:
    parts = parts_near(loss=AdaptationError("bytes are damaged"))

    output = await ask(parts, face)

    assert output["arm"] == "ttt"
    assert parts.trainer.trainings == [(KEY_OF_SAMPLES, 3)]
    assert failures(output["ledger"]) == ["ttt_adapt: bytes are damaged"]


async def test_a_cache_that_fails_in_a_trial_costs_no_arm_either(face: Face) -> None:
    parts = parts_near()
    parts.cache.fails["load_adapter"] = QueryStateCacheError("gone")

    output = await ask(parts, face)

    assert output["arm"] == "ttt"
    assert failures(output["ledger"]) == ["ttt_adapt: gone"]
