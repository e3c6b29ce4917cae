"""The arms that a policy model cannot have; known from its name, without loading anything."""

from __future__ import annotations

from rttc_graph.arms import ARMS, ArmRecord
from rttc_graph.integrations.langchain.hosted_models import hosted_name
from rttc_graph.state import Arm

__all__ = ("closed_arms",)


def closed_arms(model: str) -> dict[Arm, str]:
    """Return the arms that a policy model cannot have, each with the reason in a sentence.

    Args:
        model: Its name, as the setting `model` has it.
    """
    if hosted_name(model, "model") is None:
        return {}
    return {
        arm.name: f"{arm.name} is closed: the policy model {model} is served elsewhere, {lack}"
        for arm in ARMS.values()
        if (lack := _lack_of_served(arm))
    }


def _lack_of_served(arm: ArmRecord) -> str | None:
    if arm.trains:
        return "where no adapter can be trained"
    if arm.own.continues:
        return (
            "and its name does not say whether it goes on from the beginning of an answer; in "
            "Python, say so of a server that does: ChatPolicyModel(…, continues_answers=True)"
        )
    if arm.own.weighs:
        return "and tells no probabilities of answers that it is given"
    return None
