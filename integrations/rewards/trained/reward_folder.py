"""Reward-model folders: building the network around its backbone, writing and reading weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from transformers import AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from rttc_graph.errors import ConfigurationError, RewardModelError
from rttc_graph.integrations.langchain.huggingface_embedder import weights_digest
from rttc_graph.integrations.langchain.vendor_errors import describe
from rttc_graph.integrations.lora.adapter_layout import copy_sharing
from rttc_graph.integrations.rewards.pair_encoding import PairEncoder
from rttc_graph.integrations.rewards.trained.network import RewardNetwork
from rttc_graph.integrations.rewards.trained.reward_spec import WEIGHTS_FILE, Backbone, RewardSpec
from rttc_graph.integrations.rewards.trained.token_pairs import RewardPairs
from rttc_graph.integrations.transformers.loading import (
    LoadedModel,
    one_load_at_a_time,
    readable_config,
)
from rttc_graph.integrations.transformers.weight_files.trusted_folders import NO_CODE

__all__ = ("RewardBase", "encoder_base", "load_network", "policy_base", "save_weights")


_SPEECH_WEIGHT = "evidence.speech.weight"
_SPEECH_BIAS = "evidence.speech.bias"

_VENDOR_ERRORS = (
    *(OSError, ValueError, KeyError, TypeError, RuntimeError),
    *(SafetensorError, UnpicklingError),
)
"""Errors of torch, transformers and safetensors for a folder that they cannot read."""


@dataclass(frozen=True, slots=True)
class Speech:
    """Two directions in the encoder's space: declining to answer, and speaking to the judge."""

    weight: torch.Tensor
    """[2, H]"""
    bias: torch.Tensor
    """[2]"""

    def log_odds(self, vectors: torch.Tensor) -> torch.Tensor:
        """Return the log-odds [N, 2] of both for vectors [N, H]."""
        return vectors @ self.weight.T + self.bias


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardBase:
    """A backbone that a reward network may be built around and may change."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    fingerprint: str

    @property
    def pad_id(self) -> int:
        """Token that fills up short rows; masked, so any that the model can read will do."""
        pad = cast("int | None", self.tokenizer.pad_token_id)
        return pad if pad is not None and 0 <= pad < _vocabulary(self.model) else 0

    def pairs(self, max_tokens: int, backbone: Backbone) -> RewardPairs:
        """Return the encoder of question and answer, within the backbone's context."""
        encoder = PairEncoder(self.tokenizer, self.fitting(max_tokens))
        return RewardPairs(encoder, apart=backbone == "towers")

    def fitting(self, max_tokens: int) -> int:
        """Return how many of `max_tokens` the backbone's context holds."""
        config = self.model.config.get_text_config()
        context = cast("int | None", getattr(config, "max_position_embeddings", None))
        return min(max_tokens, context or max_tokens)


def _vocabulary(model: PreTrainedModel) -> int:
    return cast("torch.nn.Embedding", model.get_input_embeddings()).num_embeddings


def encoder_base(folder: Path, *, device: str | None = None) -> RewardBase:
    """Load a BERT-like model; its weights are the caller's own, so they may be merged into.

    Raises:
        RewardModelError: The folder holds none.
    """
    try:
        with one_load_at_a_time():
            tokenizer = cast(
                PreTrainedTokenizerBase,
                AutoTokenizer.from_pretrained(folder, local_files_only=True, **NO_CODE),
            )
            model = cast(
                torch.nn.Module,
                AutoModel.from_pretrained(
                    folder,
                    config=readable_config(folder, local_files_only=True),
                    local_files_only=True,
                    dtype=torch.float32,
                    add_pooling_layer=False,
                    **NO_CODE,
                ),
            )
        fingerprint = weights_digest(folder)
    except _VENDOR_ERRORS as exc:
        raise RewardModelError(
            f"could not load the backbone {str(folder)!r}: {describe(exc)}"
        ) from exc
    network = model.train(False)
    if device is not None:
        network.to(device)
    return RewardBase(
        model=cast(PreTrainedModel, network),
        tokenizer=tokenizer,
        fingerprint=fingerprint,
    )


def policy_base(loaded: LoadedModel) -> RewardBase:
    """Return a policy model's backbone: its modules copied, its weights shared.

    So no second model is in memory, and the policy model stays as it is.
    """
    whole = copy_sharing(loaded.model)
    return RewardBase(
        model=cast(PreTrainedModel, whole.base_model).train(False),
        tokenizer=loaded.tokenizer,
        fingerprint=loaded.fingerprint,
    )


def new_network(base: RewardBase, spec: RewardSpec) -> RewardNetwork:
    """Return a network with fresh weights of its own; torch's seed decides them."""
    return RewardNetwork(
        base.model,
        spec.backbone,
        rank=spec.rank,
        alpha=spec.alpha,
        hidden=spec.hidden,
        pad_id=base.pad_id,
    )


def load_network(folder: Path, spec: RewardSpec, base: RewardBase) -> RewardNetwork:
    """Return the trained network of a folder.

    Raises:
        ConfigurationError: It was trained on another backbone.
        RewardModelError: The weights are missing, damaged, or do not fit.
    """
    if base.fingerprint != spec.base_fingerprint:
        raise ConfigurationError(
            f"reward model {spec.name!r} was trained on a backbone {spec.base!r} with fingerprint "
            f"{spec.base_fingerprint!r}, this one has {base.fingerprint!r}: "
            "use that backbone, or train the reward model again with 'rttc reward train'"
        )
    network = new_network(base, spec)
    tensors = _tensors(folder)
    network.restore({name: t for name, t in tensors.items() if not _is_speech(name)})
    return network.train(False).requires_grad_(False)


def load_speech(folder: Path) -> Speech:
    """Return what the evidence head of a folder hears in a text.

    Raises:
        RewardModelError: The weights are missing or damaged.
    """
    tensors = _tensors(folder)
    try:
        return Speech(tensors[_SPEECH_WEIGHT].float(), tensors[_SPEECH_BIAS].float())
    except KeyError as exc:
        raise RewardModelError(f"{str(folder)!r} has an evidence head without {exc}") from exc


def _tensors(folder: Path) -> dict[str, torch.Tensor]:
    path = folder / WEIGHTS_FILE
    try:
        return load(path.read_bytes())
    except (OSError, SafetensorError) as exc:
        raise RewardModelError(f"could not read {str(path)!r}: {describe(exc)}") from exc


def _is_speech(name: str) -> bool:
    return name in (_SPEECH_WEIGHT, _SPEECH_BIAS)


def save_weights(network: RewardNetwork, folder: Path) -> None:
    """Write what was trained as float16, which is a tenth of a per cent of each weight."""
    tensors = {
        name: tensor.detach().to("cpu", torch.float16).contiguous()
        for name, tensor in network.trained().items()
    }
    (folder / WEIGHTS_FILE).write_bytes(save(tensors))


def add_speech(speech: Speech, folder: Path) -> None:
    """Write what the evidence head hears beside the weights of a folder, in place of an older one.

    Raises:
        RewardModelError: The folder's weights are missing or damaged.
    """
    tensors = {name: t for name, t in _tensors(folder).items() if not _is_speech(name)}
    tensors[_SPEECH_WEIGHT] = speech.weight.to("cpu", torch.float32).contiguous()
    tensors[_SPEECH_BIAS] = speech.bias.to("cpu", torch.float32).contiguous()
    (folder / WEIGHTS_FILE).write_bytes(save(tensors))
