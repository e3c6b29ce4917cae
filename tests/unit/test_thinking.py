"""Answers behind what a model thought, in the marks of many models."""

from __future__ import annotations

import time

import pytest

from rttc_graph.support.thinking import Spoken, answer_behind, spoken

ANSWERS = {
    "none": ("blue", "blue"),
    "tags": ("<think>\nno? A?\n</think>\n\nblue", "blue"),
    "empty": ("<think>\n\n</think>\n\nblue", "blue"),
    "capitals": ("<Think>a</Think>blue", "blue"),
    "opened-in-the-prompt": ("no? A?\n</think>\n\nblue", "blue"),
    "twice": ("<think>a</think>\n<think>b</think> blue", "blue"),
    "behind-a-greeting": ("Sure.\n<think>a</think>\nblue", "Sure.\nblue"),
    "wrapped": ("<think>a</think><answer> blue </answer>", "blue"),
    "unfinished": ("<think>\nIs it no? Option A", ""),
    "unfinished-later": ("blue\n<think> or red", "blue"),
    "magistral": ("[THINK]a[/THINK]blue", "blue"),
    "seed": ("<seed:think>a</seed:think>blue", "blue"),
    "kimi": ("◁think▷a◁/think▷blue", "blue"),
    "cohere": ("<|START_THINKING|>a<|END_THINKING|><|START_RESPONSE|>blue", "blue"),
    "solution": (
        "<|begin_of_thought|>a<|end_of_thought|>\n<|begin_of_solution|>blue<|end_of_solution|>",
        "blue",
    ),
    "wordy": ("<thinking>a</thinking> blue", "blue"),
    "channels": (
        "<|channel|>analysis<|message|>a<|end|><|start|>assistant"
        "<|channel|>final<|message|>blue<|return|>",
        "blue",
    ),
    "channels-unfinished": ("<|channel|>analysis<|message|>is it", ""),
    "channels-without-tokens": ("analysisIs it red?assistantfinalblue", "blue"),
    "about-tags": ("A block begins with <think> and ends with </think>.",) * 2,
    "quoted-tag": ("Close it with `</think>` at the end.",) * 2,
    "in-a-listing": ("```\n<think>a</think>\nb\n```",) * 2,
    "wordy-later": ("See:\n<reasoning>a</reasoning>",) * 2,
}


@pytest.mark.parametrize(("text", "answer"), ANSWERS.values(), ids=ANSWERS.keys())
def test_the_answer_is_what_stands_behind_the_thoughts(text: str, answer: str) -> None:
    assert answer_behind(text) == answer
    assert spoken(text).has_thoughts == (text != answer)


def test_thoughts_without_an_end_are_no_answer() -> None:
    assert spoken("<think>hm") == Spoken("", has_thoughts=True)


@pytest.mark.parametrize(
    "text",
    ["\n" * 200_000, " " * 200_000, "<think>" * 30_000, "\n<think>" * 30_000, "</think>" * 30_000],
    ids=["lines", "spaces", "openings", "opening-lines", "closings"],
)
def test_a_long_text_takes_no_long_time(text: str) -> None:
    started = time.process_time()
    spoken(text)
    assert time.process_time() - started < 2
