"""What the graph asks of each of its parts, looked at when it is built and not in the first run."""

from __future__ import annotations

from collections.abc import Mapping

from typing_extensions import get_protocol_members

from rttc_graph.errors import ConfigurationError
from rttc_graph.protocols.adapter_trainer import AdapterTrainer
from rttc_graph.protocols.embedder import Embedder
from rttc_graph.protocols.knowledge_base import KnowledgeBase
from rttc_graph.protocols.ledgers import LedgerStore
from rttc_graph.protocols.policy_model import PolicyModel
from rttc_graph.protocols.query_state_cache import QueryStateCache
from rttc_graph.protocols.reward_model import PlainRewardModel
from rttc_graph.settings import RttcSettings

__all__ = ("check_part",)

_PROTOCOLS: Mapping[str, type] = {
    "policy_model": PolicyModel,
    "reward_model": PlainRewardModel,
    "embedder": Embedder,
    "knowledge_base": KnowledgeBase,
    "trainer": AdapterTrainer,
    "cache": QueryStateCache,
    "ledger_store": LedgerStore,
}
"""The least that the graph asks of a part, by the part's name."""

_WRAPPERS: Mapping[str, str] = {
    "policy_model": "for a LangChain chat model, give "
    "rttc_graph.integrations.langchain.chat_policy_model.ChatPolicyModel(chat_model)",
    "reward_model": "for a function of question and answer, give "
    "rttc_graph.integrations.rewards.callable_reward.CallableReward(function); for a chat model "
    "that judges, rttc_graph.integrations.rewards.chat_judge.ChatJudge(chat_model)",
    "embedder": "for LangChain's Embeddings, give "
    "rttc_graph.integrations.langchain.langchain_embedder.LangChainEmbedder(embeddings, name='…')",
}
"""Ways to make a part of something that people have at hand, by the part's name."""


def check_part(name: str, part: object) -> None:
    """Do nothing if an object has all that the graph asks of a part.

    What its methods take and return is not looked at.

    Args:
        name: Name of the part, as `create_rttc_graph` takes it; others are not looked at.
        part: What was given; `None` is no part.

    Raises:
        ConfigurationError: It lacks a method or an attribute, or it is a class.
    """
    if name == "settings" and not isinstance(part, RttcSettings | None):
        raise ConfigurationError(
            f"settings is a {type(part).__name__}: give RttcSettings(tau_r=0.6, …)"
        )
    protocol = _PROTOCOLS.get(name)
    if protocol is None or part is None:
        return
    if isinstance(part, type):
        raise ConfigurationError(f"{name} is the class {part.__name__}: give an object of it")
    lacking = sorted(one for one in get_protocol_members(protocol) if not hasattr(part, one))
    if lacking:
        way_out = _WRAPPERS.get(name, f"see rttc_graph.protocols.{protocol.__name__}")
        raise ConfigurationError(
            f"{name} is a {type(part).__name__}, which has no {', '.join(lacking)}: {way_out}"
        )
