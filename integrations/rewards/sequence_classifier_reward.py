"""A sequence classifier with one output as our `RewardModel`, in the manner of Skywork-Reward-V2.

Question and answer are written with the model's own chat template, and its one logit is squashed.
The model is owned by one thread, which loads it at the first answer to be judged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

try:
    import torch
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        PreTrainedModel,
        PreTrainedTokenizerBase,
    )
except ImportError as exc:
    raise ImportError("sequence classifiers need the extra 'local': rttc-graph[local]") from exc

from rttc_graph.errors import RewardModelError
from rttc_graph.integrations.concurrency.batch_queue import BatchQueue
from rttc_graph.integrations.langchain.vendor_errors import describe
from rttc_graph.integrations.rewards.folder_fingerprint import LOADING_ERRORS, FolderFingerprint
from rttc_graph.integrations.rewards.pair_encoding import EncodedPair, PairEncoder
from rttc_graph.integrations.rewards.reward_checks import checked_rewards
from rttc_graph.integrations.rewards.reward_settings import ClassifierSettings as ClassifierSettings
from rttc_graph.integrations.transformers.loading import (
    one_load_at_a_time,
    readable_config,
)
from rttc_graph.integrations.transformers.weight_files.trusted_folders import NO_CODE
from rttc_graph.protocols import RewardModel
from rttc_graph.state import Candidate
from rttc_graph.support.identity import clean
from rttc_graph.support.logistic import sigmoid


class SequenceClassifierReward(RewardModel):
    """Scores answers with a reward model that has a one-number classification head.

    Args:
        source: Local folder, or hub id of the model. A folder never goes to the network.
        settings: How it is loaded and read.
        name: For people and for calibrations; the last part of `source` by default.
    """

    def __init__(
        self,
        source: str | Path,
        *,
        settings: ClassifierSettings | None = None,
        name: str | None = None,
    ) -> None:
        settings = settings or ClassifierSettings()
        self._name = name or Path(source).name
        self._queue = BatchQueue(
            _Scorer(str(source), settings).rewards,
            name=f"rttc-reward-{self._name}",
            batch_size=settings.batch_size,
        )
        self._fingerprint = FolderFingerprint(
            source, settings.max_tokens, settings.midpoint, settings.scale, settings.dtype
        )

    @property
    def name(self) -> str:
        """Name for people and for calibrations."""
        return self._name

    async def fingerprint(self) -> str:
        """Return a digest of weights, configuration, chat template and settings.

        Raises:
            RewardModelError: The weights cannot be found or read.
        """
        return await self._fingerprint.get()

    async def score(self, query: str, candidates: Sequence[Candidate]) -> list[float]:
        """Return the sigmoid of the model's logit for each candidate, in order.

        Raises:
            RewardModelError: The model could not be loaded or run, or has no trained head.
        """
        query = clean(query)
        pairs = [(query, clean(candidate["answer"])) for candidate in candidates]
        scores = await self._queue.submit(pairs)
        return checked_rewards(scores, expected=len(candidates), source=self._name)


@dataclass(frozen=True, slots=True)
class _Loaded:
    model: PreTrainedModel
    encoder: PairEncoder
    pad_id: int | None
    takes_types: bool
    """Whether the model tells question and answer apart by token types, as BERT does."""


class _Scorer:
    """The model and its tokenizer; lives in the lane's thread."""

    def __init__(self, source: str, settings: ClassifierSettings) -> None:
        self._source = source
        self._settings = settings
        self._loaded: _Loaded | None = None

    def rewards(self, pairs: list[tuple[str, str]]) -> list[float]:
        """Return the rewards of a batch of (question, answer) pairs, in order."""
        try:
            self._loaded = self._loaded or _load(self._source, self._settings)
            logits = self._logits(self._loaded, pairs)
        except LOADING_ERRORS as exc:
            raise RewardModelError(
                f"reward model {self._source!r} failed: {describe(exc)}",
                retryable=isinstance(exc, torch.OutOfMemoryError),
            ) from exc
        midpoint, scale = self._settings.midpoint, self._settings.scale
        return [sigmoid((logit - midpoint) / scale) for logit in logits]

    def _logits(self, loaded: _Loaded, pairs: list[tuple[str, str]]) -> list[float]:
        rows = [loaded.encoder.encode(question, answer) for question, answer in pairs]
        if loaded.pad_id is None:  # such a model finds the last token of a lone row only
            return [logit for row in rows for logit in _forward(loaded, [row])]
        return _forward(loaded, rows)


def _load(source: str, settings: ClassifierSettings) -> _Loaded:
    device = settings.device or ("cuda" if torch.cuda.is_available() else "cpu")
    dtype = "float32" if settings.dtype == "auto" and device == "cpu" else settings.dtype
    is_local = Path(source).is_dir()
    with one_load_at_a_time():
        model, info = cast(
            tuple[PreTrainedModel, dict[str, Any]],
            AutoModelForSequenceClassification.from_pretrained(
                source,
                config=readable_config(source, local_files_only=is_local),
                dtype=dtype,
                local_files_only=is_local,
                output_loading_info=True,
                **NO_CODE,
            ),
        )
        _check_head(source, model, info)
        tokenizer = cast(
            PreTrainedTokenizerBase,
            AutoTokenizer.from_pretrained(source, local_files_only=is_local, **NO_CODE),
        )
    config = model.config.get_text_config()
    context = cast(int | None, getattr(config, "max_position_embeddings", None))
    longest = cast(int, tokenizer.model_max_length)
    limit = min(settings.max_tokens, longest, context or settings.max_tokens)
    cast(torch.nn.Module, model).to(device).train(mode=False)
    return _Loaded(
        model,
        PairEncoder(tokenizer, limit),
        pad_id=cast(int | None, getattr(config, "pad_token_id", None)),
        takes_types=cast(int, getattr(config, "type_vocab_size", 0)) > 1,
    )


def _check_head(source: str, model: PreTrainedModel, info: dict[str, Any]) -> None:
    """Refuse a model whose head was made up while loading: its scores would be random numbers."""
    missing = sorted(info["missing_keys"])
    if missing:
        raise RewardModelError(
            f"{source!r} has no trained weights for {missing[0]!r}: it is no sequence classifier"
        )
    if model.config.num_labels != 1:
        raise RewardModelError(
            f"{source!r} has {model.config.num_labels} outputs, but a reward model has 1"
        )


@torch.inference_mode()
def _forward(loaded: _Loaded, rows: list[EncodedPair]) -> list[float]:
    """Return the logit of each row; rows are padded on the right."""
    width = max(len(row.ids) for row in rows)
    device = loaded.model.device

    def padded(values: list[list[int]], fill: int) -> torch.Tensor:
        full = [row + [fill] * (width - len(row)) for row in values]
        return torch.tensor(full, device=device)  # [B, T]

    inputs = {
        "input_ids": padded([row.ids for row in rows], loaded.pad_id or 0),
        "attention_mask": padded([[1] * len(row.ids) for row in rows], 0),
    }
    if loaded.takes_types:
        inputs["token_type_ids"] = padded([row.types for row in rows], 0)
    logits = loaded.model(**inputs).logits  # [B, 1]
    return cast(list[float], logits[:, 0].float().tolist())
