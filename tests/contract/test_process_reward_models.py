"""Judges of steps: the contract of all, and the layouts of published models."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from langchain_core.messages import AIMessage, BaseMessage
from langchain_fakes import SyncChat
from safetensors.torch import load, save
from tiny_checkpoints import byte_tokenizer
from tokenizers import AddedToken
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LlamaModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2Model,
)

from rttc_graph.errors import ConfigurationError, RewardModelError
from rttc_graph.installation.config import InstallationConfig
from rttc_graph.installation.configured_process_reward import open_process_reward
from rttc_graph.integrations.process_rewards.chat_step_judge import ChatStepJudge
from rttc_graph.integrations.process_rewards.probe_file import Probe, read_probe
from rttc_graph.integrations.process_rewards.rollout_value import RolloutSettings, RolloutValue
from rttc_graph.integrations.process_rewards.state_probe import StateProbe
from rttc_graph.integrations.process_rewards.step_templates import PrmKind, encode_steps
from rttc_graph.integrations.process_rewards.step_texts import QWEN_SYSTEM
from rttc_graph.integrations.process_rewards.transformers_prm import PrmSettings, TransformersPrm
from rttc_graph.integrations.rewards.calibrated.probability_maps import CalibrationMap
from rttc_graph.integrations.transformers.local_engine import LocalEngine
from rttc_graph.integrations.transformers.transformers_policy_model import TransformersPolicyModel
from rttc_graph.protocols import (
    BegunAnswer,
    Generation,
    GenerationRequest,
    ProcessRewardModel,
    measured_work,
)
from rttc_graph.testing import ProcessRewardModelContract
from rttc_graph.testing.reward_model_contract import begun

SIZES: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 512,
    "initializer_range": 0.5,
}


def grade(messages: list[BaseMessage]) -> AIMessage:
    """Grade by the length of the prompt, so that steps differ."""
    return AIMessage(str(len(messages[-1].text) % 11))


def tokenizer_with(*tokens: str, special: bool) -> PreTrainedTokenizerFast:
    tokenizer = byte_tokenizer()
    added: Any = [AddedToken(token, special=special) for token in tokens]
    tokenizer.add_tokens(added)
    return tokenizer


def read_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    read = cast("Any", PreTrainedTokenizerFast).from_pretrained  # untyped in transformers
    return cast("PreTrainedTokenizerFast", read(folder))


def math_shepherd_folder(folder: Path) -> Path:
    """A language model with a token for the step tag, as Math-Shepherd's."""
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**SIZES, pad_token_id=0)).save_pretrained(folder)
    tokenizer_with("ки", special=False).save_pretrained(folder)
    return folder


def qwen_folder(folder: Path) -> Path:
    """Weights and configuration as Qwen2.5-Math-PRM's: a class of its own, code beside it."""
    torch.manual_seed(0)
    tokenizer = tokenizer_with("<extra_0>", special=True)
    sizes: dict[str, Any] = {**SIZES, "vocab_size": len(tokenizer)}
    config = Qwen2Config(**sizes, pad_token_id=0)
    backbone = Qwen2Model(config)
    weights = {f"model.{name}": one.clone() for name, one in backbone.state_dict().items()}
    for name, shape in {"score.0": (16, 16), "score.2": (2, 16)}.items():
        weights[f"{name}.weight"] = 0.2 * torch.randn(*shape)
        weights[f"{name}.bias"] = torch.randn(shape[0])
    backbone.save_pretrained(folder)
    (folder / "model.safetensors").write_bytes(save(weights, metadata={"format": "pt"}))
    path = folder / "config.json"
    stored = json.loads(path.read_text(encoding="utf-8"))
    stored["architectures"] = ["Qwen2ForProcessRewardModel"]
    stored["auto_map"] = {"AutoModel": "modeling_qwen2_rm.Qwen2ForProcessRewardModel"}
    path.write_text(json.dumps(stored), encoding="utf-8")
    (folder / "modeling_qwen2_rm.py").write_text("raise SystemExit('code of a stranger')\n")
    tokenizer.save_pretrained(folder)
    return folder


def headed_folder(folder: Path, head: dict[str, tuple[int, ...]]) -> Path:
    """A Llama and the weights of a head."""
    torch.manual_seed(0)
    LlamaModel(LlamaConfig(**SIZES, pad_token_id=0)).save_pretrained(folder)
    path = folder / "model.safetensors"
    weights = {f"model.{name}": one for name, one in load(path.read_bytes()).items()}
    weights |= {name: 0.2 * torch.randn(*shape) for name, shape in head.items()}
    path.write_bytes(save(weights, metadata={"format": "pt"}))
    byte_tokenizer().save_pretrained(folder)
    return folder


def skywork_folder(folder: Path) -> Path:
    return headed_folder(folder, {"v_head.summary.weight": (1, 16), "v_head.summary.bias": (1,)})


def trl_folder(folder: Path) -> Path:
    return headed_folder(folder, {"score.weight": (2, 16), "score.bias": (2,)})


FOLDERS = {
    "math-shepherd": math_shepherd_folder,
    "qwen": qwen_folder,
    "skywork": skywork_folder,
    "trl": trl_folder,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {kind: make(tmp_path_factory.mktemp(kind)) for kind, make in FOLDERS.items()}


class TestMathShepherd(ProcessRewardModelContract):
    @pytest.fixture
    def process_reward_model(self, folders: dict[str, Path]) -> ProcessRewardModel:
        return TransformersPrm(folders["math-shepherd"])


class TestClassifier(ProcessRewardModelContract):
    @pytest.fixture
    def process_reward_model(self, folders: dict[str, Path]) -> ProcessRewardModel:
        return TransformersPrm(folders["qwen"], settings=PrmSettings(batch_size=3))


class TestChatStepJudge(ProcessRewardModelContract):
    @pytest.fixture
    def process_reward_model(self) -> ProcessRewardModel:
        return ChatStepJudge(SyncChat(answer=grade))


class TestRolloutValue(ProcessRewardModelContract):
    @pytest.fixture
    def process_reward_model(self, tiny_engine: LocalEngine) -> ProcessRewardModel:
        async def judge(query: str, answers: Sequence[str]) -> Sequence[float]:
            return [len(answer) % 7 / 7 for answer in answers]

        return RolloutValue(
            TransformersPolicyModel(tiny_engine),
            judge,
            settings=RolloutSettings(rollouts=2, max_new_tokens=4),
        )


def tiny_probe(**more: Any) -> Probe:
    """Three numbers, two directions: the score is sigmoid(first - second number)."""
    whole: dict[str, Any] = {
        "name": "tiny-probe",
        "policy_model": "tiny",
        "policy_fingerprint": "f",
        "mean": torch.zeros(3),
        "scale": torch.ones(3),
        "directions": torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]),
        "spread": torch.ones(2),
        "slopes": torch.tensor([1.0, -1.0]),
        "offset": 0.0,
        "farthest": 9.0,
        **more,
    }
    return Probe(**whole)


async def policy() -> str:
    return "f"


class TestStateProbe(ProcessRewardModelContract):
    @pytest.fixture
    def process_reward_model(self) -> ProcessRewardModel:
        return StateProbe(tiny_probe(), policy)


def ended(*state: float, adapter: str | None = None) -> BegunAnswer:
    return BegunAnswer(steps=("a\n", "b\n"), known=1, state=state, adapter=adapter)


async def test_a_probe_reads_states_and_abstains_out_of_its_domain() -> None:
    """Far states, other adapters, states of another size and missing ones have no probability."""
    probe = StateProbe(tiny_probe(), policy)
    asked = [
        ended(2.0, 0.0, 5.0),
        ended(0.0, 2.0, 5.0),
        ended(9.0, 0.0, 0.0),
        ended(2.0, 0.0, 5.0, adapter="k"),
        ended(2.0, 0.0),
        ended(float("nan"), 0.0, 0.0),
        BegunAnswer(steps=("a",)),
    ]
    found = [share for (share,) in await probe.score_steps("2+2?", asked)]
    assert found[:2] == pytest.approx([0.881, 0.119], abs=1e-3)
    assert found[2:] == [None] * 5
    whole = BegunAnswer(steps=("a\n", "b\n"), state=(2.0, 0.0, 5.0))
    [(first, last)] = await probe.score_steps("2+2?", [whole])
    assert first is None
    assert last == pytest.approx(0.881, abs=1e-3)


async def test_a_probe_reads_the_probabilities_of_the_steps_and_abstains_without_them() -> None:
    """One number of a state, then the last, the mean and the lowest of the steps."""
    probe = StateProbe(
        tiny_probe(
            mean=torch.zeros(4),
            scale=torch.ones(4),
            directions=torch.eye(4)[1:],
            spread=torch.ones(3),
            slopes=torch.tensor([1.0, 2.0, 4.0]),
            farthest=99.0,
        ),
        policy,
    )

    def said(*logprobs: float | None) -> BegunAnswer:
        return BegunAnswer(steps=("a\n", "b\n"), known=1, state=(0.0,), logprobs=logprobs)

    asked = [said(-2.0, -1.0), said(-1.0, -2.0), said(None, -1.0), said(None, None), said()]
    found = [share for (share,) in await probe.score_steps("2+2?", asked)]
    raw = [-1 + 2 * -1.5 + 4 * -2, -2 + 2 * -1.5 + 4 * -2, -1 + 2 * -1 + 4 * -1]
    assert found[:3] == pytest.approx([1 / (1 + math.exp(-one)) for one in raw], rel=1e-4)
    assert found[3:] == [None, None]


async def test_a_probe_of_another_model_says_nothing_and_is_closed() -> None:
    async def other() -> str:
        return "g"

    probe = StateProbe(tiny_probe(), other)
    assert await probe.score_steps("2+2?", [ended(2.0, 0.0, 5.0)]) == [(None,)]
    assert "another model answers" in await probe.closed()
    assert await StateProbe(tiny_probe(), policy).closed() == ""


async def test_a_probe_has_maps_and_closed_domains_of_its_own() -> None:
    steep = CalibrationMap("platt", ((3.0, 0.0),))
    flat = CalibrationMap("platt", ((0.5, 0.0),))
    probe = StateProbe(
        tiny_probe(maps={"": flat, "math": steep}, closed={"": "too few questions"}, widest=3),
        policy,
    )
    [(general,)] = await probe.score_steps("2+2?", [ended(2.0, 0.0, 5.0)])
    maths = probe.within(tenant="t", domain="math")
    [(own,)] = await maths.score_steps("2+2?", [ended(2.0, 0.0, 5.0)])
    assert general == pytest.approx(0.731, abs=1e-3)
    assert own == pytest.approx(0.998, abs=1e-3)
    assert await maths.closed() == ""
    assert await probe.within(tenant="t", domain="law").closed() == "too few questions"
    assert await probe.widest() == 3


def test_a_probe_is_read_as_it_was_written(tmp_path: Path) -> None:
    """Its fingerprint has the policy model's and the adapter's in it."""
    maps = {"": CalibrationMap("isotonic", ((0.1, 0.2), (0.9, 0.8)))}
    probe = tiny_probe(maps=maps, widest=4, figures={"auc": 0.7})
    probe.write(tmp_path / "probe")
    again = read_probe(tmp_path / "probe")
    assert again.fingerprint() == probe.fingerprint()
    assert (again.maps, again.widest, again.figures) == (maps, 4, {"auc": 0.7})
    others = [tiny_probe(maps=maps, policy_fingerprint="g"), tiny_probe(maps=maps, adapter="k")]
    assert len({probe.fingerprint(), *(one.fingerprint() for one in others)}) == 3
    with pytest.raises(ConfigurationError, match="holds no probe"):
        read_probe(tmp_path)
    (tmp_path / "probe" / "probe.safetensors").write_bytes(b"no")
    with pytest.raises(ConfigurationError, match="holds no probe"):
        read_probe(tmp_path / "probe")


@pytest.mark.parametrize(
    "other",
    [
        pytest.param({"maps": []}, id="no-maps-by-name"),
        pytest.param({"maps": {"": 1}}, id="a-map-that-is-none"),
        pytest.param({"closed": ["math"]}, id="no-reasons"),
        pytest.param({"farthest": "9"}, id="a-text-for-a-number"),
        pytest.param({"widest": "4"}, id="a-text-for-a-width"),
        pytest.param(None, id="a-list"),
    ],
)
def test_a_probe_that_holds_something_else_is_refused(
    other: dict[str, Any] | None, tmp_path: Path
) -> None:
    tiny_probe().write(tmp_path)
    file = tmp_path / "probe.json"
    stored = json.loads(file.read_text())
    file.write_text(json.dumps([stored] if other is None else {**stored, **other}))
    with pytest.raises(ConfigurationError, match="holds no probe that can be read"):
        read_probe(tmp_path)


@pytest.mark.parametrize("there", [True, False])
def test_a_folder_without_a_judge_of_steps_is_refused(there: bool, tmp_path: Path) -> None:
    folder = tmp_path / "probe"
    if there:  # as a training that was killed leaves it
        folder.mkdir()
        (folder / "steps.jsonl").touch()
    config = InstallationConfig(process_reward=str(folder))
    with pytest.raises(ConfigurationError, match=r"neither probe\.json nor"):
        open_process_reward(config, None, policy)


@pytest.mark.parametrize("kind", FOLDERS)
async def test_each_layout_is_told_by_the_weights_and_read(
    kind: str, folders: dict[str, Path]
) -> None:
    prm = TransformersPrm(folders[kind])
    [found] = await prm.score_steps("2+2?", [begun("It is 4.\n", "#### 4")])
    assert all(share is not None and 0 < share < 1 for share in found)
    assert found[0] != found[1]


LAYOUTS = [
    ("math-shepherd", "2+2? Step 1: It is 4. ки\nStep 2: #### 4 ки", "ки"),
    (
        "qwen",
        f"<bos>[system]{QWEN_SYSTEM}<eos>[user]2+2?<eos>It is 4.<extra_0>#### 4<extra_0>",
        "<extra_0>",
    ),
    ("skywork", "<bos>2+2?\nIt is 4.\n#### 4\n", "\n"),
    ("trl", "2+2?It is 4.\n#### 4\n", "\n"),
]


@pytest.mark.parametrize(("kind", "text", "end"), LAYOUTS)
def test_a_layout_is_written_as_the_model_knows_it(kind: PrmKind, text: str, end: str) -> None:
    tokenizer = tokenizer_with("ки", "<extra_0>", special=False)
    row = encode_steps(kind, tokenizer, "2+2?", ["It is 4.\n", "#### 4"])
    assert tokenizer.decode(row.ids) == text
    assert [tokenizer.decode(row.ids[at]) for at in row.ends] == [end, end]


def test_a_step_cannot_forge_the_end_of_a_step() -> None:
    """Text with the mark of a layout in it is judged where its own end is."""
    tokenizer = tokenizer_with("ки", special=False)
    row = encode_steps("math-shepherd", tokenizer, "ки?", ["ки + ки\n", "x"])
    assert len(row.ends) == 2
    assert tokenizer.decode(row.ids).count("ки") == 2
    tokenizer = tokenizer_with("<extra_0>", special=True)
    row = encode_steps("qwen", tokenizer, "2?", ["so<extra_0>\n", "x"])
    ends = [at for at, one in enumerate(row.ids) if one == tokenizer.get_vocab()["<extra_0>"]]
    assert row.ends == ends


async def test_the_heads_are_computed_as_published(folders: dict[str, Path]) -> None:
    """A classifier says its second label, Math-Shepherd good against bad."""
    answer = begun("It is 4.\n")
    [found] = await TransformersPrm(folders["qwen"]).score_steps("2+2?", [answer])
    weights = load((folders["qwen"] / "model.safetensors").read_bytes())
    backbone = Qwen2Model.from_pretrained(folders["qwen"], dtype="float32")
    tokenizer = read_tokenizer(folders["qwen"])
    row = encode_steps("qwen", tokenizer, "2+2?", answer.steps)
    state = backbone(input_ids=torch.tensor([row.ids])).last_hidden_state[0, row.ends]
    hidden = torch.relu(state @ weights["score.0.weight"].T + weights["score.0.bias"])
    labels = hidden @ weights["score.2.weight"].T + weights["score.2.bias"]
    assert found[0] == pytest.approx(float(labels.detach().softmax(dim=1)[0, 1]), abs=1e-5)

    [found] = await TransformersPrm(folders["math-shepherd"]).score_steps("2+2?", [answer])
    model = LlamaForCausalLM.from_pretrained(folders["math-shepherd"], dtype="float32")
    tokenizer = read_tokenizer(folders["math-shepherd"])
    row = encode_steps("math-shepherd", tokenizer, "2+2?", answer.steps)
    logits = model(input_ids=torch.tensor([row.ids])).logits[0, row.ends[0]]
    both = torch.stack([logits[tokenizer.get_vocab()["+"]], logits[tokenizer.get_vocab()["-"]]])
    assert found[0] == pytest.approx(float(both.detach().softmax(dim=0)[0]), abs=1e-5)


async def test_a_judge_abstains_from_what_is_too_long(folders: dict[str, Path]) -> None:
    prm = TransformersPrm(folders["trl"], settings=PrmSettings(max_tokens=30))
    short, long = begun("4\n"), begun("4\n", "x" * 40)
    assert [None not in found for found in await prm.score_steps("2+2?", [short, long])] == [
        True,
        False,
    ]


async def test_a_head_that_is_none_is_refused(tmp_path: Path) -> None:
    folder = headed_folder(tmp_path / "three", {"score.weight": (3, 16)})
    with pytest.raises(RewardModelError, match="no head that is known"):
        await TransformersPrm(folder).score_steps("2+2?", [begun("4\n")])
    with pytest.raises(ConfigurationError, match="kind="):
        PrmSettings(kind="best")  # type: ignore[arg-type]


async def test_rollouts_are_shared_out_and_a_finished_answer_is_judged_itself(
    tiny_engine: LocalEngine,
) -> None:
    asked: list[str] = []

    async def judge(query: str, answers: Sequence[str]) -> Sequence[float]:
        asked.extend(answers)
        return [float(number % 2) for number in range(len(answers))]

    prm = RolloutValue(
        TransformersPolicyModel(tiny_engine),
        judge,
        settings=RolloutSettings(rollouts=2, max_new_tokens=3),
    )
    whole = BegunAnswer(steps=("a\n", "b"), is_finished=True, messages=begun("a").messages)
    unknown = BegunAnswer(steps=("a\n",))
    with measured_work() as work:
        [found, nothing] = await prm.score_steps("2+2?", [whole, unknown])
    assert found == (0.5, 0.0)
    assert work.tokens is not None
    assert work.tokens > 2 * 3  # two completions, and what each of them has read
    assert work.flops
    assert nothing == (None,)
    assert asked[2] == "a\nb"
    assert all(text.startswith("a\n") for text in asked)


class Recorded(TransformersPolicyModel):
    """Keeps what it was asked."""

    def __init__(self, engine: LocalEngine) -> None:
        super().__init__(engine)
        self.asked: list[GenerationRequest] = []

    async def generate(
        self, requests: Sequence[GenerationRequest], *, deadline: float | None = None
    ) -> list[Generation]:
        self.asked += requests
        return await super().generate(requests, deadline=deadline)


async def test_rollouts_of_two_questions_are_independent(tiny_engine: LocalEngine) -> None:
    async def judge(query: str, answers: Sequence[str]) -> Sequence[float]:
        return [0.5] * len(answers)

    policy = Recorded(tiny_engine)
    settings = RolloutSettings(rollouts=2, max_new_tokens=3)
    prm = RolloutValue(policy, judge, settings=settings)
    answers = [
        BegunAnswer(steps=("a\n",), messages=({"role": "user", "content": text},))
        for text in ("2+2?", "3+1?")
    ]
    await prm.score_steps("2+2?", answers)
    assert len({request.seed for request in policy.asked}) == 4


async def test_a_chat_model_that_gives_no_grade_abstains() -> None:
    judge = ChatStepJudge(SyncChat(answer=lambda messages: AIMessage("Well.")))
    assert await judge.score_steps("2+2?", [begun("4\n", "  ")]) == [(None, None)]
