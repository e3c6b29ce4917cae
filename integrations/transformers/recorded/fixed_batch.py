"""Rows that are decoded together over a cache that stays where it is, for a GPU.

Each row has a place in buffers of a fixed size and is as long as its own tokens: nothing is padded
on the left, and rows join, leave and drop the wrong part of a draft each by itself. A pass computes
as many rows, positions and tokens as the next of few sizes has, with a mask over what is not there.
So few shapes come up, and the pass of a shape that came up often is recorded and replayed: on a GPU
a step of one token is some 1500 launches, which take longer to start than to run
(docs/decisions/0076). Prompts are computed as in a `RunningBatch`, then moved to their places.

Shapes: B rows, P positions of the cache, T new tokens a row, H key-value heads, D numbers a head, V
tokens of the vocabulary.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from transformers import Cache, PreTrainedModel
from transformers.cache_utils import CacheLayerMixin

from rttc_graph.integrations.transformers.decoding.prompt_cache import Known
from rttc_graph.integrations.transformers.decoding.running_batch import (
    Forward,
    RunningBatch,
    same_in_company,
)
from rttc_graph.integrations.transformers.recorded.capture import Capture, recorded

__all__ = ("FixedBatch", "StayingForward", "can_stay")

_log = logging.getLogger(__name__)

_LEAST_POSITIONS = 128
_WIDTHS = (1, 9, 33)
"""Tokens of a row that a pass computes: its next one, and those of a short or a long draft."""

_KEPT = 32
"""Recorded passes that are kept; they share one pool of memory."""

_RECORD_AFTER = 24
"""Passes of a shape after which it is recorded: recording takes some 0.6 s for a model of 8 billion
parameters, a plain pass 25 ms, a recorded one 10. Until then a new shape costs no more than others.
"""


@dataclass(frozen=True, slots=True)
class StayingForward:
    """A forward pass whose weights and adapters stay where they are."""

    forward: Callable[..., Any]
    kind: Hashable
    """Equal for passes that do the same work on the same memory."""

    def __call__(self, **given: Any) -> Any:
        """Return the output of the pass."""
        return self.forward(**given)


@dataclass(slots=True, eq=False)
class _Shaped:
    """The pass of one shape and kind."""

    given: Tensor
    """New tokens and, behind them, the row's length so far; int64 [B, T + 1]."""
    passes: int = 0
    logits: Tensor | None = None
    """Logits [B, T, V] of a recorded pass."""
    replay: Callable[[], None] | None = None


class FixedBatch:
    """The cache of the rows being decoded, in buffers; it knows tokens, not requests.

    Args:
        device: Device of the model.
        context_tokens: Longest context; padding has no place beyond it.
        most_positions: Positions, rows times length, that the buffers may have; a single row may
            have more.
        capture: Records passes; `None` runs all as they are.
        record_after: Passes of a shape after which it is recorded; `None` takes 24.
    """

    is_fixed = True

    def __init__(
        self,
        device: torch.device,
        *,
        context_tokens: int,
        most_positions: int,
        capture: Capture | None = None,
        record_after: int | None = None,
    ) -> None:
        self._device = device
        self._context_tokens = context_tokens
        self._most_positions = most_positions
        self._capture = capture
        self._record_after = _RECORD_AFTER if record_after is None else record_after
        self._lengths: list[int] = []
        self._layers: list[tuple[Tensor, Tensor]] = []
        """Keys and values [B, H, P, D] of each layer; empty before the first row."""
        self._shaped: OrderedDict[Hashable, _Shaped] = OrderedDict()

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self._lengths)

    @property
    def width(self) -> int:
        """Number of rows that a pass computes."""
        return _power_of_two(self.rows)

    def positions(self, rows: int, longest: int) -> int:
        """Return the positions that so many rows of a length take in the buffers."""
        return _power_of_two(rows) * _places(longest)

    def most_drafted(self, tokens: int) -> int:
        """Return the longest draft of a row with which a pass has at most so many tokens."""
        return next((wide - 1 for wide in reversed(_WIDTHS) if wide * self.width <= tokens), 0)

    def join(
        self,
        prompts: Sequence[Sequence[int]],
        forward: Forward,
        *,
        known: Sequence[Known | None] | None = None,
        rows: Sequence[int] | None = None,
        last: int = 1,
    ) -> Tensor:
        """Compute prompts and give their rows places; see `RunningBatch.join`."""
        fresh = RunningBatch(self._device)
        logits = fresh.join(prompts, forward, known=known, rows=rows, last=last)
        chosen = range(len(prompts)) if rows is None else rows
        lengths = [len(prompts[at]) for at in chosen]
        self._put(fresh.layers, lengths)
        return logits

    def enter(self, known: Sequence[Known], rows: Sequence[int]) -> None:
        """Give rows places of which only the last token is not known; see `RunningBatch.enter`."""
        fresh = RunningBatch(self._device)
        fresh.enter(known, rows)
        self._put(fresh.layers, [known[at].tokens for at in rows])

    def step(self, tokens: Sequence[Sequence[int]], forward: Forward) -> Tensor:
        """Append T tokens to each row; return the logits after each of them [B, T, V]."""
        count = len(tokens[0])
        wide = next((width for width in _WIDTHS if width >= count), count)
        self._reserve(self.rows, max(self._lengths) + wide, self._layers)
        width, length = self.width, _places(max(self._lengths) + wide)
        padding = [0] * (wide - count)
        given = [
            [*new, *padding, so_far] for new, so_far in zip(tokens, self._lengths, strict=True)
        ]
        given += [[0] * (wide + 1)] * (width - self.rows)
        shaped = self._shaped_for((getattr(forward, "kind", None), width, length, wide))
        shaped.given.copy_(torch.tensor(given), non_blocking=True)
        logits = self._logits(shaped, length, forward)
        self._lengths = [so_far + count for so_far in self._lengths]
        return logits[: self.rows, :count]

    def read(self, row: int, tokens: int, *, before: int = 0) -> list[tuple[Tensor, Tensor]]:
        """Copy the keys and values of a row's last tokens; see `RunningBatch.read`."""
        end = self._lengths[row] - before
        return [
            (keys[row, :, end - tokens : end].clone(), values[row, :, end - tokens : end].clone())
            for keys, values in self._layers
        ]

    def cut(self, tokens: int) -> None:
        """Remove the last tokens of every row."""
        self.cut_each([tokens] * self.rows)

    def cut_each(self, counts: Sequence[int]) -> None:
        """Remove the last tokens of each row, of each its own number."""
        self._lengths = [
            length - count for length, count in zip(self._lengths, counts, strict=True)
        ]

    @torch.inference_mode()
    def keep(self, rows: Sequence[int]) -> None:
        """Drop all rows but these, which keep their order."""
        moved = [(to, at) for to, at in enumerate(rows) if to != at]
        if moved:
            to, at = (torch.tensor(each, device=self._device) for each in zip(*moved, strict=True))
            for keys, values in self._layers:
                keys[to], values[to] = keys[at], values[at]
        self._lengths = [self._lengths[at] for at in rows]

    def let_go(self) -> None:
        """Drop all rows, the buffers and what was recorded over them."""
        self._lengths, self._layers = [], []
        self._shaped.clear()

    def _put(self, layers: Sequence[tuple[Tensor, Tensor]], lengths: Sequence[int]) -> None:
        """Move rows [N, H, S, D], padded on the left, to their places; they are the last rows."""
        first, padded = self.rows, layers[0][0].shape[2]
        rows, longest = first + len(lengths), max([*self._lengths, padded])
        self._reserve(rows, longest, layers)
        skipped = torch.tensor([padded - length for length in lengths], device=self._device)
        columns = (torch.arange(padded, device=self._device) + skipped[:, None]).clamp_(
            max=padded - 1
        )  # [N, S], what is behind a row's end is never seen
        for mine, new in zip(self._layers, layers, strict=True):
            for buffer, half in zip(mine, new, strict=True):
                places = columns[:, None, :, None].expand(-1, half.shape[1], -1, half.shape[3])
                # Numbers that are none, of a row that failed, would spoil what a mask hides too.
                buffer[first:rows, :, padded:] = 0
                buffer[first:rows, :, :padded] = half.gather(2, places)
        self._lengths += lengths

    def _reserve(self, rows: int, tokens: int, like: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Make the buffers large enough; what was recorded over smaller ones is lost."""
        width, length = _power_of_two(rows), _places(tokens)
        if self._layers:
            now_rows, _, now_length, _ = self._layers[0][0].shape
            if width <= now_rows and length <= now_length:
                return
            larger = max(width, now_rows), max(length, now_length)
            if larger[0] * larger[1] <= self._most_positions:
                width, length = larger
        self._shaped.clear()
        if not self._layers:
            self._layers = [(keys[:0], values[:0]) for keys, values in like]
        try:
            for at, pair in enumerate(self._layers):  # one after the other, so that each is freed
                self._layers[at] = (
                    _widened(pair[0], self.rows, width, length),
                    _widened(pair[1], self.rows, width, length),
                )
        except BaseException:  # some are larger now, and some are not
            self.let_go()
            raise

    def _shaped_for(self, key: tuple[Hashable, int, int, int]) -> _Shaped:
        shaped = self._shaped.get(key)
        if shaped is None:
            _, width, _, wide = key
            given = torch.zeros((width, wide + 1), dtype=torch.long, device=self._device)
            shaped = self._shaped[key] = _Shaped(given)
        self._shaped.move_to_end(key)
        if len(self._shaped) > _KEPT:
            self._shaped.popitem(last=False)
        return shaped

    def _logits(self, shaped: _Shaped, length: int, forward: Forward) -> Tensor:
        """Return the logits [B, T, V] of a pass, replayed if it was recorded."""
        if shaped.replay is not None:
            shaped.replay()
            return cast("Tensor", shaped.logits)
        shaped.passes += 1
        may_record = self._capture is not None and getattr(forward, "kind", None) is not None
        if not may_record or shaped.passes <= self._record_after:
            return self._computed(shaped.given, length, forward)
        try:
            return self._record(shaped, length, forward)
        except Exception as exc:  # noqa: BLE001  # the plain pass tells what is wrong, if anything
            _log.warning("passes of this model are not recorded any more: %s", exc)
            self._capture = None
            self._shaped.clear()
        return self._computed(shaped.given, length, forward)

    def _record(self, shaped: _Shaped, length: int, forward: Forward) -> Tensor:
        logits = shaped.logits = self._computed(shaped.given, length, forward).clone()

        def work() -> None:
            logits.copy_(self._computed(shaped.given, length, forward))

        shaped.replay = recorded(cast("Capture", self._capture), work, (logits,))
        return logits

    def _computed(self, given: Tensor, length: int, forward: Forward) -> Tensor:
        """Return the logits [B, T, V] behind tokens, whose keys and values go to their places."""
        width, wide = given.shape[0], given.shape[1] - 1
        places = given[:, -1:] + torch.arange(wide, device=self._device)  # [B, T]
        sees = torch.arange(length, device=self._device) <= places[:, None, :, None]  # [B, 1, T, P]
        layers = [
            (keys[:width, :, :length], values[:width, :, :length]) for keys, values in self._layers
        ]
        out = forward(
            input_ids=given[:, :-1],
            attention_mask=_additive(sees, layers[0][0].dtype),
            position_ids=places.clamp(max=self._context_tokens - 1),
            past_key_values=Cache(layers=[_FixedLayer(*pair, places) for pair in layers]),
            use_cache=True,
            logits_to_keep=wide,
        )
        return cast("Tensor", out.logits)


class _FixedLayer(CacheLayerMixin):  # type: ignore[no-untyped-call]  # transformers
    """The cache of one layer, in which each row's new tokens have places of their own.

    Args:
        keys: Keys [B, H, P, D].
        values: Values [B, H, P, D].
        places: Where the new tokens go, int64 [B, T].
    """

    def __init__(self, keys: Tensor, values: Tensor, places: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # transformers
        self.keys, self.values, self.is_initialized = keys, values, True
        self._places = places

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Do nothing: the buffers are there."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Put new keys and values [B, H, T, D] in their places and return all."""
        del args, kwargs
        buffers = cast("Tensor", self.keys), cast("Tensor", self.values)
        for buffer, new in zip(buffers, (key_states, value_states), strict=True):
            places = self._places[:, None, :, None].expand_as(new)
            buffer.scatter_(2, places, new.to(buffer.dtype))
        return buffers

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return length and offset of what a mask covers."""
        del query_length
        return self.get_max_length(), 0

    def get_seq_length(self) -> int:
        """Return 0: each row has its own length, which positions and mask tell."""
        return 0

    def get_max_length(self) -> int:
        """Return the positions."""
        return int(cast("Tensor", self.keys).shape[2])

    def get_max_cache_shape(self) -> int:
        """Return the positions, under an older name."""
        return self.get_max_length()


def can_stay(model: PreTrainedModel, context_tokens: int) -> bool:
    """Tell whether a model's rows may be decoded in a `FixedBatch`: a trial of a few tokens.

    Not if it sees less than its context: the mask here knows no window.
    """
    config: Any = model.config.get_text_config()
    spans = (getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size"))
    if any(span and span < context_tokens for span in spans):
        return False
    batch = FixedBatch(model.device, context_tokens=context_tokens, most_positions=0)
    return same_in_company(model, batch)


def _widened(half: Tensor, rows: int, width: int, length: int) -> Tensor:
    """Return a buffer of so many rows and positions, with the first rows of another one."""
    made = half.new_zeros((width, half.shape[1], length, half.shape[3]))
    end = min(length, half.shape[2])
    made[:rows, :, :end] = half[:rows, :, :end]
    return made


def _additive(sees: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a mask that every implementation of attention takes."""
    return torch.zeros_like(sees, dtype=dtype).masked_fill_(~sees, torch.finfo(dtype).min)


def _places(tokens: int) -> int:
    """Return the next of few lengths."""
    return max(_LEAST_POSITIONS, _power_of_two(tokens))


def _power_of_two(number: int) -> int:
    return 1 << max(0, number - 1).bit_length()
