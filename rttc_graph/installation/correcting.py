"""What takes the ratings of an installation's runs."""

from __future__ import annotations

from rttc_graph.installation.config import InstallationConfig
from rttc_graph.installation.knowledge import Knowledge
from rttc_graph.samples.corrections import Corrections

__all__ = ("corrections_of",)


def corrections_of(config: InstallationConfig, knowledge: Knowledge) -> Corrections:
    """Return what takes ratings, over an open database and by the installation's settings."""
    return Corrections(
        ratings=knowledge.ratings,
        knowledge_base=knowledge.knowledge_base,
        embedder=knowledge.embedder,
        policy=config.corrections,
    )
