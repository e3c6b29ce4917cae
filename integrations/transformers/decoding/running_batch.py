"""Rows that are decoded together: one key-value cache, padded on the left.

Rows join and leave between tokens: a new row's cache is padded to the length of the others, a
finished row's cache is dropped, and padding that all rows share is cut off. Only plain attention
caches are batched. They are kept whole for layers with a sliding window too, since the mask applies
the window. Models that carry a state on (convolution, Mamba, RWKV) would mix padding and drafts
into it, so their rows are computed one at a time, each with the model's own cache.

Shapes: B rows, P positions of the cache, S new positions, H key-value heads, D numbers a head, V
tokens of the vocabulary.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from rttc_graph.integrations.transformers.decoding.prompt_cache import Known
from rttc_graph.integrations.transformers.placed.placement import input_device, is_placed

Forward = Callable[..., Any]
"""`model.forward`, or a stand-in that applies an adapter to each row."""


ROUNDING = 0.05
"""Largest allowed deviation, as a share of the logits' standard deviation. bfloat16 gives 0.01, an
ignored mask more than 0.5."""


class _Layer(Protocol):
    """Cache of one layer [B, H, P, D]; `None` before its first use, or if of another kind."""

    keys: Tensor | None
    values: Tensor | None


class Batch(Protocol):
    """The rows being decoded, as the decoder sees them."""

    @property
    def rows(self) -> int:
        """Number of rows."""
        ...

    def join(
        self,
        prompts: Sequence[Sequence[int]],
        forward: Forward,
        *,
        known: Sequence[Known | None] | None = None,
        rows: Sequence[int] | None = None,
        last: int = 1,
    ) -> Tensor:
        """Compute prompts and append their rows; see `RunningBatch.join`."""
        ...

    def enter(self, known: Sequence[Known], rows: Sequence[int]) -> None:
        """Append rows of which only the last token is not known; see `RunningBatch.enter`."""
        ...

    def step(self, tokens: Sequence[Sequence[int]], forward: Forward) -> Tensor:
        """Append T tokens to each row; return the logits after each of them [B, T, V]."""
        ...

    def read(self, row: int, tokens: int, *, before: int = 0) -> list[tuple[Tensor, Tensor]]:
        """Copy the keys and values of a row's last tokens; see `RunningBatch.read`."""
        ...

    @property
    def is_fixed(self) -> bool:
        """Whether its memory stays, so that passes may be recorded, and rows are cut apart."""
        ...

    @property
    def width(self) -> int:
        """Number of rows that a pass computes; those beyond `rows` are nobody's."""
        ...

    def positions(self, rows: int, longest: int) -> int:
        """Return the positions that so many rows of a length take."""
        ...

    def most_drafted(self, tokens: int) -> int:
        """Return the longest draft of one of several rows with which a pass has so many tokens."""
        ...

    def cut_each(self, counts: Sequence[int]) -> None:
        """Remove the last tokens of each row, of each its own number; all alike if not fixed."""
        ...

    def let_go(self) -> None:
        """Drop all rows and the memory that is kept for later ones."""
        ...

    def keep(self, rows: Sequence[int]) -> None:
        """Drop all rows but these, which keep their order."""
        ...


class _CutTogether(ABC):
    """What batches have in common that keep no memory for later rows."""

    is_fixed = False

    @property
    @abstractmethod
    def rows(self) -> int: ...

    @abstractmethod
    def cut(self, tokens: int) -> None: ...

    @abstractmethod
    def keep(self, rows: Sequence[int]) -> None: ...

    @property
    def width(self) -> int:
        """Number of rows that a pass computes."""
        return self.rows

    def positions(self, rows: int, longest: int) -> int:
        """Return the positions that so many rows of a length take, padding included."""
        return rows * longest

    def most_drafted(self, tokens: int) -> int:
        """Return 0: rows that are cut together have no drafts of their own."""
        del tokens
        return 0

    def cut_each(self, counts: Sequence[int]) -> None:
        """Remove as many last tokens of every row.

        Raises:
            ValueError: The numbers differ: rows are cut together.
        """
        if len(set(counts)) > 1:
            raise ValueError(f"rows are cut together, got {list(counts)}")
        self.cut(counts[0])

    def let_go(self) -> None:
        """Drop all rows; nothing is kept for later ones."""
        self.keep([])


class RunningBatch(_CutTogether):
    """The cache of the rows being decoded; it knows tokens and positions, not requests.

    Args:
        device: Device of the model's input.
        is_placed: Whether the model's layers lie on several devices.
    """

    def __init__(self, device: torch.device, *, is_placed: bool = False) -> None:
        self._device = device
        self._is_placed = is_placed
        self._cache = DynamicCache()
        self._mask = torch.zeros(
            (0, 0), dtype=torch.long, device=device
        )  # [B, P], 1 where a token is, 0 where padding

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self._mask.shape[0]

    @property
    def layers(self) -> list[tuple[Tensor, Tensor]]:
        """Keys and values [B, H, P, D] of each layer, padded on the left."""
        return [(_present(layer.keys), _present(layer.values)) for layer in _layers(self._cache)]

    def join(
        self,
        prompts: Sequence[Sequence[int]],
        forward: Forward,
        *,
        known: Sequence[Known | None] | None = None,
        rows: Sequence[int] | None = None,
        last: int = 1,
    ) -> Tensor:
        """Compute prompts, append their rows to the running ones and return their logits.

        Args:
            prompts: Token ids of N prompts; each is computed once.
            forward: Forward pass for one row per prompt.
            known: Cached beginning of each prompt, which is not computed again.
            rows: Index of the prompt of each new row; by default one row per prompt.
            last: Number of tokens at the end of each prompt to return logits for.

        Returns:
            Logits [len(rows), last, V].
        """
        cache, ids, mask = self._started(prompts, known or [None] * len(prompts))
        out = forward(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions(mask)[:, -ids.shape[1] :],  # [N, S] of [N, P + S]
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=self._last_places(last, ids.shape[1]),
        )
        logits = cast("Tensor", out.logits)  # [N, last, V]
        places = range(len(prompts)) if rows is None else rows
        self._append(cache, mask, places)
        return logits if _is_each_once(places, len(prompts)) else logits[list(places)]

    def enter(self, known: Sequence[Known], rows: Sequence[int]) -> None:
        """Append rows whose tokens are known but for the last one, which the next step computes.

        No pass is made for them: they share the next one with the rows that are there.

        Args:
            known: Beginnings of N rows, to be taken whole.
            rows: Index of the beginning of each new row.
        """
        cache, mask = self._past(known, [one.tokens for one in known])
        self._append(cache, mask, rows)

    def _last_places(self, last: int, tokens: int) -> int | Tensor:
        """Return what a model takes for the places of which it is to compute logits.

        On a GPU by number: of the last ones of each row a model makes a slice with gaps, and the
        head, its largest matrix, is then read once for each row. Not where layers lie on several
        devices, as the numbers would lie on another one than the states.
        """
        if self._device.type == "cpu" or self._is_placed:
            return last
        return torch.arange(tokens - last, tokens, device=self._device)

    def read(self, row: int, tokens: int, *, before: int = 0) -> list[tuple[Tensor, Tensor]]:
        """Copy the keys and values [H, P, D] of a row's last tokens, layer by layer.

        Args:
            row: Index of the row.
            tokens: P, the number of tokens to copy.
            before: Number of tokens after them that are left out.
        """
        end = self._mask.shape[1] - before
        return [
            (
                _present(layer.keys)[row, :, end - tokens : end].clone(),
                _present(layer.values)[row, :, end - tokens : end].clone(),
            )
            for layer in _layers(self._cache)
        ]

    def _started(
        self, prompts: Sequence[Sequence[int]], known: Sequence[Known | None]
    ) -> tuple[DynamicCache, Tensor, Tensor]:
        """Return a cache of the known parts [N, H, P, D], ids [N, S] of the rest, mask [N, P + S].

        All rows get the same number S of new tokens, so some rows recompute a few cached ones.
        Then all padding is on the left, and a sliding window meets no gap. With prompts of 6 and 5
        tokens, of which 4 and 1 are known (k known, r recomputed or new, . padding), S is 4:

            known            prompts          cache P = 2    ids S = 4
            k k k k          a b c d e f      k k            r r r r
            k                g h i j k        . k            r r r r
        """
        rest = max(
            len(p) - (k.tokens if k else 0) for p, k in zip(prompts, known, strict=True)
        )  # S
        taken = [max(0, len(prompt) - rest) for prompt in prompts]  # tokens used from each cache
        ids, mask = left_padded(
            [prompt[skip:] for prompt, skip in zip(prompts, taken, strict=True)], self._device
        )
        if not any(taken):
            return DynamicCache(), ids, mask
        cache, past = self._past(known, taken)
        return cache, ids, torch.cat([past, mask], dim=1)

    def _past(
        self, known: Sequence[Known | None], taken: Sequence[int]
    ) -> tuple[DynamicCache, Tensor]:
        """Return a cache [N, H, P, D] of the first `taken` tokens of known parts, mask [N, P]."""
        cache, length = DynamicCache(), max(taken)
        shape = next(entry.layers for entry in known if entry is not None)
        for at, (some_keys, some_values) in enumerate(shape):
            # Of [H, p, D] the first `skip` positions of each prompt.
            parts = [
                (None, None)
                if k is None
                else (k.layers[at][0][:, :skip], k.layers[at][1][:, :skip])
                for k, skip in zip(known, taken, strict=True)
            ]
            cache.update(
                _side_by_side([keys for keys, _ in parts], length, like=some_keys),
                _side_by_side([values for _, values in parts], length, like=some_values),
                at,
            )
        # 1 at the last `taken` positions of each row.
        past = torch.arange(length, device=self._device) >= length - torch.tensor(
            taken, device=self._device
        ).unsqueeze(1)
        return cache, past.long()

    def step(self, tokens: Sequence[Sequence[int]], forward: Forward) -> Tensor:
        """Add the same number of tokens to each row; return the logits behind each [B, T, V]."""
        ids = torch.tensor(tokens, device=self._device)  # [B, T]
        count = ids.shape[1]
        self._mask = pad(self._mask, (0, count), value=1)  # [B, P + T]
        out = forward(
            input_ids=ids,
            attention_mask=self._mask,
            position_ids=positions(self._mask)[:, -count:],
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=count,
        )
        return cast("Tensor", out.logits)

    def cut(self, tokens: int) -> None:
        """Remove the last tokens of every row."""
        end = self._mask.shape[1] - tokens
        self._mask = self._mask[:, :end]  # [B, P - tokens]
        for layer in _layers(self._cache):  # [B, H, P, D], cut along P
            layer.keys = _present(layer.keys)[:, :, :end]
            layer.values = _present(layer.values)[:, :, :end]

    def keep(self, rows: Sequence[int]) -> None:
        """Drop all rows but these, which keep their order, and the padding that they share."""
        if not rows:
            self._cache = DynamicCache()
            self._mask = self._mask[:0, :0]
            return
        index = torch.tensor(rows, device=self._device)
        mask = self._mask[index]
        # Leftmost token of any row: the columns before it are padding in every row.
        first = int(mask.argmax(dim=1).min())
        self._mask = mask[:, first:]
        for layer in _layers(self._cache):
            keys, values = _present(layer.keys), _present(layer.values)
            here = index.to(keys.device)
            # Twice as fast as indexing by a tensor, and rows leave at the end of each step.
            layer.keys = keys[:, :, first:].index_select(0, here)
            layer.values = values[:, :, first:].index_select(0, here)

    def _append(self, cache: DynamicCache, mask: Tensor, rows: Sequence[int]) -> None:
        """Append rows of a cache of N; several candidates of one prompt have a copy each."""
        if not _is_each_once(rows, mask.shape[0]):
            index = torch.tensor(rows, device=self._device)
            for layer in _layers(cache):
                keys, values = _present(layer.keys), _present(layer.values)
                here = index.to(keys.device)  # layers may lie on several devices
                layer.keys = keys.index_select(0, here)
                layer.values = values.index_select(0, here)
            mask = mask[index]
        if self.rows:
            self._merge(cache, mask)
        else:
            self._cache, self._mask = cache, mask

    def _merge(self, cache: DynamicCache, mask: Tensor) -> None:
        """Append the new rows to the running ones; when memory runs out, nothing has changed."""
        length = max(self._mask.shape[1], mask.shape[1])  # positions after padding the shorter one
        joined = [
            (_stacked(mine.keys, new.keys, length), _stacked(mine.values, new.values, length))
            for mine, new in zip(_layers(self._cache), _layers(cache), strict=True)
        ]
        for layer, (keys, values) in zip(_layers(self._cache), joined, strict=True):
            layer.keys, layer.values = keys, values
        self._mask = torch.cat([_widened(self._mask, length), _widened(mask, length)])


class LoneRow(_CutTogether):
    """A batch of at most one row, with the cache that its model makes.

    Args:
        device: Device of the model.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._ids: list[int] = []
        self._carried: dict[str, Any] = {}

    @property
    def rows(self) -> int:
        """Number of rows, 0 or 1."""
        return 1 if self._ids else 0

    def join(
        self,
        prompts: Sequence[Sequence[int]],
        forward: Forward,
        *,
        known: Sequence[Known | None] | None = None,
        rows: Sequence[int] | None = None,
        last: int = 1,
    ) -> Tensor:
        """Compute the one prompt and return its logits [1, last, V]; no cached part is used."""
        del known, rows
        (prompt,) = prompts
        self._carried = {}
        logits = self._computed(prompt, forward)
        self._ids = list(prompt)
        return logits[:, -last:]

    def enter(self, known: Sequence[Known], rows: Sequence[int]) -> None:
        """Unavailable: nothing of a row is ever known.

        Raises:
            ValueError: Always.
        """
        raise ValueError(f"{len(rows)} rows of {len(known)} known beginnings cannot be carried on")

    def step(self, tokens: Sequence[Sequence[int]], forward: Forward) -> Tensor:
        """Append tokens to the row; return the logits after each of them [1, T, V]."""
        (new,) = tokens
        # A model that carries no state on reads everything again.
        logits = self._computed(new if self._carried else [*self._ids, *new], forward)
        self._ids += new
        return logits[:, -len(new) :]

    def read(self, row: int, tokens: int, *, before: int = 0) -> list[tuple[Tensor, Tensor]]:
        """Unavailable: a carried state cannot be cut back to a prefix.

        Raises:
            ValueError: Always.
        """
        raise ValueError(f"row {row} has no keys and values of {tokens} tokens before {before}")

    def cut(self, tokens: int) -> None:
        """Unavailable too, so there are no drafts.

        Raises:
            ValueError: `tokens` is not 0.
        """
        if tokens:
            raise ValueError(f"a state that runs on cannot go back by {tokens} tokens")

    def keep(self, rows: Sequence[int]) -> None:
        """Keep the row, or drop it if `rows` is empty."""
        if not rows:
            self._ids, self._carried = [], {}

    def _computed(self, ids: Sequence[int], forward: Forward) -> Tensor:
        out = forward(
            input_ids=torch.tensor([list(ids)], device=self._device),
            use_cache=True,
            **self._carried,
        )
        state = {name: getattr(out, name, None) for name in _CARRIED}
        self._carried = {name: value for name, value in state.items() if value is not None}
        return cast("Tensor", out.logits)


_CARRIED = ("past_key_values", "cache_params", "state")
"""Names, in transformers, of the state that models carry from one pass to the next."""


def can_batch(model: PreTrainedModel) -> bool:
    """Tell whether rows may be padded, share passes and continue by any number of tokens.

    They may if the layers keep keys and values alone, and if a short row beside a longer one,
    continued by two tokens at once, gives the logits that it gives by itself. The trial takes three
    passes over a few tokens.
    """
    return same_in_company(model, RunningBatch(input_device(model), is_placed=is_placed(model)))


def same_in_company(model: PreTrainedModel, batch: Batch) -> bool:
    """Tell whether a row of a batch that is empty yet gives the logits that it gives by itself."""
    ids = [token % int(model.config.get_text_config().vocab_size) for token in range(1, 8)]
    short = 3
    try:
        with torch.inference_mode():
            alone = model.forward(
                input_ids=torch.tensor([ids[: short + 2]], device=input_device(model)),
                use_cache=True,
            )
            if not has_plain_cache(model, alone):
                return False
            first = batch.join([ids, ids[:short]], model.forward)[1]
            more = batch.step([ids[:2], ids[short : short + 2]], model.forward)[1]
    except Exception:  # noqa: BLE001  # any failure means: decode row by row
        return False
    wanted = alone.logits[0, short - 1 :].float()  # [3, V], after tokens 3, 4 and 5
    off = (torch.cat([first, more]).float() - wanted).abs().mean()
    return bool(off < ROUNDING * wanted.std())


def has_plain_cache(model: PreTrainedModel, output: Any) -> bool:
    """Tell whether each layer of a model keeps keys and values, and carries no other state.

    Args:
        model: Its configuration says whether attention is cut into chunks, whose borders padding
            would move.
        output: Output of a pass with `use_cache`.
    """
    cache = getattr(output, "past_key_values", None)
    layers = cast("list[object]", cache.layers) if isinstance(cache, DynamicCache) else []
    kinds = getattr(model.config.get_text_config(), "layer_types", None) or ()
    plain = (DynamicLayer, DynamicSlidingWindowLayer)
    return (
        bool(layers)
        and all(type(layer) in plain for layer in layers)
        and "chunked_attention" not in kinds
    )


def left_padded(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return ids and mask [B, P], padded on the left; padding has id 0 and mask 0."""
    length = max(map(len, rows))
    ids = torch.zeros((len(rows), length), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for at, row in enumerate(rows):
        ids[at, length - len(row) :] = torch.tensor(row)
        mask[at, length - len(row) :] = 1
    return ids.to(device), mask.to(device)


def positions(mask: Tensor) -> Tensor:
    """Return each token's position in its own row [B, P]; padding has position 0."""
    return (mask.cumsum(dim=1) - 1).clamp(min=0)


def _is_each_once(rows: Sequence[int], count: int) -> bool:
    return list(rows) == [*range(count)]


def _layers(cache: DynamicCache) -> list[_Layer]:
    return cast("list[_Layer]", cache.layers)


def _widened(mask: Tensor, length: int) -> Tensor:
    return pad(mask, (length - mask.shape[1], 0))


def _stacked(first: Tensor | None, second: Tensor | None, length: int) -> Tensor:
    """Stack two caches [B, H, P, D] of different length along B, padded on the left to `length`."""
    parts = (_present(first), _present(second))
    return torch.cat([pad(part, (0, 0, length - part.shape[2], 0)) for part in parts])


def _side_by_side(parts: Sequence[Tensor | None], length: int, *, like: Tensor) -> Tensor:
    """Stack parts [H, p, D] to [N, H, length, D], padded on the left; `None` is all padding."""
    whole = like.new_zeros((len(parts), like.shape[0], length, like.shape[2]))
    for row, part in enumerate(parts):
        if part is not None and part.shape[1]:
            whole[row, :, length - part.shape[1] :] = part
    return whole


def _present(part: Tensor | None) -> Tensor:
    if part is None:
        raise ValueError("the model keeps no plain key-value cache, so its rows cannot be batched")
    return part
