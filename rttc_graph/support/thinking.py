"""The answer of a reasoning model, separated from the thoughts before it.

Models write their thoughts between marks. The opening mark may stand in the prompt, so that only
the closing one is in the text, and a text may end before it does.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = (
    "OPENING_MARKS",
    "THINKING",
    "THOUGHT_MARKS",
    "Spoken",
    "answer_behind",
    "spoken",
    "unclosed_mark",
    "within_thoughts",
)

THINKING = "<think>"
"""Opens thoughts in the most models."""

_MARKS = (
    (THINKING, "</think>"),  # Qwen, DeepSeek, SmolLM3, …
    ("<seed:think>", "</seed:think>"),
    ("<mm:think>", "</mm:think>"),
    ("<longcat_think>", "</longcat_think>"),
    ("[THINK]", "[/THINK]"),  # Magistral
    ("◁think▷", "◁/think▷"),  # Kimi
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),  # Cohere
    ("<|inner_prefix|>", "<|inner_suffix|>"),  # Apertus
    ("<|channel>thought", "<channel|>"),  # Gemma
)
"""Written by models alone, so they count at the beginning of any line."""

_WORDY_MARKS = (
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<unused94>", "<unused95>"),
)
"""Might be an answer's own markup, so they count at the beginning of the text only."""

OPENING_MARKS = tuple(opening for opening, _ in (*_MARKS, *_WORDY_MARKS))
"""A prompt that ends with one of these has begun the thoughts."""

_ALL_MARKS = tuple(mark for pair in (*_MARKS, *_WORDY_MARKS) for mark in pair)

THOUGHT_MARKS = frozenset(
    [
        *_ALL_MARKS,
        *("<|channel|>", "<|message|>", "<|begin_of_solution|>", "<|end_of_solution|>"),
        *("<|START_RESPONSE|>", "<|END_RESPONSE|>"),
    ]
)
"""Tokens that belong to the text of an answer, also where a tokenizer calls them special."""

_FLAGS = re.IGNORECASE | re.DOTALL


def _block(opening: str, closing: str, *, anywhere: bool) -> re.Pattern[str]:
    """Return what finds thoughts between two marks; those that do not end go on to the end."""
    start = r"(?:\A\s*|(?<=\n)[ \t]*)" if anywhere else r"\A\s*"
    ends = rf"(?:{re.escape(closing)}\s*|\Z)"
    return re.compile(rf"{start}(?:{re.escape(opening)}.*?{ends})+", _FLAGS)


_BLOCKS = (
    *((first, last, _block(first, last, anywhere=True)) for first, last in _MARKS),
    *((first, last, _block(first, last, anywhere=False)) for first, last in _WORDY_MARKS),
)

_ANY_MARK = re.compile("|".join(map(re.escape, _ALL_MARKS)), _FLAGS)

_CODE = "```"
_QUOTE = "`'\""

_FINAL_CHANNEL = re.compile(r"<\|channel\|>\s*final\b[^<]*(?:<\|constrain\|>[^<]*)?<\|message\|>")
_CHANNEL_END = re.compile(r"<\|(?:end|return|call)\|>")
_BARE_CHANNELS = re.compile(r"\s*analysis(?=[A-Z\W]).*?assistant\s*final(?P<answer>.*)", re.DOTALL)
"""Channels without their control tokens, as some servers send them."""

_WRAPPED = (
    re.compile(r"\s*<answer>(?P<answer>.*)</answer>\s*", _FLAGS),
    re.compile(
        r"\s*<\|begin_of_solution\|>(?P<answer>.*?)(?:<\|end_of_solution\|>\s*|$)", re.DOTALL
    ),
    re.compile(r"\s*<\|START_RESPONSE\|>(?P<answer>.*?)(?:<\|END_RESPONSE\|>\s*|$)", re.DOTALL),
)
"""Tags that some models put around the answer after their thoughts."""


def unclosed_mark(text: str) -> str | None:
    """Return the mark that would close the thoughts a text ends in; `None` if it ends in none."""
    begun = text.lstrip()
    for opening, closing in (*_MARKS, *_WORDY_MARKS):
        if begun.startswith(opening) and closing not in begun:
            return closing
    return None


def within_thoughts(text: str) -> str | None:
    """Return a text up to where its thoughts end; `None` if it has no thoughts that end."""
    begun = text.lstrip()
    for opening, closing in (*_MARKS, *_WORDY_MARKS):
        if begun.startswith(opening) and closing in begun:
            return begun[: begun.index(closing)].rstrip()
    return None


@dataclass(frozen=True, slots=True)
class Spoken:
    """A model's text taken apart."""

    answer: str
    """Answer without surrounding white space; empty if the thoughts did not end."""
    has_thoughts: bool


def answer_behind(text: str) -> str:
    """Return the answer without the thoughts; a text without any is returned as it is, stripped."""
    return spoken(text).answer


def spoken(text: str) -> Spoken:
    """Take a model's text apart."""
    for rest in (_behind_channels(text), _behind_marks(text)):
        if rest is not None:
            return Spoken(_unwrapped(rest).strip(), has_thoughts=True)
    return Spoken(text.strip(), has_thoughts=False)


def _behind_channels(text: str) -> str | None:
    """Return what stands in the final channel; `None` for a text without channels."""
    begins = text.lstrip().removeprefix("<|start|>assistant")
    if begins.startswith("<|channel|>"):
        finals = list(_FINAL_CHANNEL.finditer(begins))
        rest = begins[finals[-1].end() :] if finals else ""
        return _CHANNEL_END.split(rest)[0]
    bare = _BARE_CHANNELS.fullmatch(text)
    return bare["answer"] if bare else None


def _behind_marks(text: str) -> str | None:
    """Return the text without what stands between marks; `None` if there are no marks."""
    if not _ANY_MARK.search(text):
        return None
    found = False
    for opening, closing, block in _BLOCKS:
        rest = _behind_unopened(text, opening, closing)
        if rest is not None:
            text, found = rest, True
        text, is_cut = _cut_out(text, block)
        found = found or is_cut
    return text if found else None


def _behind_unopened(text: str, opening: str, closing: str) -> str | None:
    """Return what stands behind a closing mark whose opening one stood in the prompt."""
    if closing.lower() not in (folded := text.lower()):
        return None
    end = re.search(f"(?<![{_QUOTE}]){re.escape(closing)}(?![{_QUOTE}])", text, _FLAGS)
    if end is None or opening.lower() in folded[: end.start()]:
        return None
    return text[end.end() :]


def _cut_out(text: str, block: re.Pattern[str]) -> tuple[str, bool]:
    """Return the text without the blocks that stand in no listing of code."""
    found = False

    def drop(match: re.Match[str]) -> str:
        nonlocal found
        if text[: match.start()].count(_CODE) % 2:
            return match[0]
        found = True
        return ""

    return block.sub(drop, text), found


def _unwrapped(text: str) -> str:
    for wrapping in _WRAPPED:
        if match := wrapping.fullmatch(text):
            return match["answer"]
    return text
