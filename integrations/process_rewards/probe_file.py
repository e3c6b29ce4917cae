"""Probe: a small head over a policy model's hidden states, as it is stored."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

try:
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load, save
except ImportError as exc:
    raise ImportError("probes need the extra 'local': rttc-graph[local]") from exc

from rttc_graph.errors import ConfigurationError
from rttc_graph.integrations.rewards.calibrated.probability_maps import CalibrationMap
from rttc_graph.integrations.rewards.reward_checks import reward_fingerprint

PROBE_FILE = "probe.json"
WEIGHTS_FILE = "probe.safetensors"

_FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """A head over F numbers, K directions of them, and one probability.

    The numbers are a hidden state's, and behind them those of `step_confidences`.

    With z = directions · (state - mean) / scale, the raw score is sigmoid(slopes · z + offset).
    """

    name: str
    policy_model: str
    """Name of the policy model whose states it reads."""
    policy_fingerprint: str
    """Digest of that model; states of another one mean nothing to it."""
    adapter: str | None = None
    """Key of the adapter that was on; `None` for the base model."""
    mean: torch.Tensor = field(repr=False)
    """[F]"""
    scale: torch.Tensor = field(repr=False)
    """Standard deviation [F] of each number, above 0."""
    directions: torch.Tensor = field(repr=False)
    """[K, F]: principal directions of the states, and one of each number behind them."""
    spread: torch.Tensor = field(repr=False)
    """Standard deviation [K] along each direction, above 0."""
    slopes: torch.Tensor = field(repr=False)
    """[K]"""
    offset: float
    farthest: float
    """Mean square of z / spread above which a state is like none that was trained on."""
    maps: Mapping[str, CalibrationMap] = field(default_factory=dict[str, CalibrationMap])
    """Maps from raw scores to probabilities by domain; the empty name is that of all others."""
    widest: int | None = None
    """Most steps behind one that it is exact enough for."""
    closed: Mapping[str, str] = field(default_factory=dict[str, str])
    """Domains in which nothing may be steered by it, each with the reason; the empty name is that
    of all others."""
    figures: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Measured figures, as its card says them."""

    def fingerprint(self) -> str:
        """Return a digest of all that decides a probability, the policy model among it."""
        tensors = (self.mean, self.scale, self.directions, self.spread, self.slopes)
        return reward_fingerprint(
            self.policy_fingerprint,
            self.adapter,
            [_numbers(tensor) for tensor in tensors],
            self.offset,
            self.farthest,
            {domain: found.to_json() for domain, found in self.maps.items()},
        )

    def scores(self, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return raw scores [N] of states [N, F], and how far each is from those trained on [N]."""
        along = ((states - self.mean) / self.scale) @ self.directions.T  # [N, K]
        far = (along / self.spread).square().mean(dim=1)
        return (along @ self.slopes + self.offset).sigmoid(), far

    def write(self, folder: Path) -> None:
        """Write the probe into a folder, which is made."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: getattr(self, name).contiguous().float() for name in _TENSORS}
        (folder / WEIGHTS_FILE).write_bytes(save(tensors))
        stored = {
            "format": _FORMAT,
            **{name: getattr(self, name) for name in _PLAIN},
            "maps": {domain: found.to_json() for domain, found in self.maps.items()},
            "closed": dict(self.closed),
            "figures": dict(self.figures),
        }
        text = json.dumps(stored, indent=1, sort_keys=True)
        (folder / PROBE_FILE).write_text(f"{text}\n", encoding="utf-8")


def _numbers(tensor: torch.Tensor) -> list[float]:
    return cast("list[float]", tensor.flatten().tolist())  # pyright: ignore[reportUnknownMemberType]  # untyped in torch


_TENSORS = ("mean", "scale", "directions", "spread", "slopes")
_PLAIN = ("name", "policy_model", "policy_fingerprint", "adapter", "offset", "farthest", "widest")


def read_probe(folder: Path) -> Probe:
    """Return the probe of a folder.

    Raises:
        ConfigurationError: The folder holds none, or it is damaged or of another release.
    """
    try:
        stored: dict[str, Any] = json.loads((folder / PROBE_FILE).read_text(encoding="utf-8"))
        if stored.get("format") != _FORMAT:
            raise ValueError(f"format {stored.get('format')!r} instead of {_FORMAT}")
        tensors = load((folder / WEIGHTS_FILE).read_bytes())
        parts: dict[str, Any] = {name: stored[name] for name in _PLAIN}
        parts |= {name: tensors[name] for name in _TENSORS}
        probe = Probe(
            **parts,
            maps={name: CalibrationMap.from_json(one) for name, one in stored["maps"].items()},
            closed=dict(stored["closed"]),
            figures=stored["figures"],
        )
        _, far = probe.scores(probe.mean[None])  # shapes that do not go together fail here
        if bool(far > probe.farthest) or (probe.widest is not None and probe.widest < 1):
            raise ValueError("its own mean is too far off, or its width is below 1")
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RuntimeError,
        SafetensorError,
    ) as exc:
        raise ConfigurationError(
            f"{str(folder)!r} holds no probe that can be read ({exc}): train one with rttc reward "
            "train --process"
        ) from exc
    return probe
