"""The support desk of a made-up bicycle shop: solved questions, and new ones worded anew.

`faq` has answers in sentences. In `workshop` each answer is a list of parts turned round, so that
no known answer fits another question, and a model must take the pattern from the samples.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from rttc_graph.protocols import NewSample
from rttc_graph.samples import read_samples
from rttc_graph.settings import RttcSettings

FILE = Path(__file__).with_name("support_desk.jsonl")


class DemoQuestion(NamedTuple):
    """A question of the demo."""

    title: str
    """The route that it takes; a test holds it against real runs."""
    row: NewSample
    """The question with its right answer."""
    settings: RttcSettings | None = None
    """Settings of its own, before those of the installation."""


def known_questions() -> list[NewSample]:
    """Return the solved questions that are ingested."""
    return list(read_samples(str(FILE)))


def asked_questions() -> list[DemoQuestion]:
    """Return what is asked, in order; none of it is among the known questions.

    They were chosen from some fifty for their routes, which SmolLM2-135M-Instruct takes with the
    reward model that ships: answers that are kept have rewards from 0.519 to 0.884, others from
    0.136 to 0.411, and τr is 0.5. All are greedy, so that they stay so.
    """
    panel = RttcSettings(
        policy="best_of_n", search_n=8, search_from=("rag",), search_temperature=0.0
    )
    hard = _in_workshop("saddle", "lock")
    return [
        DemoQuestion(
            "a near sample has the answer: no model is asked",
            NewSample(
                question="Would you ship to Vienna?",
                answer="We deliver to Austria, Belgium and the Netherlands for 60 euros.",
                domain="faq",
            ),
        ),
        DemoQuestion(
            "the nearest answer is below τr: samples go into the prompt (RAG)",
            _in_workshop("pedals", "chain", "crank"),
        ),
        DemoQuestion(
            "RAG is wrong and below τr: of a panel of eight, each with other samples, one is right",
            _in_workshop("display", "crank", "fender"),
            panel,
        ),
        DemoQuestion("RAG is wrong and below τr: an adapter is trained on the samples (TTT)", hard),
        DemoQuestion("the same once more: the adapter is recalled, and nothing is trained", hard),
    ]


def _in_workshop(*parts: str) -> NewSample:
    return NewSample(
        question=f"Fitted in this order: {', '.join(parts)}. In which order do they come off?",
        answer=", ".join(reversed(parts)),
        domain="workshop",
    )
