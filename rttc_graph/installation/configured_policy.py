"""The policy model that an installation names, with what comes along: trainer, engine, identity."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial

from langchain_core.language_models import BaseChatModel

from rttc_graph.errors import ConfigurationError
from rttc_graph.improvement.domain_adapters import AdapterStore, adapter_loader
from rttc_graph.installation.closed_arms import closed_arms
from rttc_graph.installation.config import InstallationConfig
from rttc_graph.integrations.langchain.chat_calls import accepted_fields
from rttc_graph.integrations.langchain.chat_policy_model import ChatPolicyModel
from rttc_graph.integrations.langchain.hosted_models import (
    HostedName,
    hosted_name,
    open_chat_model,
    resolved,
)
from rttc_graph.integrations.lora.lora_trainer import LoraTrainer
from rttc_graph.integrations.remote.several_servers import ServerOrder, SeveralPolicyModels
from rttc_graph.integrations.transformers.free_memory import DeviceSizes
from rttc_graph.integrations.transformers.local_engine import LocalEngine
from rttc_graph.integrations.transformers.transformers_policy_model import TransformersPolicyModel
from rttc_graph.protocols import AdapterTrainer, PolicyModel
from rttc_graph.state import Arm
from rttc_graph.support.json_lines import keep_told

__all__ = ("OpenPolicy", "open_engine", "open_policy")


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenPolicy:
    """A policy model that is open."""

    model: PolicyModel
    fingerprint: Callable[[], Awaitable[str]]
    """Digest of the model: of its weights, or of the name under which it is served."""
    trainer: AdapterTrainer | None = None
    engine: LocalEngine | None = None
    """Engine of a model in this process; `None` for one that is served elsewhere."""
    resident: Callable[[], Mapping[str, float]] | None = None
    """Returns number and bytes of the adapters in this process; `None` where there can be none."""
    adapter_calls: Callable[[], Mapping[str, float]] | None = None
    """Returns how many calls found their adapter in a replica, and for how many it was loaded;
    `None` for a model without replicas."""
    closed_arms: Mapping[Arm, str] = field(default_factory=dict[Arm, str])
    """Arms that this model cannot have, each with the reason."""


@contextmanager
def open_policy(
    config: InstallationConfig,
    *,
    keeps_prompts: bool = True,
    adapters: AdapterStore | None = None,
) -> Generator[OpenPolicy]:
    """Open the policy model: in this process, or as a client of whoever serves it.

    Args:
        config: Names the model and how it is loaded.
        keeps_prompts: Whether a local one keeps what recent prompts computed.
        adapters: Where a local one finds adapters that others have pushed out of memory.

    Raises:
        ConfigurationError: The name, a key or a package is wrong or missing.
        BackendError: A server that is to say which model it has cannot be reached.
    """
    if (name := hosted_name(config.model, "model")) is not None:
        yield _hosted(resolved(name), continues=config.continues_answers)
        return
    with open_engine(config, keeps_prompts=keeps_prompts) as engine:
        trainer = LoraTrainer(
            engine,
            training_dtype=config.training_dtype,
            max_resident_bytes=config.max_resident_bytes,
            max_training_bytes=config.max_training_bytes,
            together=config.trainings_together,
        )
        yield OpenPolicy(
            model=TransformersPolicyModel(
                engine, load=None if adapters is None else adapter_loader(trainer, adapters)
            ),
            fingerprint=trainer.base_fingerprint,
            trainer=trainer,
            engine=engine,
            resident=trainer.resident_figures,
        )


@contextmanager
def open_engine(
    config: InstallationConfig, *, keeps_prompts: bool = True
) -> Generator[LocalEngine]:
    """Open the policy model's engine as an installation has it.

    Args:
        config: Names the model and how it is loaded.
        keeps_prompts: Whether it keeps what recent prompts computed, as `prefix_cache_bytes` says.

    Raises:
        ConfigurationError: The model is served elsewhere.
    """
    if hosted_name(config.model, "model") is not None:
        raise ConfigurationError(
            f"model={config.model!r} is served elsewhere, and this needs a model in this process: "
            "name a local one, see rttc models list"
        )
    engine = LocalEngine(
        config.model,
        cache_dir=config.home,
        device=config.device,
        dtype=config.dtype,
        device_map=config.device_map,
        max_memory=config.max_memory,
        threads=config.threads,
        max_batch=config.max_batch,
        prefix_cache_bytes=config.prefix_cache_bytes if keeps_prompts else 0,
        thinking=config.thinking,
        on_sizes=partial(_tell_sizes, config),
    )
    try:
        yield engine
    finally:
        engine.close()


def _tell_sizes(config: InstallationConfig, sizes: DeviceSizes) -> None:
    """Keep what fits the device for `rttc status`, which is not to wait for torch."""
    found = {
        **asdict(sizes),
        "adapter_bytes": config.max_resident_bytes or sizes.adapter_bytes,
        "training_bytes": config.max_training_bytes or sizes.training_bytes,
        "model": config.model,
    }
    keep_told(config.engine_sizes_file, found)


def _served(name: HostedName, *, continues: bool) -> PolicyModel:
    servers = {
        one.text: _client(open_chat_model(one), name, continues=continues) for one in name.servers()
    }
    if len(servers) == 1:
        return servers[name.text]
    return SeveralPolicyModels(servers, ServerOrder(list(servers)))


def _client(chat_model: BaseChatModel, name: HostedName, *, continues: bool) -> ChatPolicyModel:
    return ChatPolicyModel(
        chat_model,
        name=name.text,
        asks_logprobs=True,
        continues_answers=continues,
        # Clients that take OpenAI's extra fields take `response_format` too.
        follows_schemas="extra_body" in accepted_fields(chat_model),
    )


def _hosted(name: HostedName, *, continues: bool) -> OpenPolicy:
    # What was cached stays when a server is added to several or taken out.
    identity = f"hosted several {name.model}" if name.others else f"hosted {name.text}"

    async def fingerprint() -> str:
        return hashlib.sha256(identity.encode()).hexdigest()[:32]

    return OpenPolicy(
        model=_served(name, continues=continues),
        fingerprint=fingerprint,
        closed_arms=closed_arms(name.text, continues=continues),
    )
