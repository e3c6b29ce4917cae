"""Tokens to text as they come: never half a character, never a part of a stop string.

A token is decoded together with the few before it, since tokenizers join bytes and drop spaces
across borders; what may still change (an unfinished character, the start of a stop string) is held.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from transformers import PreTrainedTokenizerBase

from rttc_graph.support.thinking import OPENING_MARKS, THOUGHT_MARKS

_LONGEST_OPENING = 24
"""Most tokens at the end of a prompt for a mark of thoughts and the white space after it."""

_WINDOW = 8
"""Most tokens of a text that is begun that are decoded once more, for the sake of the next one."""

_UNFINISHED = "\ufffd"
"""Replacement character that tokenizers give for bytes of an unfinished character."""


class TextStream:
    """The text of one answer, growing.

    Args:
        tokenizer: Tokenizer of the model.
        stop: Strings before the first of which the text ends.
        opening: What the prompt has begun to say for the model; the text starts with it.
        begun: Text behind it that the answer begins with already; it is not returned again.
        begun_ids: Tokens of that text.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        stop: Sequence[str] = (),
        *,
        opening: str = "",
        begun: str = "",
        begun_ids: Sequence[int] = (),
    ) -> None:
        self.text = opening + begun
        """Everything decoded, without the stop string and what follows it."""
        self.is_stopped = False
        self._tokenizer = tokenizer
        self._dropped = _dropped_ids(tokenizer)
        self._stop = tuple(s for s in stop if s)
        self._ids = list(begun_ids[-_WINDOW:])
        self._window = 0
        """Index of the first token that is still decoded, for the sake of its successors."""
        self._clean = len(self._ids)
        """Index after the last token at which the text ended with a whole character."""
        self._seen = len(self._decode(0, None)) if self._ids else 0
        """Characters of the window's text that are in `text` already."""
        self._released = 0
        if begun:  # but for what may be the start of a stop string
            self._released = len(self.text) - self._held()

    def push(self, token: int) -> str:
        """Add a token and return the text that is certain now and was not before."""
        self._ids.append(token)
        decoded = self._decode(self._window, None)
        whole = decoded.rstrip(_UNFINISHED)
        self._append(whole[self._seen :])
        self._seen = max(self._seen, len(whole))
        if len(whole) == len(decoded):
            self._window, self._clean = self._clean, len(self._ids)
            self._seen = len(self._decode(self._window, self._clean))
        return self._release(len(self.text) - self._held())

    def finish(self) -> str:
        """Return the rest of the text, once there are no more tokens."""
        self._append(self._decode(self._window, None)[self._seen :])
        self._window = self._clean = len(self._ids)
        self._seen = 0
        return self._release(len(self.text))

    def _decode(self, start: int, end: int | None) -> str:
        ids, dropped = self._ids[start:end], self._dropped
        return cast(
            "str",
            self._tokenizer.decode(
                ids if dropped is None else [one for one in ids if one not in dropped],
                skip_special_tokens=dropped is None,
                clean_up_tokenization_spaces=False,
            ),
        )

    def _append(self, piece: str) -> None:
        """Add text, up to the first stop string in it or across its border."""
        if self.is_stopped or not piece:
            return
        self.text += piece
        places = [at for at in (self.text.find(s, self._released) for s in self._stop) if at >= 0]
        if places:
            self.text = self.text[: min(places)]
            self.is_stopped = True

    def _held(self) -> int:
        """Return how many characters at the end could be the start of a stop string."""
        if self.is_stopped:
            return 0
        return max((_overlap(self.text, s, self._released) for s in self._stop), default=0)

    def _release(self, end: int) -> str:
        piece = self.text[self._released : end]
        self._released = max(self._released, end)
        return piece


def prompt_opening(tokenizer: PreTrainedTokenizerBase, prompt: Sequence[int]) -> str:
    """Return the mark with which a prompt begins the model's thoughts, if it ends with one."""
    template = str(cast("object", tokenizer.chat_template) or "")
    marks = [mark for mark in OPENING_MARKS if mark in template]
    if not marks:
        return ""
    end = cast("str", tokenizer.decode(list(prompt[-_LONGEST_OPENING:]), skip_special_tokens=False))
    return next((f"{mark}\n" for mark in marks if end.rstrip().endswith(mark)), "")


def _dropped_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int] | None:
    """Return the special tokens that are no text; `None` for all of them, as in most models.

    Marks around thoughts are special tokens in some models and are needed to find the answer.
    """
    special = {
        at: str(token.content)
        for at, token in cast("dict[int, Any]", tokenizer.added_tokens_decoder).items()
        if token.special
    }
    dropped = frozenset(at for at, text in special.items() if text not in THOUGHT_MARKS)
    return None if len(dropped) == len(special) else dropped


def _overlap(text: str, stop: str, start: int) -> int:
    """Return the length of the longest end of `text[start:]` with which `stop` begins."""
    longest = min(len(stop) - 1, len(text) - start)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
