"""Fixtures with a model of a few thousand random weights, for every test that needs a real one.

Its tokens are bytes and pairs of letters, its weights are spread wide, so that greedy choices are
clear and rounding in another batch cannot tip them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from rttc_graph.errors import PolicyModelError
from rttc_graph.integrations.transformers.loading import one_load_at_a_time
from rttc_graph.integrations.transformers.local_engine import LocalEngine
from rttc_graph.integrations.transformers.weight_files.resolve import entry_for, model_folder, pull

SPECIALS = ("<pad>", "<|start|>", "<|end|>")
PAIRS = ("th", "he", "in", "er", "an", "re", "on", "at", "en", "nd", "\u0120t", "\u0120a")
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|start|>' + message['role'] + '\\n' + message['content'] + '<|end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start|>assistant\\n' }}{% endif %}"
)
CONTEXT_TOKENS = 512


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE with a few merges, so that every text has tokens and some borders move."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: at for at, token in enumerate((*SPECIALS, *alphabet, *PAIRS))}
    raw = Tokenizer(models.BPE(vocab=vocabulary, merges=[(pair[0], pair[1]) for pair in PAIRS]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.add_special_tokens([AddedToken(token, special=True) for token in SPECIALS])
    make = cast("Callable[..., PreTrainedTokenizerFast]", PreTrainedTokenizerFast)  # untyped
    return make(
        tokenizer_object=raw,
        pad_token="<pad>",
        bos_token="<|start|>",
        eos_token="<|end|>",
        chat_template=CHAT_TEMPLATE,
    )


def make_tiny_model(folder: Path, *, seed: int = 0, layers: int = 2, tied: bool = False) -> Path:
    """Write a Llama of some ten thousand weights, with tokenizer and chat template."""
    tokenizer = tiny_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT_TOKENS,
        initializer_range=0.4,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        tie_word_embeddings=tied,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    ends = cast("Callable[..., GenerationConfig]", GenerationConfig)(eos_token_id=2, pad_token_id=0)
    model.generation_config = ends
    with one_load_at_a_time():
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_sliding_model(folder: Path) -> Path:
    """Write a Gemma with a layer whose attention slides over eight tokens."""
    config = Gemma3TextConfig(
        vocab_size=300,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        sliding_window=8,
        layer_types=["sliding_attention", "full_attention"],
        initializer_range=0.4,
        max_position_embeddings=256,
        eos_token_id=2,
        pad_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        Gemma3ForCausalLM(config).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny chat model; shared, so nobody may write into it."""
    return make_tiny_model(tmp_path_factory.mktemp("models") / "tiny-llama")


def real_model_folder(name: str, request: pytest.FixtureRequest) -> Path:
    """Folder of real weights: an installation's own, or pulled once into pytest's cache; skips
    where they cannot be had."""
    entry = entry_for(name)
    assert entry is not None
    installed = model_folder(entry, Path(os.environ.get("RTTC_HOME", "~/.rttc")).expanduser())
    if installed.is_dir():
        return installed
    assert request.config.cache is not None
    try:
        return pull(name, cache_dir=request.config.cache.mkdir("rttc-models"))
    except PolicyModelError as exc:
        pytest.skip(f"no weights of {name}: {exc}")


@pytest.fixture(scope="session")
def smollm2_path(request: pytest.FixtureRequest) -> Path:
    """Folder of the real SmolLM2-135M-Instruct. Mark its tests with `model`."""
    return real_model_folder("smollm2-135m-instruct", request)


@pytest.fixture
def tiny_engine(tiny_model_path: Path) -> Iterator[LocalEngine]:
    """An engine of the tiny model, float32 on the CPU, one thread."""
    engine = LocalEngine(tiny_model_path, device="cpu", threads=1)
    yield engine
    engine.close()


@pytest.fixture
def keeping_engine(tiny_model_path: Path) -> Iterator[LocalEngine]:
    """The same, which keeps 100,000 bytes of prompts; a token of the tiny model has 256."""
    engine = LocalEngine(tiny_model_path, device="cpu", threads=1, prefix_cache_bytes=100_000)
    yield engine
    engine.close()
