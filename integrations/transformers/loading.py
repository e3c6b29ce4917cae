"""A model as the lane holds it: weights, tokenizer, end tokens, and a digest of what it is.

Everything here runs in the lane's thread and nowhere else.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from shutil import rmtree
from typing import Any, Protocol, cast, runtime_checkable
from weakref import finalize

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as untyped_logging

from rttc_graph.errors import PolicyModelError
from rttc_graph.integrations.transformers.decoding.prompt_cache import Owner
from rttc_graph.integrations.transformers.decoding.running_batch import can_batch
from rttc_graph.integrations.transformers.int8_weights import keep_int8
from rttc_graph.integrations.transformers.placed.placement import (
    DeviceMap,
    input_device,
    is_placed,
    placement_options,
)
from rttc_graph.integrations.transformers.precision import (
    INT8,
    NF4,
    choose_device,
    is_quantised,
    keep_gradients,
    spare_plans,
    weight_options,
)
from rttc_graph.integrations.transformers.recorded.fixed_batch import StayingForward
from rttc_graph.integrations.transformers.weight_files.trusted_folders import NO_CODE

WEIGHT_FILES = ("*.safetensors", "*.bin", "*.gguf")
"""Kinds of weight files in transformers' order of preference; only the first present is
digested."""

_VOLATILE = {"_name_or_path", "transformers_version", "dtype", "torch_dtype"}
"""Keys of a config.json that say nothing about what the model computes."""


class RowAdapters(Protocol):
    """LoRA adapters that are resident beside a model; but for `hold` used in the lane only."""

    def has(self, key: str) -> bool:
        """Tell whether the adapter is resident."""
        ...

    def version(self, key: str) -> int:
        """Return a number that another adapter of the same key does not have."""
        ...

    def hold(self, key: str) -> Callable[[], None]:
        """Keep an adapter, if it is resident, until what is returned is called; from any thread."""
        ...

    def rows(self, keys: Sequence[str | None]) -> AbstractContextManager[Callable[..., Any]]:
        """Yield a stand-in for `model.forward` that gives batch row i the adapter `keys[i]`.

        `None` is the base model. Outside the context the model is as if there were no adapters.
        """
        ...


@runtime_checkable
class StayingRows(Protocol):
    """Adapters whose forward passes may be recorded."""

    def staying_rows(
        self, keys: Sequence[str | None]
    ) -> AbstractContextManager[Callable[..., Any]]:
        """Yield what `RowAdapters.rows` does, a `StayingForward` where one is possible."""
        ...


@dataclass(slots=True)
class LoadedModel:
    """A model in its lane."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    fingerprint: str
    """Digest of configuration, chat template and weights, 32 hexadecimal characters."""
    device: torch.device
    eos_ids: frozenset[int]
    context_tokens: int
    stop: tuple[str, ...] = ()
    """Strings that end every answer, from the generation configuration; base models need some."""
    can_batch: bool = True
    """Whether rows may share a pass, begin with what is known, and have drafts checked."""
    adapters: RowAdapters | None = None
    """`None` while no adapters are possible."""
    parameters: int | None = None
    """Number of weights that each token is multiplied with; `None` where it depends on the token,
    as in a mixture of experts."""
    thinking: bool | None = None
    """Value of `enable_thinking` for the chat template; `None` leaves it to the template."""

    @property
    def is_placed(self) -> bool:
        """Whether its parts lie on several devices; `device` is then that of its input."""
        return is_placed(self.model)

    @property
    def may_be_recorded(self) -> bool:
        """Whether its passes may be recorded: on one device, and without a look at numbers.

        bitsandbytes looks for outliers in what it multiplies by weights of eight bits.
        """
        return not self.is_placed and not getattr(self.model, "is_loaded_in_8bit", False)

    @property
    def end_id(self) -> int | None:
        """The end token that an answer is trained with; `None` where the model has none."""
        own = cast("int | None", self.tokenizer.eos_token_id)
        return own if own is not None else min(self.eos_ids, default=None)

    @property
    def vocabulary(self) -> int:
        """Length of a row of logits."""
        return int(self.model.config.get_text_config().vocab_size)

    @contextmanager
    def forward_rows(
        self, keys: Sequence[str | None], *, stays: bool = False
    ) -> Generator[Callable[..., Any]]:
        """Yield a forward pass that gives batch row i the adapter `keys[i]`; `None` is the base.

        Args:
            keys: Adapter of each row.
            stays: Whether the pass is to use the same memory each time, so that it may be recorded.

        Raises:
            PolicyModelError: An adapter is not resident.
        """
        for key in keys:
            if key is not None:
                self.require_adapter(key)
        if stays and not any(keys):
            yield StayingForward(self.model.forward, "base")
            return
        if self.adapters is None:
            yield self.model.forward
            return
        if stays and isinstance(self.adapters, StayingRows):
            rows = self.adapters.staying_rows(keys)
        else:
            rows = self.adapters.rows(keys)
        with rows as forward:
            yield forward

    def owner(self, key: str | None, reuse_scope: str = "") -> Owner:
        """Return the cache owner for keys and values of this adapter, or of the base."""
        if key is None or self.adapters is None:
            return reuse_scope, None, -1
        return reuse_scope, key, self.adapters.version(key)

    def require_adapter(self, key: str) -> None:
        """Do nothing if the adapter is resident.

        Raises:
            PolicyModelError: It is not.
        """
        if self.adapters is None:
            raise PolicyModelError(
                f"adapter {key!r} cannot be used: attach adapters to the engine first"
            )
        if not self.adapters.has(key):
            raise PolicyModelError(
                f"adapter {key!r} is not resident: load it first, or train it again",
                retryable=True,
            )


def load_model(
    folder: Path,
    *,
    device: str,
    dtype: str,
    thinking: bool | None = None,
    device_map: DeviceMap | None = None,
    max_memory: Mapping[str, int | str] | None = None,
) -> LoadedModel:
    """Load a model folder for inference, without gradients.

    Args:
        folder: Folder written by `save_pretrained`.
        device: `auto`, `cpu`, `cuda`, `cuda:1`, `mps`.
        dtype: `auto` (float32 on the CPU, bfloat16 elsewhere), a torch name such as `float16`, or
            `int8` or `nf4` for weights of eight or four bits.
        thinking: What the chat template is told as `enable_thinking`, if anything.
        device_map: How accelerate places the model's parts on several devices; by default all is on
            `device`.
        max_memory: Most memory that the model's parts may take, by device.

    Raises:
        ConfigurationError: torch knows no such device or type, bitsandbytes is not installed, the
            model needs code of its own, it cannot be kept in eight bits, or accelerate knows no
            such placement.
        PolicyModelError: The folder holds no model that transformers can load.
    """
    where = choose_device(device)
    spare_plans(where)
    options = weight_options(dtype, where)
    options |= placement_options(device_map, max_memory, dtype=dtype)
    try:
        with one_load_at_a_time():
            tokenizer = cast(
                "PreTrainedTokenizerBase", AutoTokenizer.from_pretrained(folder, **NO_CODE)
            )
            model = AutoModelForCausalLM.from_pretrained(
                folder, config=readable_config(folder), **NO_CODE, **options
            )
    except (OSError, ValueError, KeyError, RuntimeError, UnpicklingError) as exc:
        raise PolicyModelError(f"could not load a model from {str(folder)!r}: {exc}") from exc
    model = cast("PreTrainedModel", model).train(False).requires_grad_(False)
    if spare := options.get("offload_folder"):  # its parts on disk are there
        finalize(model, rmtree, spare, ignore_errors=True)
    if dtype == NF4:
        keep_gradients(model)
    if device_map:
        where = input_device(model)
    elif not is_quantised(model):  # those are where they belong since they were quantised
        model.to(where)  # pyright: ignore[reportArgumentType]  # transformers' decorator hides the signature
    parameters = multiplied_weights(model)
    if dtype == INT8 and where.type == "cpu":
        keep_int8(model)
    return LoadedModel(
        model=model,
        tokenizer=tokenizer,
        fingerprint=weights_fingerprint(
            folder,
            template=str(cast("object", tokenizer.chat_template) or "") + _told(thinking),
            quantised_to=dtype if dtype in (INT8, NF4) else "",
        ),
        device=where,
        eos_ids=_end_tokens(model, tokenizer),
        context_tokens=_context_tokens(model),
        parameters=parameters,
        stop=_stop_strings(model),
        thinking=thinking,
        can_batch=can_batch(model),
    )


def multiplied_weights(model: PreTrainedModel) -> int | None:
    """Return how many weights each token is multiplied with; `None` for a mixture of experts."""
    config = model.config.get_text_config()
    if any("expert" in name and value for name, value in config.to_dict().items()):
        return None
    count = int(model.num_parameters(exclude_embeddings=True))
    whole = cast("Any", model)  # the two are untyped
    head, table = whole.get_output_embeddings(), whole.get_input_embeddings()
    weight: Any = getattr(head, "weight", None)
    shared: Any = getattr(table, "weight", None)
    if weight is None or weight is not shared:
        return count
    return count + int(weight.numel())  # a tied head was left out with the table


def _told(thinking: bool | None) -> str:
    """Return what another prompt makes of the fingerprint; nothing where the template decides."""
    return "" if thinking is None else f"\0enable_thinking={thinking}"


def readable_config(source: str | Path, **options: Any) -> PreTrainedConfig:
    """Return a model's configuration, without a padding token that its vocabulary does not have.

    Some configurations say -1, or the size of the vocabulary, for no such token; the
    first is taken for the token of every place, and a model with the second cannot be made.

    Args:
        source: Folder, or hub id.
        options: Options of `from_pretrained`.
    """
    config = cast("PreTrainedConfig", AutoConfig.from_pretrained(source, **NO_CODE, **options))
    text = cast("Any", config.get_text_config())
    pad = cast("int | None", getattr(text, "pad_token_id", None))
    if pad is not None and not 0 <= pad < cast("int", getattr(text, "vocab_size", pad + 1)):
        text.pad_token_id = None
    return config


def weights_fingerprint(folder: Path, *, template: str, quantised_to: str = "") -> str:
    """Return a digest of a model folder: configuration, chat template, weights.

    Args:
        folder: Folder written by `save_pretrained`.
        template: Chat template.
        quantised_to: What became of the weights as they were loaded; empty for a rounding that
            does not make another model of it.
    """
    digest = hashlib.sha256()
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    kept = {key: value for key, value in config.items() if key not in _VOLATILE}
    digest.update(json.dumps(kept, sort_keys=True).encode())
    digest.update(template.encode())
    digest.update(quantised_to.encode())
    files = _weight_files(folder)
    with ThreadPoolExecutor(max(1, min(4, len(files)))) as pool:  # a digest lets go of the GIL
        for part in pool.map(_file_digest, files):
            digest.update(part)
    return digest.hexdigest()[:32]


@contextmanager
def one_load_at_a_time() -> Generator[None]:
    """Wait until no other thread loads a model, and keep transformers' bars and advice quiet.

    While a model loads, transformers and accelerate replace functions of torch and of their own
    for the whole process, and put back what they found. Loads that overlap put back each other's
    replacements, and from then on every model with tied embeddings comes without weights for its
    head ("Cannot copy out of meta tensor", seen with transformers 5.23).
    """
    logging = cast("Any", untyped_logging)  # its functions lack `-> None`
    with _load:
        level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        try:
            yield
        finally:
            logging.set_verbosity(level)
            if bars:
                logging.enable_progress_bar()


_load = threading.RLock()


def _weight_files(folder: Path) -> list[Path]:
    for pattern in WEIGHT_FILES:
        if files := sorted(folder.glob(pattern)):
            return files
    return []


def _file_digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Collect end tokens; instruction-tuned models often have more than their tokenizer says."""
    ends: set[int] = set()
    for source in (model.generation_config, model.config.get_text_config(), tokenizer):
        ids = cast("int | Iterable[int] | None", getattr(source, "eos_token_id", None))
        if ids is not None:
            ends.update([ids] if isinstance(ids, int) else ids)
    return frozenset(ends)


def _context_tokens(model: PreTrainedModel) -> int:
    """Return the longest context; 2048 where a configuration says nothing."""
    return int(getattr(model.config.get_text_config(), "max_position_embeddings", None) or 2048)


def _stop_strings(model: PreTrainedModel) -> tuple[str, ...]:
    strings = cast("str | list[str] | None", getattr(model.generation_config, "stop_strings", None))
    return (strings,) if isinstance(strings, str) else tuple(strings or ())
