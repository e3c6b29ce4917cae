"""Decoding over a cache that stays: what a GPU does, on the CPU, against the plain decoder."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from decoding import QUESTIONS, BiasedRows, decode, held, in_lane, request, resident_adapters
from tiny_adapters import adapter_of
from torch import Tensor

from rttc_graph.integrations.lora.adapter_layout import adapter_layout
from rttc_graph.integrations.transformers.decoding import decoder
from rttc_graph.integrations.transformers.decoding.row import DecodeRequest
from rttc_graph.integrations.transformers.local_engine import LocalEngine
from rttc_graph.integrations.transformers.recorded import fixed_batch
from rttc_graph.integrations.transformers.recorded.fixed_batch import FixedBatch, can_stay


@dataclass
class Capture:
    """Stands for CUDA graphs: a replay does the work again, on the tensors of then."""

    recorded: int = 0
    replayed: int = 0
    spoiled: bool = False
    works: list[Callable[[], None]] = field(default_factory=list[Callable[[], None]])

    def __call__(self, work: Callable[[], None]) -> Callable[[], None]:
        self.recorded += 1

        def replay() -> None:
            self.replayed += 1
            if not self.spoiled:
                work()

        return replay


@pytest.fixture
def capture(monkeypatch: pytest.MonkeyPatch) -> Capture:
    made = Capture()
    monkeypatch.setattr(decoder, "capture_for", lambda _: made)  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]
    monkeypatch.setattr(fixed_batch, "_RECORD_AFTER", 2)
    return made


@pytest.fixture
def engines(tiny_model_path: Path) -> Generator[Callable[..., LocalEngine]]:
    opened: list[LocalEngine] = []

    def open_one(**settings: Any) -> LocalEngine:
        engine = LocalEngine(tiny_model_path, device="cpu", threads=1, **settings)
        opened.append(engine)
        in_lane(engine, lambda _: None)
        return engine

    yield open_one
    for engine in opened:
        engine.close()


def rows(adapters: Sequence[str | None] = (None,)) -> list[DecodeRequest]:
    drafts = ("and then the hen sat", "no")
    kinds: list[dict[str, Any]] = [
        {},
        {"temperature": 0.9, "seed": 3},
        {"max_new_tokens": 40},
        {"temperature": 1.2, "top_p": 0.7, "seed": 4, "max_new_tokens": 9},
        {"drafts": drafts},
        {"temperature": 0.7, "top_p": 0.9, "seed": 5, "max_new_tokens": 30},
    ]
    return [
        request(question, adapter=adapters[at % len(adapters)], **kind)
        for at, (question, kind) in enumerate(zip(QUESTIONS, kinds, strict=True))
    ]


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({}, id="all-at-once"),
        pytest.param({"max_batch": 3, "prefix_cache_bytes": 2**22}, id="they-come-and-go"),
    ],
)
def test_rows_have_the_tokens_that_the_plain_decoder_gives(
    settings: dict[str, Any],
    capture: Capture,
    engines: Callable[..., LocalEngine],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fixed = engines(**settings)
    with held(fixed):
        futures = fixed.decode(rows())
    found = [future.result(60) for future in futures]
    again = decode(fixed, *rows())  # drafts of the answers before, recordings that are there
    monkeypatch.setattr(decoder, "capture_for", lambda _: None)  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]
    plain = decode(engines(**settings), *rows())
    for one, two, other in zip(found, again, plain, strict=True):
        assert one.tokens == two.tokens == other.tokens
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)
        assert one.finish_reason == other.finish_reason
    assert capture.recorded
    assert capture.replayed > capture.recorded


def test_rows_with_adapters_share_a_recorded_pass(
    capture: Capture, engines: Callable[..., LocalEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other adapters of one shape use the same memory; those of two ranks are not recorded."""
    texts: list[list[tuple[int, ...]]] = []
    for is_fixed in (True, False):
        if not is_fixed:
            monkeypatch.setattr(decoder, "capture_for", lambda _: None)  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]
        engine = engines()
        resident = resident_adapters(engine)
        layout = in_lane(engine, lambda loaded: adapter_layout(loaded.model))
        for key, rank in (("a", 4), ("b", 4), ("c", 4), ("d", 2)):
            resident.put(key, adapter_of(layout, rank=rank, alpha=6.0, seed=ord(key)))
        companies = (["a", None, "b"], ["c", "a", None], ["a", "d", None])
        texts.append([])
        stacks: list[int] = []
        for company in companies:
            texts[-1] += [one.tokens for one in decode(engine, *rows(company))]
            stacks.append(resident.adapted._stacks_made)  # pyright: ignore[reportPrivateUsage]
        if is_fixed:
            assert capture.recorded > 0
            assert 0 < stacks[0] <= stacks[1] <= 4  # of 8, 4, 2 and 1 rows, whoever's they are
    assert texts[0] == texts[1]


def test_a_recording_that_does_something_else_is_given_up(
    capture: Capture,
    engines: Callable[..., LocalEngine],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    capture.spoiled = True
    found = decode(engines(), *rows())
    assert "not recorded any more" in caplog.text
    assert capture.recorded == 1
    monkeypatch.setattr(decoder, "capture_for", lambda _: None)  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]
    assert [one.tokens for one in found] == [one.tokens for one in decode(engines(), *rows())]


def test_passes_that_look_at_numbers_are_not_recorded(
    capture: Capture, engines: Callable[..., LocalEngine]
) -> None:
    engine = engines()
    in_lane(engine, lambda loaded: setattr(loaded.model, "is_loaded_in_8bit", True))
    decode(engine, *rows())
    assert not capture.recorded


def test_a_row_with_a_schema_keeps_to_it_beside_one_with_a_draft(
    capture: Capture, engines: Callable[..., LocalEngine]
) -> None:
    engine = engines(prefix_cache_bytes=2**22)
    free = request("hi", max_new_tokens=30)
    answers = ('"red"', '"green"')
    schema = request("and then the hen", answer_schema='{"enum": ["red", "green"]}', drafts=answers)
    plain = decode(engine, free)[0]  # from now on the draft of its own answer
    with held(engine):
        futures = engine.decode([free, schema])
    drafted, kept = (future.result(60) for future in futures)
    assert drafted.tokens == plain.tokens
    assert kept.text in answers


@pytest.mark.parametrize(
    ("count", "drafted"), [(2, 32), (4, 32), (5, 8), (16, 8), (17, 0), (64, 0)]
)
def test_a_pass_that_checks_drafts_stays_small_with_its_padding(count: int, drafted: int) -> None:
    batch = FixedBatch(torch.device("cpu"), context_tokens=64, most_positions=0)
    batch._lengths = [1] * count  # pyright: ignore[reportPrivateUsage]
    assert batch.most_drafted(144) == drafted


def test_a_row_without_numbers_spoils_no_later_one(
    capture: Capture, engines: Callable[..., LocalEngine]
) -> None:
    engine = engines(max_batch=2)
    engine.attach_adapters(BiasedRows)
    expected = decode(engine, request("hi"))[0].tokens
    with held(engine):
        bad, good = engine.decode([request("x" * 60, adapter="nan"), request("hi")])
    assert bad.exception(60) is not None
    assert good.result(60).tokens == expected
    assert decode(engine, request("hi"), request("hi"))[1].tokens == expected
    assert capture.recorded


def test_rows_of_a_run_that_ended_by_a_fault_are_gone(
    capture: Capture, engines: Callable[..., LocalEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engines()
    expected = decode(engine, request("10 €"))[0].tokens
    keep, failed = FixedBatch.keep, list[Sequence[int]]()

    def fails(batch: FixedBatch, rows: Sequence[int]) -> None:
        if rows and not failed:
            failed.append(rows)
            raise torch.OutOfMemoryError("CUDA out of memory")
        keep(batch, rows)

    monkeypatch.setattr(FixedBatch, "keep", fails)
    with held(engine):
        short, longer = engine.decode([request("hi", max_new_tokens=3), request("hi")])
    assert longer.exception(60) is not None
    assert short.done()
    assert failed
    assert decode(engine, request("10 €"))[0].tokens == expected


def test_when_memory_for_some_layers_alone_is_there_all_rows_begin_again(
    capture: Capture, engines: Callable[..., LocalEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engines()
    asked = [request("hi", max_new_tokens=60), request("x" * 150), request("z" * 90)]
    expected = [decode(engine, one)[0].tokens for one in asked]
    widened, made = fixed_batch._widened, list[Tensor]()  # pyright: ignore[reportPrivateUsage]

    def fails(half: Tensor, rows: int, width: int, length: int) -> Tensor:
        if len(made) == 6:  # of two layers with keys and values, which then are made larger
            made.append(half)
            raise torch.OutOfMemoryError("CUDA out of memory")
        made.append(widened(half, rows, width, length))
        return made[-1]

    monkeypatch.setattr(fixed_batch, "_widened", fails)
    with held(engine):
        futures = engine.decode(asked)
    assert [future.result(60).tokens for future in futures] == expected
    assert len(made) > 7


def test_buffers_grow_within_their_positions_and_stale_numbers_are_not_seen() -> None:
    """A model whose keys tell the token and whose logits tell all keys that a row sees."""
    batch = FixedBatch(torch.device("cpu"), context_tokens=2048, most_positions=4 * 256)
    sums: list[Tensor] = []

    def forward(**given: Any) -> Any:
        ids = given["input_ids"].float()[:, None, :, None]  # [B, 1, T, 1]
        keys, _ = given["past_key_values"].update(ids, ids.clone(), 0)
        mask = given["attention_mask"]
        seen = torch.ones_like(keys[:, 0, :, 0])[:, None].expand(-1, ids.shape[2], -1)
        if mask.dim() == 4:
            seen = (mask[:, 0] == 0).float()
        else:
            seen = (
                mask[:, None]
                * torch.ones(ids.shape[2], keys.shape[2]).tril(keys.shape[2] - ids.shape[2])
            ).float()
        logits = (seen @ keys[:, 0]).expand(-1, -1, 3)
        sums.append(logits)
        return type("Out", (), {"logits": logits, "past_key_values": given["past_key_values"]})()

    batch.join([[1, 2, 3], [10] * 100], forward)
    assert batch.step([[4], [10]], forward)[:, 0, 0].tolist() == [10, 1010]
    batch.cut_each([1, 0])
    assert batch.step([[5, 6], [10, 20]], forward)[:, :, 0].tolist() == [[11, 17], [1020, 1040]]
    batch.join([[7] * 300], forward)  # longer than the buffers were
    assert batch.positions(3, 300) == 4 * 512
    assert batch.step([[1], [1], [1]], forward)[:, 0, 0].tolist() == [18, 1041, 2101]
    batch.keep([2, 0])
    assert batch.step([[1], [1]], forward)[:, 0, 0].tolist() == [2102, 19]
    batch.join([[9]], forward)  # takes the place of a longer row
    assert batch.step([[1], [1], [1]], forward)[:, 0, 0].tolist() == [2103, 20, 10]
    [(keys, _)] = batch.read(0, 2)
    assert keys[0, :, 0].tolist() == [1, 1]
    batch.let_go()
    assert batch.rows == 0


def test_a_model_that_sees_less_than_its_context_decodes_plainly(tiny_model_path: Path) -> None:
    engine = LocalEngine(tiny_model_path, device="cpu", threads=1)
    try:

        def tried(loaded: Any) -> tuple[bool, bool]:
            whole = can_stay(loaded.model, loaded.context_tokens)
            loaded.model.config.sliding_window = loaded.context_tokens - 1
            return whole, can_stay(loaded.model, loaded.context_tokens)

        assert in_lane(engine, tried) == (True, False)
    finally:
        engine.close()
