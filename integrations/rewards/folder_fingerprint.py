"""The fingerprint of a reward model whose weights lie in a folder, read in a thread of its own."""

from __future__ import annotations

from pathlib import Path
from pickle import UnpicklingError

from safetensors import SafetensorError

from rttc_graph.errors import PolicyModelError, RewardModelError
from rttc_graph.integrations.concurrency.batch_queue import BatchQueue
from rttc_graph.integrations.langchain.vendor_errors import describe
from rttc_graph.integrations.rewards.reward_checks import reward_fingerprint
from rttc_graph.integrations.transformers.loading import weights_fingerprint
from rttc_graph.integrations.transformers.weight_files.resolve import resolve

LOADING_ERRORS = (
    *(OSError, ValueError, KeyError, ImportError, RuntimeError),
    *(SafetensorError, UnpicklingError),
)
"""Errors of torch, transformers and safetensors while a model is loaded; they share no base."""


class FolderFingerprint:
    """Digest of weights, configuration, chat template and settings; files are large, so once.

    Args:
        source: Local folder, or hub id of the model.
        settings: Plain values that decide its scores beside the weights.
    """

    def __init__(self, source: str | Path, *settings: object) -> None:
        self._source = str(source)
        self._settings = settings
        self._found: str | None = None
        self._queue: BatchQueue[None, str] = BatchQueue(
            self._of_each, name="rttc-reward-digest", batch_size=1
        )

    async def get(self) -> str:
        """Return the digest, 32 hexadecimal characters.

        Raises:
            RewardModelError: The weights cannot be found or read.
        """
        return (await self._queue.submit([None]))[0]

    def _of_each(self, calls: list[None]) -> list[str]:
        if self._found is None:
            try:
                folder = resolve(self._source, cache_dir=None, kind="reward")
                template = folder / "chat_template.jinja"
                text = template.read_text(encoding="utf-8") if template.is_file() else ""
                weights = weights_fingerprint(folder, template=text)
            except (PolicyModelError, *LOADING_ERRORS) as exc:
                raise RewardModelError(
                    f"no fingerprint of reward model {self._source!r}: {describe(exc)}"
                ) from exc
            self._found = reward_fingerprint(weights, *self._settings)
        return [self._found] * len(calls)
