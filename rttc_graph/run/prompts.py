"""How questions and samples become prompts.

Samples stand in the prompt as earlier turns of the same conversation, nearest last, and an adapter
is trained on the very prompt that it will be asked with: both arms see one format. What a model
thought before an answer stays out of all of them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

from langchain_core.messages import (
    AIMessage,
    AnyMessage,
    BaseMessage,
    HumanMessage,
    SystemMessage,
)

from rttc_graph.errors import ConfigurationError
from rttc_graph.protocols import TrainingExample
from rttc_graph.settings import RAG_PLACEHOLDERS, PromptSettings, ViewKind
from rttc_graph.settings import SYSTEM_PROMPT as SYSTEM_PROMPT
from rttc_graph.state import ChatTurn, RttcInput, RttcState, Sample
from rttc_graph.support.identity import clean
from rttc_graph.support.passages import is_passage
from rttc_graph.support.thinking import answer_behind
from rttc_graph.views.view_votes import views_of

PASSAGES_PROMPT = "Use these passages where they help to answer the question behind them."
"""Text before the passages of documents in a prompt."""


REVISE = (
    "Look at your answer again. If something in it is wrong, give the right answer; if nothing is, "
    "give the same answer once more. Answer as before, and say nothing else."
)
"""Turn of the user behind an answer that is to be revised."""


_STANDALONE_PROMPT = (
    "Rewrite the last question of the conversation as one question that can be understood without "
    "the conversation: put names and things in the place of words that stand for them. Reply with "
    "the question and nothing else. If it can be understood as it is, repeat it."
)

_DEFAULTS = PromptSettings()

_PLACES = re.compile("|".join(map(re.escape, RAG_PLACEHOLDERS)))


def direct_messages(
    query: str, history: Sequence[ChatTurn] = (), prompts: PromptSettings = _DEFAULTS
) -> tuple[ChatTurn, ...]:
    """Return the prompt of the plain model: system prompt, earlier turns, query.

    A conversation that brings system turns of its own keeps those, joined, in the first place:
    instead of the default system prompt, and behind another one.
    """
    system = [turn["content"] for turn in history if turn["role"] == "system"]
    if not system or prompts.system_prompt != SYSTEM_PROMPT:
        system.insert(0, prompts.system_prompt)
    first: ChatTurn = {"role": "system", "content": "\n\n".join(system)}
    talk = (turn for turn in history if turn["role"] != "system")
    return (first, *talk, {"role": "user", "content": query})


def rag_messages(
    query: str,
    samples: Sequence[Sample],
    history: Sequence[ChatTurn] = (),
    prompts: PromptSettings = _DEFAULTS,
) -> tuple[ChatTurn, ...]:
    """Return the prompt with what was found: solved questions as turns, passages with the query.

    Solved questions stand behind the system prompt, as if the model had answered them. Passages of
    documents stand in the query's own turn, before it. With a template, all of them stand in the
    query's turn, where the template has its places.

    Args:
        query: The question to answer.
        samples: Nearest first, as `retrieve` leaves them; the nearest ends up next to the query.
        history: Earlier turns of the conversation, between the samples and the query.
        prompts: System prompt and template.
    """
    system, *rest = direct_messages(query, history, prompts)
    if prompts.rag_template and samples:
        rest[-1] = {"role": "user", "content": _filled(prompts.rag_template, query, samples)}
        return (system, *rest)
    shown: list[ChatTurn] = []
    for sample in reversed(solved(samples)):
        shown.append({"role": "user", "content": sample["question"]})
        shown.append({"role": "assistant", "content": answer_behind(sample["answer"])})
    passages = [sample for sample in samples if is_passage(sample.get("metadata"))]
    if passages:
        rest[-1] = {"role": "user", "content": _with_passages(query, passages)}
    return (system, *shown, *rest)


def _filled(template: str, query: str, samples: Sequence[Sample]) -> str:
    """Return a template with its places filled; braces in questions and answers are left alone."""
    shown = "\n\n".join(_as_text(sample) for sample in reversed(samples))
    values: dict[str, str] = dict(zip(RAG_PLACEHOLDERS, (shown, query), strict=True))
    return _PLACES.sub(lambda place: values[place[0]], template)


def _as_text(sample: Sample) -> str:
    if is_passage(sample.get("metadata")):
        return f"[{sample['question']}]\n{sample['answer']}"
    return f"Question: {sample['question']}\nAnswer: {answer_behind(sample['answer'])}"


def samples_in_hand(state: RttcState) -> list[Sample]:
    """Return what was retrieved and what was looked up in mid-answer, each once, nearest first."""
    retrieved, more = state.get("samples", []), state.get("looked_up", [])
    if not more:
        return retrieved
    each = {sample["id"]: sample for sample in [*more, *retrieved]}
    return sorted(each.values(), key=lambda sample: -sample["similarity"])


def standalone_query(state: RttcState) -> str:
    """Return the question as everybody is asked it who is not shown the conversation before it."""
    return state.get("searched_with") or state["task"]["query"]


def standalone_messages(query: str, history: Sequence[ChatTurn]) -> tuple[ChatTurn, ...]:
    """Return the prompt that asks for a question without a conversation around it."""
    talk = "\n".join(
        f"{'User' if turn['role'] == 'user' else 'Assistant'}: {turn['content']}"
        for turn in history
        if turn["role"] != "system"
    )
    asked = f"Conversation:\n{talk}\n\nLast question: {query}\n\nThe question on its own:"
    return (
        {"role": "system", "content": _STANDALONE_PROMPT},
        {"role": "user", "content": asked},
    )


def _with_passages(query: str, passages: Sequence[Sample]) -> str:
    """Return the query behind passages, each under where it stands; the nearest is next to it."""
    texts = [f"[{one['question']}]\n{one['answer']}" for one in reversed(passages)]
    return "\n\n".join([PASSAGES_PROMPT, *texts, query])


def solved(samples: Sequence[Sample]) -> list[Sample]:
    """Return those samples that are solved questions, not passages of documents."""
    return [sample for sample in samples if not is_passage(sample.get("metadata"))]


def adapted_messages(
    query: str,
    samples: Sequence[Sample],
    history: Sequence[ChatTurn] = (),
    prompts: PromptSettings = _DEFAULTS,
) -> tuple[ChatTurn, ...]:
    """Return the prompt of an adapter: as it was trained, with `ttt_shown` samples or none."""
    return rag_messages(query, solved(samples)[: prompts.ttt_shown], history, prompts)


def training_examples(
    samples: Sequence[Sample], prompts: PromptSettings = _DEFAULTS
) -> tuple[TrainingExample, ...]:
    """Return what an adapter learns: each solved question as the prompt will be, and its answer.

    With `ttt_shown` a question stands behind the nearest others and never behind itself, so that
    the adapter learns to answer from samples (arXiv 2411.07279, "leave-one-out"). Passages of
    documents are left out: they answer no question by themselves.
    """
    known = solved(samples)
    return tuple(
        TrainingExample(
            messages=adapted_messages(
                sample["question"], [*known[:place], *known[place + 1 :]], (), prompts
            ),
            answer=answer_behind(sample["answer"]),
        )
        for place, sample in enumerate(known)
    )


MAX_EXAMPLES = 250
"""Most examples of an augmented training, as in arXiv 2411.07279."""


def augmented_examples(
    query: str,
    samples: Sequence[Sample],
    prompts: PromptSettings = _DEFAULTS,
    *,
    kinds: Sequence[ViewKind] = (),
    each: int = 1,
) -> tuple[TrainingExample, ...]:
    """Return what an adapter learns: the samples as they are, and as each view has them.

    Nothing is there twice; beyond 250 examples the later views are left out.

    Args:
        query: The question, whose own grids, options or names decide which transforms apply.
        samples: Samples, nearest first.
        prompts: System prompt, template and number of samples shown.
        kinds: Transforms; without any these are the examples of a plain training.
        each: Most views of each.
    """
    plain = training_examples(samples, prompts)
    examples = list(plain)
    for view in views_of(query, solved(samples), kinds, each):
        examples += training_examples(view.samples, prompts)
    found = {(one.answer, *(turn["content"] for turn in one.messages)): one for one in examples}
    return tuple(found.values())[:MAX_EXAMPLES] if kinds else plain


def split_conversation(messages: Sequence[AnyMessage]) -> tuple[str, list[ChatTurn]]:
    """Return the query (the last message) and the turns before it.

    Raises:
        ConfigurationError: There is no message, the last one is not the human's, or one has
            parts that are no text.
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
    turns = [_turn(message, place) for place, message in enumerate(messages[:-1])]
    query = _text_of(last, len(messages) - 1)
    return query, [turn for turn in turns if turn is not None]


def asked_domain(state: RttcInput, default: str = "") -> str:
    """Return the domain of a run's input: its own, else the last message's, else the default.

    Raises:
        ConfigurationError: It is no text.
    """
    domain = text_of_input(state.get("domain"), "domain")
    if domain.strip():
        return domain
    messages = state.get("messages") or []
    return (domain_asked_by(messages[-1]) if messages else "") or default


def text_of_input(value: object, name: str) -> str:
    """Return a text of the input; empty if it has none.

    Raises:
        ConfigurationError: It is something else, which a form or a script may send.
    """
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ConfigurationError(
            f"{name!r} must be text, got {value!r:.80} ({type(value).__name__}): "
            f"give a string, or leave {name!r} out"
        )
    return str(value)


def domain_asked_by(message: BaseMessage) -> str:
    """Return the domain that a message names beside its text; empty if it names none.

    It may stand as `domain`, or as `domain` under `rttc`, in the message's `additional_kwargs`, its
    `response_metadata` or its `metadata`. Settings do not come this way: a message is often written
    by somebody who must not choose a tenant or a budget.

    Raises:
        ConfigurationError: The domain is no text, or more is asked for under `rttc`.
    """
    extra = (message.model_extra or {}).get("metadata")
    for said in (message.additional_kwargs, message.response_metadata, extra):
        if not isinstance(said, Mapping):
            continue
        named = cast("Mapping[str, Any]", said)
        asked: object = named.get("rttc") or {}
        ours = cast("Mapping[str, Any]", asked if isinstance(asked, Mapping) else {"": asked})
        if ours.keys() - {"domain"}:
            raise ConfigurationError(
                f"a message asks for {asked!r:.200} under 'rttc': only 'domain' can come with a "
                "message; give settings as the run's context, or among its configurable values"
            )
        domain: object = ours.get("domain") or named.get("domain")
        if domain is not None and not isinstance(domain, str):
            raise ConfigurationError(
                f"a message names the domain {domain!r:.80}, which is no text: give a string"
            )
        if domain and domain.strip():
            return domain
    return ""


def _turn(message: AnyMessage, place: int) -> ChatTurn | None:
    """Return a message as a turn; `None` for what a prompt has no place for, such as tool calls."""
    if isinstance(message, SystemMessage):
        return {"role": "system", "content": _text_of(message, place)}
    if isinstance(message, HumanMessage):
        return {"role": "user", "content": _text_of(message, place)}
    if isinstance(message, AIMessage) and (said := answer_behind(_text_of(message, place))):
        return {"role": "assistant", "content": said}
    return None


_MEDIA = ("image", "audio", "video", "file", "media", "input_", "document")
"""Prefixes of the types of message parts that a person sees or hears."""


def _text_of(message: BaseMessage, place: int) -> str:
    """Return what a message says, as plain text without lone surrogates.

    Of an assistant's earlier turn, calls of tools, thinking and the like are left out, and a
    refusal is what it said.

    Raises:
        ConfigurationError: A part is no text, and leaving it out would change the question.
    """
    content: str | list[Any] = message.content
    parts = [content] if isinstance(content, str) else content
    texts = (_text_of_part(part, place, isinstance(message, AIMessage)) for part in parts)
    return clean("".join(texts))


def _text_of_part(part: Any, place: int, is_assistants: bool) -> str:
    if isinstance(part, str):
        return part
    kind = str(part.get("type"))
    if kind == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    if is_assistants and not kind.startswith(_MEDIA):
        return str(part.get("refusal") or "") if kind == "refusal" else ""
    raise ConfigurationError(
        f"messages[{place}] has a part of type {kind[:40]!r}, and only text is supported: "
        "remove it or describe it in text"
    )
