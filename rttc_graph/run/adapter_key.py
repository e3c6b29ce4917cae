"""What an adapter is called: a digest of everything it was made from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from rttc_graph.protocols import TrainingExample
from rttc_graph.settings import TttSettings


def adapter_key(
    base_fingerprint: str,
    examples: Sequence[TrainingExample],
    settings: TttSettings,
    *,
    reuse_scope: str = "",
) -> str:
    """Return the key of the adapter that this training makes, 64 hexadecimal characters.

    The order of the examples counts, since it changes the floating-point sums of the training.

    Args:
        base_fingerprint: Digest of the base model.
        examples: What the adapter learns, prompts included.
        settings: How it learns, seed included.
        reuse_scope: Among whom the adapter is shared. In the key, so that nobody outside can find
            out that it is there; the empty one leaves keys as they were before there were scopes.
    """
    made_from: dict[str, object] = {
        "base": base_fingerprint,
        "settings": settings.fingerprint(),
        "examples": [{"messages": e.messages, "answer": e.answer} for e in examples],
    }
    if reuse_scope:
        made_from["reuse_scope"] = reuse_scope
    text = json.dumps(made_from, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()
