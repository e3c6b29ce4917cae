from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from tiny_checkpoints import (
    bert_classifier_folder,
    byte_tokenizer,
    causal_folder,
    classifier_folder,
    qwen3_classifier_folder,
)
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from rttc_graph.errors import ConfigurationError, RewardModelError
from rttc_graph.installation import configured_reward
from rttc_graph.installation.config import load_config
from rttc_graph.integrations.rewards.pair_encoding import PairEncoder
from rttc_graph.integrations.rewards.sequence_classifier_reward import (
    ClassifierSettings,
    SequenceClassifierReward,
)
from rttc_graph.testing.inputs import candidate


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return classifier_folder(tmp_path_factory.mktemp("classifier"))


def reference(folder: Path, question: str, answer: str) -> float:
    """The way the model cards of Skywork-Reward-V2 show: template, one row, one logit."""
    model = cast(Any, AutoModelForSequenceClassification.from_pretrained(folder))
    tokenizer = cast(Any, AutoTokenizer.from_pretrained(folder))
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    text = tokenizer.apply_chat_template(turns, tokenize=False)
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        return cast(float, model(ids).logits[0][0].item())


PAIRS = [("Why?", "because"), ("Why?", ""), ("", "42"), ("为什么", "因为" * 30)]


async def test_rewards_are_the_sigmoid_of_the_reference_logits(folder: Path) -> None:
    reward = SequenceClassifierReward(folder)
    for question, answer in PAIRS:
        [got] = await reward.score(question, [candidate(answer)])
        expected = 1 / (1 + math.exp(-reference(folder, question, answer)))
        assert got == pytest.approx(expected, abs=1e-5)


async def test_qwen3_is_asked_in_its_own_form(tmp_path: Path) -> None:
    folder = qwen3_classifier_folder(tmp_path)
    tokenizer = cast(Any, AutoTokenizer.from_pretrained(folder))
    ids = PairEncoder(tokenizer, 512).encode("why", "so").ids
    assert tokenizer.decode(ids) == (
        "<bos>user\nwhy<eos>\n<bos>assistant\n<think>\n\n</think>\n\nso<eos>\n"
    )
    got = await SequenceClassifierReward(folder).score(
        "Why?", [candidate(answer) for _, answer in PAIRS]
    )
    logits = [reference(folder, "Why?", answer) for _, answer in PAIRS]
    assert got == pytest.approx([1 / (1 + math.exp(-logit)) for logit in logits], abs=1e-5)


@pytest.mark.parametrize("make", [classifier_folder, qwen3_classifier_folder])
async def test_a_question_that_is_too_long_never_costs_the_answer(
    make: Callable[[Path], Path], tmp_path: Path
) -> None:
    """Only the question is cut: two answers under a long one differ as under none."""
    folder = make(tmp_path)
    settings = ClassifierSettings(max_tokens=120)
    reward = SequenceClassifierReward(folder, settings=settings)
    tokenizer = cast(Any, AutoTokenizer.from_pretrained(folder))
    text = tokenizer.decode(PairEncoder(tokenizer, 120).encode("x" * 9000, "the answer").ids)
    assert "the answer" in text
    first, second = await reward.score("x" * 9000, [candidate("yes"), candidate("no, 42")])
    assert first != pytest.approx(second, abs=1e-6)


async def test_midpoint_and_scale_move_the_reward(folder: Path) -> None:
    logit = reference(folder, "Why?", "because")
    settings = ClassifierSettings(midpoint=logit, scale=0.5)
    reward = SequenceClassifierReward(folder, settings=settings)
    assert await reward.score("Why?", [candidate("because")]) == [pytest.approx(0.5, abs=1e-5)]

    half = ClassifierSettings(midpoint=logit - 1, scale=2.0)  # one logit above is half a unit
    [got] = await SequenceClassifierReward(folder, settings=half).score(
        "Why?", [candidate("because")]
    )
    assert got == pytest.approx(1 / (1 + math.exp(-0.5)), abs=1e-5)


async def test_padding_does_not_change_a_reward(folder: Path, tmp_path: Path) -> None:
    answers = [candidate("a" * length) for length in (1, 90, 7, 300, 0)]
    together = await SequenceClassifierReward(folder).score("q", answers)
    single = SequenceClassifierReward(folder, settings=ClassifierSettings(batch_size=1))
    assert together == pytest.approx(await single.score("q", answers), abs=1e-5)

    unpadded = classifier_folder(tmp_path / "unpadded", pad_id=None)  # the same weights
    assert together == pytest.approx(
        await SequenceClassifierReward(unpadded).score("q", answers), abs=1e-5
    )


async def test_nothing_is_loaded_before_the_first_answer(tmp_path: Path) -> None:
    folder = tmp_path / "later"
    reward = SequenceClassifierReward(folder)
    assert await reward.score("q", []) == []
    classifier_folder(folder)
    assert len(await reward.score("q", [candidate("a")])) == 1
    assert reward.name == "later"


async def test_loading_says_nothing(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    await SequenceClassifierReward(folder).score("q", [candidate("a")])
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kind", ["causal", "two-labels", "missing", "damaged"])
async def test_what_is_no_reward_model_is_refused(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / kind
    message = "failed"
    if kind == "causal":
        causal_folder(folder)
        message = "has no trained weights for 'score.weight'"
    elif kind == "two-labels":
        classifier_folder(folder, labels=2)
        message = "has 2 outputs, but a reward model has 1"
    elif kind == "damaged":
        classifier_folder(folder)
        (folder / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(RewardModelError, match=message) as caught:
        await SequenceClassifierReward(folder).score("q", [candidate("a")])
    assert not caught.value.retryable


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"max_tokens": 0}, "max_tokens must be at least 1", id="max-tokens"),
        pytest.param({"batch_size": -1}, "batch_size must be at least 1", id="batch-size"),
        pytest.param({"scale": 0.0}, "scale must be above 0", id="scale"),
        pytest.param({"scale": math.nan}, "scale must be above 0", id="scale-not-a-number"),
    ],
)
def test_a_wrong_setting_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        ClassifierSettings(**options)


async def test_an_encoder_model_gets_question_and_answer_as_a_typed_pair(tmp_path: Path) -> None:
    folder = bert_classifier_folder(tmp_path)
    model = cast(Any, AutoModelForSequenceClassification.from_pretrained(folder))
    tokenizer = cast(Any, AutoTokenizer.from_pretrained(folder))
    batch = tokenizer("why", "so", return_tensors="pt")
    assert batch["token_type_ids"].unique().tolist() == [0, 1]
    with torch.no_grad():
        expected = torch.sigmoid(model(**batch).logits[0, 0]).item()
    answers = [candidate("so"), candidate("because it is long")]
    got = await SequenceClassifierReward(folder).score("why", answers)
    assert got[0] == pytest.approx(expected, abs=1e-5)


def encoded(question: str, answer: str, *, max_tokens: int, template: bool = True) -> str:
    tokenizer: Any = byte_tokenizer() if template else byte_tokenizer(template=None)
    ids = PairEncoder(tokenizer, max_tokens).encode(question, answer).ids
    assert len(ids) <= max_tokens
    return cast(str, tokenizer.decode(ids))


def test_what_fits_is_left_alone() -> None:
    text = "<bos>[user]why<eos>[assistant]so<eos>"
    assert encoded("why", "so", max_tokens=25) == text  # 3 specials, 6 + 3 and 11 + 2 bytes
    assert encoded("why", "so", max_tokens=1000) == text


def test_the_question_gives_way_from_its_left() -> None:
    got = encoded("x" * 500 + " what is it?", "the whole answer stays", max_tokens=70)
    assert got.endswith(" what is it?<eos>[assistant]the whole answer stays<eos>")
    assert got.startswith("<bos>[user]xxx")


def test_an_answer_that_is_too_long_by_itself_keeps_its_ends() -> None:
    got = encoded("the question", "BEGIN " + "x" * 20_000 + " END", max_tokens=120)
    assert got.startswith("<bos>[user]<eos>[assistant]BEGIN xxx")
    assert got.endswith("xxx END<eos>")


def test_characters_of_several_bytes_are_not_torn() -> None:
    for max_tokens in range(60, 70):
        assert "\ufffd" not in encoded("为什么" * 100, "因为", max_tokens=max_tokens)
        assert "\ufffd" not in encoded("", "因为" * 5000, max_tokens=max_tokens)


def test_without_a_template_question_and_answer_are_a_pair() -> None:
    assert encoded("why", "so", max_tokens=50, template=False) == "whyso"
    assert encoded("x" * 100 + "why", "so", max_tokens=5, template=False) == "whyso"


def test_a_limit_below_the_template_is_an_error() -> None:
    with pytest.raises(RewardModelError, match="does not fit into max_tokens=10"):
        encoded("why", "so", max_tokens=10)


@pytest.mark.parametrize("pad_id", [-1, 100_000, None])
async def test_a_padding_token_that_cannot_be_read_is_none(
    pad_id: int | None, tmp_path: Path
) -> None:
    folder = classifier_folder(tmp_path)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "pad_token_id": pad_id}))
    reward = SequenceClassifierReward(folder)
    answers = [candidate(text) for text in ("yes", "It is late.", "word " * 50)]
    alone = [(await reward.score("Is it?", [one]))[0] for one in answers]
    assert await reward.score("Is it?", answers) == pytest.approx(alone)


@pytest.mark.parametrize(
    ("device", "own", "used"), [("cpu", None, "cpu"), ("auto", None, None), ("cuda", "cpu", "cpu")]
)
def test_a_classifier_of_an_installation_has_its_settings(
    monkeypatch: pytest.MonkeyPatch, device: str, own: str | None, used: str | None
) -> None:
    made: list[ClassifierSettings] = []

    def note(name: str, *, settings: ClassifierSettings) -> SequenceClassifierReward:
        made.append(settings)
        return SequenceClassifierReward(name, settings=settings)

    monkeypatch.setattr(configured_reward, "SequenceClassifierReward", note)
    config = load_config(
        reward="some/classifier",
        device=device,
        reward_classifier=ClassifierSettings(scale=8.0, device=own),
    )
    configured_reward.open_reward_model(config, cast("Any", None), cast("Any", None))
    assert made == [ClassifierSettings(scale=8.0, device=used)]
