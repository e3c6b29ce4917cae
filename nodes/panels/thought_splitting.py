"""Splits of a graph of thoughts: what the policy model named becomes questions with samples."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from rttc_graph.arms import ARMS
from rttc_graph.nodes.panels.found_samples import seen_from, vectors_of
from rttc_graph.protocols import Embedder, KnowledgeBase
from rttc_graph.run.backend_failures import Failure, survive
from rttc_graph.run.ledger import Notes
from rttc_graph.run.scope import RunScope
from rttc_graph.search.panel import Panel
from rttc_graph.search.thinking.thought_graph import (
    ROOT,
    SplitPlan,
    is_closed,
    planned,
    reward_of,
    thought,
    twins_of,
)
from rttc_graph.search.thinking.thought_split import Part, read_parts
from rttc_graph.state import RttcState, Sample, Thought, ThoughtStatus
from rttc_graph.support.thinking import spoken

Vectors = Mapping[str, Sequence[float]]
"""Unit vectors by text; empty where there is no embedder, or it failed."""


@dataclass(frozen=True, slots=True)
class ThoughtSplitting:
    """What adds the questions of splits to a panel's graph."""

    knowledge_base: KnowledgeBase | None
    embedder: Embedder | None

    async def split(
        self,
        panel: Panel,
        said: Mapping[int, tuple[str, int]],
        state: RttcState,
        scope: RunScope,
        notes: Notes,
    ) -> Panel:
        """Return the panel with the questions that splits name, and the samples found for them.

        Args:
            panel: The panel.
            said: What the model said by the place of a question, and the most parts it may have.
            state: State of the run.
            scope: Scope of this step.
            notes: Get an entry for each split.
        """
        since, first = time.monotonic(), len(panel.thoughts)
        parts = {place: read_parts(spoken(text).answer) for place, (text, _) in said.items()}
        vectors = await self._vectors(panel, parts, scope, notes)
        for place, named in parts.items():
            panel = _with_split(panel, place, named, said[place][1], vectors, since, state, notes)
        return await self._with_samples(panel, first, vectors, state, scope, notes)

    async def _vectors(
        self, panel: Panel, parts: Mapping[int, Sequence[Part]], scope: RunScope, notes: Notes
    ) -> Vectors:
        named = [part.question for some in parts.values() for part in some]
        if self.embedder is None or not named:
            return {}
        texts = list(dict.fromkeys([*(one["question"] for one in panel.thoughts), *named]))
        since = time.monotonic()
        found = await survive(vectors_of(self.embedder, texts), deadline=scope.deadline)
        if isinstance(found, Failure):
            notes.add_failure(found, since=since, what="embed smaller questions")
            return {}
        return dict(zip(texts, found, strict=True))

    async def _with_samples(
        self,
        panel: Panel,
        first: int,
        vectors: Vectors,
        state: RttcState,
        scope: RunScope,
        notes: Notes,
    ) -> Panel:
        """Return the panel with the samples that are near to its new questions."""
        knowledge_base, embedder = self.knowledge_base, self.embedder
        wanted = any(ARMS.attempts[name].finds is not None for name in panel.proposers)
        places = range(first, len(panel.thoughts))
        if knowledge_base is None or embedder is None or not (wanted and vectors and places):
            return panel
        since, settings = time.monotonic(), scope.settings
        results = await asyncio.gather(
            *(
                survive(
                    knowledge_base.search(
                        vectors[panel.thoughts[place]["question"]],
                        k=settings.k,
                        domain=state["task"]["domain"],
                        tenant=settings.tenant,
                    ),
                    deadline=scope.deadline,
                )
                for place in places
            )
        )
        failures = [one for one in results if isinstance(one, Failure)]
        if failures:
            notes.add_failure(failures[0], since=since, what="search for smaller questions")
        found = [
            [s for s in one.samples if s["similarity"] >= settings.lowest_similarity]
            if not isinstance(one, Failure)
            else []
            for one in results
        ]
        known = {sample["id"]: number for number, sample in enumerate(panel.found)}
        new = {s["id"]: s for samples in found for s in samples if s["id"] not in known}
        about = vectors[panel.thoughts[ROOT]["question"]]
        seen = await seen_from(about, list(new.values()), embedder, deadline=scope.deadline)
        known |= {sample["id"]: len(panel.found) + n for n, sample in enumerate(seen)}
        thoughts = list(panel.thoughts)
        for place, samples in zip(places, found, strict=True):
            thoughts[place] = _with_found(thoughts[place], samples, known)
        return replace(panel, found=(*panel.found, *seen), thoughts=tuple(thoughts))


def _with_found(one: Thought, samples: Sequence[Sample], places: Mapping[str, int]) -> Thought:
    return {
        **one,
        "found": [places[sample["id"]] for sample in samples],
        "near": [sample["similarity"] for sample in samples],
    }


def _with_split(
    panel: Panel,
    place: int,
    named: Sequence[Part],
    most: int,
    vectors: Vectors,
    since: float,
    state: RttcState,
    notes: Notes,
) -> Panel:
    """Return the panel with one question split, or with why it is not."""
    known = [one["question"] for one in panel.thoughts]
    questions = [part.question for part in named]
    each = [vectors[text] for text in (*known, *questions)] if vectors else []
    plan = planned(
        named,
        twins_of(questions, known, each, bound=panel.settings.lookup_same),
        size=len(known),
        closed={n for n in range(len(known)) if is_closed(panel, n)},
        most=most,
    )
    why = _why(panel, place, plan, named)
    notes.add(
        "split",
        since=since,
        arm=state["attempt"],
        thought=place,
        question=panel.thoughts[place]["question"],
        parts=[part.question for part in plan.new],
        dropped=list(plan.dropped),
        reason=why,
    )
    one = panel.thoughts[place]
    new: list[Thought] = [
        {
            **thought(part.question),
            "parent": place,
            "depth": one["depth"] + 1,
            "needs": list(part.needs),
            "round": panel.round,
        }
        for part in plan.new
    ]
    status: ThoughtStatus = "split" if plan.parts else "answered"
    thoughts = [*panel.thoughts, *new]
    thoughts[place] = {**one, "status": status, "parts": list(plan.parts), "why": why}
    return replace(panel, thoughts=tuple(thoughts))


def _why(panel: Panel, place: int, plan: SplitPlan, named: Sequence[Part]) -> str:
    if plan.parts:
        reward = reward_of(panel, place) or 0.0
        return f"split into {len(plan.parts)}: its reward {reward:.3f} is below τr {panel.tau_r:g}"
    return "the split names no new question" if named else "the split names no question"
