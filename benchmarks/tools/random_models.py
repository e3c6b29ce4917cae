"""Models of real shapes with random weights, for speed and memory where no weights are at hand.

A token is a byte, so that a text has just the tokens that are asked for. The end token's row of the
head is zero, so that greedy answers do not end.
"""

from __future__ import annotations

import random
import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from rttc_graph.protocols import TrainingExample

__all__ = ("SHAPES", "make_model", "query_examples", "question")

SHAPES: Mapping[str, Mapping[str, Any]] = {
    "8b": {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
    },
    "1b": {
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "vocab_size": 128256,
        "tie_word_embeddings": True,
    },
    "tiny": {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 300,
    },
}
"""Sizes of Llama-3.1-8B, of Llama-3.2-1B, and of a model for tests."""

_SPECIALS = ("<pad>", "<|start|>", "<|end|>")
_END = 2
_TEMPLATE = (
    "{% for message in messages %}{{ '<|start|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>' }}{% endif %}"
)
_AROUND = 3
"""Tokens that the template puts around one question."""


def make_model(folder: Path, shape: str, *, device: str) -> Path:
    """Write a model of a shape with its tokenizer, in bfloat16, and return its folder."""
    torch.manual_seed(0)
    sizes = dict(SHAPES[shape])
    config = LlamaConfig(
        **sizes, max_position_embeddings=8192, bos_token_id=1, eos_token_id=_END, pad_token_id=0
    )
    with torch.device(device):
        model = cast("Any", LlamaForCausalLM(config)).to(torch.bfloat16)
    with torch.no_grad():
        model.get_output_embeddings().weight[_END] = 0
    model.generation_config = cast("Any", GenerationConfig)(eos_token_id=_END, pad_token_id=0)
    model.save_pretrained(folder)
    _tokenizer().save_pretrained(folder)
    return folder


def _tokenizer() -> PreTrainedTokenizerFast:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = Tokenizer(
        models.BPE(vocab={token: at for at, token in enumerate((*_SPECIALS, *alphabet))}, merges=[])
    )
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.add_special_tokens([AddedToken(token, special=True) for token in _SPECIALS])
    made: PreTrainedTokenizerFast = cast("Any", PreTrainedTokenizerFast)(
        tokenizer_object=raw,
        pad_token=_SPECIALS[0],
        bos_token=_SPECIALS[1],
        eos_token=_SPECIALS[2],
        chat_template=_TEMPLATE,
    )
    return made


def question(tokens: int, dice: random.Random) -> str:
    """Return a question whose whole prompt has so many tokens."""
    return "".join(dice.choices(string.ascii_lowercase, k=max(1, tokens - _AROUND)))


def query_examples(tokens: int, seed: int, *, count: int = 8) -> Sequence[TrainingExample]:
    """Return a query's samples of so many tokens each, a fifth of them the answer's."""
    dice = random.Random(seed)
    answer = max(2, tokens // 5)
    return [
        TrainingExample(
            messages=({"role": "user", "content": question(tokens - answer, dice)},),
            answer="".join(dice.choices(string.ascii_lowercase, k=answer - 1)),
        )
        for _ in range(count)
    ]
