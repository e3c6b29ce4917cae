"""Each path through the graph, under both faces."""

from __future__ import annotations

from typing import Any

import pytest
from graph_runs import QUERY, Face, arms, ask, events, failures, nodes_of
from scripted_parts import Parts, recalling, sample, trained_adapter

from rttc_graph import ConfigurationError, create_rttc_graph
from rttc_graph.run.adapter_source import adapter_key
from rttc_graph.run.prompts import SYSTEM_PROMPT, training_examples
from rttc_graph.settings import RttcSettings, TttSettings

SAMPLES = [sample(1), sample(2)]
TEMPLATE = "{samples} {question}"
KEY_OF_SAMPLES = adapter_key("base", training_examples(SAMPLES), TttSettings())


def parts_that_recall(key: str = "k1", *, samples: bool = False) -> Parts:
    """Return parts whose cache holds the adapter `key` for a near query."""
    parts = Parts()
    parts.cache.recalled = recalling(adapter=key, samples=SAMPLES if samples else None)
    parts.cache.stored[key] = trained_adapter(key)
    return parts


async def test_a_direct_answer_that_is_accepted_fetches_nothing(face: Face) -> None:
    parts = Parts().rewarding(direct=0.95)

    output = await ask(parts, face)

    assert (output["answer"], output["arm"], output["reward"]) == ("direct", "direct", 0.95)
    assert events(output) == ["answered", "judged", "decided"]
    assert parts.embedder.texts == []
    assert parts.knowledge_base.searches == []
    assert parts.cache.requests == []
    assert parts.cache.states == []
    assert parts.trainer.trainings == []


async def test_rag_is_accepted(face: Face) -> None:
    parts = Parts().rewarding(direct=0.1, rag=0.9)

    output = await ask(parts, face, domain="math", k=1, tenant="acme")

    assert (output["answer"], output["arm"], output["reward"]) == ("rag", "rag", 0.9)
    assert arms(output) == ["direct", "rag"]
    assert parts.embedder.texts == [QUERY]
    assert parts.knowledge_base.searches == [(1, "math", "acme")]
    assert parts.trainer.trainings == []
    prompt = parts.policy_model.requests[1].messages
    assert [turn["content"] for turn in prompt] == [SYSTEM_PROMPT, "question 1", "answer 1", QUERY]


async def test_an_adapter_may_be_trained_and_asked_with_samples(face: Face) -> None:
    parts = Parts().rewarding(direct=0.1, rag=0.2, ttt=0.9)

    output = await ask(parts, face, ttt_shown=1)

    assert arms(output) == ["direct", "rag", "ttt"]
    [examples] = parts.trainer.learnt
    assert [turn["content"] for turn in examples[0].messages] == [
        SYSTEM_PROMPT,
        "question 2",
        "answer 2",
        "question 1",
    ]
    prompt = parts.policy_model.requests[-1].messages
    assert [turn["content"] for turn in prompt] == [SYSTEM_PROMPT, "question 1", "answer 1", QUERY]
    plain = RttcSettings()
    shown = [RttcSettings(ttt_shown=n, rag_template=t) for n in (1, 2) for t in ("", TEMPLATE)]
    assert len({one.training_fingerprint for one in (plain, *shown)}) == 5


async def test_an_adapter_for_whose_samples_there_is_no_room_is_asked_the_question_alone(
    face: Face,
) -> None:
    parts = Parts().rewarding(direct=0.1, rag=0.2, ttt=0.9)
    parts.policy_model.context = 60
    parts.knowledge_base.samples = [{**one, "question": "word " * 200} for one in SAMPLES]

    await ask(parts, face, ttt_shown=1, max_new_tokens=8)

    prompt = parts.policy_model.requests[-1].messages
    assert [turn["content"] for turn in prompt] == [SYSTEM_PROMPT, QUERY]


async def test_answers_after_samples_have_theirs_as_drafts(face: Face) -> None:
    parts = Parts().rewarding(direct=0.1, rag=0.2, ttt=0.9)
    parts.knowledge_base.samples = [sample(2), sample(1), {**sample(3), "answer": "answer 2"}]

    assert arms(await ask(parts, face)) == ["direct", "rag", "ttt"]

    drafts = [request.drafts for request in parts.policy_model.requests]
    assert drafts == [(), ("answer 2", "answer 1"), ("answer 2", "answer 1")]


async def test_ttt_is_accepted_and_its_adapter_is_kept(face: Face) -> None:
    parts = Parts().rewarding(direct=0.1, rag=0.2, ttt=0.9)

    output = await ask(parts, face, domain="math")

    assert (output["answer"], output["arm"], output["reward"]) == ("ttt", "ttt", 0.9)
    assert arms(output) == ["direct", "rag", "ttt"]
    assert parts.trainer.trainings == [(KEY_OF_SAMPLES, 2)]
    assert parts.policy_model.requests[2].adapter == KEY_OF_SAMPLES
    assert output["candidates"][2]["trained_tokens"] == 40
    assert output["cache"] == {"samples": "miss", "adapter": "miss"}
    (state,) = parts.cache.states
    assert (state.query, state.domain, state.adapter, state.reward, state.revision) == (
        QUERY,
        "math",
        KEY_OF_SAMPLES,
        0.9,
        1,
    )
    assert state.samples == SAMPLES
    assert parts.cache.discarded == []


async def test_an_adapter_that_did_not_help_is_discarded(face: Face) -> None:
    parts = Parts().rewarding(direct=0.1, rag=0.6, ttt=0.3)

    output = await ask(parts, face)

    assert (output["answer"], output["reward"]) == ("rag", 0.6)
    assert parts.cache.discarded == [KEY_OF_SAMPLES]
    assert parts.cache.states[0].adapter is None
    assert events(output)[-2:] == ["remembered", "discarded"]


async def test_a_recalled_adapter_is_accepted_without_training(face: Face) -> None:
    parts = parts_that_recall("k1").rewarding(direct=0.1, ttt=0.9)

    output = await ask(parts, face)

    assert (output["answer"], output["arm"]) == ("ttt", "ttt")
    assert arms(output) == ["direct", "ttt"]
    assert parts.trainer.trainings == []
    assert "k1" in parts.trainer.resident
    assert output["candidates"][1]["trained_tokens"] == 0
    assert output["cache"] == {"samples": "miss", "adapter": "hit"}


async def test_a_recalled_adapter_that_is_resident_is_not_loaded_again(face: Face) -> None:
    parts = parts_that_recall("k1").rewarding(direct=0.1, ttt=0.9)
    parts.cache.stored.clear()
    parts.trainer.resident.add("k1")

    assert (await ask(parts, face))["arm"] == "ttt"


async def test_a_recalled_adapter_that_is_gone_is_a_miss(face: Face) -> None:
    parts = parts_that_recall("k1").rewarding(direct=0.1, rag=0.9)
    parts.cache.stored.clear()

    output = await ask(parts, face)

    assert arms(output) == ["direct", "rag"]
    assert output["cache"]["adapter"] == "miss"


async def test_a_recalled_adapter_judged_low_leads_to_rag_and_then_to_training(face: Face) -> None:
    parts = parts_that_recall("k1").rewarding(direct=0.1, rag=0.2, ttt=0.3)

    output = await ask(parts, face)

    assert arms(output) == ["direct", "ttt", "rag", "ttt"]
    assert [c["adapter"] for c in output["candidates"]] == [None, "k1", None, KEY_OF_SAMPLES]
    assert parts.trainer.trainings == [(KEY_OF_SAMPLES, 2)]


async def test_a_recalled_adapter_of_the_same_samples_is_not_trained_again(face: Face) -> None:
    parts = parts_that_recall(KEY_OF_SAMPLES).rewarding(direct=0.1, rag=0.2, ttt=0.3)

    output = await ask(parts, face)

    assert arms(output) == ["direct", "ttt", "rag"]
    assert parts.trainer.trainings == []
    assert (output["arm"], output["reward"]) == ("ttt", 0.3)
    assert parts.cache.discarded == []  # it was not this run that trained it


async def test_recalled_samples_save_the_search(face: Face) -> None:
    parts = parts_that_recall("k1", samples=True).rewarding(direct=0.1, rag=0.9, ttt=0.2)

    output = await ask(parts, face)

    assert output["answer"] == "rag"
    assert parts.knowledge_base.searches == []
    assert output["cache"] == {"samples": "hit", "adapter": "hit"}


async def test_an_adapter_of_the_same_samples_in_the_cache_saves_the_training(face: Face) -> None:
    parts = Parts().rewarding(direct=0.1, rag=0.2, ttt=0.9)
    parts.cache.stored[KEY_OF_SAMPLES] = trained_adapter(KEY_OF_SAMPLES)

    output = await ask(parts, face)

    assert output["arm"] == "ttt"
    assert parts.trainer.trainings == []
    assert KEY_OF_SAMPLES in parts.trainer.resident
    assert output["candidates"][2]["trained_tokens"] == 0
    assert output["cache"] == {"samples": "miss", "adapter": "hit"}
    assert events(output, of="ttt_adapt") == ["reused"]


async def test_the_cache_is_asked_with_the_settings_of_the_run(face: Face) -> None:
    parts = Parts().rewarding(rag=1.0)

    await ask(parts, face, domain="math", tenant="acme", k=3, adapter_similarity=0.8, ttt_rank=4)

    (request,) = parts.cache.requests
    assert (request.domain, request.tenant, request.k) == ("math", "acme", 3)
    assert (request.samples_similarity, request.adapter_similarity) == (0.97, 0.8)
    assert request.base_fingerprint == "base"
    assert request.training_fingerprint == TttSettings(rank=4).fingerprint()


@pytest.mark.parametrize("choice", [None, "nearest", "sift"])
async def test_how_samples_are_chosen_reaches_every_part(face: Face, choice: str | None) -> None:
    parts = Parts().rewarding(rag=1.0)
    given: dict[str, Any] = {} if choice is None else {"samples_choice": choice}
    expected = choice or "nearest"

    output = await ask(parts, face, **given)

    (request,), (state,) = parts.cache.requests, parts.cache.states
    assert parts.knowledge_base.choices == [request.choice] == [state.choice] == [expected]
    told = [e["detail"]["choice"] for e in output["ledger"] if e["node"] == "retrieve"]
    assert told == [expected, expected]  # `recalled` and `retrieved`
    trained = RttcSettings(**given).training_fingerprint
    assert request.training_fingerprint == state.training_fingerprint == trained


async def test_without_use_cache_the_cache_is_left_alone(face: Face) -> None:
    parts = parts_that_recall("k1").rewarding(ttt=0.9)

    output = await ask(parts, face, use_cache=False)

    assert parts.cache.requests == []
    assert parts.cache.states == []
    assert list(parts.cache.stored) == ["k1"]
    assert (arms(output), len(parts.trainer.trainings)) == (["direct", "rag", "ttt"], 1)


@pytest.mark.parametrize(
    ("rewards", "best", "run"),
    [
        pytest.param(
            {"direct": 0.1, "rag": 0.95, "ttt": 0.99},
            "ttt",
            ["direct", "rag", "ttt"],
            id="ttt-better",
        ),
        pytest.param(
            {"direct": 0.1, "rag": 0.4, "ttt": 0.3},
            "rag",
            ["direct", "rag", "ttt"],
            id="rag-better",
        ),
        pytest.param(
            {"direct": 0.5, "rag": 0.4, "ttt": 0.3},
            "direct",
            ["direct", "rag", "ttt"],
            id="neither",
        ),
        pytest.param({"direct": 0.95, "rag": 1.0, "ttt": 1.0}, "direct", ["direct"], id="accepted"),
    ],
)
async def test_compare_takes_the_better(
    face: Face, rewards: dict[str, float], best: str, run: list[str]
) -> None:
    output = await ask(Parts().rewarding(**rewards), face, policy="compare")
    assert (output["answer"], output["reward"]) == (best, rewards[best])
    assert arms(output) == run


@pytest.mark.parametrize(
    ("rewards", "best"),
    [
        pytest.param({"direct": 0.5, "rag": 0.5, "ttt": 0.5}, "direct", id="all-equal"),
        pytest.param({"direct": 0.1, "rag": 0.5, "ttt": 0.5}, "rag", id="rag-and-ttt-equal"),
        pytest.param({"direct": 0.5, "rag": 0.1, "ttt": 0.5}, "direct", id="direct-and-ttt-equal"),
    ],
)
@pytest.mark.parametrize("policy", ["cascade", "compare"])
async def test_ties_go_to_the_cheaper_arm(
    face: Face, policy: str, rewards: dict[str, float], best: str
) -> None:
    assert (await ask(Parts().rewarding(**rewards), face, policy=policy))["arm"] == best


@pytest.mark.parametrize("policy", ["direct", "rag", "ttt"])
@pytest.mark.parametrize("reward", [0.0, 1.0], ids=["judged-low", "judged-high"])
async def test_a_policy_of_one_arm_runs_that_arm_once(
    face: Face, policy: str, reward: float
) -> None:
    output = await ask(Parts().rewarding(**{policy: reward}), face, policy=policy)
    assert (output["arm"], arms(output), output["reward"]) == (policy, [policy], reward)


def without(*names: str) -> dict[str, Any]:
    return {name: part for name, part in Parts().parts().items() if name not in names}


@pytest.mark.parametrize(
    ("left_out", "nodes"),
    [
        pytest.param((), {"retrieve", "nearest", "rag_generate", "ttt_adapt"}, id="all-parts"),
        pytest.param(
            ("cache", "ledger_store"),
            {"retrieve", "nearest", "rag_generate", "ttt_adapt"},
            id="no-cache",
        ),
        pytest.param(("trainer",), {"retrieve", "nearest", "rag_generate"}, id="no-trainer"),
        pytest.param(("trainer", "embedder", "knowledge_base"), set[str](), id="no-knowledge-base"),
    ],
)
async def test_a_graph_has_the_nodes_and_arms_of_its_parts(
    face: Face, left_out: tuple[str, ...], nodes: set[str]
) -> None:
    parts: Any = without(*left_out)
    always = {"prepare", "generate", "panel_round", "reward_judge"}
    assert nodes_of(create_rttc_graph(**parts)) == always | nodes

    output = await ask(parts, face)

    assert failures(output["ledger"]) == []
    expected = ["direct"] + ["rag"] * ("rag_generate" in nodes) + ["ttt"] * ("ttt_adapt" in nodes)
    assert arms(output) == expected


@pytest.mark.parametrize(
    ("left_out", "policy"),
    [
        pytest.param(("trainer",), "ttt", id="ttt-without-a-trainer"),
        pytest.param(("trainer", "embedder", "knowledge_base"), "rag", id="rag-without-samples"),
        pytest.param(("trainer", "embedder", "knowledge_base"), "ttt", id="ttt-without-samples"),
    ],
)
async def test_a_policy_without_its_arm_is_refused_before_any_work(
    face: Face, left_out: tuple[str, ...], policy: str
) -> None:
    parts: Any = without(*left_out)
    with pytest.raises(ConfigurationError, match=f"policy='{policy}' needs an arm"):
        await ask(parts, face, policy=policy)
    assert parts["policy_model"].requests == []


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        pytest.param(without("embedder"), "embedder and knowledge_base", id="no-embedder"),
        pytest.param(
            without("knowledge_base"), "embedder and knowledge_base", id="no-knowledge-base"
        ),
        pytest.param(
            without("embedder", "knowledge_base"), "a trainer needs samples", id="a-trainer-alone"
        ),
        pytest.param(without("policy_model"), "'policy_model'", id="no-policy-model"),
        pytest.param(without("reward_model"), "'reward_model'", id="no-reward-model"),
        pytest.param({**without(), "knowlege_base": None}, "'knowlege_base'", id="a-misspelt-part"),
    ],
)
def test_parts_that_do_not_go_together_are_refused(parts: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        create_rttc_graph(**parts)
