"""What goes in and out over HTTP, as pydantic models: the schemas that clients see."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, cast

from langchain_core.messages import AnyMessage, convert_to_messages
from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, TypeAdapter, model_validator

from rttc_graph.nodes.prepare import check_input
from rttc_graph.state import Arm, CacheReport, Candidate, LedgerEntry, RttcInput, RttcOutput, Source
from rttc_graph.support.identity import MAX_NAME_CHARACTERS, clean

__all__ = ("Answer", "QuestionBody", "Report", "given_to_graph")


class RoleMessage(BaseModel):
    """A message by role, as most clients write it."""

    role: Literal["user", "human", "assistant", "ai", "system", "developer", "tool", "function"]
    content: str | list[str | dict[str, Any]]


_MESSAGE: TypeAdapter[AnyMessage] = TypeAdapter(AnyMessage)


def _as_message(given: Any) -> Any:
    """Return a message in any form that LangChain takes: by type or role, as pair, as text."""
    try:
        if isinstance(given, Mapping) and "role" not in given:
            return _cleaned(_MESSAGE.validate_python(given))
        return _cleaned(convert_to_messages([cast("Any", given)])[0])
    except (TypeError, KeyError, NotImplementedError) as exc:
        raise ValueError(
            "a message is an object with `type` or `role` and `content`, a pair of role and text, "
            "or a text"
        ) from exc


def _cleaned(message: Any) -> Any:
    """Return the message without lone surrogates, for the answer to be written as UTF-8."""
    if isinstance(message.content, str):
        return message.model_copy(update={"content": clean(message.content)})
    parts = [_cleaned_part(part) for part in cast("list[Any]", message.content)]
    return message.model_copy(update={"content": parts})


def _cleaned_part(part: Any) -> Any:
    if isinstance(part, str):
        return clean(part)
    text = part.get("text")
    return {**part, "text": clean(text)} if isinstance(text, str) else part


GivenMessage = Annotated[
    AnyMessage,
    BeforeValidator(
        _as_message,
        json_schema_input_type=AnyMessage | RoleMessage | tuple[str, str] | str,
    ),
]


class QuestionBody(BaseModel):
    """A question, by itself or as the end of a conversation."""

    query: Annotated[str, AfterValidator(clean)] | None = Field(
        default=None, description="What to answer; or give `messages`."
    )
    domain: str | None = Field(
        default=None,
        max_length=MAX_NAME_CHARACTERS,
        description="Domain of the knowledge base to search (default: all).",
    )
    messages: list[GivenMessage] | None = Field(
        default=None, description="A conversation that ends with a human message."
    )

    @model_validator(mode="after")
    def _has_something_to_answer(self) -> QuestionBody:
        if not (self.query or "").strip() and not self.messages:
            raise ValueError("give a non-empty `query`, or `messages` that end with a human one")
        check_input(given_to_graph(self))
        return self


class Report(BaseModel):
    """Record of how an answer came about."""

    arm: Arm = Field(description="The arm that gave the answer.")
    reward: float | None = Field(description="Its reward; `None` if the judge failed.")
    accepted: bool = Field(description="Whether it can be acted on: its reward is at least τr.")
    declined: bool = Field(
        description="Whether the answer is the text that declines, by the setting `below`; the "
        "best answer is among the candidates."
    )
    tau_r: float = Field(description="Reward from which on an answer of this run is accepted.")
    calibrated: bool = Field(
        description="Whether the reward is the probability that the answer is right, by a "
        "calibration for the question's domain; else it is a score."
    )
    sources: list[Source] = Field(
        description="Samples that the answers rest on, nearest first; `taken` marks those of the "
        "answer that was taken."
    )
    run_id: str = Field(description="What the run is stored under.")
    candidates: list[Candidate] = Field(description="All answers, with what each one cost.")
    ledger: list[LedgerEntry] = Field(description="What was tried, skipped and decided, and why.")
    cache: CacheReport
    seconds: float

    @staticmethod
    def from_output(output: RttcOutput) -> Report:
        """Take it from a run's output."""
        return Report(
            arm=output["arm"],
            reward=output["reward"],
            accepted=output["accepted"],
            declined=output["declined"],
            tau_r=output["tau_r"],
            calibrated=output["calibrated"],
            sources=output["sources"],
            run_id=output["run_id"],
            candidates=output["candidates"],
            ledger=output["ledger"],
            cache=output["cache"],
            seconds=output["seconds"],
        )


class Answer(Report):
    """An answer, and how it came about."""

    answer: str
    messages: list[AnyMessage] = Field(
        default_factory=list[AnyMessage],
        description="The conversation with the answer appended, if the question came as one.",
    )

    @staticmethod
    def from_output(output: RttcOutput) -> Answer:
        """Take it from a run's output."""
        messages = output.get("messages") or []
        return Answer(
            **Report.from_output(output).model_dump(),
            answer=output["answer"],
            messages=list(messages),
        )


def given_to_graph(question: Any) -> RttcInput:
    """Return the input of the graph; `question` is a `QuestionBody` or its fields."""
    said: dict[str, Any] = dict(question)  # of a model too: its fields as they are
    given: RttcInput = {}
    if said.get("query") is not None:
        given["query"] = said["query"]
    if said.get("domain") is not None:
        given["domain"] = said["domain"]
    if said.get("messages"):
        given["messages"] = said["messages"]
    return given
