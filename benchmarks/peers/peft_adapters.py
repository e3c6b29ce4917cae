"""The same random adapters on the same base model, for ours and for peft."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from rttc_graph.integrations.lora.adapter_layout import Adapter
from rttc_graph.integrations.lora.adapter_serialization import (
    PEFT_CONFIG,
    to_bytes,
    write_peft_folder,
)
from rttc_graph.integrations.lora.resident_adapters import ResidentAdapters
from rttc_graph.integrations.lora.training_loop import fresh_adapter
from rttc_graph.integrations.transformers.loading import LoadedModel, load_model
from rttc_graph.protocols import TrainedAdapter
from rttc_graph.settings import TttSettings

RANK = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapted:
    """A model with adapters named `a0`, `a1`, … whose terms are not zero."""

    loaded: LoadedModel
    resident: ResidentAdapters
    adapters: dict[str, Adapter]


def with_adapters(model: Path, count: int) -> Adapted:
    """Load a model and make adapters for it."""
    loaded = load_model(model, device="cpu", dtype="auto")
    resident = ResidentAdapters(loaded.model, max_bytes=64 * 2**30)
    adapters = {f"a{n}": _random(resident, seed=n) for n in range(count)}
    for key, adapter in adapters.items():
        resident.put(key, adapter)
    return Adapted(loaded=loaded, resident=resident, adapters=adapters)


def _random(resident: ResidentAdapters, *, seed: int) -> Adapter:
    settings = TttSettings(rank=RANK, alpha=2.0 * RANK, seed=seed)
    fresh = fresh_adapter(resident.adapted.layout, settings, device=resident.adapted.device)
    generator = torch.Generator().manual_seed(seed)
    pairs = tuple(
        (a.detach(), 0.02 * torch.randn(b.shape, generator=generator)) for a, b in fresh.pairs
    )
    return Adapter(rank=fresh.rank, alpha=fresh.alpha, pairs=pairs)


def in_peft(model: Path, adapted: Adapted, folder: Path) -> Any:
    """Return a peft model with the same adapters under the same names, loaded from files."""
    layout = adapted.resident.adapted.layout
    found: Any = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).train(False)
    for number, (key, adapter) in enumerate(adapted.adapters.items()):
        stored = TrainedAdapter(
            key=key,
            weights=to_bytes(adapter, layout),
            base_fingerprint="",
            trained_tokens=0,
            steps=0,
            losses=(),
            seconds=0.0,
            provenance={PEFT_CONFIG: layout.peft_config(rank=RANK, alpha=adapter.alpha)},
        )
        write_peft_folder(stored, folder / key)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # between peft and transformers
            if number == 0:
                found = PeftModel.from_pretrained(found, folder / key, adapter_name=key)
            else:
                cast("Any", found).load_adapter(folder / key, adapter_name=key)
    return found.train(False)
