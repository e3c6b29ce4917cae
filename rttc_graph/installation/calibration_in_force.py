"""The calibrations that an installation keeps, which of them holds, and the way back."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from rttc_graph.errors import RttcError
from rttc_graph.installation.config import InstallationConfig
from rttc_graph.installation.knowledge import Knowledge
from rttc_graph.installation.needed_models import trained_folder
from rttc_graph.integrations.langchain.hosted_models import hosted_name, resolved
from rttc_graph.integrations.postgres.calibration_store import KeptCalibration
from rttc_graph.integrations.rewards.calibrated.calibrated_reward import (
    ARMS_KEY,
    CURVE_KEY,
    OTHERS_KEY,
    PLAN_KEY,
    POOLED_KEY,
    TAU_KEY,
    calibrated_fingerprint,
)
from rttc_graph.integrations.rewards.trained.reward_spec import folder_fingerprint, read_spec
from rttc_graph.protocols import DomainCalibration, StoredCalibration


async def told_calibrations(
    config: InstallationConfig,
    knowledge: Knowledge,
    *,
    tenant: str | None = None,
    with_curves: bool = False,
) -> list[dict[str, Any]]:
    """Return a tenant's calibrations as plain data, the last saved first.

    Args:
        config: The installation.
        knowledge: Its database, open.
        tenant: Tenant of the calibrations; by default the installation's.
        with_curves: Whether each domain has `knots`, of its map, and `curve`, what each τr would do
            (see `CURVE_KEY`), too.

    Raises:
        BackendError: They cannot be read.
    """
    kept = await knowledge.calibrations.kept(tenant=config.tenant if tenant is None else tenant)
    in_force = await asyncio.to_thread(_in_force, config, kept)
    return [_told(one, in_force=one is in_force, with_curves=with_curves) for one in kept]


async def undo_calibration(config: InstallationConfig, knowledge: Knowledge) -> dict[str, Any]:
    """Undo the last calibration of the configured reward model, and tell what holds now.

    Returns:
        `reward_model`, `undone` (the domains of what held) and `domains` (those that have a map
        now).

    Raises:
        ConfigurationError: There is none.
        BackendError: Nothing was changed.
    """
    kept = await knowledge.calibrations.kept(tenant=config.tenant)
    one = await asyncio.to_thread(_in_force, config, kept)
    name, fingerprint = (
        await asyncio.to_thread(_identity, config)
        if one is None
        else (one.calibration.reward_model, one.calibration.fingerprint)
    )
    now = await knowledge.calibrations.undo(name, fingerprint, tenant=config.tenant)
    return {
        "reward_model": name,
        "fingerprint": fingerprint,
        "undone": [] if one is None else list(one.calibration.domains),
        "domains": [] if now is None else list(now.domains),
        "tau_r_of": fingerprint if now is None else calibrated_fingerprint(now),
    }


def _in_force(
    config: InstallationConfig, kept: Sequence[KeptCalibration]
) -> KeptCalibration | None:
    """Return the calibration of the configured reward model.

    Where the fingerprint is not known without loading a model, it is the last one under the name.
    """
    name, fingerprint = _identity(config)
    return next(
        (
            one
            for one in kept
            if one.calibration.reward_model == name
            and fingerprint in ("", one.calibration.fingerprint)
        ),
        None,
    )


def _identity(config: InstallationConfig) -> tuple[str, str]:
    """Return name and fingerprint of the configured reward model; empty if it must be loaded."""
    if (hosted := hosted_name(config.reward, "reward")) is not None:
        with suppress(RttcError):  # a server that is down: under the name as it was given
            hosted = resolved(hosted)
        return hosted.text, ""
    folder = trained_folder(config)
    if folder is None and config.reward.startswith(("http://", "https://")):
        return config.reward_served.model or config.reward.rstrip("/"), ""
    if folder is None:
        return config.reward, ""
    return read_spec(folder).name, folder_fingerprint(folder)


def _told(one: KeptCalibration, *, in_force: bool, with_curves: bool) -> dict[str, Any]:
    found = one.calibration
    return {
        "reward_model": found.reward_model,
        "fingerprint": found.fingerprint,
        "in_force": in_force,
        "saved_at": one.saved_at.isoformat(timespec="seconds"),
        "earlier": one.earlier,
        "aim": found.aim,
        "tau_r_of": calibrated_fingerprint(found),
        "domains": [
            _told_domain(domain, kept, found) | (_told_curve(kept) if with_curves else {})
            for domain, kept in sorted(found.domains.items())
        ],
    }


def _told_domain(domain: str, kept: DomainCalibration, found: StoredCalibration) -> dict[str, Any]:
    parameters = kept.parameters
    return {
        "domain": domain,
        "answers": kept.pairs,
        "method": parameters.get("method"),
        "own": parameters.get(POOLED_KEY) is not True,
        "for_others": not domain and parameters.get(OTHERS_KEY, True) is not None,
        "arms": list(parameters.get(ARMS_KEY, ())),
        "plan": parameters.get(PLAN_KEY),
        "tau_r": parameters.get(TAU_KEY, found.tau_r),
    }


def _told_curve(kept: DomainCalibration) -> dict[str, Any]:
    parameters = kept.parameters
    return {"knots": parameters.get("knots", []), "curve": parameters.get(CURVE_KEY, [])}
