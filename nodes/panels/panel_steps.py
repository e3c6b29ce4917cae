"""Steps of a panel's tree: drawn behind the steps that a strategy names, judged, and kept."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, cast

from rttc_graph.arms import ARMS
from rttc_graph.errors import BudgetExceeded, ConfigurationError
from rttc_graph.nodes.panels.panel_continuing import prompt_tokens
from rttc_graph.nodes.panels.panel_drawing import PanelDrawing, tell_too_long
from rttc_graph.nodes.panels.panel_judging import adapter_of, judged_draws, judged_steps
from rttc_graph.protocols import (
    BegunAnswer,
    Generation,
    GenerationRequest,
    PolicyModel,
    ProcessRewardModel,
    RewardModel,
    StepCut,
    forward_flops,
    parameters_of,
    summed,
)
from rttc_graph.run.answering import generated, no_room
from rttc_graph.run.budget import tokens_left
from rttc_graph.run.ledger import Notes
from rttc_graph.run.prompts import (
    adapted_messages,
    direct_messages,
    rag_messages,
    solved,
)
from rttc_graph.run.scope import RunScope
from rttc_graph.search.answer_votes import read_vote, wants_number
from rttc_graph.search.panel import Panel
from rttc_graph.search.sample_subsets import draw_seed
from rttc_graph.search.steps.step_tree import StepTree
from rttc_graph.search.strategy import Expansion, Proposal
from rttc_graph.state import Attempt, ChatTurn, Drawn, RttcState, StepNode
from rttc_graph.support.thinking import spoken


class StepRow(NamedTuple):
    """One step that is asked for."""

    expansion: Expansion
    proposer: Attempt
    shown: tuple[int, ...]
    request: GenerationRequest
    most_tokens: int
    """Tokens of its prompt and of the longest it may be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PanelSteps:
    """What grows the tree of a panel."""

    policy_model: PolicyModel
    reward_model: RewardModel
    step_judge: ProcessRewardModel | None = None
    """Judges the steps, for this tenant and domain; `None` where nobody does."""

    async def grown(
        self,
        panel: Panel,
        proposal: Proposal,
        state: RttcState,
        scope: RunScope,
        notes: Notes,
    ) -> Panel | None:
        """Return the panel with one more round of steps; `None` if the budget has no room.

        What ends an answer is added to its draws too, with a vote and a reward.

        Raises:
            BudgetExceeded: There is no room for the first step.
            ConfigurationError: The proposal makes no sense.
            PolicyModelError: The model failed.
        """
        rows = await self._rows(proposal, panel, state, scope, notes)
        if not rows:
            return None
        made = await self._drawn(rows, state, scope, notes, reason=proposal.reason)
        _tell_recomputed(rows, made, panel, scope, notes)
        nodes = await self._nodes(rows, made, panel)
        nodes = await self._judged(rows, made, nodes, panel, state, scope, notes)
        numeric = wants_number(sample["answer"] for sample in solved(state["samples"]))
        ends = [n for n, node in enumerate(nodes) if node["finish_reason"] != "step"]
        finished = [
            _answer(rows[n].proposer, made[n].text, nodes[n], numeric=numeric) for n in ends
        ]
        finished = await judged_draws(self.reward_model, finished, panel, state, scope, notes)
        for place, n in enumerate(ends):
            nodes[n] = {**nodes[n], "answer": len(panel.drawn) + place}
        return replace(panel, drawn=(*panel.drawn, *finished), tree=(*panel.tree, *nodes))

    async def _rows(
        self,
        proposal: Proposal,
        panel: Panel,
        state: RttcState,
        scope: RunScope,
        notes: Notes,
    ) -> list[StepRow]:
        """Return as many steps as the budget has room for, were each as long as it may be.

        Where a round would leave no room to write one answer to its end, and there is none yet, it
        is that answer instead. A first round draws fewer steps before that.

        Raises:
            BudgetExceeded: There is no room for the first step.
        """
        wanted = [
            replace(one, count=1)
            for one in proposal.expansions
            for _ in range(_checked(one, panel).count)
        ][: panel.left]  # each may end an answer
        too_long = dict[Attempt, BudgetExceeded]()
        rows = [
            row
            for n, one in enumerate(wanted, len(panel.tree))
            if (row := await self._row(one, n, panel, too_long, state, scope)) is not None
        ]
        if too_long and not rows:
            raise next(iter(too_long.values()))
        tell_too_long(too_long, state, scope, notes)
        left = (await tokens_left(self.policy_model, scope.allowance, scope.settings)).tokens
        if panel.drawn or not rows:
            return _fitting(rows, left)
        best = _best_begun(panel, rows)
        whole = await self._row(
            replace(best.expansion, to_end=True), len(panel.tree), panel, too_long, state, scope
        )
        longest = 0 if whole is None else whole.most_tokens
        fitting = _fitting(rows, left if panel.tree else left - longest)
        spent = sum(row.most_tokens for row in fitting)
        if whole is not None and (not fitting or longest > left - spent):
            fitting = _fitting([_shortened(whole, left)], left)
        if not fitting and not panel.tree:
            raise await no_room(self.policy_model, best.request.messages, scope)
        return fitting

    async def _row(
        self,
        one: Expansion,
        number: int,
        panel: Panel,
        too_long: dict[Attempt, BudgetExceeded],
        state: RttcState,
        scope: RunScope,
    ) -> StepRow | None:
        """Return the request for a step; `None` if its prompt or its answer has no room left.

        Raises:
            BudgetExceeded: The context has no room for the first step of an answer.
        """
        settings, search, tree = scope.settings, scope.settings.search, StepTree(panel.tree)
        found = await self._prompt(one, panel, too_long, state, scope)
        if found is None:
            return None
        proposer, messages, shown = found
        begun = tree.text(one.parent)
        room = settings.max_new_tokens - tree.tokens(one.parent)
        first = one.is_look or number == 0
        request = GenerationRequest(
            messages=messages,
            answer_prefix=begun,
            max_new_tokens=max(1, room),
            temperature=(0.0 if one.is_look else settings.temperature)
            if first
            else search.temperature,
            top_p=settings.top_p,
            stop=settings.stop_strings,
            seed=draw_seed(settings.seed, number),
            adapter=adapter_of(proposer, state),
            ends_loops=True,
            step=None if one.to_end else step_cut(scope),
            tells_state=self.step_judge is not None,
        )
        prompt = await prompt_tokens(self.policy_model, request)
        context = await self.policy_model.context_tokens()
        room = min(room, room if context is None else context - prompt)
        if room < 1 and one.parent is None:
            raise await no_room(self.policy_model, messages, scope)
        if room < 1:
            return None
        longest = room if one.to_end else min(room, search.step_most)
        request = replace(request, max_new_tokens=room)
        return StepRow(one, proposer, shown, request, prompt + longest)

    async def _prompt(
        self,
        one: Expansion,
        panel: Panel,
        too_long: dict[Attempt, BudgetExceeded],
        state: RttcState,
        scope: RunScope,
    ) -> tuple[Attempt, tuple[ChatTurn, ...], tuple[int, ...]] | None:
        """Return whom a step is drawn from, the prompt, and the places of the samples in it.

        Where the samples of a first step do not fit, it is drawn from another proposer; `None` if
        none is left.
        """
        task, prompts = state["task"], scope.settings.prompts
        if one.parent is None:
            proposers = (one.proposer or panel.proposers[0], *panel.proposers)
            turns = dict.fromkeys(proposers, one.branch)
            drawing = PanelDrawing(self.policy_model)
            return await drawing.prompt_of(proposers, turns, too_long, state, scope)
        before = panel.tree[one.parent]
        proposer, places = before["proposer"], tuple(before["shown"])
        if ARMS.attempts[proposer].finds == "adapter":
            messages = adapted_messages(task["query"], state["samples"], task["history"], prompts)
            return proposer, messages, ()
        if not places:
            return proposer, direct_messages(task["query"], task["history"], prompts), ()
        shown = [state["samples"][place] for place in places]
        return proposer, rag_messages(task["query"], shown, task["history"], prompts), places

    async def _drawn(
        self,
        rows: Sequence[StepRow],
        state: RttcState,
        scope: RunScope,
        notes: Notes,
        *,
        reason: str,
    ) -> list[Generation]:
        since = time.monotonic()
        made = await generated(
            self.policy_model, [row.request for row in rows], deadline=scope.deadline
        )
        parameters = await parameters_of(self.policy_model)
        notes.add(
            "drawn",
            since=since,
            arm=state["attempt"],
            steps=len(rows),
            prompt_tokens=sum(one.prompt_tokens for one in made),
            completion_tokens=sum(one.completion_tokens for one in made),
            reused_tokens=sum(one.reused_tokens for one in made),
            flops=summed(*(forward_flops(parameters, _computed(one)) for one in made)),
            reason=reason,
        )
        return made

    async def _nodes(
        self, rows: Sequence[StepRow], made: Sequence[Generation], panel: Panel
    ) -> list[StepNode]:
        parameters = await parameters_of(self.policy_model)
        number = max((node["round"] + 1 for node in panel.tree), default=0)
        return [
            {
                "parent": row.expansion.parent,
                "round": number,
                "branch": row.expansion.branch,
                "look": row.expansion.is_look,
                "proposer": row.proposer,
                "shown": list(row.shown),
                "text": one.text[len(row.request.answer_prefix) :],
                "p": None,
                "prompt_tokens": one.prompt_tokens,
                "completion_tokens": one.completion_tokens,
                "reused_tokens": one.reused_tokens,
                "flops": forward_flops(parameters, _computed(one)),
                "mean_logprob": one.mean_logprob,
                "finish_reason": one.finish_reason,
                "answer": None,
            }
            for row, one in zip(rows, made, strict=True)
        ]

    async def _judged(
        self,
        rows: Sequence[StepRow],
        made: Sequence[Generation],
        nodes: Sequence[StepNode],
        panel: Panel,
        state: RttcState,
        scope: RunScope,
        notes: Notes,
    ) -> list[StepNode]:
        """Return the steps with their probabilities, as far as the judge of steps gives any.

        A step that adds nothing but the end is worth what the step before it is.
        """
        if self.step_judge is None:
            return list(nodes)
        tree, waiting = StepTree(panel.tree), list[int]()
        answers: list[BegunAnswer] = []
        for n, (row, one, node) in enumerate(zip(rows, made, nodes, strict=True)):
            parent = row.expansion.parent
            if not node["text"].strip() and parent is not None:
                continue
            earlier = [panel.tree[place] for place in tree.path(parent)]
            before = tuple(step["text"] for step in earlier)
            waiting.append(n)
            answers.append(
                BegunAnswer(
                    steps=(*before, node["text"]),
                    known=len(before),
                    is_finished=node["finish_reason"] != "step",
                    messages=row.request.messages,
                    adapter=row.request.adapter,
                    state=one.state,
                    logprobs=(*(step["mean_logprob"] for step in earlier), one.mean_logprob),
                )
            )
        found = await judged_steps(self.step_judge, answers, state, scope, notes)
        shares = dict(zip(waiting, found, strict=True))
        return [
            cast("StepNode", {**node, "p": shares[n] if n in shares else _inherited(node, panel)})
            for n, node in enumerate(nodes)
        ]


SLACK_TOKENS = 32
"""Known tokens of a step's prompt that may be computed again all the same: rows that are computed
together are made of equal length."""


def _tell_recomputed(
    rows: Sequence[StepRow],
    made: Sequence[Generation],
    panel: Panel,
    scope: RunScope,
    notes: Notes,
) -> None:
    """Note that earlier steps were computed again, as where the tree does not fit the memory.

    A model that never reuses anything tells nothing.
    """
    if not any(node["reused_tokens"] for node in panel.tree):
        return
    again = [
        one.prompt_tokens - one.reused_tokens
        for row, one in zip(rows, made, strict=True)
        if row.expansion.parent is not None
    ]
    lost = sum(tokens for tokens in again if tokens > SLACK_TOKENS)
    if lost:
        notes.add(
            "skipped",
            since=scope.started,
            what="reuse earlier steps",
            reason=f"{lost} tokens of prompts and earlier steps were computed again: the tree "
            "does not fit prefix_cache_bytes, so raise it, or lower search_nodes or search_n",
        )


def step_cut(scope: RunScope) -> StepCut:
    """Return how answers are cut into steps."""
    search = scope.settings.search
    return StepCut(
        marks=search.step_marks, least_tokens=search.step_least, most_tokens=search.step_most
    )


def with_partial_answer(panel: Panel) -> Panel:
    """Return a panel without a finished answer with the best-judged unfinished one as its draw."""
    if panel.drawn or not panel.tree:
        return panel
    tree = StepTree(panel.tree)
    leaves = [n for n in range(len(panel.tree)) if not tree.children(n)]
    best = max(leaves, key=lambda n: (panel.tree[n]["p"] or 0.0, tree.tokens(n), -n))
    node = panel.tree[best]
    one = _answer(node["proposer"], tree.text(best), node, numeric=False)
    nodes = list(panel.tree)
    nodes[best] = {**node, "answer": 0}
    return replace(panel, drawn=(one,), tree=tuple(nodes))


def _answer(proposer: Attempt, text: str, node: StepNode, *, numeric: bool) -> Drawn:
    """Return the answer that ends with a step; its tokens are those of this step alone."""
    told = spoken(text).answer
    return {
        "proposer": proposer,
        "text": told,
        "vote": read_vote(told, finish_reason=node["finish_reason"], numeric=numeric),
        "reward": None,
        "prompt_tokens": node["prompt_tokens"],
        "completion_tokens": node["completion_tokens"],
        "mean_logprob": node["mean_logprob"],
        "finish_reason": node["finish_reason"],
        "shown": node["shown"],
        "reused_tokens": node["reused_tokens"],
        "flops": node["flops"],
    }


def _checked(one: Expansion, panel: Panel) -> Expansion:
    """Return an expansion that can be drawn.

    Raises:
        ConfigurationError: It goes on from no step, or from one that has ended.
    """
    bad_parent = one.parent is not None and (
        not 0 <= one.parent < len(panel.tree) or panel.tree[one.parent]["finish_reason"] != "step"
    )
    if bad_parent or one.count < 1 or (one.proposer and one.proposer not in panel.proposers):
        raise ConfigurationError(
            f"a strategy expands {one!r} of a tree of {len(panel.tree)} steps: name a step that "
            f"can be gone on from, at least one step, and one of {list(panel.proposers)}"
        )
    return one


def _fitting(rows: Sequence[StepRow], left: int) -> list[StepRow]:
    fitting: list[StepRow] = []
    for row in rows:
        if row.most_tokens > left:
            break
        left -= row.most_tokens
        fitting.append(row)
    return fitting


def _shortened(row: StepRow, left: int) -> StepRow:
    """Return a row whose answer is as short as the budget wants it."""
    room = row.request.max_new_tokens - max(0, row.most_tokens - left)
    if room < 1:
        return row
    request = replace(row.request, max_new_tokens=room)
    return row._replace(request=request, most_tokens=min(row.most_tokens, left))


def _best_begun(panel: Panel, rows: Sequence[StepRow]) -> StepRow:
    def worth(row: StepRow) -> float:
        parent = row.expansion.parent
        return 0.0 if parent is None else panel.tree[parent]["p"] or 0.0

    return max(rows, key=worth)


def _inherited(node: StepNode, panel: Panel) -> float | None:
    return None if node["parent"] is None else panel.tree[node["parent"]]["p"]


def _computed(one: Generation) -> int:
    return one.prompt_tokens - one.reused_tokens + one.completion_tokens
