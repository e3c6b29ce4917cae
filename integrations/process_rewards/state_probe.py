"""The probe as our `ProcessRewardModel`: it reads what the decoding pass has computed anyway."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

try:
    import torch
except ImportError as exc:
    raise ImportError("probes need the extra 'local': rttc-graph[local]") from exc

from rttc_graph.integrations.concurrency.batch_queue import BatchQueue
from rttc_graph.integrations.process_rewards.probe_file import Probe
from rttc_graph.integrations.process_rewards.step_confidence import step_confidences
from rttc_graph.protocols import BegunAnswer, ProcessRewardModel, StepScores, note_work

State = tuple[float, ...]


class StateProbe(ProcessRewardModel):
    """Scores the last step of an answer by the hidden state at its end (`BegunAnswer.state`).

    With it go the probabilities that the model gave its own steps (`step_confidences`). It takes no
    forward pass. It abstains where there is no state, from answers of another policy model or
    adapter, and from states unlike those it was trained on; earlier steps, whose states
    are gone, have no probability either.

    Args:
        probe: The head.
        policy: Returns the fingerprint of the policy model whose states come in.
        domain: Domain whose map is applied; empty for the one of all others.
        queue: Thread that computes; one of its own by default.
    """

    def __init__(
        self,
        probe: Probe,
        policy: Callable[[], Awaitable[str]],
        *,
        domain: str = "",
        queue: BatchQueue[State, tuple[float, float]] | None = None,
    ) -> None:
        self._probe = probe
        self._policy = policy
        self._domain = domain
        self._queue = queue or BatchQueue(
            partial(_scored, probe), name=f"rttc-probe-{probe.name}", batch_size=256
        )

    @property
    def name(self) -> str:
        """Name for people."""
        return self._probe.name

    async def fingerprint(self) -> str:
        """Return a digest of the head, with the policy model's and the adapter's in it."""
        return self._probe.fingerprint()

    async def score_steps(self, query: str, answers: Sequence[BegunAnswer]) -> list[StepScores]:
        """Return the probability of each answer's last step, `None` for those before it."""
        del query
        known = [at for at, one in enumerate(answers) if self._read(one) is not None]
        if known and await self._policy() != self._probe.policy_fingerprint:
            known = []
        states = [state for at in known if (state := self._read(answers[at])) is not None]
        found = dict(zip(known, await self._queue.submit(states), strict=True))
        note_work(tokens=0, flops=2.0 * self._probe.directions.numel() * len(known))
        return [
            (*[None] * (one.scored - 1), self._share(*found[at]) if at in found else None)
            for at, one in enumerate(answers)
        ]

    async def widest(self) -> int | None:
        """Return how wide a choice the probe's measured noise allows."""
        return self._probe.widest

    async def closed(self) -> str:
        """Return why it may steer nothing: it is another model's, or was found to be of no use."""
        probe = self._probe
        if await self._policy() != probe.policy_fingerprint:
            return (
                f"the probe {probe.name!r} reads the states of {probe.policy_model!r}, and another "
                "model answers: train one for it"
            )
        general = "" if self._domain in probe.maps else probe.closed.get("", "")
        return probe.closed.get(self._domain, general)

    def within(self, *, tenant: str, domain: str | None) -> ProcessRewardModel:
        """Return the probe with the map of a domain."""
        del tenant
        return StateProbe(self._probe, self._policy, domain=domain or "", queue=self._queue)

    def _read(self, one: BegunAnswer) -> State | None:
        """Return the numbers that the head takes; `None` where it cannot read them."""
        if one.state is None or one.adapter != self._probe.adapter:
            return None
        if len(one.state) == len(self._probe.mean):  # a probe of states alone
            return one.state
        found = (*one.state, *(step_confidences(one.logprobs) or ()))
        return found if len(found) == len(self._probe.mean) else None

    def _share(self, score: float, far: float) -> float | None:
        """Return the probability of a raw score; `None` for a state that is too far off."""
        if not (math.isfinite(score) and far <= self._probe.farthest):
            return None
        maps = self._probe.maps
        found = maps.get(self._domain, maps.get(""))
        return score if found is None else found(score)


def _scored(probe: Probe, states: list[State]) -> list[tuple[float, float]]:
    """Return raw score and distance of each state."""
    with torch.inference_mode():
        scores, far = probe.scores(torch.tensor(states))
    return [(float(score), float(off)) for score, off in zip(scores, far, strict=True)]
