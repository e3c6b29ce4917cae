"""Flags that several commands share, and how lists of words are written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated

import typer

from rttc_graph.arms import first_arm_names, policy_names
from rttc_graph.evaluation.scorers import ScorerName
from rttc_graph.settings import SamplesChoice
from rttc_graph.support.identity import checked_name


def one_of(names: Callable[[], Sequence[str]]) -> Callable[[str], str]:
    """Return the parser of a flag whose value is one of some names, asked for when it is read."""

    def parse(value: str) -> str:
        if value not in names():
            raise typer.BadParameter(f"{value!r} is not one of {', '.join(map(repr, names()))}.")
        return value

    return parse


def shown(names: Callable[[], Sequence[str]]) -> str:
    """Return how `--help` shows the names."""
    return f"[{'|'.join(names())}]"


Limit = Annotated[int | None, typer.Option(help="Questions, drawn by the seed; all.")]
Scorer = Annotated[ScorerName, typer.Option(help="auto decides row by row.")]


def checked_domain(name: str | None) -> str | None:
    """Return a domain as a flag gives it, checked before any work; a blank one is none."""
    return checked_name("domain", name) if name and name.strip() else name


def checked_tenant(name: str | None) -> str | None:
    """Return a tenant as a flag gives it, checked before any work."""
    return None if name is None else checked_name("tenant", name)


RowDomain = Annotated[
    str | None, typer.Option(help="Where samples are; the row's.", callback=checked_domain)
]
Tau = Annotated[float | None, typer.Option(help="Reward that accepts, 0 to 1.")]
First = Annotated[
    str | None,
    typer.Option(
        help="With which cascade and compare begin.",
        parser=one_of(first_arm_names),
        metavar=shown(first_arm_names),
    ),
]
Policy = Annotated[
    str | None,
    typer.Option(
        help="Who decides the next arm.",
        parser=one_of(policy_names),
        metavar=shown(policy_names),
    ),
]
K = Annotated[int | None, typer.Option(help="Samples to retrieve.")]
Choice = Annotated[SamplesChoice | None, typer.Option(help="Which samples to retrieve.")]
MaxNewTokens = Annotated[int | None, typer.Option(help="Longest answer.")]

TargetAccuracy = Annotated[
    float | None, typer.Option(help="Aim: the cheapest gate with this share of right answers.")
]
TargetCost = Annotated[
    float | None, typer.Option(help="Aim: the most accurate gate within these seconds a question.")
]
Best = Annotated[
    bool, typer.Option("--best", help="Aim: the most accurate gate, whatever it costs.")
]
"""Without any: the cheapest gate within one standard error of the most accurate one."""


def split_names(text: str) -> list[str]:
    """Return the words of a list written with commas, without those that are empty."""
    return [word.strip() for word in text.split(",") if word.strip()]
