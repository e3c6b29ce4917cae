"""Graph of thoughts in runs: a toy model that splits in known ways, and graphs worked by hand."""

from __future__ import annotations

import asyncio
import io
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from graph_runs import QUERY, ask, ask_in_pieces, events, failures, until
from rich.console import Console
from scripted_parts import (
    Parts,
    ScriptedEmbedder,
    ScriptedKnowledgeBase,
    recalling,
    sample,
    trained_adapter,
)
from scripted_thoughts import Split, ThinkingModel, as_json, asked, is_split

from rttc_graph import RttcSettings
from rttc_graph.cli.step_tree_view import thought_trees
from rttc_graph.errors import EmbeddingError, KnowledgeBaseError
from rttc_graph.graph import create_rttc_graph
from rttc_graph.integrations.rewards.callable_reward import CallableReward
from rttc_graph.integrations.transformers.local_engine import LocalEngine
from rttc_graph.integrations.transformers.transformers_policy_model import TransformersPolicyModel
from rttc_graph.protocols import Generation, GenerationRequest, SearchResult

PARTS: Split = (("how much is a", ()), ("how much is b more than a", (1,)), ("how much is c", ()))


ANSWERS: Mapping[str, tuple[str, Sequence[str]]] = {
    QUERY: ("all right", ("a right", "b right", "c right")),
    "how much is a": ("a right", ()),
    "how much is b more than a": ("b right", ("how much is a a right",)),
    "how much is c": ("c right", ()),
}
REWARDS = {"all right": 0.95, "a right": 0.95, "b right": 0.93, "c right": 0.92, "wrong": 0.2}


class ApartEmbedder(ScriptedEmbedder):
    """Finds no two texts alike."""

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        await super().embed(texts)
        places = [list(dict.fromkeys(self.texts)).index(text) for text in texts]
        return [[float(place == at) for at in range(200)] for place in places]


def parts_that(
    splits: Mapping[str, Split | str],
    answers: Mapping[str, tuple[str, Sequence[str]]] = ANSWERS,
    rewards: Mapping[str, float] | None = None,
) -> tuple[ThinkingModel, Parts]:
    model = ThinkingModel(splits=splits, answers=answers)
    parts = Parts(policy_model=model)
    parts.reward_model.rewards = {**REWARDS, **(rewards or {})}
    parts.embedder = ApartEmbedder()
    return model, parts


SETTINGS: dict[str, Any] = {"policy": "graph_of_thoughts", "search_from": ("direct",), "k": 2}


def drawn_from(*names: str) -> dict[str, Any]:
    return SETTINGS | {"search_from": names}


def thoughts_of(output: Mapping[str, Any]) -> list[dict[str, Any]]:
    [stopped] = [one["detail"] for one in output["ledger"] if one["event"] == "stopped"]
    return list(stopped.get("thoughts", []))


def reason_of(output: Mapping[str, Any]) -> str:
    [stopped] = [one["detail"] for one in output["ledger"] if one["event"] == "stopped"]
    return str(stopped["reason"])


async def test_a_graph_is_answered_layer_by_layer_as_worked_by_hand() -> None:
    model, parts = parts_that({QUERY: PARTS})
    output = await ask(parts, **SETTINGS)
    assert (output["answer"], output["reward"], output["accepted"]) == ("all right", 0.95, True)
    assert [[asked(one) for one in call] for call in model.calls] == [
        [QUERY],
        [QUERY],
        ["how much is a", "how much is c"],
        ["how much is b more than a"],
        [QUERY],
    ]
    direct, split, layer, second, last = model.calls
    assert direct[0].messages[-1]["content"] == QUERY
    assert json.loads(split[0].answer_schema)["properties"]["questions"]["maxItems"] == 3
    assert {one.answer_schema for call in (direct, layer, second, last) for one in call} == {""}
    assert second[0].messages[-1]["content"] == (
        "Worked out already:\n- how much is a a right\n\nhow much is b more than a"
    )
    assert (
        last[0]
        .messages[-1]["content"]
        .startswith(
            "Worked out already:\n- how much is a a right\n- how much is b more than a b right\n"
        )
    )
    thoughts = thoughts_of(output)
    assert [(one["parent"], one["needs"], one["answer"], one["p"]) for one in thoughts] == [
        (None, [], "all right", 0.95),
        (0, [], "a right", 0.95),
        (0, [1], "b right", 0.93),
        (0, [], "c right", 0.92),
    ]
    assert thoughts[0]["parts"] == [1, 2, 3]
    assert [one["known"] for one in thoughts] == [[1, 2, 3], [], [1], []]
    assert thoughts[0]["why"] == "split into 3: its reward 0.200 is below τr 0.9"
    assert thoughts[1]["why"] == "its reward 0.950 is at least τr 0.9"
    assert failures(output["ledger"]) == []


async def test_every_token_is_counted_once() -> None:
    model, parts = parts_that({QUERY: PARTS})
    output = await ask(parts, **SETTINGS)
    prompts = [await model.count_tokens(one.messages) for call in model.calls for one in call]
    [candidate] = output["candidates"]
    assert candidate["prompt_tokens"] == sum(prompts)
    assert candidate["completion_tokens"] == 3 * len(prompts)
    [stopped] = [one["detail"] for one in output["ledger"] if one["event"] == "stopped"]
    told = sum(one["tokens"] for one in stopped["thoughts"])
    assert stopped["tokens"] == told == sum(prompts) + 3 * len(prompts)
    [run] = parts.ledger_store.runs
    drawn = [e["detail"] for e in run.entries if e["event"] == "drawn"]
    assert sum(e["prompt_tokens"] + e["completion_tokens"] for e in drawn) == stopped["tokens"]


async def test_an_answer_that_passes_is_not_split() -> None:
    model, parts = parts_that({QUERY: PARTS}, {QUERY: ("all right", ())})
    output = await ask(parts, **SETTINGS)
    assert output["answer"] == "all right"
    assert len(model.calls) == 1
    assert [one["why"] for one in thoughts_of(output)] == ["its reward 0.950 is at least τr 0.9"]


async def test_an_answer_from_parts_that_is_judged_worse_is_not_taken() -> None:
    _, parts = parts_that({QUERY: PARTS}, rewards={"all right": 0.1})
    output = await ask(parts, **SETTINGS)
    assert (output["answer"], output["reward"]) == ("wrong", 0.2)
    root = thoughts_of(output)[0]
    assert (root["status"], root["known"]) == ("joined", [])


NESTED: Mapping[str, Split | str] = {
    QUERY: (("how much is a", ()), ("how much is c", ())),
    "how much is a": (("how much is d", ()), ("how much is e", ())),
}
NESTED_ANSWERS: Mapping[str, tuple[str, Sequence[str]]] = {
    QUERY: ("all right", ("a right", "c right")),
    "how much is a": ("a right", ("d right", "e right")),
    "how much is c": ("c right", ()),
    "how much is d": ("d right", ()),
    "how much is e": ("e right", ()),
}


@pytest.mark.parametrize(("depth", "answer"), [(2, "all right"), (1, "wrong")])
async def test_a_part_below_tau_r_is_split_again_within_the_depth(depth: int, answer: str) -> None:
    model, parts = parts_that(NESTED, NESTED_ANSWERS, {"d right": 0.95, "e right": 0.95})
    output = await ask(parts, **SETTINGS, search_thought_depth=depth)
    assert output["answer"] == answer
    thoughts = thoughts_of(output)
    if depth == 1:
        assert thoughts[1]["why"] == "search_thought_depth=1 is reached"
        assert len(thoughts) == 3
        return
    assert [(one["depth"], one["parent"]) for one in thoughts] == [
        (0, None), (1, 0), (1, 0), (2, 1), (2, 1),
    ]  # fmt: skip
    assert thoughts[1]["status"] == "joined"
    assert [[asked(one) for one in call] for call in model.calls[2:]] == [
        ["how much is a", "how much is c"],
        ["how much is a"],
        ["how much is d", "how much is e"],
        ["how much is a"],
        [QUERY],
    ]


class Endless(dict[str, Any]):
    """Splits of a model that splits whatever it is asked, into six."""

    def get(self, question: str, default: Any = None) -> Any:
        return [(f"{question} part {n}", [n - 1] if n > 1 else []) for n in range(1, 7)]


@pytest.mark.parametrize(("most", "each"), [(1, 3), (2, 1), (5, 3), (8, 8), (24, 2)])
async def test_the_budget_of_questions_is_never_exceeded(most: int, each: int) -> None:
    model, parts = parts_that(Endless(), {})
    settings: dict[str, Any] = {
        "search_thoughts": most,
        "search_thought_parts": each,
        "search_thought_depth": 4,
    }
    output = await ask(parts, **SETTINGS, **settings, budget_tokens=200_000)
    thoughts = thoughts_of(output)
    assert len(thoughts) - 1 <= most
    assert all(len(one["parts"]) <= each and one["depth"] <= 4 for one in thoughts)
    assert all(need < len(thoughts) for one in thoughts for need in one["needs"])
    assert output["answer"] == "wrong"
    assert failures(output["ledger"]) == []
    assert len(model.calls) <= 16


@pytest.mark.parametrize("tokens", [40, 150, 300, 600, 900, 1_500, 3_000])
async def test_the_budget_of_tokens_is_never_exceeded(tokens: int) -> None:
    model, parts = parts_that(Endless(), {})
    output = await ask(parts, **SETTINGS, budget_tokens=tokens, max_new_tokens=20)
    prompts = [await model.count_tokens(one.messages) for call in model.calls for one in call]
    longest = [one.max_new_tokens for call in model.calls for one in call]
    assert sum(prompts) + 3 * len(prompts) <= tokens
    reserved = sum(prompts[:-1]) + 3 * (len(prompts) - 1) + prompts[-1] + longest[-1]
    assert reserved <= tokens  # the last one would have fit at its longest
    assert output["answer"] == "wrong"
    if tokens >= 900:
        assert any(one["status"] == "joined" for one in thoughts_of(output))


SAYINGS = [
    pytest.param("no idea", "names no question", id="talk"),
    pytest.param('{"questions": [{"quest', "names no question", id="cut"),
    pytest.param('{"questions": []}', "names no question", id="empty"),
    pytest.param(as_json([(QUERY.upper(), ())]), "names no new question", id="the-same"),
    pytest.param(as_json([("long " * 100, ())]), "names no new question", id="long"),
]


@pytest.mark.parametrize(("said", "why"), SAYINGS)
async def test_a_split_that_is_none_leaves_the_direct_answer(said: str, why: str) -> None:
    _, parts = parts_that({QUERY: said})
    output = await ask(parts, **SETTINGS)
    assert output["answer"] == "wrong"
    assert why in thoughts_of(output)[0]["why"]
    assert why in reason_of(output)
    assert failures(output["ledger"]) == []


@pytest.mark.parametrize(
    "said",
    ["1. how much is a\n2. how much is c", f"Of course: {as_json(PARTS)[:75]}", as_json(PARTS)],
    ids=["list", "cut-json", "json"],
)
async def test_a_model_that_follows_no_schemas_is_read_as_it_speaks(said: str) -> None:
    model, parts = parts_that({QUERY: said})
    model.follows_schemas = False
    output = await ask(parts, **SETTINGS)
    assert {one.answer_schema for call in model.calls for one in call} == {""}
    assert [one["question"] for one in thoughts_of(output)][1] == "how much is a"
    assert thoughts_of(output)[0]["status"] == "joined"


async def test_a_circle_is_cut_and_told() -> None:
    _, parts = parts_that({QUERY: (("how much is a", (2,)), ("how much is c", (1,)))})
    output = await ask(parts, **SETTINGS)
    [split] = [one["detail"] for one in output["ledger"] if one["event"] == "split"]
    assert split["dropped"] == ["question 2 needs question 1, in a circle"]
    assert [one["needs"] for one in thoughts_of(output)] == [[], [2], []]


@pytest.mark.parametrize("call", [1, 2, 4], ids=["split", "parts", "last"])
async def test_a_model_that_fails_later_costs_no_answer(call: int) -> None:
    model, parts = parts_that({QUERY: PARTS})
    model.breaks_at = call
    output = await ask(parts, **SETTINGS)
    assert (output["answer"], output["reward"]) == ("wrong", 0.2)
    assert any("the model is gone" in one for one in failures(output["ledger"]))


async def test_without_rewards_nothing_is_split() -> None:
    model, parts = parts_that({QUERY: PARTS})
    parts.reward_model.error = RuntimeError("no judge")
    output = await ask(parts, **SETTINGS)
    assert output["answer"] == "wrong"
    assert len(model.calls) == 1
    assert reason_of(output) == "its answer has no reward"


async def test_a_cancelled_run_stops_its_questions() -> None:
    model, parts = parts_that({QUERY: PARTS})
    model.seconds = 0.0
    task = asyncio.create_task(ask(parts, **SETTINGS))
    await until(lambda: len(model.calls) == 2)
    model.seconds = 60.0
    await until(lambda: len(model.calls) == 3)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert model.cancelled == 1


async def test_where_samples_do_not_fit_the_last_answer_is_drawn_without() -> None:
    model, parts = parts_that({QUERY: PARTS})
    model.context = 700
    parts.knowledge_base = ScriptedKnowledgeBase([{**sample(1), "answer": "word " * 700}])
    settings: dict[str, Any] = SETTINGS | {"search_from": ("rag", "direct"), "search_n": 2}
    output = await ask(parts, **settings)
    assert output["answer"] == "all right"


async def test_the_deadline_leaves_the_direct_answer() -> None:
    model, parts = parts_that({QUERY: PARTS})

    async def slow(
        requests: Sequence[GenerationRequest], *, deadline: float | None = None
    ) -> list[Generation]:
        if model.calls:
            await asyncio.sleep(0.4)
        return await ThinkingModel.generate(model, requests, deadline=deadline)

    model.generate = slow  # type: ignore[method-assign]
    output = await ask(parts, **SETTINGS, budget_seconds=0.3)
    assert output["answer"] == "wrong"
    assert reason_of(output) == "budget of seconds is spent"
    assert [one["status"] for one in thoughts_of(output)] == ["split", "open", "open", "open"]


async def test_the_same_seed_gives_the_same_graph() -> None:
    found: list[tuple[list[dict[str, Any]], list[list[GenerationRequest]]]] = []
    for _ in range(2):
        model, parts = parts_that(NESTED, NESTED_ANSWERS, {"d right": 0.95})
        output = await ask(parts, **SETTINGS, seed=7, temperature=0.5)
        found.append((thoughts_of(output), model.calls))
    assert found[0] == found[1]
    assert len({one.seed for call in found[0][1] for one in call}) > 4


async def test_a_graph_goes_on_from_the_checkpoint_of_any_round() -> None:
    settings: dict[str, Any] = drawn_from("rag", "direct") | {"search_n": 4}
    found = [
        await ask_way(parts_that(NESTED, NESTED_ANSWERS, {"d right": 0.95})[1].parts(), **settings)
        for ask_way in (ask, ask_in_pieces)
    ]
    assert thoughts_of(found[0]) == thoughts_of(found[1])
    assert len(thoughts_of(found[0])) == 5
    assert found[0]["answer"] == found[1]["answer"]
    assert failures(found[1]["ledger"]) == []


# --- samples and adapters ------------------------------------------------------------------------


async def test_questions_have_samples_of_their_own_which_are_sources_of_the_answer() -> None:
    answers = {QUERY: ("all right", ("a right",)), "how much is a": ("a right", ())}
    model, parts = parts_that({QUERY: (("how much is a", ()),)}, answers)
    parts.knowledge_base = ScriptedKnowledgeBase([sample(1), sample(2)])
    output = await ask(parts, **drawn_from("rag"), domain="math")
    assert (
        parts.knowledge_base.searches == [(2, "math", "default")] * 2
    )  # the run's, and the part's
    _, _, [part], [last] = model.calls
    assert any("question 1" in turn["content"] for turn in part.messages)
    assert any("question 1" in turn["content"] for turn in last.messages)
    assert {one["id"] for one in output["sources"] if one["taken"]} == {
        sample(1)["id"],
        sample(2)["id"],
    }
    [judged] = [e["detail"] for e in output["ledger"] if e["event"] == "judged_thoughts"]
    assert (judged["thoughts"], judged["rewards"]) == ([1], [[0.95]])


class FarLater(ScriptedKnowledgeBase):
    async def search(self, *given: Any, **more: Any) -> SearchResult:
        found = await super().search(*given, **more)
        if len(self.searches) == 1:
            return found
        return replace(found, samples=[{**one, "similarity": 0.1} for one in found.samples])


async def test_a_part_that_no_sample_is_near_to_is_asked_plainly() -> None:
    model, parts = parts_that({QUERY: PARTS})
    parts.knowledge_base = FarLater()
    output = await ask(parts, **drawn_from("rag"), evidence_similarity=0.5)
    direct, _, layer, _, last = model.calls
    assert [len(one.messages) for one in (*direct, *layer, *last)] == [6, 2, 2, 6]
    assert output["answer"] == "all right"


@pytest.mark.parametrize("broken", ["knowledge base", "embedder"])
async def test_what_finds_samples_may_fail_later(broken: str) -> None:
    _, parts = parts_that({QUERY: PARTS})
    embed = parts.embedder.embed

    async def fails(texts: Sequence[str]) -> list[list[float]]:
        if len(texts) == 1:
            return await embed(texts)
        if broken == "knowledge base":
            parts.knowledge_base.error = KnowledgeBaseError("gone")
            return await embed(texts)
        raise EmbeddingError("gone")

    parts.embedder.embed = fails  # type: ignore[method-assign]
    output = await ask(parts, **drawn_from("direct", "rag"))
    assert output["answer"] == "all right"
    assert any("gone" in one for one in failures(output["ledger"]))


async def test_questions_that_mean_the_same_are_asked_once() -> None:
    model, parts = parts_that({QUERY: (("how much is a", ()), ("what does a come to", ()))})

    async def alike(texts: Sequence[str]) -> list[list[float]]:
        return [[1.0, 0.0] if " a" in text and text != QUERY else [0.0, 1.0] for text in texts]

    parts.embedder.embed = alike  # type: ignore[method-assign]
    output = await ask(parts, **SETTINGS)
    assert [one["question"] for one in thoughts_of(output)] == [QUERY, "how much is a"]
    assert [len(call) for call in model.calls] == [1, 1, 1, 1]


async def test_questions_are_asked_with_the_adapter_in_hand() -> None:
    model, parts = parts_that({QUERY: PARTS})
    parts.cache.recalled = recalling(adapter="a1")
    parts.cache.stored["a1"] = trained_adapter("a1")
    output = await ask(parts, **drawn_from("recalled"))
    answering = [one for call in model.calls for one in call if not is_split(one)]
    splitting = [one for call in model.calls for one in call if is_split(one)]
    assert {one.adapter for one in answering} == {"a1"}
    assert {one.adapter for one in splitting} == {None}
    assert output["answer"] == "all right"


async def test_every_proposer_answers_each_question_in_one_call() -> None:
    model, parts = parts_that({QUERY: PARTS})
    await ask(parts, **drawn_from("direct", "rag"))
    assert [len(call) for call in model.calls] == [2, 1, 4, 2, 2]


# --- to be seen ----------------------------------------------------------------------------------


async def test_the_graph_is_drawn_in_the_terminal_and_streamed() -> None:
    _, parts = parts_that({QUERY: PARTS})
    graph = create_rttc_graph(**parts.parts())
    context = RttcSettings(tau_r=0.9, **SETTINGS)
    stream = graph.astream({"query": QUERY}, context=context, stream_mode="custom")
    told: list[Any] = [event async for event in stream]
    sizes = [len(e.get("thoughts", ())) for e in told if e["event"] == "panel"]
    assert sizes == [1, 4, 4, 4, 4]
    output = await ask(parts, **SETTINGS)
    [tree] = thought_trees(output["ledger"])
    shown_to = io.StringIO()
    Console(width=160, file=shown_to).print(tree)
    shown = shown_to.getvalue()
    assert "graph_of_thoughts: 4 questions" in shown
    assert "2 P 0.93 how much is b more than a b right" in shown
    assert "needs 1" in shown
    assert shown.count("✓") == 4  # each led to the kept answer
    assert json.loads(json.dumps(thoughts_of(output))) == thoughts_of(output)


async def test_on_a_real_engine_a_random_model_fills_the_form(
    tiny_model_path: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_model_path, tmp_path / "long")  # the form has a long prompt
    config = json.loads((folder / "config.json").read_text())
    config["max_position_embeddings"] = 4096
    (folder / "config.json").write_text(json.dumps(config))
    engine = LocalEngine(folder, device="cpu", threads=1, prefix_cache_bytes=2**24)
    parts = Parts()
    graph = create_rttc_graph(
        policy_model=TransformersPolicyModel(engine),
        reward_model=CallableReward(lambda query, answer: (len(answer) % 7) / 20),
        embedder=parts.embedder,
        knowledge_base=parts.knowledge_base,
        settings=RttcSettings(
            **SETTINGS, max_new_tokens=8, search_thoughts=2, search_thought_parts=1, temperature=0.9
        ),
    )
    found = [await graph.ainvoke({"query": "what is the rain?"}) for _ in range(2)]
    engine.close()
    graphs = [thoughts_of(one) for one in found]
    assert graphs[0] == graphs[1]
    assert failures(found[0]["ledger"]) == []
    assert "split" in events(found[0])
