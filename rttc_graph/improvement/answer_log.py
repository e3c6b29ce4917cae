"""Answers that a model drew for an improvement, kept in a file so that a killed job goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from typing_extensions import TypedDict

from rttc_graph.protocols import (
    Generation,
    GenerationRequest,
    PolicyModel,
    forward_flops,
    parameters_of,
)
from rttc_graph.state import FinishReason
from rttc_graph.support.json_lines import add_lines, load_lines
from rttc_graph.support.progress import Advance
from rttc_graph.support.thinking import answer_behind

__all__ = ("AnswerLog", "Ask", "DrawnAnswer")

AT_ONCE = 16
"""Answers that are asked for together, and lost when the job is killed."""


class DrawnAnswer(TypedDict):
    """One answer of a model to one question."""

    key: str
    """Digest of everything that the answer depends on."""
    answer: str
    """Text without the model's thoughts."""
    finish_reason: FinishReason
    mean_logprob: float | None
    prompt_tokens: int
    completion_tokens: int
    flops: float | None


_LINE: TypeAdapter[DrawnAnswer] = TypeAdapter(DrawnAnswer)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """An answer that is wanted."""

    key: str
    request: GenerationRequest


class AnswerLog:
    """Answers in a file; those that are there are not drawn again.

    Args:
        path: The file; it is made with the first answer.
        policy_model: Gives the answers.

    Raises:
        ConfigurationError: The file holds something else.
    """

    def __init__(self, path: Path, policy_model: PolicyModel) -> None:
        self._path = path
        self._policy_model = policy_model
        lines = load_lines(
            path, _parsed, what="answers of an improvement", way_out="name another --records"
        )
        self._known = {line["key"]: line for line in lines}
        self.flops = 0.0
        """Operations of the answers that were drawn here, as far as they are known."""

    async def ask(self, wanted: Sequence[Ask], advance: Advance) -> list[DrawnAnswer]:
        """Return the answers in order, drawing those that are not known.

        Raises:
            PolicyModelError: The model failed; what it answered before is kept.
        """
        missing = list({one.key: one for one in wanted if one.key not in self._known}.values())
        missing.sort(key=_length)  # so that a batch has prompts of like length
        done = len(wanted) - len(missing)
        advance(done, len(wanted))
        parameters = await parameters_of(self._policy_model)
        for first in range(0, len(missing), AT_ONCE):
            part = missing[first : first + AT_ONCE]
            made = await self._policy_model.generate([one.request for one in part])
            lines = [_line(one.key, got, parameters) for one, got in zip(part, made, strict=True)]
            await asyncio.to_thread(add_lines, self._path, lines)
            self._known |= {line["key"]: line for line in lines}
            self.flops += sum(line["flops"] or 0.0 for line in lines)
            done += len(part)
            advance(done, len(wanted))
        return [self._known[one.key] for one in wanted]


def _length(one: Ask) -> int:
    return sum(len(turn["content"]) for turn in one.request.messages)


_parsed: Callable[[dict[str, Any]], DrawnAnswer] = _LINE.validate_python


def _line(key: str, made: Generation, parameters: int | None) -> DrawnAnswer:
    tokens = made.prompt_tokens - made.reused_tokens + made.completion_tokens
    return {
        "key": key,
        "answer": answer_behind(made.text),
        "finish_reason": made.finish_reason,
        "mean_logprob": made.mean_logprob,
        "prompt_tokens": made.prompt_tokens,
        "completion_tokens": made.completion_tokens,
        "flops": forward_flops(parameters, tokens),
    }
