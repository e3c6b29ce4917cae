"""Training examples to token ids, and ids to padded batches that fit in memory."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rttc_graph.errors import AdaptationError
from rttc_graph.integrations.lora.layout import AdapterLayout
from rttc_graph.integrations.transformers.loading import LoadedModel
from rttc_graph.integrations.transformers.tokens import encode_answer, encode_prompt
from rttc_graph.protocols import TrainingExample

__all__ = ("Batch", "EncodedExample", "StepLimits", "encode_examples", "pack")

_BYTES_PER_FEATURE = 7.0
"""Memory of a training pass for each token and each input or output feature of a target.

Peak measured on SmolLM2-135M in float32, of 305 000 features: 1.9 MB a token in large passes,
3.0 MB in small ones, where fixed costs show.
"""

_BYTES_PER_LOGIT = 16.0
"""float32 logits, their log-softmax and the gradients of both."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedExample:
    """An example as token ids."""

    ids: tuple[int, ...]
    """Prompt and answer."""
    answer_tokens: int
    """How many at the end are the answer, end token included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Examples of similar length: what they have in common once, the rest padded on the right."""

    prefix: Tensor
    """Tokens that all rows start with, int64 [1, P]; P is 0 where nothing is shared."""
    input_ids: Tensor
    """What follows the prefix in each row, int64 [B, T]."""
    rows: Tensor
    """Row of each answer token, int64 [N]."""
    positions: Tensor
    """Column of `input_ids` that predicts each answer token, so one before it; int64 [N]."""
    targets: Tensor
    """Answer tokens, int64 [N]."""
    tokens: int
    """Tokens of all examples, padding left out, a shared prefix counted for each of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepLimits:
    """What one forward and backward pass may cost."""

    token_bytes: float
    """Memory for each token, padding included."""
    answer_bytes: float
    """Memory for each answer token, for its logits."""
    max_bytes: int
    """Limit of a pass; a single example is always tried."""

    @classmethod
    def of(cls, layout: AdapterLayout, *, vocabulary: int, max_bytes: int) -> StepLimits:
        """Estimate the memory of a pass from the sizes of the layers."""
        features = sum(target.in_features + target.out_features for target in layout.targets)
        return cls(
            token_bytes=features * _BYTES_PER_FEATURE,
            answer_bytes=vocabulary * _BYTES_PER_LOGIT,
            max_bytes=max_bytes,
        )

    def allows(self, examples: Sequence[EncodedExample], *, shared: int) -> bool:
        """Tell whether the examples fit into one pass; the longest comes first.

        Args:
            examples: Sorted by length.
            shared: Length of the prefix that is computed once.
        """
        tokens = shared + len(examples) * (len(examples[0].ids) - shared)
        answers = sum(example.answer_tokens for example in examples)
        return tokens * self.token_bytes + answers * self.answer_bytes <= self.max_bytes


def encode_examples(
    loaded: LoadedModel, examples: Sequence[TrainingExample]
) -> list[EncodedExample]:
    """Turn examples into ids, the prompt exactly as generation makes it.

    What does not fit into the context is cut from the left of the prompt, never from the answer.

    Raises:
        AdaptationError: There is no example, or an answer alone exceeds the context.
    """
    if not examples:
        raise AdaptationError("there is no example to train on: retrieve at least one sample")
    return [_encode(loaded, number, example) for number, example in enumerate(examples, start=1)]


def _encode(loaded: LoadedModel, number: int, example: TrainingExample) -> EncodedExample:
    answer = encode_answer(loaded, example.answer, end=True)
    room = loaded.context_tokens - len(answer)
    if room < 1:  # the first answer token needs one before it
        raise AdaptationError(
            f"the answer of example {number} has {len(answer)} tokens, the model's context "
            f"{loaded.context_tokens}: leave the sample out or take a model with a longer context"
        )
    prompt = encode_prompt(loaded, example.messages)[-room:]
    return EncodedExample(ids=(*prompt, *answer), answer_tokens=len(answer))


def pack(
    examples: Sequence[EncodedExample],
    limits: StepLimits,
    *,
    device: torch.device,
    share_prefix: bool,
) -> list[Batch]:
    """Sort examples by length and fill as few batches as the limits allow.

    Args:
        examples: At least one.
        limits: What a batch may cost.
        device: Where the tensors go.
        share_prefix: Whether to compute the beginning that all examples have in common once for
            each batch. Exact; of prompts with the same system prompt and instruction it is half.
    """
    shared = _shared_tokens(examples) if share_prefix and len(examples) > 1 else 0
    groups: list[list[EncodedExample]] = []
    for example in sorted(examples, key=lambda each: len(each.ids), reverse=True):
        if groups and limits.allows([*groups[-1], example], shared=shared):
            groups[-1].append(example)
        else:
            groups.append([example])
    return [_batch(group, shared, device) for group in groups]


def _shared_tokens(examples: Sequence[EncodedExample]) -> int:
    """Return the length of the common prefix, the last token of every prompt left out.

    That token predicts the first one of the answer, so it belongs to the row.
    """
    limit = min(len(example.ids) - example.answer_tokens - 1 for example in examples)
    columns = zip(*(example.ids for example in examples), strict=False)
    same = itertools.takewhile(lambda column: len(set(column)) == 1, columns)
    return max(0, min(limit, sum(1 for _ in same)))


def _batch(examples: Sequence[EncodedExample], shared: int, device: torch.device) -> Batch:
    suffixes = [example.ids[shared:] for example in examples]
    places = [
        (row, column)
        for row, (ids, example) in enumerate(zip(suffixes, examples, strict=True))
        for column in range(len(ids) - example.answer_tokens, len(ids))
    ]
    # Any id would do as padding: no real token sees it, and no loss is taken there.
    padded = [[*ids, *([0] * (len(suffixes[0]) - len(ids)))] for ids in suffixes]
    return Batch(
        prefix=torch.tensor([examples[0].ids[:shared]], dtype=torch.long, device=device),
        input_ids=torch.tensor(padded, device=device),
        rows=torch.tensor([row for row, _ in places], device=device),
        positions=torch.tensor([column - 1 for _, column in places], device=device),
        targets=torch.tensor([padded[row][column] for row, column in places], device=device),
        tokens=sum(len(example.ids) for example in examples),
    )
