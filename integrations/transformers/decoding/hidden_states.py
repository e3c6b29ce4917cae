"""Hidden states read in the passes that decode: they are computed anyway."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

DEPTH = 2 / 3
"""Depth, as a share of the layers, of the first layer that is read; the second is the last one.
What a model knows of an answer's truth is found in the upper middle (arXiv 2511.06209)."""


class StateReader:
    """A forward pass that keeps the hidden states of its last tokens.

    Args:
        forward: `model.forward`, or a stand-in with adapters, with keyword arguments.
    """

    def __init__(self, forward: Callable[..., Any]) -> None:
        self._forward = forward
        self._states: Tensor | None = None

    def __call__(self, **kwargs: Any) -> Any:
        """Return the output of the pass."""
        out = self._forward(output_hidden_states=True, **kwargs)
        layers: tuple[Tensor, ...] | None = getattr(out, "hidden_states", None)
        self._states = None
        if layers:  # the embeddings [B, S, D], and behind them each layer's output
            middle = layers[round(DEPTH * (len(layers) - 1))]
            self._states = torch.cat([middle, layers[-1]], dim=-1)  # [B, S, 2 D]
        return out

    def last(self, tokens: int) -> Tensor | None:
        """Return the states behind the last tokens of the last pass [B, tokens, 2 D].

        `None` where the model tells none.
        """
        return None if self._states is None else self._states[:, -tokens:]
