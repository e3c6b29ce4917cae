"""The table of arms: one record for each way to answer; everything else reads it.

An arm is a way to answer, an attempt is a way to get one candidate of it: the arm `ttt` has the
attempts `recalled` (an adapter from the query-state cache) and `ttt` (a training). A further arm is
one record, given to `register_arm`, and one node in a file of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import PydanticKnownError, core_schema

from rttc_graph.errors import ConfigurationError

RETRIEVE, JUDGE = "retrieve", "reward_judge"
"""Names of the node that finds samples and adapters, and of the one that judges candidates."""

FINISH = "finish"
"""Decision that ends the run."""

PLAIN = "direct"
"""Arm that needs nothing but the policy model: it answers where a policy's own arm cannot. A policy
of several arms tries it beside others only where it is told to."""

MODEL = "policy_model"
"""Name of the part that writes answers."""

Found = Literal["samples", "solved", "adapter"]
"""Kinds of results of `retrieve`: samples of any kind, solved questions among them, or an adapter
recalled from the query-state cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmNode:
    """A node of the graph that does an attempt's work, or its first part."""

    name: str
    """Name in the graph, and the `decision` that leads there."""
    made_by: str | type[Any]
    """Dataclass of the node, or `module:Class`. Its fields are named after the graph's parts that
    it is made of (`rttc_graph.graph.RttcParts`)."""
    then: tuple[str, ...] = (JUDGE,)
    """Nodes that it may lead to; with more than one, the node writes `decision`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptRecord:
    """A way to get one candidate of an arm."""

    name: str
    cost: int
    """Place in the order of cost: cheaper attempts are tried first, no two have the same place."""
    node: ArmNode
    reason: str
    """Why the run goes to the node, as the ledger says it."""
    parts: frozenset[str]
    """Parts that a graph must have for this attempt."""
    finds: Found | None = None
    """Result of `retrieve` that the attempt needs; `None` if it needs no retrieval."""
    proposes: bool = False
    """Whether panels may draw answers this way: from the plain model, or with the samples or the
    adapter in hand, by what it `finds`."""
    continues: bool = False
    """Whether the policy model must be able to go on from the beginning of an answer."""
    weighs: bool = False
    """Whether the policy model must be able to tell how likely it finds given answers."""
    looks_up: bool = False
    """Whether the knowledge base is asked in mid-answer."""
    strategy: object = None
    """Strategy that decides over the panel that the attempt draws, or `module:Class` of one; `None`
    for an attempt that answers once."""
    steers: bool = False
    """Whether what its strategy draws rests on the texts of earlier draws, so that a recorded panel
    does not tell what it would have drawn."""

    @property
    def asks_model(self) -> bool:
        """Whether the policy model writes the answer."""
        return MODEL in self.parts

    @property
    def needs(self) -> tuple[str, ...]:
        """What a graph must be made of for this attempt, in words."""
        model = MODEL
        if self.continues:
            model = "a policy_model that continues answers (can_continue)"
        if self.weighs:
            model = "a policy_model that weighs given answers (can_weigh)"
        return tuple(model if part == MODEL else part for part in sorted(self.parts))


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmRecord:
    """A way to answer; its name is also that of the policy that runs this arm alone."""

    name: str
    attempts: tuple[AttemptRecord, ...]
    """One of them has the arm's name and works without a query-state cache."""
    in_cascade: bool = False
    """Whether `cascade` and `compare` try it in its turn. Other arms run only under the policy of
    their own name, or where `arms` lists them."""
    may_begin: bool = False
    """Whether `cascade` may begin with it, where calibration chooses the arms."""
    asked_with: Literal["question", "samples", "adapter"] | None = None
    """Input beside the question when this arm generates candidates for training a reward model;
    `None` if it generates none."""
    seconds: Mapping[str, tuple[str, ...]] = field(
        default_factory=lambda: {"generation": ("answered",)}
    )
    """Parts of a run's seconds with the ledger's events that count for each. What is left of a run
    is `retrieval` if the arm retrieves, else `generation`."""

    @property
    def own(self) -> AttemptRecord:
        """Attempt of the arm's name."""
        return next(attempt for attempt in self.attempts if attempt.name == self.name)

    @property
    def cost(self) -> int:
        """Place in the order of cost."""
        return self.own.cost

    @property
    def retrieves(self) -> bool:
        """Whether it needs what `retrieve` finds."""
        return self.own.finds is not None

    @property
    def trains(self) -> bool:
        """Whether drawing candidates from it trains an adapter."""
        return self.asked_with == "adapter"


class ArmTable(Mapping[str, ArmRecord]):
    """Arms by name, from cheap to dear.

    Args:
        records: What it begins with.
    """

    def __init__(self, records: Iterable[ArmRecord] = ()) -> None:
        self._arms: dict[str, ArmRecord] = {}
        self._attempts: dict[str, AttemptRecord] = {}
        self._arm_of: dict[str, ArmRecord] = {}
        for record in records:
            self.register(record)

    def __getitem__(self, name: str) -> ArmRecord:
        return self._arms[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arms)

    def __len__(self) -> int:
        return len(self._arms)

    @property
    def attempts(self) -> Mapping[str, AttemptRecord]:
        """Attempts of all arms by name, from cheap to dear."""
        return self._attempts

    def of_attempt(self, attempt: str) -> ArmRecord:
        """Return the arm that an attempt belongs to.

        Raises:
            ConfigurationError: No arm has it.
        """
        if attempt not in self._arm_of:
            raise ConfigurationError(
                f"attempt {attempt!r} is unknown: known are {', '.join(self._attempts)}; register "
                "its arm first"
            )
        return self._arm_of[attempt]

    def register(self, record: ArmRecord) -> None:
        """Add an arm.

        Raises:
            ConfigurationError: A name or a place in the order of cost is taken, no attempt has the
                arm's name, or that attempt needs the query-state cache.
        """
        if problem := self._problem(record):
            raise ConfigurationError(f"arm {record.name!r} cannot be registered: {problem}")
        self._arms[record.name] = record
        self._sort()

    def unregister(self, name: str) -> None:
        """Take an arm out again; a graph that was built with it must not run after that."""
        del self._arms[name]
        self._sort()

    def _problem(self, record: ArmRecord) -> str | None:
        names = [attempt.name for attempt in record.attempts]
        if record.name in self._arms or record.name in MULTI_ARM:
            return "the name is taken"
        if record.name not in names:
            return f"none of its attempts {names} has the arm's name"
        if record.own.finds == "adapter":
            return "the attempt of its name must work without the query-state cache"
        if record.may_begin and not record.in_cascade:
            return "an arm with which the cascade may begin must be in it"
        if taken := sorted(set(names) & self._attempts.keys()):
            return f"attempts {taken} are taken"
        costs = [attempt.cost for attempt in record.attempts]
        known = [attempt.cost for attempt in self._attempts.values()]
        if len({*costs, *known}) < len(costs) + len(known):
            return f"places in the order of cost {costs} must differ from each other and {known}"
        return None

    def _sort(self) -> None:
        self._arms = {arm.name: arm for arm in sorted(self._arms.values(), key=lambda a: a.cost)}
        pairs = [(attempt, arm) for arm in self._arms.values() for attempt in arm.attempts]
        pairs.sort(key=lambda pair: pair[0].cost)
        self._attempts = {attempt.name: attempt for attempt, _ in pairs}
        self._arm_of = {attempt.name: arm for attempt, arm in pairs}


PLAN = "plan"
"""Policy that goes by a plan which calibration has kept for the question's domain."""

MULTI_ARM = ("cascade", "compare", PLAN)
"""Policies over several arms; every arm's name is a policy too."""

_ANSWERS = frozenset({MODEL})
_RETRIEVES = frozenset({"embedder", "knowledge_base"})
_GENERATE = ArmNode(name="generate", made_by="rttc_graph.nodes.generate:Generate")
_PANEL_ROUND = "panel_round"


def panel_arm(
    name: str,
    strategy: object,
    *,
    cost: int,
    continues: bool = False,
    weighs: bool = False,
    steers: bool = False,
    looks_up: bool = False,
) -> ArmRecord:
    """Return the arm of a strategy: it draws a panel of answers in rounds and keeps one of them.

    Args:
        name: Name of the arm, and so of the policy.
        strategy: A `rttc_graph.search.strategy.Strategy`, or `module:Class` of one.
        cost: Place in the order of cost.
        continues: Whether it goes on from the beginnings of answers.
        weighs: Whether it has the policy model grade or compare answers.
        steers: Whether what it draws rests on the texts of earlier draws.
        looks_up: Whether it asks the knowledge base in mid-answer; then it goes on from the
            beginnings of answers too.
    """
    node = ArmNode(
        name=_PANEL_ROUND,
        made_by="rttc_graph.nodes.panel_round:PanelRound",
        then=(_PANEL_ROUND, RETRIEVE, JUDGE),
    )
    attempt = AttemptRecord(
        name=name,
        cost=cost,
        node=node,
        reason=f"a panel of answers is drawn for {name}",
        parts=_ANSWERS | _RETRIEVES if looks_up else _ANSWERS,
        continues=continues or looks_up,
        weighs=weighs,
        looks_up=looks_up,
        strategy=strategy,
        steers=steers or continues or looks_up,
    )
    return ArmRecord(name=name, attempts=(attempt,), seconds={"generation": ("drawn",)})


ARMS = ArmTable(
    (
        ArmRecord(
            name="nearest",
            attempts=(
                AttemptRecord(
                    name="nearest",
                    cost=5,
                    node=ArmNode(name="nearest", made_by="rttc_graph.nodes.nearest:Nearest"),
                    reason="the nearest samples answer",
                    parts=_RETRIEVES,
                    finds="solved",
                ),
            ),
            in_cascade=True,
            may_begin=True,
        ),
        ArmRecord(
            name=PLAIN,
            attempts=(
                AttemptRecord(
                    name=PLAIN,
                    cost=10,
                    node=_GENERATE,
                    reason="the plain model answers",
                    parts=_ANSWERS,
                    proposes=True,
                ),
            ),
            in_cascade=True,
            may_begin=True,
            asked_with="question",
        ),
        ArmRecord(
            name="rag",
            attempts=(
                AttemptRecord(
                    name="rag",
                    cost=30,
                    node=ArmNode(
                        name="rag_generate", made_by="rttc_graph.nodes.rag_generate:RagGenerate"
                    ),
                    reason="samples go into the prompt",
                    parts=_ANSWERS | _RETRIEVES,
                    finds="samples",
                    proposes=True,
                ),
            ),
            in_cascade=True,
            may_begin=True,
            asked_with="samples",
        ),
        panel_arm(
            "budget_forcing",
            "rttc_graph.search.budget_forcing:BudgetForcing",
            cost=31,
            continues=True,
        ),
        panel_arm("adaptive", "rttc_graph.search.adaptive:Adaptive", cost=32),
        panel_arm("majority", "rttc_graph.search.majority:Majority", cost=34),
        panel_arm("weighted", "rttc_graph.search.weighted:Weighted", cost=35),
        panel_arm("best_of_n", "rttc_graph.search.best_of_n:BestOfN", cost=36),
        panel_arm(
            "search_o1", "rttc_graph.search.thinking.search_o1:SearchO1", cost=41, looks_up=True
        ),
        panel_arm("refine", "rttc_graph.search.refine:Refine", cost=42, steers=True),
        panel_arm("revise", "rttc_graph.search.revise:Revise", cost=44, steers=True),
        panel_arm(
            "self_verify",
            "rttc_graph.search.self_verify:SelfVerify",
            cost=46,
            weighs=True,
            steers=True,
        ),
        panel_arm(
            "graph_of_thoughts",
            "rttc_graph.search.thinking.graph_of_thoughts:GraphOfThoughts",
            cost=47,
            steers=True,
        ),
        *(
            panel_arm(name, f"rttc_graph.search.steps.{name}:{made}", cost=cost, continues=True)
            for name, made, cost in (
                ("beam", "Beam", 48),
                ("dvts", "Dvts", 52),
                ("particles", "Particles", 50),
                ("lookahead", "Lookahead", 54),
                ("mcts", "Mcts", 56),
            )
        ),
        ArmRecord(
            name="ttt",
            attempts=(
                AttemptRecord(
                    name="recalled",  # before `rag`: it costs no training
                    cost=20,
                    node=_GENERATE,
                    reason="an adapter was recalled",
                    parts=_ANSWERS | _RETRIEVES | {"trainer", "cache"},
                    finds="adapter",
                    proposes=True,
                ),
                AttemptRecord(
                    name="ttt",
                    cost=40,
                    node=ArmNode(
                        name="ttt_adapt",
                        made_by="rttc_graph.nodes.ttt_adapt:TttAdapt",
                        then=(_GENERATE.name, JUDGE),
                    ),
                    reason="an adapter is trained on the samples",
                    parts=_ANSWERS | _RETRIEVES | {"trainer"},
                    finds="samples",
                ),
            ),
            in_cascade=True,
            asked_with="adapter",
            seconds={"generation": ("answered",), "training": ("trained", "reused")},
        ),
    )
)
"""Arms that are known. The places in the order of cost leave room for others between them."""


def register_arm(record: ArmRecord) -> None:
    """Add an arm to the table; graphs that are built afterwards have it.

    Raises:
        ConfigurationError: It does not go with the arms that are there.
    """
    ARMS.register(record)


def unregister_arm(name: str) -> None:
    """Take an arm out of the table; a graph that was built with it must not run after that."""
    ARMS.unregister(name)


def checked_arm(name: str, *, where: str) -> str:
    """Return the name of a known arm, as read from outside.

    Args:
        name: What was read.
        where: Where it stood, for the error.

    Raises:
        ConfigurationError: There is no such arm.
    """
    if name not in ARMS:
        raise ConfigurationError(
            f"arm {name!r} of {where} is unknown: known are {', '.join(ARMS)}; register it first"
        )
    return name


def policy_names() -> tuple[str, ...]:
    """Return the names of all policies."""
    return (*MULTI_ARM, *ARMS)


def decision_names() -> tuple[str, ...]:
    """Return what a node may write as `decision`."""
    nodes = dict.fromkeys(attempt.node.name for attempt in ARMS.attempts.values())
    return (*nodes, RETRIEVE, JUDGE, FINISH)


def cascade_arms() -> tuple[str, ...]:
    """Return the arms that `cascade` may be made of, from cheap to dear."""
    return tuple(name for name, arm in ARMS.items() if arm.in_cascade)


def default_arms() -> tuple[str, ...]:
    """Return the arms that `cascade` and `compare` try where nobody has said which.

    The plain model is not one of them: it answers where there are no samples.
    """
    return tuple(name for name in cascade_arms() if name != PLAIN)


def arms_from(first_arm: str) -> tuple[str, ...]:
    """Return the arms of `cascade` that cost no less than one of them."""
    return tuple(name for name in cascade_arms() if ARMS[name].cost >= ARMS[first_arm].cost)


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Return known arms, each once, from cheap to dear."""
    wanted = set(names)
    return tuple(name for name in ARMS if name in wanted)


def arms_of_policies(policies: Iterable[str], tried_arms: Iterable[str] = ()) -> tuple[str, ...]:
    """Return the arms whose rows an evaluation needs, and no others.

    Args:
        policies: What is measured. One that is named after an arm needs that arm.
        tried_arms: Arms that policies of several arms try; by default all that they may. The plain
            model answers for them where there are no samples.
    """
    named = set(policies)
    tried = (
        {*(tried_arms or cascade_arms()), PLAIN} if named.intersection(MULTI_ARM) else set[str]()
    )
    return in_order({*named, *tried})


def sampled_arms() -> tuple[str, ...]:
    """Return the arms that can generate candidates for a reward model."""
    return tuple(name for name, arm in ARMS.items() if arm.asked_with is not None)


def untrained_arms() -> tuple[str, ...]:
    """Return the arms that generate candidates without a training."""
    return tuple(name for name in sampled_arms() if not ARMS[name].trains)


def proposer_names() -> tuple[str, ...]:
    """Return the attempts that panels may draw answers from, from cheap to dear."""
    return tuple(name for name, attempt in ARMS.attempts.items() if attempt.proposes)


def first_arm_names() -> tuple[str, ...]:
    """Return the arms with which `cascade` and `compare` may begin, from cheap to dear."""
    return tuple(name for name, arm in ARMS.items() if arm.may_begin)


@dataclass(frozen=True, slots=True)
class OneOf:
    """Annotation of a string that must be one of some names, asked for at each check."""

    names: Callable[[], Iterable[str]]

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        """Check the name after the type."""
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Show the names that are known now."""
        return {**handler(schema), "enum": list(self.names())}

    def _check(self, value: str) -> str:
        names = [repr(name) for name in self.names()]
        if repr(value) not in names:
            expected = " or ".join([", ".join(names[:-1]), names[-1]] if names[1:] else names)
            raise PydanticKnownError("literal_error", {"expected": expected})
        return value


Arm = Annotated[str, OneOf(lambda: ARMS)]
"""Name of an arm: a way to answer."""

Attempt = Annotated[str, OneOf(lambda: ARMS.attempts)]
"""Name of an attempt: a way to get one candidate of an arm."""

Decision = Annotated[str, OneOf(decision_names)]
"""Name of the next node, or `finish`: written by a node, read by the conditional edge after it."""

PolicyName = Annotated[str, OneOf(policy_names)]
"""Name of a policy: who decides the next arm."""

FirstArm = Annotated[str, OneOf(lambda: ("", *first_arm_names()))]
"""Name of an arm with which `cascade` and `compare` may begin; empty where nothing is said."""

Proposer = Annotated[str, OneOf(proposer_names)]
"""Name of an attempt that panels may draw answers from."""
