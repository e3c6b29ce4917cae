"""Asking an engine for rows, a look at the passes it takes, and transformers' own answer."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch

from rttc_graph.integrations.lora.resident_adapters import ResidentAdapters
from rttc_graph.integrations.transformers.decoding.row import Decoded, DecodeRequest
from rttc_graph.integrations.transformers.local_engine import LoadedModel, LocalEngine
from rttc_graph.integrations.transformers.tokens import encode_prompt
from rttc_graph.protocols import GenerationRequest

QUESTIONS = ("hi", "what is the rain in Spain?", "x" * 90, "and then the hen", "z" * 200, "10 €")


def request(question: str = "hi", *, max_new_tokens: int = 24, **settings: Any) -> DecodeRequest:
    mine = {name: settings.pop(name) for name in ("deadline", "on_text") if name in settings}
    generation = GenerationRequest(
        messages=({"role": "user", "content": question},),
        max_new_tokens=max_new_tokens,
        **settings,
    )
    return DecodeRequest(generation=generation, **mine)


def decode(engine: LocalEngine, *requests: DecodeRequest) -> list[Decoded]:
    return [future.result(60) for future in engine.decode(requests)]


def in_lane(engine: LocalEngine, job: Callable[[LoadedModel], Any]) -> Any:
    return asyncio.run(engine.in_lane(job))


def generated(engine: LocalEngine, question: str, new_tokens: int) -> list[int]:
    """The reference: transformers' greedy `generate`, one row, no padding."""

    def job(loaded: LoadedModel) -> list[int]:
        prompt = encode_prompt(loaded, [{"role": "user", "content": question}])
        generate = cast("Callable[..., torch.Tensor]", loaded.model.generate)
        found = generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=new_tokens,
            do_sample=False,
        )
        return cast("list[int]", found[0, len(prompt) :].tolist())

    return cast("list[int]", in_lane(engine, job))


@contextmanager
def held(engine: LocalEngine) -> Generator[None]:
    """Keep the lane busy, so that everything queued meanwhile arrives at once."""
    begun, gate = threading.Event(), threading.Event()
    done: list[BaseException] = []

    def wait(loaded: LoadedModel) -> None:
        begun.set()
        gate.wait()

    def hold() -> None:
        try:
            in_lane(engine, wait)
        except BaseException as exc:  # noqa: BLE001  # shown to the test below
            done.append(exc)

    thread = threading.Thread(target=hold)
    in_lane(engine, lambda _: None)
    thread.start()
    assert begun.wait(60)
    try:
        yield
    finally:
        gate.set()
        thread.join()
    assert not done


@contextmanager
def computed(engine: LocalEngine) -> Generator[list[tuple[int, int]]]:
    """Record rows and columns of the input of every forward pass."""
    shapes: list[tuple[int, int]] = []

    def wrap(loaded: LoadedModel) -> Callable[..., Any]:
        forward = loaded.model.forward

        def recording(*args: Any, **kwargs: Any) -> Any:
            shapes.append(tuple(kwargs["input_ids"].shape))
            return forward(*args, **kwargs)

        loaded.model.forward = recording
        return forward

    original = in_lane(engine, wrap)
    yield shapes
    in_lane(engine, lambda loaded: setattr(loaded.model, "forward", original))


def rows_of(shapes: Sequence[tuple[int, int]]) -> list[int]:
    return [rows for rows, _ in shapes]


def resident_adapters(engine: LocalEngine) -> ResidentAdapters:
    """Give an engine, whose model is loaded for it, real adapters, of which none is there yet."""
    made: list[ResidentAdapters] = []

    def attach(loaded: LoadedModel) -> ResidentAdapters:
        made.append(ResidentAdapters(loaded.model, max_bytes=2**24))
        return made[-1]

    engine.attach_adapters(attach)
    in_lane(engine, lambda _: None)
    return made[-1]


class BiasedRows:
    """Stands for LoRA: the adapter `token N` makes a row say token N, `nan` breaks it."""

    def __init__(self, loaded: LoadedModel) -> None:
        self._model = loaded.model
        self.keys = {"token 40", "token 50", "nan"}

    def has(self, key: str) -> bool:
        return key in self.keys

    def version(self, key: str) -> int:
        return 0

    def hold(self, key: str) -> Callable[[], None]:
        return lambda: None

    @contextmanager
    def rows(self, keys: Sequence[str | None]) -> Generator[Callable[..., Any]]:
        def forward(**kwargs: Any) -> Any:
            out = self._model.forward(**kwargs)
            for row, key in enumerate(keys):
                if key == "nan":
                    out.logits[row] = float("nan")
                elif key is not None:
                    out.logits[row, :, int(key.split()[1])] += 1000
            return out

        yield forward
