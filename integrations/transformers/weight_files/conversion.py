"""A GGUF file to a folder that loads in a tenth of a second; run as a program of its own.

transformers reads GGUF in tens of seconds and refuses to save such a model, so its tensors are put
into a fresh model of the same configuration once, and that one is saved as safetensors.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import cast

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from rttc_graph.integrations.transformers.loading import one_load_at_a_time
from rttc_graph.integrations.transformers.weight_files.arrangement import STEP
from rttc_graph.integrations.transformers.weight_files.catalog import CATALOG, CatalogEntry


def convert(file: Path, target: Path, entry: CatalogEntry) -> None:
    """Write a GGUF model as safetensors, tokenizer, chat template and generation configuration."""
    with one_load_at_a_time(), torch.no_grad():
        _tell("tokenizer")
        tokenizer = cast(
            "PreTrainedTokenizerBase",
            AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name),
        )
        _tell("weights")
        read = AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, dtype=torch.float32
        )
        model = _fresh_copy(cast("PreTrainedModel", read))
        _tell("writing the folder")
        _save(model, tokenizer, target, entry)


def _tell(step: str) -> None:
    print(f"{STEP}{step}", file=sys.stderr, flush=True)  # noqa: T201 - for the parent process


def _fresh_copy(read: PreTrainedModel) -> PreTrainedModel:
    fields = read.config.to_dict()
    fields.pop("quantization_config", None)
    config = AutoConfig.for_model(**fields)
    make = cast("Callable[..., PreTrainedModel]", AutoModelForCausalLM.from_config)
    with torch.device("meta"):  # the tensors are taken over, so there is one set of them
        model = make(config, dtype=torch.float32)
    model.load_state_dict(read.state_dict(), assign=True)
    model.tie_weights()
    return model


def _save(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    target: Path,
    entry: CatalogEntry,
) -> None:
    if not tokenizer.chat_template:
        tokenizer.chat_template = entry.chat_template
    make = cast("Callable[..., GenerationConfig]", GenerationConfig)  # its `__init__` is untyped
    model.generation_config = make(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=_ends(tokenizer, entry),
        pad_token_id=tokenizer.pad_token_id,
        stop_strings=list(entry.stop) or None,
    )
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    for file in target.iterdir():
        file.chmod(0o644)  # the weights come out private to their owner


def _ends(tokenizer: PreTrainedTokenizerBase, entry: CatalogEntry) -> int | list[int] | None:
    end = cast("int | None", tokenizer.eos_token_id)
    more = [cast("int", tokenizer.convert_tokens_to_ids(token)) for token in entry.more_ends]
    return [*([] if end is None else [end]), *more] if more else end


if __name__ == "__main__":
    _name, _file, _target = sys.argv[1:]
    convert(Path(_file), Path(_target), next(e for e in CATALOG if e.name == _name))
