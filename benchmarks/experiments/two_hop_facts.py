"""Questions whose answers need two samples: a person's town, and a fact about that town.

Made-up people work in made-up towns, which have a postal code, a mayor and a river. The knowledge
base has each of these facts as a sample of its own ("Where does Mara Lindt work?" "Torvik", "What
is the postal code of Torvik?" "4821"), and no question asks for one of them, but for the fact about
the town of a person. A search with the question finds the person by name, the town by luck: there
are as many towns as there are samples that are alike. Names are put together from syllables by a
seed, so that no model has read them.

    python -m benchmarks.experiments.two_hop_facts build/two-hop --questions 120
    rttc eval build/two-hop --policies nearest,rag,search_o1,majority@4:rag --report out
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.tools.split_data import write_folder
from rttc_graph.protocols import NewSample

DOMAIN = "two-hop"

_BEGINNINGS = ("Tor", "Hal", "Bre", "Nor", "Kel", "Sal", "Wen", "Dra", "Mil", "Fas", "Gor", "Lun")
_ENDINGS = ("vik", "dorf", "stad", "mere", "holm", "by", "berg", "ford", "nes", "wick")
_FIRST = ("Mara", "Jonas", "Edda", "Pavel", "Ines", "Tomas", "Rika", "Oskar", "Lena", "Bruno")
_LAST = ("Lindt", "Okafor", "Brandl", "Seveny", "Moreau", "Kastner", "Iwata", "Pell", "Quist")
_MAYORS = ("Abel", "Corvin", "Dahl", "Ferrer", "Gruber", "Holt", "Janda", "Noor", "Ruiz", "Vance")
_RIVERS = ("Aller", "Brenta", "Cinca", "Drome", "Esla", "Fulda", "Garda", "Hase", "Isen", "Jagst")

_ASKED = {
    "postal code": "What is the postal code of {place}?",
    "mayor": "Who is the mayor of {place}?",
    "river": "Which river flows through {place}?",
}


class Town(NamedTuple):
    """A town and what is known about it."""

    name: str
    facts: dict[str, str]


def made(questions: int, seed: int = 0) -> tuple[list[NewSample], list[NewSample]]:
    """Return samples and questions.

    Args:
        questions: Number of questions, at most 270: three facts for each of 90 people.
        seed: Seed of the names, and of who works where.

    Raises:
        ValueError: There are not so many people.
    """
    lots = random.Random(seed)
    people = [f"{first} {last}" for first in _FIRST for last in _LAST]
    names = [beginning + ending for beginning in _BEGINNINGS for ending in _ENDINGS]
    lots.shuffle(people)
    towns = [_town(name, lots) for name in lots.sample(names, 60)]
    works = {person: lots.choice(towns) for person in people}
    asked = [(person, fact) for person in people for fact in _ASKED]
    if questions > len(asked):
        raise ValueError(f"questions={questions} must be at most {len(asked)}")
    samples = [
        *(_row(f"Where does {person} work?", town.name) for person, town in works.items()),
        *(
            _row(_ASKED[fact].format(place=town.name), value)
            for town in towns
            for fact, value in town.facts.items()
        ),
    ]
    rows = [
        _row(_ASKED[fact].format(place=f"the town where {person} works"), works[person].facts[fact])
        for person, fact in lots.sample(asked, questions)
    ]
    return samples, rows


def _town(name: str, lots: random.Random) -> Town:
    mayor = f"{lots.choice(_FIRST)} {lots.choice(_MAYORS)}"
    return Town(
        name,
        {
            "postal code": str(lots.randrange(1000, 10_000)),
            "mayor": mayor,
            "river": lots.choice(_RIVERS),
        },
    )


def _row(question: str, answer: str) -> NewSample:
    return NewSample(question=question, answer=answer, domain=DOMAIN)


def main(argv: Sequence[str] | None = None) -> None:
    """Write a folder that `rttc eval` takes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--questions", type=int, default=120)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(argv)
    samples, rows = made(given.questions, given.seed)
    write_folder(given.folder, samples, rows)


if __name__ == "__main__":
    main()
