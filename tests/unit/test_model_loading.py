"""How a model is loaded: threads, types, quiet."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from transformers.utils import logging as transformers_logging

from rttc_graph.integrations.transformers.loading import (
    choose_dtype,
    load_model,
    one_load_at_a_time,
)


@pytest.mark.parametrize(
    ("name", "device", "expected"),
    [
        pytest.param("auto", "cpu", torch.float32, id="full-precision-on-the-cpu"),
        pytest.param("auto", "cuda", torch.bfloat16, id="half-of-it-on-a-gpu"),
        pytest.param("float16", "cpu", torch.float16, id="as-asked"),
    ],
)
def test_weights_have_the_type_that_suits_the_device(
    name: str, device: str, expected: torch.dtype
) -> None:
    assert choose_dtype(name, torch.device(device)) == expected


def test_transformers_is_quiet_only_for_a_while() -> None:
    before = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    with one_load_at_a_time():
        assert transformers_logging.get_verbosity() == logging.ERROR
        assert not transformers_logging.is_progress_bar_enabled()
    after = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    assert after == before


def test_models_load_one_after_the_other(tiny_model_path: Path) -> None:
    """Overlapping loads leave transformers without tied weights for the rest of the process."""
    with ThreadPoolExecutor(1) as pool:
        with one_load_at_a_time():
            second = pool.submit(load_model, tiny_model_path, device="cpu", dtype="auto")
            with pytest.raises(TimeoutError):
                second.result(timeout=1)
        assert second.result().model.config.vocab_size
