"""On which device a model computes, and in which type it keeps its weights."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import nn
from transformers import BitsAndBytesConfig

from rttc_graph.errors import ConfigurationError
from rttc_graph.settings import TrainingDtype
from rttc_graph.support.extras import require

__all__ = (
    "INT8",
    "NF4",
    "choose_device",
    "choose_dtype",
    "choose_training_dtype",
    "eight_bits",
    "is_quantised",
    "keep_gradients",
    "spare_plans",
    "weight_options",
)

NF4 = "nf4"
"""4-bit NormalFloat weights (QLoRA, arXiv 2305.14314), computed with in the device's own type."""

INT8 = "int8"
"""8-bit weights: on a CPU `int8_weights`, computed with in float32; on a GPU those of bitsandbytes
(LLM.int8(), arXiv 2208.07339)."""

_BFLOAT16_UNITS = ("avx512_bf16", "amx_bf16")
"""CPU features, as torch names them. With the first, products of 16 to 200 rows run 1.7 to 3 times
as fast as in float32; the second was not measured."""


def choose_device(name: str) -> torch.device:
    """Return the device; `auto` takes the first accelerator there is.

    Raises:
        ConfigurationError: torch knows no such device.
    """
    if name != "auto":
        try:
            return torch.device(name)
        except RuntimeError as exc:
            raise ConfigurationError(f"device={name!r} is unknown: use auto, cpu or cuda") from exc
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """Return the type in which a model computes.

    bfloat16 halves the memory. On a CPU float32 stays the default even where bfloat16 is fast: an
    answer's tokens must not depend on which others are computed beside it.

    Raises:
        ConfigurationError: torch knows no such type, or cannot compute in it on the device.
    """
    if name == INT8 and device.type not in ("cpu", "cuda"):
        raise ConfigurationError(
            f"dtype={name!r} is for a CPU or a GPU with CUDA, and the device is {device.type!r}: "
            "leave dtype at auto, or set device to cpu"
        )
    if name in ("auto", INT8, NF4):
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ConfigurationError(
            f"dtype={name!r} is unknown: use auto, float32, bfloat16, float16, {INT8} or {NF4}"
        )
    return dtype


def choose_training_dtype(
    name: TrainingDtype, model: torch.dtype, device: torch.device
) -> torch.dtype:
    """Return the type in which a training multiplies by the frozen weights.

    Args:
        name: `auto` takes bfloat16 for float32 weights on a CPU with units for it.
        model: Type in which the model computes.
        device: Device of the model.
    """
    if name != "auto":
        return choose_dtype(name, device)
    is_faster = device.type == "cpu" and model == torch.float32 and _has_bfloat16_units()
    return torch.bfloat16 if is_faster else model


def _has_bfloat16_units() -> bool:
    read = getattr(torch.cpu, "get_capabilities", None)  # older torch lacks it
    found: dict[str, Any] = read() if read is not None else {}
    return any(found.get(unit) for unit in _BFLOAT16_UNITS)


def weight_options(name: str, device: torch.device) -> dict[str, Any]:
    """Return what transformers' `from_pretrained` has to be told about a model's weights.

    Raises:
        ConfigurationError: torch knows no such type, or bitsandbytes is not installed.
    """
    dtype = choose_dtype(name, device)
    if name == NF4:
        config = _four_bits(dtype)
    elif name == INT8 and device.type != "cpu":
        config = eight_bits()
    else:
        return {"dtype": dtype}
    return {"dtype": dtype, "quantization_config": config, "device_map": {"": device}}


def _four_bits(dtype: torch.dtype) -> BitsAndBytesConfig:
    require("bitsandbytes", extra="quantized", purpose="4-bit weights")
    return BitsAndBytesConfig(  # type: ignore[no-untyped-call]  # transformers
        load_in_4bit=True,
        bnb_4bit_quant_type=NF4,
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def eight_bits() -> BitsAndBytesConfig:
    """Return how bitsandbytes keeps weights in eight bits, with its own choice of outliers.

    Raises:
        ConfigurationError: bitsandbytes is not installed.
    """
    require("bitsandbytes", extra="quantized", purpose="8-bit weights on a GPU")
    return BitsAndBytesConfig(load_in_8bit=True)  # type: ignore[no-untyped-call]  # transformers


def is_quantised(model: nn.Module) -> bool:
    """Tell whether bitsandbytes made a model's weights, on the device where they are to be."""
    return getattr(model, "quantization_method", None) is not None


def keep_gradients(model: nn.Module) -> None:
    """Let gradients pass through weights of four bits also after the model has answered.

    On a CPU with bfloat16 units bitsandbytes (0.50) packs a layer's weights at its first answer,
    for a product of its own that has no gradient; and it fails on layers narrower than 64.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]  # a plain flag


def spare_plans(device: torch.device) -> None:
    """Let attention on a GPU run by kernels that take any shape, for the whole process.

    cuDNN's attention makes a plan for each shape that it has not seen, some 30 to 70 ms on an H100,
    and a growing cache has a new shape at every token. torch's own kernels need none.
    """
    if device.type == "cuda":
        cast("Any", torch.backends.cuda).enable_cudnn_sdp(False)  # torch has no types for it
