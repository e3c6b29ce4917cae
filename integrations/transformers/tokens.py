"""Chat turns to token ids: the one place that applies chat templates, for asking and training."""

from __future__ import annotations

from collections.abc import Sequence

from jinja2 import TemplateError

from rttc_graph.errors import PolicyModelError
from rttc_graph.integrations.transformers.literal import encode_chat, encode_text
from rttc_graph.integrations.transformers.loading import LoadedModel
from rttc_graph.state import ChatTurn


def encode_prompt(loaded: LoadedModel, messages: Sequence[ChatTurn]) -> list[int]:
    """Return the prompt's ids, up to where the answer starts.

    Raises:
        PolicyModelError: The tokenizer has no chat template, or its template refuses the messages.
    """
    if not loaded.tokenizer.chat_template:
        raise PolicyModelError(
            "the model has no chat template: use an instruction-tuned one, or put a "
            "chat_template.jinja into its folder"
        )
    options = {} if loaded.thinking is None else {"enable_thinking": loaded.thinking}
    try:
        return encode_chat(loaded.tokenizer, messages, answer_follows=True, options=options)
    except (TemplateError, ValueError, TypeError) as exc:
        raise PolicyModelError(f"the model's chat template refused the messages: {exc}") from exc


def encode_answer(loaded: LoadedModel, answer: str, *, end: bool) -> list[int]:
    """Return an answer's ids, followed by the end token if `end` and the model has one."""
    ids = encode_text(loaded.tokenizer, answer)
    return [*ids, loaded.end_id] if end and loaded.end_id is not None else ids
