"""How questions and samples become prompts.

Samples stand in the prompt as earlier turns of the same conversation, nearest last, and an adapter
is trained on the very prompt that it will be asked with: both arms see one format. What a model
thought before an answer stays out of all of them.
"""

from __future__ import annotations

from collections.abc import Sequence

from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, SystemMessage

from rttc_graph.errors import ConfigurationError
from rttc_graph.protocols import TrainingExample
from rttc_graph.state import ChatTurn, Sample
from rttc_graph.support.thinking import answer_behind

SYSTEM_PROMPT = "Answer the question."


def direct_messages(query: str, history: Sequence[ChatTurn] = ()) -> tuple[ChatTurn, ...]:
    """Return the prompt of the plain model: system prompt, earlier turns, query.

    A conversation that brings system turns of its own keeps those, joined, in the first place.
    """
    system = [turn for turn in history if turn["role"] == "system"]
    first: ChatTurn = {
        "role": "system",
        "content": "\n\n".join(turn["content"] for turn in system) or SYSTEM_PROMPT,
    }
    talk = (turn for turn in history if turn["role"] != "system")
    return (first, *talk, {"role": "user", "content": query})


def rag_messages(
    query: str, samples: Sequence[Sample], history: Sequence[ChatTurn] = ()
) -> tuple[ChatTurn, ...]:
    """Return the prompt with samples as solved turns behind the system prompt.

    Args:
        query: The question to answer.
        samples: Nearest first, as `retrieve` leaves them; the nearest ends up next to the query.
        history: Earlier turns of the conversation, between the samples and the query.
    """
    system, *rest = direct_messages(query, history)
    shown: list[ChatTurn] = []
    for sample in reversed(samples):
        shown.append({"role": "user", "content": sample["question"]})
        shown.append({"role": "assistant", "content": answer_behind(sample["answer"])})
    return (system, *shown, *rest)


def training_examples(samples: Sequence[Sample]) -> tuple[TrainingExample, ...]:
    """Return what an adapter learns: each sample's question as a direct prompt, and its answer."""
    return tuple(
        TrainingExample(
            messages=direct_messages(sample["question"]), answer=answer_behind(sample["answer"])
        )
        for sample in samples
    )


def split_conversation(messages: Sequence[AnyMessage]) -> tuple[str, list[ChatTurn]]:
    """Return the query (the last message) and the turns before it.

    Raises:
        ConfigurationError: There is no message, or the last one is not the human's.
    """
    if not messages:
        raise ConfigurationError(
            "no input: give a non-empty 'query', or 'messages' that end with a human one"
        )
    last = messages[-1]
    if not isinstance(last, HumanMessage):
        raise ConfigurationError(
            f"messages must end with a human message, got {last.type!r} last: "
            "append the question as a HumanMessage"
        )
    return str(last.text), [turn for turn in map(_turn, messages[:-1]) if turn is not None]


def _turn(message: AnyMessage) -> ChatTurn | None:
    """Return a message as a turn; `None` for what a prompt has no place for, such as tool calls.

    `message.text` is a subclass of `str`, and the state holds plain data only.
    """
    if isinstance(message, SystemMessage):
        return {"role": "system", "content": str(message.text)}
    if isinstance(message, HumanMessage):
        return {"role": "user", "content": str(message.text)}
    if isinstance(message, AIMessage) and (said := answer_behind(str(message.text))):
        return {"role": "assistant", "content": said}
    return None
