"""The head that is trained to the end on features computed once."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from tiny_checkpoints import encoder_folder, trained_reward_folder

from rttc_graph.errors import ConfigurationError
from rttc_graph.integrations.rewards.pair_encoding import EncodedPair
from rttc_graph.integrations.rewards.trained.head_learning import HeadSettings, learn_head
from rttc_graph.integrations.rewards.trained.network import RewardNetwork
from rttc_graph.integrations.rewards.trained.network_learning import (
    Example,
    LearnProgress,
    group_loss,
)
from rttc_graph.integrations.rewards.trained.reward_folder import encoder_base, new_network
from rttc_graph.integrations.rewards.trained.reward_spec import Backbone, read_spec
from rttc_graph.reward_training.wordings import beside_an_echo, in_a_sentence, reworded, with_plea

ASKED, GOOD, BAD = [5, 6, 7], [8, 9], [10, 11]


def group(number: int) -> list[Example]:
    """Right answers are of other tokens than wrong ones, as many of them as there are questions."""

    def pair(said: list[int]) -> EncodedPair:
        ids = [*ASKED, *said, *said[: number % 2]]
        return EncodedPair(ids, [0] * len(ASKED) + [1] * (len(ids) - len(ASKED)))

    return [Example(pair(GOOD), right=True), Example(pair(BAD), right=False)]


GROUPS = [group(number) for number in range(12)]


@pytest.fixture(params=["towers", "encoder"])
def network(tmp_path: Path, request: pytest.FixtureRequest) -> RewardNetwork:
    backbone: Backbone = request.param
    base = encoder_folder(tmp_path / "base")
    folder = trained_reward_folder(tmp_path / "reward", encoder_base(base), backbone)
    return new_network(encoder_base(base), read_spec(folder)).train(False)


def loss_of(network: RewardNetwork) -> float:
    rows = [example for one in GROUPS for example in one]
    numbers = torch.tensor([n for n, one in enumerate(GROUPS) for _ in one])
    right = torch.tensor([float(example.right) for example in rows])
    with torch.no_grad():
        logits = network([example.pair for example in rows])
    return float(group_loss(logits, right, numbers, "both"))


def test_the_head_learns_and_the_backbone_stays(network: RewardNetwork) -> None:
    before, loss = network.trained(), loss_of(network)
    before = {name: tensor.clone() for name, tensor in before.items()}
    seen: list[LearnProgress] = []
    settings = HeadSettings(epochs=20, groups_per_step=4, learning_rate=1e-2)
    learned = learn_head(network, GROUPS, GROUPS, settings, on_progress=seen.append)
    after = network.trained()
    assert learned.held_out_before == pytest.approx(loss, abs=1e-5)
    assert learned.held_out_loss == pytest.approx(loss_of(network), abs=1e-5)
    assert learned.held_out_loss < 0.5 * loss
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert changed
    assert all(name.startswith("head.") for name in changed)
    assert (learned.steps, learned.pairs) == (60, 24)
    assert [p.step for p in seen] == [3 * epoch for epoch in range(1, 21)]
    assert min(p.held_out_loss or 0.0 for p in seen) == learned.held_out_loss


def test_a_head_that_gets_worse_is_put_back(network: RewardNetwork) -> None:
    wrong = [[Example(e.pair, right=not e.right) for e in one] for one in GROUPS]
    settings = HeadSettings(epochs=10, groups_per_step=4, learning_rate=1e-2)
    learn_head(network, GROUPS, GROUPS, settings, on_progress=lambda _: None)
    before = {name: tensor.clone() for name, tensor in network.trained().items()}
    learned = learn_head(network, wrong, GROUPS, settings, on_progress=lambda _: None)
    assert learned.held_out_loss == learned.held_out_before
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.trained().items())


def test_no_epochs_leave_the_head_as_it_is(network: RewardNetwork) -> None:
    loss = loss_of(network)
    learn_head(network, GROUPS, GROUPS, HeadSettings(epochs=0), on_progress=lambda _: None)
    assert loss_of(network) == loss


def test_whole_groups_are_left_out_of_too_many(network: RewardNetwork) -> None:
    settings = HeadSettings(epochs=1, most_pairs=7)
    learned = learn_head(network, GROUPS, GROUPS, settings, on_progress=lambda _: None)
    assert learned.pairs == 6


@pytest.mark.parametrize("options", [{"epochs": -1}, {"groups_per_step": 0}, {"most_pairs": 0}])
def test_a_wrong_setting_is_refused(options: dict[str, int]) -> None:
    with pytest.raises(ConfigurationError, match=f"{next(iter(options))}="):
        HeadSettings(**options)  # type: ignore[arg-type]


def test_a_plea_keeps_the_answer_and_says_more() -> None:
    chance = random.Random(0)
    said = {with_plea("card arrival", chance) for _ in range(200)}
    assert len(said) > 150
    assert all("card arrival" in text and len(text) > len("card arrival") for text in said)
    assert any(text.startswith("card arrival") for text in said)
    assert any(text.endswith("card arrival") for text in said)
    assert with_plea("", chance).strip()


def test_a_sentence_holds_the_answer() -> None:
    chance = random.Random(0)
    said = {in_a_sentence("card arrival", chance) for _ in range(200)}
    assert len(said) > 8
    assert all("card arrival" in text for text in said)


@pytest.mark.parametrize("question", ["Which label fits\nmy card is {late}?", "Why?", "", " \n"])
def test_an_echo_keeps_the_answer_and_copies_the_question(question: str) -> None:
    chance = random.Random(0)
    said = [beside_an_echo(question, "card arrival", chance) for _ in range(300)]
    assert all("card arrival" in text for text in said)
    if len(question.split()) > 2:
        assert any(text == f"{question} card arrival" for text in said)
        assert any(text == f"card arrival {question}" for text in said)
        assert any(text.startswith("Q: WHICH LABEL") for text in said)
        assert len(set(said)) > 100


def test_right_and_wrong_answers_stand_beside_echoes() -> None:
    question = "which label fits the message about my card?"
    found = [
        pair
        for number in range(40)
        for pair in reworded(question, ["arrival"], ["rate", "pin"], random.Random(number))
    ]
    echoed = [pair for pair in found if question in pair[0].casefold()]
    assert any(pair[1] for pair in echoed)
    assert any("rate" in text and not right for text, right in echoed)
    assert all(("arrival" in text.casefold()) == right for text, right in echoed)
    assert not any(right for text, right in found if "rate" in text.casefold().split())
    assert not any(pair[1] for pair in reworded(question, [], ["rate"], random.Random(1)))
    assert reworded("", [], [], random.Random(3)) is not None
