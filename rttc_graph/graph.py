"""Joins the nodes into the state machine; every conditional edge reads `decision` and nothing else.

The one idea: a node decides and writes, an edge only reads. So a run can be edited and forked at
any checkpoint, and each choice stands in the ledger.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Required, Unpack, cast

from langgraph.cache.base import BaseCache
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.types import CachePolicy, RetryPolicy
from typing_extensions import TypedDict

from rttc_graph.arms import ARMS, FINISH, JUDGE, PLAIN, RETRIEVE, ArmNode
from rttc_graph.errors import ConfigurationError
from rttc_graph.nodes.prepare import Prepare
from rttc_graph.nodes.retrieve import Retrieve
from rttc_graph.nodes.reward_judge import RewardJudge
from rttc_graph.protocols import (
    AdapterTrainer,
    Embedder,
    KnowledgeBase,
    LedgerStore,
    PlainRewardModel,
    PolicyModel,
    ProcessRewardModel,
    QueryStateCache,
    RewardModel,
    StandingAdapters,
    as_measuring_embedder,
    as_part,
    as_reward_model,
    can_continue,
    can_weigh,
    check_part,
)
from rttc_graph.run.closing import Closing
from rttc_graph.run.known_domains import KnownDomains
from rttc_graph.run.scope import Node, SettingsOfRun, TwoFaced, two_faced
from rttc_graph.settings import RttcSettings, domain_settings
from rttc_graph.state import Arm, Attempt, Decision, NodeInput, RttcInput, RttcOutput, RttcState
from rttc_graph.support.identity import known_names

if TYPE_CHECKING:
    from langchain_core.embeddings import Embeddings
    from langchain_core.language_models import BaseChatModel

RewardFunction = Callable[[str, str], float] | Callable[[str, str], Awaitable[float]]
"""A function of question and answer that returns a reward in [0, 1], or an awaitable of one."""

NodeRetries = (
    RetryPolicy | Sequence[RetryPolicy] | Mapping[str, RetryPolicy | Sequence[RetryPolicy]]
)
"""Retry policy of all nodes, or of each by its name."""

RttcBuilder = StateGraph[RttcState, RttcSettings, RttcInput, RttcOutput]
RttcGraph = CompiledStateGraph[RttcState, RttcSettings, RttcInput, RttcOutput]


class RttcParts(TypedDict, total=False):
    """Parts of a graph; the given ones decide which arms it has."""

    policy_model: Required[PolicyModel | BaseChatModel]
    """Answers; a chat model of LangChain's is wrapped."""
    reward_model: Required[RewardModel | PlainRewardModel | BaseChatModel | RewardFunction]
    """Judges the answers. A chat model is asked for grades; a function is given question and answer
    and returns a reward in [0, 1]."""
    process_reward_model: ProcessRewardModel | None
    """Judges unfinished answers step by step; without it the strategies over steps choose none."""
    embedder: Embedder | Embeddings | None
    """Turns texts into vectors; LangChain's `Embeddings` are wrapped. Needed together with
    `knowledge_base` for the arms `rag` and `ttt`."""
    knowledge_base: KnowledgeBase | None
    """Solved questions."""
    trainer: AdapterTrainer | None
    """Trains adapters for `policy_model`; without it there is no arm `ttt`."""
    cache: QueryStateCache | None
    """Query-state cache; without it nothing is recalled or remembered."""
    standing_adapters: StandingAdapters | None
    """Know which domains have an adapter of their own, as `rttc improve` trains them; without it
    none has. `policy_model` must find such an adapter by its key."""
    ledger_store: LedgerStore | None
    """Store that records finished runs; `None` records none."""
    settings: RttcSettings | None
    """Settings of a run where its context sets nothing."""
    domains: Mapping[str, Mapping[str, Any]] | None
    """Settings for questions of a domain, by the domain's name: they hold before `settings`, and a
    run's context before them."""
    closed_arms: Mapping[Arm, str]
    """Arms that this graph cannot have, each with the reason in a sentence, which stands in the
    ledger of runs that might have taken the arm."""
    share_between_tenants: bool
    """Whether tenants use each other's adapters and kept prompts again; by default they do not. Who
    guesses another tenant's text then learns from the ledger, or the time, that it was there."""


def build_rttc_graph(
    *,
    retry_policy: NodeRetries | None = None,
    cache_policy: Mapping[str, CachePolicy[Any]] | None = None,
    **parts: Unpack[RttcParts],
) -> RttcBuilder:
    """Return the state machine uncompiled, for hosts that compile it in their own way.

    Args:
        retry_policy: See `create_rttc_graph`.
        cache_policy: See `create_rttc_graph`; compile with a cache, or it does nothing.
        parts: See `RttcParts`.

    Raises:
        ConfigurationError: The parts do not go together, or a policy is for a node that is not
            there or must not be cached.
    """
    parts = _checked_parts(parts)
    arms = _arms(parts)
    settings = parts.get("settings") or RttcSettings()
    settings_of = SettingsOfRun(
        settings,
        domains=_settings_by_domain(parts.get("domains") or {}, settings),
        share_between_tenants=parts.get("share_between_tenants", False),
    )
    builder: RttcBuilder = StateGraph(
        RttcState, context_schema=RttcSettings, input_schema=RttcInput, output_schema=RttcOutput
    )
    arm_nodes = _arm_nodes(arms)
    nodes = _nodes(parts, arms, arm_nodes)
    cached, retried = cache_policy or {}, _retries(retry_policy, nodes)
    _check_policies(cached, retried, nodes)
    for name, node in nodes.items():
        does = (type(node).__doc__ or "").strip()
        begins = name == "prepare"
        face: Any = two_faced(name, node, settings_of, begins=begins)  # typed by the whole state
        builder.add_node(
            name,
            face,
            input_schema=NodeInput,
            metadata={"does": does},
            retry_policy=retried.get(name),
            cache_policy=cached.get(name),
        )
    _connect(builder, frozenset(nodes), arm_nodes, _steps(arms, arm_nodes))
    return builder


def create_rttc_graph(
    *,
    checkpointer: bool | BaseCheckpointSaver[Any] | None = None,
    name: str = "rttc",
    retry_policy: NodeRetries | None = None,
    cache_policy: Mapping[str, CachePolicy[Any]] | None = None,
    node_cache: BaseCache[Any] | None = None,
    **parts: Unpack[RttcParts],
) -> RttcGraph:
    """Return the compiled graph, ready for `invoke`, `ainvoke` and as a node of another graph.

    Args:
        checkpointer: None inherits the host's; a graph that is exported to the LangGraph server
            must not carry one.
        name: Name of the run in traces, and of the assistant in Studio.
        retry_policy: LangGraph's, for all nodes, or by the name of a node. What fails in an arm
            does not reach it: it becomes an entry of the ledger, and the run goes on.
        cache_policy: LangGraph's, by the name of a node; not for `prepare` and `reward_judge`,
            which begin and close each run. A cached update is that of the earlier run, its
            candidates, costs and ledger included, and the key is made of the state alone: a
            `key_func` of the host's must name all that the update depends on, the tenant too.
        node_cache: LangGraph's cache behind `cache_policy`; None inherits the host's.
        parts: See `RttcParts`.

    Raises:
        ConfigurationError: The parts do not go together, or a policy is for a node that is not
            there or must not be cached.
    """
    builder = build_rttc_graph(retry_policy=retry_policy, cache_policy=cache_policy, **parts)
    return builder.compile(checkpointer=checkpointer, cache=node_cache, name=name)


def _retries(
    given: NodeRetries | None, nodes: Mapping[str, Node]
) -> Mapping[str, RetryPolicy | Sequence[RetryPolicy]]:
    if given is None:
        return {}
    return given if isinstance(given, Mapping) else dict.fromkeys(nodes, given)


def _check_policies(
    cached: Mapping[str, object], retried: Mapping[str, object], nodes: Mapping[str, Node]
) -> None:
    """Refuse policies for nodes that are not there, and caches of nodes that each run needs.

    Raises:
        ConfigurationError: There is such a policy.
    """
    for parameter, given in (("cache_policy", cached), ("retry_policy", retried)):
        for name in given:
            if name not in nodes:
                raise ConfigurationError(
                    f"{parameter} names the node {name!r}: {known_names(name, sorted(nodes))}"
                )
    if wrong := sorted(cached.keys() & {"prepare", JUDGE}):
        raise ConfigurationError(
            f"cache_policy names {wrong}: prepare gives each run its id and reward_judge closes "
            "it, so neither can be taken from another run; name nodes between them, as retrieve"
        )


def _checked_parts(parts: RttcParts) -> RttcParts:
    """Return the parts with what people have at hand wrapped.

    A misspelt part would otherwise be a graph without it.

    Raises:
        ConfigurationError: A name is unknown, a part that every graph needs is missing, or an
            object is not what the graph asks of the part.
    """
    known = RttcParts.__annotations__.keys()
    if unknown := sorted(parts.keys() - known):
        raise ConfigurationError(f"unknown parts {unknown}: a graph is made of {sorted(known)}")
    if missing := sorted({"policy_model", "reward_model"} - parts.keys()):
        raise ConfigurationError(f"a graph cannot be made without {missing}")
    whole = cast("RttcParts", {name: as_part(name, part) for name, part in parts.items()})
    for name, part in whole.items():
        check_part(name, part)
    return whole


def _settings_by_domain(
    given: Mapping[str, Mapping[str, Any]], defaults: RttcSettings
) -> dict[str, RttcSettings]:
    """Return the settings of each domain that has some of its own.

    Raises:
        ConfigurationError: A setting is unknown, out of its bounds, or none of a domain.
    """
    return {domain: domain_settings(domain, own, defaults) for domain, own in given.items()}


def _arms(parts: RttcParts) -> frozenset[Attempt]:
    """Return the attempts that the parts allow."""
    given = {name for name, part in parts.items() if part is not None}
    if len(given & {"embedder", "knowledge_base"}) == 1:
        raise ConfigurationError("embedder and knowledge_base go together: give both or neither")
    if "trainer" in given and "embedder" not in given:
        raise ConfigurationError(
            "a trainer needs samples: give an embedder and a knowledge_base with it"
        )
    continues, weighs = can_continue(parts["policy_model"]), can_weigh(parts["policy_model"])
    return frozenset(
        name
        for name, attempt in ARMS.attempts.items()
        if attempt.parts <= given
        and (continues or not attempt.continues)
        and (weighs or not attempt.weighs)
    )


def _arm_nodes(arms: frozenset[Attempt]) -> list[ArmNode]:
    """Return the nodes that do the work of these attempts, each once, from cheap to dear."""
    nodes = {a.node.name: a.node for name, a in ARMS.attempts.items() if name in arms}
    return list(nodes.values())


def _nodes(
    parts: RttcParts, arms: frozenset[Attempt], arm_nodes: Sequence[ArmNode]
) -> dict[str, Node]:
    cache, trainer = parts.get("cache"), parts.get("trainer")
    embedder = cast("Embedder | None", parts.get("embedder"))  # wrapped before
    knowledge_base = parts.get("knowledge_base")
    reward_model = as_reward_model(cast("PlainRewardModel", parts["reward_model"]))
    nodes: dict[str, Node] = {
        "prepare": Prepare(
            arms=arms,
            reward_model=reward_model,
            domains=None if knowledge_base is None else KnownDomains(knowledge_base),
            closed_arms=parts.get("closed_arms", {}),
            policy_model=cast("PolicyModel", parts["policy_model"]),  # wrapped by now
            standing_adapters=parts.get("standing_adapters"),
        ),
        JUDGE: RewardJudge(
            arms=arms,
            reward_model=reward_model,
            closing=Closing(cache=cache, ledger_store=parts.get("ledger_store")),
        ),
    }
    if embedder is not None and knowledge_base is not None:
        nodes[RETRIEVE] = Retrieve(
            arms=arms,
            embedder=as_measuring_embedder(embedder),
            knowledge_base=knowledge_base,
            cache=cache,
            trainer=trainer,
            policy_model=cast("PolicyModel", parts["policy_model"]),
        )
    whole: RttcParts = {**parts, "reward_model": reward_model}
    return nodes | {node.name: _made(node, whole) for node in arm_nodes}


def _made(node: ArmNode, parts: RttcParts) -> Node:
    """Return an arm's node, made of the parts that its fields are named after."""
    maker: Any = node.made_by
    if isinstance(maker, str):
        maker = pkgutil.resolve_name(maker)
    wanted = {field.name for field in fields(maker)}
    made: Node = maker(**{name: part for name, part in parts.items() if name in wanted})
    return made


def _read_decision(state: RttcState) -> Decision:
    """Return what the last node decided; the only thing that an edge reads."""
    return state["decision"]


async def _read_decision_awaited(state: RttcState) -> Decision:
    """Return the same without the thread in which LangGraph calls a function that is not async."""
    return state["decision"]


def _steps(arms: frozenset[Attempt], arm_nodes: Sequence[ArmNode]) -> dict[str, list[Decision]]:
    """Return where each deciding node may send a run, whether or not this graph has that node."""
    attempts = [attempt for name, attempt in ARMS.attempts.items() if name in arms]
    at_once = dict.fromkeys(a.node.name for a in attempts if a.finds is None)
    behind = dict.fromkeys(
        a.node.name for a in attempts if a.finds is not None or RETRIEVE in a.node.then
    )
    plain = ARMS[PLAIN].own.node.name  # answers where nothing was found
    return {
        "prepare": [*at_once, RETRIEVE],
        JUDGE: [*(at_once | {RETRIEVE: None} | behind), FINISH],
        RETRIEVE: [*(behind | {plain: None}), JUDGE],
        **{node.name: list(node.then) for node in arm_nodes if len(node.then) > 1},
    }


def _connect(
    builder: RttcBuilder,
    nodes: frozenset[str],
    arm_nodes: Sequence[ArmNode],
    steps: Mapping[str, Sequence[Decision]],
) -> None:
    """Draw the edges between the nodes that this graph has."""
    builder.add_edge(START, "prepare")
    for node in arm_nodes:
        if node.name not in steps:
            builder.add_edge(node.name, *node.then)
    for source in steps.keys() & nodes:
        targets: dict[Hashable, str] = {
            step: END if step == FINISH else step
            for step in steps[source]
            if step == FINISH or step in nodes
        }
        decided = TwoFaced("decided", _read_decision, _read_decision_awaited)
        builder.add_conditional_edges(source, decided, targets)
