"""Chat turns to token ids: the one place that applies chat templates, for asking and training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from jinja2 import TemplateError

from rttc_graph.errors import PolicyModelError
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
    try:
        ids = loaded.tokenizer.apply_chat_template(
            [{"role": turn["role"], "content": turn["content"]} for turn in messages],
            add_generation_prompt=True,
            return_dict=False,
        )
    except (TemplateError, ValueError) as exc:
        raise PolicyModelError(f"the model's chat template refused the messages: {exc}") from exc
    return cast("list[int]", ids)


def encode_answer(loaded: LoadedModel, answer: str, *, end: bool) -> list[int]:
    """Return an answer's ids, with the end token behind them if `end`."""
    encoded = cast("dict[str, Any]", loaded.tokenizer(answer, add_special_tokens=False))
    ids = cast("list[int]", encoded["input_ids"])
    return [*ids, loaded.end_id] if end else ids
