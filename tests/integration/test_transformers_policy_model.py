"""The local engine behind the `PolicyModel` protocol."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from tiny_models import make_tiny_model

from rttc_graph.errors import ConfigurationError, PolicyModelError
from rttc_graph.integrations.transformers import local_engine as engine_module
from rttc_graph.integrations.transformers.local_engine import LoadedModel, LocalEngine
from rttc_graph.integrations.transformers.torch_threads import LOOK_AGAIN_SECONDS, ThreadsByLoad
from rttc_graph.integrations.transformers.transformers_policy_model import TransformersPolicyModel
from rttc_graph.protocols import GenerationRequest, PolicyModel
from rttc_graph.state import ChatTurn

TURNS: tuple[ChatTurn, ...] = (
    {"role": "system", "content": "Answer."},
    {"role": "user", "content": "what is the rain?"},
)


def request(**settings: Any) -> GenerationRequest:
    given: dict[str, Any] = {"max_new_tokens": 16, **settings}
    return GenerationRequest(messages=TURNS, **given)


@pytest.fixture
def model(tiny_engine: LocalEngine) -> PolicyModel:
    return TransformersPolicyModel(tiny_engine)


async def test_generations_come_in_the_order_of_the_requests(model: PolicyModel) -> None:
    found = await model.generate([request(max_new_tokens=n) for n in (9, 3, 6)])
    assert [g.completion_tokens for g in found] == [9, 3, 6]
    assert {g.prompt_tokens for g in found} == {await model.count_tokens(TURNS)}
    assert all(g.finish_reason == "length" for g in found)
    assert all(g.mean_logprob is not None and g.mean_logprob < 0 for g in found)


async def test_no_request_gives_no_generation(model: PolicyModel) -> None:
    assert await model.generate([]) == []


async def test_a_prompt_is_counted_with_its_template(
    model: PolicyModel, tiny_engine: LocalEngine
) -> None:
    text = "<|start|>system\nAnswer.<|end|>\n<|start|>user\nwhat is the rain?<|end|>\n"

    def count(loaded: LoadedModel) -> int:
        text_ids = loaded.tokenizer(text + "<|start|>assistant\n", add_special_tokens=False)
        return len(text_ids["input_ids"])

    assert await model.count_tokens(TURNS) == await tiny_engine.in_lane(count)
    assert await model.context_tokens() == 512


async def test_the_deadline_ends_every_request(model: PolicyModel) -> None:
    found = await model.generate([request(), request()], deadline=time.monotonic() - 1)
    assert [g.finish_reason for g in found] == ["budget", "budget"]


async def test_nothing_blocks_the_loop(
    model: PolicyModel, tiny_engine: LocalEngine, no_blocking_calls: None
) -> None:
    await asyncio.gather(
        model.generate([request(), request()]), model.count_tokens(TURNS), model.context_tokens()
    )


def test_loops_in_several_threads_share_a_model(model: PolicyModel) -> None:
    found: list[str] = []

    def ask() -> None:
        found.append(asyncio.run(model.generate([request()]))[0].text)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len(set(found)) == 1


async def test_a_cancelled_call_leaves_nothing_behind_in_the_lane(
    model: PolicyModel, tiny_engine: LocalEngine
) -> None:
    passes: list[int] = []
    begun = threading.Event()

    def watch(loaded: LoadedModel) -> None:
        forward = loaded.model.forward

        def counting(*args: Any, **kwargs: Any) -> Any:
            passes.append(1)
            begun.set()
            return forward(*args, **kwargs)

        loaded.model.forward = counting

    await tiny_engine.in_lane(watch)
    call = asyncio.create_task(model.generate([request(max_new_tokens=400)] * 3))
    await asyncio.to_thread(begun.wait)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await tiny_engine.in_lane(lambda _: None)
    at_most = len(passes) + 1  # the pass in hand when the call was cancelled
    await model.count_tokens(TURNS)
    await model.count_tokens(TURNS)
    assert len(passes) <= at_most < 400


async def test_one_bad_request_fails_the_call(model: PolicyModel) -> None:
    with pytest.raises(PolicyModelError, match="adapter 'k' cannot be used"):
        await model.generate([request(), request(adapter="k")])


@pytest.mark.parametrize(
    ("template", "message"),
    [
        pytest.param(None, "has no chat template", id="none"),
        pytest.param("{{ raise_exception('no system role') }}", "no system role", id="refusing"),
    ],
)
async def test_a_template_that_does_not_serve_says_so(
    model: PolicyModel, tiny_engine: LocalEngine, template: str | None, message: str
) -> None:
    await tiny_engine.in_lane(lambda loaded: setattr(loaded.tokenizer, "chat_template", template))
    with pytest.raises(PolicyModelError, match=message):
        await model.generate([request()])
    with pytest.raises(PolicyModelError, match=message):
        await model.count_tokens(TURNS)


async def test_adapters_are_attached_once_and_after_loading_too(tiny_engine: LocalEngine) -> None:
    class NoRows:
        def has(self, key: str) -> bool:
            return key == "known"

        def version(self, key: str) -> int:
            raise NotImplementedError

        def hold(self, key: str) -> Callable[[], None]:
            raise NotImplementedError

        def rows(self, keys: object) -> Any:
            raise NotImplementedError

    made: list[LoadedModel] = []

    def make(loaded: LoadedModel) -> NoRows:
        made.append(loaded)
        return NoRows()

    await tiny_engine.in_lane(lambda _: None)
    tiny_engine.attach_adapters(make)
    assert await tiny_engine.in_lane(lambda m: m.adapters is not None and m.adapters.has("known"))
    assert len(made) == 1
    with pytest.raises(ConfigurationError, match="has adapters already"):
        tiny_engine.attach_adapters(make)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        pytest.param({"max_batch": 0}, "max_batch must be at least 1, got 0", id="max_batch"),
        pytest.param({"threads": 0}, "threads must be at least 1, got 0", id="threads"),
        pytest.param({"max_batch_tokens": -1}, "max_batch_tokens must be", id="max_batch_tokens"),
    ],
)
def test_an_engine_refuses_numbers_below_one(settings: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        LocalEngine("anything", **settings)  # type: ignore[arg-type]  # a table of keywords


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        pytest.param({"device": "abacus"}, "device='abacus' is unknown", id="device"),
        pytest.param({"dtype": "float7"}, "dtype='float7' is unknown", id="dtype"),
    ],
)
async def test_an_unknown_device_or_type_is_refused_at_first_use(
    tiny_model_path: Path, settings: dict[str, Any], message: str
) -> None:
    engine = LocalEngine(tiny_model_path, **settings)
    with pytest.raises(ConfigurationError, match=message):
        await engine.in_lane(lambda _: None)
    engine.close()


async def test_a_lane_gives_way_to_the_load_of_others(
    tiny_model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load, seconds = 0.0, 0.0
    by_load = partial(
        ThreadsByLoad, most=3, cores=3, load=lambda: load, clock=lambda: seconds, cpu_seconds=int
    )
    monkeypatch.setattr(engine_module, "ThreadsByLoad", by_load)
    engines = [LocalEngine(tiny_model_path, threads=threads) for threads in (2, None)]
    found: list[list[int]] = []
    for others in (0.0, 2.0):
        load = others
        found.append([await e.in_lane(lambda _: torch.get_num_threads()) for e in engines])
        seconds += LOOK_AGAIN_SECONDS
    assert found == [[2, 3], [2, 1]]
    for engine in engines:
        engine.close()


async def test_the_fingerprint_tells_models_apart_and_stays(tmp_path: Path) -> None:
    found: list[str] = []
    for name, seed in (("a", 0), ("same", 0), ("other", 1)):
        engine = LocalEngine(make_tiny_model(tmp_path / name, seed=seed), device="cpu", threads=1)
        found.append(await engine.in_lane(lambda loaded: loaded.fingerprint))
        engine.close()
    assert found[0] == found[1] != found[2]


async def test_the_template_is_part_of_the_fingerprint(tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path / "m")
    found: list[str] = []
    for extra in ("", "{# changed #}"):
        template = folder / "chat_template.jinja"
        template.write_text(template.read_text() + extra)
        engine = LocalEngine(folder, device="cpu", threads=1)
        found.append(await engine.in_lane(lambda loaded: loaded.fingerprint))
        engine.close()
    assert found[0] != found[1]


async def test_prompts_are_counted_while_the_lane_is_busy(tiny_engine: LocalEngine) -> None:
    policy = TransformersPolicyModel(tiny_engine)
    turns: tuple[ChatTurn, ...] = ({"role": "user", "content": "hi"},)
    alone = await policy.count_tokens(turns)
    reached, free = threading.Event(), threading.Event()

    def hold(_: object) -> None:
        reached.set()
        assert free.wait(60)

    busy = asyncio.create_task(tiny_engine.in_lane(hold))
    await asyncio.to_thread(reached.wait, 60)
    assert await asyncio.wait_for(policy.count_tokens(turns), 20) == alone
    assert await asyncio.wait_for(policy.context_tokens(), 20) == 512
    free.set()
    await busy


@pytest.mark.parametrize("tied", [False, True])
async def test_the_weights_that_a_token_meets_are_counted(tied: bool, tmp_path: Path) -> None:
    engine = LocalEngine(make_tiny_model(tmp_path, tied=tied), device="cpu", threads=1)
    found = await TransformersPolicyModel(engine).parameters()

    def all_but_the_table(loaded: LoadedModel) -> int:
        table = cast("Any", loaded.model).get_input_embeddings().weight.numel()
        return sum(one.numel() for one in loaded.model.parameters()) - (0 if tied else table)

    assert found == await engine.in_lane(all_but_the_table)
    engine.close()
