"""A base model with LoRA terms, beside the base model itself.

The modules are copied and the weights shared: the base has no hook, wrapper or mode of ours and so
stays bit-identical, whatever happens here. An adapter is chosen by pointing at its tensors, which
costs nothing, whereas peft's `adapter_names` sets hooks on every layer at every token.
"""

from __future__ import annotations

import math
import statistics
import sys
from collections import OrderedDict
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache, DynamicLayer

from rttc_graph.errors import AdaptationError
from rttc_graph.integrations.lora.adapter_layout import (
    Adapter,
    AdapterLayout,
    Target,
    adapter_layout,
    copy_sharing,
)
from rttc_graph.integrations.lora.row_terms import (
    FollowingAdapter,
    RowTerms,
    SpreadTerms,
    StayingTerms,
    by_device,
    combine_adapters,
)
from rttc_graph.integrations.lora.together.joint_terms import AdapterStack, JointTerms
from rttc_graph.integrations.lora.training_batches import Batch
from rttc_graph.integrations.lora.training_terms import FrozenLinear, TrainingTerms, frozen_bytes
from rttc_graph.integrations.transformers.decoding.running_batch import ROUNDING, has_plain_cache
from rttc_graph.integrations.transformers.free_memory import free_bytes
from rttc_graph.integrations.transformers.placed.placement import (
    devices_of,
    input_device,
    is_offloaded,
    is_placed,
    place_of,
)
from rttc_graph.integrations.transformers.recomputing import recomputed
from rttc_graph.integrations.transformers.recorded.fixed_batch import StayingForward

__all__ = ("AdaptedModel", "Below")

_PROBES = 33
"""Rows of noise, of which one is zero; on SmolLM2-135M the scale is then right to 1 %."""

_STACKS_SHARE = 1 / 2
"""Share of the free memory that a batch's stacked adapters may take."""

_KEPT_STACKS = 4
"""Stacks of adapters that stay for recorded passes, of different numbers of rows or ranks."""


@dataclass(slots=True, kw_only=True)
class Below:
    """Output of the layers below the adapter for a batch, kept for the batch's next pass."""

    layers: int
    """Number of layers below the adapter, counted from the lowest."""
    output: Any = None
    """Output of the topmost of these layers, without gradients; `None` before the first pass."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardMode:
    """What a forward pass does beyond the base model's; without arguments, nothing.

    A pass has one mode from its start to its end, and the next one has its own: between the two
    the lane may serve another request.
    """

    terms: RowTerms | None = None
    """LoRA terms added to the output of each target."""
    picked: tuple[Tensor, Tensor] | None = None
    """Rows and positions, int64 [N] each, for which the head computes logits; `None` for all."""
    recomputes: bool = False
    """Whether layers run with gradient checkpointing."""
    below: Below | None = None
    """Kept output of the layers below the adapter; `None` where nothing is kept."""
    check: Callable[[], None] | None = None
    """Called as the backward pass reaches a layer; raises to end it."""


class AdaptedModel:
    """The base model's forward pass with LoRA terms; for one thread at a time.

    Measured on SmolLM2-135M, one thread, one row, milliseconds a token: base alone 50, one adapter
    here 57, peft with `adapter_names` 120; eight rows with eight adapters: 104, 128 and 300.

    Args:
        model: The base, in evaluation mode; dropout stays off also in training.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.layout: AdapterLayout = adapter_layout(model)
        self.device: torch.device = input_device(model)
        self.dtype: torch.dtype = model.dtype
        self.devices = devices_of(model)
        """Devices that it computes on, the first of them `device`."""
        self._places: list[torch.device] | None = None
        if is_placed(model):  # the device of each target
            self._places = [place_of(model, target.name) for target in self.layout.targets]
        self.is_offloaded = is_offloaded(model)
        """Whether weights are fetched for each pass."""
        self._twin = copy_sharing(model).train(False)
        self._mode = ForwardMode()
        self._staying: OrderedDict[tuple[int, int, int], StayingTerms] = OrderedDict()
        self._stacks_made = 0
        self._last_terms: tuple[tuple[Adapter | None, ...], RowTerms | None] | None = None
        for number, (name, _) in enumerate(self.layout.layers):
            layer = self._twin.get_submodule(name)
            layer.forward = self._layer(number, layer.forward)
        targets = [self._twin.get_submodule(target.name) for target in self.layout.targets]
        head = cast("nn.Module | None", self._twin.get_output_embeddings())
        if head is None:
            raise AdaptationError("the model has no language-model head to train through")
        self._linear = (*targets, head)
        self._frozen: list[FrozenLinear | None] = []
        self.multiply_in(self.dtype)
        for index, (target, module) in enumerate(zip(self.layout.targets, targets, strict=True)):
            module.forward = self._with_terms(index, target.name, module.forward)
        head.forward = self._at_answers(head.forward)

    def forward_rows(self, adapters: Sequence[Adapter | None]) -> Callable[..., Any]:
        """Return a forward pass of the base model's signature that adapts each row of the batch.

        Args:
            adapters: Adapter of each row; rows of `None` get the base model's output, bit by bit.
        """
        terms = self._terms_of(tuple(adapters))

        def forward(*args: Any, **kwargs: Any) -> Any:
            with self._in_mode(ForwardMode(terms=terms)):
                return self._twin(*args, **kwargs)

        return forward

    def staying_rows(self, adapters: Sequence[Adapter | None]) -> StayingForward | None:
        """Return a forward pass over adapters in memory that stays; `None` if they differ in shape.

        Its kind is that of the memory: passes of another one are other passes.
        """
        present = [adapter for adapter in adapters if adapter is not None]
        if len({(adapter.rank, adapter.first) for adapter in present}) != 1:
            return None
        key = (len(adapters), present[0].rank, present[0].first)
        terms = self._staying.get(key)
        if terms is None:
            while len(self._staying) >= _KEPT_STACKS:
                self._staying.popitem(last=False)
            if present[0].bytes * len(adapters) > self._room_for_stacks():
                return None
            self._stacks_made += 1
            terms = self._staying[key] = StayingTerms(
                present[0], len(adapters), serial=self._stacks_made
            )
        self._staying.move_to_end(key)
        terms.load(adapters)

        def forward(**kwargs: Any) -> Any:
            with self._in_mode(ForwardMode(terms=terms)):
                return self._twin(**kwargs)

        return StayingForward(forward, ("rows", terms.serial))

    def _terms_of(self, adapters: tuple[Adapter | None, ...]) -> RowTerms | None:
        """Return the terms of rows; the last ones are kept, as a batch's rows seldom change."""
        last = self._last_terms
        if last is None or last[0] != adapters:
            last = self._last_terms = None  # frees their stacks before others are made
            last = self._last_terms = adapters, self._combined(adapters)
        return last[1]

    def _combined(self, adapters: tuple[Adapter | None, ...]) -> RowTerms | None:
        if self._places is None or not any(adapters):
            return combine_adapters(adapters, self._room_for_stacks)
        copies = by_device(adapters, self._places)
        return SpreadTerms(
            {place: combine_adapters(one, self._room_for_stacks) for place, one in copies.items()},
            self._places,
        )

    def forget_rows(self) -> None:
        """Let go of the adapters of the last rows; from any thread."""
        self._last_terms = None
        for terms in list(self._staying.values()):
            terms.forget()

    def _room_for_stacks(self) -> float:
        """Return the memory that stacked adapters may take, beside the resident ones."""
        return min(map(free_bytes, self.devices)) * _STACKS_SHARE

    def multiply_in(self, dtype: torch.dtype) -> None:
        """Set the type that trainings multiply by the weights in; the model's own at first.

        Weights in another type are copies, which stay until this is called again. Everything but
        these products keeps its type, and so does everything outside of a training.
        """
        self._frozen.clear()  # frees the copies of the previous type first
        other = None if dtype == self.dtype else dtype
        self._frozen.extend(FrozenLinear.from_module(module, other) for module in self._linear)
        if self._places is not None:
            self._frozen[-1] = None  # accelerate brings the states to the head, wherever it lies
        self.products: torch.dtype = dtype

    def copied_bytes(self, dtype: torch.dtype) -> int:
        """Return the memory of the copies that `multiply_in` makes for a type."""
        return frozen_bytes(self._linear, dtype)

    @property
    def term_dtype(self) -> torch.dtype:
        """Type of the low-rank products of a training: bfloat16 beside weights of that type.

        Beside float16 it is float32, as float16 has no range for an adapter's gradients.
        """
        return torch.bfloat16 if self.dtype == torch.bfloat16 else torch.float32

    @property
    def loss_scale(self) -> float:
        """Factor of a training's loss: above 1 where activations and their gradients are float16.

        Their smallest number is 6e-8, and what is smaller would be 0; 2¹⁶ is what torch's own
        scaler of losses begins with.
        """
        return 65536.0 if self.dtype == torch.float16 else 1.0

    @cached_property
    def can_share_prefix(self) -> bool:
        """Whether a prefix computed once may serve every row: the model caches all keys it saw.

        Models with sliding windows or carried states share no prefix.
        """
        layers = self._cache_layers
        return bool(layers) and all(type(layer) is DynamicLayer for layer in layers)

    @cached_property
    def _cache_layers(self) -> list[object]:
        """Caches of the model's layers; empty if it keeps more than keys and values."""
        with torch.inference_mode():
            ids = torch.zeros((1, 2), dtype=torch.long, device=self.device)
            output = self._twin(input_ids=ids, use_cache=True)
        is_plain = has_plain_cache(self._twin, output)
        return cast("list[object]", output.past_key_values.layers) if is_plain else []

    @cached_property
    def tree_tokens(self) -> int:
        """Longest example that may be in a tree; 0 if the model ignores a custom mask.

        Within a sliding window or a chunk, a tree's mask hides all that the model's own mask would
        hide; beyond it does not.
        """
        if not self._cache_layers or not self._obeys_a_mask():
            return 0
        config: Any = self._twin.config.get_text_config()
        spans = (getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size"))
        return min((span for span in spans if span), default=sys.maxsize)

    @cached_property
    def weight_scale(self) -> float:
        """Median over the targets of √in times the weights' root mean square.

        That is about the factor from a target's input to its output, for an input like noise: 4.7
        for SmolLM2-135M, 1.0 for Gemma-3-270M. For weights that are quantised, or fetched for each
        pass, it is measured with noise.
        """
        return statistics.median(
            _scale_of(self._twin.get_submodule(target.name), target, self._twin)
            for target in self.layout.targets
        )

    def _obeys_a_mask(self) -> bool:
        """Try whether the second of two branches in one row comes out as it does alone."""
        ids = torch.tensor([[1, 2, 3, 4, 5]], device=self.device)  # 1 2 3 and 1 4 5
        places = torch.tensor([[0, 1, 2, 1, 2]], device=self.device)
        owner = torch.tensor([0, 1, 1, 2, 2], device=self.device)
        sees = ((owner[:, None] == owner) | (owner == 0)).tril()[None, None]  # [1, 1, 5, 5]
        with torch.inference_mode():
            alone = self._twin(input_ids=ids[:, [0, 3, 4]], use_cache=False).logits[0, 1:].float()
            try:
                packed = self._twin(
                    input_ids=ids,
                    attention_mask=self._additive(sees),
                    position_ids=places,
                    use_cache=False,
                )
            except Exception:  # noqa: BLE001  # the model needs a mask of another form
                return False
            off = (packed.logits[0, 3:].float() - alone).abs().mean()
        return bool(off < ROUNDING * alone.std())

    def below(self, adapter: Adapter) -> Below:
        """Return an empty store for the output of the layers below an adapter for one batch."""
        return Below(layers=sum(first < adapter.first for _, first in self.layout.layers))

    def logits_at(
        self,
        adapter: Adapter | AdapterStack,
        batch: Batch,
        below: Below | None = None,
        check: Callable[[], None] | None = None,
    ) -> Tensor:
        """Return the logits before each answer token, with gradients to the adapter's tensors.

        The shared prefix is computed once: its keys and values are repeated for all rows and
        collect the gradients of all. The head, the largest matrix of a small model, is computed
        for the answer tokens alone. Padding needs no mask: it is on the right, where no token of a
        causal model sees it.

        Args:
            adapter: Adapter for every row, or several for as many rows each, without a prefix.
            batch: B rows of T tokens after the prefix, with N answer tokens in all.
            below: Kept output for this batch. What follows the prefix goes through the layers below
                the adapter at its first use only.
            check: Called at each target on the way forward, and at each layer on the way back;
                raises to end the pass.

        Returns:
            Logits, float32 [N, vocabulary].
        """
        self._last_terms = None  # a training has a use for their memory
        rows = int(batch.input_ids.shape[0])
        terms = self._training_terms(adapter, check)
        cache = self._prefix_cache(terms, batch.prefix, rows) if batch.prefix.numel() else None
        more: dict[str, Any] = {} if cache is None else {"past_key_values": cache}
        if batch.sees is not None:
            more |= {"attention_mask": self._additive(batch.sees), "position_ids": batch.places}
        mode = ForwardMode(
            terms=terms,
            picked=(batch.rows, batch.positions),
            recomputes=batch.recompute,
            below=below,
            check=check,
        )
        with self._in_mode(mode):
            output = self._twin(
                input_ids=batch.input_ids,
                use_cache=cache is not None,
                **more,
            )
        return cast("Tensor", output.logits)[0].float()

    def _training_terms(
        self, adapter: Adapter | AdapterStack, check: Callable[[], None] | None
    ) -> RowTerms:
        if isinstance(adapter, AdapterStack):
            return JointTerms(adapter, self._frozen, check)
        if self._places is None:
            return TrainingTerms(adapter, self._frozen, check)
        following = FollowingAdapter(adapter, self._places)
        terms = TrainingTerms(following, self._frozen, check)
        return SpreadTerms(dict.fromkeys(self._places, terms), self._places)

    def _additive(self, sees: Tensor) -> Tensor:
        """Return `sees` as an additive mask, which every implementation of attention takes."""
        dtype = self._twin.dtype
        return torch.zeros_like(sees, dtype=dtype).masked_fill(~sees, torch.finfo(dtype).min)

    def _prefix_cache(self, terms: RowTerms, prefix: Tensor, rows: int) -> DynamicCache:
        """Return keys and values of a prefix [1, P], repeated for the rows."""
        with self._in_mode(ForwardMode(terms=terms)):
            output = self._twin(input_ids=prefix, use_cache=True, logits_to_keep=1)
        cache = cast("DynamicCache", output.past_key_values)
        cache.batch_repeat_interleave(rows)
        return cache

    @contextmanager
    def _in_mode(self, mode: ForwardMode) -> Generator[None]:
        before, self._mode = self._mode, mode
        try:
            yield
        finally:
            self._mode = before

    def _layer(self, number: int, forward: Callable[..., Any]) -> Callable[..., Any]:
        """Return the forward pass of a layer that a training skips or computes twice."""

        def forward_layer(*args: Any, **kwargs: Any) -> Any:
            below = self._mode.below
            if below is not None and number < below.layers:
                if below.output is not None:
                    return below.output  # only the topmost layer's output is used
                output = forward(*args, **kwargs)
                if number == below.layers - 1:
                    below.output = output
                return output
            if not torch.is_grad_enabled():
                return forward(*args, **kwargs)
            run = self._recomputed if self._mode.recomputes else _plainly
            return _checked_back(run(forward, *args, **kwargs), self._mode.check)

        return forward_layer

    def _recomputed(self, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run a layer with gradient checkpointing: its input alone is kept, with this adapter."""
        # The backward pass comes when this pass's mode is over. Inside of a layer only the terms
        # of a mode count.
        mode = ForwardMode(terms=self._mode.terms)

        def with_adapter(*args: Any, **kwargs: Any) -> Any:
            with self._in_mode(mode):
                return forward(*args, **kwargs)

        return recomputed(with_adapter, *args, use_reentrant=False, **kwargs)

    def _at_answers(self, forward: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        """Return the head's forward pass; in a training it covers the answer tokens alone."""

        def forward_head(states: Tensor) -> Tensor:
            picked = self._mode.picked
            if picked is None:
                return forward(states)
            # Of [B, T, H] the places (row, position) of the N answer tokens, as [1, N, H].
            rows, positions = (place.to(states.device) for place in picked)
            chosen = states[rows, positions].unsqueeze(0)
            head = self._frozen[-1]
            return forward(chosen) if head is None else head(chosen, None, 0.0)

        return forward_head

    def _with_terms(
        self, index: int, name: str, forward: Callable[[Tensor], Tensor]
    ) -> Callable[[Tensor], Tensor]:
        """Return the forward pass of target number `index` with the terms of the rows."""

        def forward_target(x: Tensor) -> Tensor:
            terms = self._mode.terms
            return forward(x) if terms is None else terms.output(index, name, x, forward)

        return forward_target


def _plainly(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return forward(*args, **kwargs)


def _checked_back(output: Any, check: Callable[[], None] | None) -> Any:
    """Let a check be called as the backward pass reaches a layer's output [B, T, H]."""
    states: Any = output if isinstance(output, Tensor) else output[0]
    if check is not None and isinstance(states, Tensor) and states.requires_grad:

        def ask(gradient: Tensor) -> None:
            del gradient
            check()

        cast("Any", states).register_hook(ask)
    return cast("Any", output)


def _scale_of(module: nn.Module, target: Target, model: PreTrainedModel) -> float:
    weight = cast("Tensor", module.weight)
    if weight.is_floating_point() and weight.device.type != "meta":
        norm = cast("Any", torch.linalg).vector_norm(weight, dtype=torch.float32)
        return float(norm) / math.sqrt(target.out_features)
    random = torch.Generator().manual_seed(0)
    noise = torch.randn((_PROBES, target.in_features), generator=random)
    noise[0] = 0.0  # what it gives is the bias
    with torch.inference_mode():
        output = module(noise.to(input_device(model), model.dtype)).float()
    return float((output[1:] - output[0]).square().mean().sqrt())
