"""Decoding in a shared batch, against transformers' own `generate` and slow references."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Generator
from concurrent.futures import CancelledError, Future
from pathlib import Path
from typing import Any

import pytest
import torch
from decoding import (
    QUESTIONS,
    BiasedRows,
    computed,
    decode,
    generated,
    held,
    in_lane,
    request,
    rows_of,
)
from tiny_models import CONTEXT_TOKENS, make_sliding_model, tiny_tokenizer

from rttc_graph.errors import PolicyModelError
from rttc_graph.integrations.transformers.decoding.row import Decoded
from rttc_graph.integrations.transformers.local_engine import LoadedModel, LocalEngine
from rttc_graph.integrations.transformers.tokens import encode_prompt
from rttc_graph.integrations.transformers.transformers_policy_model import gathered

# --- greedy ------------------------------------------------------------------------------------


def test_a_row_alone_is_what_generate_gives(tiny_engine: LocalEngine) -> None:
    for question in QUESTIONS:
        (row,) = decode(tiny_engine, request(question))
        assert list(row.tokens) == generated(tiny_engine, question, 24)


def test_rows_together_are_what_generate_gives(tiny_engine: LocalEngine) -> None:
    with held(tiny_engine):
        futures = tiny_engine.decode(
            [request(q, max_new_tokens=8 + 5 * n) for n, q in enumerate(QUESTIONS)]
        )
    for n, (question, future) in enumerate(zip(QUESTIONS, futures, strict=True)):
        assert list(future.result(60).tokens) == generated(tiny_engine, question, 8 + 5 * n)


def test_a_row_that_joins_a_running_batch_changes_nobody(tiny_engine: LocalEngine) -> None:
    late: list[Future[Decoded]] = []

    pieces: list[str] = []

    def join(piece: str) -> None:
        pieces.append(piece)
        if len(pieces) == 3:  # the batch is under way by then
            late.extend(tiny_engine.decode([request(q) for q in QUESTIONS[1:]]))

    with computed(tiny_engine) as passes:
        (first,) = decode(tiny_engine, request(QUESTIONS[0], max_new_tokens=60, on_text=join))
    assert max(rows_of(passes)) == len(QUESTIONS)
    assert list(first.tokens) == generated(tiny_engine, QUESTIONS[0], 60)
    for question, future in zip(QUESTIONS[1:], late, strict=True):
        assert list(future.result(60).tokens) == generated(tiny_engine, question, 24)


@pytest.mark.parametrize("prefix_cache_bytes", [0, 100_000], ids=["computed", "known"])
def test_a_model_with_a_sliding_window_is_what_generate_gives(
    tmp_path: Path, prefix_cache_bytes: int
) -> None:
    make_sliding_model(tmp_path)
    engine = LocalEngine(tmp_path, device="cpu", threads=1, prefix_cache_bytes=prefix_cache_bytes)
    try:
        decode(engine, request(QUESTIONS[1][:12]), request(QUESTIONS[3]))
        with held(engine):
            futures = engine.decode([request(q) for q in QUESTIONS[:4]])
        for question, future in zip(QUESTIONS, futures, strict=False):
            assert list(future.result(60).tokens) == generated(engine, question, 24)
    finally:
        engine.close()


def test_log_probabilities_are_those_of_a_pass_without_cache(tiny_engine: LocalEngine) -> None:
    with held(tiny_engine):
        futures = tiny_engine.decode([request(q) for q in QUESTIONS])
    for question, future in zip(QUESTIONS, futures, strict=True):
        row = future.result(60)

        def slow(loaded: LoadedModel, question: str = question, row: Decoded = row) -> list[float]:
            prompt = encode_prompt(loaded, [{"role": "user", "content": question}])
            ids = torch.tensor([[*prompt, *row.tokens]])
            with torch.no_grad():
                logprobs = loaded.model(ids).logits.double().log_softmax(-1)
            start = len(prompt) - 1
            return [float(logprobs[0, start + n, t]) for n, t in enumerate(row.tokens)]

        expected = in_lane(tiny_engine, slow)
        assert row.logprobs == pytest.approx(expected, abs=1e-4)
        assert row.mean_logprob == pytest.approx(sum(expected) / len(expected), abs=1e-4)


# --- sampling ----------------------------------------------------------------------------------


def test_a_seeded_row_is_the_same_alone_and_in_company(tiny_engine: LocalEngine) -> None:
    rows = [
        request(q, temperature=1.0 if n % 2 else 0.0, top_p=0.9 if n % 3 else 1.0, seed=n)
        for n, q in enumerate(QUESTIONS)
    ]
    with held(tiny_engine):
        futures = tiny_engine.decode(rows)
    together = [future.result(60) for future in futures]
    for row, shared in zip(rows, together, strict=True):
        (alone,) = decode(tiny_engine, row)
        assert alone.tokens == shared.tokens


def test_another_seed_gives_another_answer(tiny_engine: LocalEngine) -> None:
    """24 tokens of a model with wide weights agree by chance with probability below 1e-6."""
    found = decode(tiny_engine, *(request(temperature=2.0, seed=seed) for seed in (1, 1, 2)))
    assert found[0].tokens == found[1].tokens != found[2].tokens


# --- ends --------------------------------------------------------------------------------------


def test_an_end_token_ends_the_row_and_is_no_text(tiny_engine: LocalEngine) -> None:
    (full,) = decode(tiny_engine, request())
    end = full.tokens[10]
    first = full.tokens.index(end)
    in_lane(tiny_engine, lambda loaded: setattr(loaded, "eos_ids", frozenset({end})))
    (row,) = decode(tiny_engine, request())
    assert row.finish_reason == "stop"
    assert row.tokens == full.tokens[: first + 1]


def test_a_row_ends_at_its_number_of_tokens(tiny_engine: LocalEngine) -> None:
    (row,) = decode(tiny_engine, request(max_new_tokens=5))
    assert (len(row.tokens), len(row.logprobs), row.finish_reason) == (5, 5, "length")


def test_a_row_ends_where_the_context_ends(tiny_engine: LocalEngine) -> None:
    (row,) = decode(tiny_engine, request("y" * 450, max_new_tokens=500))
    assert row.prompt_tokens + len(row.tokens) == CONTEXT_TOKENS
    assert row.finish_reason == "length"


def test_a_stop_string_ends_the_row_at_once(tiny_engine: LocalEngine) -> None:
    (full,) = decode(tiny_engine, request())
    stop = full.text[6:9]
    at = full.text.index(stop)
    pieces: list[str] = []
    (row,) = decode(tiny_engine, request(stop=(stop,), on_text=pieces.append))
    assert row.text == "".join(pieces) == full.text[:at]
    assert row.finish_reason == "stop"
    assert len(row.tokens) < len(full.tokens)


def test_the_models_own_stop_strings_hold_for_every_row(tiny_engine: LocalEngine) -> None:
    (full,) = decode(tiny_engine, request())
    in_lane(tiny_engine, lambda loaded: setattr(loaded, "stop", (full.text[4],)))
    (row,) = decode(tiny_engine, request())
    assert row.text == full.text[: full.text.index(full.text[4])]


def test_streamed_pieces_join_to_the_text(tiny_engine: LocalEngine) -> None:
    streams: list[list[str]] = [[] for _ in range(12)]
    rows = [
        request(QUESTIONS[n % 6], temperature=1.0, seed=n, max_new_tokens=40, on_text=s.append)
        for n, s in enumerate(streams)
    ]
    for row, pieces in zip(decode(tiny_engine, *rows), streams, strict=True):
        whole = tiny_tokenizer().decode(list(row.tokens), skip_special_tokens=True)
        assert "".join(pieces) == row.text == whole
        assert len(pieces) > 1


def test_a_row_past_its_deadline_gets_no_token(tiny_engine: LocalEngine) -> None:
    (row,) = decode(tiny_engine, request(deadline=time.monotonic() - 1))
    assert (row.text, row.tokens, row.finish_reason) == ("", (), "budget")
    assert row.mean_logprob is None


def test_a_deadline_on_the_way_keeps_what_there_is(tiny_engine: LocalEngine) -> None:
    in_lane(tiny_engine, lambda _: None)  # loading must not use up the time
    (full,) = decode(tiny_engine, request(max_new_tokens=60))
    deadline = time.monotonic() + 0.3

    def dawdle(_: str) -> None:
        threading.Event().wait(max(0, deadline - time.monotonic()))

    (row,) = decode(tiny_engine, request(max_new_tokens=60, deadline=deadline, on_text=dawdle))
    assert row.finish_reason == "budget"
    assert 1 <= len(row.tokens) < 10
    assert row.tokens == full.tokens[: len(row.tokens)]


def test_a_cancelled_row_gets_no_further_token_and_the_others_go_on(
    tiny_engine: LocalEngine,
) -> None:
    pieces: list[str] = []
    mine: list[Future[Decoded]] = []
    known = threading.Event()

    def cancel_at_the_third(piece: str) -> None:
        pieces.append(piece)
        if len(pieces) == 3:
            known.wait()
            mine[0].cancel()

    futures = tiny_engine.decode(
        [request(on_text=cancel_at_the_third, max_new_tokens=400), request(QUESTIONS[1])]
    )
    mine.append(futures[0])
    known.set()
    with computed(tiny_engine) as passes:
        assert list(futures[1].result(60).tokens) == generated(tiny_engine, QUESTIONS[1], 24)
    with pytest.raises(CancelledError):
        futures[0].result()
    assert len(pieces) == 3
    assert len(passes) < 100


def test_a_listener_that_fails_ends_its_own_row(tiny_engine: LocalEngine) -> None:
    def broken(_: str) -> None:
        raise OSError("the client hung up")

    futures = tiny_engine.decode([request(on_text=broken), request(QUESTIONS[1])])
    with pytest.raises(OSError, match="hung up"):
        futures[0].result(60)
    assert len(futures[1].result(60).tokens) == 24


# --- prompts that are shared -------------------------------------------------------------------


def test_candidates_of_one_prompt_are_drawn_from_one_prefill(tiny_engine: LocalEngine) -> None:
    asked = [request(QUESTIONS[1], temperature=1.0, seed=seed) for seed in range(5)]
    alone = [decode(tiny_engine, one)[0] for one in asked]
    assert len({row.tokens for row in alone}) == 5
    with computed(tiny_engine) as shapes:
        with held(tiny_engine):
            futures = tiny_engine.decode([request("hi", max_new_tokens=3), *asked])
        found = [future.result(60) for future in futures]
    assert [row.tokens for row in found[1:]] == [row.tokens for row in alone]
    assert list(found[0].tokens) == generated(tiny_engine, "hi", 3)
    assert shapes[0] == (2, alone[0].prompt_tokens)  # two prompts for six rows
    assert shapes[1] == (6, 1)


def test_one_prompt_with_two_adapters_is_two_prompts(tiny_engine: LocalEngine) -> None:
    tiny_engine.attach_adapters(BiasedRows)
    keys = ["token 40", None, "token 50", "token 40", None]
    with held(tiny_engine):
        futures = tiny_engine.decode([request(adapter=key, max_new_tokens=6) for key in keys])
    plain = generated(tiny_engine, "hi", 6)
    for key, future in zip(keys, futures, strict=True):
        expected = plain if key is None else [int(key.split()[1])] * 6
        assert list(future.result(60).tokens) == expected


# --- batches -----------------------------------------------------------------------------------


def test_rows_of_several_callers_share_passes(tiny_engine: LocalEngine) -> None:
    with computed(tiny_engine) as passes:
        with held(tiny_engine):
            futures = [tiny_engine.decode([request("hi" * n)])[0] for n in range(8)]
        assert all(len(future.result(60).tokens) == 24 for future in futures)
    # One pass over the prompts (all within 32 tokens) and one for each further token.
    assert rows_of(passes) == [8] * 24


def test_a_batch_never_has_more_rows_than_allowed(tiny_model_path: Path) -> None:
    engine = LocalEngine(tiny_model_path, device="cpu", threads=1, max_batch=3)
    with computed(engine) as passes:
        rows = decode(engine, *(request("hi" * n) for n in range(8)))
    assert max(rows_of(passes)) == 3
    for n, row in enumerate(rows):
        assert list(row.tokens) == generated(engine, "hi" * n, 24)
    engine.close()


def test_a_batch_never_has_more_positions_than_allowed(tiny_model_path: Path) -> None:
    engine = LocalEngine(tiny_model_path, device="cpu", threads=1, max_batch_tokens=150)
    with computed(engine) as passes, held(engine):
        # 18 tokens of template, 2 to 4 of question, 24 to come: about 45 each, so three fit.
        futures = engine.decode([request("hi" * n) for n in (1, 2, 1, 2)] + [request("y" * 300)])
    with computed(engine) as later:
        assert all(future.result(60) for future in futures)
    assert max(rows_of([*passes, *later])) == 3
    engine.close()


def test_prompts_of_very_different_length_are_not_padded_to_each_other(
    tiny_engine: LocalEngine,
) -> None:
    with computed(tiny_engine) as passes:
        with held(tiny_engine):
            futures = tiny_engine.decode([request("a"), request("b" * 300), request("c")])
        for future in futures:
            future.result(60)
    assert rows_of(passes[:3]) == [
        2,
        1,
        3,
    ]  # the short prompts, the long one, then everybody's next token


def test_a_short_job_is_served_between_two_tokens(tiny_engine: LocalEngine) -> None:
    begun, queued = threading.Event(), threading.Event()

    pieces: list[str] = []

    def wait_for_the_job(piece: str) -> None:
        pieces.append(piece)
        if len(pieces) == 3:  # the batch is under way by then
            begun.set()
            queued.wait()

    async def pieces_meanwhile() -> int:
        tiny_engine.decode([request(on_text=wait_for_the_job)])
        await asyncio.to_thread(begun.wait)
        job = asyncio.create_task(tiny_engine.in_lane(lambda _: len(pieces)))
        await asyncio.sleep(0)  # the task has put its job into the lane
        queued.set()
        return await job

    assert asyncio.run(pieces_meanwhile()) == 3


def test_a_request_joins_the_running_batch_at_the_next_token(tiny_engine: LocalEngine) -> None:
    late: list[Future[Decoded]] = []
    pieces: list[str] = []

    def queue_at_the_fourth(piece: str) -> None:
        pieces.append(piece)
        if len(pieces) == 4:
            shapes.clear()
            late.extend(tiny_engine.decode([request("hen", max_new_tokens=5)]))

    with computed(tiny_engine) as shapes:
        (row,) = decode(tiny_engine, request(on_text=queue_at_the_fourth, max_new_tokens=40))
        (joined,) = (future.result(60) for future in late)
    assert shapes[0] == (1, joined.prompt_tokens)
    assert shapes[1:6] == [(2, 1)] * 4 + [(1, 1)]  # four more tokens of the late one, then it left
    assert list(row.tokens) == generated(tiny_engine, "hi", 40)


def test_generation_goes_on_between_the_steps_of_a_training(tiny_engine: LocalEngine) -> None:
    begun, answered = threading.Event(), threading.Event()

    def train(_: LoadedModel) -> Generator[None, None, str]:
        while not answered.is_set():  # for ever, if it were not for the steps in between
            begun.set()
            yield
        return "trained"

    async def both() -> tuple[Decoded, str]:
        training = asyncio.create_task(tiny_engine.run_steps(train))
        await asyncio.to_thread(begun.wait)
        (future,) = tiny_engine.decode([request()])
        row = await asyncio.wrap_future(future)
        answered.set()
        return row, await training

    row, result = asyncio.run(both())
    assert (len(row.tokens), result) == (24, "trained")


# --- adapters ----------------------------------------------------------------------------------


def test_each_row_has_its_own_adapter_while_others_leave(tiny_engine: LocalEngine) -> None:
    tiny_engine.attach_adapters(BiasedRows)
    settings = [(None, 24), ("token 40", 9), ("token 50", 30), (None, 5), ("token 40", 20)]
    with held(tiny_engine):
        futures = tiny_engine.decode(
            [request(adapter=key, max_new_tokens=length) for key, length in settings]
        )
    plain = generated(tiny_engine, "hi", 24)
    for (key, length), future in zip(settings, futures, strict=True):
        expected = plain[:length] if key is None else [int(key.split()[1])] * length
        assert list(future.result(60).tokens) == expected


def test_numbers_that_are_none_fail_their_own_row(tiny_engine: LocalEngine) -> None:
    tiny_engine.attach_adapters(BiasedRows)
    futures = tiny_engine.decode([request(adapter="nan"), request()])
    with pytest.raises(PolicyModelError, match="adapter 'nan' gave logits that are not numbers"):
        futures[0].result(60)
    assert list(futures[1].result(60).tokens) == generated(tiny_engine, "hi", 24)


@pytest.mark.parametrize("attached", [False, True], ids=["no-adapters", "another-adapter"])
def test_an_adapter_that_is_not_there_fails_its_own_row(
    tiny_engine: LocalEngine, attached: bool
) -> None:
    if attached:
        tiny_engine.attach_adapters(BiasedRows)
    futures = tiny_engine.decode([request(adapter="k9"), request()])
    expected = "load it first" if attached else "attach adapters to the engine first"
    with pytest.raises(PolicyModelError, match=f"adapter 'k9' .*{expected}"):
        futures[0].result(60)
    assert len(futures[1].result(60).tokens) == 24


def test_an_adapter_evicted_on_the_way_fails_its_own_row(tiny_engine: LocalEngine) -> None:
    adapters: list[BiasedRows] = []

    def make(loaded: LoadedModel) -> BiasedRows:
        adapters.append(BiasedRows(loaded))
        return adapters[0]

    tiny_engine.attach_adapters(make)

    def evict(_: str) -> None:
        adapters[0].keys.discard("token 40")
        tiny_engine.decode([request()])  # someone else's request makes the batch look again

    futures = tiny_engine.decode([request(adapter="token 40", on_text=evict), request()])
    with pytest.raises(PolicyModelError, match="adapter 'token 40' is not resident"):
        futures[0].result(60)
    assert len(futures[1].result(60).tokens) == 24


# --- errors ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        pytest.param(
            {"question": "y" * 600},
            r"a prompt of 6\d\d tokens leaves no room in the model's context of 512: give fewer",
            id="prompt-too-long",
        ),
        pytest.param({"max_new_tokens": 0}, "must be at least 1, got 0", id="nothing-to-generate"),
    ],
)
def test_a_request_that_cannot_be_served_says_why(
    tiny_engine: LocalEngine, settings: dict[str, Any], message: str
) -> None:
    futures = tiny_engine.decode([request(**settings), request()])
    with pytest.raises(PolicyModelError, match=message):
        futures[0].result(60)
    assert len(futures[1].result(60).tokens) == 24


def test_a_model_that_fails_fails_its_rows_and_serves_the_next(tiny_engine: LocalEngine) -> None:
    def break_forward(loaded: LoadedModel) -> Any:
        forward = loaded.model.forward

        def broken(**_: Any) -> Any:
            raise RuntimeError("shape mismatch")

        loaded.model.forward = broken
        return forward

    original = in_lane(tiny_engine, break_forward)
    with pytest.raises(PolicyModelError, match="could not generate: RuntimeError: shape mismatch"):
        decode(tiny_engine, request())
    in_lane(tiny_engine, lambda loaded: setattr(loaded.model, "forward", original))
    assert len(decode(tiny_engine, request())[0].tokens) == 24


def test_closing_the_engine_fails_rows_in_work(tiny_engine: LocalEngine) -> None:
    def close(_: str) -> None:
        tiny_engine.close()

    futures = tiny_engine.decode([request(on_text=close, max_new_tokens=400), request()])
    for future in futures:
        with pytest.raises(PolicyModelError, match="is closed: make a new one"):
            future.result(60)


def test_a_folder_without_a_model_is_an_error_of_the_row(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    engine = LocalEngine(tmp_path, device="cpu")
    with pytest.raises(PolicyModelError, match="could not load a model from"):
        decode(engine, request())
    engine.close()


# --- turns -------------------------------------------------------------------------------------

PANEL = 4


@pytest.fixture
def narrow_engine(tiny_model_path: Path) -> Generator[LocalEngine]:
    """An engine of a batch that the rows of one panel fill."""
    engine = LocalEngine(tiny_model_path, device="cpu", threads=1, max_batch=PANEL)
    yield engine
    engine.close()


def alone(engine: LocalEngine, *rows: Any) -> list[tuple[int, ...]]:
    return [decode(engine, row)[0].tokens for row in rows]


@pytest.mark.parametrize("begun", [1, 5], ids=["first-token", "on-the-way"])
def test_a_plain_ask_does_not_wait_for_a_panel(narrow_engine: LocalEngine, begun: int) -> None:
    panel = [request(temperature=1.0, seed=n, max_new_tokens=60) for n in range(PANEL)]
    expected = alone(narrow_engine, *panel, request(QUESTIONS[1], max_new_tokens=6))
    pieces, asked, told = list[str](), list[Future[Decoded]](), list[int]()

    def ask(piece: str) -> None:
        pieces.append(piece)
        if len(pieces) == begun:
            told.append(len(passes))
            (future,) = narrow_engine.decode([request(QUESTIONS[1], max_new_tokens=6)])
            future.add_done_callback(lambda _: told.append(len(passes)))
            asked.append(future)

    panel[0] = request(temperature=1.0, seed=0, max_new_tokens=60, on_text=ask)
    with computed(narrow_engine) as passes:
        rows = [future.result(60) for future in narrow_engine.decode(panel)]
        found = [*(row.tokens for row in rows), asked[0].result(60).tokens]
    asked_at, answered_at = told
    assert answered_at - asked_at == 6  # its prompt, which gives a token, and five more
    assert max(rows_of(passes)) <= PANEL
    assert found == expected  # whoever made room has gone on where it was
    assert [row.prompt_tokens for row in rows] == [rows[0].prompt_tokens] * PANEL
    assert all(row.reused_tokens >= row.prompt_tokens - 1 for row in rows[1:])
    assert sum(columns > 1 for _, columns in passes) == 2  # two prompts, and nothing again


def test_many_plain_asks_leave_a_panel_one_row(narrow_engine: LocalEngine) -> None:
    """A row goes on all the time, and no ask of one row makes room for another one."""
    ends: list[str] = []

    def watch(name: str, future: Future[Decoded]) -> Future[Decoded]:
        future.add_done_callback(lambda _: ends.append(name))
        return future

    with held(narrow_engine):
        rows = narrow_engine.decode([request("the hen", max_new_tokens=20)] * PANEL)
        futures = [watch("draw", row) for row in rows]
        for number in range(2 * PANEL):
            (row,) = narrow_engine.decode([request(QUESTIONS[number % 2], max_new_tokens=20)])
            futures.append(watch("ask", row))
    for future in futures:
        future.result(60)
    # One of the draws beside three asks, three times over; the rest of the draws at the end.
    assert sorted(ends[:PANEL]) == ["ask"] * (PANEL - 1) + ["draw"]
    assert ends.index("draw") < PANEL
    assert ends[-1] == "draw"


def test_a_parked_row_that_is_cancelled_or_late_ends(narrow_engine: LocalEngine) -> None:
    panel = [request(temperature=1.0, seed=n, max_new_tokens=400) for n in range(PANEL)]
    pieces, asks = list[str](), list[Future[Decoded]]()
    enough = threading.Event()

    def ask(piece: str) -> None:
        pieces.append(piece)
        if len(pieces) == 3:
            asks.extend(
                narrow_engine.decode([request(question, max_new_tokens=8)])[0]
                for question in QUESTIONS[: PANEL - 1]
            )
        if len(pieces) == 5:
            enough.set()

    panel[0] = request(temperature=1.0, seed=0, max_new_tokens=400, on_text=ask)
    futures = narrow_engine.decode(panel)
    assert enough.wait(60)
    futures[PANEL - 1].cancel()  # the youngest draw makes room first
    futures[0].cancel()
    assert [len(future.result(60).tokens) for future in asks] == [8] * len(asks)
    for future in futures[1 : PANEL - 1]:
        future.cancel()
    assert len(decode(narrow_engine, request(max_new_tokens=3))[0].tokens) == 3


def test_a_panel_that_is_given_up_gets_no_further_pass(tiny_engine: LocalEngine) -> None:
    reached, go = threading.Event(), threading.Event()
    pieces = list[str]()

    def hold_back(piece: str) -> None:
        pieces.append(piece)
        if len(pieces) == 3:
            reached.set()
            go.wait(60)

    rows = [request(temperature=1.0, seed=n, max_new_tokens=400) for n in range(15)]
    panel = [request(temperature=1.0, seed=15, max_new_tokens=400, on_text=hold_back), *rows]

    async def give_up() -> int:
        waiting = asyncio.create_task(gathered(tiny_engine.decode(panel)))
        assert await asyncio.to_thread(reached.wait, 60)
        begun = len(passes)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        go.set()
        await tiny_engine.in_lane(lambda _: None)
        return begun

    with computed(tiny_engine) as passes:
        begun = asyncio.run(give_up())
    assert len(passes) == begun
