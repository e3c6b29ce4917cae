"""What a knowledge base says over HTTP: the messages that client and server share.

A search carries a vector, a number, a choice, a domain and a tenant: no text of the question leaves
the client. The server names its embedder in a header of each answer, so a client need not name its
own and still notices when the vectors it compares with are another model's.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from rttc_graph.protocols import DomainStats, NewSample
from rttc_graph.settings import SamplesChoice
from rttc_graph.state import Sample
from rttc_graph.support.identity import (
    MAX_NAME_CHARACTERS,
    MAX_TEXT_CHARACTERS,
    check_texts,
    checked_name,
)

__all__ = (
    "EMBEDDER_HEADER",
    "PROTOCOL_VERSION",
    "ChangeReply",
    "DeleteRequest",
    "EmbedderInfo",
    "IngestRequest",
    "KnowledgeBaseInfo",
    "MissingReply",
    "MissingRequest",
    "SampleMessage",
    "SearchReply",
    "SearchRequest",
    "StatsReply",
    "StatsRequest",
)

PROTOCOL_VERSION = 1
"""Version of these messages; client and server must have the same."""

EMBEDDER_HEADER = "rttc-embedder"
"""Fingerprint of the embedder whose vectors the knowledge base holds."""

MOST_SAMPLES = 10_000
"""Most samples in one message."""

_LARGEST_HALF = 65_504.0
_UNIT_TOLERANCE = 0.02
"""Largest distance of a vector's length from 1: half precision keeps three decimals."""

Name = Annotated[
    str,
    Field(min_length=1, max_length=MAX_NAME_CHARACTERS),
    AfterValidator(partial(checked_name, "name")),
]
Text = Annotated[str, Field(min_length=1, max_length=MAX_TEXT_CHARACTERS)]
Numbers = Annotated[list[float], Field(min_length=1, max_length=16_000)]


class Message(BaseModel):
    """A message with exactly its fields: a text that slips in is refused, not stored."""

    model_config = ConfigDict(extra="forbid")


class EmbedderInfo(BaseModel):
    """Identity of the embedder whose vectors a knowledge base holds."""

    name: str
    fingerprint: str
    dimension: int


class KnowledgeBaseInfo(BaseModel):
    """Facts that a client checks before its first search."""

    protocol: int
    server: str = Field(description="Version of rttc-graph.")
    embedder: EmbedderInfo


def _checked_unit(vector: list[float]) -> list[float]:
    if not all(math.isfinite(value) and abs(value) <= _LARGEST_HALF for value in vector):
        raise ValueError("a vector holds a number that is not finite or too large")
    length = math.hypot(*vector)
    if abs(length - 1) > _UNIT_TOLERANCE:
        raise ValueError(f"a vector has length {length:.4f}, it must be 1")
    return vector


class SearchRequest(Message):
    """All that a search sends."""

    vector: Numbers
    k: Annotated[int, Field(ge=1, le=1000)]
    choice: SamplesChoice = Field(default="nearest", description="Which k samples.")
    domain: Name | None = None
    tenant: Name | None = Field(default=None, description="The key's, if not given.")

    @field_validator("vector")
    @classmethod
    def _is_unit(cls, vector: list[float]) -> list[float]:
        return _checked_unit(vector)


class SearchReply(BaseModel):
    """All that a search returns."""

    samples: list[Sample]
    revision: int


class SampleMessage(Message):
    """A sample on its way into the knowledge base."""

    question: Text
    answer: Text
    domain: Name
    external_id: Name | None = None
    metadata: dict[str, Any] = Field(default_factory=dict[str, Any])

    @model_validator(mode="after")
    def _can_be_stored(self) -> SampleMessage:
        check_texts(self.question, self.answer, self.metadata)
        return self

    def to_sample(self) -> NewSample:
        """Return it as a knowledge base takes it."""
        return NewSample(**dict(self))


class IngestRequest(Message):
    """Samples with their vectors."""

    samples: Annotated[list[SampleMessage], Field(max_length=MOST_SAMPLES)]
    vectors: Annotated[list[Numbers], Field(max_length=MOST_SAMPLES)]
    embedder: str = Field(description="Fingerprint of the embedder that made the vectors.")
    tenant: Name | None = None

    @field_validator("vectors")
    @classmethod
    def _are_unit(cls, vectors: list[list[float]]) -> list[list[float]]:
        return [_checked_unit(vector) for vector in vectors]


class MissingRequest(Message):
    """Samples that may be stored already."""

    samples: Annotated[list[SampleMessage], Field(max_length=MOST_SAMPLES)]
    tenant: Name | None = None


class MissingReply(BaseModel):
    """For each sample, whether it is not stored yet."""

    missing: list[bool]


class DeleteRequest(Message):
    """A domain to delete."""

    domain: Name
    tenant: Name | None = None


class ChangeReply(BaseModel):
    """Number of samples that were new, or deleted."""

    samples: int
    updated: int = 0


class StatsRequest(Message):
    """Request for the sizes of a tenant's domains."""

    tenant: Name | None = None


class DomainMessage(BaseModel):
    """Size of one domain."""

    domain: str
    samples: int
    revision: int
    bytes: int
    index: Literal["exact", "hnsw"]

    def to_stats(self) -> DomainStats:
        """Return it as a knowledge base does."""
        return DomainStats(**dict(self))


class StatsReply(BaseModel):
    """Size of each domain."""

    domains: list[DomainMessage]
