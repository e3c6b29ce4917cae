"""How published process reward models read question and steps: token ids, and where steps end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

from transformers import PreTrainedTokenizerBase

from rttc_graph.errors import RewardModelError
from rttc_graph.integrations.process_rewards.step_texts import (
    QWEN_STEP_END,
    QWEN_SYSTEM,
    STEP_TAG,
    VERDICTS,
    shepherd_text,
)
from rttc_graph.integrations.transformers.literal import encode_chat, encode_text
from rttc_graph.support.identity import clean

PrmKind = Literal["math-shepherd", "qwen", "skywork", "trl"]
"""Layouts that are known: that of peiyi9979/math-shepherd-mistral-7b-prm, of Qwen2.5-Math-PRM, of
Skywork-o1-Open-PRM, and of what TRL's `PRMTrainer` writes."""


@dataclass(frozen=True, slots=True)
class EncodedSteps:
    """One row of a process reward model's input."""

    ids: list[int]
    ends: list[int]
    """Place of the token behind each step, at which the model judges it."""


def encode_steps(
    kind: PrmKind, tokenizer: PreTrainedTokenizerBase, query: str, steps: Sequence[str]
) -> EncodedSteps:
    """Return the ids of a question and steps, in the layout that a model was trained on.

    Raises:
        RewardModelError: The tokenizer lacks a token of the layout, or its chat template refuses.
    """
    return _LAYOUTS[kind](tokenizer, clean(query), [clean(step) for step in steps])


def verdict_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[int, int]:
    """Return the tokens for good and bad of Math-Shepherd."""
    ids = tokenizer.encode(VERDICTS, add_special_tokens=False)
    return ids[0], ids[-1]


def _math_shepherd(
    tokenizer: PreTrainedTokenizerBase, query: str, steps: Sequence[str]
) -> EncodedSteps:
    ids = _ids(tokenizer, shepherd_text(query, steps))
    tag = tokenizer.encode(STEP_TAG, add_special_tokens=False)[-1]
    places = [at for at, token in enumerate(ids) if token == tag]
    if len(places) < len(steps):
        raise RewardModelError(
            f"the tokenizer writes {STEP_TAG!r} in {len(places)} tokens for {len(steps)} steps: "
            "this is no model in the layout of Math-Shepherd"
        )
    return EncodedSteps(ids, places[-len(steps) :])


def _qwen(tokenizer: PreTrainedTokenizerBase, query: str, steps: Sequence[str]) -> EncodedSteps:
    end = tokenizer.get_vocab().get(QWEN_STEP_END)
    if end is None:
        raise RewardModelError(
            f"the tokenizer has no token {QWEN_STEP_END!r}: this is no model in the layout of "
            "Qwen2.5-Math-PRM"
        )
    asked = encode_chat(
        tokenizer,
        [{"role": "system", "content": QWEN_SYSTEM}, {"role": "user", "content": query}],
        answer_follows=True,
    )
    return _joined(asked, [encode_text(tokenizer, step.strip("\n")) for step in steps], [end])


def _skywork(tokenizer: PreTrainedTokenizerBase, query: str, steps: Sequence[str]) -> EncodedSteps:
    first = cast("int | None", tokenizer.bos_token_id)
    asked = ([] if first is None else [first]) + encode_text(tokenizer, f"{query}\n")
    return _joined(
        asked,
        [encode_text(tokenizer, step.strip("\n")) for step in steps],
        encode_text(tokenizer, "\n")[-1:],
    )


def _trl(tokenizer: PreTrainedTokenizerBase, query: str, steps: Sequence[str]) -> EncodedSteps:
    asked = _ids(tokenizer, query)
    said = [encode_text(tokenizer, step.strip("\n")) for step in steps]
    return _joined(asked, said, encode_text(tokenizer, "\n"))


def _joined(
    asked: Sequence[int], steps: Sequence[Sequence[int]], separator: Sequence[int]
) -> EncodedSteps:
    ids, ends = list(asked), list[int]()
    for step in steps:
        ids += [*step, *separator]
        ends.append(len(ids) - 1)
    return EncodedSteps(ids, ends)


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Return the ids of a text as the tokenizer begins one; no control token is read in it."""
    encoded = cast("Mapping[str, Any]", tokenizer(text, split_special_tokens=True, verbose=False))
    return [*cast("Sequence[int]", encoded["input_ids"])]


_LAYOUTS: dict[PrmKind, Callable[[PreTrainedTokenizerBase, str, Sequence[str]], EncodedSteps]] = {
    "math-shepherd": _math_shepherd,
    "qwen": _qwen,
    "skywork": _skywork,
    "trl": _trl,
}

KINDS: tuple[PrmKind, ...] = get_args(PrmKind)
