"""The network: a frozen backbone with LoRA terms, and a small head over what it makes of a pair.

With an encoder the head sees the mean of the question's tokens, the mean of the answer's tokens,
and how the two differ, since that is what its weights were trained to compare: read together, or
each by itself (`towers`), where a text that stands in many pairs is read once. A causal backbone is
asked at the last token of the pair, the only one that has seen all of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import PreTrainedModel

from rttc_graph.errors import RewardModelError
from rttc_graph.integrations.rewards.pair_encoding import EncodedPair
from rttc_graph.integrations.rewards.trained.reward_spec import Backbone
from rttc_graph.integrations.transformers.loading import one_load_at_a_time
from rttc_graph.integrations.transformers.recomputing import recomputed

_LENGTH_STEP = 16
"""Texts whose lengths are within the same multiple of it are read together by the towers."""

MOST_ACTIVATION_BYTES = 2 * 2**30
"""Kept for a backward pass; what is beyond is computed again in it, part by part."""


def activation_bytes(base: PreTrainedModel) -> int:
    """Return about how many bytes a token leaves for the backward pass, 2 MB of a 135 M model.

    Each layer keeps what its products, norms and activation were given, and the LoRA terms keep it
    once more: some 14 vectors of the hidden width and 6 of the inner one, in 4 bytes.
    """
    config: Any = base.config.get_text_config()
    hidden = int(config.hidden_size)
    inner = int(getattr(config, "intermediate_size", None) or 4 * hidden)
    return 4 * int(config.num_hidden_layers) * (14 * hidden + 6 * inner)


@dataclass(frozen=True, slots=True)
class _Batch:
    """Rows as tensors [B, T], padded on the right."""

    ids: Tensor
    types: Tensor
    mask: Tensor


class RewardNetwork(nn.Module):
    """Pairs to one logit each.

    Args:
        base: The backbone without a head; it is changed in place, so give a copy that shares the
            weights where the original must stay as it is.
        backbone: How it is read.
        rank: Rank of the LoRA terms; 0 for none.
        alpha: The terms are scaled by `alpha / rank`.
        hidden: Width of the head.
        pad_id: Token that fills up short rows; it is masked.
    """

    def __init__(
        self,
        base: PreTrainedModel,
        backbone: Backbone,
        *,
        rank: int,
        alpha: float,
        hidden: int,
        pad_id: int,
    ) -> None:
        super().__init__()
        self.backbone: Backbone = backbone
        self._pad_id = pad_id
        cast(nn.Module, base).requires_grad_(False)
        if rank:
            config = LoraConfig(
                r=rank, lora_alpha=cast(int, alpha), lora_dropout=0.0, target_modules="all-linear"
            )
            with one_load_at_a_time():
                base = cast(PreTrainedModel, inject_adapter_in_model(config, base))
        self.base = base
        self._most_tokens = max(1, MOST_ACTIVATION_BYTES // activation_bytes(base))
        width = cast(int, base.config.get_text_config().hidden_size)
        inputs = width if backbone == "causal" else 4 * width + 1
        self.head = nn.Sequential(nn.Linear(inputs, hidden), nn.GELU(), nn.Linear(hidden, 1))
        self.head.to(base.device)

    def forward(self, rows: Sequence[EncodedPair]) -> Tensor:
        """Return the logits [B]."""
        return cast(Tensor, self.head(self.pooled(rows)))[:, 0]

    def pooled(self, rows: Sequence[EncodedPair]) -> Tensor:
        """Return what the head sees: [B, H] of a causal backbone, [B, 4H + 1] of an encoder."""
        if self.backbone == "towers":
            return self._towers(rows)
        batch = self._batch(rows)
        states = self._states(batch, batch.ids.numel())  # [B, T, H]
        return _last(states, batch) if self.backbone == "causal" else _segments(states, batch)

    def _towers(self, rows: Sequence[EncodedPair]) -> Tensor:
        """Read every different text once and return what the head sees, [B, 4H + 1]."""
        texts: dict[tuple[int, ...], int] = {}
        places: list[tuple[int, int]] = []
        for row in rows:
            cut = row.types.index(1)
            asked, said = tuple(row.ids[:cut]), tuple(row.ids[cut:])
            places.append((texts.setdefault(asked, len(texts)), texts.setdefault(said, len(texts))))
        vectors = self._vectors(list(texts))  # [N, H]
        index = torch.tensor(places, device=vectors.device)  # [B, 2]
        return _compared(vectors[index[:, 0]], vectors[index[:, 1]])

    def _vectors(self, texts: Sequence[tuple[int, ...]]) -> Tensor:
        """Return the mean state of each text, [N, H]; texts of like length go together."""
        buckets: dict[int, list[int]] = {}
        for number, text in enumerate(texts):
            buckets.setdefault(-(-len(text) // _LENGTH_STEP), []).append(number)
        tokens = sum(map(len, texts))
        parts: list[Tensor] = []
        order: list[int] = []
        for members in buckets.values():
            rows = [EncodedPair(list(texts[n]), [0] * len(texts[n])) for n in members]
            batch = self._batch(rows)
            parts.append(_mean(self._states(batch, tokens), batch.mask))
            order += members
        place = torch.tensor(order).argsort().to(parts[0].device)
        return torch.cat(parts)[place]

    def _states(self, batch: _Batch, tokens: int) -> Tensor:
        """Return the states [B, T, H] of a batch, which is part of `tokens` read for one step."""
        tensors = (batch.ids, batch.types, batch.mask)
        if not torch.is_grad_enabled() or tokens <= self._most_tokens:
            return self._read(*tensors)
        rows = max(1, self._most_tokens // batch.ids.shape[1])
        starts = range(0, len(batch.ids), rows)
        parts = [[tensor[first : first + rows] for tensor in tensors] for first in starts]
        return torch.cat([recomputed(self._read, *part, use_reentrant=False) for part in parts])

    def _read(self, ids: Tensor, types: Tensor, mask: Tensor) -> Tensor:
        inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": mask}
        if self.backbone == "causal":
            inputs["use_cache"] = False
        else:
            inputs["token_type_ids"] = types
        return cast(Tensor, cast(Any, self.base)(**inputs).last_hidden_state.float())

    def _batch(self, rows: Sequence[EncodedPair]) -> _Batch:
        width = max(len(row.ids) for row in rows)
        device = cast(Tensor, self.head[0].weight).device

        def padded(values: Sequence[list[int]], fill: int) -> Tensor:
            full = [row + [fill] * (width - len(row)) for row in values]
            return torch.tensor(full, device=device)

        return _Batch(
            ids=padded([row.ids for row in rows], self._pad_id),
            types=padded([row.types for row in rows], 0),
            mask=padded([[1] * len(row.ids) for row in rows], 0),
        )

    def trained(self) -> dict[str, Tensor]:
        """Return what training changes, by name: LoRA terms and head."""
        names = (name for name, _ in self._own())
        state = self.state_dict()
        return {name: state[name] for name in names}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Put trained tensors in place.

        Raises:
            RewardModelError: They are not those of this network.
        """
        own = dict(self._own())
        if own.keys() != tensors.keys():
            odd = sorted(own.keys() ^ tensors.keys())
            raise RewardModelError(f"the weights do not fit the backbone: {odd[0]!r} and others")
        with torch.no_grad():
            for name, parameter in own.items():
                if parameter.shape != tensors[name].shape:
                    raise RewardModelError(
                        f"the weights do not fit the backbone: {name!r} is "
                        f"{tuple(tensors[name].shape)}, not {tuple(parameter.shape)}"
                    )
                parameter.copy_(tensors[name])

    def merge(self) -> None:
        """Add the LoRA terms to the weights, so that they cost nothing.

        The weights must be the network's own.
        """
        for module in self.base.modules():
            if isinstance(module, LoraLayer):
                cast(Any, module).merge()

    def _own(self) -> Iterator[tuple[str, nn.Parameter]]:
        for name, parameter in self.named_parameters():
            if "lora_" in name or name.startswith("head."):
                yield name, parameter


def _segments(states: Tensor, batch: _Batch) -> Tensor:
    asked = _mean(states, batch.mask * (1 - batch.types))
    return _compared(asked, _mean(states, batch.mask * batch.types))


def _mean(states: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of the states [B, T, H] where the mask is 1, as unit vectors [B, H]."""
    weights = mask[:, :, None].to(states.dtype)
    total = (states * weights).sum(1) / weights.sum(1).clamp(min=1)
    return nn.functional.normalize(total, dim=-1)


def _compared(asked: Tensor, said: Tensor) -> Tensor:
    """Return both vectors, their distance and product by coordinate, and their cosine.

    Scaled to a size near 1 for each coordinate, which a head of ordinary weights learns from.
    """
    size = asked.shape[-1] ** 0.5
    product = asked * said
    cosine = product.sum(-1, keepdim=True)
    parts = [asked * size, said * size, (asked - said).abs() * size, product * size * size]
    return torch.cat([*parts, cosine * 10], dim=-1)


def _last(states: Tensor, batch: _Batch) -> Tensor:
    rows = torch.arange(len(states), device=states.device)
    return states[rows, batch.mask.sum(1) - 1]
