"""`panel_round`: draws one round of a panel and judges it, until the strategy keeps an answer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import chain

from rttc_graph.arms import ARMS, RETRIEVE, proposer_names
from rttc_graph.errors import ConfigurationError
from rttc_graph.nodes.panels.panel_checking import checked_panel
from rttc_graph.nodes.panels.panel_closing import (
    NODE,
    PanelUpdate,
    finish,
    go_on,
    no_answer,
    soon,
)
from rttc_graph.nodes.panels.panel_drawing import PanelDrawing
from rttc_graph.nodes.panels.panel_judging import judged_draws
from rttc_graph.nodes.panels.panel_lookups import PanelLookUps
from rttc_graph.nodes.panels.panel_steps import PanelSteps, with_partial_answer
from rttc_graph.nodes.panels.panel_thoughts import PanelThoughts, with_root
from rttc_graph.nodes.panels.panel_watching import PanelWatching, with_doubted_whole
from rttc_graph.protocols import (
    Embedder,
    KnowledgeBase,
    PolicyModel,
    ProcessRewardModel,
    RewardModel,
)
from rttc_graph.run.answering import stream_candidate
from rttc_graph.run.backend_failures import GRACE_SECONDS, Failure, survive
from rttc_graph.run.budget import tokens_left
from rttc_graph.run.ledger import Notes
from rttc_graph.run.scope import RunScope
from rttc_graph.search.chains import text_in_hand
from rttc_graph.search.panel import MAX_ROUNDS, Panel
from rttc_graph.search.strategies import strategy_of
from rttc_graph.search.strategy import Proposal
from rttc_graph.state import Attempt, PanelState, RttcState


@dataclass(frozen=True, slots=True, kw_only=True)
class PanelRound:
    """Draws a round of a panel, then another one or the answer to keep."""

    policy_model: PolicyModel
    reward_model: RewardModel
    knowledge_base: KnowledgeBase | None = None
    """Where samples come from; `None` for a graph that retrieves none."""
    embedder: Embedder | None = None
    """Turns queries of look-ups into vectors; there is one where there is a knowledge base."""
    process_reward_model: ProcessRewardModel | None = None
    """Judges steps; without it a tree of steps is grown by lot."""

    async def __call__(self, state: RttcState, scope: RunScope) -> PanelUpdate:
        """Leave the panel with one more round, or add a candidate and let it be judged.

        Samples that the panel is to draw from are retrieved first.
        """
        if self._lacks_samples(state, scope):
            return {"decision": RETRIEVE}
        notes, before = Notes(NODE), _panel_state(state)
        panel = await survive(
            self._panel(before, state, scope), deadline=max(scope.deadline, soon())
        )
        if isinstance(panel, Failure):
            return no_answer(panel, state, scope, notes)
        made = await survive(
            self._round(panel, before, state, scope, notes),
            deadline=scope.deadline,
            grace_seconds=GRACE_SECONDS,
        )
        if isinstance(made, Panel):
            return await go_on(made, before, state, scope, notes)
        if isinstance(made, Failure) and (panel.drawn or panel.tree):
            notes.add_failure(made, since=scope.started, arm=state["attempt"])
            made = "a round failed"
        return await finish(with_partial_answer(panel), made, before, state, scope, notes)

    def _lacks_samples(self, state: RttcState, scope: RunScope) -> bool:
        if self.knowledge_base is None or state["retrieved"]:
            return False
        wanted = _wanted(scope)[: scope.settings.search.n]
        return any(ARMS.attempts[name].finds is not None for name in wanted)

    async def _round(
        self,
        panel: Panel,
        before: PanelState,
        state: RttcState,
        scope: RunScope,
        notes: Notes,
    ) -> Panel | str:
        """Return the panel with one more round, or why there is none.

        Raises:
            BudgetExceeded: There is no room for the first draw.
            ConfigurationError: The strategy proposes what cannot be drawn.
            PolicyModelError: The model failed.
        """
        if reason := _end(before, scope):
            return reason
        proposal = strategy_of(state["attempt"]).propose(panel)
        _check(proposal, panel, state["attempt"])
        if proposal.grades or proposal.pairs:
            return await checked_panel(self.policy_model, panel, proposal, state, scope, notes)
        if proposal.watches or proposal.looks_up_at is not None:
            found = await self._looked_up(panel, proposal, state, scope, notes)
            return found or await self._no_room(scope)
        if proposal.thinks is not None and proposal.thinks.places:
            thoughts = PanelThoughts(
                policy_model=self.policy_model,
                reward_model=self.reward_model,
                knowledge_base=self.knowledge_base,
                embedder=self.embedder,
            )
            thought = await thoughts.grown(panel, proposal, state, scope, notes)
            return thought or await self._no_room(scope)
        draws = any(n > 0 for n in proposal.draws.values())
        more = (proposal.continuations, proposal.revisions, proposal.expansions)
        wants_more = draws or any(more)
        if panel.left == 0 or not wants_more:
            return proposal.reason
        if proposal.expansions:
            steps = PanelSteps(
                policy_model=self.policy_model,
                reward_model=self.reward_model,
                step_judge=await self._step_judge(panel, state, scope, notes),
            )
            grown = await steps.grown(panel, proposal, state, scope, notes)
            return grown or await self._no_room(scope)
        drawing = PanelDrawing(self.policy_model)
        rows = await drawing.rows(proposal, panel, state, scope, notes)
        if not rows:
            return await self._no_room(scope)
        drawn = await drawing.draw(rows, state, scope, notes, reason=proposal.reason)
        for number, one in enumerate(drawn, len(panel.drawn)):
            stream_candidate(one["text"], state, scope, attempt=state["attempt"], number=number)
        drawn = await judged_draws(self.reward_model, drawn, panel, state, scope, notes)
        panel = replace(panel, drawn=(*panel.drawn, *drawn))
        return with_root(panel, state) if proposal.thinks and not panel.thoughts else panel

    async def _looked_up(
        self,
        panel: Panel,
        proposal: Proposal,
        state: RttcState,
        scope: RunScope,
        notes: Notes,
    ) -> Panel | None:
        """Return the panel with an answer that is watched, or with a look-up in one.

        Raises:
            ConfigurationError: The strategy may not.
        """
        allowed = ARMS.attempts[state["attempt"]].looks_up
        if not allowed or self.knowledge_base is None or self.embedder is None:
            raise ConfigurationError(
                f"strategy {state['attempt']!r} looks something up: register it with "
                "looks_up=True, so that only a graph with a knowledge base has it"
            )
        if proposal.looks_up_at is not None:
            lookups = PanelLookUps(
                policy_model=self.policy_model,
                reward_model=self.reward_model,
                knowledge_base=self.knowledge_base,
                embedder=self.embedder,
            )
            at, reason = proposal.looks_up_at, proposal.reason
            return await lookups.tried(panel, at, state, scope, notes, reason=reason)
        watching = PanelWatching(
            policy_model=self.policy_model,
            step_judge=await self._step_judge(panel, state, scope, notes),
        )
        drawn = await watching.watched(proposal, panel, state, scope, notes)
        if not drawn:
            return None
        drawn = await judged_draws(self.reward_model, drawn, panel, state, scope, notes)
        if proposal.watches:
            drawn = [with_doubted_whole(one, scope) for one in drawn]
        return replace(panel, drawn=(*panel.drawn, *drawn))

    async def _no_room(self, scope: RunScope) -> str:
        left = await tokens_left(self.policy_model, scope.allowance, scope.settings)
        context = await self.policy_model.context_tokens()
        is_short = context is not None and context <= left.tokens
        what = f"the model's context of {context} tokens" if is_short else left.of
        return f"{what} has no room for another draw"

    async def _step_judge(
        self, panel: Panel, state: RttcState, scope: RunScope, notes: Notes
    ) -> ProcessRewardModel | None:
        """Return who judges the steps of this question; `None` where nobody may."""
        judge = self._judge_of_steps(state, scope)
        if judge is None:
            return None
        closed = await survive(judge.closed(), deadline=scope.deadline)
        if not closed:
            return judge
        if not panel.tree:
            reason = str(closed.error) if isinstance(closed, Failure) else closed
            notes.add("skipped", since=scope.started, what="judge steps", reason=reason)
        return None

    def _judge_of_steps(self, state: RttcState, scope: RunScope) -> ProcessRewardModel | None:
        if self.process_reward_model is None:
            return None
        return self.process_reward_model.within(
            tenant=scope.settings.tenant, domain=state["task"]["domain"]
        )

    async def _widest(self, state: RttcState, scope: RunScope) -> int | None:
        """Return how wide a choice between steps may be: 1, so none, where nobody judges them."""
        judge = self._judge_of_steps(state, scope)
        closed = "" if judge is None else await survive(judge.closed(), deadline=scope.deadline)
        if judge is None or closed:
            return 1
        widest = await survive(judge.widest(), deadline=scope.deadline)
        return None if isinstance(widest, Failure) else widest

    async def _panel(self, before: PanelState, state: RttcState, scope: RunScope) -> Panel:
        """Return the panel as it is.

        Raises:
            ConfigurationError: There is nothing to draw from.
        """
        adapted = state.get("adapted")
        there = {
            None,
            *(["samples"] if state["samples"] else []),
            *(["adapter"] if adapted else []),
        }
        proposers = [name for name in _wanted(scope) if ARMS.attempts[name].finds in there]
        if not proposers:
            raise ConfigurationError(
                f"there is nothing to draw from: search_from={','.join(_wanted(scope))}, and "
                "neither samples nor an adapter are in hand"
            )
        judge = self.reward_model.within(
            tenant=scope.settings.tenant, domain=state["task"]["domain"]
        )
        calibrated = await survive(judge.is_calibrated(), deadline=scope.deadline)
        return Panel(
            size=scope.settings.search.n,
            proposers=tuple(proposers),
            drawn=tuple(before["drawn"]),
            tau_r=scope.settings.tau_r,
            calibrated=calibrated is True,
            settings=scope.settings.search,
            compared=_compared(before),
            checking_tokens=before.get("checking_tokens", 0),
            checking_flops=before.get("checking_flops", 0.0),
            tree=tuple(before.get("tree", ())),
            lookups=tuple(before.get("lookups", ())),
            thoughts=tuple(before.get("thoughts", ())),
            found=tuple(state.get("looked_up", ())),
            widest=await self._widest(state, scope),
            seed=scope.settings.seed,
            rounds_left=MAX_ROUNDS - before["rounds"],
        )


def _wanted(scope: RunScope) -> tuple[Attempt, ...]:
    return scope.settings.search.from_ or proposer_names()


def _compared(before: PanelState) -> dict[tuple[int, int], float]:
    """Return the pairs that were compared; in a state from a checkpoint they are lists."""
    pairs = before.get("compared", ())
    return {(one["places"][0], one["places"][1]): one["earlier"] for one in pairs}


def _panel_state(state: RttcState) -> PanelState:
    """Return the panel of this attempt, a new one where there is none yet."""
    panel = state.get("panel")
    if panel is not None and panel["attempt"] == state["attempt"]:
        return panel
    return {"attempt": state["attempt"], "drawn": [], "rounds": 0, "seconds": 0.0}


def _check(proposal: Proposal, panel: Panel, strategy: str) -> None:
    """Refuse a proposal that cannot be carried out.

    Raises:
        ConfigurationError: It draws from what is not there, or names a draw without a text.
    """
    if unknown := sorted(proposal.draws.keys() - set(panel.proposers)):
        raise ConfigurationError(
            f"strategy {strategy!r} draws from {unknown}, but there are only "
            f"{list(panel.proposers)}"
        )
    named = [*proposal.revisions, *proposal.grades, *chain.from_iterable(proposal.pairs)]
    there = range(len(panel.drawn))
    if bad := [place for place in named if place not in there or not text_in_hand(panel, place)]:
        raise ConfigurationError(
            f"strategy {strategy!r} names draw {bad[0]!r} of {len(panel.drawn)}, whose text is not "
            "in hand: name one that has a text"
        )
    if bad_pairs := [pair for pair in proposal.pairs if pair[0] >= pair[1]]:
        raise ConfigurationError(
            f"strategy {strategy!r} compares draws {bad_pairs[0]!r}: the earlier one comes first"
        )


def _end(before: PanelState, scope: RunScope) -> str | None:
    """Return why no further round is drawn, whatever the strategy says."""
    if not (before["drawn"] or before.get("tree")):
        return None
    if before["rounds"] >= MAX_ROUNDS:
        return f"{MAX_ROUNDS} rounds are drawn"
    return "budget of seconds is spent" if scope.allowance.seconds <= 0 else None
