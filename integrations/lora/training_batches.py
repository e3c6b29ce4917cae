"""Training examples to token ids, and ids to batches without waste that fit in memory."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rttc_graph.errors import AdaptationError
from rttc_graph.integrations.lora.adapter_layout import AdapterLayout
from rttc_graph.integrations.transformers.loading import LoadedModel
from rttc_graph.integrations.transformers.tokens import encode_answer, encode_prompt
from rttc_graph.protocols import TrainingExample
from rttc_graph.settings import TttSettings

__all__ = ("Batch", "EncodedExample", "StepLimits", "deal", "encode_examples", "pack")

_BYTES_PER_FEATURE = 7.0
"""Memory of a training pass for each token and each input or output feature of a target.

Peak measured on SmolLM2-135M in float32, of 305 000 features: 1.9 MB a token in large passes,
3.0 MB in small ones, where fixed costs show.
"""

_BYTES_PER_HALF_FEATURE = 2.5
"""Memory of a pass for each of them where numbers have two bytes.

5.9 MB a token were measured on an H100 for the shape of Llama-3.1-8B in bfloat16, of 2.6 million
features.
"""

_RECOMPUTED = 4 / 3
"""Work of a pass with gradient checkpointing, relative to one without: forward is one of three
parts."""

_PASS_NUMBERS = {"cpu": 1.25e6, "cuda": 1.3e10}
"""Weights that a device multiplies a token by, forward and back, in the time of a target's calls.

An estimate. On a CPU: 0.1 ms of calls at 50 GFLOP/s a core. On an H100: 18 launches of 7 µs at half
of the 775 TFLOP/s measured.
"""

_BYTES_PER_LOGIT = 16.0
"""float32 logits, their log-softmax and the gradients of both."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedExample:
    """An example as token ids."""

    ids: tuple[int, ...]
    """Prompt and answer."""
    answer_tokens: int
    """Number of tokens at the end that are the answer, end token included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Examples whose common prefix is computed once, as padded rows or as a tree.

    Rows: the rest of each example, padded on the right to the longest. Tree: one row, in which the
    rests follow the prefix one after the other, unpadded and without their last tokens, which
    predict nothing; the mask `sees` keeps them apart.

        rows (prefix p, two rests)      tree
        p p | a a a                     p p a a b b b
        p p | b b b b
    """

    prefix: Tensor
    """Tokens that all rows start with, int64 [1, P]; P is 0 where nothing is shared."""
    input_ids: Tensor
    """Tokens that follow the prefix in each row, int64 [B, T]."""
    rows: Tensor
    """Row of each answer token, int64 [N]."""
    positions: Tensor
    """Column of `input_ids` that predicts each answer token, so one before it; int64 [N]."""
    targets: Tensor
    """Answer tokens, int64 [N]."""
    tokens: int
    """Tokens of all examples, padding left out, a shared prefix counted for each of them."""
    places: Tensor | None = None
    """Position of each token in its own example, for a tree, int64 [1, T]."""
    sees: Tensor | None = None
    """Whether a token (row) sees another (column), for a tree, bool [1, 1, T, T]."""
    recompute: bool = False
    """Whether the pass uses gradient checkpointing."""
    examples: tuple[EncodedExample, ...] = ()
    """Examples in it, the longest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepLimits:
    """Memory limits of one forward and backward pass."""

    token_bytes: float
    """Memory for each token, padding included."""
    answer_bytes: float
    """Memory for each answer token, for its logits."""
    pair_tokens: float = 0.0
    """Cost of attention to one token, as a share of the cost of a token's linear layers."""
    pass_tokens: float = 0.0
    """Cost of a pass of its own for a prefix, beside its tokens: its calls, in tokens."""
    max_bytes: float
    """Limit of a pass; a single example is always tried."""
    recompute_bytes: float = math.inf
    """Estimate above which a single example uses gradient checkpointing."""
    recompute_all: bool = False
    """Whether every pass uses it, as where weights are fetched for each pass."""

    @classmethod
    def from_layout(
        cls,
        layout: AdapterLayout,
        *,
        vocabulary: int,
        max_bytes: float,
        free_bytes: float = math.inf,
        recompute: bool | None = None,
        recompute_all: bool = False,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> StepLimits:
        """Estimate the memory of a pass from the sizes of the layers.

        Args:
            layout: Layout of the model.
            vocabulary: Length of a row of logits.
            max_bytes: Limit of a pass.
            free_bytes: Free memory of the device.
            recompute: Whether an example beyond the limit uses gradient checkpointing; `None`
                decides by whether it would take more than half of the free memory.
            recompute_all: Whether every pass uses it.
            device: Kind of device, as torch names it.
            dtype: Type of the model, and so of what a pass keeps.
        """
        feature = _BYTES_PER_HALF_FEATURE if dtype.itemsize == 2 else _BYTES_PER_FEATURE
        numbers = sum(target.in_features * target.out_features for target in layout.targets)
        features = sum(target.in_features + target.out_features for target in layout.targets)
        return cls(
            token_bytes=features * feature,
            answer_bytes=vocabulary * _BYTES_PER_LOGIT,
            # 4·d operations a pair and layer, to 24·d² a token and layer of d features
            pair_tokens=1 / (6 * layout.targets[0].in_features),
            pass_tokens=len(layout.targets) / numbers * _PASS_NUMBERS.get(device, 0.0),
            max_bytes=max_bytes,
            recompute_bytes={None: free_bytes / 2, True: max_bytes, False: math.inf}[recompute],
            recompute_all=recompute_all,
        )

    def allows(self, examples: Sequence[EncodedExample], *, tokens: int) -> bool:
        """Tell whether the examples fit into one pass.

        Args:
            examples: In any order.
            tokens: Tokens to compute for them, padding included.
        """
        return self._bytes(examples, tokens) <= self.max_bytes

    def wants_recomputing(self, example: EncodedExample) -> bool:
        """Tell whether an example alone is too large for its activations to be kept."""
        return self._bytes([example], len(example.ids)) > self.recompute_bytes

    def _bytes(self, examples: Sequence[EncodedExample], tokens: int) -> float:
        answers = sum(example.answer_tokens for example in examples)
        return self.bytes_for(tokens=tokens, answers=answers)

    def bytes_for(self, *, tokens: int, answers: int) -> float:
        """Return the memory of a pass over so many tokens, of them so many answer tokens."""
        return tokens * self.token_bytes + answers * self.answer_bytes

    def work(self, batch: Batch) -> float:
        """Return the work of a pass over a batch, in tokens without attention."""
        rows, length = batch.input_ids.shape
        prefix = batch.prefix.numel()
        tokens = prefix + rows * length
        work = self.cost(tokens=tokens, pairs=prefix**2 + rows * length * (prefix + length))
        return work * (_RECOMPUTED if batch.recompute else 1.0)

    def cost(self, *, tokens: int, pairs: int) -> float:
        """Return the work of a pass, in tokens without attention."""
        return tokens + pairs * self.pair_tokens


def encode_examples(
    loaded: LoadedModel, examples: Sequence[TrainingExample]
) -> list[EncodedExample]:
    """Turn examples into ids, with prompts exactly as generation makes them.

    A prompt that does not fit into the context is truncated from the left, the answer never.

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


def deal(
    examples: Sequence[EncodedExample], settings: TttSettings
) -> list[Sequence[EncodedExample]]:
    """Distribute examples over the steps of an epoch.

    Neighbours in the ranking go to different steps; the nearest to the query goes to the last one.

    Args:
        examples: At least one, the nearest to the query first.
        settings: Gives the number of examples a step.
    """
    steps = settings.steps_of_epoch(len(examples))
    return [examples[::-1][step::steps] for step in range(steps)]


def pack(
    examples: Sequence[EncodedExample],
    limits: StepLimits,
    *,
    device: torch.device,
    share_prefix: bool,
    tree_tokens: int = 0,
) -> list[Batch]:
    """Sort examples by length and fill as few batches as the limits allow.

    On SmolLM2-135M with 8 samples of about 50 tokens, of which 24 are shared, a tree takes
    0.79 of the CPU time of padded rows after a prefix (docs/experiments.md).

    Args:
        examples: At least one.
        limits: Memory limits of a batch.
        device: Device for the tensors.
        share_prefix: Whether a batch's prefix is computed once for all rows. The result is exact;
            with the same system prompt and instruction it saves half of the prompts.
        tree_tokens: Longest example that may be in a tree, which is used where it is less work than
            padded rows. The result is exact.
    """
    plan = _Plan(
        common=_shared_tokens(examples) if len(examples) > 1 else 0,
        share_prefix=share_prefix,
        tree_tokens=tree_tokens,
        limits=limits,
    )
    groups: list[list[EncodedExample]] = []
    for example in sorted(examples, key=lambda each: len(each.ids), reverse=True):
        more = [*groups[-1], example] if groups else [example]
        if groups and limits.allows(more, tokens=plan.tokens(more)):
            groups[-1] = more
        else:
            groups.append([example])
    batches = [_batch(group, plan, device) for group in groups]
    return [replace(each, recompute=True) for each in batches] if limits.recompute_all else batches


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """Chooses between rows and a tree; the longest example of a batch comes first."""

    common: int
    """Length of the prefix that all examples share."""
    share_prefix: bool
    tree_tokens: int
    limits: StepLimits

    def row_prefix(self, examples: Sequence[EncodedExample]) -> int:
        """Return the length of the prefix that padded rows compute once: 0 if that costs more."""
        saved = self.common * (len(examples) - 1)
        return self.common if self.share_prefix and saved > self.limits.pass_tokens else 0

    def is_tree(self, examples: Sequence[EncodedExample]) -> bool:
        """Tell whether a tree is less work: it needs no padding but attends over every pair."""
        longest = len(examples[0].ids)
        if len(examples) == 1 or longest > self.tree_tokens:
            return False
        prefix = self.row_prefix(examples)
        tree, padded = _tree_size(examples, self.common), _padded_size(examples, prefix)
        rows = self.limits.cost(tokens=padded, pairs=(padded - prefix) * longest)
        if prefix:
            rows += self.limits.pass_tokens
        return self.limits.cost(tokens=tree, pairs=tree * tree) < rows

    def tokens(self, examples: Sequence[EncodedExample]) -> int:
        """Return the number of tokens that a pass over the examples computes."""
        if self.is_tree(examples):
            return _tree_size(examples, self.common)
        return _padded_size(examples, self.row_prefix(examples))


def _batch(group: Sequence[EncodedExample], plan: _Plan, device: torch.device) -> Batch:
    if len(group) == 1:
        alone = _padded(group, 0, device)  # no prefix to share, and one pass is less work than two
        return replace(alone, recompute=plan.limits.wants_recomputing(group[0]))
    if plan.is_tree(group):
        return _tree(group, plan.common, device)
    return _padded(group, plan.row_prefix(group), device)


def _tree_size(examples: Sequence[EncodedExample], shared: int) -> int:
    return shared + sum(len(example.ids) - 1 - shared for example in examples)


def _padded_size(examples: Sequence[EncodedExample], shared: int) -> int:
    """Count tokens, padding included; the longest example comes first."""
    return shared + len(examples) * (len(examples[0].ids) - shared)


def _shared_tokens(examples: Sequence[EncodedExample]) -> int:
    """Return the length of the common prefix, without the last token of every prompt.

    That token predicts the answer's first one, so it must be in the row.
    """
    limit = min(len(example.ids) - example.answer_tokens - 1 for example in examples)
    columns = zip(*(example.ids for example in examples), strict=False)
    same = itertools.takewhile(lambda column: len(set(column)) == 1, columns)
    return max(0, min(limit, sum(1 for _ in same)))


def _tree(examples: Sequence[EncodedExample], shared: int, device: torch.device) -> Batch:
    """Append the rests to the prefix; each one attends to the prefix and itself."""
    ids, places, owners = list(examples[0].ids[:shared]), list(range(shared)), [0] * shared
    columns: list[int] = []
    targets: list[int] = []
    for number, example in enumerate(examples, start=1):
        ids += example.ids[shared:-1]
        places += range(shared, len(example.ids) - 1)
        owners += [number] * (len(example.ids) - 1 - shared)
        # `ids` lacks the example's last token, so its last places predict the answer tokens.
        columns += range(len(ids) - example.answer_tokens, len(ids))
        targets += example.ids[-example.answer_tokens :]
    # [T, T]: a token sees itself and earlier tokens of its own example and of the prefix (owner 0).
    owner = torch.tensor(owners)  # [T]
    sees = ((owner[:, None] == owner) | (owner == 0)).tril()
    return Batch(
        prefix=torch.zeros((1, 0), dtype=torch.long, device=device),
        input_ids=torch.tensor([ids], device=device),
        rows=torch.zeros(len(columns), dtype=torch.long, device=device),
        positions=torch.tensor(columns, device=device),
        targets=torch.tensor(targets, device=device),
        tokens=sum(len(example.ids) for example in examples),
        places=torch.tensor([places], device=device),
        sees=sees[None, None].to(device),
        examples=tuple(examples),
    )


def _padded(examples: Sequence[EncodedExample], shared: int, device: torch.device) -> Batch:
    suffixes = [example.ids[shared:] for example in examples]
    # Row and column of each answer token; the token before it, at column - 1, predicts it.
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
        examples=tuple(examples),
    )
