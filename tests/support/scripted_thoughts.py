"""A policy model that splits questions and answers them as a test wrote down."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from scripted_parts import ScriptedPolicyModel

from rttc_graph.errors import PolicyModelError
from rttc_graph.protocols import Generation, GenerationRequest

Split = Sequence[tuple[str, Sequence[int]]]
"""Smaller questions, each with the numbers of those that it needs."""


@dataclass
class ThinkingModel(ScriptedPolicyModel):
    """Splits as `splits` say; knows what `answers` say once it is told what each needs."""

    splits: Mapping[str, Split | str] = field(default_factory=dict[str, Split | str])
    answers: Mapping[str, tuple[str, Sequence[str]]] = field(
        default_factory=dict[str, tuple[str, Sequence[str]]]
    )
    follows_schemas: bool = True
    calls: list[list[GenerationRequest]] = field(default_factory=list[list[GenerationRequest]])
    breaks_at: int = -1
    """Number of the call that fails."""

    async def generate(
        self, requests: Sequence[GenerationRequest], *, deadline: float | None = None
    ) -> list[Generation]:
        self.calls.append(list(requests))
        if len(self.calls) - 1 == self.breaks_at:
            raise PolicyModelError("the model is gone")
        made = await super().generate(requests, deadline=deadline)
        return [
            replace(one, text=self.said(request), completion_tokens=3)
            for request, one in zip(requests, made, strict=True)
        ]

    def said(self, request: GenerationRequest) -> str:
        question = asked(request)
        if is_split(request):
            split = self.splits.get(question, "no idea")
            return split if isinstance(split, str) else as_json(split)
        answer, needs = self.answers.get(question, ("wrong", ()))
        told = request.messages[-1]["content"]
        return answer if all(one in told for one in needs) else "wrong"


def as_json(split: Split) -> str:
    return json.dumps({"questions": [{"question": q, "needs": list(n)} for q, n in split]})


def is_split(request: GenerationRequest) -> bool:
    return request.messages[0]["content"].startswith("You plan how a question is answered")


def asked(request: GenerationRequest) -> str:
    return request.messages[-1]["content"].splitlines()[-1].removeprefix("Question: ")
