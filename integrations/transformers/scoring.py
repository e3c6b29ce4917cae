"""How likely the model finds answers that are already there; reward models build on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from rttc_graph.errors import ConfigurationError, PolicyModelError
from rttc_graph.integrations.transformers.decoding.running_batch import left_padded, positions
from rttc_graph.integrations.transformers.loading import LoadedModel
from rttc_graph.integrations.transformers.local_engine import LocalEngine
from rttc_graph.integrations.transformers.tokens import encode_answer, encode_prompt
from rttc_graph.integrations.transformers.torch_errors import translated
from rttc_graph.protocols import OptionProbabilities, OptionsRequest
from rttc_graph.state import ChatTurn

BATCH_TOKENS = 4096
"""Positions, padding included, in one forward pass: seconds of a 135 M model on one core."""

BATCH_LOGITS = 1 << 26
"""Logits in one forward pass; 256 MB in float32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoringRequest:
    """An answer to be scored."""

    messages: tuple[ChatTurn, ...]
    answer: str
    adapter: str | None = None
    """Key of a resident adapter, or `None` for the base model."""


@dataclass(slots=True)
class _Pair:
    at: int
    """Place of the request in the call."""
    prompt: list[int]
    answer: list[int]
    adapter: str | None

    @property
    def size(self) -> int:
        return len(self.prompt) + len(self.answer)


async def log_probabilities(
    engine: LocalEngine, requests: Sequence[ScoringRequest], *, end: bool = True
) -> list[float]:
    """Return each answer's mean log-probability in nats per token, in order.

    Args:
        engine: Holds the model; each batch is a short job of its lane.
        requests: Prompts and answers; adapters may be mixed.
        end: Whether the end token counts as the answer's last: how likely it is that the model
            says just this and stops. Without it an answer must not be empty.

    Raises:
        ConfigurationError: An answer has no tokens.
        PolicyModelError: The model failed, a pair is longer than the context, or an adapter is
            not resident.
    """
    groups = await engine.in_lane(lambda loaded: _grouped(loaded, requests, end=end))
    scores = [0.0] * len(requests)
    for group in groups:  # a job each, so that the lane can serve others in between
        for pair, score in zip(group, await _scores(engine, group), strict=True):
            scores[pair.at] = score
    return scores


async def option_probabilities(
    engine: LocalEngine, requests: Sequence[OptionsRequest]
) -> list[OptionProbabilities]:
    """Return how likely the model begins its answer with each of a few options.

    The prompt is read once, whatever the number of options.

    Args:
        engine: Holds the model; each batch is a short job of its lane.
        requests: Prompts and their options.

    Raises:
        ConfigurationError: Two options of a request begin with the same token.
        PolicyModelError: The model failed, a prompt is longer than the context, or an adapter is
            not resident.
    """
    groups = await engine.in_lane(lambda loaded: _grouped_options(loaded, requests))
    found: dict[int, OptionProbabilities] = {}
    for group in groups:  # a job each, so that the lane can serve others in between
        shares = await engine.in_lane(partial(_first_tokens, group))
        for pair, each in zip(group, shares, strict=True):
            found[pair.at] = OptionProbabilities(tuple(each), prompt_tokens=len(pair.prompt))
    return [found[at] for at in range(len(requests))]


def _grouped_options(loaded: LoadedModel, requests: Sequence[OptionsRequest]) -> list[list[_Pair]]:
    """Encode all prompts, each with the first tokens of its options in the answer's place."""
    pairs: list[_Pair] = []
    with translated("read the prompt"):
        for at, request in enumerate(requests):
            firsts = [encode_answer(loaded, option, end=False)[0] for option in request.options]
            if len(set(firsts)) < len(firsts):
                raise ConfigurationError(
                    f"options {list(request.options)} cannot be told apart by their first tokens: "
                    "name others"
                )
            prompt = encode_prompt(loaded, request.messages)
            if len(prompt) >= loaded.context_tokens:
                raise PolicyModelError(
                    f"the prompt has {len(prompt)} tokens and the model's context is "
                    f"{loaded.context_tokens}: shorten it or take a model with a longer context"
                )
            pairs.append(_Pair(at, prompt, firsts, request.adapter))
    return _of_like_length(loaded, pairs)


def _first_tokens(group: Sequence[_Pair], loaded: LoadedModel) -> list[list[float]]:
    """Return the probability of each option's first token behind its prompt."""
    prompts = [pair.prompt for pair in group]
    with translated("weigh options"):
        _, logits = _last_logits(group, prompts, loaded, 1)
        shares = logits[:, -1].double().softmax(dim=1)
    return [[float(shares[row, token]) for token in pair.answer] for row, pair in enumerate(group)]


async def _scores(engine: LocalEngine, group: Sequence[_Pair]) -> list[float]:
    """Score a group, or each pair by itself where the model cannot take them together."""
    try:
        return await engine.in_lane(partial(_score, group))
    except PolicyModelError:
        if len(group) == 1:
            raise
    return [(await engine.in_lane(partial(_score, [pair])))[0] for pair in group]


def _grouped(
    loaded: LoadedModel, requests: Sequence[ScoringRequest], *, end: bool
) -> list[list[_Pair]]:
    """Encode all pairs and put those of like length together."""
    with translated("read the prompt"):
        pairs = [_encode(loaded, at, request, end=end) for at, request in enumerate(requests)]
    return _of_like_length(loaded, pairs)


def _of_like_length(loaded: LoadedModel, pairs: Sequence[_Pair]) -> list[list[_Pair]]:
    groups: list[list[_Pair]] = []
    for pair in sorted(pairs, key=lambda pair: pair.size):
        if not groups or not _fits([*groups[-1], pair], loaded):
            groups.append([])
        groups[-1].append(pair)
    return groups


def _encode(loaded: LoadedModel, at: int, request: ScoringRequest, *, end: bool) -> _Pair:
    answer = encode_answer(loaded, request.answer, end=end)
    if not answer:
        raise ConfigurationError("an empty answer has no log-probability: score it with its end")
    pair = _Pair(at, encode_prompt(loaded, request.messages), answer, request.adapter)
    if pair.size > loaded.context_tokens:
        raise PolicyModelError(
            f"prompt and answer have {pair.size} tokens together and the model's context is "
            f"{loaded.context_tokens}: shorten them or take a model with a longer context"
        )
    return pair


def _fits(group: Sequence[_Pair], loaded: LoadedModel) -> bool:
    if not loaded.can_batch:
        return len(group) == 1
    logits = len(group) * max(len(pair.answer) for pair in group) * loaded.vocabulary
    padded = len(group) * max(pair.size for pair in group)
    return padded <= BATCH_TOKENS and logits <= BATCH_LOGITS


def _score(group: Sequence[_Pair], loaded: LoadedModel) -> list[float]:
    """Return the mean log-probability of each answer's tokens."""
    longest = max(len(pair.answer) for pair in group)
    texts = [[*pair.prompt, *pair.answer] for pair in group]
    with translated("score answers"):
        ids, logits = _last_logits(group, texts, loaded, longest + 1)
        chosen = _chosen(logits[:, -longest - 1 : -1], ids[:, -longest:])  # [B, A]
    return [float(chosen[row, -len(pair.answer) :].mean()) for row, pair in enumerate(group)]


@torch.inference_mode()
def _last_logits(
    group: Sequence[_Pair], texts: Sequence[Sequence[int]], loaded: LoadedModel, keep: int
) -> tuple[Tensor, Tensor]:
    """Return the ids [B, T] of texts, padded in front, and logits behind at least `keep` of them.

    Args:
        group: Pairs whose adapters are on, row by row.
        texts: Ids of each row.
        loaded: Model that reads them.
        keep: How many of a row's last positions are wanted.
    """
    ids, mask = left_padded(texts, loaded.device)
    padding: dict[str, Any] = {}
    if loaded.can_batch:
        padding = {"attention_mask": mask, "position_ids": positions(mask)}
        padding["logits_to_keep"] = keep
    with loaded.forward_rows([pair.adapter for pair in group]) as forward:
        out = forward(input_ids=ids, use_cache=False, **padding)
    return ids, out.logits


def _chosen(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the log-probability of each target [B, A], given the logits before it [B, A, V]."""
    picked = logits.gather(2, targets[:, :, None])[:, :, 0].double()
    return picked - logits.float().logsumexp(dim=2).double()
