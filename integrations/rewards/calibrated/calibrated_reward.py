"""A reward model whose scores are P(right), by the calibration that is stored for it."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from rttc_graph.errors import BackendError, ConfigurationError, RewardModelError
from rttc_graph.integrations.rewards.calibrated.answer_features import (
    AnswerFeatures,
    FeatureMap,
    answer_features,
)
from rttc_graph.integrations.rewards.calibrated.probability_maps import CalibrationMap
from rttc_graph.integrations.rewards.calibrated.stored_plan import read_plan
from rttc_graph.protocols import (
    CalibrationStore,
    PlainRewardModel,
    RewardModel,
    RewardRequest,
    StandingAdapters,
    StoredCalibration,
    as_reward_model,
)
from rttc_graph.state import Plan

_LOG = logging.getLogger(__name__)

REFRESH_SECONDS = 60.0
"""Longest time that a calibration is kept in memory: a new one is used within a minute, without a
restart."""

ARMS_KEY = "arms"
"""Key in a domain's parameters: the arms that `rttc calibrate` has chosen for it."""

PLAN_KEY = "plan"
"""Key in a domain's parameters: the plan by difficulty (`rttc_graph.state.Plan`) that
`rttc calibrate` has chosen for it; releases before it go by the arms."""

TAU_KEY = "tau_r"
"""Key in a domain's parameters: the τr that was proposed when its map was fitted."""

CURVE_KEY = "curve"
"""Key in a domain's parameters: what each τr would have done with the questions of the calibration,
as lists of τr, accuracy, mean seconds, and the shares of questions with an accepted answer and with
one that is accepted and wrong. A threshold between two others that do the same is left out."""

POOLED_KEY = "pooled"
"""Key in a domain's parameters: true where the map is of all domains that were calibrated together,
for want of answers of its own, so that what it gives is a score and no probability."""

FEATURES_KEY = "features"
"""Key in a domain's parameters: the map of score and features (`FeatureMap`). Where it is missing,
or not readable by this release, the map of the score alone holds, as in releases before it."""

OTHERS_KEY = "others"
"""Key in the parameters of the empty domain: the map, with its arms, for domains that have none;
null where they keep their raw scores. Without the key, as in earlier releases, it is the map of the
empty domain itself."""


STANDING_KEY = "standing"
"""Key in a domain's parameters: the adapter that stood for the domain when its map was fitted; left
out where none did. The map is of other answers where another one stands now, and is not used."""


class ProbabilityMap(Protocol):
    """A stored calibration as a function."""

    def __call__(
        self, score: float, domain: str | None, features: AnswerFeatures | None = None
    ) -> float:
        """Return P(right) of a raw score in a domain.

        Args:
            score: Raw score in [0, 1].
            domain: Domain of the question.
            features: Values known beside the score; without them the map of the score alone holds.
        """
        ...


@dataclass(frozen=True, slots=True)
class _DomainMap:
    """The map of one domain."""

    map: CalibrationMap
    arms: tuple[str, ...]
    """Chosen arms; older calibrations have none."""
    is_pooled: bool = False
    by_features: FeatureMap | None = None
    plan: object = None
    """Plan as it is kept; read when a run asks for it, so that one which this release cannot read
    is in the way of no other policy."""
    standing: str | None = None
    """Adapter that stood for the domain when the map was fitted."""

    def __call__(self, score: float, features: AnswerFeatures | None) -> float:
        """Return P(right)."""
        if self.by_features is None or features is None:
            return self.map(score)
        return self.by_features(score, features)

    def to_json(self) -> dict[str, Any]:
        """Return the maps as plain data, for their digest."""
        if self.by_features is None:
            return self.map.to_json()
        return {**self.map.to_json(), FEATURES_KEY: self.by_features.to_json()}

    @classmethod
    def from_json(cls, parameters: Mapping[str, Any]) -> _DomainMap:
        """Return the map that stored parameters describe.

        Raises:
            ConfigurationError: They describe none.
        """
        features = parameters.get(FEATURES_KEY)
        return cls(
            CalibrationMap.from_json(parameters),
            tuple(map(str, parameters.get(ARMS_KEY, ()))),
            parameters.get(POOLED_KEY) is True,
            None if features is None else FeatureMap.from_json(features),
            parameters.get(PLAN_KEY),
            parameters.get(STANDING_KEY),
        )


@dataclass(frozen=True, slots=True)
class _Maps:
    """A stored calibration, read."""

    by_domain: Mapping[str, _DomainMap]
    others: _DomainMap | None
    """For domains without a map of their own."""
    fingerprint: str
    """Fingerprint of the reward model and its maps together."""

    def for_answers_of(self, domain: str, standing: str | None) -> _Maps:
        """Return the maps without that of a domain, if it is of another model's answers.

        Args:
            domain: The domain.
            standing: Adapter that stands for it now.
        """
        found = self.by_domain.get(domain)
        if found is None or found.standing == standing:
            return self
        kept = {name: one for name, one in self.by_domain.items() if name != domain}
        return replace(self, by_domain=kept)

    def arms_of(self, domain: str | None) -> tuple[str, ...]:
        """Return the arms that were chosen for a domain; empty where none were."""
        found = self._map_of(domain)
        if found is None:
            return ()
        return found.arms or (self.others.arms if self.others else ())

    def kept_plan(self, domain: str | None) -> object:
        """Return the plan that was chosen for a domain, as it is kept; `None` where none was."""
        found = self._map_of(domain)
        return None if found is None else found.plan

    def is_own(self, domain: str | None) -> bool:
        """Tell whether a domain has a map that was fitted on its own answers."""
        found = self.by_domain.get(domain or "")
        return found is not None and not found.is_pooled

    def __call__(
        self, score: float, domain: str | None, features: AnswerFeatures | None = None
    ) -> float:
        found = self._map_of(domain)
        return score if found is None else found(score, features)

    def _map_of(self, domain: str | None) -> _DomainMap | None:
        return self.by_domain.get(domain or "", self.others)


def probability_map(stored: StoredCalibration) -> ProbabilityMap:
    """Return a stored calibration as a function of raw score and domain.

    Raises:
        ConfigurationError: It cannot be read.
    """
    return _read(stored)


def arms_of(stored: StoredCalibration, domain: str | None) -> tuple[str, ...]:
    """Return the arms that a calibration has chosen for a domain; empty where it has none.

    Raises:
        ConfigurationError: It cannot be read.
    """
    return _read(stored).arms_of(domain)


def plan_of(stored: StoredCalibration, domain: str | None) -> Plan | None:
    """Return the plan that a calibration has chosen for a domain; `None` where it has none.

    Raises:
        ConfigurationError: It cannot be read.
    """
    return read_plan(kept_plan(stored, domain))


def kept_plan(stored: StoredCalibration, domain: str | None) -> object:
    """Return the plan that a calibration has chosen for a domain, as it is kept.

    It may be one that this release cannot read; `None` where there is none.
    """
    return _read(stored).kept_plan(domain)


def of_answers(stored: StoredCalibration, standing: Mapping[str, str]) -> StoredCalibration:
    """Return a calibration without the maps of domains that are of another model's answers.

    Args:
        stored: The calibration.
        standing: Adapters that stood for domains when the answers were given.
    """
    domains = {
        domain: kept
        for domain, kept in stored.domains.items()
        if not domain or kept.parameters.get(STANDING_KEY) == standing.get(domain)
    }
    return replace(stored, domains=domains)


def calibrated_fingerprint(stored: StoredCalibration) -> str:
    """Return the fingerprint of a reward model under a calibration."""
    return _read(stored).fingerprint


class CalibratedReward(RewardModel):
    """Turns the scores of a reward model into P(right), by domain where there is a map for it.

    A reward model without a stored calibration keeps its raw scores, and that is said once, in the
    log, unless the reward model says that they are probabilities. The look-up is by name and
    fingerprint, so other weights never get another one's map.

    Args:
        raw: Scores. It is asked without a tenant or a domain, as the rows are that a map is
            fitted on, and is shown the evidence as it came.
        store: Where its calibrations are.
        tenant: Tenant whose calibration is used where a run names none.
        standing_adapters: Know which domains have an adapter of their own: a map that was fitted
            on the answers of another one is not used for the domain.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        raw: PlainRewardModel,
        store: CalibrationStore,
        *,
        tenant: str = "default",
        standing_adapters: StandingAdapters | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._standing_adapters = standing_adapters
        self._raw = as_reward_model(raw)
        self._store = store
        self._tenant = tenant
        self._clock = clock
        self._loaded: dict[str, tuple[float, _Maps | None]] = {}
        self._has_said = False

    @property
    def name(self) -> str:
        """Name of the reward model that scores."""
        return self._raw.name

    @property
    def sees_evidence(self) -> bool:
        """Whether samples change the scores of the reward model."""
        return self._raw.sees_evidence

    async def fingerprint(self) -> str:
        """Return the digest of reward model and calibration; the model's own without one."""
        return await self.within(tenant=self._tenant, domain=None).fingerprint()

    async def score(self, query: str, candidates: Sequence[RewardRequest]) -> list[float]:
        """Return P(right) of each candidate by the map of all domains, in order.

        Raises:
            RewardModelError: The reward model failed, or its calibration could not be loaded.
        """
        return await self.within(tenant=self._tenant, domain=None).score(query, candidates)

    async def is_calibrated(self) -> bool:
        """Tell whether scores are P(right) where a run names no tenant.

        Raises:
            RewardModelError: The calibration could not be loaded.
        """
        return await self.within(tenant=self._tenant, domain=None).is_calibrated()

    def within(self, *, tenant: str, domain: str | None) -> RewardModel:
        """Return the reward model with the maps of a tenant, for the answers of a domain."""
        return _Within(self, self._raw, tenant, domain)

    async def maps(self, tenant: str) -> _Maps | None:
        """Return a tenant's maps; `None` if there are none.

        Raises:
            RewardModelError: They could not be loaded, and none were before.
        """
        now = self._clock()
        known = self._loaded.get(tenant)
        if known is not None and now - known[0] < REFRESH_SECONDS:
            return known[1]
        try:
            stored = await self._store.load(
                self._raw.name, await self._raw.fingerprint(), tenant=tenant
            )
            maps = None if stored is None else _read(stored)
        except (BackendError, ConfigurationError) as exc:
            if known is not None:  # better a calibration of some minutes ago than none
                return known[1]
            raise RewardModelError(
                f"the calibration of {self._raw.name!r} could not be loaded: {exc}",
                retryable=isinstance(exc, BackendError) and exc.retryable,
            ) from exc
        self._loaded[tenant] = (now, maps)
        return maps

    async def maps_for(self, tenant: str, domain: str | None) -> _Maps | None:
        """Return a tenant's maps for the answers of a domain; `None` if there are none.

        Raises:
            RewardModelError: They, or which adapter the domain has, could not be loaded.
        """
        maps = await self.maps(tenant)
        if maps is None or not domain or self._standing_adapters is None:
            return maps
        try:
            key = await self._standing_adapters.standing_adapter(domain=domain, tenant=tenant)
        except BackendError as exc:
            raise RewardModelError(
                f"the adapter of the domain {domain!r} could not be looked up: {exc}",
                retryable=exc.retryable,
            ) from exc
        return maps.for_answers_of(domain, key)

    async def say_raw(self) -> None:
        """Say once that raw scores hold."""
        if not self._has_said and not await self._raw.is_calibrated():
            self._has_said = True
            _LOG.warning(
                "reward model %r has no calibration: τr is compared with its raw scores "
                "(rttc calibrate FILE.jsonl --save makes one)",
                self._raw.name,
            )


@dataclass(frozen=True, slots=True)
class _Within(RewardModel):
    """A calibrated reward model for one tenant and domain."""

    _calibrated: CalibratedReward
    _raw: RewardModel
    _tenant: str
    _domain: str | None

    @property
    def name(self) -> str:
        return self._raw.name

    @property
    def sees_evidence(self) -> bool:
        return self._raw.sees_evidence

    async def fingerprint(self) -> str:
        maps = await self._calibrated.maps_for(self._tenant, self._domain)
        return await self._raw.fingerprint() if maps is None else maps.fingerprint

    async def is_calibrated(self) -> bool:
        """Tell whether the domain has a map of its own.

        A map of several domains together may change its scores too, and so does what the reward
        model learnt elsewhere: what that makes of them is no probability here.
        """
        maps = await self._calibrated.maps_for(self._tenant, self._domain)
        return maps is not None and maps.is_own(self._domain)

    async def score(self, query: str, candidates: Sequence[RewardRequest]) -> list[float]:
        maps = await self._calibrated.maps_for(self._tenant, self._domain)
        scores = await self._raw.score(query, candidates)
        if maps is None:
            await self._calibrated.say_raw()
            return scores
        return [
            maps(score, self._domain, _features_of(request))
            for score, request in zip(scores, candidates, strict=True)
        ]

    async def chosen_arms(self) -> tuple[str, ...]:
        maps = await self._calibrated.maps_for(self._tenant, self._domain)
        return () if maps is None else maps.arms_of(self._domain)

    async def chosen_plan(self) -> Plan | None:
        """Return the plan of the domain; `None` where none is kept.

        Raises:
            RewardModelError: It could not be loaded, or was made for answers of another adapter.
        """
        maps = await self._calibrated.maps_for(self._tenant, self._domain)
        plan = None if maps is None else maps.kept_plan(self._domain)
        if plan is None and maps is not None:
            every = await self._calibrated.maps(self._tenant)
            if every is not None and every.kept_plan(self._domain) is not None:
                raise RewardModelError(
                    f"the plan of the domain {self._domain!r} was made before the domain's adapter "
                    "was changed: make it anew with 'rttc calibrate QUESTIONS.jsonl --save'"
                )
        return read_plan(plan)


def _features_of(request: RewardRequest) -> AnswerFeatures:
    samples = request.get("samples", ())
    return answer_features(request["answer"], request["mean_logprob"], samples)


def _read(stored: StoredCalibration) -> _Maps:
    maps = {name: _DomainMap.from_json(found.parameters) for name, found in stored.domains.items()}
    others = maps.get("")
    read: dict[str, Any] = {domain: found.to_json() for domain, found in maps.items()}
    plain = stored.domains.get("")
    if plain is not None and OTHERS_KEY in plain.parameters:
        told = plain.parameters[OTHERS_KEY]
        others = None if told is None else _DomainMap.from_json(told)
        read[""][OTHERS_KEY] = None if others is None else others.to_json()
    text = json.dumps([stored.fingerprint, read], sort_keys=True)
    return _Maps(maps, others, hashlib.sha256(text.encode()).hexdigest()[:32])
