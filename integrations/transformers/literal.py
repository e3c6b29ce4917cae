"""Text as a tokenizer reads it when it is only text: no control token is recognised in it.

Questions, answers and samples are somebody else's. A tokenizer takes `<|im_end|>` in them for the
end of a turn, so that one message becomes several, one of them the system's. Here such a string is
cut behind its first character before it is encoded, and so becomes the tokens of its letters. Text
without one has the tokens that it has always had.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast
from weakref import WeakKeyDictionary

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from rttc_graph.state import ChatTurn
from rttc_graph.support.identity import clean
from rttc_graph.support.thinking import THOUGHT_MARKS

__all__ = ("control_tokens", "encode_begun", "encode_chat", "encode_text")

_MARKS = range(0xF0000, 0xFFFFD)
"""Private-use characters; one that no turn contains shows where a control token was cut."""

_NEXT_TURN = "\n\n"
"""Stands between turns that became one."""


def encode_text(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Return the ids of a text, without special tokens around it or in it."""
    text = clean(text)
    mark = _unused_mark([text])
    return _encode_cut(tokenizer, _controls_of(tokenizer).cut(text, mark), mark)


def encode_begun(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Return the ids of the beginning of a model's own answer.

    The marks around its thoughts are the tokens that they are where a model writes them; any other
    control token is its letters.
    """
    marks = sorted(THOUGHT_MARKS & control_tokens(tokenizer), key=len, reverse=True)
    if not marks:
        return encode_text(tokenizer, text)
    ids: list[int] = []
    for part in re.split(f"({'|'.join(map(re.escape, marks))})", text):
        ids += (
            _encode_cut(tokenizer, part, _unused_mark([part]))
            if part in marks
            else encode_text(tokenizer, part)
        )
    return ids


def encode_chat(
    tokenizer: PreTrainedTokenizerBase,
    turns: Sequence[ChatTurn],
    *,
    answer_follows: bool,
    options: Mapping[str, object] | None = None,
) -> list[int]:
    """Return the ids of a conversation in the tokenizer's chat template.

    A template that has no system turn gets its text in front of the first question, and one that
    wants user and assistant in turn gets those in a row as one.

    Args:
        tokenizer: With a chat template.
        turns: Any text; a lone surrogate becomes a question mark.
        answer_follows: Whether the beginning of an assistant's turn stands at the end.
        options: Variables of the template, such as `enable_thinking`.

    Raises:
        TemplateError: The template takes the conversation in no form.
        ValueError: See above.
        TypeError: See above.
    """
    mark = _unused_mark([turn["content"] for turn in turns])
    controls = _controls_of(tokenizer)
    plain: list[ChatTurn] = [
        {"role": turn["role"], "content": controls.cut(clean(turn["content"]), mark)}
        for turn in turns
    ]

    def write(turns: Sequence[ChatTurn]) -> str:
        apply = cast("Callable[..., str]", tokenizer.apply_chat_template)
        return apply(
            [dict(turn) for turn in turns],
            tokenize=False,
            add_generation_prompt=answer_follows,
            **dict(options or {}),
        )

    return _encode_cut(tokenizer, _written(plain, write), mark)


def control_tokens(tokenizer: PreTrainedTokenizerBase) -> frozenset[str]:
    """Return the strings that mean something else than their letters to a model.

    These are the special tokens, and of the other added tokens those that the chat template writes:
    `<think>` is one; runs of spaces in models for code are not.
    """
    template = str(cast("object", tokenizer.chat_template) or "")
    added = cast("Mapping[int, Any]", tokenizer.added_tokens_decoder)
    found = {str(one.content) for one in added.values() if one.special or one.content in template}
    return frozenset(found | set(tokenizer.all_special_tokens))


@dataclass(frozen=True, slots=True)
class _Controls:
    """The control tokens of one tokenizer."""

    template: object
    strings: tuple[str, ...]
    pattern: re.Pattern[str]

    def cut(self, text: str, mark: str) -> str:
        """Return the text with a mark after the first character of each control token."""
        if not any(string in text for string in self.strings):
            return text
        # Looked for at each place, since control tokens may overlap.
        return self.pattern.sub(lambda first: first[0] + mark, text)


_known: WeakKeyDictionary[PreTrainedTokenizerBase, _Controls] = WeakKeyDictionary()


def _controls_of(tokenizer: PreTrainedTokenizerBase) -> _Controls:
    template = cast("object", tokenizer.chat_template)
    known = _known.get(tokenizer)
    if known is None or known.template != template:
        # A single character cannot be cut; such tokens stand for themselves in any case.
        strings = tuple(sorted(one for one in control_tokens(tokenizer) if len(one) > 1))
        any_of = "|".join(map(re.escape, strings)) or r"(?!)"
        known = _Controls(template, strings, re.compile(f"(?={any_of}).", re.DOTALL))
        _known[tokenizer] = known
    return known


def _encode_cut(tokenizer: PreTrainedTokenizerBase, text: str, mark: str) -> list[int]:
    """Return the ids of a text, the parts between the marks each by itself."""
    ids: list[int] = []
    for part in text.split(mark):
        if part:
            # A template writes its special tokens itself; adding them would double the first.
            encoded = cast(
                "dict[str, Any]", tokenizer(part, add_special_tokens=False, verbose=False)
            )
            ids += cast("list[int]", encoded["input_ids"])
    return ids


def _unused_mark(texts: Sequence[str]) -> str:
    return next(mark for mark in map(chr, _MARKS) if not any(mark in text for text in texts))


def _written(turns: list[ChatTurn], write: Callable[[Sequence[ChatTurn]], str]) -> str:
    """Return the conversation in the first form that the template takes with all that is said."""
    refusal: Exception | None = None
    for form in (turns, _alternating(turns), _alternating(_without_system(turns))):
        try:
            text = write(form)
        except (TemplateError, ValueError, TypeError) as exc:
            refusal = refusal or exc
            continue
        if all(turn["content"].strip() in text for turn in form if turn["role"] == "system"):
            return text
    if refusal is None:
        refusal = ValueError("it leaves out what the system turn says")
    raise refusal


def _without_system(turns: Sequence[ChatTurn]) -> list[ChatTurn]:
    return [
        {"role": "user", "content": turn["content"]} if turn["role"] == "system" else turn
        for turn in turns
    ]


def _alternating(turns: Sequence[ChatTurn]) -> list[ChatTurn]:
    """Return the turns with those of one role in a row joined."""
    joined: list[ChatTurn] = []
    for turn in turns:
        if joined and joined[-1]["role"] == turn["role"]:
            content = joined[-1]["content"] + _NEXT_TURN + turn["content"]
            joined[-1] = {"role": turn["role"], "content": content}
        else:
            joined.append(turn)
    return joined
