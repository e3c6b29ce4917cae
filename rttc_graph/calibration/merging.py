"""New maps beside those that are in force: a calibration changes the domains that it measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rttc_graph.calibration.map_fitting import FittedCalibration, FittedMap
from rttc_graph.integrations.rewards.calibrated.calibrated_reward import (
    FEATURES_KEY,
    OTHERS_KEY,
    POOLED_KEY,
    STANDING_KEY,
)
from rttc_graph.protocols import DomainCalibration, StoredCalibration


def merged_maps(
    calibration: FittedCalibration,
    measured: Iterable[str],
    chosen: Mapping[str, Mapping[str, Any]],
    *,
    before: StoredCalibration | None,
    all_domains: bool,
) -> dict[str, DomainCalibration]:
    """Return the maps by domain that are in force from now on.

    A measured domain gets its own map, or the pooled one if it has too few answers for that. All
    others keep what they have: a map of their own, that of an earlier calibration of all domains,
    or their raw scores.

    Args:
        calibration: The new maps.
        measured: Domains of the answers; the empty name for answers without one.
        chosen: Further parameters of each domain, such as its arms; the empty name is for those
            that are not named.
        before: The calibration in force; `None` if there is none.
        all_domains: Whether the pooled map is for all domains without one of their own.
    """
    kept = dict(before.domains) if before is not None else {}
    for domain in measured:
        fitted = calibration.map_for(domain)
        parameters = {**_parameters(fitted), **chosen.get(domain, chosen.get("", {}))}
        if domain and domain not in calibration.domains:
            parameters[POOLED_KEY] = True
        if not domain:
            parameters[OTHERS_KEY] = _map_of_others(before)
        kept[domain] = DomainCalibration(parameters=parameters, pairs=fitted.pairs)
    if all_domains:
        pooled = calibration.pooled
        kept[""] = DomainCalibration(
            parameters={**_parameters(pooled), **chosen.get("", {})}, pairs=pooled.pairs
        )
    return kept


def kept_standing(domain: str, standing: Mapping[str, str]) -> dict[str, str]:
    """Return the parameter that says whose answers a domain's map is of; none for the plain model.

    Args:
        domain: The domain.
        standing: Adapters that stood for domains when the answers were given.
    """
    return {STANDING_KEY: standing[domain]} if domain in standing else {}


def _parameters(fitted: FittedMap) -> dict[str, Any]:
    if fitted.by_features is None:
        return fitted.map.to_json()
    return {**fitted.map.to_json(), FEATURES_KEY: fitted.by_features.to_json()}


def _map_of_others(before: StoredCalibration | None) -> dict[str, Any] | None:
    """Return the map that domains without their own have now."""
    plain = None if before is None else before.domains.get("")
    if plain is None:
        return None
    if OTHERS_KEY in plain.parameters:
        others: dict[str, Any] | None = plain.parameters[OTHERS_KEY]
        return others
    return dict(plain.parameters)
