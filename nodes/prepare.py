"""`prepare`: takes the question out of the input and resets what an earlier run left behind."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from typing_extensions import TypedDict

from rttc_graph.arms import ARMS, MULTI_ARM, PLAN, default_arms, in_order
from rttc_graph.errors import ConfigurationError
from rttc_graph.protocols import PolicyModel, RewardModel, StandingAdapters, parameters_of
from rttc_graph.run.backend_failures import Failure, survive
from rttc_graph.run.budget import NOTHING_SPENT
from rttc_graph.run.known_domains import KnownDomains
from rttc_graph.run.ledger import entry
from rttc_graph.run.policies import decide, no_plan
from rttc_graph.run.prompts import asked_domain, split_conversation, text_of_input
from rttc_graph.run.scope import RunScope
from rttc_graph.state import (
    Adapted,
    Arm,
    Attempt,
    CacheReport,
    Candidate,
    Decision,
    LedgerEntry,
    PanelState,
    Plan,
    RttcInput,
    RttcState,
    Sample,
    Source,
    Spent,
    Task,
)
from rttc_graph.support.identity import checked_name, clean

MAX_QUERY_CHARACTERS = 100_000
"""About 25,000 tokens: longer than the context of every model this is meant to run in process."""

_LOOK_UP_SHARE = 0.25
"""Share of the budget of seconds that may go into the look-up of a domain, before any answer."""

MAX_HISTORY_CHARACTERS = 400_000
"""Length limit of all earlier turns together: some 100,000 tokens, the context of large models."""


class PrepareUpdate(TypedDict):
    """The state of a run that has just begun."""

    task: Task
    searched_with: str
    vector: list[float]
    samples: list[Sample]
    looked_up: list[Sample]
    retrieved: bool
    revision: int | None
    adapted: Adapted | None
    standing: str | None
    arms: list[Arm]
    plan: Plan | None
    difficulty: float | None
    rejected_adapter: str | None
    tried: list[Attempt]
    attempt: Attempt
    decision: Decision
    panel: PanelState | None
    candidates: list[Candidate]
    ledger: list[LedgerEntry]
    spent: Spent
    cache: CacheReport
    answer: str
    reward: float | None
    accepted: bool
    tau_r: float
    declined: bool
    calibrated: bool
    sources: list[Source]
    run_id: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepare:
    """Starts a run."""

    arms: frozenset[Attempt]
    reward_model: RewardModel
    domains: KnownDomains | None = None
    """Known domains of the knowledge base; `None` for a graph without one."""
    closed_arms: Mapping[Arm, str] = field(default_factory=dict[Arm, str])
    """Arms that this graph cannot have, each with the reason."""
    policy_model: PolicyModel | None = None
    """Asked how large it is where operations are bounded."""
    standing_adapters: StandingAdapters | None = None
    """Know which domains have an adapter of their own; `None` for a graph without any."""

    async def __call__(self, state: RttcState, scope: RunScope) -> PrepareUpdate:
        """Return a fresh state with the first decision in it.

        Raises:
            ConfigurationError: The input has no question or one that is no text, its domain has no
                samples, the policy needs an arm that this graph was built without, a person is to
                be asked and nothing keeps the run meanwhile, τr was chosen for another reward
                model, or the policy goes by a plan and none is kept for the domain.
        """
        policy = scope.settings.policy
        if policy in ARMS and policy not in self.arms and policy in self.closed_arms:
            raise ConfigurationError(
                f"policy={policy!r}: {self.closed_arms[policy]}; take another policy"
            )
        if policy in ARMS and policy not in self.arms:
            raise ConfigurationError(
                f"policy={policy!r} needs an arm that this graph was built without; it has "
                f"{sorted(self.arms)}: give create_rttc_graph the parts "
                f"{', '.join(ARMS[policy].own.needs)}"
            )
        if scope.settings.ask_before_training and not scope.can_wait:
            raise ConfigurationError(
                "ask_before_training=True: without a checkpointer a run cannot wait for a person; "
                "compile the graph, or the host around it, with one, or leave the setting out"
            )
        await self._check_flops(scope)
        task = _task(state, scope.settings.domain)
        notes = self._missing_arms(scope)
        notes += await self._check_domain(task, scope)
        notes += await self._check_threshold(task, scope)
        standing, found = await self._standing(task, scope)
        notes += found
        plan, more = await self._chosen_plan(task, scope)
        arms, chosen = await self._chosen_arms(task, scope) if plan is None else ([], [])
        more += chosen
        more += self._closed(_arms_of(plan) if plan else arms, scope)
        choice = decide({"arms": arms, "plan": plan}, scope.settings, arms=self.arms)
        return {
            "task": task,
            "searched_with": "",
            "vector": [],
            "samples": [],
            "looked_up": [],
            "retrieved": False,
            "revision": None,
            "adapted": None,
            "standing": standing,
            "arms": arms,
            "plan": plan,
            "difficulty": None,
            "rejected_adapter": None,
            "tried": [],
            "attempt": choice.attempt,
            "decision": choice.decision,
            "panel": None,
            "candidates": [],
            "ledger": [*notes, *more],
            "spent": NOTHING_SPENT,
            "cache": {"samples": "miss", "adapter": "miss"},
            "answer": "",
            "reward": None,
            "accepted": False,
            "tau_r": scope.settings.tau_r,
            "declined": False,
            "calibrated": False,
            "sources": [],
            "run_id": uuid.uuid4().hex,
            "seconds": 0.0,
        }

    async def _check_flops(self, scope: RunScope) -> None:
        """Refuse a bound on operations that nobody can count.

        Raises:
            ConfigurationError: The policy model does not say how large it is.
        """
        if not scope.settings.budget_flops or self.policy_model is None:
            return
        parameters = await survive(parameters_of(self.policy_model), deadline=scope.deadline)
        if parameters is None:
            raise ConfigurationError(
                f"budget_flops={scope.settings.budget_flops:g}, but {self.policy_model.name!r} "
                "does not say how many weights a token is multiplied with, so its operations are "
                "not known: leave it out, and bound budget_tokens or budget_seconds"
            )

    def _missing_arms(self, scope: RunScope) -> list[LedgerEntry]:
        """Say which of the arms that the settings list this graph cannot try, and why."""
        listed = scope.settings.arms if scope.settings.policy in MULTI_ARM else ()
        missing = [name for name in listed if name not in {*self.arms, *self.closed_arms}]
        why = "this graph was built without what it needs: "
        return [
            entry(
                "prepare",
                "skipped",
                since=scope.started,
                arm=name,
                reason=why + ", ".join(ARMS[name].own.needs),
            )
            for name in missing
        ]

    async def _check_domain(self, task: Task, scope: RunScope) -> list[LedgerEntry]:
        """Refuse a domain without samples, before the plain model answers in its name.

        A knowledge base that is down cannot be asked; that is no reason to give no answer.
        """
        domain, since = task["domain"], scope.started
        if domain is None:
            return []
        if self.domains is None:
            why = "this graph has no knowledge base, so the domain finds no samples"
            return [entry("prepare", "noted", since=since, domain=domain, reason=why)]
        problem = await survive(
            self.domains.problem(domain, tenant=scope.settings.tenant),
            deadline=since + scope.allowance.seconds * _LOOK_UP_SHARE,
        )
        if isinstance(problem, Failure):
            what = "look up the domain"
            return [entry("prepare", "failed", since=since, what=what, error=problem.reason)]
        if problem is not None:
            raise problem
        return []

    async def _standing(self, task: Task, scope: RunScope) -> tuple[str | None, list[LedgerEntry]]:
        """Return the adapter that answers in the place of the plain model, if the domain has one.

        Where that cannot be looked up the plain model answers.
        """
        domain, since = task["domain"], scope.started
        if domain is None or self.standing_adapters is None:
            return None, []
        key = await survive(
            self.standing_adapters.standing_adapter(domain=domain, tenant=scope.settings.tenant),
            deadline=since + scope.allowance.seconds * _LOOK_UP_SHARE,
        )
        if isinstance(key, Failure):
            what = "look up the adapter of the domain, so the plain model answers"
            return None, [entry("prepare", "failed", since=since, what=what, error=key.reason)]
        if key is None:
            return None, []
        why = "the domain has an adapter of its own, which takes the place of the plain model"
        return key, [entry("prepare", "noted", since=since, adapter_key=key, reason=why)]

    async def _check_threshold(self, task: Task, scope: RunScope) -> list[LedgerEntry]:
        """Refuse a τr that was chosen for another reward model.

        A judge that is down cannot be asked who it is; that is no reason to give no answer.
        """
        wanted = scope.settings.tau_r_of
        if not wanted:
            return []
        judge = self.reward_model.within(tenant=scope.settings.tenant, domain=task["domain"])
        fingerprint = await survive(judge.fingerprint(), deadline=scope.deadline)
        if isinstance(fingerprint, Failure):
            what = "check what τr was chosen for"
            return [
                entry("prepare", "failed", since=scope.started, what=what, error=fingerprint.reason)
            ]
        if fingerprint != wanted:
            raise ConfigurationError(
                f"tau_r={scope.settings.tau_r!r} was chosen for a reward model with the "
                f"fingerprint {wanted!r}, but {judge.name!r} with its present calibration has "
                f"{fingerprint!r}: choose τr for it with 'rttc calibrate FILE.jsonl --save', or "
                "leave out tau_r_of to use this number with any reward model"
            )
        return []

    async def _chosen_arms(
        self, task: Task, scope: RunScope
    ) -> tuple[list[Arm], list[LedgerEntry]]:
        """Return the arms that calibration has chosen, where a policy is free to follow it."""
        settings = scope.settings
        if settings.policy not in MULTI_ARM or settings.wanted_arms:
            return [], []
        judge = self.reward_model.within(tenant=settings.tenant, domain=task["domain"])
        found = await survive(judge.chosen_arms(), deadline=scope.deadline)
        since = scope.started
        if isinstance(found, Failure):
            what = "read which arms calibration has chosen"
            return [], [entry("prepare", "failed", since=since, what=what, error=found.reason)]
        arms = list(in_order(found))
        return arms, [entry("prepare", "chosen", since=since, arms=arms)] if arms else []

    async def _chosen_plan(
        self, task: Task, scope: RunScope
    ) -> tuple[Plan | None, list[LedgerEntry]]:
        """Return the plan of the question's domain, where the policy goes by one.

        Where it cannot be read the run goes on as a cascade: that is no reason to give no answer.

        Raises:
            ConfigurationError: None is kept for the domain.
        """
        settings, since = scope.settings, scope.started
        if settings.policy != PLAN:
            return None, []
        judge = self.reward_model.within(tenant=settings.tenant, domain=task["domain"])
        plan = await survive(judge.chosen_plan(), deadline=scope.deadline)
        if isinstance(plan, Failure):
            what = "read the plan, so the run goes on as policy=cascade"
            return None, [entry("prepare", "failed", since=since, what=what, error=plan.reason)]
        if plan is None:
            raise no_plan(task["domain"], judge.name)
        return plan, [entry("prepare", "chosen", since=since, plan=plan)]

    def _closed(self, chosen: Sequence[Arm], scope: RunScope) -> list[LedgerEntry]:
        """Say which arms this run will not take although it might have, and why."""
        settings = scope.settings
        if settings.policy not in MULTI_ARM:
            return []
        wanted = (
            chosen
            if settings.policy == PLAN and chosen
            else settings.wanted_arms or chosen or default_arms()
        )
        return [
            entry("prepare", "noted", since=scope.started, arm=arm, reason=reason)
            for arm, reason in self.closed_arms.items()
            if arm in wanted
        ]


def _arms_of(plan: Plan) -> tuple[Arm, ...]:
    """Return all arms that a plan may try."""
    return in_order([plan["first"], *(arm for one in plan["bins"] for arm in one["arms"])])


def check_input(given: RttcInput) -> None:
    """Check a run's input before there is a run, as its first node will.

    Raises:
        ConfigurationError: The run would end with it.
    """
    _task(given)


def _task(state: RttcInput, default_domain: str = "") -> Task:
    query = text_of_input(state.get("query"), "query")
    domain = asked_domain(state, default_domain)
    messages = state.get("messages") or []
    from_messages = not query.strip()
    if from_messages:
        query, history = split_conversation(messages)
    elif messages and messages[-1].type == "human" and messages[-1].text == query:
        query, history = split_conversation(messages)  # a host that shares both keys
    else:
        history = []
    if not query.strip():
        raise ConfigurationError("the question is empty: give a 'query' with text in it")
    if len(query) > MAX_QUERY_CHARACTERS:
        raise ConfigurationError(
            f"the question has {len(query)} characters, the limit is {MAX_QUERY_CHARACTERS}: "
            "shorten it"
        )
    talked = sum(len(turn["content"]) for turn in history)
    if talked > MAX_HISTORY_CHARACTERS:
        raise ConfigurationError(
            f"the earlier messages have {talked} characters, the limit is "
            f"{MAX_HISTORY_CHARACTERS}: leave out the oldest ones, or sum them up"
        )
    return {
        "query": clean(query),
        "domain": checked_name("domain", domain) if domain else None,
        "history": history,
        "from_messages": from_messages,
    }
