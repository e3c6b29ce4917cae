"""What every embedder must do; subclass it and define the fixture `embedder`."""

from __future__ import annotations

import asyncio
import math
from concurrent.futures import ThreadPoolExecutor

import pytest

from rttc_graph.protocols import Embedder, MeasuringEmbedder

_TEXTS = ("a cat", "", " \n", "two dogs and a horse " * 200, "数学 🧮", "a\0b", "a\ud800b", "a cat")


class EmbedderContract:
    """Subclass it in a backend's tests and define the fixture `embedder`."""

    @pytest.fixture
    def embedder(self) -> Embedder:
        """Return the embedder under test; override it."""
        raise NotImplementedError("define the fixture `embedder`")

    async def test_any_text_gets_a_unit_vector_of_the_dimension(self, embedder: Embedder) -> None:
        """Empty, long and odd texts are embedded like all others."""
        vectors = await embedder.embed(_TEXTS)
        assert [len(vector) for vector in vectors] == [await embedder.dimension()] * len(_TEXTS)
        for vector in vectors:
            assert math.hypot(*vector) == pytest.approx(1, abs=1e-4)

    async def test_vectors_stand_in_the_order_of_the_texts(self, embedder: Embedder) -> None:
        """A batch gives what its texts get alone, whatever is sorted by length inside."""
        together = await embedder.embed(_TEXTS)
        for text, vector in zip(_TEXTS, together, strict=True):
            [alone] = await embedder.embed([text])
            assert alone == pytest.approx(vector, abs=1e-4)
        assert together[0] != pytest.approx(together[3], abs=1e-4)

    async def test_no_texts_get_no_vectors(self, embedder: Embedder) -> None:
        """An empty batch is no error."""
        assert await embedder.embed([]) == []

    async def test_the_fingerprint_stays_the_same(self, embedder: Embedder) -> None:
        """Embedding does not change it."""
        first = await embedder.fingerprint()
        await embedder.embed(["a"])
        assert first.strip()
        assert await embedder.fingerprint() == first
        assert embedder.name.strip()

    def test_several_event_loops_may_use_it(self, embedder: Embedder) -> None:
        """Nothing in it is tied to the first loop."""

        def embed(_: int) -> list[list[float]]:
            return asyncio.run(embedder.embed(["a cat"]))

        with ThreadPoolExecutor(3) as pool:
            results = list(pool.map(embed, range(6)))
        assert all(result[0] == pytest.approx(results[0][0], abs=1e-4) for result in results)


class MeasuringEmbedderContract(EmbedderContract):
    """Subclass it in a backend's tests and define the fixture `embedder`."""

    @pytest.fixture
    def embedder(self) -> MeasuringEmbedder:
        """Return the embedder under test; override it."""
        raise NotImplementedError("define the fixture `embedder`")

    async def test_measuring_changes_no_vector(self, embedder: MeasuringEmbedder) -> None:
        """It gives what `embed` gives, and no text has more unread than it has."""
        vectors = await embedder.embed(_TEXTS)
        measured = await embedder.embed_measured(_TEXTS)
        for text, vector, found in zip(_TEXTS, vectors, measured, strict=True):
            assert found.vector == pytest.approx(vector, abs=1e-4)
            assert 0 <= found.unread <= len(text)
        assert await embedder.embed_measured([]) == []

    async def test_what_is_unread_changes_no_vector(self, embedder: MeasuringEmbedder) -> None:
        """A text that is far too long says how much of its end the vector leaves out."""
        text = "two dogs and a horse " * 20_000
        [found] = await embedder.embed_measured([text])
        if not found.unread:
            pytest.skip("this embedder reads texts of 400,000 characters")
        changed = found.unread // 2  # the very place where reading ends may lie within a word
        [other] = await embedder.embed([text[:-changed] + "x" * changed])
        assert found.vector == pytest.approx(other, abs=1e-4)
