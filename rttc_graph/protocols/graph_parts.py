"""What the graph asks of each of its parts, looked at when it is built and not in the first run."""

from __future__ import annotations

import inspect
import pkgutil
import sys
from collections.abc import Callable, Mapping
from typing import Any

from typing_extensions import get_protocol_members

from rttc_graph.errors import ConfigurationError
from rttc_graph.protocols.adapter_trainer import AdapterTrainer, StandingAdapters
from rttc_graph.protocols.embedder import Embedder
from rttc_graph.protocols.knowledge_base import KnowledgeBase
from rttc_graph.protocols.ledgers import LedgerStore
from rttc_graph.protocols.policy_model import PolicyModel
from rttc_graph.protocols.query_state_cache import QueryStateCache
from rttc_graph.protocols.reward_model import PlainRewardModel, ProcessRewardModel
from rttc_graph.settings import RttcSettings

__all__ = ("as_part", "check_part")

_PROTOCOLS: Mapping[str, type] = {
    "policy_model": PolicyModel,
    "reward_model": PlainRewardModel,
    "process_reward_model": ProcessRewardModel,
    "embedder": Embedder,
    "knowledge_base": KnowledgeBase,
    "trainer": AdapterTrainer,
    "cache": QueryStateCache,
    "ledger_store": LedgerStore,
    "standing_adapters": StandingAdapters,
}
"""The least that the graph asks of a part, by the part's name."""

_WAYS_OUT: Mapping[str, str] = {
    "policy_model": "give a LangChain chat model, or an object with these methods",
    "reward_model": "give a function of question and answer, a chat model that judges, or an "
    "object with these methods",
    "embedder": "give LangChain's Embeddings, or an object with these methods",
}
"""Advice for a part that people may make of what they have at hand, by the part's name."""

_INTEGRATIONS = "rttc_graph.integrations"


def as_part(name: str, part: object) -> Any:
    """Return what people have at hand as a part: a chat model, `Embeddings`, or a function.

    A chat model becomes a policy model, or a judge that grades; `Embeddings` an embedder; a
    function of question and answer a reward model. All else is returned as it is.

    Args:
        name: Name of the part, as `create_rttc_graph` takes it.
        part: What was given.

    Raises:
        ConfigurationError: It is a function that does not take a question and an answer.
    """
    if name == "policy_model" and _is_langchain("language_models:BaseChatModel", part):
        return _wrapper("langchain.chat_policy_model:ChatPolicyModel")(part)
    if name == "reward_model" and _is_langchain("language_models:BaseChatModel", part):
        return _wrapper("rewards.chat_judge:ChatJudge")(part)
    if name == "reward_model" and _is_function(part):
        return _wrapper("rewards.callable_reward:CallableReward")(_of_two_texts(part))
    if name == "embedder" and _is_langchain("embeddings:Embeddings", part):
        wrap = _wrapper("langchain.langchain_embedder:LangChainEmbedder")
        return wrap(part, name=_name_of(part), is_local=False)
    return part


def _is_langchain(path: str, part: object) -> bool:
    """Tell whether a part is of a class of LangChain's; whoever has one has imported its module."""
    module, _, kind = path.partition(":")
    loaded = sys.modules.get(f"langchain_core.{module}")
    return loaded is not None and isinstance(part, getattr(loaded, kind))


def _wrapper(path: str) -> Any:
    """Return a class of an integration, which is imported only by those who need it."""
    return pkgutil.resolve_name(f"{_INTEGRATIONS}.{path}")


def _is_function(part: object) -> bool:
    return callable(part) and not isinstance(part, type) and not hasattr(part, "score")


def _of_two_texts(function: Any) -> Callable[..., Any]:
    try:
        inspect.signature(function).bind("question", "answer")
    except TypeError as exc:
        raise ConfigurationError(
            f"reward_model is a function that cannot be called with a question and an answer "
            f"({exc}): give one that takes these two texts and returns a number from 0 to 1"
        ) from exc
    except ValueError:  # a builtin that does not tell what it takes
        pass
    found: Callable[..., Any] = function
    return found


def _name_of(embeddings: object) -> str:
    """Return what embeddings go by at their vendor; else the name of their class."""
    for field in ("model", "model_name"):
        value: object = getattr(embeddings, field, None)
        if isinstance(value, str) and value:
            return value
    return type(embeddings).__name__


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
        way_out = _WAYS_OUT.get(name, f"see rttc_graph.protocols.{protocol.__name__}")
        raise ConfigurationError(
            f"{name} is a {type(part).__name__}, which has no {', '.join(lacking)}: {way_out}"
        )
