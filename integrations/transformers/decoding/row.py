"""A row of the running batch: a request, its prompt, and the tokens that were chosen for it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass
from functools import partial
from typing import cast

from torch import Tensor

from rttc_graph.errors import PolicyModelError
from rttc_graph.integrations.transformers.decoding.detokenise import TextStream, prompt_opening
from rttc_graph.integrations.transformers.decoding.drafts import Drafts
from rttc_graph.integrations.transformers.decoding.loops import is_looping
from rttc_graph.integrations.transformers.decoding.prompt_cache import Known, Owner
from rttc_graph.integrations.transformers.decoding.schema_mask import SchemaMask
from rttc_graph.integrations.transformers.decoding.token_sampling import Draw
from rttc_graph.integrations.transformers.literal import encode_begun
from rttc_graph.integrations.transformers.loading import LoadedModel
from rttc_graph.integrations.transformers.tokens import encode_answer, encode_prompt
from rttc_graph.integrations.transformers.torch_errors import translated
from rttc_graph.protocols import Doubt, GenerationRequest
from rttc_graph.state import FinishReason
from rttc_graph.support.identity import clean

MOST_FAULTS = 2
"""Failed passes of the running batch after which a row is computed by itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeRequest:
    """A request for one row of the batch."""

    generation: GenerationRequest
    deadline: float | None = None
    """Reading of `time.monotonic()` at which the row ends with the tokens it has."""
    on_text: Callable[[str], None] | None = None
    """Called in the lane with each new piece of text; must not block. An error ends the row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """A finished row."""

    text: str
    prompt_tokens: int
    """Tokens before the chosen ones, those of a begun answer among them."""
    reused_tokens: int
    """Number of them that were known, or computed for another row."""
    tokens: tuple[int, ...]
    """Chosen tokens, a final end token and those of a stop string included."""
    token_texts: tuple[str, ...]
    logprobs: tuple[float, ...]
    """Log-probability of each chosen token in nats, at temperature 1."""
    finish_reason: FinishReason
    state: tuple[float, ...] | None = None
    """Hidden state that the last token was chosen from, where it was asked for."""
    doubt_at: int | None = None
    """Characters of the text before the first tokens that the model was unsure of."""

    @property
    def mean_logprob(self) -> float | None:
        """Mean log-probability in nats; `None` when no token was chosen."""
        return math.fsum(self.logprobs) / len(self.logprobs) if self.logprobs else None


class Row:
    """A request that waits or is being decoded.

    Raises:
        PolicyModelError: Its prompt cannot be read, or leaves no room for a token.
    """

    def __init__(
        self, request: DecodeRequest, future: Future[Decoded], loaded: LoadedModel, call: int
    ) -> None:
        asked = request.generation
        self.future = future
        self.call = call
        """Number of the call that it came with."""
        self.parked: tuple[Owner, Known] | None = None
        """Keys and values of a row that has left the batch for another one and goes on later."""
        self.adapter = asked.adapter
        self.reuse_scope = asked.reuse_scope
        self.owner: Owner = (asked.reuse_scope, None, -1)
        """Owner of the known part of the prompt, as of the last look."""
        question = encode_prompt(loaded, asked.messages)
        opening = prompt_opening(loaded.tokenizer, question)
        begun = clean(asked.answer_prefix.removeprefix(opening))
        begun_ids = encode_begun(loaded.tokenizer, begun)
        self.prompt = [*question, *begun_ids]
        self.computed = 0
        """Number of tokens of the prompt that passes for this row computed."""
        self.room = min(asked.max_new_tokens, loaded.context_tokens - len(self.prompt))
        """Tokens that may be chosen."""
        self.draw = Draw.seeded(temperature=asked.temperature, top_p=asked.top_p, seed=asked.seed)
        self.tokens: list[int] = []
        self.logprobs: list[float] = []
        self.enters_alone = False
        """Whether its prompt is computed in a pass of its own, since a shared pass failed."""
        self.faults = 0
        """Number of passes of the running batch that failed with this row."""
        rests = [text[len(begun) :] for text in asked.drafts if text.startswith(begun)]
        self.drafts = Drafts(rests, partial(encode_answer, loaded, end=True))
        self._ends_loops = asked.ends_loops
        self._step = asked.step
        self._longest_mark = max(map(len, asked.step.marks), default=0) if asked.step else 0
        self._begun = len(opening) + len(begun)
        self._is_at_mark = False
        """Whether the last token completed a mark that ends a step."""
        self.mask = SchemaMask(asked.answer_schema, loaded) if asked.answer_schema else None
        """Tokens that may come next; `None` for all."""
        self._doubt = asked.doubt
        self._lengths: list[int] = []
        """Length of the text before each chosen token, where doubts are looked for."""
        self._doubt_at: int | None = None
        self.tells_state = asked.tells_state
        self._state: Tensor | None = None
        """Hidden state [F] that the last token was chosen from; `None` where it was not read."""
        self._deadline = request.deadline
        self._on_text = request.on_text
        self._tokenizer = loaded.tokenizer
        self._ends = loaded.eos_ids
        self._stream = TextStream(
            loaded.tokenizer,
            (*asked.stop, *loaded.stop),
            opening=opening,
            begun=begun,
            begun_ids=begun_ids,
        )
        self._check_room(asked, loaded)

    def _check_room(self, asked: GenerationRequest, loaded: LoadedModel) -> None:
        if asked.max_new_tokens < 1:
            raise PolicyModelError(
                f"max_new_tokens must be at least 1, got {asked.max_new_tokens!r}"
            )
        if self.room < 1:
            raise PolicyModelError(
                f"a prompt of {len(self.prompt)} tokens leaves no room in the model's context of "
                f"{loaded.context_tokens}: give fewer samples, a shorter question, or take a model "
                "with a longer context"
            )

    @property
    def size(self) -> int:
        """Most positions that the row may fill."""
        return len(self.prompt) + self.room

    @property
    def ids(self) -> list[int]:
        """Tokens that must be computed before the next one is chosen."""
        return [*self.prompt, *self.tokens]

    @property
    def last_token(self) -> int:
        """The token that is not computed yet, of those before the next one."""
        return (self.tokens or self.prompt)[-1]

    @property
    def ends_step(self) -> bool:
        """Whether it has ended with a step that may be gone on from."""
        return (
            self._step is not None
            and self.future.done()
            and not self.future.cancelled()
            and self.future.exception() is None
            and self.future.result().finish_reason == "step"
        )

    @property
    def is_over(self) -> bool:
        """Whether it gets no further token."""
        return self.future.done() or self.reason_to_end() is not None

    @property
    def stays_alone(self) -> bool:
        """Whether it may share no pass at all."""
        return self.faults >= MOST_FAULTS

    def take_back(self) -> None:
        """Reset sampling to where the chosen tokens left it; a failed pass has drawn further."""
        self.enters_alone = True
        self.draw = self.draw.rewound(len(self.tokens))

    def reason_to_end(self) -> FinishReason | None:
        """Return why the row gets no further token; `None` if it goes on."""
        if self.tokens and (self.tokens[-1] in self._ends or self._stream.is_stopped):
            return "stop"
        if self._ends_loops and is_looping(self.tokens):
            return "loop"
        if len(self.tokens) >= self.room:
            return "length"
        if self._is_at_step_end():
            return "step"
        if self._deadline is not None and time.monotonic() >= self._deadline:
            return "budget"
        return None

    def _is_at_step_end(self) -> bool:
        if self._doubt is not None and self._doubt.halts and self._doubt_at is not None:
            return True
        if self._step is None or len(self.tokens) < self._step.least_tokens:
            return False
        return self._is_at_mark or len(self.tokens) >= self._step.most_tokens

    def push(self, token: int, logprob: float, state: Tensor | None = None) -> None:
        """Append a chosen token, with the hidden state [F] that it was chosen from, if read."""
        if math.isnan(logprob):
            on = f" with the adapter {self.adapter!r}" if self.adapter else ""
            self.fail(PolicyModelError(f"the model{on} gave logits that are not numbers"))
            return
        if self.mask is not None:
            try:
                self.mask.take(token)
            except PolicyModelError as exc:
                self.fail(exc)
                return
        self.tokens.append(token)
        self.logprobs.append(logprob)
        self._state = state if self.tells_state else None
        seen = len(self._stream.text)
        try:
            with translated("turn tokens into text"):
                piece = self._stream.push(token)
        except PolicyModelError as exc:
            self.fail(exc)
        else:
            self._look_for_mark(seen)
            self._look_for_doubt(seen)
            self._tell(piece)

    def _look_for_mark(self, seen: int) -> None:
        """Note whether a mark was completed behind the first `seen` characters of the text."""
        if self._step is None:
            return
        new = self._stream.text[max(self._begun, seen + 1 - self._longest_mark) :]
        self._is_at_mark = any(mark in new for mark in self._step.marks)

    def _look_for_doubt(self, seen: int) -> None:
        """Note whether the model is unsure of the last tokens, the last one behind `seen`."""
        doubt = self._doubt
        if doubt is None or self._doubt_at is not None:
            return
        self._lengths.append(seen)
        if len(self.tokens) >= doubt.window:
            self._doubt_at = self._place_of_doubt(doubt)

    def _place_of_doubt(self, doubt: Doubt) -> int | None:
        last = self.logprobs[-doubt.window :]
        if not last or math.fsum(last) / len(last) >= doubt.least_logprob:
            return None
        return max(self._begun, self._lengths[-len(last)])

    def finish(self, reason: FinishReason) -> None:
        """Set the answer as the future's result."""
        if self._doubt is not None and len(self.tokens) < self._doubt.window:
            self._doubt_at = self._place_of_doubt(self._doubt)
        self._tell(self._stream.finish())
        # One read-back: number by number a GPU takes 0.1 s for the states of an 8B model.
        state = None if self._state is None else tuple(cast("list[float]", self._state.tolist()))
        answer = Decoded(
            text=self._stream.text,
            prompt_tokens=len(self.prompt),
            reused_tokens=max(0, len(self.prompt) - self.computed),
            tokens=tuple(self.tokens),
            token_texts=tuple(self._tokenizer.convert_ids_to_tokens(self.tokens)),
            logprobs=tuple(self.logprobs),
            finish_reason=reason,
            state=state,
            doubt_at=self._doubt_at,
        )
        try:
            self.future.set_result(answer)
        except InvalidStateError:
            return  # cancelled meanwhile

    def fail(self, exc: BaseException) -> None:
        """Set an error as the future's result."""
        fail_future(self.future, exc)

    def _tell(self, piece: str) -> None:
        if not piece or self._on_text is None:
            return
        try:
            self._on_text(piece)
        except Exception as exc:  # noqa: BLE001  # a listener's error fails its own row alone
            self.fail(exc)


def fail_future(future: Future[Decoded], exc: BaseException) -> None:
    """Set an error as the result of a row that has none yet."""
    try:
        future.set_exception(exc)
    except InvalidStateError:
        return  # cancelled or answered meanwhile
