"""What a reward-model folder says about itself, and how its weights are found again.

reward.json          this file's `RewardSpec`
reward.safetensors   LoRA terms and head, float16; with an evidence head, what it hears in a text
README.md            model card
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from rttc_graph.errors import ConfigurationError
from rttc_graph.integrations.rewards.grounded.evidence_head import EvidenceHead
from rttc_graph.support.named_files import write_file

SPEC_FILE = "reward.json"
WEIGHTS_FILE = "reward.safetensors"
CARD_FILE = "README.md"
FORMAT = 2
"""2 may hold an evidence head; a folder without one is written as 1, which every version reads."""

_READ = (1, 2)

READING = 2
"""Version of how a pair becomes the network's input; raised whenever that changes. 1 read the
answer as it is, 2 removes its copies of the question."""

Backbone = Literal["towers", "encoder", "causal"]
"""`towers`: a BERT-like encoder reads question and answer apart from each other. `encoder`: the
same reads them together, as two segments. `causal`: the policy model's own backbone reads the chat
and is asked at its last token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogitMap:
    """Map from logit and signals to P(right): `sigmoid(bias + logit·L + Σ signal·weight)`."""

    bias: float = 0.0
    logit: float = 1.0
    signals: tuple[float, ...] = ()
    """Weights of `signals.answer_signals`; empty where they are not used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardSpec:
    """Structure of the network around its backbone, and how its output is read."""

    name: str
    backbone: Backbone
    base: str
    """Name or folder that the backbone's weights are resolved from."""
    base_fingerprint: str
    rank: int
    alpha: float
    hidden: int
    """Width of the head."""
    max_tokens: int
    with_signals: LogitMap = field(default_factory=LogitMap)
    """Map for answers that carry their model's log-probability."""
    without_signals: LogitMap = field(default_factory=LogitMap)
    evidence: EvidenceHead | None = None
    """Judges where samples are in hand; only with a backbone that is an encoder."""
    training: dict[str, Any] = field(default_factory=dict[str, Any])
    """Settings, data and figures, for people."""

    def write(self, folder: Path) -> None:
        """Write `reward.json`."""
        content = {"format": FORMAT if self.evidence else 1, **asdict(self)}
        del content["evidence"]
        if self.evidence:
            content["evidence"] = self.evidence.to_json()
        text = json.dumps(content, indent=2, ensure_ascii=False, sort_keys=True)
        write_file(folder / SPEC_FILE, text + "\n")


def is_reward_folder(folder: Path) -> bool:
    """Tell whether a folder holds a reward model of this form."""
    return (folder / SPEC_FILE).is_file()


def read_spec(folder: Path) -> RewardSpec:
    """Return what `reward.json` says.

    Raises:
        ConfigurationError: The folder holds no reward model, or one of another format.
    """
    path = folder / SPEC_FILE
    try:
        content = cast(dict[str, Any], json.loads(path.read_text(encoding="utf-8")))
        version = content.pop("format")
        if version not in _READ:
            raise ConfigurationError(
                f"{str(path)!r} has format {version!r}, this version reads "
                f"{' and '.join(map(str, _READ))}: train it again"
            )
        for key in ("with_signals", "without_signals"):
            given = cast(dict[str, Any], content[key])
            given["signals"] = tuple(given["signals"])
            content[key] = LogitMap(**given)
        if (evidence := content.get("evidence")) is not None:
            content["evidence"] = EvidenceHead.from_json(evidence)
        return RewardSpec(**content)
    except OSError as exc:
        raise ConfigurationError(
            f"no reward model at {str(folder)!r}: {SPEC_FILE} cannot be read"
        ) from exc
    except (ValueError, TypeError, KeyError, AttributeError) as exc:
        if isinstance(exc, ConfigurationError):
            raise
        raise ConfigurationError(f"{str(path)!r} is damaged: {exc}") from exc


def folder_fingerprint(folder: Path) -> str:
    """Return a digest of what decides a score.

    That is the specification (the base's digest in it), the weights, and how pairs are read.

    Raises:
        OSError: A file cannot be read.
    """
    digest = hashlib.sha256(f"reading {READING}".encode())
    for name in (SPEC_FILE, WEIGHTS_FILE):
        digest.update(hashlib.sha256((folder / name).read_bytes()).digest())
    return digest.hexdigest()[:32]
