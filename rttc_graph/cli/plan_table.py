"""Plans by difficulty as tables, for `rttc calibrate`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.text import Text

from rttc_graph.calibration.plans import ExpectedPlans, PlanPoint
from rttc_graph.calibration.proposal import Proposal
from rttc_graph.cli.screen import out, print_table
from rttc_graph.run.policies import bounds
from rttc_graph.state import Plan


def print_plans(proposal: Proposal) -> None:
    """Print the proposed plans, those of other prices, and what they are expected to do."""
    out.print()
    out.print(Text("plans by difficulty, for policy=plan", style="bold"))
    columns = ["domain", "P(right) of the first", "questions", "arms", "enough"]
    print_table(columns, [row for name, one in proposal.plans.items() for row in _bins(name, one)])
    out.print()
    in_flops = proposal.aim.flops is not None
    unit, priced = ("operations", 1e12) if in_flops else ("seconds", 1.0)
    worth = "10¹² are worth" if in_flops else "a second is worth"
    print_table(
        ["", "accuracy", unit, worth, "arms by difficulty"],
        [
            (
                "→" if point.plan == proposal.plans[""].plan else "",
                f"{point.accuracy:.1%}",
                f"{point.cost:.3g}" if in_flops else f"{point.seconds:.2f}",
                f"{100 * priced * point.price:.3g} points",
                in_words(point.plan),
            )
            for point in worth_showing(proposal)
        ],
    )
    out.print(Text(_expectation(proposal.expected)))


def worth_showing(proposal: Proposal) -> list[PlanPoint]:
    """Return the plans of which no cheaper one is as accurate."""
    shown: list[PlanPoint] = []
    for point in proposal.plan_curve:
        if not shown or point.accuracy > shown[-1].accuracy:
            shown.append(point)
    return shown


def plans_as_json(proposal: Proposal) -> dict[str, Any]:
    """Return the proposed plans, their curve and what is expected of them, as plain data."""
    return {
        "plans": {domain: _flat(point) for domain, point in proposal.plans.items()},
        "plan_curve": [_flat(point) for point in proposal.plan_curve],
        "plan_expected": None if proposal.expected is None else asdict(proposal.expected),
    }


def in_words(plan: Plan) -> str:
    """Return a plan in a few words: the first arm, then what follows in each bin."""
    follows = [" ".join(one["arms"]) or "stop" for one in plan["bins"]]
    return f"{plan['first']}, then {' | '.join(follows)}"


def _flat(point: PlanPoint) -> dict[str, Any]:
    return {
        "plan": point.plan,
        "accuracy": point.accuracy,
        "seconds": point.seconds,
        **({"flops": point.cost} if point.flops else {}),
        "price": point.price,
        "questions": list(point.counts),
    }


def _bins(domain: str, point: PlanPoint) -> list[tuple[object, ...]]:
    plan = point.plan
    return [
        (
            (domain or "all others") if number == 0 else "",
            bounds(plan, number),
            point.counts[number],
            ", ".join([plan["first"], *one["arms"]]),
            f"{one['tau_r']:.2f}" if one["arms"] else "",
        )
        for number, one in enumerate(plan["bins"])
    ]


def _operations(expected: ExpectedPlans) -> str:
    return "" if expected.flops is None else f" and {expected.flops:.3g} operations"


def _expectation(expected: ExpectedPlans | None) -> str:
    if expected is None:
        return (
            "what plans do on other questions is not known: there are too few questions to fit "
            "them without a fifth of them, or a fifth does not reach the aim"
        )
    low, high = expected.interval
    difference = "{:+.1f} points ({:+.1f} to {:+.1f})".format(
        *(100 * end for end in expected.difference)
    )
    return (
        f"expected of plans, fitted on other questions: {expected.accuracy:.1%} ({low:.1%} to "
        f"{high:.1%}) at {expected.seconds:.2f} s{_operations(expected)}; "
        "cascade, chosen in the same way: "
        f"{expected.cascade_accuracy:.1%} at {expected.cascade_seconds:.2f} s; difference "
        f"{difference}"
    )
