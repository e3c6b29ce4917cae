"""Ids that name one sample each: with two contents under one id nobody can tell which is meant."""

from __future__ import annotations

from collections.abc import Sequence

from rttc_graph.errors import ConfigurationError
from rttc_graph.protocols import NewSample

__all__ = ("UniqueIds", "check_ids")


class UniqueIds:
    """The ids of the samples so far; within a domain an id has one question and answer."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, str], tuple[int, int]] = {}
        """Domain and id to a hash of the content and where it was; no texts are kept."""

    def clash(self, sample: NewSample, place: int) -> int | None:
        """Return where the same id was seen with other content; `None` if it was not.

        Args:
            sample: One without an id never clashes.
            place: Its line or number.
        """
        if sample.external_id is None:
            return None
        content = hash((sample.question, sample.answer))
        name = (sample.domain, sample.external_id)
        known, before = self._seen.setdefault(name, (content, place))
        return before if known != content else None


def check_ids(samples: Sequence[NewSample]) -> None:
    """Do nothing if no two of the samples have one id in one domain, and other content.

    Raises:
        ConfigurationError: Two have.
    """
    ids = UniqueIds()
    for number, sample in enumerate(samples):
        before = ids.clash(sample, number)
        if before is not None:
            raise ConfigurationError(
                f"samples[{before}] and samples[{number}] have the external_id "
                f"{sample.external_id!r} in {sample.domain!r}, with other content; "
                "give each an id of its own"
            )
