"""The arms that a policy model cannot have; known from settings, without loading anything."""

from __future__ import annotations

from rttc_graph.arms import ARMS, ArmRecord
from rttc_graph.integrations.langchain.hosted_models import hosted_name
from rttc_graph.state import Arm

__all__ = ("closed_arms",)


def closed_arms(model: str, *, continues: bool) -> dict[Arm, str]:
    """Return the arms that a policy model cannot have, each with the reason in a sentence.

    Args:
        model: Its name, as the setting `model` has it.
        continues: The setting `continues_answers`.
    """
    if hosted_name(model, "model") is None:
        return {}
    return {
        arm.name: f"{arm.name} is closed: the policy model {model} is served elsewhere, {lack}"
        for arm in ARMS.values()
        if (lack := _lack_of_served(arm, continues=continues))
    }


def _lack_of_served(arm: ArmRecord, *, continues: bool) -> str | None:
    if arm.trains:
        return "where no adapter can be trained"
    if arm.own.continues and not continues:
        return (
            "and its name does not say whether it goes on from the beginning of an answer; vLLM "
            "and SGLang do: set continues_answers (RTTC_CONTINUES_ANSWERS=1)"
        )
    if arm.own.weighs:
        return "and tells no probabilities of answers that it is given"
    return None
