"""The arms that a policy model cannot have; known from its name, without loading anything."""

from __future__ import annotations

from rttc_graph.arms import ARMS
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
    reason = (
        f"the policy model {model} is served elsewhere, where no adapter can be trained; the other "
        "arms work"
    )
    return {arm.name: f"{arm.name} is closed: {reason}" for arm in ARMS.values() if arm.trains}
