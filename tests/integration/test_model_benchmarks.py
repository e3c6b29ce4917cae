"""The benchmarks of the model, run on one of ten thousand weights; peers where they are there."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from transformers.utils import logging as untyped_logging

from benchmarks.__main__ import measured
from benchmarks.cases import bestofn, concurrent, panels, weights
from benchmarks.peers.trainers import Judge, Ours, PeftTrainer, TransformersPeer, TrlPeer
from benchmarks.tools.benchmark_options import Setup
from rttc_graph.integrations.rewards.callable_reward import CallableReward
from rttc_graph.protocols import TrainingExample
from rttc_graph.settings import TrainingDtype, TttSettings

logging = cast("Any", untyped_logging)

pytestmark = pytest.mark.filterwarnings("ignore")  # of peers that we do not mend

SETTINGS = TttSettings(
    rank=4, alpha=8.0, learning_rate=2e-2, epochs=12, samples_per_step=8, min_steps=1, stop_loss=0.0
)
EXAMPLES = tuple(
    TrainingExample(messages=({"role": "user", "content": text},), answer="the tin hen")
    for text in ("what is the capital of the rain?", "capital of rain", "where reigns the rain?")
)


def needs(module: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(find_spec(module) is None, reason=f"{module} is not installed")


@pytest.fixture(autouse=True)
def loud_again() -> Iterator[None]:
    """Benchmarks silence transformers for good, which other tests listen to."""
    verbosity, has_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    yield
    logging.set_verbosity(verbosity)
    if has_bars:
        logging.enable_progress_bar()


@pytest.mark.parametrize(
    "peer", [pytest.param(TrlPeer, marks=needs("trl")), pytest.param(TransformersPeer)]
)
@pytest.mark.parametrize(
    ("name", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)]
)
def test_everybody_learns_the_same_from_the_same(
    tiny_model_path: Path, peer: type[PeftTrainer], name: TrainingDtype, dtype: torch.dtype
) -> None:
    ours, theirs, judge = (
        Ours(tiny_model_path, SETTINGS, name),
        peer(tiny_model_path, SETTINGS, dtype),
        Judge(tiny_model_path, SETTINGS),
    )
    try:
        encoded = ours.encode(EXAMPLES)
        fresh = theirs.train(encoded[:1])
        runs = [ours.train(EXAMPLES), theirs.train(encoded), theirs.train(encoded)]
        nats = [judge.nats(run.adapter, encoded[0]) for run in runs]
    finally:
        ours.close()
        theirs.close()
    assert runs[0].adapter.keys() == runs[1].adapter.keys() == fresh.adapter.keys()
    untouched = {name: 0 * tensor for name, tensor in runs[0].adapter.items()}
    before = judge.nats(untouched, encoded[0])
    assert all(after < before / 3 for after in nats)
    # The same start for the same seed: nothing of one training is left for the next.
    assert nats[1] == pytest.approx(nats[2], rel=1e-3)
    assert all(run.seconds >= run.loop_seconds > 0 for run in runs)


def test_asks_at_once_are_compared(tiny_model_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(concurrent, "AT_ONCE", (1, 2))
    rows = list(measured("concurrent", small(tiny_model_path)))
    assert [row["case"] for row in rows] == ["1 direct asks at once", "2 direct asks at once"]
    assert all(row["unit"] == "tokens/s" and row["ours"] > 0 < row["peer"] for row in rows)


def test_both_decodings_answer_the_same(
    tiny_model_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Without the last case: continuous batching takes half a minute to set up on any model.
    rows = list(islice(measured("decoding", replace(small(tiny_model_path), k=2)), 3))
    assert [row["peer_name"].partition(", ")[2] for row in rows] == [
        "generate",
        "prompt lookup of 10 tokens",
        "generate, padded",
    ]
    found = re.search(r"(\d+) of (\d+) answers equal", capsys.readouterr().err)
    assert found is not None
    assert int(found[1]) == int(found[2]) > 0


def test_weights_of_eight_bits_are_compared_with_others(
    tiny_model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "AT_ONCE", (2,))
    monkeypatch.setattr(weights, "PROMPT_QUESTIONS", 1)
    asked = tmp_path / "asked.jsonl"
    rows = [{"question": f"what is {n}?", "answer": str(n)} for n in range(4)]
    asked.write_text("".join(json.dumps(row) + "\n" for row in rows))
    setup = replace(small(tiny_model_path), data=(asked,), questions=3)
    found = {(row["case"], row["peer_name"]): row for row in measured("weights", setup)}
    assert [case for case, peer in found if peer == "bfloat16"] == [
        "2 answers at once",
        "one prompt",
        "weights in memory",
        "of 3 answers, equal to float32's",
    ]
    memory = found["weights in memory", "float32"]
    assert 2 < memory["ratio"] < 4  # beside the numbers there are scales, many in narrow layers
    assert found["of 3 answers, equal to float32's", "bfloat16"]["ours"] in (0, 1 / 3, 2 / 3, 1)


@needs("its_hub")
@needs("dspy")
def test_every_peer_gives_as_many_answers(
    tiny_model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bestofn, "ANSWERS", 3)
    rows = list(measured("bestofn", small(tiny_model_path)))
    assert [row["peer_name"].split()[0] for row in rows] == ["its_hub", "dspy"]
    assert all(row["ours"] > 0 < row["peer"] for row in rows)


@needs("dspy")
@needs("its_hub")
def test_panels_are_compared_with_peers(
    tiny_model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(panels, "ANSWERS", 4)
    monkeypatch.setattr(panels, "PIPELINE_QUESTIONS", 1)

    def judge(setup: Setup) -> CallableReward:
        return CallableReward(lambda query, answer: 0.5)

    monkeypatch.setattr(panels, "shipped_judge", judge)
    rows = list(measured("panels", replace(small(tiny_model_path), questions=2)))
    assert [row["case"] for row in rows if "its_hub" in row["peer_name"]].count(
        "adaptive, right"
    ) == 2
    assert {row["peer"] for row in rows if row["case"] == "adaptive, answers begun"} <= {
        3.0,
        3.5,
        4.0,
    }
    assert all(row["ours"] > 0 < row["peer"] for row in rows if row["unit"] != "share")


@pytest.mark.parametrize(("answer", "found"), [("", 0.0), ("a a b", 2 / 3), ("A a", 0.5)])
def test_the_reward_is_the_share_of_different_words(answer: str, found: float) -> None:
    assert bestofn.reward(answer) == pytest.approx(found)


def small(model: Path) -> Setup:
    return Setup(home=model, model=model, embedder=model, tokens=3)
