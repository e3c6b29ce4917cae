"""Settings of the reward models that are loaded or called; known without loading any."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal, get_args

from pydantic import ConfigDict

from rttc_graph.errors import ConfigurationError

Dtype = Literal["auto", "float32", "bfloat16", "float16"]

Route = Literal["classify", "score", "predict"]
"""`classify`: vLLM, one conversation a call, in the model's chat template: reward models such as
Skywork's. `score`: vLLM, pairs: cross encoders. `predict`: text-embeddings-inference, pairs."""

Activation = Literal["identity", "sigmoid"]
"""`identity` where the server squashes scores itself, as all three do by default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifierSettings:
    """Settings for loading a sequence classifier and reading its output."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    max_tokens: int = 4096
    """Longest input; a model with a shorter context is given that. Reward models are mostly
    trained on conversations of up to 4096 to 16384 tokens, and memory grows with it."""
    batch_size: int = 8
    """Pairs that go through the model at once."""
    device: str | None = None
    """torch device; `None` takes a GPU if there is one."""
    dtype: Dtype = "auto"
    """`auto` is that of the weights, but float32 on a processor, where halves are slow."""
    midpoint: float = 0.0
    """Logit that becomes the reward 0.5."""
    scale: float = 1.0
    """Logits for one unit of the sigmoid. Skywork's models reach from -20 to 30 or so, where a
    scale of 1 makes nearly everything 0 or 1; calibrate both on answers of known worth."""

    def __post_init__(self) -> None:
        for name in ("max_tokens", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"{name} must be at least 1, got {getattr(self, name)!r}")
        if not 0 < self.scale < math.inf:
            raise ConfigurationError(f"scale must be above 0 and finite, got {self.scale!r}")
        if not math.isfinite(self.midpoint):
            raise ConfigurationError(f"midpoint must be finite, got {self.midpoint!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedSettings:
    """Settings for calling a served reward model."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    route: Route = "classify"
    model: str | None = None
    """Name under which vLLM serves it; TEI serves one model and needs none."""
    activation: Activation = "identity"
    timeout_seconds: float = 30.0
    """Time limit of one call, in seconds. A call with a retryable failure is made once more."""
    batch_size: int = 32
    """Pairs in one call; TEI's own limit is 32 by default. `classify` takes one each."""
    concurrency: int = 4
    max_characters: int = 24_000
    """Longer questions keep their end, longer answers both ends; the server's context is its own
    affair and is told to cut on the left, where the question stands."""
    most_samples: int = 8
    """Nearest samples that stand before the question, where the route is `classify`: a reward model
    judges the answer to its prompt, and RAG has them in its prompt too. 0 for none. Cross encoders
    of the other routes compare two short texts, so they get none."""
    headers: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    """HTTP headers of each call, for example `Authorization`."""

    def __post_init__(self) -> None:
        """Refuse what cannot be.

        Raises:
            ConfigurationError: Says which setting is out of its bounds.
        """
        if self.route not in get_args(Route):
            known = ", ".join(get_args(Route))
            raise ConfigurationError(f"route={self.route!r}: use one of {known}")
        if self.activation not in ("identity", "sigmoid"):
            raise ConfigurationError(
                f"activation={self.activation!r}: use 'identity', or 'sigmoid' for raw scores"
            )
        for name in ("batch_size", "concurrency"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"{name} must be at least 1, got {getattr(self, name)!r}")
        if self.most_samples < 0:
            raise ConfigurationError(f"most_samples must be at least 0, got {self.most_samples!r}")
        if self.max_characters < 100:
            raise ConfigurationError(
                f"max_characters must be at least 100, got {self.max_characters!r}"
            )
        if not self.timeout_seconds > 0:
            raise ConfigurationError(
                f"timeout_seconds must be above 0, got {self.timeout_seconds!r}"
            )


ServedPrmKind = Literal["qwen", "math-shepherd"]
"""Models that vLLM pools at step ends: Qwen2.5-Math-PRM as it is, Math-Shepherd with
`--pooler-config '{"pooling_type": "STEP", "step_tag_id": 12902, "returned_token_ids": [648, 387]}'`
(the tokens of its mark, of good and of bad; older releases call it `--override-pooler-config`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedPrmSettings:
    """Settings for calling a served process reward model.

    Raises:
        ConfigurationError: A value is out of its bounds.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    kind: ServedPrmKind = "qwen"
    """Layout of the input, and which number of a pair is that of a good step."""
    model: str | None = None
    """Name under which it is served; a server of one model needs none."""
    timeout_seconds: float = 30.0
    """Time limit of one call, in seconds. A call with a retryable failure is made once more."""
    concurrency: int = 8
    """Calls at the same time, one for each answer; the server batches them."""
    headers: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    """HTTP headers of each call, for example `Authorization`."""

    def __post_init__(self) -> None:
        if self.kind not in get_args(ServedPrmKind):
            raise ConfigurationError(
                f"kind={self.kind!r}: use one of {', '.join(get_args(ServedPrmKind))}"
            )
        if self.concurrency < 1:
            raise ConfigurationError(f"concurrency must be at least 1, got {self.concurrency!r}")
        if not 0 < self.timeout_seconds < math.inf:
            raise ConfigurationError(
                f"timeout_seconds must be above 0 and finite, got {self.timeout_seconds!r}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class GraderSettings:
    """Names a chat model and what it judges by."""

    model: str
    """A local model as the setting `model` takes it, or PROVIDER:MODEL as LangChain's
    `init_chat_model` does."""
    rubric: Path | None = None
    """File that says what the grades from 0 to 10 mean; by default a rubric of our own."""
