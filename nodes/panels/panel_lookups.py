"""A look-up in mid-answer: what is found, and the trial of the answer with it and without it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import cast

from rttc_graph.errors import ConfigurationError
from rttc_graph.nodes.panels.found_samples import cosine, seen_from, vectors_of
from rttc_graph.nodes.panels.panel_continuing import own_prompt, prompt_tokens
from rttc_graph.nodes.panels.panel_drawing import DrawRow, PanelDrawing
from rttc_graph.nodes.panels.panel_judging import adapter_of, judged_draws
from rttc_graph.nodes.panels.panel_watching import (
    asked_with_stops,
    halt_of,
    told_to_look_up,
    with_doubted_whole,
    with_halt,
    with_part_of_samples,
)
from rttc_graph.protocols import (
    Embedder,
    Generation,
    GenerationRequest,
    KnowledgeBase,
    PolicyModel,
    RewardModel,
)
from rttc_graph.run.answering import generated
from rttc_graph.run.backend_failures import Failure, survive
from rttc_graph.run.budget import tokens_left
from rttc_graph.run.ledger import Notes
from rttc_graph.run.prompts import standalone_query
from rttc_graph.run.scope import RunScope
from rttc_graph.search.panel import Panel
from rttc_graph.search.thinking.lookup_text import NOTHING, harmless, inserted
from rttc_graph.search.thinking.search_o1 import is_whole
from rttc_graph.state import Drawn, Halt, LookUp, RttcState, Sample
from rttc_graph.support.passages import is_passage
from rttc_graph.support.thinking import answer_behind

_PAIR = 2
"""Answers of a trial."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """What a query has found."""

    query: str
    samples: list[Sample] = field(default_factory=list[Sample])
    reason: str = ""
    """Why there are none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PanelLookUps:
    """What looks something up for an answer that was stopped, and puts it to the trial."""

    policy_model: PolicyModel
    reward_model: RewardModel
    knowledge_base: KnowledgeBase
    embedder: Embedder

    async def tried(
        self,
        panel: Panel,
        place: int,
        state: RttcState,
        scope: RunScope,
        notes: Notes,
        *,
        reason: str,
    ) -> Panel | None:
        """Return the panel with the look-up and its pair of answers; `None` if no room is left.

        Both go on from the same beginning and are drawn in one call. Where nothing is found, or the
        budget has no room for a pair, the answer goes on without.

        Raises:
            ConfigurationError: The draw was not stopped.
            PolicyModelError: The model failed.
        """
        since, one = time.monotonic(), _stopped(panel, place, state)
        halt = one.get("halt")
        if halt is None or "whole" not in one:
            return None  # too long to be gone on with
        found = await self._found(one, halt, panel, state, scope, notes)
        rows = await self._rows(one, halt, found, panel, state, scope)
        if not rows:
            return None
        made = await generated(
            self.policy_model, [row.request for row in rows], deadline=scope.deadline
        )
        made = [
            _ended(one_made, row.request, scope.settings.stop_strings)
            for one_made, row in zip(made, rows, strict=True)
        ]
        shown = with_part_of_samples(state, scope)
        drawn = await PanelDrawing(self.policy_model).drawn(
            rows, made, shown, notes, since=since, reason=reason
        )
        drawn = [
            with_halt(draw, halt_of(one_made, row.request))
            for draw, one_made, row in zip(drawn, made, rows, strict=True)
        ]
        grown = replace(panel, found=(*panel.found, *found.samples))
        drawn = _with_inserted(drawn, one, [*range(len(panel.found), len(grown.found))])
        seen: RttcState = {**state, "looked_up": list(grown.found)}
        drawn = await judged_draws(self.reward_model, drawn, panel, seen, scope, notes)
        drawn = [
            with_doubted_whole(draw, scope, begun=len(row.request.answer_prefix))
            for draw, row in zip(drawn, rows, strict=True)
        ]
        grown = replace(grown, drawn=(*panel.drawn, *drawn))
        lookup = _looked_up(place, halt, found, grown, behind=len(rows) > 1)
        notes.add(
            "looked_up",
            since=since,
            arm=state["attempt"],
            number=len(panel.lookups) + 1,
            trigger=lookup["trigger"],
            query=lookup["query"],
            samples=lookup["samples"],
            kept=lookup["kept"],
            rewards={
                "without": _reward(grown, lookup["without"]),
                "behind": _reward(grown, lookup["behind"]),
            },
            reason=lookup["reason"],
        )
        return replace(grown, lookups=(*panel.lookups, lookup))

    async def _rows(
        self,
        one: Drawn,
        halt: Halt,
        found: _Found,
        panel: Panel,
        state: RttcState,
        scope: RunScope,
    ) -> list[DrawRow]:
        """Return the answer that goes on without samples, then the one behind them, if any."""
        rows = [self._row(_without(halt), one, state, scope, asks=False)]
        text = await self._condensed(found.samples, scope)
        if text and panel.left >= _PAIR:
            more = len(panel.lookups) + 1 < scope.settings.search.lookups
            block = inserted(halt["query"] if halt["trigger"] == "tag" else "", text)
            asks = more and panel.left >= 2 * _PAIR
            rows.append(self._row(block, one, state, scope, asks=asks))
        return await self._fitting(rows, scope)

    def _row(
        self,
        block: str,
        one: Drawn,
        state: RttcState,
        scope: RunScope,
        *,
        asks: bool,
    ) -> DrawRow:
        settings = scope.settings
        begun = one.get("whole", "")[: one["halt"]["at"]] if "halt" in one else ""
        told, shown = told_to_look_up(scope), with_part_of_samples(state, scope)
        prefix = f"{begun.rstrip()}{block}" if block else begun.rstrip(" ")
        request = GenerationRequest(
            messages=own_prompt(one, shown, told),
            answer_prefix=prefix,
            max_new_tokens=settings.max_new_tokens,
            temperature=settings.temperature,
            top_p=settings.top_p,
            stop=tuple(stop for stop in settings.stop_strings if stop not in prefix),
            seed=settings.seed,
            adapter=adapter_of(one["proposer"], state),
        )
        request = asked_with_stops(request, scope, asks=asks)
        return DrawRow(one["proposer"], tuple(one["shown"]), request, 0)

    async def _fitting(self, rows: Sequence[DrawRow], scope: RunScope) -> list[DrawRow]:
        """Return the rows that the budget has room for, shortened to the context."""
        left = (await tokens_left(self.policy_model, scope.allowance, scope.settings)).tokens
        context = await self.policy_model.context_tokens()
        fitting: list[DrawRow] = []
        for row in rows:
            prompt = await prompt_tokens(self.policy_model, row.request)
            limits = [row.request.max_new_tokens, left - prompt]
            limits += [] if context is None else [context - prompt]
            room = min(limits)
            if room < 1:
                break
            if fitting and room < fitting[0].request.max_new_tokens:
                break  # a pair has the same room
            request = replace(row.request, max_new_tokens=room)
            fitting.append(row._replace(request=request, most_tokens=prompt + room))
            left -= prompt + room
        return fitting

    async def _found(
        self,
        one: Drawn,
        halt: Halt,
        panel: Panel,
        state: RttcState,
        scope: RunScope,
        notes: Notes,
    ) -> _Found:
        """Return what is new for a query: samples that neither prompt nor answer has shown."""
        settings, since = scope.settings, time.monotonic()
        question = standalone_query(state)
        query = halt["query"] if halt["trigger"] == "tag" else f"{question}\n{halt['query']}"
        left = settings.k - len(one["shown"]) - len(panel.found)
        if left < 1:
            return _Found(query=query, reason=f"k={settings.k} samples are shown already")
        earlier = [lookup["query"] for lookup in panel.lookups]
        vectors = await survive(
            vectors_of(self.embedder, [query, question, *earlier]), deadline=scope.deadline
        )
        if isinstance(vectors, Failure):
            notes.add_failure(vectors, since=since, what="embed the query of a look-up")
            return _Found(query=query, reason="the query could not be embedded")
        asked, about, *before = vectors
        if max((cosine(asked, one) for one in before), default=-1.0) >= settings.search.lookup_same:
            return _Found(query=query, reason="the query was asked already")
        ids = {state["samples"][place]["id"] for place in one["shown"]}
        ids |= {sample["id"] for sample in panel.found}
        lookups_left = max(1, settings.search.lookups - len(panel.lookups))
        wanted = max(1, left // lookups_left)
        result = await survive(
            self.knowledge_base.search(
                asked,
                k=len(ids) + wanted,
                domain=state["task"]["domain"],
                tenant=settings.tenant,
            ),
            deadline=scope.deadline,
        )
        if isinstance(result, Failure):
            notes.add_failure(result, since=since, what="search the knowledge base")
            return _Found(query=query, reason="the knowledge base could not be searched")
        near = [s for s in result.samples if s["similarity"] >= settings.lowest_similarity]
        new = [sample for sample in near if sample["id"] not in ids][:wanted]
        if not new:
            return _Found(query=query, reason="nothing new is near enough to the query")
        seen = await seen_from(about, new, self.embedder, deadline=scope.deadline)
        return _Found(query=query, samples=seen)

    async def _condensed(self, samples: Sequence[Sample], scope: RunScope) -> str:
        """Return samples as text, each cut so that all have `search_lookup_tokens` at most."""
        if not samples:
            return ""
        most = scope.settings.search.lookup_tokens // len(samples)
        texts = [await self._cut(_as_text(sample), most) for sample in samples]
        return "\n".join(text for text in texts if text)

    async def _cut(self, text: str, most: int) -> str:
        frame = await self.policy_model.count_tokens([{"role": "user", "content": ""}])
        while text:
            tokens = await self.policy_model.count_tokens([{"role": "user", "content": text}])
            if tokens - frame <= most:
                return text
            length = min(len(text) - 1, len(text) * most // max(1, tokens - frame))
            text = text[:length].rstrip()
        return text


def _ended(made: Generation, request: GenerationRequest, stops: Sequence[str]) -> Generation:
    """Return an answer up to the first of these strings that it was not asked to stop at.

    What is inserted may hold a stop string, and a model is not asked to go on behind one.
    """
    begun = len(request.answer_prefix)
    found = [made.text.find(stop, begun) for stop in stops if stop not in request.stop]
    ends = [at for at in found if at >= 0]
    if not ends:
        return made
    doubt = made.doubt_at
    return replace(
        made,
        text=made.text[: min(ends)],
        finish_reason="stop",
        doubt_at=None if doubt is None or doubt >= min(ends) else doubt,
    )


def _stopped(panel: Panel, place: int, state: RttcState) -> Drawn:
    """Return the draw that something is looked up for.

    Raises:
        ConfigurationError: It was not stopped.
    """
    if not 0 <= place < len(panel.drawn) or "halt" not in panel.drawn[place]:
        raise ConfigurationError(
            f"strategy {state['attempt']!r} looks up at draw {place!r} of {len(panel.drawn)}, "
            "which was not stopped: name one that has a halt"
        )
    return panel.drawn[place]


def _with_inserted(drawn: Sequence[Drawn], one: Drawn, new: Sequence[int]) -> list[Drawn]:
    """Return the answers of a trial with what stands in each: the second one has the new too."""
    before = one.get("inserted", [])
    there = [before, [*before, *new]]
    return [
        cast("Drawn", {**draw, "inserted": places}) if places else draw
        for draw, places in zip(drawn, there, strict=False)
    ]


def _as_text(sample: Sample) -> str:
    """Return a sample on one line for what it asks and one for what it says."""
    question = harmless(" ".join(sample["question"].split()))
    if is_passage(sample.get("metadata")):
        return f"[{question}] {harmless(sample['answer'])}"
    return f"{question} {harmless(answer_behind(sample['answer']))}"


def _without(halt: Halt) -> str:
    """Return what stands in the answer that goes on without samples: a model that asks is told."""
    return inserted(halt["query"], NOTHING) if halt["trigger"] == "tag" else ""


def _looked_up(place: int, halt: Halt, found: _Found, panel: Panel, *, behind: bool) -> LookUp:
    first = len(panel.drawn) - (2 if behind else 1)
    kept, reason = False, found.reason or "there was no room for the pair"
    lookup: LookUp = {
        "place": place,
        "trigger": halt["trigger"],
        "query": found.query,
        "samples": [sample["id"] for sample in found.samples] if behind else [],
        "without": first,
        "behind": first + 1 if behind else None,
        "kept": kept,
        "reason": reason,
    }
    if not behind:
        return lookup
    if not is_whole(panel, first + 1):
        return {**lookup, "kept": None, "reason": "the answer behind it asks once more"}
    without, better = _reward(panel, first), _reward(panel, first + 1)
    if without is None or better is None:
        return {**lookup, "reason": "an answer of the pair has no reward"}
    if better > without:
        reason = f"the reward behind it is {better:.3f}, without it {without:.3f}"
        return {**lookup, "kept": True, "reason": reason}
    reason = f"the reward behind it is {better:.3f}, and {without:.3f} without it"
    return {**lookup, "kept": False, "reason": reason}


def _reward(panel: Panel, place: int | None) -> float | None:
    return None if place is None else panel.drawn[place]["reward"]
