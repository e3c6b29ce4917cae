"""Losses, calibration and training of reward networks, on models of a few thousand weights."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from tiny_checkpoints import encoder_folder, trained_reward_folder
from torch import Tensor

from rttc_graph.errors import ConfigurationError, RewardModelError
from rttc_graph.integrations.rewards.pair_encoding import EncodedPair
from rttc_graph.integrations.rewards.trained import network
from rttc_graph.integrations.rewards.trained.head_learning import HeadSettings
from rttc_graph.integrations.rewards.trained.network_learning import LearnSettings, Loss, group_loss
from rttc_graph.integrations.rewards.trained.network_reward import (
    EncoderReward,
    PolicyBackboneReward,
)
from rttc_graph.integrations.rewards.trained.reward_folder import (
    RewardBase,
    encoder_base,
    load_network,
    new_network,
    policy_base,
)
from rttc_graph.integrations.rewards.trained.reward_spec import (
    WEIGHTS_FILE,
    Backbone,
    LogitMap,
    RewardSpec,
    folder_fingerprint,
    read_spec,
)
from rttc_graph.integrations.rewards.trained.signals import probability
from rttc_graph.integrations.transformers.local_engine import LocalEngine
from rttc_graph.reward_training.candidate_rows import CandidateRow, Source
from rttc_graph.reward_training.probability_fit import fit_logit_maps
from rttc_graph.reward_training.training import TrainSettings, split_groups, train_reward
from rttc_graph.testing.inputs import candidate


@pytest.fixture
def base_folder(tmp_path: Path) -> Path:
    return encoder_folder(tmp_path / "base")


def row(
    number: int, answer: str, *, right: bool, source: Source = "neighbour", logprob: float = -0.5
) -> CandidateRow:
    return {
        "key": f"{number} {answer} {source}",
        "group": str(number),
        "domain": "letters",
        "question": f"which letter is number {number}?",
        "reference": "a",
        "answer": answer,
        "right": right,
        "source": source,
        "temperature": 0.0,
        "mean_logprob": logprob,
        "completion_tokens": 1,
        "finish_reason": "stop",
    }


def learnable(questions: int = 24) -> list[CandidateRow]:
    """Right answers are made of other letters than wrong ones."""
    rows: list[CandidateRow] = []
    for number in range(questions):
        rows.append(row(number, "abcabc", right=True, source="reference"))
        rows.append(row(number, "xyzxyz", right=False))
        rows.append(row(number, "zzyxxy", right=False))
    return rows


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def test_losses_against_a_hand_calculation() -> None:
    logits = torch.tensor([1.0, 0.0, -1.0])
    right, groups = torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0, 0, 1])
    # right: log(1 + e^-1); wrong: mean of log(1 + e^0) and log(1 + e^-1); both sides weigh half
    pointwise = (softplus(-1) + (softplus(0) + softplus(-1)) / 2) / 2
    pairwise = softplus(-1)  # the only pair of one question: 1 against 0
    expected: dict[Loss, float] = {
        "pointwise": pointwise,
        "pairwise": pairwise,
        "both": pointwise + pairwise,
    }
    for loss, value in expected.items():
        got = group_loss(logits, right, groups, loss)
        torch.testing.assert_close(got, torch.tensor(value), atol=1e-6, rtol=0)


def test_a_batch_without_pairs_has_no_pairwise_loss() -> None:
    logits = torch.tensor([3.0, -2.0], requires_grad=True)
    loss = group_loss(logits, torch.tensor([1.0, 1.0]), torch.tensor([0, 0]), "pairwise")
    loss.backward()  # type: ignore[no-untyped-call]  # untyped in torch
    assert float(loss.detach()) == 0
    assert logits.grad is not None
    assert logits.grad.abs().sum() == 0


@pytest.mark.parametrize("backbone", ["towers", "encoder"])
def test_a_step_that_is_read_in_parts_has_the_same_gradients(
    base_folder: Path, backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = [
        EncodedPair([5] * asked + [said] * 3, [0] * asked + [1] * 3)
        for asked in (4, 9, 20)
        for said in (7, 8)
    ]

    def gradients(most_tokens: int) -> tuple[int, list[Tensor]]:
        base = encoder_base(base_folder)
        monkeypatch.setattr(
            network, "MOST_ACTIVATION_BYTES", most_tokens * network.activation_bytes(base.model)
        )
        torch.manual_seed(0)
        made = network.RewardNetwork(
            base.model, backbone, rank=2, alpha=4.0, hidden=8, pad_id=base.pad_id
        )
        read: list[int] = []
        made.base.register_forward_pre_hook(
            lambda module, args, named: read.append(named["input_ids"].numel()), with_kwargs=True
        )
        made(pairs).square().sum().backward()
        return max(read), [p.grad for p in made.parameters() if p.grad is not None]

    most, expected = gradients(10_000)
    fewer, got = gradients(25)
    assert fewer <= 25 < most
    assert len(got) == len(expected) > 4
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("backbone", ["towers", "encoder"])
@pytest.mark.parametrize("loss", ["pointwise", "pairwise", "both"])
def test_training_learns_what_can_be_learned(
    base_folder: Path, tmp_path: Path, backbone: Backbone, loss: Loss
) -> None:
    settings = TrainSettings(
        name="tiny",
        backbone=backbone,
        rank=4,
        hidden=16,
        max_tokens=60,
        train_tokens=60,
        learn=LearnSettings(loss=loss, epochs=6, learning_rate=1e-2, groups_per_step=4),
        head=HeadSettings(epochs=2),
    )
    steps: list[int] = []
    out = tmp_path / "out"
    result = train_reward(
        encoder_base(base_folder),
        learnable(),
        settings,
        out,
        on_progress=lambda p: steps.append(p.step),
    )
    assert result.held_out["auc"] == 1.0
    assert steps == [*range(1, len(steps) - 1), 1, 2]  # the network, then its head
    assert read_spec(out) == result.spec
    card = (out / "README.md").read_text(encoding="utf-8")
    for heading in ("## Data", "## Recipe", "## Figures", "## Limits"):
        assert heading in card


@pytest.mark.blocking_allowed
async def test_a_folder_scores_as_the_trained_network(base_folder: Path, tmp_path: Path) -> None:
    """Written in float16, read back, LoRA merged: the same answers within float16's rounding."""
    base = encoder_base(base_folder)
    folder = trained_reward_folder(tmp_path / "reward", base, "towers")
    spec = read_spec(folder)
    network = load_network(folder, spec, encoder_base(base_folder))
    pairs = base.pairs(spec.max_tokens, spec.backbone)
    answers = ["abc", "a much longer answer than the other one", "42"]
    with torch.no_grad():
        logits = network([pairs.encode("why?", a) for a in answers]).tolist()
    expected = [
        probability(x, candidate(a), spec.with_signals, spec.without_signals)
        for x, a in zip(logits, answers, strict=True)
    ]
    got = await EncoderReward(folder, base_folder).score("why?", [candidate(a) for a in answers])
    assert got == pytest.approx(expected, abs=1e-4)


def test_texts_read_in_company_are_read_as_alone(base_folder: Path) -> None:
    base = encoder_base(base_folder)
    network = new_network(base, _spec(base, "towers"))
    pairs = base.pairs(60, "towers")
    rows = [pairs.encode(q, a) for q in ("a?", "what is it b?") for a in ("x", "y" * 30, "x")]
    with torch.no_grad():
        together = network(rows)
        alone = torch.cat([network([one]) for one in rows])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=0)


@pytest.mark.blocking_allowed
async def test_the_policy_model_stays_as_it_is(tiny_engine: LocalEngine, tmp_path: Path) -> None:
    def weights(loaded: Any) -> list[Tensor]:
        return [p.detach().clone() for p in loaded.model.parameters()]

    def logits(loaded: Any) -> Tensor:
        with torch.no_grad():
            return cast(Tensor, loaded.model(torch.tensor([[5, 6, 7]])).logits)

    before, said = await tiny_engine.in_lane(weights), await tiny_engine.in_lane(logits)
    base = await tiny_engine.in_lane(policy_base)
    folder = trained_reward_folder(tmp_path / "reward", base, "causal")
    reward = PolicyBackboneReward(folder, tiny_engine)
    assert len(await reward.score("why?", [candidate("so"), candidate("because")])) == 2
    after = await tiny_engine.in_lane(weights)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert torch.equal(said, await tiny_engine.in_lane(logits))


@pytest.mark.blocking_allowed
async def test_the_policy_models_own_backbone_learns_too(
    tiny_engine: LocalEngine, tmp_path: Path
) -> None:
    settings = TrainSettings(
        name="own",
        backbone="causal",
        rank=4,
        hidden=16,
        learn=LearnSettings(epochs=6, learning_rate=1e-2, groups_per_step=4),
    )
    result = await tiny_engine.in_lane(
        lambda loaded: train_reward(
            policy_base(loaded), learnable(), settings, tmp_path, on_progress=lambda p: None
        )
    )
    assert result.held_out["auc"] == 1.0
    right, wrong = await PolicyBackboneReward(tmp_path, tiny_engine).score(
        "which letter is number 3?", [candidate("abcabc"), candidate("xyzxyz")]
    )
    assert right > wrong


def _spec(base: RewardBase, backbone: Backbone) -> RewardSpec:
    return RewardSpec(
        name="x",
        backbone=backbone,
        base="b",
        base_fingerprint=base.fingerprint,
        rank=2,
        alpha=4.0,
        hidden=8,
        max_tokens=48,
    )


def test_the_calibration_finds_the_weights_that_made_the_data() -> None:
    """5,000 draws from P = sigmoid(-0.5 + 1.2·logit + 0.8·logprob); a standard error is 0.06 at
    most, so 0.25 is passed by chance less than once in 10,000 runs."""
    chance = random.Random(0)
    rows: list[CandidateRow] = []
    logits: list[float] = []
    for number in range(5_000):
        logit, logprob = chance.gauss(0, 1.5), -abs(chance.gauss(0, 1))
        total = -0.5 + 1.2 * logit + 0.8 * max(logprob, -4.0)
        right = chance.random() < 1 / (1 + math.exp(-total))
        rows.append(row(number, "a", right=right, source="rag", logprob=logprob))
        logits.append(logit)
    full, plain = fit_logit_maps(rows, logits)
    assert full.bias == pytest.approx(-0.5, abs=0.25)
    assert full.logit == pytest.approx(1.2, abs=0.25)
    assert full.signals[0] == pytest.approx(0.8, abs=0.25)
    assert plain.signals == ()


def test_few_answers_of_the_model_are_calibrated_without_signals() -> None:
    rows = learnable(10)
    full, plain = fit_logit_maps(rows, [3.0 if r["right"] else -3.0 for r in rows])
    assert full == plain
    assert math.isfinite(full.bias)
    assert full.logit > 0


def test_answers_of_one_kind_leave_the_logit_as_it_is() -> None:
    rows = [row(number, "a", right=False) for number in range(5)]
    assert fit_logit_maps(rows, [1.0, 2.0, 3.0, 4.0, 5.0]) == (LogitMap(), LogitMap())


def test_the_fit_is_that_of_earlier_releases() -> None:
    """Values of the Newton's method written by hand that scikit-learn's took the place of."""
    chance = random.Random(1)
    logits = [chance.uniform(-4, 4) for _ in range(60)]
    rows = [
        row(n, "a", right=chance.random() < 1 / (1 + math.exp(-logit)), source="neighbour")
        for n, logit in enumerate(logits)
    ]
    [found, _] = fit_logit_maps(rows, logits)
    assert (found.bias, found.logit) == pytest.approx(
        (1.1480469055580425, 1.6434931518865943), abs=1e-8
    )


@pytest.mark.parametrize("mean_logprob", [None, math.nan, -math.inf])
def test_answers_without_log_probabilities_are_judged_by_their_text(
    mean_logprob: float | None,
) -> None:
    with_signals = LogitMap(bias=9.0, signals=(1.0, 1.0))
    one = candidate("a", mean_logprob=mean_logprob)
    assert probability(0.0, one, with_signals, LogitMap()) == 0.5


def test_no_question_is_on_both_sides_and_every_domain_is_on_each() -> None:
    rows = learnable(20) + [
        {**r, "domain": "other", "group": f"o{r['group']}"} for r in learnable(7)
    ]
    train, held = split_groups(rows, TrainSettings(name="x"))
    names = [{group[0]["group"] for group in side} for side in (train, held)]
    assert names[0].isdisjoint(names[1])
    assert len(names[0] | names[1]) == 27
    for side in (train, held):
        assert {group[0]["domain"] for group in side} == {"letters", "other"}
    assert split_groups(rows[::-1], TrainSettings(name="x")) == (train, held)


def test_too_little_to_learn_from_is_refused(base_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="1 questions are too few"):
        train_reward(
            encoder_base(base_folder),
            learnable(1),
            TrainSettings(name="x"),
            tmp_path / "out",
            on_progress=lambda p: None,
        )


@pytest.mark.blocking_allowed
async def test_another_backbone_is_refused(base_folder: Path, tmp_path: Path) -> None:
    folder = trained_reward_folder(tmp_path / "reward", encoder_base(base_folder), "towers")
    spec = read_spec(folder)
    replace(spec, base_fingerprint="another").write(folder)
    with pytest.raises(ConfigurationError, match="was trained on a backbone 'tiny'"):
        await EncoderReward(folder, base_folder).score("q", [candidate("a")])


@pytest.mark.blocking_allowed
async def test_damaged_weights_are_an_error(base_folder: Path, tmp_path: Path) -> None:
    folder = trained_reward_folder(tmp_path / "reward", encoder_base(base_folder), "towers")
    (folder / WEIGHTS_FILE).write_bytes(b"nothing")
    with pytest.raises(RewardModelError, match="could not read"):
        await EncoderReward(folder, base_folder).score("q", [candidate("a")])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param("{", "is damaged", id="no-json"),
        pytest.param("[]", "is damaged", id="no-object"),
        pytest.param(json.dumps({"format": 99}), "has format 99", id="newer"),
        pytest.param(json.dumps({"format": 1, "name": "x"}), "is damaged", id="incomplete"),
        pytest.param(None, "no reward model at", id="missing"),
    ],
)
def test_a_folder_of_something_else_is_refused(
    tmp_path: Path, content: str | None, message: str
) -> None:
    if content is not None:
        (tmp_path / "reward.json").write_text(content, encoding="utf-8")
    with pytest.raises(ConfigurationError, match=message):
        read_spec(tmp_path)


@pytest.mark.blocking_allowed
async def test_the_fingerprint_changes_with_the_weights(base_folder: Path, tmp_path: Path) -> None:
    folder = trained_reward_folder(tmp_path / "reward", encoder_base(base_folder), "towers")
    reward = EncoderReward(folder, base_folder)
    first = await reward.fingerprint()
    assert first == folder_fingerprint(folder)
    (folder / WEIGHTS_FILE).write_bytes(b"other")
    assert await reward.fingerprint() != first
