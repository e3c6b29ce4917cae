"""Decoding as transformers has it: `generate`, prompt lookup, and continuous batching."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from benchmarks.peers.libraries import quiet_transformers
from rttc_graph.state import ChatTurn

LOOKUP_TOKENS = 10
"""Tokens that prompt lookup drafts at a time; the value of transformers' documentation."""


class TransformersDecoding:
    """A model in float32 on one thread, decoded greedily by transformers' own methods.

    Args:
        model: Folder of the model.
        max_tokens: Longest answer in tokens.
    """

    def __init__(self, model: Path, *, max_tokens: int) -> None:
        quiet_transformers()
        torch.set_num_threads(1)
        weights: Any = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
        self._model = weights.train(False)
        self._tokenizer: Any = AutoTokenizer.from_pretrained(model)
        self._max_tokens = max_tokens

    def generate(self, messages: Sequence[ChatTurn], *, lookup: bool = False) -> str:
        """Return one answer.

        Args:
            messages: The prompt.
            lookup: Whether to draft the answer's tokens from the prompt (prompt lookup).
        """
        ids = torch.tensor([self._ids(messages)])
        more = {"prompt_lookup_num_tokens": LOOKUP_TOKENS} if lookup else {}
        out = self._model.generate(
            ids, attention_mask=torch.ones_like(ids), generation_config=self._config(), **more
        )
        return self._text(out[0, ids.shape[1] :].tolist())

    def padded(self, prompts: Sequence[Sequence[ChatTurn]]) -> list[str]:
        """Return the answers to several prompts, in one batch that is padded on the left."""
        rows = [self._ids(messages) for messages in prompts]
        longest = max(len(row) for row in rows)
        gaps = [longest - len(row) for row in rows]
        pad = int(self._tokenizer.pad_token_id)
        out = self._model.generate(
            torch.tensor([[pad] * gap + row for gap, row in zip(gaps, rows, strict=True)]),
            attention_mask=torch.tensor([[0] * gap + [1] * (longest - gap) for gap in gaps]),
            generation_config=self._config(),
        )
        return [self._text(ids) for ids in out[:, longest:].tolist()]

    def continuous(self, prompts: Sequence[Sequence[ChatTurn]]) -> list[str]:
        """Return the answers to several prompts, by continuous batching over a paged cache."""
        ids = [self._ids(messages) for messages in prompts]
        out = self._model.generate_batch(ids, generation_config=self._config(), progress_bar=False)
        answers = {tuple(o.prompt_ids): self._text(o.generated_tokens) for o in out.values()}
        return [answers[tuple(one)] for one in ids]

    def _ids(self, messages: Sequence[ChatTurn]) -> list[int]:
        text = self._tokenizer.apply_chat_template(
            list(messages), add_generation_prompt=True, tokenize=False
        )
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def _text(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True))

    def _config(self) -> GenerationConfig:
        untyped: Any = GenerationConfig
        made: GenerationConfig = untyped(
            max_new_tokens=self._max_tokens,
            do_sample=False,
            eos_token_id=self._tokenizer.eos_token_id,
            pad_token_id=self._tokenizer.pad_token_id,
        )
        return made
