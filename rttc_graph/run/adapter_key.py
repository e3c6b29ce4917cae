"""What an adapter is called: a digest of everything it was made from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from rttc_graph.protocols import TrainingExample
from rttc_graph.settings import TttSettings


def adapter_key(
    base_fingerprint: str, examples: Sequence[TrainingExample], settings: TttSettings
) -> str:
    """Return the key of the adapter that this training makes, 64 hexadecimal characters.

    The order of the examples counts, since it changes the floating-point sums of the training.

    Args:
        base_fingerprint: Digest of the base model.
        examples: What the adapter learns, prompts included.
        settings: How it learns, seed included.
    """
    made_from = {
        "base": base_fingerprint,
        "settings": settings.fingerprint(),
        "examples": [{"messages": e.messages, "answer": e.answer} for e in examples],
    }
    text = json.dumps(made_from, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()
