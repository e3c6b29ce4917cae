"""What all judges that are chat models share: quoted texts, and a grade in reply.

Texts that are judged are somebody else's and may talk to the judge. Each stands between two lines
with a mark that is a digest of all of them: a text cannot contain the digest of what it is part of.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.language_models import BaseChatModel
from langgraph.constants import TAG_NOSTREAM

from rttc_graph.errors import ConfigurationError, RewardModelError
from rttc_graph.integrations.langchain.chat_calls import ChatCall, ChatCalls, accepted_fields
from rttc_graph.integrations.langchain.vendor_errors import describe, is_retryable
from rttc_graph.integrations.rewards.grades import parse_grade
from rttc_graph.integrations.rewards.shorten import keep_ends
from rttc_graph.state import ChatTurn
from rttc_graph.support.identity import clean
from rttc_graph.support.thinking import answer_behind

REMINDER = "That was not a grade. Reply with one whole number from 0 to 10 and nothing else."


@dataclass(frozen=True, slots=True)
class Graded:
    """Reply of a judge to one prompt."""

    grade: float | None
    """From 0 to 10; `None` if it gave none, twice."""
    text: str
    """Its last reply."""


def checked_length(max_characters: int) -> int:
    """Return how long a text may be that is shown to a judge.

    Raises:
        ConfigurationError: It is below 100 characters.
    """
    if max_characters < 100:
        raise ConfigurationError(f"max_characters must be at least 100, got {max_characters!r}")
    return max_characters


class ChatGrades:
    """Asks a chat model for grades; a reply in which none can be read is asked again once.

    The model's tokens are tagged `nostream`, so that they do not show up in LangGraph's `messages`
    stream.

    Args:
        chat_model: The judge.
        name: Name of the judge, for errors.
        concurrency: Prompts at the same time.
        max_characters: Longer texts keep this much of both ends.
        options: Keyword arguments of the chat model; temperature 0 by default, where the model
            takes one.

    Raises:
        ConfigurationError: `max_characters` is below 100.
    """

    def __init__(
        self,
        chat_model: BaseChatModel,
        *,
        name: str,
        concurrency: int,
        max_characters: int,
        options: Mapping[str, Any] | None,
    ) -> None:
        self.max_characters = checked_length(max_characters)
        self._name = name
        self.options = _default_options(chat_model) if options is None else dict(options)
        self._calls = ChatCalls(chat_model, concurrency=concurrency, tags=[TAG_NOSTREAM])

    def readable(self, text: str) -> str:
        """Return a text as it is shown to the judge: printable, and cut in its middle."""
        return keep_ends(clean(text), self.max_characters)

    async def of(self, prompts: Mapping[int, list[ChatTurn]]) -> dict[int, Graded]:
        """Return the grade of each prompt, under its number.

        Raises:
            RewardModelError: The model failed.
        """
        graded = await self._ask(prompts)
        again = {
            number: _reminded(turns, graded[number].text)
            for number, turns in prompts.items()
            if graded[number].grade is None
        }
        return graded | await self._ask(again)

    async def _ask(self, prompts: Mapping[int, list[ChatTurn]]) -> dict[int, Graded]:
        if not prompts:
            return {}
        calls = [ChatCall(turns=turns, options=self.options) for turns in prompts.values()]
        try:
            replies = await self._calls.replies(calls)
        except Exception as exc:  # vendors' errors share no base class
            raise RewardModelError(
                f"judge {self._name!r} failed: {describe(exc)}", retryable=is_retryable(exc)
            ) from exc
        texts = [str(reply.message.text) for reply in replies]
        return {
            number: Graded(parse_grade(text), text)
            for number, text in zip(prompts, texts, strict=True)
        }


def quoting_prompt(rubric: str, texts: Mapping[str, str], request: str) -> list[ChatTurn]:
    """Return a prompt in which each text stands between two lines that carry the same mark.

    Args:
        rubric: What to judge by; `{mark}` in it becomes the mark.
        texts: What is quoted, by the name that its lines have; clean and short enough.
        request: What is asked for at the end.
    """
    mark = hashlib.sha256("\0".join(texts.values()).encode()).hexdigest()[:16]
    quoted = [
        line
        for name, text in texts.items()
        for line in (f"<{name} {mark}>", text, f"</{name} {mark}>")
    ]
    return [
        {"role": "system", "content": rubric.replace("{mark}", mark)},
        {"role": "user", "content": "\n".join([*quoted, request])},
    ]


def _default_options(chat_model: BaseChatModel) -> dict[str, Any]:
    return {"temperature": 0.0} if "temperature" in accepted_fields(chat_model) else {}


def _reminded(turns: Sequence[ChatTurn], reply: str) -> list[ChatTurn]:
    return [
        *turns,
        {"role": "assistant", "content": keep_ends(answer_behind(reply), 200) or "…"},
        {"role": "user", "content": REMINDER},
    ]
