"""What a knowledge base says over HTTP: the messages that client and server share.

A client's search carries a vector, a number, a choice, a domain and a tenant: no text of the
question leaves it. Who has no embedder sends a text instead. The server names its embedder in a
header of each answer, so a client need not name its own and still notices when the vectors it
compares with are another model's.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from rttc_graph.protocols import DomainStats, NewSample
from rttc_graph.protocols.managed_knowledge_base import (
    MAX_PAGE_SAMPLES,
    SampleFilter,
    SamplePage,
    StoredSample,
)
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
    "CorrectReply",
    "CorrectRequest",
    "CountReply",
    "CountRequest",
    "DeleteRequest",
    "EmbedderInfo",
    "IngestRequest",
    "KnowledgeBaseInfo",
    "ListReply",
    "ListRequest",
    "ListedSample",
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

MOST_EMBEDDED = 64
"""Most samples of one message that the server embeds: a second or two of two CPU cores."""

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
    """All that a search sends: a vector, or a text that the server embeds."""

    vector: Numbers | None = None
    text: Text | None = Field(default=None, description="In the place of a vector.")
    k: Annotated[int, Field(ge=1, le=1000)]
    choice: SamplesChoice = Field(default="nearest", description="Which k samples.")
    domain: Name | None = None
    tenant: Name | None = Field(default=None, description="The key's, if not given.")

    @field_validator("vector")
    @classmethod
    def _is_unit(cls, vector: list[float] | None) -> list[float] | None:
        return None if vector is None else _checked_unit(vector)

    @model_validator(mode="after")
    def _asks_for_one_thing(self) -> SearchRequest:
        if (self.vector is None) == (self.text is None):
            raise ValueError("give either a vector or a text")
        return self


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
    """Samples with their vectors, or a few that the server embeds."""

    samples: Annotated[list[SampleMessage], Field(max_length=MOST_SAMPLES)]
    vectors: Annotated[list[Numbers], Field(max_length=MOST_SAMPLES)] | None = Field(
        default=None,
        description=f"One for each sample; without them the server embeds {MOST_EMBEDDED} samples "
        "at most.",
    )
    embedder: str | None = Field(
        default=None, description="Fingerprint of the embedder that made the vectors."
    )
    tenant: Name | None = None

    @field_validator("vectors")
    @classmethod
    def _are_unit(cls, vectors: list[list[float]] | None) -> list[list[float]] | None:
        return None if vectors is None else [_checked_unit(vector) for vector in vectors]

    @model_validator(mode="after")
    def _names_its_embedder(self) -> IngestRequest:
        if (self.vectors is None) != (self.embedder is None):
            raise ValueError("give vectors and embedder together, or neither")
        if self.vectors is None and len(self.samples) > MOST_EMBEDDED:
            raise ValueError(
                f"{len(self.samples)} samples without vectors, the server embeds {MOST_EMBEDDED} "
                "at once: send fewer, or vectors"
            )
        return self


class CorrectRequest(Message):
    """A stored sample, and what is right."""

    id: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] = Field(
        description="Id of the sample, as a search or a list returns it."
    )
    question: Text | None = Field(default=None, description="As it is, if not given.")
    answer: Text | None = Field(default=None, description="As it is, if not given.")
    tenant: Name | None = None


class CorrectReply(BaseModel):
    """What a correction has changed."""

    id: str = Field(description="Id of the sample from now on.")
    changed: bool


class MissingRequest(Message):
    """Samples that may be stored already."""

    samples: Annotated[list[SampleMessage], Field(max_length=MOST_SAMPLES)]
    tenant: Name | None = None


class MissingReply(BaseModel):
    """For each sample, whether it is not stored yet."""

    missing: list[bool]


class FilterMessage(Message):
    """Which samples are meant: those for which all of these hold."""

    domain: Name | None = None
    ids: Annotated[list[Name], Field(max_length=MOST_SAMPLES)] | None = Field(
        default=None, description="Ids as they were given, or as a search returns them."
    )
    metadata: dict[str, Any] = Field(
        default_factory=dict[str, Any], description="Values that the metadata has."
    )
    contains: Text | None = Field(default=None, description="A part of question or answer.")
    tenant: Name | None = Field(default=None, description="The key's, if not given.")

    def to_filter(self) -> SampleFilter:
        """Return it as a knowledge base takes it."""
        return SampleFilter(
            domain=self.domain,
            ids=None if self.ids is None else tuple(self.ids),
            metadata=self.metadata,
            contains=self.contains,
        )


class DeleteRequest(FilterMessage):
    """The samples to delete; a filter without any condition is refused."""


class CountRequest(FilterMessage):
    """The samples to count."""


class CountReply(BaseModel):
    """Number of matching samples, by domain."""

    domains: dict[str, int]


class ListRequest(FilterMessage):
    """A page of the samples that are meant."""

    limit: Annotated[int, Field(ge=1, le=MAX_PAGE_SAMPLES)] = 100
    after: Annotated[str, Field(max_length=1000)] | None = Field(
        default=None, description="`next` of the page before."
    )
    with_vectors: bool = False


class ListedSample(BaseModel):
    """A sample as it is stored."""

    id: str
    question: str
    answer: str
    domain: str
    external_id: str | None
    metadata: dict[str, Any]
    vector: list[float] | None


class ListReply(BaseModel):
    """Some samples of a list."""

    samples: list[ListedSample]
    next: str | None

    @classmethod
    def of(cls, page: SamplePage) -> ListReply:
        """Return a knowledge base's page as a message."""
        samples = [ListedSample(**asdict(sample)) for sample in page.samples]
        return cls(samples=samples, next=page.next)

    def to_page(self) -> SamplePage:
        """Return it as a knowledge base does."""
        samples = [StoredSample(**dict(sample)) for sample in self.samples]
        return SamplePage(samples=samples, next=self.next)


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
