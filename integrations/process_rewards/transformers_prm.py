"""Published process reward models in this process: a language model, and a head at step ends.

All of them are a backbone and a few more weights: Math-Shepherd compares two tokens of the output
layer, Qwen2.5-Math-PRM and TRL's have a classifier of two labels, Skywork-o1-PRM has a value. None
needs the code that comes with it: the backbone is one of transformers' own classes, and the head is
read from the weight files.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

try:
    import torch
    from safetensors import safe_open
    from transformers import (
        AutoModel,
        AutoModelForCausalLM,
        AutoTokenizer,
        PreTrainedModel,
        PreTrainedTokenizerBase,
    )
except ImportError as exc:
    raise ImportError("process reward models need the extra 'local': rttc-graph[local]") from exc

from rttc_graph.errors import ConfigurationError, PolicyModelError, RewardModelError
from rttc_graph.integrations.concurrency.batch_queue import BatchQueue
from rttc_graph.integrations.langchain.vendor_errors import describe
from rttc_graph.integrations.process_rewards.step_templates import (
    KINDS,
    EncodedSteps,
    PrmKind,
    encode_steps,
    verdict_tokens,
)
from rttc_graph.integrations.rewards.folder_fingerprint import LOADING_ERRORS, FolderFingerprint
from rttc_graph.integrations.transformers.loading import (
    multiplied_weights,
    one_load_at_a_time,
    readable_config,
)
from rttc_graph.integrations.transformers.weight_files.resolve import resolve
from rttc_graph.integrations.transformers.weight_files.trusted_folders import NO_CODE
from rttc_graph.protocols import (
    BegunAnswer,
    ProcessRewardModel,
    StepScores,
    forward_flops,
    note_work,
)

Layers = tuple[tuple[torch.Tensor, torch.Tensor | None], ...]
"""Weight and bias of each linear layer of a head, in order, with ReLU between them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrmSettings:
    """Settings for loading a process reward model.

    Raises:
        ConfigurationError: A number is below its least, or the kind is unknown.
    """

    kind: PrmKind | None = None
    """Layout of its input and head; `None` tells by the weights."""
    max_tokens: int = 4096
    """Longest input; the model abstains from the steps of a longer one."""
    batch_size: int = 8
    """Answers that go through the model at once."""
    device: str | None = None
    """torch device; `None` takes a GPU if there is one."""
    dtype: str = "auto"
    """`auto` is that of the weights, but float32 on a processor, where halves are slow."""

    def __post_init__(self) -> None:
        for name in ("max_tokens", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"{name} must be at least 1, got {getattr(self, name)!r}")
        if self.kind is not None and self.kind not in KINDS:
            raise ConfigurationError(f"kind={self.kind!r} is unknown: known are {', '.join(KINDS)}")


class TransformersPrm(ProcessRewardModel):
    """Scores steps with a process reward model in the layout of one that is published.

    Args:
        source: Local folder, or hub id of the model. A folder never goes to the network.
        settings: How it is loaded.
        name: For people; the last part of `source` by default.
    """

    def __init__(
        self, source: str | Path, *, settings: PrmSettings | None = None, name: str | None = None
    ) -> None:
        settings = settings or PrmSettings()
        self._name = name or Path(source).name
        reader = _Reader(str(source), settings)
        self._queue: BatchQueue[tuple[str, BegunAnswer], _Read] = BatchQueue(
            reader.read, name=f"rttc-prm-{self._name}", batch_size=settings.batch_size
        )
        self._fingerprint = FolderFingerprint(
            source, settings.kind, settings.max_tokens, settings.dtype
        )

    @property
    def name(self) -> str:
        """Name for people."""
        return self._name

    async def fingerprint(self) -> str:
        """Return a digest of weights, configuration, chat template and settings.

        Raises:
            RewardModelError: The weights cannot be found or read.
        """
        return await self._fingerprint.get()

    async def score_steps(self, query: str, answers: Sequence[BegunAnswer]) -> list[StepScores]:
        """Return the probability that the head gives behind each step.

        Raises:
            RewardModelError: The model could not be loaded or run, or has no head that is known.
        """
        found = await self._queue.submit([(query, answer) for answer in answers])
        tokens = sum(one.tokens for one in found)
        if found:
            note_work(tokens=tokens, flops=forward_flops(found[0].parameters, tokens))
        return [
            tuple(one.shares[answer.known :]) for one, answer in zip(found, answers, strict=True)
        ]


@dataclass(frozen=True, slots=True)
class _Read:
    """What was read of one answer."""

    shares: list[float | None]
    tokens: int
    parameters: int | None


@dataclass(frozen=True, slots=True)
class _Loaded:
    backbone: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    kind: PrmKind
    head: Layers
    limit: int
    parameters: int | None


class _Reader:
    """The model and its tokenizer; lives in the thread of a queue."""

    def __init__(self, source: str, settings: PrmSettings) -> None:
        self._source = source
        self._settings = settings
        self._loaded: _Loaded | None = None

    def read(self, asked: list[tuple[str, BegunAnswer]]) -> list[_Read]:
        """Return the probabilities of all steps of a batch of answers, in order."""
        try:
            self._loaded = loaded = self._loaded or _load(self._source, self._settings)
            rows = [
                encode_steps(loaded.kind, loaded.tokenizer, query, answer.steps)
                for query, answer in asked
            ]
            fitting = [row for row in rows if len(row.ids) <= loaded.limit]
            shares = iter(_shares(loaded, fitting) if fitting else [])
        except PolicyModelError as exc:
            raise RewardModelError(str(exc), retryable=exc.retryable) from exc
        except LOADING_ERRORS as exc:
            raise RewardModelError(
                f"process reward model {self._source!r} failed: {describe(exc)}",
                retryable=isinstance(exc, torch.OutOfMemoryError),
            ) from exc
        return [
            _Read([*next(shares)], len(row.ids), loaded.parameters)
            if len(row.ids) <= loaded.limit
            else _Read([None] * len(row.ends), 0, loaded.parameters)
            for row in rows
        ]


def _load(source: str, settings: PrmSettings) -> _Loaded:
    folder = resolve(source, cache_dir=None, kind="reward")
    found = _head_weights(folder)
    kind = settings.kind or _kind(found)
    device = settings.device or ("cuda" if torch.cuda.is_available() else "cpu")
    dtype = "float32" if settings.dtype == "auto" and device == "cpu" else settings.dtype
    of_tokens = kind == "math-shepherd"
    with one_load_at_a_time():
        tokenizer = cast(
            "PreTrainedTokenizerBase", AutoTokenizer.from_pretrained(folder, **NO_CODE)
        )
        kept = cast(
            "PreTrainedModel",
            (AutoModelForCausalLM if of_tokens else AutoModel).from_pretrained(
                folder, config=readable_config(folder), dtype=dtype, **NO_CODE
            ),
        )
    cast("torch.nn.Module", kept).to(device).train(mode=False).requires_grad_(False)
    backbone = cast("PreTrainedModel", kept.base_model) if of_tokens else kept
    head = _token_head(kept, tokenizer) if of_tokens else _layers(found, source, like=kept)
    config = backbone.config.get_text_config()
    context = cast("int | None", getattr(config, "max_position_embeddings", None))
    limit = min(settings.max_tokens, context or settings.max_tokens)
    return _Loaded(backbone, tokenizer, kind, head, limit, multiplied_weights(kept))


def _head_weights(folder: Path) -> dict[str, torch.Tensor]:
    """Return the weights of a model that are no backbone's, by their names."""
    found: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with cast("Any", safe_open(path, framework="pt")) as file:
            for name in cast("list[str]", file.keys()):
                if name.startswith(("score.", "v_head.")):
                    found[name] = cast("torch.Tensor", file.get_tensor(name))
    for path in sorted(folder.glob("*.bin")) if not found else []:
        stored = cast("dict[str, torch.Tensor]", torch.load(path, weights_only=True, mmap=True))
        found |= {k: v for k, v in stored.items() if k.startswith(("score.", "v_head."))}
    return found


def _kind(found: dict[str, torch.Tensor]) -> PrmKind:
    if not found:
        return "math-shepherd"
    if any(name.startswith("v_head.") for name in found):
        return "skywork"
    return "qwen" if "score.2.weight" in found else "trl"


def _token_head(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Layers:
    """Return the rows of the output layer for bad and good, so that good is the second label."""
    good, bad = verdict_tokens(tokenizer)
    table = cast("Any", model).get_output_embeddings()
    weight, bias = cast("torch.Tensor", table.weight), cast("torch.Tensor | None", table.bias)
    rows = torch.tensor([bad, good], device=weight.device)
    return ((weight[rows].float(), None if bias is None else bias[rows].float()),)


def _layers(found: dict[str, torch.Tensor], source: str, *, like: PreTrainedModel) -> Layers:
    """Return the linear layers of a head in their order.

    Raises:
        RewardModelError: They do not end in one value or two labels, or do not fit the backbone.
    """
    weights = sorted(name for name in found if name.endswith(".weight"))
    layers: Layers = tuple(
        (
            found[name].to(like.device).float(),
            bias.to(like.device).float()
            if (bias := found.get(name.removesuffix("weight") + "bias")) is not None
            else None,
        )
        for name in weights
    )
    wide = int(like.config.get_text_config().hidden_size)
    if not layers or layers[-1][0].shape[0] not in (1, 2) or layers[0][0].shape[1] != wide:
        raise RewardModelError(
            f"{source!r} has no head that is known: its weights beside the backbone are "
            f"{ {name: tuple(found[name].shape) for name in weights} }, and a process reward model "
            f"has one value or two labels for a hidden state of {wide}"
        )
    return layers


@torch.inference_mode()
def _shares(loaded: _Loaded, rows: Sequence[EncodedSteps]) -> list[list[float]]:
    """Return the probability behind each step of each row; rows are padded on the right."""
    width = max(len(row.ids) for row in rows)
    device = loaded.backbone.device
    ids = torch.zeros((len(rows), width), dtype=torch.long)  # [B, T]
    mask = torch.zeros_like(ids)
    for at, row in enumerate(rows):
        ids[at, : len(row.ids)] = torch.tensor(row.ids)
        mask[at, : len(row.ids)] = 1
    out = loaded.backbone(input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False)
    states = cast("torch.Tensor", out.last_hidden_state)  # [B, T, D]
    return [
        _probabilities(states[at, torch.tensor(row.ends, device=device)].float(), loaded.head)
        for at, row in enumerate(rows)
    ]


def _probabilities(states: torch.Tensor, head: Layers) -> list[float]:
    """Return the probabilities for states [S, D] of S step ends."""
    for number, (weight, bias) in enumerate(head):
        states = torch.nn.functional.linear(torch.relu(states) if number else states, weight, bias)
    shares = states[:, 0].sigmoid() if states.shape[1] == 1 else states.softmax(dim=1)[:, 1]
    found = cast("list[float]", shares.double().tolist())
    if not all(math.isfinite(share) for share in found):
        raise RewardModelError("the process reward model gave a step no number")
    return found
