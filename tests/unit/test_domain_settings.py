"""Settings of a domain: prompts, τr and arms, from a file and as a part of a graph."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, cast

import pytest
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from scripted_parts import Parts, sample

from rttc_graph import ConfigurationError, RttcParts, RttcSettings, create_rttc_graph
from rttc_graph.installation.config import load_config
from rttc_graph.run.prompts import direct_messages, rag_messages, training_examples
from rttc_graph.settings import PromptSettings
from rttc_graph.state import ChatTurn, Sample

TABLES = """
tau_r = 0.5
[domains.bank]
system_prompt = "You serve a bank."
tau_r = 0.8
arms = "rag,ttt"
[domains.shop]
rag_template = "Known: {samples} Asked: {question}"
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith("RTTC_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_table_holds_for_its_domain_and_flags_and_environment_before_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "rttc.toml").write_text(TABLES)
    bank = load_config().run_settings("bank")
    assert (bank.tau_r, bank.arms, bank.system_prompt) == (0.8, ("rag", "ttt"), "You serve a bank.")
    assert load_config().run_settings("shop").tau_r == 0.5
    assert load_config().run_settings("elsewhere") == load_config().run_settings()
    assert load_config(tau_r=0.6).run_settings("bank").tau_r == 0.6
    assert load_config(first_arm="rag").run_settings("bank").wanted_arms == ("rag", "ttt")
    monkeypatch.setenv("RTTC_TAU_R", "0.7")
    assert load_config().run_settings("bank").tau_r == 0.7
    monkeypatch.setenv("RTTC_SYSTEM_PROMPT", "Be brief.")
    assert load_config().run_settings("bank").system_prompt == "Be brief."


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("taur = 1", "unknown setting 'taur' of domain 'bank': did you mean 'tau_r'"),
        ("tenant = 'a'", "unknown setting 'tenant' of domain 'bank'"),
        ("home = 'a'", "unknown setting 'home' of domain 'bank'"),
        ("model = 'b'", "domain 'bank' has 'model' of its own, and a graph has one for all"),
        ("embedder = 'b'", "write a second settings file with that embedder"),
        ("tau_r = 2", "domain 'bank': tau_r=2: "),
        ("rag_template = 'Use {samples}.'", "domain 'bank': rag_template='Use {samples}.' has no"),
        ("rag_template = 'Hm'", "has no {samples} and no {question}: write"),
        ("system_prompt = ''", "domain 'bank': system_prompt=''"),
        ("arms = 'ragg'", "domain 'bank': arms"),
    ],
)
def test_a_wrong_table_is_named(folder: Path, table: str, words: str) -> None:
    (folder / "rttc.toml").write_text(f"[domains.bank]\n{table}\n")
    with pytest.raises(ConfigurationError) as caught:
        load_config()
    assert words in str(caught.value)
    assert "'rttc.toml'" in str(caught.value)


def test_a_system_prompt_is_in_every_prompt_and_in_what_is_learnt() -> None:
    prompts = PromptSettings(system_prompt="Be brief.")
    first = {"role": "system", "content": "Be brief."}
    near = [sample(1)]
    assert direct_messages("q", (), prompts)[0] == first
    assert rag_messages("q", near, (), prompts)[0] == first
    assert training_examples(near, prompts)[0].messages[0] == first
    own: list[ChatTurn] = [{"role": "system", "content": "Say please."}]
    assert direct_messages("q", own)[0]["content"] == "Say please."
    both = direct_messages("q", own, prompts)
    assert both[0]["content"] == "Be brief.\n\nSay please."


def test_a_template_shows_samples_and_question_and_leaves_other_braces() -> None:
    prompts = PromptSettings(rag_template='{"known": {samples}, "asked": {question}}')
    near = [{**sample(1), "question": "near {question}"}, {**sample(2), "answer": "{samples}"}]
    _, turn = rag_messages("what {samples}?", cast("list[Sample]", near), (), prompts)
    assert turn["content"] == (
        '{"known": Question: question 2\nAnswer: {samples}\n\n'
        'Question: near {question}\nAnswer: answer 1, "asked": what {samples}?}'
    )
    assert rag_messages("q", [], (), prompts) == direct_messages("q")


def test_an_adapter_of_another_system_prompt_is_not_recalled() -> None:
    plain, brief = RttcSettings(), RttcSettings(system_prompt="Be brief.")
    assert plain.training_fingerprint == plain.ttt.fingerprint()
    assert brief.training_fingerprint != plain.training_fingerprint
    assert brief.training_fingerprint != RttcSettings(system_prompt="Be!").training_fingerprint


DOMAINS: dict[str, dict[str, Any]] = {
    "math": {"tau_r": 0.9, "system_prompt": "Count.", "arms": "rag"},
    "other": {"k": 1},
}


def with_domains(parts: Parts, domains: dict[str, dict[str, Any]] = DOMAINS) -> RttcParts:
    return {**parts.parts(), "domains": domains}


def asked(parts: Parts) -> list[str]:
    """Return the system prompt of each request."""
    return [request.messages[0]["content"] for request in parts.policy_model.requests]


async def test_a_graph_takes_the_settings_of_the_question_s_domain() -> None:
    parts = Parts()
    graph = create_rttc_graph(**with_domains(parts))

    output = await graph.ainvoke({"query": "q", "domain": "math"})
    assert output["tau_r"] == 0.9
    assert set(asked(parts)) == {"Count."}
    output = await graph.ainvoke({"query": "q", "domain": "math"}, context=RttcSettings(tau_r=0.1))
    assert (output["tau_r"], set(asked(parts))) == (0.1, {"Count."})
    output = await graph.ainvoke({"query": "q"}, context=RttcSettings(domain="math"))
    assert output["tau_r"] == 0.9
    said = HumanMessage("q", additional_kwargs={"domain": "math"})
    output = await graph.ainvoke({"messages": [said]})
    assert output["tau_r"] == 0.9
    output = await graph.ainvoke({"query": "q"})
    assert output["tau_r"] == 0.5


def test_the_sync_face_takes_them_too() -> None:
    graph = create_rttc_graph(**with_domains(Parts()))
    assert graph.invoke({"query": "q", "domain": "math"})["tau_r"] == 0.9


async def test_a_thread_takes_each_question_s_own_domain() -> None:
    parts = Parts()
    graph = create_rttc_graph(**with_domains(parts), checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "1"}}
    first = await graph.ainvoke({"query": "q", "domain": "math"}, config)
    second = await graph.ainvoke({"query": "q"}, config)
    third = await graph.ainvoke({"query": "q", "domain": "math"}, config)
    assert [run["tau_r"] for run in (first, second, third)] == [0.9, 0.5, 0.9]


def test_a_graph_refuses_a_domain_s_wrong_settings_when_it_is_built() -> None:
    with pytest.raises(ConfigurationError, match="unknown setting 'taur' of domain 'math'"):
        create_rttc_graph(**with_domains(Parts(), {"math": {"taur": 1}}))


TALK: list[AnyMessage] = [
    HumanMessage("Who wrote Faust?"),
    AIMessage("Goethe."),
    HumanMessage("And when?"),
]


async def test_a_follow_up_is_rewritten_before_retrieval() -> None:
    parts = Parts()
    parts.policy_model.texts = {"direct": '"When did Goethe write Faust?"\nI hope that helps.'}
    graph = create_rttc_graph(**parts.parts())
    settings = RttcSettings(rewrite_follow_ups=True, arms=("nearest",), tau_r=0)

    wanted = ["searched_with", "ledger", "task", "spent"]
    state = await graph.ainvoke({"messages": TALK}, context=settings, output_keys=wanted)

    assert state["searched_with"] == "When did Goethe write Faust?"
    assert state["task"]["query"] == "And when?"
    assert parts.embedder.texts[-1] == "When did Goethe write Faust?"
    [entry] = [e for e in state["ledger"] if e["event"] == "rewritten"]
    assert entry["detail"]["question"] == "When did Goethe write Faust?"
    [request] = parts.policy_model.requests
    assert "User: Who wrote Faust?\nAssistant: Goethe." in request.messages[1]["content"]
    tokens = entry["detail"]["prompt_tokens"] + entry["detail"]["completion_tokens"]
    assert 0 < tokens == state["spent"]["tokens"]
    assert parts.reward_model.queries == ["When did Goethe write Faust?"]


@pytest.mark.parametrize(
    ("given", "rewrite"),
    [
        pytest.param({"messages": TALK}, False, id="off"),
        pytest.param({"messages": TALK[-1:]}, True, id="no-history"),
        pytest.param({"query": "And when?"}, True, id="a-query"),
    ],
)
async def test_nothing_is_rewritten_without_need(given: Any, rewrite: bool) -> None:
    parts = Parts()
    graph = create_rttc_graph(**parts.parts())
    settings = RttcSettings(rewrite_follow_ups=rewrite, arms=("nearest",), tau_r=0)
    state = await graph.ainvoke(given, context=settings, output_keys=["searched_with"])
    assert state["searched_with"] == ""
    assert parts.embedder.texts[-1] == "And when?"
    assert parts.policy_model.requests == []


@pytest.mark.parametrize(
    "said",
    [
        pytest.param("  \n", id="nothing"),
        pytest.param("The answer about Faust is:", id="an-echo-of-the-order"),
        pytest.param("Here is a good answer for you", id="nothing-of-the-conversation"),
    ],
)
async def test_a_rewriting_that_fails_costs_no_answer(said: str) -> None:
    parts = Parts()
    parts.policy_model.texts = {"direct": said}
    graph = create_rttc_graph(**parts.parts())
    settings = RttcSettings(rewrite_follow_ups=True, arms=("nearest",), tau_r=0)
    output = await graph.ainvoke({"messages": TALK}, context=settings)
    assert output["answer"]
    assert parts.embedder.texts[-1] == "And when?"
    [failure] = [e["detail"] for e in output["ledger"] if e["event"] == "failed"]
    assert failure["what"] == "rewrite the follow-up"
