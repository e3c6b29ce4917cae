"""How work is recorded as CUDA graphs: what torch is asked for, by a stand-in for a GPU."""

from __future__ import annotations

import gc
from collections.abc import Callable, Generator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch

from rttc_graph.integrations.transformers.recorded.capture import CudaGraphs

GPU = torch.device("cuda", 1)


class Stream:
    def __init__(self) -> None:
        self.awaited: list[Stream] = []

    def wait_stream(self, other: Stream) -> None:
        self.awaited.append(other)


class Graph:
    replayed = 0

    def replay(self) -> None:
        self.replayed += 1


class Gpu:
    """The part of `torch.cuda` that records; like torch it keeps the stream of what failed."""

    def __init__(self) -> None:
        self.devices: list[torch.device] = []
        self.now = self.first = Stream()
        self.pools = 0
        self.begun: list[dict[str, Any]] = []

    def device(self, device: torch.device) -> nullcontext[None]:
        self.devices.append(device)
        return nullcontext()

    def current_stream(self) -> Stream:
        return self.now

    def graph_pool_handle(self) -> int:
        self.pools += 1
        return self.pools

    @contextmanager
    def stream(self, stream: Stream) -> Generator[None]:
        before, self.now = self.now, stream
        try:
            yield
        finally:
            self.now = before

    @contextmanager
    def graph(self, graph: Graph, **given: Any) -> Generator[None]:
        del graph
        before, self.now = self.now, given["stream"]
        self.begun.append({**given, "inference": torch.is_inference_mode_enabled()})
        try:
            yield
        except ValueError:
            raise RuntimeError("a recording that failed cannot be ended") from None
        self.now = before


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    made = Gpu()
    for name in ("device", "current_stream", "graph_pool_handle", "stream", "graph"):
        monkeypatch.setattr(torch.cuda, name, getattr(made, name))
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    return made


def test_work_is_done_and_recorded_on_one_stream_of_the_device(gpu: Gpu) -> None:
    streams: list[Stream] = []
    record = CudaGraphs(GPU)
    for _ in range(2):
        record(lambda: streams.append(gpu.now))
    assert len(streams) == 8
    assert set(streams) == {gpu.begun[0]["stream"]}
    assert gpu.first not in streams
    assert gpu.now is gpu.first
    assert gpu.first.awaited == [streams[0]] * 2
    assert streams[0].awaited == [gpu.first] * 2
    assert gpu.devices == [GPU] * 2
    assert {each["capture_error_mode"] for each in gpu.begun} == {"thread_local"}


@pytest.mark.parametrize("infers", [False, True])
def test_torchs_own_tensors_are_none_of_inference_mode(gpu: Gpu, infers: bool) -> None:
    """Those that one recording made are changed by the next, whatever mode that one is in."""
    modes: list[bool] = []
    with torch.inference_mode(infers):
        CudaGraphs(GPU)(lambda: modes.append(torch.is_inference_mode_enabled()))
        assert torch.is_inference_mode_enabled() == infers
    assert modes == [infers] * 4
    assert [each["inference"] for each in gpu.begun] == [False]


def test_recordings_share_a_pool_as_long_as_one_of_them_is_kept(gpu: Gpu) -> None:
    record = CudaGraphs(GPU)
    kept: list[Callable[[], None]] = [record(_nothing), record(_nothing)]
    kept.pop(0)
    kept.append(record(_nothing))
    assert [each["pool"] for each in gpu.begun] == [1, 1, 1]
    kept.clear()
    gc.collect()
    record(_nothing)
    assert gpu.begun[-1]["pool"] == 2


def test_a_recording_that_fails_says_why_and_leaves_the_stream_as_it_was(gpu: Gpu) -> None:
    def work() -> None:
        if gpu.begun:
            raise ValueError("no look at the content of a tensor")

    with pytest.raises(RuntimeError, match="no look at the content"):
        CudaGraphs(GPU)(work)
    assert gpu.now is gpu.first


def _nothing() -> None:
    """Do nothing."""
