from __future__ import annotations

import asyncio
import json
import logging
import math
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from blockbuster import blockbuster_ctx
from langchain_core.embeddings import Embeddings
from langchain_core.exceptions import ModelInvalidRequestError, ModelRateLimitError
from langchain_fakes import HashEmbeddings
from langchain_huggingface import HuggingFaceEmbeddings
from langchain_tests.integration_tests import EmbeddingsIntegrationTests
from pytest_socket import disable_socket, enable_socket
from tiny_checkpoints import sentence_folder
from transformers.utils import logging as hf_logging

from rttc_graph.errors import ConfigurationError, EmbeddingError
from rttc_graph.integrations.langchain.huggingface_embedder import local_embedder, weights_digest
from rttc_graph.integrations.langchain.langchain_embedder import LangChainEmbedder

TEXTS = {
    "empty": "",
    "blank": " \n\t",
    "long": "word " * 20_000,
    "chinese": "今天天气怎么样" * 50,
    "arabic": "كيف حالك اليوم",
    "emoji": "👩‍👩‍👧‍👦" * 10,
    "null": "a\0b",
    "lone-surrogate": "a\ud800b",
}


class FixedEmbeddings(Embeddings):
    """Returns the same vectors whatever it is asked."""

    def __init__(self, *vectors: list[float]) -> None:
        self.vectors = list(vectors)

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return self.vectors[: len(texts)]

    def embed_query(self, text: str) -> list[float]:
        return self.vectors[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sentence_folder(tmp_path_factory.mktemp("bert"))


@pytest.fixture
def tiny(folder: Path) -> LangChainEmbedder:
    return local_embedder(folder, name="tiny")


@pytest.fixture
def damaged(folder: Path, tmp_path: Path) -> LangChainEmbedder:
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "model.safetensors").write_bytes(b"no weights")
    return local_embedder(copy)


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
async def test_any_text_gets_a_unit_vector(text: str, tiny: LangChainEmbedder) -> None:
    for embedder in (LangChainEmbedder(HashEmbeddings(), name="hash"), tiny):
        [vector] = await embedder.embed([text])
        assert math.hypot(*vector) == pytest.approx(1.0, abs=1e-9)
        assert len(vector) == await embedder.dimension()


async def test_blank_texts_reach_the_model_as_a_space_and_long_ones_cut() -> None:
    embeddings = HashEmbeddings()
    await LangChainEmbedder(embeddings, name="hash", max_characters=5).embed(["", "\n", "123456"])
    assert embeddings.calls == [[" ", " ", "12345"]]


async def test_vectors_come_in_order_in_batches_from_one_thread() -> None:
    embeddings = HashEmbeddings()
    embedder = LangChainEmbedder(embeddings, name="hash", batch_size=3)
    texts = [f"text {number}" for number in range(7)]
    vectors = await embedder.embed(texts)
    assert vectors == [(await embedder.embed([text]))[0] for text in texts]
    assert [len(call) for call in embeddings.calls[:3]] == [3, 3, 1]
    assert len(embeddings.threads) == 1
    assert threading.current_thread().name not in embeddings.threads


async def test_no_texts_ask_the_model_nothing() -> None:
    embeddings = HashEmbeddings()
    assert await LangChainEmbedder(embeddings, name="hash").embed([]) == []
    assert embeddings.calls == []


async def test_the_event_loop_is_never_blocked() -> None:
    with blockbuster_ctx():
        embedder = LangChainEmbedder(HashEmbeddings(), name="hash", fingerprint=lambda: "weights")
        await embedder.embed(["a"] * 50)
        await embedder.fingerprint()


def test_one_embedder_serves_several_event_loops() -> None:
    embedder = LangChainEmbedder(HashEmbeddings(), name="hash")

    def embed(text: str) -> list[list[float]]:
        return asyncio.run(embedder.embed([text]))

    texts = [str(number) for number in range(30)]
    with ThreadPoolExecutor(3) as pool:
        vectors = [rows[0] for rows in pool.map(embed, texts)]
    assert vectors == asyncio.run(embedder.embed(texts))


async def test_the_model_is_made_once_at_first_use_in_the_worker() -> None:
    made: list[str] = []

    def make() -> Embeddings:
        made.append(threading.current_thread().name)
        return HashEmbeddings()

    embedder = LangChainEmbedder(make, name="lazy", is_local=False)
    assert made == []
    await asyncio.gather(*(embedder.embed([str(number)]) for number in range(8)))
    assert len(made) == 1
    assert made[0].startswith("rttc-embedder-lazy")


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        pytest.param([[0.0, 0.0]], "no direction", id="all-zero"),
        pytest.param([[math.nan, 1.0]], "length nan", id="not-a-number"),
        pytest.param([[math.inf, 1.0]], "length inf", id="infinite"),
        pytest.param([list[float]()], "no direction", id="without-coordinates"),
        pytest.param([], "0 vectors for 1 texts", id="too-few"),
    ],
)
async def test_a_useless_vector_is_an_error(vectors: list[list[float]], message: str) -> None:
    with pytest.raises(EmbeddingError, match=message):
        await LangChainEmbedder(FixedEmbeddings(*vectors), name="bad").embed(["a"])


async def test_a_second_dimension_is_refused() -> None:
    embedder = LangChainEmbedder(FixedEmbeddings([1.0, 0.0], [1.0, 0.0, 0.0]), name="odd")
    with pytest.raises(EmbeddingError, match="vector of 3 numbers after vectors of 2"):
        await embedder.embed(["a", "b"])


@pytest.mark.parametrize(
    ("error", "retryable"),
    [
        pytest.param(ConnectionResetError("reset"), True, id="lost-connection"),
        pytest.param(TimeoutError(), True, id="timeout"),
        pytest.param(ModelRateLimitError("slow down"), True, id="rate-limit"),
        pytest.param(ModelInvalidRequestError("too long"), False, id="bad-request"),
        pytest.param(RuntimeError("shape"), False, id="anything-else"),
        pytest.param(StopIteration(), False, id="stop-iteration"),
    ],
)
async def test_vendor_errors_are_translated(error: Exception, retryable: bool) -> None:
    embeddings = HashEmbeddings()
    embeddings.error = error
    with pytest.raises(EmbeddingError, match="'down'") as caught:
        await LangChainEmbedder(embeddings, name="down").embed(["a"])
    assert caught.value.retryable is retryable
    assert caught.value.__cause__ is error


async def test_an_error_behind_other_errors_decides_about_retrying() -> None:
    def make() -> Embeddings:
        try:
            raise ConnectionRefusedError("nobody there")
        except ConnectionRefusedError as exc:
            raise ValueError("no client") from exc

    with pytest.raises(EmbeddingError, match="ValueError: no client") as caught:
        await LangChainEmbedder(make, name="down").embed(["a"])
    assert caught.value.retryable


async def test_it_works_again_after_an_error() -> None:
    embeddings = HashEmbeddings()
    embeddings.error = TimeoutError()
    embedder = LangChainEmbedder(embeddings, name="flaky")
    with pytest.raises(EmbeddingError):
        await embedder.embed(["a"])
    embeddings.error = None
    assert len(await embedder.embed(["a"])) == 1


@pytest.mark.parametrize("field", ["batch_size", "max_characters"])
def test_a_size_of_nothing_is_refused(field: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{field} must be at least 1, got 0"):
        LangChainEmbedder(HashEmbeddings(), name="x", **{field: 0})  # type: ignore[arg-type]  # table of names


async def digest(embeddings: Embeddings, *, name: str = "hash", **options: object) -> str:
    return await LangChainEmbedder(embeddings, name=name, **options).fingerprint()  # type: ignore[arg-type]  # table of options


async def test_the_fingerprint_survives_another_machines_rounding() -> None:
    # 1e-5 on coordinates of up to 128 is 1e-7 of a unit vector, as float32 differs by processor.
    assert await digest(HashEmbeddings(64)) == await digest(HashEmbeddings(64, noise=1e-5))


@pytest.mark.parametrize(
    ("embeddings", "name", "options"),
    [
        pytest.param(HashEmbeddings(64), "other", {}, id="another-name"),
        pytest.param(HashEmbeddings(64, salt="v2"), "hash", {}, id="another-model-of-that-name"),
        pytest.param(HashEmbeddings(48), "hash", {}, id="another-dimension"),
        pytest.param(HashEmbeddings(64), "hash", {"max_characters": 100}, id="another-cut"),
        pytest.param(HashEmbeddings(64), "hash", {"fingerprint": "abc"}, id="known-weights"),
    ],
)
async def test_the_fingerprint_tells_embedders_apart(
    embeddings: Embeddings, name: str, options: dict[str, object]
) -> None:
    assert await digest(embeddings, name=name, **options) != await digest(HashEmbeddings(64))


async def test_weights_that_cannot_be_read_are_an_embedding_error(tmp_path: Path) -> None:
    def missing() -> str:
        return weights_digest(tmp_path)

    with pytest.raises(EmbeddingError, match="no weights under"):
        await digest(HashEmbeddings(), fingerprint=missing)


def test_the_weights_digest_ignores_metadata_and_sees_weights_and_pooling(
    folder: Path, tmp_path: Path
) -> None:
    other = sentence_folder(tmp_path / "other", seed=1)
    assert weights_digest(other) != weights_digest(folder)

    copy = shutil.copytree(folder, tmp_path / "copy")
    weights = copy / "model.safetensors"
    raw = weights.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + size]) | {"__metadata__": {"made_by": "something newer"}}
    text = json.dumps(header).encode()
    weights.write_bytes(len(text).to_bytes(8, "little") + text + raw[8 + size :])
    assert weights_digest(copy) == weights_digest(folder)

    (copy / "1_Pooling" / "config.json").write_text('{"pooling_mode": "cls"}', encoding="utf-8")
    assert weights_digest(copy) != weights_digest(folder)


def test_a_folder_without_a_model_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"'modules\.json' is missing"):
        local_embedder(tmp_path)


async def test_a_damaged_model_is_an_embedding_error(damaged: LangChainEmbedder) -> None:
    with pytest.raises(EmbeddingError, match="could not embed"):
        await damaged.embed(["a"])


async def test_a_local_model_loads_without_network_and_without_a_word(
    tiny: LangChainEmbedder,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    before = hf_logging.is_progress_bar_enabled(), logging.getLogger("transformers").level
    disable_socket(allow_unix_socket=True)
    try:
        assert await tiny.dimension() == 32
    finally:
        enable_socket()
    assert capfd.readouterr() == ("", "")
    assert [entry for entry in caplog.records if entry.name.startswith(("sent", "transf"))] == []
    assert before == (hf_logging.is_progress_bar_enabled(), logging.getLogger("transformers").level)
    assert tiny.name == "tiny"


class TestHuggingFaceEmbeddings(EmbeddingsIntegrationTests):
    """LangChain's own suite, against the embeddings that `local_embedder` builds on."""

    @pytest.fixture(autouse=True)
    def _folder(self, folder: Path) -> None:
        type(self).path = folder

    path: Path

    @property
    def embeddings_class(self) -> type[Embeddings]:
        return HuggingFaceEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, object]:
        return {"model_name": str(self.path), "model_kwargs": {"local_files_only": True}}


LONG = "the same instruction for everybody. " * 10
"""More than the tiny model reads at once: a token a letter, 64 tokens."""


async def test_long_texts_that_differ_at_one_end_only_have_different_vectors(
    tiny: LangChainEmbedder,
) -> None:
    texts = [LONG + "lost phone", LONG + "change pin", "lost phone " + LONG, "change pin " + LONG]
    vectors = await tiny.embed([LONG, *texts])
    assert len({tuple(vector) for vector in vectors}) == 5


async def test_what_a_vector_leaves_out_is_known(tiny: LangChainEmbedder) -> None:
    short, long = await tiny.embed_measured(["short", LONG])
    assert short.unread == 0
    assert 0 < long.unread < len(LONG)
    assert [short.vector, long.vector] == await tiny.embed(["short", LONG])

    limited = LangChainEmbedder(HashEmbeddings(), name="hash", max_characters=5)
    assert [one.unread for one in await limited.embed_measured(["12345", "1234567"])] == [0, 2]


async def test_a_text_that_is_read_whole_has_the_vector_that_the_model_gives(
    tiny: LangChainEmbedder, folder: Path
) -> None:
    texts = ["a", "How do I\nchange it?", "x" * 62, ""]
    plain = HuggingFaceEmbeddings(
        model_name=str(folder), model_kwargs={"device": "cpu"}, encode_kwargs={"batch_size": 32}
    )
    raw = plain.embed_documents([text or " " for text in texts])
    wanted = [[value / math.hypot(*vector) for value in vector] for vector in raw]
    assert await tiny.embed(texts) == wanted
    assert (await tiny.embed([*texts, LONG]))[: len(texts)] == wanted


MARKER = "import pathlib; pathlib.Path({path!r}).write_text('ran')\n"
CODE_FILES = {
    "a-file-beside-it": ("modules.json", [{"idx": 0, "name": "0", "path": "", "type": "own.M"}]),
    "a-package": ("modules.json", [{"idx": 0, "name": "0", "path": "", "type": "os.path"}]),
    "a-router": ("router_config.json", {"types": {"query_0": "own.M"}, "structure": {}}),
    "a-router-of-old": ("1_Router/config.json", {"types": {"query_0": "own.M"}}),
}


@pytest.mark.parametrize(("name", "content"), CODE_FILES.values(), ids=CODE_FILES.keys())
def test_code_that_came_with_an_embedder_does_not_run(
    name: str, content: object, folder: Path, tmp_path: Path
) -> None:
    copy, ran = shutil.copytree(folder, tmp_path / "copy"), tmp_path / "ran"
    (copy / "own.py").write_text(MARKER.format(path=str(ran)) + "class M: pass\n", encoding="utf-8")
    (copy / name).parent.mkdir(exist_ok=True)
    (copy / name).write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ConfigurationError, match="would run code"):
        local_embedder(copy)
    assert not ran.exists()


class _Pickled:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_pickled_weights_of_an_embedder_run_no_code(folder: Path, tmp_path: Path) -> None:
    copy, ran = shutil.copytree(folder, tmp_path / "copy"), tmp_path / "ran"
    (copy / "model.safetensors").unlink()
    torch.save({"embeddings": _Pickled(ran)}, copy / "pytorch_model.bin")
    with pytest.raises(EmbeddingError):
        asyncio.run(local_embedder(copy, device="cpu").embed(["a"]))
    assert not ran.exists()
