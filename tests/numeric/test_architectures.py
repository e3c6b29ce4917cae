"""Tiny random models of many makes: company, kept prompts and drafts change no answer."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from decoding import decode, held, in_lane, request
from tiny_models import tiny_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM

from rttc_graph.errors import AdaptationError, ConfigurationError
from rttc_graph.integrations.lora.lora_trainer import LoraTrainer
from rttc_graph.integrations.transformers.loading import one_load_at_a_time
from rttc_graph.integrations.transformers.local_engine import LocalEngine
from rttc_graph.integrations.transformers.scoring import ScoringRequest, log_probabilities
from rttc_graph.protocols import TrainingExample
from rttc_graph.settings import TttSettings

SIZE = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
SLIDING = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}
MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8}
QUESTIONS = ("hi", "what is the rain in Spain?", "x" * 40, "and then the hen")


@dataclass(frozen=True, kw_only=True)
class Make:
    """A kind of model."""

    kind: str
    config: dict[str, Any]
    can_batch: bool = True
    refusal: str = ""
    """Why no adapter is possible, if none is."""
    without: tuple[str, ...] = field(default=())
    """Modules that get no term."""
    int8: bool = True
    """Whether it can be kept in eight bits: it leaves its products to its layers."""


MAKES = (
    Make(kind="llama", config=SIZE),
    Make(kind="qwen2", config=SIZE),
    Make(kind="qwen3", config={**SIZE, "head_dim": 8}),
    Make(kind="gemma3_text", config={**SIZE, "head_dim": 8, **SLIDING}),
    Make(kind="mistral", config={**SIZE, "sliding_window": 8}),
    Make(kind="phi", config=SIZE),
    Make(kind="gpt2", config={"n_embd": 32, "n_layer": 2, "n_head": 4}),
    Make(kind="opt", config={**SIZE, "ffn_dim": 48, "word_embed_proj_dim": 32}),
    Make(kind="gpt_neox", config=SIZE),
    Make(kind="bloom", config={"hidden_size": 32, "n_layer": 2, "n_head": 4}),
    Make(kind="mixtral", config={**SIZE, "num_local_experts": 4}, without=("experts", "gate")),
    Make(kind="qwen3_moe", config={**SIZE, **EXPERTS, "head_dim": 8}, without=("experts", "gate")),
    Make(
        kind="qwen2_moe",
        config={**SIZE, **EXPERTS, "shared_expert_intermediate_size": 16},
        without=("experts", "shared_expert"),
    ),
    Make(kind="gpt_oss", config={**SIZE, "head_dim": 8, "num_local_experts": 4, **SLIDING}),
    Make(kind="lfm2", config={**SIZE, "layer_types": ["conv", "full_attention"]}, can_batch=False),
    Make(
        kind="jamba",
        config={
            **SIZE,
            "num_hidden_layers": 4,
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "num_experts": 2,
            "mamba_d_state": 8,
        },
        can_batch=False,
        without=("dt_proj", "experts"),
        int8=False,
    ),
    Make(
        kind="granitemoehybrid",
        config={**SIZE, "layer_types": ["mamba", "attention"], "num_local_experts": 2, **MAMBA},
        can_batch=False,
        without=("experts",),
    ),
    Make(kind="bamba", config={**SIZE, "attn_layer_indices": [1], **MAMBA}, can_batch=False),
    Make(
        kind="llama4_text",
        config={
            **SIZE,
            "head_dim": 8,
            "num_local_experts": 2,
            "intermediate_size_mlp": 48,
            "attention_chunk_size": 8,
        },
        can_batch=False,
        without=("router", "shared_expert"),
    ),
    Make(
        kind="mamba",
        config={"hidden_size": 32, "num_hidden_layers": 2},
        can_batch=False,
        refusal="no place for an adapter in the model: .*mamba",
        int8=False,
    ),
    Make(
        kind="rwkv",
        config={"hidden_size": 32, "num_hidden_layers": 2, "attention_hidden_size": 32},
        can_batch=False,
    ),
)


def write(make: Make, folder: Path) -> Path:
    """Write a model of this make, its weights spread wide so that greedy choices are clear."""
    tokenizer = tiny_tokenizer()
    ends = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    config = AutoConfig.for_model(make.kind, vocab_size=len(tokenizer), **ends, **make.config)
    with torch.random.fork_rng(devices=[]), one_load_at_a_time(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        model = cast("Any", AutoModelForCausalLM).from_config(config)
        with torch.no_grad():
            for weight in model.parameters():
                if weight.dim() > 1:
                    weight.mul_(6)
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=MAKES, ids=lambda make: make.kind)
def make(request: pytest.FixtureRequest) -> Make:
    """Each make in turn."""
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def folder(make: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a model of this make."""
    return write(make, tmp_path_factory.mktemp("makes") / make.kind)


@pytest.fixture
def engine(folder: Path) -> Iterator[LocalEngine]:
    """An engine that keeps prompts."""
    engine = LocalEngine(folder, device="cpu", threads=1, prefix_cache_bytes=10**7)
    yield engine
    engine.close()


def test_answers_are_those_of_transformers_alone_in_company_with_drafts_and_known_prompts(
    engine: LocalEngine, make: Make
) -> None:
    assert in_lane(engine, lambda loaded: loaded.can_batch) is make.can_batch

    def by_hand(question: str) -> list[int]:
        """The longest way: every token anew, without a cache."""

        def job(loaded: Any) -> list[int]:
            ids = loaded.tokenizer.apply_chat_template(
                [{"role": "user", "content": question}],
                add_generation_prompt=True,
                return_dict=False,
            )
            start = len(ids)
            with torch.inference_mode():
                while len(ids) < start + 12 and ids[-1] not in loaded.eos_ids:
                    out = loaded.model(input_ids=torch.tensor([ids]), use_cache=False)
                    ids = [*ids, int(out.logits[0, -1].argmax())]
            return cast("list[int]", ids[start:])

        return in_lane(engine, job)  # type: ignore[no-any-return]

    wanted = {question: by_hand(question) for question in QUESTIONS}
    alone = [decode(engine, request(one, max_new_tokens=12))[0] for one in QUESTIONS]
    assert [list(each.tokens) for each in alone] == [wanted[one] for one in QUESTIONS]
    again = [decode(engine, request(one, max_new_tokens=12))[0] for one in QUESTIONS]
    assert [each.tokens for each in again] == [each.tokens for each in alone]
    with held(engine):
        together = engine.decode([request(one, max_new_tokens=12) for one in QUESTIONS])
    assert [each.result(60).tokens for each in together] == [each.tokens for each in alone]
    drafts = (alone[1].text, alone[1].text[:3] + "zz")
    drafted = decode(engine, request(QUESTIONS[1], max_new_tokens=12, drafts=drafts))[0]
    assert drafted.tokens == alone[1].tokens


def test_scores_are_the_same_alone_and_in_company(engine: LocalEngine) -> None:
    asked = [
        ScoringRequest(messages=({"role": "user", "content": one},), answer=answer)
        for one, answer in zip(QUESTIONS, ("yes", "in the plain", "no", "10"), strict=True)
    ]
    together = asyncio.run(log_probabilities(engine, asked))
    alone = [asyncio.run(log_probabilities(engine, [one]))[0] for one in asked]
    assert together == pytest.approx(alone, abs=2e-3)


def test_an_adapter_is_trained_and_used_row_by_row_or_refused(
    engine: LocalEngine, make: Make
) -> None:
    trainer = LoraTrainer(engine)
    examples = [
        TrainingExample(messages=({"role": "user", "content": one},), answer="Paris")
        for one in QUESTIONS
    ]
    settings = TttSettings(rank=4, learning_rate=1e-2, epochs=6, stop_loss=0.0)
    before = [decode(engine, request(one, max_new_tokens=8))[0] for one in QUESTIONS]
    training = trainer.train("a", examples, settings, on_step=lambda _: None)
    if make.refusal:
        with pytest.raises(AdaptationError, match=make.refusal):
            asyncio.run(training)
    else:
        made = asyncio.run(training)
        assert made.losses[-1] < made.losses[0]
        names = in_lane(engine, lambda loaded: [t.name for t in _layout(loaded).targets])
        assert not [name for name in names for part in make.without if part in name.split(".")]
        alone = [
            decode(engine, request(one, max_new_tokens=8, adapter="a"))[0] for one in QUESTIONS[:2]
        ]
        with held(engine):
            mixed = engine.decode(
                [
                    request(QUESTIONS[0], max_new_tokens=8, adapter="a"),
                    request(QUESTIONS[2], max_new_tokens=8),
                    request(QUESTIONS[1], max_new_tokens=8, adapter="a"),
                ]
            )
        found = [each.result(60).tokens for each in mixed]
        assert found == [alone[0].tokens, before[2].tokens, alone[1].tokens]
        asyncio.run(trainer.load(made))
        loss = asyncio.run(trainer.loss(made, examples))
        assert loss < made.losses[0]
    after = [decode(engine, request(one, max_new_tokens=8))[0] for one in QUESTIONS]
    assert [each.tokens for each in after] == [each.tokens for each in before]


def test_in_eight_bits_rows_are_the_same_in_company_or_the_make_is_refused(
    folder: Path, make: Make
) -> None:
    engine = LocalEngine(folder, device="cpu", threads=1, dtype="int8")
    asked = [request(one, max_new_tokens=4) for one in QUESTIONS]
    try:
        if not make.int8:
            message = f"kind '{make.kind}' cannot be kept in eight bits \\("
            with pytest.raises(ConfigurationError, match=message):
                decode(engine, asked[0])
            return
        assert in_lane(engine, lambda loaded: loaded.can_batch) is make.can_batch
        alone = [decode(engine, one)[0].tokens for one in asked]
        with held(engine):
            together = engine.decode(asked)
        assert [each.result(60).tokens for each in together] == alone
    finally:
        engine.close()


def _layout(loaded: Any) -> Any:
    return loaded.adapters.adapted.layout
