"""A sentence-transformers model from a local folder as our `Embedder`.

The folder is all there is: nothing is asked of a hub, and nothing is loaded before the first text.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any, cast

try:
    from rttc_graph.integrations.langchain.long_texts import LongTextEmbeddings
except ImportError as exc:
    raise ImportError("local embedders need the extra 'local': rttc-graph[local]") from exc

from rttc_graph.errors import ConfigurationError
from rttc_graph.integrations.langchain.langchain_embedder import LangChainEmbedder
from rttc_graph.integrations.transformers.weight_files.trusted_folders import refuse_code


def local_embedder(
    source: str | Path | Callable[[], Path],
    *,
    name: str | None = None,
    batch_size: int = 32,
    device: str | None = None,
) -> LangChainEmbedder:
    """Return an embedder for a sentence-transformers folder.

    It looks whether the model is there, so call it before an event loop runs; the rest is lazy.

    Args:
        source: Folder with `modules.json` and weights, or a function that finds or fetches it;
            the function is called in the embedder's own thread at the first text.
        name: For people; the folder's name by default. Needed where `source` is a function.
        batch_size: Texts that go through the model at once.
        device: torch device; `None` takes a GPU if there is one.

    Raises:
        ConfigurationError: The folder does not hold such a model or would run code of its own, or
            there is no name.
    """
    if not callable(source):
        given = _checked(Path(source))
        name = name or given.resolve().name
        source = partial(_checked, given)
    if name is None:
        raise ConfigurationError("an embedder whose folder is found later needs a name now")
    folder = cache(source)

    def load() -> LongTextEmbeddings:
        model_kwargs: dict[str, Any] = {"local_files_only": True}
        if device is not None:
            model_kwargs["device"] = device
        # Not at the top: torch comes along with it, and takes seconds.
        from rttc_graph.integrations.transformers.loading import one_load_at_a_time  # noqa: PLC0415

        found = _checked(folder())  # may fetch it, which must not hold up others
        with one_load_at_a_time():
            return LongTextEmbeddings(
                model_name=str(found),
                model_kwargs=model_kwargs,
                encode_kwargs={"batch_size": batch_size},
            )

    return LangChainEmbedder(
        load, name=name, batch_size=batch_size, fingerprint=lambda: weights_digest(folder())
    )


def _checked(folder: Path) -> Path:
    if not (folder / "modules.json").is_file():
        raise ConfigurationError(
            f"no sentence-transformers model at {str(folder)!r}: 'modules.json' is missing there"
        )
    refuse_code(folder)
    return folder


def weights_digest(folder: Path) -> str:
    """Return a digest of the tensors and of how they are pooled.

    The files as such are not digested, because a newer library writes other metadata and other
    spaces around the same tensors. For the same reason the tokenizer and the longest input, which
    belong to the weights, are left out.

    Raises:
        OSError: A file cannot be read.
        ValueError: There are no weights, or a file is not what its name says.
    """
    weights = sorted(folder.rglob("*.safetensors")) or sorted(folder.rglob("pytorch_model*.bin"))
    if not weights:
        raise ValueError(f"no weights under {str(folder)!r}")
    digest = hashlib.sha256()
    for file in weights:
        for part in _tensors(file):
            digest.update(part)
    for file in sorted(folder.glob("*_*/config.json")):  # 1_Pooling, 2_Dense, …
        content = cast(object, json.loads(file.read_text(encoding="utf-8")))
        digest.update(json.dumps([file.parent.name, content], sort_keys=True).encode())
    return digest.hexdigest()[:16]


def _tensors(file: Path) -> Iterator[bytes]:
    with file.open("rb") as stream:
        if file.suffix == ".safetensors":
            # Layout: length of the header (8 bytes, little endian), header (JSON), tensors.
            size = int.from_bytes(stream.read(8), "little")
            header = cast(dict[str, object], json.loads(stream.read(size)))
            header.pop("__metadata__", None)
            yield json.dumps(header, sort_keys=True).encode()
        while block := stream.read(1 << 20):
            yield block
