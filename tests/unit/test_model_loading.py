"""How a model is loaded: threads, types, quiet."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from transformers.utils import logging as transformers_logging

from rttc_graph.errors import ConfigurationError
from rttc_graph.integrations.transformers.loading import load_model, one_load_at_a_time
from rttc_graph.integrations.transformers.precision import choose_dtype


@pytest.mark.parametrize(
    ("name", "device", "expected"),
    [
        pytest.param("auto", "cpu", torch.float32, id="full-precision-on-the-cpu"),
        pytest.param("auto", "cuda", torch.bfloat16, id="half-of-it-on-a-gpu"),
        pytest.param("float16", "cpu", torch.float16, id="as-asked"),
        pytest.param("nf4", "cuda", torch.bfloat16, id="four-bits-compute-in-half"),
    ],
)
def test_weights_have_the_type_that_suits_the_device(
    name: str, device: str, expected: torch.dtype
) -> None:
    assert choose_dtype(name, torch.device(device)) == expected


def test_an_unknown_type_is_named_with_those_that_are_known() -> None:
    with pytest.raises(ConfigurationError, match=r"dtype='float7' is unknown: use auto, .* or nf4"):
        choose_dtype("float7", torch.device("cpu"))


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
