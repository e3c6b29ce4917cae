"""Generation: requests of all callers in one running batch, which they join and leave at any token.

Everything but `Decoder.queue` runs in the lane. Each row has its own settings, adapter, random
numbers, deadline and stop strings. In float32 it gives the same tokens alone and in a batch, up to
logits that differ by rounding alone. In 16 bits products of other sizes round otherwise, so that an
answer may part from that of the row alone where two tokens are nearly as likely.

    queue -> waiting rows -> _admit: compute prompts, first tokens -> running batch
                                      _burst: one token a row and pass, until a row is over
                             _settle: rows that are over leave the batch
                             _park: rows make room for a caller without any, and wait again

Callers share the batch evenly: the rows of one call, such as the draws of a panel, take turns with
those of others, and a caller without a row in a full batch gets a place at the next token.
"""

from __future__ import annotations

import itertools
from collections import Counter, deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor

from rttc_graph.errors import PolicyModelError
from rttc_graph.integrations.transformers.decoding.hidden_states import StateReader
from rttc_graph.integrations.transformers.decoding.prompt_cache import (
    Known,
    Owner,
    PromptCache,
    common_beginning,
)
from rttc_graph.integrations.transformers.decoding.row import (
    MOST_FAULTS,
    Decoded,
    DecodeRequest,
    Row,
    fail_future,
)
from rttc_graph.integrations.transformers.decoding.running_batch import Batch, LoneRow, RunningBatch
from rttc_graph.integrations.transformers.decoding.schema_mask import masked
from rttc_graph.integrations.transformers.decoding.token_sampling import choose
from rttc_graph.integrations.transformers.loading import LoadedModel
from rttc_graph.integrations.transformers.model_lane import ModelLane
from rttc_graph.integrations.transformers.recorded.capture import capture_for
from rttc_graph.integrations.transformers.recorded.fixed_batch import FixedBatch, can_stay
from rttc_graph.integrations.transformers.torch_errors import is_out_of_memory, let_go, translated

LENGTH_SLACK_TOKENS = 32
"""Prompts this close in length, or within a quarter of it, are computed together.

Padding is then at most a third of a prompt; beyond it, another pass costs less than the padding.
"""

SHARED_TOKENS = 32
"""Tokens of a prompt from which on it waits until another one that begins so is computed.

A further pass costs as much as some 16 tokens of a prompt (docs/experiments.md, "Drafts").
"""

_CHECKED_TOKENS = 144
"""Most tokens of a pass that checks drafts of several rows, padding included: an H100 multiplies
some 250 tokens by weights of 16 bits in the time in which it reads these."""


class Decoder:
    """The generation side of a lane.

    Args:
        lane: Lane that runs it.
        max_rows: Most rows in the batch.
        max_tokens: Most positions in the batch, padding included; a single row is always admitted.
        max_prefix_bytes: Memory for keys and values of recent prompts.
    """

    def __init__(
        self, lane: ModelLane, *, max_rows: int, max_tokens: int, max_prefix_bytes: int = 0
    ) -> None:
        self._lane = lane
        self._max_rows = max_rows
        self._max_tokens = max_tokens
        self._waiting: deque[Row] = deque()
        self._entering: list[Row] = []
        """Rows whose prompts are being computed: neither waiting nor in the batch."""
        self._rows: list[Row] = []
        self._prefixes = PromptCache(max_bytes=max_prefix_bytes)
        self._batch: Batch = RunningBatch(torch.device("cpu"))
        self._fixed: FixedBatch | None = None
        """Batch of a device that records passes; it and its recordings outlive a run."""
        self._has_company = True
        """Whether the model's rows may share a pass, a prefix, and have drafts checked."""
        self._is_running = False
        self._calls = itertools.count()

    def fit(self, *, rows: int, positions: int) -> None:
        """Set the most rows and positions of the batch; in the lane."""
        self._max_rows, self._max_tokens = rows, positions

    def queue(
        self, requests: Sequence[DecodeRequest], model: Callable[[], LoadedModel]
    ) -> list[Future[Decoded]]:
        """Queue rows and return a future for each; cancel one to drop its row at the next token.

        Args:
            requests: Requests with any mixture of settings and adapters.
            model: Returns the model; called in the lane.
        """
        entries = [(request, Future[Decoded]()) for request in requests]
        futures = [future for _, future in entries]
        call = next(self._calls)
        start = self._lane.submit(lambda: self._enlist(entries, model(), call))
        start.add_done_callback(lambda done: _pass_failure(done, futures))
        return futures

    def _enlist(
        self,
        entries: Sequence[tuple[DecodeRequest, Future[Decoded]]],
        loaded: LoadedModel,
        call: int,
    ) -> None:
        """Turn requests into waiting rows, and start decoding unless it runs already."""
        for request, future in entries:
            if future.cancelled():
                continue
            try:
                with translated("read the prompt"):
                    row = Row(request, future, loaded, call)
            except PolicyModelError as exc:
                fail_future(future, exc)
            else:
                self._waiting.append(row)
        if self._waiting and not self._is_running:
            self._is_running = True
            run = self._lane.submit_steps(lambda: self._decode(loaded), background=False)
            run.add_done_callback(self._ended)

    def _ended(self, run: Future[None]) -> None:
        """Fail all rows, so that no caller waits for ever after an unexpected end."""
        self._is_running = False
        rows = [*self._entering, *self._waiting, *self._rows]
        self._waiting.clear()
        self._entering = []
        self._rows = []
        _pass_failure(run, [row.future for row in rows])

    def _decode(self, loaded: LoadedModel) -> Generator[None, None, None]:
        """Compute prompts and tokens until no row is left."""
        self._has_company = loaded.can_batch
        self._batch = self._new_batch(loaded)
        while True:
            self._settle(loaded)
            newcomers = self._next_group()
            if newcomers:
                self._admit(newcomers, loaded)
            elif self._rows:
                self._burst(loaded)
            else:
                return
            yield

    def _new_batch(self, loaded: LoadedModel) -> Batch:
        """Return an empty batch, of the kind that the device and the model are best served by."""
        if not loaded.can_batch:
            return LoneRow(loaded.device)
        if self._fixed is None:
            capture = capture_for(loaded.device) if loaded.may_be_recorded else None
            if capture is None or not can_stay(loaded.model, loaded.context_tokens):
                return RunningBatch(loaded.device, is_placed=loaded.is_placed)
            self._fixed = FixedBatch(
                loaded.device,
                context_tokens=loaded.context_tokens,
                most_positions=self._max_tokens,
                capture=capture,
            )
        self._fixed.keep([])  # rows of a run that ended by a fault
        return self._fixed

    def _settle(self, loaded: LoadedModel) -> None:
        """Remove rows that are over: answered, cancelled, late, or without their adapter."""
        self._waiting = deque(row for row in self._waiting if self._goes_on(row, loaded))
        kept: list[int] = []
        for at, row in enumerate(self._rows):
            if self._goes_on(row, loaded):
                kept.append(at)
            elif row.ends_step:
                self._keep_step(at, row)
        if len(kept) < len(self._rows):
            self._rows = [self._rows[at] for at in kept]
            self._batch.keep(kept)

    def _goes_on(self, row: Row, loaded: LoadedModel) -> bool:
        if row.future.done():
            return False
        try:
            with translated("end an answer"):
                return self._is_unfinished(row, loaded)
        except PolicyModelError as exc:
            row.fail(exc)
            return False

    def _is_unfinished(self, row: Row, loaded: LoadedModel) -> bool:
        if row.adapter is not None:
            loaded.require_adapter(row.adapter)
            row.owner = loaded.owner(row.adapter, row.reuse_scope)
        reason = row.reason_to_end()
        if reason is not None:
            row.finish(reason)
            if row.draw.is_greedy:
                self._prefixes.note_answer(row.owner, row.prompt, row.tokens)
        return reason is None

    def _keep_step(self, at: int, row: Row) -> None:
        """Cache the keys and values of a step, so that what goes on from it computes none of it.

        The last token's are not there yet: it was chosen and not computed.
        """
        if not (self._prefixes.is_on and self._has_company) or len(row.tokens) < 2:
            return
        self._prefixes.add(row.owner, row.ids[:-1], partial(self._batch.read, at))

    def _next_group(self) -> list[Row]:
        """Take the waiting row whose turn it is, and others of similar length as far as they fit.

        Rows of a caller without any in the batch are first; where it is full, others make room.
        """
        order = self._in_turn()
        if not order or not (self._fits([order[0]]) or self._make_room(order)):
            return []
        group = [order[0]]
        length = self._rest(group[0])
        slack = max(LENGTH_SLACK_TOKENS, length // 4)
        for row in () if group[0].enters_alone else order[1:]:
            if len(self._rows) + len(group) >= self._max_rows:
                break
            is_like = not row.enters_alone and abs(self._rest(row) - length) <= slack
            if is_like and not self._awaits(row, group) and self._fits([*group, row]):
                group.append(row)
        self._waiting = deque(row for row in self._waiting if row not in group)
        return group

    def _in_turn(self) -> list[Row]:
        """Return the waiting rows in the order of their turns.

        Each call's next row has the turn after as many rows as the call has in the batch; of equals
        the older. Rows that are tried again after a failure go first.
        """
        turns = self._rows_by_call()
        order: list[tuple[int, int, Row]] = []
        for age, row in enumerate(self._waiting):
            order.append((-1 if row.enters_alone else turns[row.call], age, row))
            turns[row.call] += 1
        return [row for *_, row in sorted(order, key=lambda one: one[:2])]

    def _rows_by_call(self) -> Counter[int]:
        return Counter(row.call for row in self._rows)

    def _make_room(self, order: Sequence[Row]) -> bool:
        """Park rows of calls that have several, for calls that have none; tell whether it helps.

        The next token is the soonest that a caller can be served, however long the rows of others
        go on. No call loses its last row.
        """
        counts = self._rows_by_call()
        newcomers = [row for row in order if not counts[row.call]]
        if not self._has_company or not newcomers or newcomers[0] is not order[0]:
            return False
        wanted = len({row.call for row in newcomers})
        staying, leaving = list(self._rows), list[Row]()
        while staying:
            call, count = counts.most_common(1)[0]
            fits = self._fits([order[0]], beside=staying)
            if count < 2 or (fits and len(staying) + wanted <= self._max_rows):
                break
            youngest = next(row for row in reversed(staying) if row.call == call)
            staying.remove(youngest)
            leaving.append(youngest)
            counts[call] -= 1
        if not self._fits([order[0]], beside=staying):
            return False
        self._park(leaving)
        return True

    def _park(self, leaving: Sequence[Row]) -> None:
        """Take rows out of the batch, with their keys and values as far as there is memory.

        They wait again in front of those that have not begun, and go on where they were.
        """
        kept_by = (row.parked for row in self._waiting)
        room = self._max_tokens - sum(parked[1].tokens for parked in kept_by if parked)
        for row in leaving:
            computed = len(row.ids) - 1  # the last token is chosen, and not computed yet
            if computed <= room:
                room -= computed
                layers = self._batch.read(self._rows.index(row), computed)
                row.parked = row.owner, Known(layers, computed)
        kept = [at for at, row in enumerate(self._rows) if row not in leaving]
        self._rows = [self._rows[at] for at in kept]
        self._batch.keep(kept)
        self._waiting.extendleft(leaving)

    def _known(self, row: Row) -> Known | None:
        if not self._has_company:
            return None
        return _parked(row) or self._prefixes.longest(row.owner, row.ids)

    def _rest(self, row: Row) -> int:
        """Return how many tokens of a row must be computed."""
        if not self._has_company:
            return len(row.ids)
        parked = _parked(row)
        known = parked.tokens if parked else self._prefixes.known_tokens(row.owner, row.ids)
        return len(row.ids) - known

    def _awaits(self, row: Row, group: Sequence[Row]) -> bool:
        """Tell whether a row of the group computes a part of the row's prompt, to be kept.

        Equal prompts are computed together.
        """
        if not (self._prefixes.is_on and self._has_company):
            return False
        known = len(row.ids) - self._rest(row)
        return any(
            common_beginning(other.prompt, row.ids) >= known + SHARED_TOKENS
            for other in group
            if other.owner == row.owner and other.ids != row.ids and not other.tokens
        )

    def _fits(self, newcomers: Sequence[Row], *, beside: Sequence[Row] | None = None) -> bool:
        rows = [*(self._rows if beside is None else beside), *newcomers]
        if len(rows) == 1:
            return True
        if not self._has_company or any(row.stays_alone for row in rows):
            return False
        return (
            len(rows) <= self._max_rows
            and self._batch.positions(len(rows), max(row.size for row in rows)) <= self._max_tokens
        )

    def _admit(self, newcomers: list[Row], loaded: LoadedModel) -> None:
        """Compute the new rows' prompts, equal ones once, and choose their first tokens.

        Rows of which only the last token is not known, as those that go on from a step, take part
        in the next pass instead.
        """
        places, owners = _distinct(newcomers)
        self._entering = newcomers
        for row in newcomers:
            row.drafts.last_answer = self._prefixes.answer(row.owner, row.prompt)
        with (
            self._blaming(newcomers),
            loaded.forward_rows([row.adapter for row in owners]) as forward,
        ):
            # Another thread may have replaced an adapter: its cached prompts are not used then.
            same = [row.owner == loaded.owner(row.adapter, row.reuse_scope) for row in owners]
            draft = self._draft(newcomers)
            known = [
                self._known(row) if is_same else None
                for row, is_same in zip(owners, same, strict=True)
            ]
            if not draft and _are_ready(owners, known):
                self._enter(newcomers, places, [one for one in known if one])
                return
            logits = self._batch.join(
                [[*row.ids, *draft] for row in owners],
                forward,
                known=known,
                rows=places,
                last=1 + len(draft),
            )
            _note_computed(owners, known)
            self._entered(newcomers)
            self._remember(owners, places, same, before=len(draft))
            self._take(newcomers, logits, [draft] * len(newcomers))

    def _enter(
        self, newcomers: Sequence[Row], places: Sequence[int], known: Sequence[Known]
    ) -> None:
        """Add rows to the batch that are known but for their last token."""
        self._batch.enter(known, places)
        _note_computed(newcomers, [known[place] for place in places])
        self._entered(newcomers)

    def _entered(self, newcomers: Sequence[Row]) -> None:
        self._rows += newcomers
        self._entering = []
        for row in newcomers:
            row.parked = None

    def _remember(
        self, owners: Sequence[Row], places: Sequence[int], same: Sequence[bool], *, before: int
    ) -> None:
        """Cache the keys and values of the new rows' prompts, but not of the tokens after them."""
        if not (self._prefixes.is_on and self._has_company):
            return
        first = self._batch.rows - len(places)
        for at, row in enumerate(owners):
            if same[at] and not row.tokens:
                at_row = first + places.index(at)
                read = partial(self._batch.read, at_row, before=before)
                self._prefixes.add(row.owner, row.prompt, read)

    def _burst(self, loaded: LoadedModel) -> None:
        """Compute tokens until a row is over or the lane is needed; adapters are set up once."""
        rows = self._rows
        keys = [row.adapter for row in rows] + [None] * (self._batch.width - len(rows))
        stays = self._batch.is_fixed
        with self._blaming(rows), loaded.forward_rows(keys, stays=stays) as forward:
            reader = StateReader(forward) if any(row.tells_state for row in rows) else None
            while True:
                drafts = self._drafts()
                wide = max(map(len, drafts))
                new = [
                    [row.last_token, *draft, *([0] * (wide - len(draft)))]
                    for row, draft in zip(rows, drafts, strict=True)
                ]
                logits = self._batch.step(new, reader or forward)
                states = reader.last(1 + wide) if reader else None
                self._take(rows, logits, drafts, states)
                if self._lane.is_wanted() or any(row.is_over for row in rows):
                    return

    def _drafts(self) -> list[tuple[int, ...]]:
        """Return each running row's draft, which its next pass checks.

        On a GPU a pass costs its launches and one reading of the weights, so several rows may have
        drafts, as long as their tokens are few beside what the weights' reading takes.
        """
        if len(self._rows) == 1:
            return [self._draft()]
        most = self._batch.most_drafted(_CHECKED_TOKENS)
        return [
            row.drafts.after(row.tokens, room=min(most, row.room - len(row.tokens) - 1))
            if row.draw.is_greedy and row.mask is None
            else ()
            for row in self._rows
        ]

    def _draft(self, newcomers: Sequence[Row] = ()) -> tuple[int, ...]:
        """Return a draft of the next tokens of a row that is alone; its next pass checks them.

        A lone row's pass spends its time reading weights, so more tokens are nearly free. With more
        rows each further token costs its full time on a CPU.
        """
        rows = [*self._rows, *newcomers]
        if not self._has_company or len(rows) > 1 or not rows[0].draw.is_greedy:
            return ()
        row = rows[0]
        if row.mask is not None:
            return ()  # a mask is known for the next token alone
        # One more token is chosen after the draft.
        return row.drafts.after(row.tokens, room=row.room - len(row.tokens) - 1)

    def _take(
        self,
        rows: Sequence[Row],
        logits: Tensor,
        drafts: Sequence[Sequence[int]],
        states: Tensor | None = None,
    ) -> None:
        """Give each row its next token, and the tokens of its draft that are right.

        Args:
            rows: Rows of the pass.
            logits: Logits after the last token and after each token of the drafts [B, 1 + D, V].
            drafts: Drafted tokens of each row, D at most, which are in the cache already.
            states: Hidden states behind these logits [B, 1 + D, F], where they were read.
        """
        wide = logits.shape[1] - 1
        if not wide:
            last = None if states is None else states[:, -1]
            next_logits = masked(logits[:, -1], [row.mask for row in rows])
            _push(rows, choose(next_logits, [row.draw for row in rows]), last)
            return
        # Of each row the places behind its last token and behind each token of its draft.
        places = [(at, place) for at, draft in enumerate(drafts) for place in range(1 + len(draft))]
        index = torch.tensor(places, device=logits.device).t()
        draws = [rows[at].draw for at, _ in places]
        picked = logits[index[0], index[1]]
        picked = masked(picked, [rows[at].mask for at, _ in places])  # such a row has no draft
        chosen = zip(places, *choose(picked, draws), strict=True)
        # A place's choice is the row's own; it goes on while its draft had the same.
        right = [0] * len(rows)
        goes_on = [True] * len(rows)
        for (at, place), token, logprob in chosen:
            if not goes_on[at]:
                continue
            row, draft = rows[at], drafts[at]
            row.push(token, logprob, None if states is None else states[at, place])
            goes_on[at] = place < len(draft) and token == draft[place] and not row.is_over
            right[at] += goes_on[at]
        for row, draft, count in zip(rows, drafts, right, strict=True):
            if draft:
                row.drafts.note(right=count)
        self._batch.cut_each([wide - count for count in right])  # rejected tokens leave the cache

    @contextmanager
    def _blaming(self, rows: Sequence[Row]) -> Generator[None]:
        """Find the row that a pass failed for: it gets the error, the others are tried again.

        Args:
            rows: Rows of the pass.
        """
        running = list(self._rows)
        try:
            with translated("generate"), torch.inference_mode():
                yield
        except PolicyModelError as exc:
            let_go(exc)
            self._recover(exc, list(rows), running)

    def _recover(self, exc: PolicyModelError, failed: list[Row], running: list[Row]) -> None:
        """Put the rows of a failed pass back in front of the queue, or fail the one to blame.

        Rows that are tried again keep their tokens. A prompt that failed in a shared pass is
        computed by itself next; a row with which the running batch failed twice stays alone until
        it ends. So the row to blame fails by itself in the end, and no other one fails with it.
        """
        self._entering = []
        everybody = list(dict.fromkeys([*running, *failed]))
        was_running = failed == running
        lacks_memory = is_out_of_memory(exc)
        if was_running or self._batch.rows != len(running):
            failed, self._rows = everybody, []  # the cache may be half written
            self._batch.let_go() if lacks_memory else self._batch.keep([])
        if len(everybody) == 1 or (len(failed) == 1 and not lacks_memory):
            failed[0].fail(exc)
            return
        for row in failed:
            row.take_back()
            if was_running:
                row.faults += 1
            elif lacks_memory and len(failed) == 1:  # no room beside the running rows
                row.faults = MOST_FAULTS
        self._waiting.extendleft(reversed(failed))


def _distinct(rows: Sequence[Row]) -> tuple[list[int], list[Row]]:
    """Return the number of each row's distinct prompt and owner, and one row for each number."""
    numbers: dict[tuple[Owner, tuple[int, ...]], int] = {}
    places = [numbers.setdefault((row.owner, tuple(row.ids)), len(numbers)) for row in rows]
    return places, [rows[places.index(number)] for number in range(len(numbers))]


def _parked(row: Row) -> Known | None:
    """Return what a row took along when it left the batch; its adapter may be another one now."""
    return row.parked[1] if row.parked and row.parked[0] == row.owner else None


def _are_ready(rows: Sequence[Row], known: Sequence[Known | None]) -> bool:
    """Tell whether only the last token of each is not known; not after a failed pass."""
    return all(
        one is not None and one.tokens == len(row.ids) - 1 and not row.enters_alone
        for row, one in zip(rows, known, strict=True)
    )


def _note_computed(owners: Sequence[Row], known: Sequence[Known | None]) -> None:
    """Note in each row how many tokens of its prompt a pass has computed.

    All rows of a pass have as many new tokens, so some have known ones computed again. Those of the
    answer so far, of a row that goes on, do not count.
    """
    rests = [
        len(row.ids) - (one.tokens if one else 0) for row, one in zip(owners, known, strict=True)
    ]
    for row in owners:
        row.computed += max(0, min(len(row.ids), max(rests)) - len(row.tokens))


def _push(
    rows: Sequence[Row], chosen: tuple[list[int], list[float]], states: Tensor | None
) -> None:
    """Give each row its token, and the hidden state [F] of [B, F] that it was chosen from."""
    for at, (row, token, logprob) in enumerate(zip(rows, *chosen, strict=True)):
        row.push(token, logprob, None if states is None else states[at])


def _pass_failure(done: Future[None], futures: Sequence[Future[Decoded]]) -> None:
    if done.cancelled():
        for future in futures:
            future.cancel()
        return
    exc = done.exception()
    if exc is not None:
        for future in futures:
            fail_future(future, exc)
