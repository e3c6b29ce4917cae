"""Answers that follow a JSON schema: which tokens may come next, found by llguidance.

A grammar made of the schema is kept beside the row. Before each token it tells which ones keep the
answer on a way to its end; all others are masked out of the logits.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from rttc_graph.errors import PolicyModelError
from rttc_graph.integrations.transformers.loading import LoadedModel
from rttc_graph.support.extras import require

LIBRARY = "llguidance"

_TOKENIZERS: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()
"""Tokenizers as the library has them: it reads the whole vocabulary, so each is read once."""


def can_follow_schemas() -> bool:
    """Tell whether the library is installed."""
    return find_spec(LIBRARY) is not None


class SchemaMask:
    """State of an answer that follows a JSON schema.

    Args:
        schema: JSON schema as text.
        loaded: Model that writes the answer.

    Raises:
        PolicyModelError: The schema cannot be followed, or the library is not installed.
    """

    def __init__(self, schema: str, loaded: LoadedModel) -> None:
        library: Any = require(LIBRARY, extra="local", purpose="answers that follow a schema")
        grammar = library.LLMatcher.grammar_from_json_schema(
            schema, defaults={"whitespace_flexible": False}
        )  # a weak model would spend its tokens on blanks
        self._matcher: Any = library.LLMatcher(_read_tokenizer(loaded), grammar)
        self._check("cannot be followed")

    def allowed(self, vocabulary: int) -> Tensor:
        """Return which tokens may come next, as booleans [V].

        Args:
            vocabulary: V, the number of logits.

        Raises:
            PolicyModelError: The library failed.
        """
        packed = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        self._check("cannot be gone on with")
        bits = np.unpackbits(packed, bitorder="little")[:vocabulary]
        allowed = torch.zeros(vocabulary, dtype=torch.bool)
        allowed[: len(bits)] = torch.from_numpy(bits).bool()
        return allowed

    def take(self, token: int) -> None:
        """Note that a token was chosen.

        Raises:
            PolicyModelError: It was not allowed.
        """
        if not self._matcher.is_stopped():
            self._matcher.consume_token(token)
            self._check("was left by the answer")

    def _check(self, what: str) -> None:
        if problem := self._matcher.get_error():
            raise PolicyModelError(f"the answer's schema {what}: {problem}")


def masked(logits: Tensor, masks: list[SchemaMask | None]) -> Tensor:
    """Return logits [B, V] in which no row has a token that its schema forbids."""
    if not any(masks):
        return logits
    logits = logits.clone()
    for at, mask in enumerate(masks):
        if mask is not None:
            forbidden = ~mask.allowed(logits.shape[-1]).to(logits.device)
            logits[at] = logits[at].masked_fill(forbidden, -torch.inf)
    return logits


def _read_tokenizer(loaded: LoadedModel) -> Any:
    found = _TOKENIZERS.get(loaded.tokenizer)
    if found is None:
        reader: Any = require(f"{LIBRARY}.hf", extra="local", purpose="answers with a schema")
        found = reader.from_tokenizer(loaded.tokenizer, eos_token=sorted(loaded.eos_ids))
        _TOKENIZERS[loaded.tokenizer] = found
    return found
