"""How a model is loaded: threads, types, quiet."""

from __future__ import annotations

import json
import logging
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.utils import logging as transformers_logging

from rttc_graph.errors import ConfigurationError, PolicyModelError
from rttc_graph.integrations.transformers.loading import load_model, one_load_at_a_time
from rttc_graph.integrations.transformers.precision import choose_dtype, spare_plans
from rttc_graph.integrations.transformers.tokens import encode_answer


@pytest.mark.parametrize(
    ("name", "device", "expected"),
    [
        pytest.param("auto", "cpu", torch.float32, id="full-precision-on-the-cpu"),
        pytest.param("auto", "cuda", torch.bfloat16, id="half-of-it-on-a-gpu"),
        pytest.param("float16", "cpu", torch.float16, id="as-asked"),
        pytest.param("nf4", "cuda", torch.bfloat16, id="four-bits-compute-in-half"),
        pytest.param("int8", "cpu", torch.float32, id="eight-bits-compute-in-full-precision"),
    ],
)
def test_weights_have_the_type_that_suits_the_device(
    name: str, device: str, expected: torch.dtype
) -> None:
    assert choose_dtype(name, torch.device(device)) == expected


@pytest.mark.parametrize("name", ["float7", "int32", "bool", "nn"])
def test_an_unknown_type_is_named_with_those_that_are_known(name: str) -> None:
    with pytest.raises(
        ConfigurationError, match=rf"dtype='{name}' is unknown: use auto, .*, int8 or nf4"
    ):
        choose_dtype(name, torch.device("cpu"))


def test_eight_bits_are_for_a_cpu_and_for_cuda() -> None:
    assert choose_dtype("int8", torch.device("cuda")) == torch.bfloat16
    with pytest.raises(ConfigurationError, match=r"the device is 'mps': leave dtype at auto"):
        choose_dtype("int8", torch.device("mps"))


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


@pytest.mark.parametrize("pad_id", [-1, 100_000, None])
def test_a_padding_token_outside_of_the_vocabulary_is_none(
    pad_id: int | None, tiny_model_path: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_model_path, tmp_path / "copy")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "pad_token_id": pad_id}))
    loaded = load_model(folder, device="cpu", dtype="float32")
    assert loaded.model.config.pad_token_id is None


def test_a_model_without_an_end_token_is_trained_without_one(
    tiny_model_path: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_model_path, tmp_path / "copy")
    for name in ("config.json", "generation_config.json", "tokenizer_config.json"):
        content = json.loads((folder / name).read_text(encoding="utf-8"))
        (folder / name).write_text(
            json.dumps({k: v for k, v in content.items() if not k.startswith("eos_token")})
        )
    loaded = load_model(folder, device="cpu", dtype="float32")
    loaded.model.config.eos_token_id = None  # transformers' own default for a Llama
    loaded = replace(loaded, eos_ids=frozenset())
    assert loaded.end_id is None
    assert encode_answer(loaded, "hi", end=True) == encode_answer(loaded, "hi", end=False)


def test_code_that_came_with_a_model_does_not_run(tiny_model_path: Path, tmp_path: Path) -> None:
    folder, ran = shutil.copytree(tiny_model_path, tmp_path / "copy"), tmp_path / "ran"
    (folder / "own.py").write_text(f"open({str(ran)!r}, 'w')\n", encoding="utf-8")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    own = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}
    config |= {"model_type": "own", "auto_map": own}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(PolicyModelError, match="trust_remote_code"):
        load_model(folder, device="cpu", dtype="float32")
    assert not ran.exists()


class _Pickled:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_pickled_weights_run_no_code(tiny_model_path: Path, tmp_path: Path) -> None:
    folder, ran = shutil.copytree(tiny_model_path, tmp_path / "copy"), tmp_path / "ran"
    (folder / "model.safetensors").unlink()
    torch.save({"lm_head.weight": _Pickled(ran)}, folder / "pytorch_model.bin")
    with pytest.raises(PolicyModelError, match="could not load"):
        load_model(folder, device="cpu", dtype="float32")
    assert not ran.exists()


@pytest.mark.parametrize(("device", "calls"), [("cuda:1", [False]), ("cpu", [])])
def test_attention_on_a_gpu_needs_no_plan_for_each_shape(
    device: str, calls: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []
    monkeypatch.setattr(torch.backends.cuda, "enable_cudnn_sdp", seen.append)
    spare_plans(torch.device(device))
    assert seen == calls
